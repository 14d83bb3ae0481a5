"""How much of the sky each vertex sees: what makes nostrils, the corners of eyes and the line between lips dark."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float, Int

from headrecon.geometry.cameras import look_at
from headrecon.ops.rasterize import rasterize, to_homogeneous_image
from headrecon.structures import Cameras

_GOLDEN = math.pi * (3 - math.sqrt(5))


def openness(
    vertices: Float[np.ndarray, "V 3"],
    triangles: Int[np.ndarray, "T 3"],
    normals: Float[np.ndarray, "V 3"],
    directions: int = 64,
    size: int = 288,
) -> Float[np.ndarray, " V"]:
    """Cosine-weighted share 0..1 of directions in which a vertex (metres) sees out; 1 for open convex places.

    The mesh is drawn from far away along each direction (spread by the golden angle); a vertex sees that way when
    nothing is drawn in front of it. Known as ambient occlusion (Zhukov, Iones, Kronin 1998), turned round.
    """
    k = np.arange(directions) + 0.5
    z, turn = 1 - 2 * k / directions, _GOLDEN * k
    ring = np.sqrt(1 - z * z)
    outward = np.stack([ring * np.cos(turn), z, ring * np.sin(turn)], axis=1)
    centre = (vertices.max(0) + vertices.min(0)) / 2
    reach = float(np.linalg.norm(vertices - centre, axis=1).max())
    far = 20 * reach  # so far that rays are parallel to a few degrees
    focal = 0.48 * size * far / reach
    points = torch.from_numpy(np.ascontiguousarray(vertices - centre, dtype=np.float32))
    corners = torch.from_numpy(np.ascontiguousarray(triangles, dtype=np.int32))
    intrinsics = torch.tensor([[focal, 0.0, size / 2], [0.0, focal, size / 2], [0.0, 0.0, 1.0]])
    seen, total = np.zeros(len(vertices)), np.full(len(vertices), 1e-9)
    # A vertex may lie under its own triangle by the slope over one pixel.
    slack = 2.5 * far / focal
    for direction in outward:
        up = (1.0, 0.0, 0.0) if abs(direction[1]) > 0.98 else (0.0, 1.0, 0.0)
        eye = torch.tensor(far * direction)
        view = look_at(eye[None], torch.zeros(1, 3, dtype=eye.dtype), up).float()
        points_hom = to_homogeneous_image(points, Cameras(view, intrinsics[None], size, size))
        raster = rasterize(points_hom, corners, size, size)
        depth = points_hom[0, :, 2].numpy()
        column = np.clip((points_hom[0, :, 0] / points_hom[0, :, 2]).numpy().astype(int), 0, size - 1)
        row = np.clip((points_hom[0, :, 1] / points_hom[0, :, 2]).numpy().astype(int), 0, size - 1)
        front = raster.depth_z[0].numpy()[row, column]
        open_ = (front <= 0) | (depth <= front + slack)
        weight = np.maximum(normals @ direction, 0.0)
        seen += weight * open_
        total += weight
    return np.clip(seen / total, 0, 1)
