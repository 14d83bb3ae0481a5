"""Vertex attributes over pixels, and bilinear texture lookup."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headrecon.errors import ShapeError
from headrecon.ops import _native
from headrecon.ops._register import register_op
from headrecon.ops.reference.interpolate import interpolate_gradients, interpolate_reference


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
    attributes, faces, face_index, barycentrics = ctx.saved_tensors
    needs = ctx.needs_input_grad
    grad_attributes, grad_barycentrics = interpolate_gradients(
        attributes, faces, face_index, barycentrics, grad, (needs[0], needs[3])
    )
    return grad_attributes, None, None, grad_barycentrics


_interpolate = register_op("interpolate", _SCHEMA, _interpolate_cpu, _interpolate_fake, _backward, _setup_context)
