"""Small fully connected networks in one pass."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from headrecon.errors import ShapeError
from headrecon.ops import _native, _native_calls_fields
from headrecon.ops._register import register_op
from headrecon.ops.field_specs import ACTIVATIONS, MlpSpec
from headrecon.ops.reference.gradients import gradients_of
from headrecon.ops.reference.mlp import fused_mlp_reference


def fused_mlp(
    inputs: Float[Tensor, "*N I"],
    weights: Float[Tensor, "P"],
    spec: MlpSpec,
    *,
    biases: Float[Tensor, "Q"] | None = None,
    allow_half: bool = False,
) -> Float[Tensor, "*N O"]:
    """Outputs of a small network, what lies between its layers never leaving the cache.

    inputs float32 [...,spec.inputs]; weights and biases flat, laid out as `MlpSpec` says. allow_half lets a GPU round
    inputs, weights and activations to float16 where it multiplies them, and sum in float32; a CPU, which would gain
    nothing, stays with float32. Differentiable once, in inputs, weights and biases: the backward pass evaluates the
    layers again instead of storing them. Gradients come out the same for any number of threads. The slope of ReLU at 0
    is 0. Cost: 2 * spec.num_weights operations for each sample, three times that backward.
    Source: Müller et al., "Real-time Neural Radiance Caching for Path Tracing", SIGGRAPH 2021, section 4.
    Raises ShapeError for shapes or types that do not fit; NativeMissing on a device without a built back end.
    """
    if inputs.shape[-1:] != (spec.inputs,) or inputs.dtype != torch.float32:
        raise ShapeError(
            f"fused_mlp: inputs must be float32 [...,{spec.inputs}], found {inputs.dtype} {tuple(inputs.shape)}"
        )
    for name, found, length in (("weights", weights, spec.num_weights), ("biases", biases, spec.num_biases)):
        if found is not None and (found.shape != (length,) or found.dtype != torch.float32):
            raise ShapeError(
                f"fused_mlp: {name} of this network are float32 [{length}], found {found.dtype} {tuple(found.shape)}"
            )
    kinds = ACTIVATIONS.index(spec.activation), ACTIVATIONS.index(spec.output_activation)
    sizes = spec.outputs, spec.width, spec.hidden_layers
    outputs = _mlp(inputs.reshape(-1, spec.inputs), weights, biases, *sizes, *kinds, spec.softplus_beta, allow_half)
    return outputs.reshape(*inputs.shape[:-1], spec.outputs)


@lru_cache(maxsize=64)
def _spec(inputs: int, layout: tuple[Any, ...]) -> MlpSpec:
    outputs, width, hidden_layers, activation, output_activation, beta = layout
    kinds = ACTIVATIONS[activation], ACTIVATIONS[output_activation]
    return MlpSpec(inputs, outputs, width, hidden_layers, *kinds, beta)


def _kernel(inputs: Tensor, weights: Tensor, biases: Tensor | None, *layout: Any) -> Tensor:
    spec = _spec(inputs.shape[1], layout[:-1])
    if _native.use_reference(inputs):
        return fused_mlp_reference(inputs, weights, biases, spec)
    return _native_calls_fields.mlp(*_contiguous(inputs, weights, biases), spec, allow_half=layout[-1])


def _contiguous(inputs: Tensor, weights: Tensor, biases: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    return inputs.contiguous(), weights.contiguous(), None if biases is None else biases.contiguous()


def _fake(inputs: Tensor, weights: Tensor, biases: Tensor | None, outputs: int, *layout: Any) -> Tensor:
    return inputs.new_empty(inputs.shape[0], outputs)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.layout = inputs[3:]


def _grad(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    inputs, weights, biases = ctx.saved_tensors
    needs = ctx.needs_input_grad[:3]
    if _native.use_reference(inputs):
        spec, present = _spec(inputs.shape[1], ctx.layout[:-1]), [t for t in (inputs, weights, biases) if t is not None]

        def twin(inputs: Tensor, weights: Tensor, biases: Tensor | None = None) -> Tensor:
            return fused_mlp_reference(inputs, weights, biases, spec)

        found = [*gradients_of(twin, present, needs[: len(present)], (grad,)), None][:3]
    else:
        found = _backward(inputs, weights, biases, *ctx.layout, grad, *needs)
    return (*(g if need else None for g, need in zip(found, needs, strict=True)), *[None] * len(ctx.layout))


def _backward_kernel(
    inputs: Tensor, weights: Tensor, biases: Tensor | None, *arguments: Any
) -> tuple[Tensor, Tensor, Tensor]:
    *layout, allow_half, grad, need_inputs, need_weights, need_biases = arguments
    spec, needs = _spec(inputs.shape[1], tuple(layout)), (need_inputs, need_weights, need_biases)
    held = _contiguous(inputs, weights, biases)
    found = _native_calls_fields.mlp_backward(held, spec, grad.contiguous(), needs, allow_half)
    grad_inputs, grad_weights, grad_biases = (inputs.new_empty(0) if g is None else g for g in found)
    return grad_inputs, grad_weights, grad_biases


def _backward_fake(
    inputs: Tensor, weights: Tensor, biases: Tensor | None, *arguments: Any
) -> tuple[Tensor, Tensor, Tensor]:
    pairs = zip((inputs, weights, biases), arguments[-3:], strict=True)
    wanted = (t if need else None for t, need in pairs)
    grad_inputs, grad_weights, grad_biases = (inputs.new_empty((0,) if t is None else t.shape) for t in wanted)
    return grad_inputs, grad_weights, grad_biases


_LAYOUT = (
    "int outputs, int width, int hidden_layers, int activation, int output_activation, float softplus_beta, "
    "bool allow_half"
)
_mlp = register_op(
    "mlp", f"(Tensor inputs, Tensor weights, Tensor? biases, {_LAYOUT}) -> Tensor", _kernel, _fake, _grad, _setup
)
_backward = register_op(
    "mlp_backward",
    f"(Tensor inputs, Tensor weights, Tensor? biases, {_LAYOUT}, Tensor grad, bool need_inputs, bool need_weights, "
    "bool need_biases) -> (Tensor, Tensor, Tensor)",
    _backward_kernel,
    _backward_fake,
)
