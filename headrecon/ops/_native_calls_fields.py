"""Calls of the native ops of fields (hash grids, small networks, neural points). See `_native_calls`."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from headrecon.ops import _native
from headrecon.ops._native import ISA, num_threads
from headrecon.ops._native_calls import _pointers
from headrecon.ops._native_params_fields import (
    BlendPointsGradParams,
    BlendPointsParams,
    HashgridGradParams,
    HashgridLevels,
    HashgridParams,
    MlpGradParams,
    MlpParams,
    PointIndexParams,
    QueryPointsParams,
)
from headrecon.ops.field_specs import ACTIVATIONS, HashGridSpec, MlpSpec

_GRID_SIZES = "2 or 3 coordinates, 1 to 32 levels, 1, 2, 4 or 8 features"
_MLP_SIZES = "up to 256 inputs, 128 wide, 128 outputs, 15 hidden layers"
_POINT_SIZES = "fewer than 2^30 points, a radius above 0, 1 to 32 neighbours, at least one channel"


@lru_cache(maxsize=64)
def _levels(spec: HashGridSpec) -> HashgridLevels:
    levels = HashgridLevels()
    for k, level in enumerate(spec.level_table):
        levels.scale[k], levels.resolution[k] = level.scale, level.resolution
        levels.size[k], levels.offset[k], levels.hashed[k] = level.size, level.offset, int(level.hashed)
    return levels


def _grid(spec: HashGridSpec, isa: str) -> tuple[int, ...]:
    smooth = int(spec.interpolation == "smoothstep")
    return spec.dims, spec.levels, spec.features, smooth, num_threads(), ISA[isa]


def hashgrid(positions: Tensor, table: Tensor, spec: HashGridSpec, isa: str = "auto") -> Tensor:
    """Features [N,L*F] at positions [N,D] of a table [E,F]."""
    values = positions.new_empty(len(positions), spec.num_outputs)
    if values.numel() == 0:
        return values
    pointers = _pointers(positions, table, values)
    params = HashgridParams(*pointers, len(positions), len(table), *_grid(spec, isa), _levels(spec))
    _native._run("hashgrid", params, table, "", _GRID_SIZES)
    return values


def hashgrid_backward(
    inputs: tuple[Tensor, Tensor], spec: HashGridSpec, grad: Tensor, needs: tuple[bool, bool], isa: str = "auto"
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of table and positions; inputs are positions and table, needs in the order of the results."""
    positions, table = inputs
    grad_table = torch.empty_like(table) if needs[0] else None
    grad_positions = torch.empty_like(positions) if needs[1] else None
    if grad.numel() == 0:
        return tuple(None if g is None else g.zero_() for g in (grad_table, grad_positions))  # type: ignore[return-value]
    pointers = _pointers(positions, table, grad, grad_table, grad_positions)
    params = HashgridGradParams(*pointers, len(positions), len(table), *_grid(spec, isa), _levels(spec))
    _native._run("hashgrid_backward", params, table, "", _GRID_SIZES)
    return grad_table, grad_positions


def _network(spec: MlpSpec, samples: int, allow_half: bool, isa: str) -> tuple[Any, ...]:
    kinds = ACTIVATIONS.index(spec.activation), ACTIVATIONS.index(spec.output_activation)
    sizes = samples, spec.inputs, spec.outputs, spec.width, spec.hidden_layers
    return (*sizes, *kinds, spec.softplus_beta, int(allow_half), num_threads(), ISA[isa])


def mlp(
    inputs: Tensor, weights: Tensor, biases: Tensor | None, spec: MlpSpec, allow_half: bool = False, isa: str = "auto"
) -> Tensor:
    """Outputs [N,O] of inputs [N,I]."""
    outputs = inputs.new_empty(len(inputs), spec.outputs)
    if outputs.numel() == 0:
        return outputs
    pointers = _pointers(inputs, weights, biases, outputs)
    params = MlpParams(*pointers, *_network(spec, len(inputs), allow_half, isa))
    _native._run("mlp", params, inputs, "", _MLP_SIZES)
    return outputs


def mlp_backward(
    arguments: tuple[Tensor, Tensor, Tensor | None],
    spec: MlpSpec,
    grad: Tensor,
    needs: tuple[bool, bool, bool],
    allow_half: bool = False,
    isa: str = "auto",
) -> tuple[Tensor | None, ...]:
    """Gradients of inputs, weights and biases, which `arguments` are; None for those not needed or absent."""
    found = tuple(
        torch.empty_like(t) if need and t is not None else None for t, need in zip(arguments, needs, strict=True)
    )
    if grad.numel() == 0:
        return tuple(None if g is None else g.zero_() for g in found)
    params = MlpGradParams(*_pointers(*arguments, grad, *found), *_network(spec, len(grad), allow_half, isa))
    _native._run("mlp_backward", params, grad, "", _MLP_SIZES)
    return found


def point_workspace_words(num_points: Any) -> Any:
    """hr_points_workspace_words in points.h. By doubling, since torch may trace it with a symbol for the number."""
    buckets = 8
    while buckets < 2 * num_points:
        buckets *= 2
    return 4 * num_points + buckets + 1


def point_index(points: Tensor, radius: float) -> Tensor:
    """The index int32 [B,words] of points [B,N,3]: see points.h."""
    batch, count = points.shape[:2]
    workspace = points.new_empty(batch, point_workspace_words(count), dtype=torch.int32)
    if batch == 0:
        return workspace
    params = PointIndexParams(*_pointers(points, workspace), batch, count, radius, num_threads())
    _native._run("point_index", params, points, "", _POINT_SIZES)
    return workspace


def query_points(
    workspace: Tensor, queries: Tensor, num_points: int, radius: float, count: int, isa: str = "auto"
) -> tuple[Tensor, Tensor]:
    """Numbers int32 and distances [B,Q,K] of the nearest points."""
    batch, num_queries = queries.shape[:2]
    neighbours = queries.new_empty(batch, num_queries, count, dtype=torch.int32)
    distances = queries.new_empty(batch, num_queries, count)
    if neighbours.numel() == 0:
        return neighbours, distances
    pointers = _pointers(workspace, queries, neighbours, distances)
    params = QueryPointsParams(*pointers, batch, num_points, num_queries, radius, count, num_threads(), ISA[isa])
    _native._run("query_points", params, queries, "", _POINT_SIZES)
    return neighbours, distances


def _blend(inputs: tuple[Tensor, Tensor, Tensor, Tensor], softening: float) -> tuple[Any, ...]:
    points, features, queries, neighbours = inputs
    sizes = len(points), len(features), points.shape[1], queries.shape[1], features.shape[2], neighbours.shape[2]
    return (*sizes, softening, num_threads())


def _which_points(inputs: tuple[Tensor, Tensor, Tensor, Tensor]) -> str:
    count = inputs[0].shape[1]
    return f"neighbours must be -1 or number the {count} points (0..{count - 1}), found others"


def blend_points(inputs: tuple[Tensor, Tensor, Tensor, Tensor], softening: float) -> tuple[Tensor, Tensor]:
    """Blended features [B,Q,C] and offsets [B,Q,3]. inputs: points, features, queries, neighbours."""
    points, features, queries, _ = inputs
    blended = points.new_empty(len(points), queries.shape[1], features.shape[2])
    offsets = torch.empty_like(queries)
    if offsets.numel() == 0:
        return blended, offsets
    params = BlendPointsParams(*_pointers(*inputs, blended, offsets), *_blend(inputs, softening))
    _native._run("blend_points", params, points, _which_points(inputs), _POINT_SIZES)
    return blended, offsets


def blend_points_backward(
    inputs: tuple[Tensor, Tensor, Tensor, Tensor],
    softening: float,
    grads: tuple[Tensor | None, Tensor | None],
    needs: tuple[bool, bool, bool],
) -> tuple[Tensor | None, ...]:
    """Gradients of points, features and queries, from those of blended and offsets; None stands for zero."""
    found = tuple(torch.empty_like(t) if need else None for t, need in zip(inputs[:3], needs, strict=True))
    if inputs[2].numel() == 0 or inputs[0].numel() == 0:
        return tuple(None if g is None else g.zero_() for g in found)
    params = BlendPointsGradParams(*_pointers(*inputs, *grads, *found), *_blend(inputs, softening))
    _native._run("blend_points_backward", params, inputs[0], _which_points(inputs), _POINT_SIZES)
    return found
