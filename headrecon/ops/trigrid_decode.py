"""Density and features of points: a lookup in a `TriGrid` and a small network, in one go."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from headrecon.errors import ShapeError
from headrecon.ops import _native, _native_calls_volume
from headrecon.ops._native_calls_volume import DecoderWeights, Field
from headrecon.ops._register import register_op
from headrecon.ops.reference.gradients import gradients_of
from headrecon.ops.reference.trigrid import decode_reference, sample_reference
from headrecon.ops.trigrid import TriGrid, check_points

#: HR_DECODER_MAX_HIDDEN and HR_DECODER_MAX_FEATURES in trigrid.h.
_MAX_HIDDEN, _MAX_FEATURES = 128, 127


class FeatureActivation(IntEnum):
    """What becomes of the decoder's features: HrFeatureActivation in trigrid.h."""

    NONE = 0
    SIGMOID = 1
    LEAKY = 2


@dataclass(frozen=True)
class TriGridDecoder:
    """From a feature to a density and F features: w2 softplus(w1 x + b1) + b2, whose first row is the density.

    EG3D's has C = 32, 64 hidden units and F = 32 (multiply its stored weights by the gains of its equalised layers).
    activation: NONE; SIGMOID stretched to -0.001..1.001 (EG3D); LEAKY ReLU of slope 0.2 times sqrt 2 (PanoHead).
    """

    w1: Float[Tensor, "Hidden C"]
    b1: Float[Tensor, " Hidden"]
    w2: Float[Tensor, "Out Hidden"]
    b2: Float[Tensor, " Out"]
    activation: FeatureActivation = FeatureActivation.NONE

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """w1, b1, w2, b2."""
        return self.w1, self.b1, self.w2, self.b2

    def check(self, grid: TriGrid, what: str) -> None:
        """Raises ShapeError unless the weights fit each other and the grid."""
        channels, (hidden, outputs) = grid.cells.shape[-1], (len(self.b1), len(self.b2))
        found = [tuple(w.shape) for w in self.tensors]
        if found != [(hidden, channels), (hidden,), (outputs, hidden), (outputs,)]:
            raise ShapeError(
                f"{what}: the decoder must have w1 [Hidden,{channels}], b1 [Hidden], w2 [1+F,Hidden], b2 [1+F]; "
                f"found {found}"
            )
        if not (1 <= hidden <= _MAX_HIDDEN and 2 <= outputs <= 1 + _MAX_FEATURES):
            raise ShapeError(
                f"{what}: the decoder must have 1 to {_MAX_HIDDEN} hidden units and 1 to {_MAX_FEATURES} features, "
                f"found {hidden} and {outputs - 1}"
            )
        if any(w.dtype != torch.float32 for w in self.tensors):
            raise ShapeError(f"{what}: the decoder must be float32, found {[w.dtype for w in self.tensors]}")


def decode_trigrid(
    grid: TriGrid, decoder: TriGridDecoder, points: Float[Tensor, "B N 3"]
) -> tuple[Float[Tensor, "B N"], Float[Tensor, "B N F"]]:
    """Raw densities and features of points (metres), for shapes (marching cubes), occupancy grids and coarse passes.

    The raw density has no activation yet: EG3D's is softplus(raw - 1), per unit of distance. What the decoder says
    outside the box is its answer to a feature of 0. Differentiable in cells, decoder and points; the backward pass
    decodes again, so nothing but the inputs is kept. On the CPU gradients do not depend on the number of threads.
    O(N (C Hidden + Hidden F)). Raises ShapeError for wrong shapes or types; NativeMissing as `sample_trigrid`.
    Method: Chan et al., "EG3D", CVPR 2022, section 4.
    """
    check_points(grid, points, "decode_trigrid")
    decoder.check(grid, "decode_trigrid")
    cells, rotations, axes, scale = grid.field
    return _decode(cells, rotations, *decoder.tensors, points, axes, scale, int(decoder.activation))


_SCHEMA = (
    "(Tensor grid, Tensor? rotations, Tensor w1, Tensor b1, Tensor w2, Tensor b2, Tensor points, int[] axes, "
    "float scale, int activation) -> (Tensor, Tensor)"
)
_INPUTS = 7  # tensors before axes


def decode_by_twin(field: Field, decoder: DecoderWeights, points: Tensor) -> tuple[Tensor, Tensor]:
    """What the native op computes, from the references."""
    features = sample_reference(field.grid, field.rotations, points, field.axes, field.scale)
    return decode_reference(features, decoder[:4], decoder.activation)


def unpack(arguments: tuple[Any, ...]) -> tuple[Field, DecoderWeights, Tensor]:
    """The operator's arguments, contiguous."""
    grid, rotations, w1, b1, w2, b2, points, axes, scale, activation = arguments
    w1, b1, w2, b2 = (w.contiguous() for w in (w1, b1, w2, b2))
    field = Field(grid.contiguous(), rotations, axes, scale)
    return field, DecoderWeights(w1, b1, w2, b2, activation), points.contiguous()


def _decode_kernel(*arguments: Any) -> tuple[Tensor, Tensor]:
    field, decoder, points = unpack(arguments)
    run = decode_by_twin if _native.use_reference(points) else _native_calls_volume.trigrid_decode
    return run(field, decoder, points)


def _decode_fake(*arguments: Any) -> tuple[Tensor, Tensor]:
    points, b2 = arguments[6], arguments[5]
    return points.new_empty(points.shape[:2]), points.new_empty(*points.shape[:2], b2.shape[0] - 1)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:_INPUTS])
    ctx.rest = inputs[_INPUTS:]


def _backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
    need = ctx.needs_input_grad
    # Below autograd nothing is recorded, so the twin's gradients are taken here.
    run = _backward_kernel if _native.use_reference(grads[0]) else _decode_backward
    found = run(*ctx.saved_tensors, *ctx.rest, *grads, need[0], any(need[2:6]), need[6])
    needed = (need[0], *need[2:7])
    grid, w1, b1, w2, b2, points = (g if wanted else None for g, wanted in zip(found, needed, strict=True))
    return grid, None, w1, b1, w2, b2, points, None, None, None


def _backward_kernel(*arguments: Any) -> tuple[Tensor, ...]:
    *given, grad_densities, grad_features, need_grid, need_decoder, need_points = arguments
    field, decoder, points = unpack(tuple(given))
    grads = (grad_densities.contiguous(), grad_features.contiguous())
    if _native.use_reference(points):
        found = gradients_of(
            lambda g, w1, b1, w2, b2, p: decode_by_twin(
                field._replace(grid=g), DecoderWeights(w1, b1, w2, b2, decoder.activation), p
            ),
            (field.grid, *decoder[:4], points),
            (need_grid, *[need_decoder] * 4, need_points),
            grads,
        )
    else:
        needs = (need_grid, need_decoder, need_points)
        grid, weights, at = _native_calls_volume.trigrid_decode_backward(field, decoder, points, grads, needs)
        found = [grid, *weights, at]
    return tuple(points.new_empty(0) if g is None else g for g in found)


def _backward_fake(*arguments: Any) -> tuple[Tensor, ...]:
    need_grid, need_decoder, need_points = arguments[-3:]
    grid, _, w1, b1, w2, b2, points = arguments[:_INPUTS]
    needs = (need_grid, *[need_decoder] * 4, need_points)
    return tuple(
        points.new_empty(t.shape if need else (0,))
        for t, need in zip((grid, w1, b1, w2, b2, points), needs, strict=True)
    )


_decode = register_op("trigrid_decode", _SCHEMA, _decode_kernel, _decode_fake, _backward, _setup_context)
_decode_backward = register_op(
    "trigrid_decode_backward",
    _SCHEMA.replace(
        ") -> (Tensor, Tensor)",
        ", Tensor grad_densities, Tensor grad_features, bool need_grid, bool need_decoder, bool need_points) -> "
        "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    ),
    _backward_kernel,
    _backward_fake,
)
