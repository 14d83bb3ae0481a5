"""Compositing along rays: densities or opacities of samples become what a ray sees, how far and how much of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from headrecon.errors import ShapeError
from headrecon.ops import _native, _native_calls_volume
from headrecon.ops._native_calls_volume import Sums
from headrecon.ops._register import register_op
from headrecon.ops.ray_samples import Absorption, AbsorptionKind, RaySamples, Rule
from headrecon.ops.reference.gradients import gradients_of
from headrecon.ops.reference.ray_samples import composite_reference


@dataclass(frozen=True)
class Composited:
    """What R rays see. All differentiable, but weights of `render_trigrid`.

    features [R,D]: sums of weight times feature, before the background or the surface. ray_distance [R]: the mean
    distance of what is seen (with the surface, without the background), 0 where nothing is. opacity [R]: share of light
    that does not come from the background. weights [N]: of each sample in the sums (0 for the last sample of each ray
    with Rule.NEIGHBOURS); empty if not asked for.
    """

    features: Float[Tensor, "R D"]
    ray_distance: Float[Tensor, " R"]
    opacity: Float[Tensor, " R"]
    weights: Float[Tensor, " N"]


@dataclass(frozen=True)
class Behind:
    """What lies behind the samples: the background [R,D] or [D], and the features [R,D] of the samples' surface.

    Either may be None, which stands for 0 (black).
    """

    background: Float[Tensor, "R D"] | Float[Tensor, " D"] | None = None
    surface_features: Float[Tensor, "R D"] | None = None


def composite_rays(
    values: Float[Tensor, "*N"],
    features: Float[Tensor, "*N D"],
    samples: RaySamples,
    absorption: Absorption = Absorption(),
    behind: Behind = Behind(),
) -> Composited:
    """Front-to-back compositing: w_i = T_i alpha_i, alpha_i = 1 - exp(-density_i length_i), T_i the light left.

    values: float32 densities or opacities as `absorption` says, [N] packed or [R,S] dense; features: the same with D
    channels. A surface in `samples` is opaque: samples behind it do not count, and the light that reaches it takes
    `behind.surface_features` and its distance, as in mesh-integrated volume rendering (Feng et al., SCARF, SIGGRAPH
    Asia 2022, section 3.2, which DELTA, 2023, builds on). Light that passes everything takes the background.

    Defined for every input: NaN values and lengths, and intervals that run backwards, absorb nothing; an optical
    thickness of 80 and more absorbs everything; a sample of weight 0 adds nothing whatever its feature. Early
    termination (`absorption.stop`) leaves out what follows; the light that is left goes to the background.

    Differentiable in values, features, starts, ends, background and surface_features (not in the surface's distance,
    near_far and shifts); also through weights, ray_distance and opacity. O(N D), memory for the weights only.
    Raises ShapeError for shapes or types that do not fit; NativeMissing on a device without a built back end.
    Method: Max, "Optical Models for Direct Volume Rendering", TVCG 1995, section 4.
    """
    count = samples.num_samples
    if values.numel() != count or features.shape[:-1] != values.shape or features.ndim < 2:
        raise ShapeError(
            f"composite_rays: values must hold {count} samples ([N], or [R,S] when dense) and features the same with D "
            f"channels, found {tuple(values.shape)} and {tuple(features.shape)}"
        )
    if values.dtype != torch.float32 or features.dtype != torch.float32:
        raise ShapeError(f"composite_rays: values and features must be float32, found {values.dtype}, {features.dtype}")
    check_samples(samples, absorption, "composite_rays")
    channels = features.shape[-1]
    check_behind(behind, samples.num_rays, channels, "composite_rays")
    found = _composite(
        values.reshape(-1), features.reshape(count, channels), *samples.tensors, *numbers_of(samples, absorption)
    )
    return finish(Sums(*found), samples, behind)


def check_samples(samples: RaySamples, absorption: Absorption, what: str) -> None:
    """Raises ShapeError for samples that cannot be composited this way."""
    samples.check(what)
    if absorption.kind == AbsorptionKind.ALPHA and samples.rule == Rule.NEIGHBOURS:
        raise ShapeError(
            f"{what}: opacities belong to intervals; samples at distances (Rule.NEIGHBOURS) need densities"
        )
    if not 0.0 <= absorption.stop < 1.0:
        raise ShapeError(f"{what}: absorption.stop must lie in 0..1 (1 excluded), found {absorption.stop}")


def check_behind(behind: Behind, rays: int, channels: int, what: str) -> None:
    """Raises ShapeError unless what lies behind has the features' channels."""
    for name, allowed in (("background", ((rays, channels), (channels,))), ("surface_features", ((rays, channels),))):
        tensor = getattr(behind, name)
        if tensor is not None and tuple(tensor.shape) not in allowed:
            raise ShapeError(f"{what}: {name} must be one of {allowed}, found {tuple(tensor.shape)}")


def finish(sums: Sums, samples: RaySamples, behind: Behind) -> Composited:
    """Adds what lies behind the samples; plain torch, for it touches rays and no samples."""
    features, distances, total, weights = sums
    through = 1.0 - total
    if behind.background is not None:
        features = features + through[:, None] * behind.background
    if samples.surface is not None:
        hit = torch.isfinite(samples.surface)
        reached = torch.where(hit, through, 0.0)
        distances = distances + reached * torch.where(hit, samples.surface, 0.0)
        total = torch.where(hit, 1.0, total)
        seen = sums.sums
        if behind.surface_features is not None:
            seen = seen + through[:, None] * behind.surface_features
        features = torch.where(hit[:, None], seen, features)
    seen_something = total > 0
    mean = torch.where(seen_something, distances / torch.where(seen_something, total, 1.0), 0.0)
    return Composited(features, mean, total, weights)


def numbers_of(samples: RaySamples, absorption: Absorption) -> tuple[list[int], list[float]]:
    """Integers and floats as the operators take them."""
    return (
        [samples.num_rays, samples.per_ray, int(samples.rule), int(absorption.kind)],
        [absorption.shift, absorption.stop],
    )


def samples_of(
    tensors: tuple[Tensor | None, ...], integers: list[int], floats: list[float]
) -> tuple[RaySamples, Absorption]:
    """The inverse of taking samples apart for an operator; tensors become contiguous."""
    whole = [None if t is None else t.contiguous() for t in tensors]
    rays, per_ray, rule, kind = integers
    samples = RaySamples(*whole, num_rays=rays, per_ray=per_ray, rule=Rule(rule))  # pyright: ignore[reportArgumentType]
    return samples, Absorption(AbsorptionKind(kind), *floats)


SAMPLES_SCHEMA = (
    "Tensor? starts, Tensor? ends, Tensor? offsets, Tensor? near_far, Tensor? shifts, Tensor? surface, int[] integers, "
    "float[] floats"
)
_SCHEMA = f"(Tensor values, Tensor features, {SAMPLES_SCHEMA}) -> (Tensor, Tensor, Tensor, Tensor)"
_INPUTS = 8  # tensors before integers


def _composite_kernel(values: Tensor, features: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    samples = samples_of(rest[:6], *rest[6:])
    if _native.use_reference(values):
        return composite_reference(values, features, *samples)
    return tuple(_native_calls_volume.composite(values.contiguous(), features.contiguous(), samples))


def _composite_fake(values: Tensor, features: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    rays = rest[6][0]
    shapes = ((rays, features.shape[1]), (rays,), (rays,), values.shape)
    return tuple(values.new_empty(shape) for shape in shapes)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:_INPUTS])
    ctx.rest = inputs[_INPUTS:]


def _backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
    need = ctx.needs_input_grad
    # Below autograd nothing is recorded, so the twin's gradients are taken here.
    run = _backward_kernel if _native.use_reference(grads[0]) else _composite_backward
    found = run(*ctx.saved_tensors, *ctx.rest, *grads, need[1], need[2] or need[3])
    values, features, starts, ends = (g if wanted else None for g, wanted in zip(found, need[:4], strict=True))
    return values, features, starts, ends, None, None, None, None, None, None


def _backward_kernel(*arguments: Any) -> tuple[Tensor, ...]:
    values, features, *rest = arguments[:_INPUTS]
    samples = samples_of(tuple(rest), *arguments[_INPUTS : _INPUTS + 2])
    grads, needs = [g.contiguous() for g in arguments[-6:-2]], arguments[-2:]
    if _native.use_reference(values):
        found = _reference_gradients(values, features, samples, grads, needs)
    else:
        found = _native_calls_volume.composite_backward(
            values.contiguous(), features.contiguous(), samples, grads, needs
        )
    return tuple(values.new_empty(0) if g is None else g for g in found)


def _reference_gradients(
    values: Tensor, features: Tensor, samples: tuple[RaySamples, Absorption], grads: list[Tensor], needs: Any
) -> list[Tensor | None]:
    from dataclasses import replace

    given, absorption = samples
    starts = torch.empty(0) if given.starts is None else given.starts
    ends = torch.empty(0) if given.ends is None else given.ends

    def run(v: Tensor, f: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
        moved = replace(given, starts=None if given.starts is None else a, ends=None if given.ends is None else b)
        return composite_reference(v, f, moved, absorption)

    wanted = (True, needs[0], needs[1] and given.starts is not None, needs[1] and given.ends is not None)
    return gradients_of(run, (values, features, starts, ends), wanted, grads)


def _backward_fake(*arguments: Any) -> tuple[Tensor, ...]:
    values, features, starts, ends = arguments[:4]
    need_features, need_distances = arguments[-2:]
    shapes = (
        values.shape,
        features.shape if need_features else (0,),
        values.shape if need_distances and starts is not None else (0,),
        values.shape if need_distances and ends is not None else (0,),
    )
    return tuple(values.new_empty(shape) for shape in shapes)


_composite = register_op("composite", _SCHEMA, _composite_kernel, _composite_fake, _backward, _setup_context)
_composite_backward = register_op(
    "composite_backward",
    _SCHEMA.replace(
        ") ->",
        ", Tensor grad_sums, Tensor grad_distances, Tensor grad_opacities, Tensor grad_weights, "
        "bool need_features, bool need_distances) ->",
    ),
    _backward_kernel,
    _backward_fake,
)
