"""Grids, decoders, rays and samples with random contents, shared by the tests of volume rendering."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from headrecon.ops._native_calls_volume import Sums
from headrecon.ops.composite import Behind, Composited, finish
from headrecon.ops.ray_samples import Absorption, RaySamples
from headrecon.ops.reference.trigrid import decode_reference, sample_reference
from headrecon.ops.reference.trigrid_render import render_reference
from headrecon.ops.trigrid import (
    PANOHEAD_AXES,
    TriGrid,
    dual_sphere_rotations,
    pack_spherical_trigrid,
    pack_trigrid,
)
from headrecon.ops.trigrid_decode import FeatureActivation, TriGridDecoder
from tests.ops.compare import Bounds, assert_alike

BOX = 1.3
AXES = [a for plane in PANOHEAD_AXES for a in plane]
SAMPLINGS = ("dense", "packed", "at", "uniform")
#: Gradients that pass through a lookup's cell: float32 and float64 may round a point into neighbouring cells.
JUMPS = Bounds(relative_l1=1e-3, relative_l2=1e-3, cosine=0.9999, budget=0.02)


class Dice:
    """Random tensors from one seed."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self.generator)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator)

    def counts(self, rays: int, most: int) -> Tensor:
        return torch.randint(0, most, (rays,), generator=self.generator)


def pack(raw: Tensor, spheres: int) -> TriGrid:
    """[B,K,3,C,D,H,W] as a box (spheres 0) or spheres."""
    return pack_spherical_trigrid(raw, BOX) if spheres else pack_trigrid(raw[:, 0], BOX)


def field_of(raw: Tensor, spheres: int) -> tuple[Tensor, Tensor | None, list[int], float]:
    """The same for the references."""
    rotations = dual_sphere_rotations()[:spheres].to(raw.dtype) if spheres else None
    return raw.permute(0, 1, 2, 4, 5, 6, 3), rotations, AXES, 2.0 / BOX


def random_grid(dice: Dice, batch: int, spheres: int, channels: int, size: tuple[int, int, int]) -> Tensor:
    return dice.normal(batch, max(spheres, 1), 3, channels, *size)


def random_decoder(dice: Dice, channels: int, hidden: int, features: int) -> list[Tensor]:
    """w1, b1, w2, b2."""
    return [
        0.3 * dice.normal(hidden, channels),
        dice.normal(hidden),
        0.3 * dice.normal(1 + features, hidden),
        dice.normal(1 + features),
    ]


def decoder_of(weights: Sequence[Tensor], activation: int) -> TriGridDecoder:
    return TriGridDecoder(*weights, activation=FeatureActivation(activation))


def random_rays(dice: Dice, batch: int, rays: int) -> tuple[Tensor, Tensor]:
    """Origins 1.2 from the middle, directions roughly through it."""
    origins = dice.normal(batch, rays, 3)
    origins = 1.2 * origins / origins.norm(dim=-1, keepdim=True)
    return origins, 0.1 * dice.normal(batch, rays, 3) - origins


def random_samples(dice: Dice, how: str, rays: int, count: int, surface: bool = False) -> RaySamples:
    """Samples between 0 and 2.5; packed rays have from none to twice as many."""
    if how == "packed":
        counts = dice.counts(rays, 2 * count + 1)
        starts = torch.cat([1.5 * dice.uniform(int(n)).sort().values for n in counts])
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        samples = RaySamples.packed(starts, starts + 0.1 * dice.uniform(len(starts)), offsets)
    elif how == "dense":
        borders = (1.5 * dice.uniform(rays, count + 1)).sort(1).values
        samples = RaySamples.dense(borders[:, :-1].contiguous(), borders[:, 1:].contiguous())
    elif how == "at":
        samples = RaySamples.at((1.5 * dice.uniform(rays, count)).sort(1).values)
    else:
        near_far = torch.stack([0.3 * dice.uniform(rays), 1 + dice.uniform(rays)], 1)
        samples = RaySamples.uniform(near_far, count, dice.uniform(rays) - 0.5)
    if not surface:
        return samples
    distance = 1.5 * dice.uniform(rays)
    distance[::3], distance[1::5] = float("inf"), float("nan")
    return samples.with_surface(distance)


def double(samples: RaySamples) -> RaySamples:
    """The same in float64, for references."""
    names = ("starts", "ends", "near_far", "shifts", "surface")
    return replace(samples, **{n: t.double() for n in names if (t := getattr(samples, n)) is not None})


def decode_twin(field: tuple, weights: Sequence[Tensor], activation: int, points: Tensor) -> tuple[Tensor, Tensor]:
    grid, rotations, axes, scale = field
    return decode_reference(sample_reference(grid, rotations, points, axes, scale), weights, activation)


def render_twin(
    field: tuple,
    weights: Sequence[Tensor],
    activation: int,
    rays: tuple[Tensor, Tensor],
    samples: tuple[RaySamples, Absorption],
    behind: Behind,
) -> Composited:
    flat = (rays[0].reshape(-1, 3), rays[1].reshape(-1, 3))
    found = Sums(*render_reference(field, (*weights, activation), flat, samples))
    return finish(found._replace(weights=found.weights.detach()), samples[0], behind)


def outcome(
    function: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor], dtype: torch.dtype, seed: int = 0
) -> tuple[Sequence[Tensor], list[Tensor | None]]:
    """Outputs, and gradients of the inputs for random gradients of the outputs."""
    given = [x.detach().to(dtype).requires_grad_() for x in inputs]
    outputs = function(*given)
    dice = Dice(seed)
    sum((y * dice.normal(*y.shape).to(dtype)).sum() for y in outputs).backward()
    return outputs, [x.grad for x in given]


def assert_same_outcome(
    op: Callable[..., Sequence[Tensor]],
    twin: Callable[..., Sequence[Tensor]],
    inputs: dict[str, Tensor],
    bounds: dict[str, Bounds],
) -> None:
    """Values and gradients of an op in float32 against its twin in float64. bounds: by input; "": others."""
    found, found_grads = outcome(op, list(inputs.values()), torch.float32)
    wanted, wanted_grads = outcome(twin, list(inputs.values()), torch.float64)
    usual = bounds.get("", Bounds())
    for k, (a, b) in enumerate(zip(found, wanted, strict=True)):
        assert_alike(a, b, f"output {k}", bounds.get("values", usual))
    for name, a, b in zip(inputs, found_grads, wanted_grads, strict=True):
        assert_alike(a, b, f"gradient of {name}", bounds.get(name, usual))
