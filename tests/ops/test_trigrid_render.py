"""Fused volume rendering of grids on planes, against its parts and its twin."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from headrecon.errors import ShapeError
from headrecon.ops import _native_calls_volume, composite, trigrid_render
from headrecon.ops._native_calls_volume import DecoderWeights, Field
from headrecon.ops.composite import Behind, composite_rays
from headrecon.ops.ray_samples import Absorption, AbsorptionKind, RaySamples
from headrecon.ops.trigrid_decode import decode_trigrid
from headrecon.ops.trigrid_render import render_trigrid
from tests.ops.compare import Bounds, assert_alike
from tests.ops.meshes import as_users_call_it
from tests.ops.volumes import (
    JUMPS,
    SAMPLINGS,
    Dice,
    assert_same_outcome,
    decoder_of,
    double,
    field_of,
    pack,
    random_decoder,
    random_grid,
    random_rays,
    random_samples,
    render_twin,
)

SOFT = Absorption(AbsorptionKind.SOFTPLUS, shift=-1.0)
RAYS = 21


def compare_with_twin(dice: Dice, samples: RaySamples, absorption: Absorption, spheres: int, shape: tuple) -> None:
    channels, depth, hidden, features, activation = shape
    origins, directions = random_rays(dice, 2, RAYS)
    surface = samples.surface is not None
    inputs = {
        "grid": random_grid(dice, 2, spheres, channels, (depth, 9, 7)), "origins": origins, "directions": directions,
        "background": dice.normal(features), "surface_features": dice.normal(2 * RAYS, features),
        **dict(zip(("w1", "b1", "w2", "b2"), random_decoder(dice, channels, hidden, features), strict=True)),
    }  # fmt: skip

    def shown(seen) -> list[Tensor]:
        return [seen.features, seen.ray_distance[seen.opacity.detach() > 0.02], seen.opacity, seen.weights]

    def behind(bg: Tensor, sf: Tensor) -> Behind:
        return Behind(bg, sf) if surface else Behind(bg)

    def op(raw: Tensor, o: Tensor, d: Tensor, bg: Tensor, sf: Tensor, *w: Tensor) -> list[Tensor]:
        decoder = decoder_of(w, activation)
        return shown(
            render_trigrid(pack(raw, spheres), decoder, (o, d), samples, absorption, behind(bg, sf), weights=True)
        )

    def twin(raw: Tensor, o: Tensor, d: Tensor, bg: Tensor, sf: Tensor, *w: Tensor) -> list[Tensor]:
        seen = render_twin(field_of(raw, spheres), w, activation, (o, d), (double(samples), absorption), behind(bg, sf))
        return shown(seen)

    # float32 sums over some hundred samples, after a softplus near its bend; points that round into other cells.
    usual = Bounds(relative_l1=1e-3, relative_l2=1e-3, cosine=0.9999, rtol=2e-3, atol=2e-3, budget=0.01)
    rough = Bounds(relative_l1=1e-2, relative_l2=1e-2, cosine=0.999, rtol=2e-3, atol=2e-3, budget=0.05)
    moved = rough if spheres else JUMPS
    assert_same_outcome(op, twin, inputs, {"": usual, "origins": moved, "directions": moved})


@pytest.mark.parametrize("how", SAMPLINGS)
@pytest.mark.parametrize("surface", [False, True])
@pytest.mark.parametrize("stop", [0.0, 0.1])
@pytest.mark.parametrize("spheres", [0, 2])
def test_against_the_twin(how: str, surface: bool, stop: float, spheres: int) -> None:
    dice = Dice(SAMPLINGS.index(how) + 10 * spheres)
    samples = random_samples(dice, how, 2 * RAYS, 45, surface)  # more than one list of samples per group of rays
    absorption = Absorption(AbsorptionKind.SOFTPLUS, shift=-1.0, stop=stop)
    compare_with_twin(dice, samples, absorption, spheres, (32, 1, 64, 32, 1))


@pytest.mark.parametrize("shape", [(5, 3, 20, 3, 2), (16, 1, 128, 1, 0), (40, 2, 8, 40, 1)])
@pytest.mark.parametrize("how", SAMPLINGS)
def test_other_decoders_and_plain_densities(shape: tuple, how: str) -> None:
    dice = Dice(shape[0])
    compare_with_twin(dice, random_samples(dice, how, 2 * RAYS, 13), Absorption(), 0, shape)


@pytest.mark.parametrize("stop", [0.0, 0.2])
@pytest.mark.parametrize("how", ["uniform", "at"])
def test_long_rays(how: str, stop: float) -> None:
    """More samples on one ray than are decoded together."""
    dice = Dice(8)
    samples = random_samples(dice, how, 2 * RAYS, 1600)
    compare_with_twin(dice, samples, Absorption(AbsorptionKind.SOFTPLUS, -1.0, stop), 0, (5, 1, 16, 3, 1))


def test_it_is_its_parts_in_one() -> None:
    dice = Dice(6)
    samples = random_samples(dice, "dense", 2 * RAYS, 20)
    grid, decoder = pack(random_grid(dice, 2, 0, 8, (1, 9, 9)), 0), decoder_of(random_decoder(dice, 8, 16, 4), 1)
    origins, directions = random_rays(dice, 2, RAYS)
    assert samples.starts is not None
    assert samples.ends is not None
    middle = 0.5 * (samples.starts + samples.ends).reshape(2, RAYS, 20, 1)
    points = (origins[:, :, None] + middle * directions[:, :, None]).reshape(2, -1, 3)
    density, features = decode_trigrid(grid, decoder, points)
    parts = composite_rays(density.reshape(2 * RAYS, 20), features.reshape(2 * RAYS, 20, 4), samples, SOFT)
    whole = render_trigrid(grid, decoder, (origins, directions), samples, SOFT, weights=True)
    for name in ("features", "ray_distance", "opacity", "weights"):
        assert_alike(getattr(whole, name), getattr(parts, name), name)


def test_the_same_picture_with_and_without_memory_per_sample() -> None:
    dice = Dice(7)
    near_far = torch.tensor([[0.2, 2.2]]).expand(2 * RAYS, 2).contiguous()
    grid, decoder = pack(random_grid(dice, 2, 0, 8, (1, 9, 9)), 0), decoder_of(random_decoder(dice, 8, 16, 4), 1)
    edges = torch.linspace(0.2, 2.2, 21).expand(2 * RAYS, 21)
    rays = random_rays(dice, 2, RAYS)
    dense = render_trigrid(grid, decoder, rays, RaySamples.dense(edges[:, :-1], edges[:, 1:]))
    uniform = render_trigrid(grid, decoder, rays, RaySamples.uniform(near_far, 20))
    torch.testing.assert_close(uniform.features, dense.features, rtol=1e-4, atol=1e-5)


@pytest.mark.native
@pytest.mark.parametrize("how", SAMPLINGS)
@pytest.mark.parametrize("stop", [0.0, 0.1])
def test_threads_and_instruction_sets_give_the_same_bits(how: str, stop: float) -> None:
    dice, before = Dice(11), torch.get_num_threads()
    samples = random_samples(dice, how, 600, 40, surface=True)
    field = Field(*pack(random_grid(dice, 2, 0, 20, (1, 30, 40)), 0).field)
    decoder = DecoderWeights(*random_decoder(dice, 20, 24, 5), 1)
    rays = tuple(r.reshape(-1, 3) for r in random_rays(dice, 2, 300))
    absorption = Absorption(AbsorptionKind.SOFTPLUS, -1.0, stop)
    grads = (dice.normal(600, 5), dice.normal(600), dice.normal(600))
    runs = []
    try:
        for threads, isa in ((1, "auto"), (3, "auto"), (2, "base")):
            torch.set_num_threads(threads)
            arguments = (field, decoder, (rays[0], rays[1]), (samples, absorption))
            seen = _native_calls_volume.trigrid_render(*arguments, True, isa)
            back = _native_calls_volume.trigrid_render_backward(*arguments, grads, (True, True, True), isa)
            runs.append([*seen, back[0], *back[1], *back[2:]])
    finally:
        torch.set_num_threads(before)
    for other in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], other, strict=True))


@pytest.mark.parametrize(("batch", "rays", "count"), [(0, 3, 4), (1, 0, 4), (2, 1, 1), (1, 3, 0)])
def test_sizes(batch: int, rays: int, count: int) -> None:
    dice = Dice(0)
    grid, decoder = pack(random_grid(dice, batch, 0, 3, (1, 4, 4)), 0), decoder_of(random_decoder(dice, 3, 4, 2), 0)
    edges = torch.linspace(0.5, 2.0, count + 1).expand(batch * rays, count + 1)
    origins, directions = random_rays(dice, batch, rays)
    origins.requires_grad_()
    seen = render_trigrid(grid, decoder, (origins, directions), RaySamples.dense(edges[:, :-1], edges[:, 1:]))
    assert seen.features.shape == (batch * rays, 2)
    assert bool((seen.opacity > 0).all()) == (count > 0 or batch * rays == 0)
    seen.features.sum().backward()
    assert origins.grad is not None
    assert origins.grad.shape == origins.shape


def test_rays_that_miss_or_make_no_sense() -> None:
    dice = Dice(0)
    grid, decoder = pack(torch.ones(1, 1, 3, 3, 1, 4, 4), 0), decoder_of([torch.ones(4, 3), *[torch.zeros(4)]] + [
        torch.ones(3, 4), torch.tensor([-50.0, 0.0, 0.0])], 0)  # fmt: skip
    # Outside the box the decoder answers to a feature of 0: with this bias, nothing is there.
    origins = torch.tensor([[[5.0, 5.0, 5.0], [0.0, 0.0, -2.0], [float("nan"), 0.0, 0.0], [0.0, 0.0, -2.0]]])
    directions = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, float("inf")]]])
    origins, directions = origins.requires_grad_(), directions.requires_grad_()
    near_far = torch.tensor([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    seen = render_trigrid(grid, decoder, (origins, directions), RaySamples.uniform(near_far, 8))
    assert seen.opacity.abs().max() < 1e-6
    assert torch.isfinite(seen.features).all()
    seen.features.sum().backward()
    assert origins.grad is not None
    assert torch.isfinite(origins.grad).all()
    backwards = RaySamples.uniform(torch.tensor([[2.0, 1.0], [float("nan"), 1.0], [0.0, float("inf")], [1.0, 1.0]]), 4)
    rays = (origins.detach(), dice.normal(1, 4, 3))
    assert render_trigrid(grid, decoder, rays, backwards).opacity[[0, 1, 3]].abs().max() == 0


def test_operator_is_registered_properly() -> None:
    dice = Dice(1)
    for how in SAMPLINGS:
        grid = pack(random_grid(dice, 1, 0, 2, (1, 4, 4)), 0)
        cells, rotations, axes, scale = grid.field
        weights = [w.requires_grad_() for w in random_decoder(dice, 2, 3, 2)]
        rays = [r.reshape(-1, 3).requires_grad_() for r in random_rays(dice, 1, 3)]
        samples = random_samples(dice, how, 3, 4)
        numbers = composite.numbers_of(samples, SOFT)
        torch.library.opcheck(
            torch.ops.headrecon.trigrid_render,
            (cells.requires_grad_(), rotations, *weights, *rays, *samples.tensors, *numbers, axes, scale, 1, True),
        )


def test_bad_input_is_named() -> None:
    dice, run = Dice(0), as_users_call_it(trigrid_render.render_trigrid)
    grid, decoder = pack(random_grid(dice, 1, 0, 3, (1, 4, 4)), 0), decoder_of(random_decoder(dice, 3, 4, 2), 0)
    rays, samples = random_rays(dice, 1, 5), random_samples(dice, "dense", 5, 4)
    with pytest.raises(ShapeError, match=r"origins and directions must be \[1,R,3\]"):
        run(grid, decoder, (rays[0][0], rays[1][0]), samples)
    with pytest.raises(ShapeError, match="samples must be of 5 rays, found 4"):
        run(grid, decoder, rays, samples.rays(0, 4))
    with pytest.raises(ShapeError, match="must be DENSITY or SOFTPLUS"):
        run(grid, decoder, rays, samples, Absorption(AbsorptionKind.ALPHA))
    with pytest.raises(ShapeError, match="background must be one of"):
        run(grid, decoder, rays, samples, SOFT, Behind(torch.zeros(7)))
