"""Which vertices of a head a scanner could see: what lies inside the mouth or behind the eyes is no part of a scan."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from headrecon.ops.rasterize import rasterize, to_homogeneous_image
from headrecon.rendering.cameras_orbit import orbit_cameras
from headrecon.structures import Cameras

_YAWS = (-75.0, -50.0, -25.0, 0.0, 25.0, 50.0, 75.0)
_PITCHES = (-30.0, 0.0, 30.0)


def visible_vertices(
    vertices: Float[np.ndarray, "V 3"], triangles: Int[np.ndarray, "T 3"], size: int = 640
) -> Bool[np.ndarray, " V"]:
    """Vertices of the triangles that show in at least one of 21 pictures from the front (+z), size x size."""
    shown = np.zeros(len(triangles), dtype=bool)
    points = torch.from_numpy(np.ascontiguousarray(vertices, dtype=np.float32))
    corners = torch.from_numpy(np.ascontiguousarray(triangles, dtype=np.int32))
    for pitch in _PITCHES:
        cameras = orbit_cameras(vertices, _YAWS, size, pitch_degrees=pitch)
        for viewmat, k in zip(cameras.viewmats, cameras.Ks, strict=True):
            camera = Cameras(viewmat[None], k[None], size, size)
            found = rasterize(to_homogeneous_image(points, camera), corners, size, size).face_index
            seen = torch.unique(found)
            shown[seen[seen >= 0].numpy()] = True
    out = np.zeros(len(vertices), dtype=bool)
    out[triangles[shown].reshape(-1)] = True
    return out
