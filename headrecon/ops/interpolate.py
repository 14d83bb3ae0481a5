"""Vertex attributes over pixels, and how they change from one pixel to the next."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headrecon.errors import ShapeError
from headrecon.ops import _native, _native_calls
from headrecon.ops._register import register_op
from headrecon.ops.rasterize import Raster
from headrecon.ops.reference.interpolate import (
    interpolate_gradients,
    interpolate_reference,
    screen_slopes_reference,
)


def interpolate(
    attributes: Float[Tensor, "*B V D"],
    faces: Int[Tensor, "F 3"],
    face_index: Int[Tensor, "*B_P"],
    barycentrics: Float[Tensor, "*B_P 3"],
) -> Float[Tensor, "*B_P D"]:
    """Per-vertex attributes at rasterized pixels: sum of barycentrics times the face's three values; 0 without a face.

    attributes: float32 [V,D], the same for all pixels (face_index then has any shape), or [B,V,D] with face_index
    [B,...]. faces may be another table than the one rasterized, as long as its rows match (UV corners, for instance).
    The barycentrics of `rasterize` already carry the perspective. Differentiable in attributes and barycentrics.
    Raises ShapeError for wrong shapes, types or indices; NativeMissing on a device without a built back end.
    """
    shared = attributes.ndim == 2
    lead = face_index.shape
    if attributes.ndim not in (2, 3) or (not shared and (not lead or lead[0] != attributes.shape[0])):
        raise ShapeError(
            "interpolate: attributes must be [V,D], or [B,V,D] with face_index [B,...]; "
            f"found {tuple(attributes.shape)} and face_index {tuple(lead)}"
        )
    if barycentrics.shape != (*lead, 3):
        raise ShapeError(f"interpolate: barycentrics must be {(*lead, 3)}, found {tuple(barycentrics.shape)}")
    if faces.ndim != 2 or faces.shape[1] != 3:
        raise ShapeError(f"interpolate: faces must be [F,3] (triangles), found {tuple(faces.shape)}")
    if attributes.dtype != torch.float32 or barycentrics.dtype != torch.float32:
        raise ShapeError(
            f"interpolate: attributes and barycentrics must be float32, found {attributes.dtype}, {barycentrics.dtype}"
        )
    batch = 1 if shared else attributes.shape[0]
    pixels = face_index.numel() // batch if batch else 0
    values = _interpolate(
        attributes[None] if shared else attributes,
        faces.to(torch.int32),
        face_index.reshape(batch, pixels).to(torch.int32),
        barycentrics.reshape(batch, pixels, 3),
    )
    return values.reshape(*lead, attributes.shape[-1])


#: Spelled out, because torch cannot infer it from a function that the tests' run-time shape checks have wrapped.
_SCHEMA = "(Tensor attributes, Tensor faces, Tensor face_index, Tensor barycentrics) -> Tensor"


def _interpolate_cpu(attributes: Tensor, faces: Tensor, face_index: Tensor, barycentrics: Tensor) -> Tensor:
    if _native.use_reference(attributes) or attributes.shape[-1] == 0:
        return interpolate_reference(attributes, faces, face_index, barycentrics)
    return _native.interpolate(
        attributes.contiguous(), faces.contiguous(), face_index.contiguous(), barycentrics.contiguous()
    )


def _interpolate_fake(attributes: Tensor, faces: Tensor, face_index: Tensor, barycentrics: Tensor) -> Tensor:
    return attributes.new_empty((*face_index.shape, attributes.shape[-1]))


def _setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None, Tensor | None]:
    inputs = ctx.saved_tensors
    needs = (ctx.needs_input_grad[0], ctx.needs_input_grad[3])
    if _native.use_reference(inputs[0]) or inputs[0].shape[-1] == 0:
        attributes, faces, face_index, barycentrics = inputs
        found = interpolate_gradients(attributes, faces, face_index, barycentrics, grad, needs)
    else:
        found = _interpolate_backward(*inputs, grad, *needs)
    grad_attributes, grad_barycentrics = (g if need else None for g, need in zip(found, needs, strict=True))
    return grad_attributes, None, None, grad_barycentrics


def _backward_kernel(
    attributes: Tensor,
    faces: Tensor,
    face_index: Tensor,
    barycentrics: Tensor,
    grad: Tensor,
    need_attributes: bool,
    need_barycentrics: bool,
) -> tuple[Tensor, Tensor]:
    inputs = (attributes.contiguous(), faces.contiguous(), face_index.contiguous(), barycentrics.contiguous())
    found = _native_calls.interpolate_backward(inputs, grad.contiguous(), (need_attributes, need_barycentrics))
    grad_attributes, grad_barycentrics = (attributes.new_empty(0) if g is None else g for g in found)
    return grad_attributes, grad_barycentrics


def _backward_fake(attributes: Tensor, faces: Tensor, face_index: Tensor, barycentrics: Tensor, *args: Any) -> Any:
    need_attributes, need_barycentrics = args[-2:]
    return (
        attributes.new_empty(attributes.shape if need_attributes else (0,)),
        attributes.new_empty(barycentrics.shape if need_barycentrics else (0,)),
    )


def screen_slopes(
    attributes: Float[Tensor, "N D"],
    attribute_faces: Int[Tensor, "F 3"],
    raster: Raster,
    points_hom: Float[Tensor, "B V 3"],
    faces: Int[Tensor, "F 3"],
) -> Float[Tensor, "B H W D 2"]:
    """How interpolated attributes change per pixel to the right [..., 0] and down [..., 1]; 0 where there is no face.

    points_hom and faces are those that were rasterized; attribute_faces has a row for each of faces. This is what
    `texture.sample_texture` needs to know about UVs to choose its level. float32. Not differentiable: the result is cut
    off from autograd. Raises ShapeError for shapes or indices that do not fit.
    """
    batch = points_hom.shape[0]
    if raster.face_index.ndim != 3 or raster.face_index.shape[0] != batch or faces.shape != attribute_faces.shape:
        raise ShapeError(
            f"screen_slopes: the raster must have {batch} images and both tables of faces {tuple(faces.shape)}, found "
            f"{tuple(raster.face_index.shape)} and {tuple(attribute_faces.shape)}"
        )
    if attributes.ndim != 2 or attributes.dtype != torch.float32 or points_hom.dtype != torch.float32:
        raise ShapeError(
            f"screen_slopes: attributes must be float32 [N,D], found {attributes.dtype} {attributes.shape}"
        )
    return _screen_slopes(
        points_hom.detach(),
        faces.to(torch.int32),
        attributes.detach(),
        attribute_faces.to(torch.int32),
        raster.face_index.to(torch.int32),
    )


def _slopes_kernel(
    points_hom: Tensor, faces: Tensor, attributes: Tensor, attribute_faces: Tensor, face_index: Tensor
) -> Tensor:
    run = screen_slopes_reference if _native.use_reference(points_hom) else _native_calls.screen_slopes
    return run(*(t.contiguous() for t in (points_hom, faces, attributes, attribute_faces, face_index)))


def _slopes_fake(
    points_hom: Tensor, faces: Tensor, attributes: Tensor, attribute_faces: Tensor, face_index: Tensor
) -> Tensor:
    return points_hom.new_empty((*face_index.shape, attributes.shape[1], 2))


_interpolate = register_op("interpolate", _SCHEMA, _interpolate_cpu, _interpolate_fake, _backward, _setup_context)
_interpolate_backward = register_op(
    "interpolate_backward",
    _SCHEMA.replace(") ->", ", Tensor grad, bool need_attributes, bool need_barycentrics) ->").replace(
        "-> Tensor", "-> (Tensor, Tensor)"
    ),
    _backward_kernel,
    _backward_fake,
)
_screen_slopes = register_op(
    "screen_slopes",
    "(Tensor points_hom, Tensor faces, Tensor attributes, Tensor attribute_faces, Tensor face_index) -> Tensor",
    _slopes_kernel,
    _slopes_fake,
)
