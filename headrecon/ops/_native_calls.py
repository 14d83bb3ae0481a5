"""Calls of the native ops that have gradients: they make room for the results and fill in the parameter structs.

All arguments are checked, contiguous, float32 or int32, and on one device, as `ops/*.py` leave them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from headrecon.ops import _native
from headrecon.ops._native import ISA, num_threads
from headrecon.ops._native_params import (
    AntialiasParams,
    InterpolateGradParams,
    PyramidParams,
    RasterizeGradParams,
    ScreenSlopesParams,
    TextureGradParams,
    TextureParams,
)

WRAP = {"clamp": 0, "repeat": 1}  # HrWrap in texture.h


def _pointers(*tensors: Tensor | None) -> list[int | None]:
    """Addresses; None for what is absent."""
    return [None if t is None else t.data_ptr() for t in tensors]


def rasterize_backward(
    points_hom: Tensor,
    faces: Tensor,
    face_index: Tensor,
    grads: tuple[Tensor | None, Tensor | None],
    isa: str = "auto",
) -> Tensor:
    """Gradient of points_hom [B,V,3] from those of barycentrics [B,H,W,3] and depth [B,H,W]; None stands for zero."""
    batch, height, width = face_index.shape
    out = torch.zeros_like(points_hom) if face_index.numel() == 0 else torch.empty_like(points_hom)
    if face_index.numel() == 0 or out.numel() == 0:
        return out
    params = RasterizeGradParams(
        *_pointers(points_hom, faces, face_index, *grads, out),
        batch, points_hom.shape[1], len(faces), height, width, num_threads(), ISA[isa],
    )  # fmt: skip
    _native._run("rasterize_backward", params, points_hom, points_hom.shape[1])
    return out


def interpolate_backward(
    inputs: tuple[Tensor, Tensor, Tensor, Tensor], grad: Tensor, needs: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of attributes and barycentrics from that of the values; inputs as `_native.interpolate`."""
    attributes, faces, face_index, barycentrics = inputs
    batch, pixels = face_index.shape
    attribute_batch, vertices, channels = attributes.shape
    grad_attributes = torch.empty_like(attributes) if needs[0] else None
    grad_barycentrics = torch.empty_like(barycentrics) if needs[1] else None
    if grad.numel() == 0 or attributes.numel() == 0:
        return tuple(None if g is None else g.zero_() for g in (grad_attributes, grad_barycentrics))  # type: ignore[return-value]
    params = InterpolateGradParams(
        *_pointers(attributes, faces, face_index, barycentrics, grad, grad_attributes, grad_barycentrics),
        batch, attribute_batch, vertices, len(faces), pixels, channels, num_threads(),
    )  # fmt: skip
    _native._run("interpolate_backward", params, attributes, vertices)
    return grad_attributes, grad_barycentrics


def screen_slopes(
    points_hom: Tensor, faces: Tensor, attributes: Tensor, attribute_faces: Tensor, face_index: Tensor
) -> Tensor:
    """[B,H,W,D,2]: how attributes [N,D] change per pixel to the right and down."""
    batch, height, width = face_index.shape
    slopes = points_hom.new_empty(batch, height, width, attributes.shape[1], 2)
    if slopes.numel() == 0:
        return slopes
    params = ScreenSlopesParams(
        *_pointers(points_hom, faces, attributes, attribute_faces, face_index, slopes),
        batch, points_hom.shape[1], len(attributes), len(faces), height, width, attributes.shape[1], num_threads(),
    )  # fmt: skip
    _native._run("screen_slopes", params, points_hom, points_hom.shape[1])
    return slopes


def pyramid(texels: Tensor, size: tuple[int, int], levels: int, backward: bool = False) -> None:
    """Fill in the coarser levels of texels [T,N,D] in place; backward: fold their gradients into level 0."""
    if texels.numel() == 0:
        return
    params = PyramidParams(texels.data_ptr(), len(texels), *size, levels, texels.shape[2], num_threads())
    _native._run("pyramid_backward" if backward else "pyramid", params, texels, texels.shape[1])


def texture(
    texels: Tensor, lookups: tuple[Tensor, Tensor | None, Tensor | None], size: tuple[int, int], levels: int, wrap: str
) -> Tensor:
    """Values [B,P,D] of texels [T,N,D]. lookups: uvs [B,P,2], slopes [B,P,4] or None, face_index [B,P] or None."""
    batch, pixels = lookups[0].shape[:2]
    values = texels.new_empty(batch, pixels, texels.shape[2])
    if values.numel() == 0:
        return values
    params = TextureParams(
        *_pointers(texels, *lookups, values),
        batch, len(texels), pixels, *size, levels, texels.shape[2], WRAP[wrap], num_threads(),
    )  # fmt: skip
    _native._run("texture", params, texels, texels.shape[1])
    return values


def texture_backward(
    texels: Tensor,
    lookups: tuple[Tensor, Tensor | None, Tensor | None],
    shape: tuple[int, int, int, str],
    grad: Tensor,
    needs: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of texels and uvs. shape: height, width, levels, wrap."""
    height, width, levels, wrap = shape
    batch, pixels = lookups[0].shape[:2]
    grad_texels = torch.empty_like(texels) if needs[0] else None
    grad_uvs = torch.empty_like(lookups[0]) if needs[1] else None
    if grad.numel() == 0:
        return tuple(None if g is None else g.zero_() for g in (grad_texels, grad_uvs))  # type: ignore[return-value]
    params = TextureGradParams(
        *_pointers(texels, *lookups, grad, grad_texels, grad_uvs),
        batch, len(texels), pixels, height, width, levels, texels.shape[2], WRAP[wrap], num_threads(),
    )  # fmt: skip
    _native._run("texture_backward", params, texels, texels.shape[1])
    return grad_texels, grad_uvs


def antialias(
    image: Tensor,
    raster: tuple[Tensor, Tensor],
    mesh: tuple[Tensor, Tensor, Tensor],
    grad: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """The smoothed image; with grad, the gradients of image and points_hom instead.

    raster: face_index, depth_z. mesh: points_hom, faces, neighbours.
    """
    points_hom, faces, neighbours = mesh
    (batch, height, width, channels), vertices = image.shape, points_hom.shape[1]
    out = torch.empty_like(image)
    grad_points = None if grad is None else torch.empty_like(points_hom)
    if image.numel() == 0 or points_hom.numel() == 0 or len(faces) == 0:
        out.copy_(image if grad is None else grad)
        return out, None if grad_points is None else grad_points.zero_()
    pixels = points_hom.new_empty(batch, vertices, 2)
    outline, rim = (torch.empty(batch, n, dtype=torch.uint8, device=image.device) for n in (len(faces), vertices))
    params = AntialiasParams(
        *_pointers(image, *raster, points_hom, faces, neighbours, grad, out, grad_points, pixels, outline, rim),
        batch, vertices, len(faces), height, width, channels, num_threads(),
    )  # fmt: skip
    _native._run("antialias" if grad is None else "antialias_backward", params, image, vertices)
    return out, grad_points
