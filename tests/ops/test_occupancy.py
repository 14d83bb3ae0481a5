"""Occupancy grids, and rays that visit only what is occupied."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from headrecon.errors import ShapeError
from headrecon.ops import _native, occupancy
from headrecon.ops.composite import composite_rays
from headrecon.ops.occupancy import (
    OccupancyGrid,
    cell_points,
    dilate_occupancy,
    march_rays,
    ray_box,
    update_occupancy,
)
from tests.ops.meshes import as_users_call_it
from tests.ops.volumes import Dice

LOWER, UPPER = (-1.0, -1.0, -1.0), (1.0, 1.2, 1.0)


def ball(points: Tensor) -> Tensor:
    return 5.0 * (points.norm(dim=-1) < 0.6).float()


def random_rays(dice: Dice, count: int) -> tuple[Tensor, Tensor]:
    origins = 2 * dice.normal(count, 3)
    directions = 0.5 * dice.normal(count, 3) - origins
    return origins, directions / directions.norm(dim=1, keepdim=True)


def test_points_lie_in_their_cells() -> None:
    grid = OccupancyGrid.full((2, 3, 4), (0.0, 0.0, 0.0), (2.0, 3.0, 4.0))
    middles = cell_points(grid)
    assert middles[0].tolist() == [0.5, 0.5, 0.5]
    assert middles[1].tolist() == [1.5, 0.5, 0.5]  # x runs fastest
    assert middles[-1].tolist() == [1.5, 2.5, 3.5]
    drawn = cell_points(grid, torch.Generator().manual_seed(0))
    assert torch.equal(drawn.floor(), middles.floor())


def test_what_was_seen_decays() -> None:
    grid = OccupancyGrid.full(4, LOWER, UPPER)
    assert bool(grid.occupied.all())
    seen = update_occupancy(grid, ball, threshold=1.0)
    assert 0 < int(seen.occupied.sum()) < 64
    gone = seen
    for _ in range(20):
        gone = update_occupancy(gone, lambda p: torch.full(p.shape[:1], float("nan")), threshold=1.0, decay=0.9)
    assert int(gone.occupied.sum()) == 0
    assert bool((seen.densities[seen.occupied] == 5.0).all())  # the grid that went in is as it was
    assert int(dilate_occupancy(seen).occupied.sum()) > int(seen.occupied.sum())


def test_boxes_by_hand() -> None:
    origins = torch.tensor([[-3.0, 0.0, 0.0], [0.0, 0.0, 0.0], [-3.0, 5.0, 0.0], [0.5, 0.0, 0.0], [3.0, 0.0, 0.0]])
    directions = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 2.0], [1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    near_far = ray_box(origins, directions, (-1.0,) * 3, (1.0,) * 3)
    assert near_far.tolist() == [[2.0, 4.0], [0.0, 0.5], [0.0, 0.0], [0.0, 0.5], [0.0, 0.0]]
    assert ray_box(origins * float("nan"), directions, (-1.0,) * 3, (1.0,) * 3).abs().max() == 0


@pytest.mark.parametrize("step", [0.01, 0.11])
def test_every_step_in_an_occupied_cell_and_no_other(step: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Skipping empty cells leaves the samples as they are when every step is tried."""
    dice = Dice(0)
    grid = update_occupancy(OccupancyGrid.full((7, 9, 11), LOWER, UPPER), ball, 1.0)
    origins, directions = random_rays(dice, 200)
    near_far, shifts = ray_box(origins, directions, LOWER, UPPER), dice.uniform(200)
    found = march_rays(grid, origins, directions, near_far, step, shifts)
    monkeypatch.setattr(_native, "use_reference", lambda like: True)
    expected = march_rays(grid, origins, directions, near_far, step, shifts)
    assert found.num_samples > 300 / (step / 0.01)
    for a, b in zip(found.tensors, expected.tensors, strict=True):
        assert (a is None and b is None) or torch.equal(a, b)


def test_rendering_skips_nothing_that_is_there() -> None:
    grid = update_occupancy(OccupancyGrid.full(32, LOWER, UPPER), ball, 1.0)
    origins = torch.tensor([[0.0, 0.0, -3.0], [0.0, 0.9, -3.0]])
    directions = torch.tensor([[0.0, 0.0, 1.0]]).expand(2, 3)
    samples = march_rays(dilate_occupancy(grid), origins, directions, ray_box(origins, directions, LOWER, UPPER), 0.01)
    assert samples.offsets is not None
    assert samples.offsets[2] == samples.offsets[1]  # the second ray passes by
    assert samples.starts is not None
    points = torch.zeros(samples.num_samples, 3)
    points[:, 2] = samples.starts + 0.005 - 3
    seen = composite_rays(ball(points), torch.ones(samples.num_samples, 1), samples)
    assert seen.opacity[0].item() == pytest.approx(1 - torch.exp(torch.tensor(-6.0)).item(), abs=2e-3)  # 1.2 deep
    assert seen.opacity[1].item() == 0.0


@pytest.mark.parametrize("rays", [0, 1, 129])
def test_sizes_and_rays_that_make_no_sense(rays: int) -> None:
    grid = OccupancyGrid.full(1, LOWER, UPPER)
    origins, directions = torch.zeros(rays, 3), torch.zeros(rays, 3)
    near_far = torch.tensor([[0.0, 1.0]]).repeat(rays, 1)
    assert march_rays(grid, origins, directions, near_far, 0.25).num_samples == 4 * rays
    assert march_rays(grid, origins * float("nan"), directions, near_far, 0.25).num_samples == 0
    for pair in ([1.0, 0.0], [float("nan"), 1.0], [1.0, 1.0]):
        assert march_rays(grid, origins, directions, torch.tensor([pair]).repeat(rays, 1), 0.25).num_samples == 0


def test_an_endless_ray_ends() -> None:
    grid = OccupancyGrid.full(2, LOWER, UPPER)
    samples = march_rays(grid, torch.zeros(1, 3), torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.0, 1e9]]), 0.25)
    assert samples.num_samples == 4


def test_bad_input_is_named() -> None:
    grid, run = OccupancyGrid.full(2, LOWER, UPPER), as_users_call_it(occupancy.march_rays)
    with pytest.raises(ShapeError, match="directions must be float32"):
        run(grid, torch.zeros(2, 3), torch.zeros(2, 2), torch.zeros(2, 2), 0.1)
    with pytest.raises(ShapeError, match="step must be above 0"):
        run(grid, torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2, 2), 0.0)
    with pytest.raises(ShapeError, match="lower below upper"):
        OccupancyGrid.full(2, UPPER, LOWER)
