"""Multiresolution hash encoding of positions."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from headrecon.errors import ShapeError
from headrecon.ops import _native, _native_calls_fields
from headrecon.ops._register import register_op
from headrecon.ops.field_specs import HashGridSpec
from headrecon.ops.reference.gradients import gradients_of
from headrecon.ops.reference.hashgrid import encode_hashgrid_reference


def encode_hashgrid(
    positions: Float[Tensor, "*N D"], table: Float[Tensor, "E F"], spec: HashGridSpec
) -> Float[Tensor, "*N LF"]:
    """Features of every level at positions in 0..1, linearly (or smoothly) interpolated between the grid's corners.

    table: float32 [spec.num_entries, spec.features]; the flat parameters of tiny-cuda-nn's grid are the same numbers in
    the same order (`.view(-1, spec.features)`). The result holds the first level's features first. Coordinates outside
    0..1 are moved to the border, NaN to 0. Differentiable once, in table and positions (0 where moved to the border; at
    the borders of cells the linear interpolation has a kink, and the upper cell counts); not twice.
    Cost: levels * 2^D reads for each position. Gradients come out the same for any number of threads.
    Source: Müller et al., "Instant Neural Graphics Primitives", SIGGRAPH 2022, section 3.
    Raises ShapeError for shapes or types that do not fit; NativeMissing on a device without a built back end.
    """
    if positions.shape[-1:] != (spec.dims,) or positions.dtype != torch.float32:
        raise ShapeError(
            f"encode_hashgrid: positions must be float32 [...,{spec.dims}], "
            f"found {positions.dtype} {tuple(positions.shape)}"
        )
    if table.shape != (spec.num_entries, spec.features) or table.dtype != torch.float32:
        raise ShapeError(
            f"encode_hashgrid: this grid's table is float32 {(spec.num_entries, spec.features)}, "
            f"found {table.dtype} {tuple(table.shape)}"
        )
    values = _hashgrid(
        positions.reshape(-1, spec.dims),
        table,
        spec.levels,
        spec.log2_table_size,
        spec.base_resolution,
        spec.per_level_scale,
        spec.interpolation == "smoothstep",
    )
    return values.reshape(*positions.shape[:-1], spec.num_outputs)


@lru_cache(maxsize=64)
def _spec(dims: int, features: int, layout: tuple[Any, ...]) -> HashGridSpec:
    levels, log2_table_size, base_resolution, per_level_scale, smooth = layout
    return HashGridSpec(
        dims, levels, features, log2_table_size, base_resolution, per_level_scale, "smoothstep" if smooth else "linear"
    )


def _kernel(positions: Tensor, table: Tensor, *layout: Any) -> Tensor:
    spec = _spec(positions.shape[1], table.shape[1], layout)
    if _native.use_reference(table):
        return encode_hashgrid_reference(positions, table, spec)
    return _native_calls_fields.hashgrid(positions.contiguous(), table.contiguous(), spec)


def _fake(positions: Tensor, table: Tensor, levels: int, *layout: Any) -> Tensor:
    return table.new_empty(positions.shape[0], levels * table.shape[1])


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])
    ctx.layout = inputs[2:]


def _grad(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    positions, table = ctx.saved_tensors
    needs = ctx.needs_input_grad[1], ctx.needs_input_grad[0]
    if _native.use_reference(table):
        spec = _spec(positions.shape[1], table.shape[1], ctx.layout)

        def twin(table: Tensor, positions: Tensor) -> Tensor:
            return encode_hashgrid_reference(positions, table, spec)

        found = gradients_of(twin, (table, positions), needs, (grad,))
    else:
        found = _backward(positions, table, *ctx.layout, grad, *needs)
    grad_table, grad_positions = (g if need else None for g, need in zip(found, needs, strict=True))
    return (grad_positions, grad_table, *[None] * len(ctx.layout))


def _backward_kernel(positions: Tensor, table: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    *layout, grad, need_table, need_positions = arguments
    spec = _spec(positions.shape[1], table.shape[1], tuple(layout))
    inputs, needs = (positions.contiguous(), table.contiguous()), (need_table, need_positions)
    found = _native_calls_fields.hashgrid_backward(inputs, spec, grad.contiguous(), needs)
    grad_table, grad_positions = (table.new_empty(0) if g is None else g for g in found)
    return grad_table, grad_positions


def _backward_fake(positions: Tensor, table: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    need_table, need_positions = arguments[-2:]
    return (
        table.new_empty(table.shape if need_table else (0,)),
        table.new_empty(positions.shape if need_positions else (0,)),
    )


_LAYOUT = "int levels, int log2_table_size, int base_resolution, float per_level_scale, bool smoothstep"
_hashgrid = register_op(
    "hashgrid", f"(Tensor positions, Tensor table, {_LAYOUT}) -> Tensor", _kernel, _fake, _grad, _setup
)
_backward = register_op(
    "hashgrid_backward",
    f"(Tensor positions, Tensor table, {_LAYOUT}, Tensor grad, bool need_table, bool need_positions) "
    "-> (Tensor, Tensor)",
    _backward_kernel,
    _backward_fake,
)
