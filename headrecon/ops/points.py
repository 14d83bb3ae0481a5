"""Neural points: nearest neighbours within a radius, and their features blended by inverse distance.

A neural point carries a feature vector. What a shading point sees is decoded once from the blend of its neighbours'
features and offsets, not once for every neighbour: the lightweight decoding of Wang et al., "Neural Point-based
Volumetric Avatar", SIGGRAPH Asia 2023.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headrecon.errors import ShapeError
from headrecon.ops import _native, _native_calls_fields
from headrecon.ops._register import register_op
from headrecon.ops.reference.gradients import gradients_of
from headrecon.ops.reference.points import blend_points_reference, query_points_reference

#: HR_POINTS_MAX_NEIGHBOURS in points.h.
MAX_NEIGHBOURS = 32


@dataclass(frozen=True)
class Neighbours:
    """The nearest points of each query, nearest first: numbers (-1 for none) and distances (infinite for none)."""

    index: Int[Tensor, "*B Q K"]
    distance: Float[Tensor, "*B Q K"]


@dataclass(frozen=True)
class PointIndex:
    """Points sorted into voxels for searches within one radius: build_point_index makes it, `query` reads it."""

    points: Float[Tensor, "B N 3"]
    radius: float
    batched: bool
    workspace: Int[Tensor, "B _"]

    def query(self, queries: Float[Tensor, "*B Q 3"], count: int = 8) -> Neighbours:
        """The `count` (1 to 32) nearest points of each query, as `query_points`."""
        if not 1 <= count <= MAX_NEIGHBOURS:
            raise ShapeError(f"query_points: count must be 1 to {MAX_NEIGHBOURS}, found {count}")
        lead = (len(self.points),) if self.batched else ()
        _check_xyz("query_points", "queries", queries, lead)
        batched = queries.detach() if self.batched else queries.detach()[None]
        index, distance = _query(self.points, self.workspace, batched, self.radius, count)
        return Neighbours(index, distance) if self.batched else Neighbours(index[0], distance[0])


def build_point_index(points: Float[Tensor, "*B N 3"], radius: float) -> PointIndex:
    """Sort points, float32 [N,3] or [B,N,3] in metres, into voxels of about `radius` (metres, > 0, may be infinite).

    Linear in the number of points, in a workspace whose size depends on that number alone (24 to 32 bytes for each
    point), so that it may be done anew at every step for points that move. Cut off from autograd. Raises
    ShapeError for shapes, types or a radius that will not do; NativeMissing on a device without a built back end.
    """
    if not radius > 0:
        raise ShapeError(f"build_point_index: radius must be above 0 metres, found {radius}")
    batched = points.ndim == 3
    _check_xyz("build_point_index", "points", points, (points.shape[0],) if batched else ())
    fixed = (points if batched else points[None]).detach().contiguous()
    return PointIndex(fixed, float(radius), batched, _index(fixed, float(radius)))


def query_points(
    points: Float[Tensor, "*B N 3"], queries: Float[Tensor, "*B Q 3"], radius: float, count: int = 8
) -> Neighbours:
    """The `count` (1 to 32) nearest of points [N,3] or [B,N,3] within `radius` metres of each query [Q,3] or [B,Q,3].

    Exact: distances are those of float32 arithmetic, up to and including the radius; nearest first, equal distances by
    the number of the point. Where there are fewer: number -1, distance infinite. Points and queries that are not finite
    have no neighbours. Cut off from autograd: `blend_points` moves points and queries. To search the same points
    again, keep `build_point_index`'s result. Time goes with the points in 27 voxels as wide as the radius: choose it no
    larger than the neighbours need. Raises as build_point_index.
    """
    return build_point_index(points, radius).query(queries, count)


def blend_points(
    points: Float[Tensor, "*B N 3"],
    features: Float[Tensor, "*A N C"],
    queries: Float[Tensor, "*B Q 3"],
    index: Int[Tensor, "*B Q K"],
    *,
    softening: float = 1e-4,
) -> tuple[Float[Tensor, "*B Q C"], Float[Tensor, "*B Q 3"]]:
    """Features and offsets (query minus point, metres) of each query's neighbours, blended by inverse distance.

    Each neighbour weighs 1 / (distance + softening), in metres, and the weights are made to sum to 1; a query without
    neighbours gets zeros. features: [N,C] for all sets, or [B,N,C]. index: as query_points gives it, K at most 32.
    float32. Differentiable once, in points, features and queries; which points are neighbours is a constant. Gradients
    come out the same for any number of threads. Source: Wang et al., SIGGRAPH Asia 2023; weights as in Xu et al.,
    "Point-NeRF", CVPR 2022, section 3. Raises ShapeError for shapes, types or numbers that do not fit; NativeMissing
    on a device without a built back end.
    """
    batched = points.ndim == 3
    lead = (points.shape[0],) if batched else ()
    _check_xyz("blend_points", "points", points, lead)
    _check_xyz("blend_points", "queries", queries, lead)
    count = points.shape[-2]
    shapes = [(count, features.shape[-1])] + ([(*lead, count, features.shape[-1])] if batched else [])
    if features.shape not in shapes or 0 in features.shape[-1:] or features.dtype != torch.float32:
        raise ShapeError(
            f"blend_points: features must be float32 {'or '.join(map(str, shapes))} with at least one channel, "
            f"found {features.dtype} {tuple(features.shape)}"
        )
    if index.shape[:-1] != queries.shape[:-1] or not 1 <= index.shape[-1] <= MAX_NEIGHBOURS:
        raise ShapeError(
            f"blend_points: index must be [{','.join(map(str, queries.shape[:-1]))},K] with K of 1 to "
            f"{MAX_NEIGHBOURS}, found {tuple(index.shape)}"
        )
    if not softening > 0:
        raise ShapeError(f"blend_points: softening must be above 0 metres, found {softening}")
    held = [t if t.ndim == 3 else t[None] for t in (points, features, queries, index.to(torch.int32))]
    blended, offsets = _blend(*held, float(softening))
    return (blended, offsets) if batched else (blended[0], offsets[0])


def _check_xyz(op: str, name: str, found: Tensor, lead: tuple[int, ...]) -> None:
    if found.shape[:-2] != lead or found.ndim < 2 or found.shape[-1] != 3 or found.dtype != torch.float32:
        expected = f"[{','.join([*map(str, lead), '*', '3'])}]"
        raise ShapeError(f"{op}: {name} must be float32 {expected}, found {found.dtype} {tuple(found.shape)}")


def _index_kernel(points: Tensor, radius: float) -> Tensor:
    if _native.use_reference(points):  # which compares all pairs, and needs no index
        return _index_fake(points, radius).zero_()
    return _native_calls_fields.point_index(points.contiguous(), radius)


def _index_fake(points: Tensor, radius: float) -> Tensor:
    words = _native_calls_fields.point_workspace_words(points.shape[1])
    return points.new_empty(points.shape[0], words, dtype=torch.int32)


def _query_kernel(
    points: Tensor, workspace: Tensor, queries: Tensor, radius: float, count: int
) -> tuple[Tensor, Tensor]:
    if _native.use_reference(queries):
        return query_points_reference(points, queries, radius, count)
    return _native_calls_fields.query_points(
        workspace.contiguous(), queries.contiguous(), points.shape[1], radius, count
    )


def _query_fake(points: Tensor, workspace: Tensor, queries: Tensor, radius: float, count: int) -> tuple[Tensor, Tensor]:
    shape = (*queries.shape[:2], count)
    return queries.new_empty(shape, dtype=torch.int32), queries.new_empty(shape)


def _blend_kernel(
    points: Tensor, features: Tensor, queries: Tensor, neighbours: Tensor, softening: float
) -> tuple[Tensor, Tensor]:
    if _native.use_reference(points):
        return blend_points_reference(points, features, queries, neighbours, softening)
    inputs = (points.contiguous(), features.contiguous(), queries.contiguous(), neighbours.contiguous())
    return _native_calls_fields.blend_points(inputs, softening)


def _blend_fake(
    points: Tensor, features: Tensor, queries: Tensor, neighbours: Tensor, softening: float
) -> tuple[Tensor, Tensor]:
    return points.new_empty(*queries.shape[:2], features.shape[2]), points.new_empty(queries.shape)


def _blend_setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.softening = inputs[4]


def _blend_grad(ctx: Any, grad_blended: Tensor, grad_offsets: Tensor) -> tuple[Tensor | None, ...]:
    points, features, queries, neighbours = ctx.saved_tensors
    needs, grads = ctx.needs_input_grad[:3], (grad_blended, grad_offsets)
    if _native.use_reference(points):

        def twin(points: Tensor, features: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
            return blend_points_reference(points, features, queries, neighbours, ctx.softening)

        found = gradients_of(twin, (points, features, queries), needs, grads)
    else:
        found = _blend_backward(points, features, queries, neighbours, ctx.softening, *grads, *needs)
    return (*(g if need else None for g, need in zip(found, needs, strict=True)), None, None)


def _blend_backward_kernel(  # noqa: PLR0913 - an operator's schema is flat
    points: Tensor,
    features: Tensor,
    queries: Tensor,
    neighbours: Tensor,
    softening: float,
    grad_blended: Tensor,
    grad_offsets: Tensor,
    need_points: bool,
    need_features: bool,
    need_queries: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    needs, grads = (need_points, need_features, need_queries), (grad_blended.contiguous(), grad_offsets.contiguous())
    inputs = (points.contiguous(), features.contiguous(), queries.contiguous(), neighbours.contiguous())
    found = _native_calls_fields.blend_points_backward(inputs, softening, grads, needs)
    grad_points, grad_features, grad_queries = (points.new_empty(0) if g is None else g for g in found)
    return grad_points, grad_features, grad_queries


def _blend_backward_fake(points: Tensor, features: Tensor, queries: Tensor, *arguments: Any) -> Any:
    pairs = zip((points, features, queries), arguments[-3:], strict=True)
    return tuple(points.new_empty(t.shape if need else (0,)) for t, need in pairs)


_index = register_op("point_index", "(Tensor points, float radius) -> Tensor", _index_kernel, _index_fake)
_query = register_op(
    "query_points",
    "(Tensor points, Tensor workspace, Tensor queries, float radius, int count) -> (Tensor, Tensor)",
    _query_kernel,
    _query_fake,
)
_BLEND = "(Tensor points, Tensor features, Tensor queries, Tensor neighbours, float softening"
_blend = register_op(
    "blend_points", f"{_BLEND}) -> (Tensor, Tensor)", _blend_kernel, _blend_fake, _blend_grad, _blend_setup
)
_blend_backward = register_op(
    "blend_points_backward",
    f"{_BLEND}, Tensor grad_blended, Tensor grad_offsets, bool need_points, bool need_features, bool need_queries) "
    "-> (Tensor, Tensor, Tensor)",
    _blend_backward_kernel,
    _blend_backward_fake,
)
