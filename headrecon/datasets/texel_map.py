"""The texels of a model's texture as points of its mean head in face coordinates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8

from headrecon.ops.rasterize import rasterize
from headrecon.structures import HeadAssets, triangulate


@dataclass(frozen=True)
class TexelMap:
    """The N covered texels of a size x size texture: place in it (row * size + column), part, and how to interpolate.

    nearest: for every texel of the texture the row of the nearest covered one, which fills the gaps between islands.
    """

    size: int
    index: Int[np.ndarray, " N"]
    part: Int[np.ndarray, " N"]
    corners: Int[np.ndarray, "N 3"]
    barycentrics: Float[np.ndarray, "N 3"]
    nearest: Int[np.ndarray, "S S"]

    def interpolate(self, values: np.ndarray) -> np.ndarray:
        """Values of vertices [V,...] at the texels [N,...]."""
        weights = self.barycentrics.reshape(*self.barycentrics.shape, *(1,) * (values.ndim - 1))
        return (values[self.corners] * weights).sum(1)

    def picture(self, colours: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "S S 3"]:
        """The texture, with its gaps filled by the nearest colour."""
        return colours[self.nearest]


def bake_texel_map(assets: HeadAssets, size: int) -> TexelMap:
    """Draw the UV layout with the mesh rasterizer: homogeneous points with z = 1 are plain pixel positions."""
    from scipy.ndimage import distance_transform_edt

    triangles, owner = triangulate(assets.faces)
    uv_triangles, _ = triangulate(assets.uv_faces)
    uv = torch.from_numpy(np.ascontiguousarray(assets.uvs, dtype=np.float32))
    points = torch.stack([uv[:, 0] * size, (1 - uv[:, 1]) * size, torch.ones(len(uv))], dim=1)
    raster = rasterize(points[None], torch.from_numpy(uv_triangles.astype(np.int32)), size, size)
    face = raster.face_index[0].numpy()
    covered = face >= 0
    index = np.flatnonzero(covered)
    found = face.reshape(-1)[index]
    rows = np.full(size * size, -1)
    rows[index] = np.arange(len(index))
    place = distance_transform_edt(~covered, return_distances=False, return_indices=True)
    nearest = rows.reshape(size, size)[tuple(np.asarray(place))]
    barycentrics = raster.barycentrics[0].numpy().reshape(-1, 3)[index].astype(np.float64)
    part = assets.face_part[owner][found]
    return TexelMap(size, index, part.astype(np.int64), triangles[found].astype(np.int64), barycentrics, nearest)


def as_uint8(picture: Float[np.ndarray, "*S"]) -> UInt8[np.ndarray, "*S"]:
    """A picture in 0..1 as bytes."""
    return (np.clip(picture, 0, 1) * 255).round().astype(np.uint8)
