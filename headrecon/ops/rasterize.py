"""Mesh rasterization: which face each pixel sees, where on it, and how deep.

The rules, shared by every back end (and spelled out in plain torch in `ops/reference/rasterize.py`):

- A pixel (row i, column j) has its centre at (j + 0.5, i + 0.5) and sees what covers that centre; the nearest face
  wins, and of equal depths the lowest face index.
- Projected vertices are rounded to 1/256 pixel to decide coverage. A centre exactly on an edge belongs to the face for
  which that edge is a left or a top one, so faces that share an edge leave no hole and cover nothing twice.
- Faces are clipped at `near_z` and `far_z`, not dropped: what lies between stays visible, also when a vertex is behind
  the camera. Barycentrics always refer to the whole face.
- Faces without area and faces with a non-finite vertex are invisible. Both sides are visible unless `cull_backfaces`.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headrecon.errors import ShapeError
from headrecon.geometry.cameras import to_homogeneous_image
from headrecon.ops import _native, _native_calls
from headrecon.ops._register import register_op
from headrecon.ops.reference.gradients import gradients_of
from headrecon.ops.reference.rasterize import rasterize_reference, resolve_reference
from headrecon.ops.samples import DEFAULT_NEAR_Z, Raster

__all__ = ["DEFAULT_NEAR_Z", "Raster", "rasterize", "to_homogeneous_image"]


def rasterize(
    points_hom: Float[Tensor, "B V 3"],
    faces: Int[Tensor, "F 3"],
    height: int,
    width: int,
    *,
    near_z: float = DEFAULT_NEAR_Z,
    far_z: float = float("inf"),
    cull_backfaces: bool = False,
) -> Raster:
    """Rasterize a batch of meshes that share their triangles.

    points_hom: float32 vertices from `to_homogeneous_image`. faces: int32 or int64. near_z, far_z: metres.
    cull_backfaces drops faces whose vertices run clockwise as seen by the camera.
    Raises ShapeError for wrong shapes, types or indices; NativeMissing on a device without a built back end.
    Barycentrics and depth are differentiable in points_hom, and through `to_homogeneous_image` in vertices and cameras.
    Which face a pixel sees is a constant: outlines move only through `antialias`.
    Method: Olano and Greer, Graphics Hardware 1997 (barycentrics in homogeneous coordinates); Pineda, SIGGRAPH 1988.
    """
    _check_inputs(points_hom, faces, height, width, near_z, far_z)
    outputs = _rasterize(points_hom, faces, height, width, near_z, far_z, cull_backfaces)
    return Raster(*outputs)


def _check_inputs(points_hom: Tensor, faces: Tensor, height: int, width: int, near_z: float, far_z: float) -> None:
    if points_hom.ndim != 3 or points_hom.shape[2] != 3 or points_hom.dtype != torch.float32:
        raise ShapeError(
            f"rasterize: points_hom must be float32 [B,V,3], found {points_hom.dtype} {tuple(points_hom.shape)}"
        )
    if faces.ndim != 2 or faces.shape[1] != 3 or faces.dtype not in (torch.int32, torch.int64):
        raise ShapeError(
            f"rasterize: faces must be int32 or int64 [F,3] (triangles), found {faces.dtype} {tuple(faces.shape)}; "
            "split quads with structures.triangulate"
        )
    if not (0 <= height <= 16384 and 0 <= width <= 16384):
        raise ShapeError(f"rasterize: images may have up to 16384 pixels a side, found {height} x {width}")
    if not 0.0 < near_z < far_z:
        raise ShapeError(f"rasterize: needs 0 < near_z < far_z, found near_z {near_z} and far_z {far_z}")
    if points_hom.device != faces.device:
        raise ShapeError(f"rasterize: points_hom is on {points_hom.device} but faces on {faces.device}")


#: Spelled out, because torch cannot infer it from a function that the tests' run-time shape checks have wrapped.
_SCHEMA = (
    "(Tensor points_hom, Tensor faces, SymInt height, SymInt width, float near_z, float far_z, bool cull_backfaces) "
    "-> (Tensor, Tensor, Tensor)"
)


def _rasterize_cpu(
    points_hom: Tensor, faces: Tensor, height: int, width: int, near_z: float, far_z: float, cull_backfaces: bool
) -> tuple[Tensor, Tensor, Tensor]:
    clip = (near_z, far_z, cull_backfaces)
    if _native.use_reference(points_hom):
        return rasterize_reference(points_hom, faces, (height, width), clip)
    return _native.rasterize(points_hom.contiguous(), faces.to(torch.int32).contiguous(), (height, width), clip)


def _rasterize_fake(
    points_hom: Tensor, faces: Tensor, height: int, width: int, near_z: float, far_z: float, cull_backfaces: bool
) -> tuple[Tensor, Tensor, Tensor]:
    shape = (points_hom.shape[0], height, width)
    return (
        points_hom.new_empty(shape, dtype=torch.int32),
        points_hom.new_empty((*shape, 3)),
        points_hom.new_empty(shape),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.save_for_backward(inputs[0], inputs[1], output[0])
    ctx.mark_non_differentiable(output[0])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, _: object, grad_barycentrics: Tensor | None, grad_depth: Tensor | None) -> tuple[Any, ...]:
    points_hom, faces, face_index = ctx.saved_tensors
    if grad_barycentrics is None and grad_depth is None:
        return (None,) * 7
    if _native.use_reference(points_hom):
        (grad,) = gradients_of(
            lambda points: resolve_reference(points, faces, face_index),
            (points_hom,),
            (True,),
            (grad_barycentrics, grad_depth),
        )
    else:
        grad = _rasterize_backward(points_hom, faces, face_index, grad_barycentrics, grad_depth)
    return (grad, None, None, None, None, None, None)


def _backward_kernel(
    points_hom: Tensor, faces: Tensor, face_index: Tensor, grad_barycentrics: Tensor | None, grad_depth: Tensor | None
) -> Tensor:
    return _native_calls.rasterize_backward(
        points_hom.contiguous(),
        faces.to(torch.int32).contiguous(),
        face_index.contiguous(),
        (
            None if grad_barycentrics is None else grad_barycentrics.contiguous(),
            None if grad_depth is None else grad_depth.contiguous(),
        ),
    )


def _backward_fake(points_hom: Tensor, *args: object) -> Tensor:
    return points_hom.new_empty(points_hom.shape)


_rasterize = register_op("rasterize", _SCHEMA, _rasterize_cpu, _rasterize_fake, _backward, _setup_context)
_rasterize_backward = register_op(
    "rasterize_backward",
    "(Tensor points_hom, Tensor faces, Tensor face_index, Tensor? grad_barycentrics, Tensor? grad_depth) -> Tensor",
    _backward_kernel,
    _backward_fake,
)
