"""The texels of a texture as points on the head: which triangle covers each, and where on it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from headrecon.ops.interpolate import interpolate
from headrecon.ops.rasterize import rasterize
from headrecon.structures import HeadAssets, triangulate


@dataclass(frozen=True)
class Texels:
    """The N covered texels of a size x size texture. `index` is row * size + column, row 0 on top (v = 1)."""

    size: int
    index: Int[Tensor, " N"]
    face: Int[Tensor, " N"]
    barycentrics: Float[Tensor, "N 3"]
    triangles: Int[Tensor, "F 3"]
    part: Int[Tensor, " N"]

    def __len__(self) -> int:
        return len(self.index)

    def take(self, rows: Int[Tensor, " M"]) -> Texels:
        """Some of the texels."""
        return replace(
            self,
            index=self.index[rows],
            face=self.face[rows],
            barycentrics=self.barycentrics[rows],
            part=self.part[rows],
        )

    def of_part(self, assets: HeadAssets, part: str) -> Int[Tensor, " M"]:
        """Rows of the texels on a named part; none when the model lacks it."""
        if part not in assets.part_names:
            return torch.zeros(0, dtype=torch.long)
        return torch.nonzero(self.part == assets.part_names.index(part))[:, 0]

    def interpolate(self, values: Float[Tensor, "V D"]) -> Float[Tensor, "N D"]:
        """Values of vertices at the texels."""
        return interpolate(values.float().contiguous(), self.triangles, self.face, self.barycentrics)

    def picture(self, values: Float[Tensor, "N D"]) -> Float[Tensor, "S S D"]:
        """The texels laid out as a picture, 0 where no triangle is."""
        out = values.new_zeros(self.size * self.size, values.shape[1])
        out[self.index] = values
        return out.reshape(self.size, self.size, -1)


def bake_texels(assets: HeadAssets, size: int) -> Texels:
    """Rasterize the UV layout. Where islands overlap, the face with the lowest index wins.

    The layout is drawn by the mesh rasterizer: homogeneous points with z = 1 are plain pixel positions.
    """
    triangles, owner = triangulate(assets.faces)
    uv_triangles, _ = triangulate(assets.uv_faces)
    uv = torch.from_numpy(np.ascontiguousarray(assets.uvs, dtype=np.float32))
    points = torch.stack([uv[:, 0] * size, (1 - uv[:, 1]) * size, torch.ones(len(uv))], dim=1)
    raster = rasterize(points[None], torch.from_numpy(uv_triangles.astype(np.int32)), size, size)
    face = raster.face_index.reshape(-1)
    index = torch.nonzero(face >= 0)[:, 0]
    face = face[index]
    part = torch.from_numpy(assets.face_part[owner].astype(np.int64))[face.long()]
    return Texels(
        size=size,
        index=index,
        face=face,
        barycentrics=raster.barycentrics.reshape(-1, 3)[index].contiguous(),
        triangles=torch.from_numpy(triangles.astype(np.int32)),
        part=part,
    )
