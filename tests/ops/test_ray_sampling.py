"""Drawing distances along rays."""

from __future__ import annotations

import pytest
import torch

from headrecon.errors import ShapeError
from headrecon.ops import ray_sampling
from headrecon.ops.ray_sampling import importance_samples, intervals_around, smooth_weights, stratified_samples
from headrecon.ops.reference.ray_samples import importance_reference
from tests.ops.meshes import as_users_call_it
from tests.ops.volumes import Dice

NAN, INF = float("nan"), float("inf")


def test_one_sample_in_every_part() -> None:
    near_far = torch.tensor([[1.0, 3.0], [2.0, 2.0]])
    middles = stratified_samples(near_far, 4)
    assert middles[0].tolist() == pytest.approx([1.25, 1.75, 2.25, 2.75])
    assert middles[1].tolist() == [2.0] * 4
    drawn = stratified_samples(near_far, 4, torch.Generator().manual_seed(0))
    assert torch.equal(((drawn[0] - 1.0) / 0.5).floor(), torch.arange(4.0))
    again = stratified_samples(near_far, 4, torch.Generator().manual_seed(0))
    assert torch.equal(drawn, again)
    assert not torch.equal(drawn[0], middles[0])
    assert stratified_samples(near_far, 0).shape == (2, 0)


def test_intervals_around_samples() -> None:
    starts, ends = intervals_around(torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[0.5, 5.0]]))
    assert starts.tolist() == [[0.5, 1.5, 3.0]]
    assert ends.tolist() == [[1.5, 3.0, 5.0]]


def test_smoothing_by_hand() -> None:
    """Maxima of neighbours, their mean, plus a hundredth."""
    assert smooth_weights(torch.tensor([[0.0, 1.0, 0.0, 0.0]]))[0].tolist() == pytest.approx([0.51, 1.01, 0.51, 0.01])


def test_drawing_by_hand() -> None:
    edges, weights = torch.tensor([[0.0, 1.0, 2.0, 4.0]]), torch.tensor([[1.0, 0.0, 3.0]])
    # A quarter of the mass in 0..1, none in 1..2, three quarters in 2..4; middles of 4 parts: 1/8, 3/8, 5/8, 7/8.
    drawn = importance_samples(edges, weights, 4)
    assert drawn[0].tolist() == pytest.approx([0.5, 2 + 1 / 3, 3.0, 4 - 1 / 3])


def test_rays_without_weight_are_drawn_from_uniformly() -> None:
    edges = torch.tensor([[0.0, 1.0, 4.0]]).expand(4, 3)
    weights = torch.tensor([[0.0, 0.0], [NAN, -1.0], [INF, 0.0], [NAN, 1.0]])
    drawn = importance_samples(edges, weights, 2)
    assert drawn[:3].tolist() == [pytest.approx([1.0, 3.0])] * 3
    assert drawn[3].tolist() == pytest.approx([1.75, 3.25])
    assert importance_samples(torch.ones(1, 3), torch.zeros(1, 2), 2).tolist() == [[1.0, 1.0]]


def test_samples_follow_the_weights() -> None:
    generator = torch.Generator().manual_seed(0)
    edges, weights = torch.linspace(0, 1, 9)[None], torch.rand(1, 8, generator=generator)
    drawn = importance_samples(edges, weights, 20_000, generator)
    share = torch.histc(drawn, 8, 0, 1) / 20_000
    torch.testing.assert_close(share, weights[0] / weights.sum(), rtol=0, atol=2e-4)  # stratified: nearly exact
    assert bool((drawn.diff() >= 0).all())


def test_against_the_twin() -> None:
    dice = Dice(0)
    edges, weights, uniforms = (3 * dice.uniform(50, 12)).sort(1).values, dice.uniform(50, 11), dice.uniform(50, 33)
    weights[:10], weights[10:20, 3:], weights[20:30, :5], weights[30, 2] = 0.0, 0.0, 0.0, NAN
    uniforms[:, 0], uniforms[:, 1], uniforms[:, 2], uniforms[:, 3], uniforms[:, 4] = 1.0, 0.0, NAN, -3.0, 9.0
    arguments = (edges, weights, uniforms)
    found = torch.ops.headrecon.importance(*arguments)
    # Sums of weights in another order: a few units in the last place of a distance, more where the density is low.
    torch.testing.assert_close(found, importance_reference(*arguments), rtol=1e-5, atol=1e-5)
    torch.library.opcheck(torch.ops.headrecon.importance, arguments)


@pytest.mark.parametrize(("rays", "intervals", "draws"), [(0, 1, 3), (1, 1, 1), (3, 2, 0), (1000, 3, 1)])
def test_sizes(rays: int, intervals: int, draws: int) -> None:
    edges = torch.linspace(1, 2, intervals + 1).expand(rays, intervals + 1)
    drawn = importance_samples(edges, torch.ones(rays, intervals), draws)
    assert drawn.shape == (rays, draws)
    assert bool(((drawn > 1) & (drawn < 2)).all())


def test_bad_input_is_named() -> None:
    draw = as_users_call_it(ray_sampling.importance_samples)
    with pytest.raises(ShapeError, match=r"edges must be \[R,S\+1\]"):
        draw(torch.ones(2, 3), torch.ones(2, 3), 4)
    with pytest.raises(ShapeError, match="at least one interval"):
        draw(torch.ones(2, 1), torch.ones(2, 0), 4)
    with pytest.raises(ShapeError, match=r"near_far must be \[R,2\]"):
        as_users_call_it(ray_sampling.stratified_samples)(torch.ones(2, 3), 4)
