"""Lookup in grids on planes and the decoder behind it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from headrecon.errors import ShapeError
from headrecon.ops import _native_calls_volume, trigrid, trigrid_decode
from headrecon.ops._native_calls_volume import DecoderWeights, Field
from headrecon.ops.reference.trigrid import sample_reference
from headrecon.ops.trigrid import (
    EG3D_AXES,
    EG3D_FIXED_AXES,
    PANOHEAD_AXES,
    PlaneAxes,
    pack_spherical_trigrid,
    pack_trigrid,
    sample_spherical_trigrid,
    sample_trigrid,
)
from headrecon.ops.trigrid_decode import decode_trigrid
from tests.ops.compare import Bounds
from tests.ops.meshes import as_users_call_it
from tests.ops.volumes import (
    AXES,
    BOX,
    JUMPS,
    Dice,
    assert_same_outcome,
    decode_twin,
    decoder_of,
    field_of,
    pack,
    random_decoder,
    random_grid,
)

SIZES = [(1, 9, 7), (3, 8, 6)]


def test_by_hand() -> None:
    """A tri-plane of 2 x 2 cells over a box of side 2: cells lie at -0.5 and 0.5."""
    raw = torch.zeros(1, 3, 1, 2, 2)
    raw[0, 0, 0] = torch.tensor([[1.0, 2.0], [3.0, 4.0]])  # xy: x across, y down
    raw[0, 1, 0, 1, 0] = 30.0  # xz: z 0.5, x -0.5
    raw[0, 2, 0, 0, 1] = 60.0  # yz: z -0.5, y 0.5
    grid = pack_trigrid(raw, 2.0)
    points = torch.tensor(
        [[[0.5, -0.5, -9.0], [0.0, 0.0, -9.0], [-0.5, -0.5, 0.5], [-9.0, 0.5, -0.5], [-1.0, -0.5, -9.0]]]
    )
    # Half a cell beyond the last one, at the border of the box, a lookup is half a cell and half of the 0 outside.
    expected = [2.0 / 3, 2.5 / 3, (1 + 30) / 3, 20.0, 0.5 / 3]
    assert sample_trigrid(grid, points)[0, :, 0].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("axes", [PANOHEAD_AXES, EG3D_AXES, EG3D_FIXED_AXES])
@pytest.mark.parametrize("size", SIZES)
def test_against_grid_sample(axes: PlaneAxes, size: tuple[int, int, int]) -> None:
    """As EG3D and PanoHead compute it: torch's grid_sample in each plane, then the mean."""
    dice = Dice(0)
    raw, points = dice.normal(2, 3, 20, *size), BOX * 1.2 * (dice.uniform(2, 70, 3) - 0.5)
    expected = torch.zeros(())
    for plane, (u, v, w) in enumerate(axes):
        at = points[..., [u, v, w]] * (2 / BOX)
        if size[0] == 1:
            found = torch.nn.functional.grid_sample(raw[:, plane, :, 0], at[:, None, :, :2], align_corners=False)
        else:
            found = torch.nn.functional.grid_sample(raw[:, plane], at[:, None, None], align_corners=False)[:, :, 0]
        expected = expected + found[:, :, 0].mT / 3
    torch.testing.assert_close(sample_trigrid(pack_trigrid(raw, BOX, axes), points), expected, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("channels", [1, 5, 16, 20, 32, 40, 96])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("spheres", [0, 1, 2])
def test_lookup_against_the_twin(channels: int, size: tuple[int, int, int], spheres: int) -> None:
    dice = Dice(channels + 100 * spheres)
    inputs = {
        "grid": random_grid(dice, 2, spheres, channels, size),
        "points": 1.2 * BOX * (dice.uniform(2, 83, 3) - 0.5),
    }
    assert_same_outcome(
        lambda raw, points: [sample_trigrid(pack(raw, spheres), points)],
        lambda raw, points: [sample_reference(*field_of(raw, spheres)[:2], points, AXES, 2 / BOX)],
        inputs,
        {"points": JUMPS},
    )


@pytest.mark.parametrize(
    ("channels", "size", "points"),
    [(64, (1, 20, 300), 900), (40, (2, 9, 500), 300), (1, (1, 5, 6), 70_000)],
    ids=["seven bins of rows", "a bin for each row", "more points than are sorted at once"],
)
def test_large_grids_and_many_points(channels: int, size: tuple[int, int, int], points: int) -> None:
    """Gradients of cells are summed bin by bin: the bins must meet, and none may be left out."""
    dice = Dice(channels)
    raw, at = dice.normal(1, 1, 3, channels, *size), BOX * (dice.uniform(1, points, 3) - 0.5)
    assert_same_outcome(
        lambda raw: [sample_trigrid(pack(raw, 0), at)],
        lambda raw: [sample_reference(*field_of(raw, 0)[:2], at.double(), AXES, 2 / BOX)],
        {"grid": raw},
        # A point that rounds into another cell gives its gradient to a neighbour.
        {"grid": Bounds(relative_l1=1e-3, relative_l2=1e-3, cosine=0.9999, budget=0.001)},
    )


@pytest.mark.parametrize(
    ("hidden", "features", "activation"), [(64, 32, 1), (20, 3, 2), (8, 40, 0), (128, 127, 1), (1, 1, 0)]
)
@pytest.mark.parametrize("channels", [5, 32])
@pytest.mark.parametrize("spheres", [0, 2])
def test_decoding_against_the_twin(hidden: int, features: int, activation: int, channels: int, spheres: int) -> None:
    dice = Dice(hidden)
    inputs = {
        "grid": random_grid(dice, 2, spheres, channels, (1 + 2 * (hidden % 3), 7, 9)),
        "points": 1.2 * BOX * (dice.uniform(2, 75, 3) - 0.5),
        **dict(zip(("w1", "b1", "w2", "b2"), random_decoder(dice, channels, hidden, features), strict=True)),
    }
    assert_same_outcome(
        lambda raw, points, *w: decode_trigrid(pack(raw, spheres), decoder_of(w, activation), points),
        lambda raw, points, *w: decode_twin(field_of(raw, spheres), w, activation, points),
        inputs,
        {"points": JUMPS},
    )


def test_gradients_of_the_twin_by_finite_differences() -> None:
    dice = Dice(3)
    for spheres, depth in ((0, 1), (0, 3), (2, 1)):
        raw = random_grid(dice, 1, spheres, 2, (depth, 3, 4)).double().requires_grad_()
        points = (BOX * 0.8 * (dice.uniform(1, 5, 3) - 0.5)).double().requires_grad_()
        weights = [w.double().requires_grad_() for w in random_decoder(dice, 2, 3, 2)]

        def twin(raw: Tensor, points: Tensor, *w: Tensor, spheres: int = spheres) -> tuple[Tensor, ...]:
            return decode_twin(field_of(raw, spheres), w, 1, points)

        assert torch.autograd.gradcheck(twin, (raw, points, *weights))


@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize("batch", [0, 1])
def test_sizes(count: int, batch: int) -> None:
    grid = pack_trigrid(torch.ones(batch, 3, 3, 1, 1, 1), 1.0)
    points = torch.zeros(batch, count, 3, requires_grad=True)
    values = sample_trigrid(grid, points)
    assert values.shape == (batch, count, 3)
    assert torch.allclose(values, torch.ones_like(values))
    values.sum().backward()
    decoder = decoder_of(random_decoder(Dice(0), 3, 4, 2), 0)
    density, features = decode_trigrid(grid, decoder, points)
    assert (density.shape, features.shape) == ((batch, count), (batch, count, 2))
    (density.sum() + features.sum()).backward()
    assert points.grad is not None
    assert points.grad.shape == points.shape


@pytest.mark.parametrize("spheres", [0, 2])
def test_what_lies_outside_or_nowhere_is_nothing(spheres: int) -> None:
    raw = torch.ones(1, max(spheres, 1), 3, 4, 2, 5, 5)
    bad = [float("nan"), float("inf"), -float("inf"), 1e30, -1e30, 3e38]
    points = torch.tensor([[[x, 0.1, 0.2] for x in bad] + [[0.1, x, x] for x in bad]], requires_grad=True)
    cells = raw.clone().requires_grad_()
    values = sample_trigrid(pack(cells, spheres), points)
    assert values.abs().max() == 0
    values.sum().backward()
    assert cells.grad is not None
    assert points.grad is not None
    assert cells.grad.abs().max() == points.grad.abs().max() == 0


def test_poles_seams_and_the_middle_of_spheres() -> None:
    """Nothing is infinite where the angles have no derivative, and two spheres see every direction."""
    raw = torch.ones(1, 2, 3, 2, 1, 8, 8)
    directions = torch.cat([torch.eye(3), -torch.eye(3), torch.zeros(1, 3)])
    points = (0.3 * directions)[None].requires_grad_()
    grid = pack_spherical_trigrid(raw, BOX)
    values = sample_spherical_trigrid(grid, points)
    assert torch.isfinite(values).all()
    values.sum().backward()
    assert points.grad is not None
    assert torch.isfinite(points.grad).all()
    anywhere = Dice(0).normal(1, 500, 3)
    anywhere = 0.3 * anywhere / anywhere.norm(dim=-1, keepdim=True)
    assert sample_spherical_trigrid(grid, anywhere).min() > 0.6  # a lookup beside a border counts half


@pytest.mark.native
@pytest.mark.parametrize("spheres", [0, 2])
def test_threads_and_instruction_sets_give_the_same_bits(spheres: int) -> None:
    dice, before = Dice(9), torch.get_num_threads()
    raw, points = random_grid(dice, 2, spheres, 20, (3, 40, 30)), BOX * (dice.uniform(2, 3000, 3) - 0.5)
    field = Field(*pack(raw, spheres).field)
    decoder = DecoderWeights(*random_decoder(dice, 20, 24, 5), 1)
    grads = (dice.normal(2, 3000, 20), (dice.normal(2, 3000), dice.normal(2, 3000, 5)))
    calls = _native_calls_volume
    runs = []
    try:
        for threads, isa in ((1, "auto"), (3, "auto"), (2, "base")):
            torch.set_num_threads(threads)
            grid, weights, at = calls.trigrid_decode_backward(field, decoder, points, grads[1], (True, True, True), isa)
            runs.append(
                [
                    calls.trigrid_sample(field, points, isa),
                    *calls.trigrid_sample_backward(field, points, grads[0], (True, True), isa),
                    *calls.trigrid_decode(field, decoder, points, isa),
                    grid, *weights, at,
                ]
            )  # fmt: skip
    finally:
        torch.set_num_threads(before)
    for other in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], other, strict=True))


@pytest.mark.parametrize("spheres", [0, 2])
def test_operators_are_registered_properly(spheres: int) -> None:
    dice = Dice(1)
    grid = pack(random_grid(dice, 1, spheres, 2, (1, 3, 4)), spheres)
    cells, rotations, axes, scale = grid.field
    cells, points = cells.requires_grad_(), dice.uniform(1, 5, 3).requires_grad_()
    weights = [w.requires_grad_() for w in random_decoder(dice, 2, 3, 2)]
    torch.library.opcheck(torch.ops.headrecon.trigrid_sample, (cells, rotations, points, axes, scale))
    torch.library.opcheck(torch.ops.headrecon.trigrid_decode, (cells, rotations, *weights, points, axes, scale, 1))


def test_bad_input_is_named() -> None:
    grid, decoder = pack_trigrid(torch.zeros(1, 3, 2, 4, 4), 1.0), decoder_of(random_decoder(Dice(0), 2, 3, 2), 0)
    pack_box, look_up = as_users_call_it(trigrid.pack_trigrid), as_users_call_it(trigrid.sample_trigrid)
    with pytest.raises(ShapeError, match=r"grid must be \[B,3,C,D,H,W\]"):
        pack_box(torch.zeros(1, 2, 3, 4, 4), 1.0)
    with pytest.raises(ShapeError, match="box_size must be positive"):
        pack_box(torch.zeros(1, 3, 3, 4, 4), 0.0)
    with pytest.raises(ShapeError, match="permutation"):
        pack_box(torch.zeros(1, 3, 3, 4, 4), 1.0, ((0, 1, 1), (0, 2, 1), (1, 2, 0)))
    with pytest.raises(ShapeError, match=r"points must be float32 \[1,N,3\]"):
        look_up(grid, torch.zeros(2, 5, 3))
    with pytest.raises(ShapeError, match="make one with pack_spherical"):
        sample_spherical_trigrid(grid, torch.zeros(1, 5, 3))
    with pytest.raises(ShapeError, match=r"w1 \[Hidden,4\]"):
        as_users_call_it(trigrid_decode.decode_trigrid)(
            pack_trigrid(torch.zeros(1, 3, 4, 4, 4), 1.0), decoder, torch.zeros(1, 5, 3)
        )
    with pytest.raises(ShapeError, match=r"rotations must be float32 \[2,3,3\]"):
        as_users_call_it(trigrid.pack_spherical_trigrid)(torch.zeros(1, 2, 3, 2, 1, 4, 4), 1.0, torch.eye(3)[None])


def test_the_comparison_can_fail() -> None:
    """A twin whose planes are swapped is told apart."""
    dice = Dice(5)
    inputs = {"grid": random_grid(dice, 1, 0, 4, (1, 6, 6)), "points": dice.uniform(1, 40, 3) - 0.5}
    with pytest.raises(AssertionError, match="output 0"):
        assert_same_outcome(
            lambda raw, points: [sample_trigrid(pack(raw, 0), points)],
            lambda raw, points: [sample_reference(*field_of(raw, 0)[:2], points, AXES[::-1], 2 / BOX)],
            inputs,
            {"": Bounds()},
        )
