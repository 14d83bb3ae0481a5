"""Bilinear texture lookup.

UVs follow OBJ: u to the right, v up, (0, 0) the lower left corner of the picture. The centre of the texel in row i,
column j of an H x W picture (row 0 on top) lies at u = (j + 0.5) / W, v = 1 - (i + 0.5) / H. (glTF has v down: its
readers and writers flip it at the border.)
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from headrecon.errors import ShapeError

Wrap = Literal["clamp", "repeat"]


def sample_texture(
    texture: Float[Tensor, "H W D"], uvs: Float[Tensor, "*P 2"], wrap: Wrap = "clamp"
) -> Float[Tensor, "*P D"]:
    """Bilinear lookup of texture at uvs (v up). wrap says what lies beyond 0..1: the border's colour or a repetition.

    Differentiable in texture and uvs (the latter piecewise, as bilinear interpolation is).
    Raises ShapeError for wrong shapes or an empty texture.
    """
    if texture.ndim != 3 or 0 in texture.shape[:2]:
        raise ShapeError(f"sample_texture: texture must be [H,W,D] with H, W > 0, found {tuple(texture.shape)}")
    if uvs.shape[-1:] != (2,):
        raise ShapeError(f"sample_texture: uvs must be [...,2], found {tuple(uvs.shape)}")
    height, width, channels = texture.shape
    x = uvs[..., 0].reshape(-1) * width - 0.5
    y = (1.0 - uvs[..., 1].reshape(-1)) * height - 0.5
    left, top = x.floor(), y.floor()
    across, down = (x - left)[:, None], (y - top)[:, None]
    columns = _wrap_index(left, width, wrap)
    rows = [row * width for row in _wrap_index(top, height, wrap)]
    texels = texture.reshape(height * width, channels)
    corner = [[texels.index_select(0, row + column) for column in columns] for row in rows]
    upper, lower = (torch.lerp(pair[0], pair[1], across) for pair in corner)
    return torch.lerp(upper, lower, down).reshape(*uvs.shape[:-1], channels)


def _wrap_index(first: Tensor, size: int, wrap: Wrap) -> tuple[Tensor, Tensor]:
    """Indices of the texels on both sides of a sample, brought into 0..size-1. NaN reads texel 0."""
    index = torch.nan_to_num(first.detach()).clamp(-(2.0**30), 2.0**30).long()
    if wrap == "repeat":
        return index.remainder(size), (index + 1).remainder(size)
    return index.clamp(0, size - 1), (index + 1).clamp(0, size - 1)
