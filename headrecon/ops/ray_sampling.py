"""Drawing distances along rays: stratified between near and far, and from the weights of a first pass."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from headrecon.errors import ShapeError
from headrecon.ops import _native, _native_calls_volume
from headrecon.ops._register import register_op
from headrecon.ops.reference.ray_samples import importance_reference


def stratified_samples(
    near_far: Float[Tensor, "R 2"], count: int, generator: torch.Generator | None = None
) -> Float[Tensor, "R S"]:
    """One rising distance in each of `count` equal parts of near to far: at random, or its middle without a generator.

    The generator must live where near_far does. Where far is below near, distances fall; NaN stays NaN. No gradient.
    Method: Mildenhall et al., "NeRF", ECCV 2020, section 4.
    """
    if near_far.ndim != 2 or near_far.shape[1] != 2 or count < 0:
        raise ShapeError(
            f"stratified_samples: near_far must be [R,2] and count 0 or more, found {tuple(near_far.shape)}, {count}"
        )
    near_far = near_far.detach()
    near, length = near_far[:, :1], near_far[:, 1:] - near_far[:, :1]
    place = torch.arange(count, dtype=near.dtype, device=near.device).expand(len(near_far), -1)
    if generator is None:
        within: Tensor | float = 0.5
    else:
        within = torch.rand(place.shape, generator=generator, dtype=near.dtype, device=near.device)
    return near + (place + within) * (length / max(count, 1))


def intervals_around(
    distances: Float[Tensor, "R S"], near_far: Float[Tensor, "R 2"]
) -> tuple[Float[Tensor, "R S"], Float[Tensor, "R S"]]:
    """Starts and ends of the intervals around rising distances: borders half-way, the outer ones at near and far."""
    between = 0.5 * (distances[:, 1:] + distances[:, :-1])
    borders = torch.cat([near_far[:, :1], between, near_far[:, 1:]], 1)
    return borders[:, :-1].contiguous(), borders[:, 1:].contiguous()


def smooth_weights(weights: Float[Tensor, "R S"]) -> Float[Tensor, "R S"]:
    """Weights as EG3D and mip-NeRF smooth them: the mean of the two maxima with the neighbours, plus 0.01.

    So that samples are drawn beside what was seen too. Barron et al., "mip-NeRF", ICCV 2021, section 3.1 (blurpool).
    """
    around = torch.nn.functional.pad(weights, (1, 1))
    highest = torch.maximum(around[:, 1:], around[:, :-1])
    return 0.5 * (highest[:, 1:] + highest[:, :-1]) + 0.01


def importance_samples(
    edges: Float[Tensor, "R S1"],
    weights: Float[Tensor, "R S"],
    count: int,
    generator: torch.Generator | None = None,
    *,
    smooth: bool = False,
) -> Float[Tensor, "R M"]:
    """`count` rising distances per ray, drawn from the density that has `weights` over the intervals between `edges`.

    Stratified: one uniform number in each of `count` equal parts of 0..1, or its middle without a generator. smooth:
    see `smooth_weights`. Weights that are not above 0 (NaN too) or infinite count as 0; a ray without any is drawn from
    uniformly between its first and last edge. Edges must not fall. No gradient. O(count log S) per ray.
    Raises ShapeError for wrong shapes or types; NativeMissing on a device without a built back end.
    Method: inverse CDF, Mildenhall et al., "NeRF", ECCV 2020, section 5.2.
    """
    if edges.ndim != 2 or weights.ndim != 2 or edges.shape != (weights.shape[0], weights.shape[1] + 1):
        raise ShapeError(
            f"importance_samples: edges must be [R,S+1] and weights [R,S], found {tuple(edges.shape)} and "
            f"{tuple(weights.shape)}"
        )
    if weights.shape[1] < 1 or count < 0 or edges.dtype != torch.float32 or weights.dtype != torch.float32:
        raise ShapeError(
            "importance_samples: edges and weights must be float32 with at least one interval and count 0 or more, "
            f"found {edges.dtype}, {weights.dtype}, {weights.shape[1]} intervals, count {count}"
        )
    edges, weights = edges.detach(), weights.detach()
    unit = torch.tensor([[0.0, 1.0]], device=edges.device).expand(len(edges), 2)
    uniforms = stratified_samples(unit, count, generator)
    return _importance(edges, smooth_weights(weights) if smooth else weights, uniforms)


def _importance_kernel(edges: Tensor, weights: Tensor, uniforms: Tensor) -> Tensor:
    run = importance_reference if _native.use_reference(edges) else _native_calls_volume.importance
    return run(edges.contiguous(), weights.contiguous(), uniforms.contiguous())


def _importance_fake(edges: Tensor, weights: Tensor, uniforms: Tensor) -> Tensor:
    return torch.empty_like(uniforms)


_importance = register_op(
    "importance", "(Tensor edges, Tensor weights, Tensor uniforms) -> Tensor", _importance_kernel, _importance_fake
)
