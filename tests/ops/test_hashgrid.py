"""The multiresolution hash encoding."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from headrecon.errors import ShapeError
from headrecon.ops import _native, _native_calls_fields
from headrecon.ops import hashgrid as ops
from headrecon.ops.field_specs import HashGridSpec
from headrecon.ops.hashgrid import encode_hashgrid
from headrecon.ops.reference.hashgrid import encode_hashgrid_reference, level_entries
from tests.ops.compare import assert_alike
from tests.ops.meshes import as_users_call_it
from tests.ops.threads import threads

ISAS = ["base", "avx512"]


def inputs(spec: HashGridSpec, count: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Positions, some of them outside 0..1, a table, and gradients of the values."""
    generator = torch.Generator().manual_seed(seed)
    positions = torch.rand(count, spec.dims, generator=generator) * 1.2 - 0.1
    table = torch.randn(spec.num_entries, spec.features, generator=generator)
    return positions, table, torch.randn(count, spec.num_outputs, generator=generator)


def twin(positions: Tensor, table: Tensor, spec: HashGridSpec, grad: Tensor) -> tuple[Tensor, ...]:
    """Values and gradients of table and positions."""
    leaves = table.clone().requires_grad_(), positions.clone().requires_grad_()
    values = encode_hashgrid_reference(leaves[1], leaves[0], spec)
    return (values.detach(), *torch.autograd.grad(values, leaves, grad))


def native(positions: Tensor, table: Tensor, spec: HashGridSpec, grad: Tensor, isa: str) -> tuple[Tensor, ...]:
    found = _native_calls_fields.hashgrid_backward((positions, table), spec, grad, (True, True), isa)
    assert found[0] is not None and found[1] is not None
    return _native_calls_fields.hashgrid(positions, table, spec, isa), found[0], found[1]


def test_levels_by_hand() -> None:
    """Those of tiny-cuda-nn for the settings of its README: 16, 32, 64 corners are dense, 128^3 exceeds 2^19."""
    levels = HashGridSpec(3, 4, 2, 19, 16, 2.0).level_table
    assert [level.scale for level in levels] == [15.0, 31.0, 63.0, 127.0]
    assert [level.resolution for level in levels] == [16, 32, 64, 128]
    assert [level.size for level in levels] == [4096, 32768, 262144, 524288]
    assert [level.offset for level in levels] == [0, 4096, 36864, 299008]
    assert [level.hashed for level in levels] == [False, False, False, True]
    # 3 x 3 corners take 16 entries, for levels begin at multiples of 8; scale 2 * 1.5 - 1 is already a whole number
    small = HashGridSpec(2, 2, 1, 19, 2, 1.5)
    assert [(level.scale, level.resolution, level.size) for level in small.level_table] == [(1.0, 2, 8), (2.0, 3, 16)]
    assert small.num_entries == 24 and small.num_outputs == 2
    rounded = HashGridSpec(2, 3, 1, 19, 3, 1.5).level_table[1]  # 3.5 cells: the last corners lie outside
    assert (rounded.scale, rounded.resolution) == (3.5, 5)


def test_hash_by_hand() -> None:
    level = HashGridSpec(3, 4, 2, 19, 16, 2.0).level_table[3]
    corners = torch.tensor([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]])
    # 1, 0x9E3779B1, 0x30025795 and all three exclusive-ored, the last 19 bits of each
    assert level_entries(corners, level).tolist() == [0, 1, 0x779B1, 0x25795, 0x52E25]


@pytest.mark.parametrize("available", [True, False])
def test_interpolation_by_hand(monkeypatch: pytest.MonkeyPatch, available: bool) -> None:
    monkeypatch.setattr(_native, "available", lambda: available)
    spec = HashGridSpec(2, 1, 1, 19, 3)  # 3 x 3 corners, 2 cells a unit, shifted by half a cell
    table = torch.arange(16.0)[:, None] ** 2
    positions = torch.tensor([[0.25, 0.5], [0.0, 0.0], [1.0, 1.0]])
    # at (1, 1.5): between entries 4 and 7; at (.5, .5): of 0, 1, 3, 4; at (2.5, 2.5): of 8, 9, 11 and 12 of the 16
    expected = [(16 + 49) / 2, (0 + 1 + 9 + 16) / 4, (64 + 81 + 121 + 144) / 4]
    assert encode_hashgrid(positions, table, spec)[:, 0].tolist() == expected
    # in three dimensions 2^3 corners fill the 8 entries: those beyond start again with the first
    full = HashGridSpec(3, 1, 1, 19, 2)
    table = torch.arange(8.0)[:, None]
    # at (1.5, 1.5, 1.5): entries 7, 8, 9, 10, 11, 12, 13, 14 are 7 and 0 to 6
    assert encode_hashgrid(torch.ones(1, 3), table, full).item() == 3.5


def test_smoothstep_by_hand() -> None:
    spec = HashGridSpec(2, 1, 1, 19, 3, interpolation="smoothstep")
    table = torch.zeros(16, 1)
    table[1] = 1.0
    positions = torch.tensor([[0.125, -1.0]], requires_grad=True)  # at (.75, .5)
    value = encode_hashgrid(positions, table, spec)
    value.sum().backward()
    assert value.item() == (3 * 0.75**2 - 2 * 0.75**3) * 0.5
    assert positions.grad is not None
    assert positions.grad.tolist() == [[6 * 0.75 * 0.25 * 0.5 * 2.0, 0.0]]  # two cells a unit; y was cut


@pytest.mark.native
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("interpolation", ["linear", "smoothstep"])
@pytest.mark.parametrize("features", [1, 2, 4, 8])
@pytest.mark.parametrize("dims", [2, 3])
def test_agrees_with_the_twin(dims: int, features: int, interpolation, isa: str) -> None:
    spec = HashGridSpec(dims, 6, features, 9, 5, 1.6, interpolation)
    assert {level.hashed for level in spec.level_table} == {False, True}
    given = inputs(spec, 333, seed=dims * 10 + features)
    for name, found, expected in zip(
        ("values", "table", "positions"), native(*given[:2], spec, given[2], isa), twin(*given[:2], spec, given[2]),
        strict=True,
    ):  # fmt: skip
        assert_alike(found, expected, name)


@pytest.mark.parametrize("interpolation", ["linear", "smoothstep"])
@pytest.mark.parametrize("dims", [2, 3])
def test_gradients_of_the_twin_by_finite_differences(dims: int, interpolation) -> None:
    spec = HashGridSpec(dims, 3, 2, 5, 3, 1.7, interpolation)
    positions, table, _ = inputs(spec, 7)
    inside = positions.double().clamp(0.05, 0.95).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x, t: encode_hashgrid_reference(x, t, spec), (inside, table.double().requires_grad_())
    )


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65])
def test_sizes(count: int) -> None:
    spec = HashGridSpec(3, 3, 2, 8, 4, 2.0)
    positions, table, grad = inputs(spec, count)
    leaves = positions.requires_grad_(), table.requires_grad_()
    values = encode_hashgrid(*leaves, spec)
    assert values.shape == (count, 6)
    values.backward(grad)
    expected = twin(positions.detach(), table.detach(), spec, grad)
    for found, other in zip((values, table.grad, positions.grad), expected, strict=True):
        assert_alike(found, other, "sizes")
    assert encode_hashgrid(positions.reshape(count, 1, 3), table, spec).shape == (count, 1, 6)


@pytest.mark.native
@pytest.mark.parametrize("isa", ISAS)
def test_positions_that_are_no_positions(isa: str) -> None:
    """NaN reads the lower border, everything outside 0..1 the nearer one, and nothing of it moves."""
    spec = HashGridSpec(2, 4, 2, 8, 4, 2.0)
    _, table, _ = inputs(spec, 0)
    nan, inf = float("nan"), float("inf")
    strange = torch.tensor([[nan, 0.3], [-inf, 0.3], [-1e30, 0.3], [inf, 0.3], [1e30, 0.3], [1 + 1e-6, 0.3]])
    plain = torch.tensor([[0.0, 0.3], [0.0, 0.3], [0.0, 0.3], [1.0, 0.3], [1.0, 0.3], [1.0, 0.3]])
    grad = torch.ones(6, spec.num_outputs)
    found, expected = native(strange, table, spec, grad, isa), native(plain, table, spec, grad, isa)
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])
    assert (found[2][:, 0] == 0).all() and torch.equal(found[2][:, 1], expected[2][:, 1])
    assert expected[2].abs().min() > 0
    for a, b in zip(found, twin(strange, table, spec, grad), strict=True):
        assert_alike(a, b, "strange positions")


@pytest.mark.native
def test_numbers_that_are_not_finite_stay_where_they_belong() -> None:
    spec = HashGridSpec(2, 1, 1, 8, 4)
    positions, table, grad = inputs(spec, 50)
    table[5] = float("nan")
    grad[7] = float("inf")
    found, expected = native(positions, table, spec, grad, "auto"), twin(positions, table, spec, grad)
    for a, b in zip(found, expected, strict=True):
        assert_alike(a, b, "not finite")
    assert found[0].isnan().any() and not found[0].isnan().all()


@pytest.mark.native
@pytest.mark.parametrize(
    ("spec", "count"),
    [
        (HashGridSpec(3, 16, 2, 17, 16, 1.5), 40_000),  # tables of several strips
        (HashGridSpec(2, 32, 8, 6, 2, 1.2), 33_000),  # more positions than one round holds
    ],
)
def test_same_bits_for_any_threads_and_instructions(spec: HashGridSpec, count: int) -> None:
    positions, table, grad = inputs(spec, count)
    with threads(1):
        expected = native(positions, table, spec, grad, "base")
    for number in (2, 5, 9):
        with threads(number):
            for isa in ISAS:
                for a, b in zip(native(positions, table, spec, grad, isa), expected, strict=True):
                    assert torch.equal(a, b), (number, isa)
    for a, b in zip(expected, twin(positions, table, spec, grad), strict=True):
        assert_alike(a, b, "several rounds")


@pytest.mark.parametrize("needs", [(True, True), (True, False), (False, True)])
def test_operator_is_registered_properly(needs: tuple[bool, bool]) -> None:
    spec = HashGridSpec(3, 2, 2, 6, 3, 2.0)
    positions, table, grad = inputs(spec, 5)
    layout = (2, 6, 3, 2.0, False)
    leaves = positions.requires_grad_(needs[0]), table.requires_grad_(needs[1])
    torch.library.opcheck(torch.ops.headrecon.hashgrid, (*leaves, *layout))
    held = positions.detach(), table.detach()
    torch.library.opcheck(torch.ops.headrecon.hashgrid_backward, (*held, *layout, grad, *needs))


def test_without_the_library_the_twin_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = HashGridSpec(3, 4, 2, 8, 4, 1.5)

    def run() -> list[Tensor]:
        positions, table, grad = inputs(spec, 40)
        values = encode_hashgrid(positions.requires_grad_(), table.requires_grad_(), spec)
        values.backward(grad)
        assert positions.grad is not None and table.grad is not None
        return [values.detach(), positions.grad, table.grad]

    expected = run()
    monkeypatch.setattr(_native, "available", lambda: False)
    for a, b in zip(run(), expected, strict=True):
        assert_alike(a, b, "reference")


def test_bad_input_is_named() -> None:
    spec = HashGridSpec(3, 2, 2, 6, 3, 2.0)
    positions, table, _ = inputs(spec, 4)
    encode = as_users_call_it(ops.encode_hashgrid)
    with pytest.raises(ShapeError, match=r"positions must be float32 \[...,3\], found torch.float32 \(4, 2\)"):
        encode(positions[:, :2], table, spec)
    with pytest.raises(ShapeError, match=r"table is float32 \(\d+, 2\)"):
        encode(positions, table[1:], spec)
    with pytest.raises(ShapeError, match="float64"):
        encode(positions, table.double(), spec)
    with pytest.raises(ShapeError, match="features must be 1, 2, 4 or 8; found"):
        HashGridSpec(features=3)
    with pytest.raises(ShapeError, match="levels must be 1 to 32"):
        HashGridSpec(levels=33)
    with pytest.raises(ShapeError, match=r"the finest level would have 2\^34.0 cells"):
        HashGridSpec(levels=31, per_level_scale=2.0)
