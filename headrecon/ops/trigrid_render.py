"""Volume rendering of a `TriGrid` in one go: samples are looked up, decoded and composited without being kept."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from headrecon.errors import ShapeError
from headrecon.ops import _native, _native_calls_volume
from headrecon.ops._native_calls_volume import DecoderWeights, Field, Sums
from headrecon.ops._register import register_op
from headrecon.ops.composite import (
    SAMPLES_SCHEMA,
    Behind,
    Composited,
    check_behind,
    check_samples,
    finish,
    numbers_of,
    samples_of,
)
from headrecon.ops.ray_samples import Absorption, AbsorptionKind, RaySamples
from headrecon.ops.reference.gradients import gradients_of
from headrecon.ops.reference.trigrid_render import render_reference
from headrecon.ops.trigrid import TriGrid
from headrecon.ops.trigrid_decode import TriGridDecoder


def render_trigrid(
    grid: TriGrid,
    decoder: TriGridDecoder,
    rays: tuple[Float[Tensor, "B R 3"], Float[Tensor, "B R 3"]],
    samples: RaySamples,
    absorption: Absorption = Absorption(AbsorptionKind.SOFTPLUS, shift=-1.0),
    behind: Behind = Behind(),
    *,
    weights: bool = False,
) -> Composited:
    """`sample_trigrid`, `decode_trigrid` and `composite_rays` of the samples of B times R rays, fused.

    rays: origins (metres) and directions, of any length: distances are in units of it. samples and behind are those of
    all B R rays, image after image; results too. Raw densities are activated as `absorption` says, by default EG3D's
    softplus(raw - 1); `RaySamples.at` and this give EG3D's quadrature. weights: whether to return those of the samples
    (for `importance_samples`), which have no gradient.

    Memory for the inputs and R sums only, whatever the number of samples: with `RaySamples.uniform` nothing is stored
    per sample at all. The backward pass looks up and decodes again. Differentiable in cells, decoder, origins,
    directions, background and surface_features; distances of samples are constants. On the CPU gradients are the same,
    bit for bit, for any number of threads. With `absorption.stop` samples behind it are not even looked up (but for a
    block of 16 or so). O(N (C Hidden + Hidden F)).
    Raises ShapeError for shapes or types that do not fit; NativeMissing on a device without a built back end.
    Method: Chan et al., "EG3D", CVPR 2022, section 4; recomputing instead of storing: Müller et al., 2022.
    """
    origins, directions = rays
    batch = len(grid.cells)
    decoder.check(grid, "render_trigrid")
    if origins.ndim != 3 or origins.shape[::2] != (batch, 3) or directions.shape != origins.shape:
        raise ShapeError(
            f"render_trigrid: origins and directions must be [{batch},R,3], found {tuple(origins.shape)} and "
            f"{tuple(directions.shape)}"
        )
    if origins.dtype != torch.float32 or directions.dtype != torch.float32:
        raise ShapeError(f"render_trigrid: rays must be float32, found {origins.dtype} and {directions.dtype}")
    if samples.num_rays != batch * origins.shape[1]:
        raise ShapeError(
            f"render_trigrid: samples must be of {batch * origins.shape[1]} rays, found {samples.num_rays}"
        )
    if absorption.kind == AbsorptionKind.ALPHA:
        raise ShapeError("render_trigrid: the decoder gives densities; absorption.kind must be DENSITY or SOFTPLUS")
    check_samples(samples, absorption, "render_trigrid")
    check_behind(behind, samples.num_rays, len(decoder.b2) - 1, "render_trigrid")
    cells, rotations, axes, scale = grid.field
    integers, floats = numbers_of(samples, absorption)
    distances = replace(
        samples, **{n: _detached(getattr(samples, n)) for n in ("starts", "ends", "near_far", "shifts")}
    )
    found = _render(
        cells, rotations, *decoder.tensors, origins.reshape(-1, 3), directions.reshape(-1, 3),
        *distances.tensors[:5], _detached(samples.surface), integers, floats, axes, scale, int(decoder.activation),
        weights,
    )  # fmt: skip
    return finish(Sums(*found), samples, behind)


def _detached(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach()


_SCHEMA = (
    "(Tensor grid, Tensor? rotations, Tensor w1, Tensor b1, Tensor w2, Tensor b2, Tensor origins, Tensor directions, "
    f"{SAMPLES_SCHEMA}, int[] axes, float scale, int activation, bool weights) -> (Tensor, Tensor, Tensor, Tensor)"
)
_INPUTS = 14  # tensors before integers
_DIFFERENTIABLE = (0, 2, 3, 4, 5, 6, 7)


def _unpack(
    arguments: tuple[Any, ...],
) -> tuple[Field, DecoderWeights, tuple[Tensor, Tensor], tuple[RaySamples, Absorption]]:
    integers, floats, axes, scale, activation = arguments[_INPUTS : _INPUTS + 5]
    grid, rotations, *rest = arguments[:8]
    w1, b1, w2, b2, origins, directions = (t.contiguous() for t in rest)
    decoder = DecoderWeights(w1, b1, w2, b2, activation)
    field = Field(grid.contiguous(), rotations, axes, scale)
    return field, decoder, (origins, directions), samples_of(arguments[8:_INPUTS], integers, floats)


def _render_kernel(*arguments: Any) -> tuple[Tensor, ...]:
    field, decoder, rays, samples = _unpack(arguments)
    wanted = arguments[-1]
    if _native.use_reference(rays[0]):
        found = render_reference(field, decoder, rays, samples)
        return (*found[:3], found[3] if wanted else found[3].new_empty(0))
    return tuple(_native_calls_volume.trigrid_render(field, decoder, rays, samples, wanted))


def _render_fake(*arguments: Any) -> tuple[Tensor, ...]:
    origins, b2, starts, integers = arguments[6], arguments[5], arguments[8], arguments[_INPUTS]
    rays = origins.shape[0]
    samples = integers[0] * integers[1] if starts is None else starts.shape[0]
    shapes = ((rays, b2.shape[0] - 1), (rays,), (rays,), (samples if arguments[-1] else 0,))
    return tuple(origins.new_empty(shape) for shape in shapes)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:_INPUTS])
    ctx.rest = inputs[_INPUTS:-1]
    ctx.mark_non_differentiable(output[3])


def _backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
    need = ctx.needs_input_grad
    needs = (need[0], any(need[2:6]), need[6] or need[7])
    # Below autograd nothing is recorded, so the twin's gradients are taken here.
    run = _backward_kernel if _native.use_reference(grads[0]) else _render_backward
    found = run(*ctx.saved_tensors, *ctx.rest, *grads[:3], *needs)
    results: list[Tensor | None] = [None] * (_INPUTS + 6)
    for place, grad in zip(_DIFFERENTIABLE, found, strict=True):
        results[place] = grad if need[place] else None
    return tuple(results)


def _backward_kernel(*arguments: Any) -> tuple[Tensor, ...]:
    needs, grads = arguments[-3:], tuple(g.contiguous() for g in arguments[-6:-3])
    field, decoder, rays, samples = _unpack(arguments)
    if _native.use_reference(rays[0]):
        found = gradients_of(
            lambda g, w1, b1, w2, b2, o, d: render_reference(
                field._replace(grid=g), DecoderWeights(w1, b1, w2, b2, decoder.activation), (o, d), samples
            )[:3],
            (field.grid, *decoder[:4], *rays),
            (needs[0], *[needs[1]] * 4, needs[2], needs[2]),
            grads,
        )
    else:
        grid, weights, origins, directions = _native_calls_volume.trigrid_render_backward(
            field, decoder, rays, samples, grads, needs
        )
        found = [grid, *weights, origins, directions]
    return tuple(rays[0].new_empty(0) if g is None else g for g in found)


def _backward_fake(*arguments: Any) -> tuple[Tensor, ...]:
    need_grid, need_decoder, need_rays = arguments[-3:]
    needs = (need_grid, *[need_decoder] * 4, need_rays, need_rays)
    given = [arguments[place] for place in _DIFFERENTIABLE]
    return tuple(given[0].new_empty(t.shape if need else (0,)) for t, need in zip(given, needs, strict=True))


_render = register_op("trigrid_render", _SCHEMA, _render_kernel, _render_fake, _backward, _setup_context)
_render_backward = register_op(
    "trigrid_render_backward",
    _SCHEMA.replace(
        ", bool weights) -> (Tensor, Tensor, Tensor, Tensor)",
        ", Tensor grad_sums, Tensor grad_distances, Tensor grad_opacities, bool need_grid, bool need_decoder, "
        "bool need_rays) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    ),
    _backward_kernel,
    _backward_fake,
)
