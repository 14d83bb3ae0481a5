"""Compositing along rays: against formulas worked by hand, the twin, and at the ends of what is possible."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from headrecon.errors import ShapeError
from headrecon.ops import _native_calls_volume, composite
from headrecon.ops._native_calls_volume import Sums
from headrecon.ops.composite import Behind, Composited, composite_rays, finish
from headrecon.ops.ray_samples import Absorption, AbsorptionKind, RaySamples, offsets_of
from headrecon.ops.reference.ray_samples import composite_reference
from tests.ops.compare import Bounds
from tests.ops.meshes import as_users_call_it
from tests.ops.volumes import SAMPLINGS, Dice, assert_same_outcome, double, random_samples

ALPHA, SOFTPLUS = Absorption(AbsorptionKind.ALPHA), Absorption(AbsorptionKind.SOFTPLUS, shift=-0.5)
NAN, INF = float("nan"), float("inf")


def borders(*values: float) -> RaySamples:
    """One ray with intervals between these distances."""
    edges = torch.tensor(values)
    return RaySamples.dense(edges[None, :-1].contiguous(), edges[None, 1:].contiguous())


def test_densities_by_hand() -> None:
    """As nerfacc's render_weight_from_density: w_i = exp(-sum of what is before) (1 - exp(-sigma_i length_i))."""
    density, colour = torch.tensor([[0.5, 0.0, 4.0]]), torch.tensor([[[1.0], [5.0], [2.0]]])
    seen = composite_rays(density, colour, borders(1.0, 2.0, 4.0, 4.5), behind=Behind(torch.tensor([10.0])))
    first, last = 1 - math.exp(-0.5), math.exp(-0.5) * (1 - math.exp(-2.0))
    through = math.exp(-2.5)
    assert seen.weights.tolist() == pytest.approx([first, 0.0, last])
    assert seen.opacity.item() == pytest.approx(1 - through)
    assert seen.features.item() == pytest.approx(first * 1 + last * 2 + through * 10)
    assert seen.ray_distance.item() == pytest.approx((first * 1.5 + last * 4.25) / (1 - through))


def test_opacities_of_packed_rays_by_hand() -> None:
    """As nerfacc's render_weight_from_alpha with packed_info: two, none, and one sample."""
    starts = torch.tensor([0.0, 1.0, 3.0])
    samples = RaySamples.packed(starts, starts + 1.0, offsets_of(torch.tensor([0, 0, 2]), 3))
    seen = composite_rays(torch.tensor([0.25, 0.5, 1.0]), torch.tensor([[4.0], [8.0], [3.0]]), samples, ALPHA)
    assert seen.weights.tolist() == pytest.approx([0.25, 0.375, 1.0])
    assert seen.features[:, 0].tolist() == pytest.approx([4.0, 0.0, 3.0])
    assert seen.opacity.tolist() == pytest.approx([0.625, 0.0, 1.0])
    assert seen.ray_distance.tolist() == pytest.approx([(0.125 + 0.375 * 1.5) / 0.625, 0.0, 3.5])


def test_means_of_neighbours_by_hand() -> None:
    """EG3D's quadrature: two samples make one interval with the mean of their raw densities, colours and distances."""
    samples = RaySamples.at(torch.tensor([[1.0, 1.5]]))
    seen = composite_rays(torch.tensor([[0.4, 0.8]]), torch.tensor([[[2.0], [6.0]]]), samples, SOFTPLUS)
    weight = 1 - math.exp(-0.5 * math.log1p(math.exp(0.6 - 0.5)))
    assert seen.weights.tolist() == pytest.approx([weight, 0.0])
    assert seen.features.item() == pytest.approx(weight * 4.0)
    assert seen.ray_distance.item() == pytest.approx(1.25)


def test_a_surface_takes_the_light_that_reaches_it() -> None:
    samples = borders(0.0, 1.0, 2.0, 3.0)
    hit, missed = samples.with_surface(torch.tensor([1.5])), samples.with_surface(torch.tensor([INF]))
    density, colour = torch.ones(1, 3), torch.zeros(1, 3, 1)
    behind = Behind(torch.tensor([7.0]), torch.tensor([[5.0]]))
    seen = composite_rays(density, colour, hit, behind=behind)
    assert seen.features.item() == pytest.approx(5 * math.exp(-1.5))
    assert seen.opacity.item() == 1.0
    first, second = 1 - math.exp(-1.0), math.exp(-1.0) * (1 - math.exp(-0.5))
    assert seen.ray_distance.item() == pytest.approx(first * 0.5 + second * 1.25 + math.exp(-1.5) * 1.5)
    assert seen.weights.tolist() == pytest.approx([first, second, 0.0])
    unhindered = composite_rays(density, colour, missed, behind=behind)
    assert unhindered.features.item() == pytest.approx(7 * math.exp(-3.0))
    at_once = composite_rays(density, colour, samples.with_surface(torch.tensor([-1.0])), behind=behind)
    assert at_once.features.item() == 5.0


def test_early_termination_by_hand() -> None:
    samples, half = borders(0.0, 1.0, 2.0, 3.0), torch.full((1, 3), 0.5)
    seen = composite_rays(
        half, torch.ones(1, 3, 1), samples, Absorption(AbsorptionKind.ALPHA, stop=0.3), Behind(torch.tensor([8.0]))
    )
    assert seen.weights.tolist() == [0.5, 0.25, 0.0]  # a quarter of the light is left: the third sample is not asked
    assert seen.features.item() == 0.75 + 0.25 * 8


def twin(
    values: Tensor, features: Tensor, samples: tuple[RaySamples, Absorption], behind: Behind = Behind()
) -> Composited:
    return finish(Sums(*composite_reference(values, features, *samples)), samples[0], behind)


@pytest.mark.parametrize("kind", list(AbsorptionKind))
@pytest.mark.parametrize("how", SAMPLINGS)
@pytest.mark.parametrize("surface", [False, True])
@pytest.mark.parametrize("stop", [0.0, 0.05])
def test_against_the_twin(kind: AbsorptionKind, how: str, surface: bool, stop: float) -> None:
    if kind == AbsorptionKind.ALPHA and how == "at":
        return  # refused, see below
    dice = Dice(int(kind) * 10 + int(surface))
    samples = random_samples(dice, how, 37, 9, surface)
    count = samples.num_samples
    values = dice.uniform(count) if kind == AbsorptionKind.ALPHA else 3 * dice.uniform(count) - 0.5
    absorption = Absorption(kind, shift=-0.3 if kind == AbsorptionKind.SOFTPLUS else 0.0, stop=stop)
    inputs = {"values": values, "features": dice.normal(count, 5)}
    inputs |= {"background": dice.normal(5), "surface_features": dice.normal(37, 5)}
    explicit = [n for n in ("starts", "ends") if getattr(samples, n) is not None]
    inputs |= {n: getattr(samples, n) for n in explicit}

    def seen(run, given: RaySamples, v: Tensor, f: Tensor, bg: Tensor, sf: Tensor, *distances: Tensor):
        moved = replace(given, **dict(zip(explicit, distances, strict=True)))
        found = run(v, f, moved, Behind(bg, sf) if surface else Behind(bg))
        # The mean distance of rays that see next to nothing is a quotient of small numbers.
        solid = found.opacity.detach() > 0.02
        return [found.features, found.ray_distance[solid], found.opacity, found.weights]

    assert_same_outcome(
        lambda *x: seen(lambda v, f, s, b: composite_rays(v, f, s, absorption, b), samples, *x),
        lambda *x: seen(lambda v, f, s, b: twin(v, f, (s, absorption), b), double(samples), *x),
        inputs,
        # A ray whose light falls to nearly `stop` may end one sample earlier in float64.
        {"": Bounds(relative_l1=2e-4, relative_l2=2e-4, budget=0.0 if stop == 0 else 0.01)},
    )


@pytest.mark.native
@pytest.mark.parametrize("kind", list(AbsorptionKind))
@pytest.mark.parametrize("how", SAMPLINGS)
@pytest.mark.parametrize("channels", [0, 3, 16, 37, 131])
def test_instruction_sets_and_threads_change_no_bit(
    monkeypatch: pytest.MonkeyPatch, channels: int, how: str, kind: AbsorptionKind
) -> None:
    """Rays of more samples than are worked out at a time, more rays than a thread takes, some that end early."""
    if kind == AbsorptionKind.ALPHA and how == "at":
        return  # refused
    dice = Dice(channels)
    for surface, stop in ((False, 0.0), (True, 0.01), (False, 0.3)):
        samples = random_samples(dice, how, 70, 140 if channels < 16 else 9, surface)
        count = samples.num_samples
        values = dice.uniform(count) * (0.1 if kind == AbsorptionKind.ALPHA else 3.0)
        given = values, dice.normal(count, channels), (samples, Absorption(kind, shift=-0.4, stop=stop))
        results = []
        for isa, threads in (("auto", 1), ("auto", 3), ("base", 2)):
            monkeypatch.setattr(_native_calls_volume, "num_threads", lambda threads=threads: threads)
            seen = _native_calls_volume.composite(*given, isa)
            grads = [torch.ones_like(t) for t in seen]
            gradients = _native_calls_volume.composite_backward(*given, grads, (channels > 0, True), isa)
            results.append([*seen, *(g for g in gradients if g is not None)])
        for other in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(other, results[0], strict=True))
        expected = composite_reference(given[0].double(), given[1].double(), double(samples), given[2][1])
        if stop == 0:
            for found, exact in zip(results[0][:4], expected, strict=True):
                torch.testing.assert_close(found.double(), exact, rtol=2e-4, atol=2e-5)


def test_gradients_of_the_twin_by_finite_differences() -> None:
    dice = Dice(2)
    for how in SAMPLINGS:
        samples = double(random_samples(dice, how, 4, 4))
        values = (0.2 + dice.uniform(samples.num_samples)).double().requires_grad_()
        features = dice.normal(samples.num_samples, 2).double().requires_grad_()
        for absorption in (Absorption(), SOFTPLUS):

            def sums(v: Tensor, f: Tensor, s: RaySamples = samples, a: Absorption = absorption) -> tuple[Tensor, ...]:
                return composite_reference(v, f, s, a)

            assert torch.autograd.gradcheck(sums, (values, features))


@pytest.mark.parametrize(("rays", "count", "channels"), [(0, 3, 2), (1, 0, 3), (3, 1, 0), (2, 1, 1), (5, 17, 33)])
@pytest.mark.parametrize("how", ["dense", "at"])
def test_sizes(rays: int, count: int, channels: int, how: str) -> None:
    edges = torch.linspace(1.0, 2.0, count + 1).expand(rays, count + 1)
    samples = RaySamples.dense(edges[:, :-1], edges[:, 1:]) if how == "dense" else RaySamples.at(edges[:, :-1])
    values, features = (
        torch.ones(rays, count, requires_grad=True),
        torch.ones(rays, count, channels, requires_grad=True),
    )
    seen = composite_rays(values, features, samples)
    assert seen.features.shape == (rays, channels)
    used = max(count - 1, 0) / count if how == "at" and count else 1.0
    expected = 1 - math.exp(-used) if count else 0.0
    assert seen.opacity.tolist() == pytest.approx([expected] * rays)
    (seen.features.sum() + seen.opacity.sum()).backward()
    assert values.grad is not None
    assert torch.isfinite(values.grad).all()


def test_every_input_has_a_result() -> None:
    """NaN and infinite densities, lengths and features; intervals that run backwards."""
    starts = torch.tensor([[0.0, 1.0, NAN, 2.0, INF, 4.0, 5.0, 6.0]])
    ends = torch.tensor([[1.0, 2.0, 1.0, 1.0, INF, NAN, 6.0, 7.0]])
    density = torch.tensor([[NAN, -5.0, 1.0, 3.0, 1.0, 1.0, INF, 1.0]], requires_grad=True)
    feature = torch.tensor([[NAN, INF, NAN, NAN, NAN, NAN, 3.0, NAN]])[..., None].requires_grad_()
    seen = composite_rays(density, feature, RaySamples.dense(starts, ends), behind=Behind(torch.tensor([9.0])))
    assert seen.weights.tolist() == [0, 0, 0, 0, 0, 0, 1, 0]  # only the infinite density over a real length
    assert (seen.features.item(), seen.opacity.item(), seen.ray_distance.item()) == (3.0, 1.0, 5.5)
    (seen.features.sum() + seen.ray_distance.sum()).backward()
    assert density.grad is not None
    assert feature.grad is not None
    assert torch.isfinite(density.grad).all()
    assert torch.isfinite(feature.grad).all()


def test_opaque_samples_have_exact_gradients() -> None:
    """Where alpha is 1, formulas that divide by what gets through fail; (feature - what is behind) does not."""
    alpha = torch.tensor([[0.5, 1.0, 0.5]], requires_grad=True)
    seen = composite_rays(alpha, torch.tensor([[[1.0], [3.0], [7.0]]]), borders(0.0, 1.0, 2.0, 3.0), ALPHA)
    seen.features.sum().backward()
    assert alpha.grad is not None
    assert alpha.grad[0].tolist() == pytest.approx([1.0 - 3.0, 0.5 * (3.0 - 3.5), 0.0])


def test_operator_is_registered_properly() -> None:
    dice = Dice(4)
    for how in SAMPLINGS:
        samples = random_samples(dice, how, 4, 3)
        values = dice.uniform(samples.num_samples).requires_grad_()
        features = dice.normal(samples.num_samples, 2).requires_grad_()
        arguments = (values, features, *samples.tensors, *composite.numbers_of(samples, Absorption()))
        torch.library.opcheck(torch.ops.headrecon.composite, arguments)


def test_bad_input_is_named() -> None:
    samples, run = borders(0.0, 1.0, 2.0), as_users_call_it(composite.composite_rays)
    with pytest.raises(ShapeError, match="values must hold 2 samples"):
        run(torch.ones(1, 3), torch.ones(1, 3, 1), samples)
    with pytest.raises(ShapeError, match="must be float32"):
        run(torch.ones(1, 2).double(), torch.ones(1, 2, 1).double(), samples)
    with pytest.raises(ShapeError, match="opacities belong to intervals"):
        run(torch.ones(1, 2), torch.ones(1, 2, 1), RaySamples.at(torch.tensor([[0.0, 1.0]])), ALPHA)
    with pytest.raises(ShapeError, match=r"absorption\.stop must lie"):
        run(torch.ones(1, 2), torch.ones(1, 2, 1), samples, Absorption(stop=1.0))
    with pytest.raises(ShapeError, match="background must be one of"):
        run(torch.ones(1, 2), torch.ones(1, 2, 1), samples, behind=Behind(torch.ones(3)))
    with pytest.raises(ShapeError, match="offsets must rise from 0"):
        RaySamples.packed(torch.ones(3), torch.ones(3), torch.tensor([0, 2]))
    with pytest.raises(ShapeError, match="falling"):
        RaySamples.packed(torch.ones(3), torch.ones(3), torch.tensor([0, 4, 2, 3]))
    with pytest.raises(ShapeError, match="must not fall and lie in"):
        offsets_of(torch.tensor([0, 2, 1]), 3)
