"""Neural points: nearest neighbours within a radius, and blending."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from headrecon.errors import ShapeError
from headrecon.ops import _native, _native_calls_fields
from headrecon.ops import points as ops
from headrecon.ops.points import blend_points, build_point_index, query_points
from headrecon.ops.reference.points import blend_points_reference, query_points_reference
from tests.ops.compare import Bounds, assert_alike
from tests.ops.meshes import as_users_call_it
from tests.ops.threads import threads

INF = float("inf")
ISAS = ["base", "avx512"]


def uniform(count: int, seed: int = 0, batch: int = 1, side: float = 1.0) -> Tensor:
    return torch.rand(batch, count, 3, generator=torch.Generator().manual_seed(seed)) * side


def search(points: Tensor, queries: Tensor, radius: float, count: int, isa: str = "auto") -> tuple[Tensor, Tensor]:
    workspace = _native_calls_fields.point_index(points, radius)
    return _native_calls_fields.query_points(workspace, queries, points.shape[1], radius, count, isa)


def assert_same(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> None:
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])


@pytest.mark.parametrize("available", [True, False])
def test_by_hand(monkeypatch: pytest.MonkeyPatch, available: bool) -> None:
    monkeypatch.setattr(_native, "available", lambda: available)
    points = torch.tensor([[0.0, 0.0, 0.0], [3.0, 4.0, 0.0], [0.0, 0.0, -2.0], [0.0, 2.0, 0.0], [0.0, 0.0, 5.0]])
    found = query_points(points, torch.zeros(1, 3), 5.0, 4)
    # 2 and 3 are equally far, as are 1 and 4: the lower number first. Exactly at the radius is within it.
    assert found.index.tolist() == [[0, 2, 3, 1]]
    assert found.distance.tolist() == [[0.0, 2.0, 2.0, 5.0]]
    few = query_points(points, torch.tensor([[0.0, 0.0, 5.5], [9.0, 9.0, 9.0]]), 1.0, 3)
    assert few.index.tolist() == [[4, -1, -1], [-1, -1, -1]]
    assert few.distance.tolist() == [[0.5, INF, INF], [INF, INF, INF]]


@pytest.mark.native
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("count", [1, 5, 8, 13, 16, 32])
@pytest.mark.parametrize("radius", [0.03, 0.2, 5.0, INF])
@pytest.mark.parametrize("points", [1, 7, 700])
def test_agrees_with_the_twin(points: int, radius: float, count: int, isa: str) -> None:
    cloud, queries = uniform(points, count, 2), uniform(40, 1 + count, 2) * 1.2 - 0.1
    assert_same(search(cloud, queries, radius, count, isa), query_points_reference(cloud, queries, radius, count))


@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_a_tree(seed: int) -> None:
    """SciPy's tree works in double: the same neighbours, but where two are equally far to float32's last digits."""
    points, queries = uniform(5000, seed)[0], uniform(1000, seed + 10)[0]
    found = query_points(points, queries, 0.08, 8)
    distance, index = cKDTree(points.double().numpy()).query(queries.double().numpy(), 8, distance_upper_bound=0.08)
    np.testing.assert_allclose(found.distance.numpy(), distance, rtol=2e-6)
    index = np.where(np.isfinite(distance), index, -1)
    assert (found.index.numpy() != index).mean() < 1e-3
    assert 0.2 < (index >= 0).mean() < 0.99


@pytest.mark.native
@pytest.mark.parametrize("isa", ISAS)
def test_ties_and_coincident_points(isa: str) -> None:
    """A grid of points, each twice: nothing but ties."""
    axis = torch.arange(6.0)
    grid = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    points = torch.cat([grid, grid.flip(0)])[None]
    queries = torch.cat([grid, grid + 0.5])[None]
    for count in (3, 8, 32):
        for radius in (0.9, 1.0, 1.5):
            assert_same(
                search(points, queries, radius, count, isa), query_points_reference(points, queries, radius, count)
            )
    same = torch.full((1, 100, 3), 0.25)
    found = search(same, same[:, :3], 0.1, 32, isa)
    assert found[0][0].tolist() == [list(range(32))] * 3 and (found[1] == 0).all()


@pytest.mark.native
@pytest.mark.parametrize("isa", ISAS)
def test_runs_of_buckets_that_overlap_or_wrap(isa: str) -> None:
    """Few points have few buckets: of the 9 runs of a query many coincide, and some go past the end."""
    for seed in range(30):
        points, queries = uniform(3, seed, side=3.0), uniform(25, seed + 100, side=3.0)
        assert_same(search(points, queries, 1.0, 4, isa), query_points_reference(points, queries, 1.0, 4))


@pytest.mark.native
@pytest.mark.parametrize("isa", ISAS)
def test_points_and_queries_far_out(isa: str) -> None:
    """NaN and infinities are nowhere; huge coordinates are in voxels at the border of what can be counted."""
    nan = float("nan")
    strange = torch.tensor([[nan, 0.0, 0.0], [INF, 0.0, 0.0], [0.0, -INF, nan], [1e30, 0.0, 0.0], [3e38, -3e38, 3e38]])
    near = torch.tensor([[-0.0, 0.0, 0.0], [1e-30, 0.0, 0.0], [1e6, 1e6, 0.0], [1e6 + 0.0625, 1e6, 0.0]])
    points = torch.cat([strange, near])[None]
    for radius in (1e-35, 1e-3, 0.07, 10.0, 1e25, 3e38, INF):
        found = search(points, points, radius, 9, isa)
        assert_same(found, query_points_reference(points, points, radius, 9))
        assert (found[0][0, :3] == -1).all() and (found[0][0, 3:, 0] >= 3).all()


def test_radius_in_voxels_of_any_size() -> None:
    """Distances just within and just beyond the radius, along each axis, far from and near the origin."""
    for origin in (0.0, 1.0, -1000.0):
        for radius in (0.01, 1.0, 7.3):
            base = torch.full((1, 3), origin)
            steps = torch.cat([torch.eye(3), -torch.eye(3)]) * radius
            points = torch.cat([base + steps * s for s in (0.999, 1.0, 1.001)])[None]
            expected = query_points_reference(points, base[None], radius, 32)
            found = query_points(points, base[None], radius, 32)
            assert_same((found.index, found.distance), expected)


@pytest.mark.native
@pytest.mark.parametrize("number", [1, 2, 5])
def test_same_for_any_threads(number: int) -> None:
    points, queries = uniform(20_000, 3, 2), uniform(3_000, 4, 2)
    features = torch.randn(2, 20_000, 7, generator=torch.Generator().manual_seed(5))
    grads = torch.ones(2, 3000, 7), torch.ones(2, 3000, 3)

    def run() -> tuple[Tensor | None, ...]:
        index, distance = search(points, queries, 0.07, 8)
        inputs = (points, features, queries, index)
        blended = _native_calls_fields.blend_points(inputs, 1e-3)
        back = _native_calls_fields.blend_points_backward(inputs, 1e-3, grads, (True, True, True))
        return (index, distance, *blended, *back)

    with threads(3):
        expected = run()
    with threads(number):
        for a, b in zip(run(), expected, strict=True):
            assert a is not None and b is not None and torch.equal(a, b)


@pytest.mark.parametrize("available", [True, False])
def test_blending_by_hand(monkeypatch: pytest.MonkeyPatch, available: bool) -> None:
    monkeypatch.setattr(_native, "available", lambda: available)
    points = torch.tensor([[1.0, 0.0, 0.0], [0.0, 3.0, 0.0], [9.0, 9.0, 9.0]])
    features = torch.tensor([[2.0, 0.0], [6.0, 4.0], [1.0, 1.0]])
    queries, index = torch.zeros(2, 3), torch.tensor([[0, 1, -1], [-1, -1, -1]])
    blended, offsets = blend_points(points, features, queries, index, softening=1.0)
    # distances 1 and 3, softened 2 and 4: weights 1/2 and 1/4, shares 2/3 and 1/3
    torch.testing.assert_close(blended, torch.tensor([[10 / 3, 4 / 3], [0.0, 0.0]]))
    torch.testing.assert_close(offsets, torch.tensor([[-2 / 3, -1.0, 0.0], [0.0, 0.0, 0.0]]))


def blend_inputs(points: int, queries: int, channels: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    cloud, asked = uniform(points, seed, 2), uniform(queries, seed + 1, 2)
    index, _ = query_points_reference(cloud, asked, 0.4, 8)
    return [cloud, torch.randn(2, points, channels, generator=generator), asked, index]


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("channels", [1, 7, 8, 33])
def test_gradients_of_blending(channels: int, shared: bool) -> None:
    *inputs, index = blend_inputs(50, 60, channels)
    if shared:
        inputs[1] = inputs[1][:1]
    assert (index == -1).any()
    generator = torch.Generator().manual_seed(9)
    grads = torch.randn(2, 60, channels, generator=generator), torch.randn(2, 60, 3, generator=generator)

    def gradients(blend) -> list[Tensor]:
        leaves = [t.clone().requires_grad_() for t in inputs]
        outputs = blend(leaves)
        return [t.detach() for t in outputs] + list(torch.autograd.grad(outputs, leaves, grads))

    found = gradients(lambda t: blend_points(t[0], t[1][0] if shared else t[1], t[2], index, softening=1e-2))
    expected = gradients(lambda t: blend_points_reference(*t, index, 1e-2))
    for name, a, b in zip(("blended", "offsets", "points", "features", "queries"), found, expected, strict=True):
        assert_alike(a, b, name)


def test_gradients_of_the_twin_by_finite_differences() -> None:
    *inputs, index = blend_inputs(9, 6, 2)
    leaves = [t.double().requires_grad_() for t in inputs]
    assert torch.autograd.gradcheck(lambda p, f, q: blend_points_reference(p, f, q, index, 0.05), leaves)


def test_a_query_upon_a_point() -> None:
    """At distance 0 the softening alone bounds the weight, and nothing is not a number."""
    points = torch.tensor([[0.1, 0.2, 0.3], [0.1, 0.2, 0.3], [0.2, 0.2, 0.3]], requires_grad=True)
    features = torch.tensor([[1.0], [3.0], [100.0]], requires_grad=True)
    queries = torch.tensor([[0.1, 0.2, 0.3]], requires_grad=True)
    blended, offsets = blend_points(points, features, queries, torch.tensor([[0, 1, 2]]), softening=1e-6)
    assert blended.item() == pytest.approx(2.0, abs=1e-3)
    (blended.sum() + offsets.sum()).backward()
    expected = [t.detach().clone().requires_grad_() for t in (points, features, queries)]
    twin = blend_points_reference(*(t[None] for t in expected), torch.tensor([[[0, 1, 2]]]), 1e-6)
    (twin[0].sum() + twin[1].sum()).backward()
    for a, b in zip((points, features, queries), expected, strict=True):
        assert_alike(a.grad, b.grad, "upon a point", Bounds(atol=1e-2))


def test_one_gradient_without_the_others() -> None:
    *inputs, index = blend_inputs(20, 30, 3)
    for which in range(3):
        for output in range(2):
            leaves = [t.clone().requires_grad_(k == which) for k, t in enumerate(inputs)]
            blend_points(*leaves, index)[output].square().sum().backward()
            twin = [t.clone().requires_grad_(k == which) for k, t in enumerate(inputs)]
            reference = blend_points_reference(*twin, index, 1e-4)[output].square().sum()
            # offsets do not depend on the features: the twin has no gradient then, and the operator one of zeros
            expected = torch.autograd.grad(reference, twin[which])[0] if reference.requires_grad else 0 * inputs[which]
            assert_alike(leaves[which].grad, expected, "alone")


@pytest.mark.parametrize("available", [True, False])
@pytest.mark.parametrize("queries", [0, 1, 3])
@pytest.mark.parametrize("points", [0, 1, 2])
@pytest.mark.parametrize("batch", [0, 1, 3])
def test_sizes(monkeypatch: pytest.MonkeyPatch, batch: int, points: int, queries: int, available: bool) -> None:
    if not available:
        monkeypatch.setattr(_native, "available", lambda: False)
    cloud, asked = uniform(points, 1, batch), uniform(queries, 2, batch)
    found = query_points(cloud, asked, 5.0, 3)
    assert found.index.shape == found.distance.shape == (batch, queries, 3)
    assert ((found.index >= 0).sum(-1) == min(points, 3)).all()
    leaves = [t.requires_grad_() for t in (cloud, torch.ones(batch, points, 2), asked)]
    blended, offsets = blend_points(*leaves, found.index)
    assert blended.shape == (batch, queries, 2) and offsets.shape == (batch, queries, 3)
    (blended.sum() + offsets.sum()).backward()
    assert all(t.grad is not None and t.grad.shape == t.shape for t in leaves)
    if points and batch:
        single = query_points(cloud[0].detach(), asked[0].detach(), 5.0, 3)
        assert torch.equal(single.index, found.index[0])


def test_an_index_may_be_asked_again_and_its_size_is_fixed() -> None:
    points = uniform(1000)[0]
    index = build_point_index(points, 0.1)
    assert index.workspace.shape == (1, 4 * 1000 + 2048 + 1)
    for seed in range(3):
        queries = uniform(50, seed)[0]
        again, once = index.query(queries, 4), query_points(points, queries, 0.1, 4)
        assert_same((again.index, again.distance), (once.index, once.distance))


def test_without_the_library_the_twin_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    *inputs, _ = blend_inputs(40, 50, 5)

    def run() -> list[Tensor]:
        leaves = [t.clone().requires_grad_() for t in inputs]
        found = query_points(leaves[0], leaves[2], 0.3, 6)
        blended, offsets = blend_points(*leaves, found.index)
        (blended.square().sum() + offsets.sum()).backward()
        return [found.index, found.distance, blended.detach(), *(t.grad for t in leaves if t.grad is not None)]

    expected = run()
    monkeypatch.setattr(_native, "available", lambda: False)
    for a, b in zip(run(), expected, strict=True):
        assert_alike(a, b, "reference")


def test_operators_are_registered_properly() -> None:
    *inputs, index = blend_inputs(6, 5, 2)
    workspace = torch.ops.headrecon.point_index(inputs[0], 0.4)
    torch.library.opcheck(torch.ops.headrecon.point_index, (inputs[0], 0.4))
    torch.library.opcheck(torch.ops.headrecon.query_points, (inputs[0], workspace, inputs[2], 0.4, 3))
    leaves = [t.clone().requires_grad_() for t in inputs]
    torch.library.opcheck(torch.ops.headrecon.blend_points, (*leaves, index, 1e-2))
    grads = torch.ones(2, 5, 2), torch.ones(2, 5, 3)
    torch.library.opcheck(torch.ops.headrecon.blend_points_backward, (*inputs, index, 1e-2, *grads, True, False, True))


def test_bad_input_is_named() -> None:
    points, queries = uniform(4)[0], uniform(3)[0]
    query, blend = as_users_call_it(ops.query_points), as_users_call_it(ops.blend_points)
    with pytest.raises(ShapeError, match="radius must be above 0 metres, found 0"):
        query(points, queries, 0.0)
    with pytest.raises(ShapeError, match="radius must be above 0 metres, found nan"):
        query(points, queries, float("nan"))
    with pytest.raises(ShapeError, match="count must be 1 to 32, found 33"):
        query(points, queries, 1.0, 33)
    with pytest.raises(ShapeError, match=r"points must be float32 \[\*,3\], found torch.float64"):
        query(points.double(), queries, 1.0)
    with pytest.raises(ShapeError, match=r"queries must be float32 \[1,\*,3\], found torch.float32 \(3, 3\)"):
        query(points[None], queries, 1.0)
    features, index = torch.ones(4, 2), torch.zeros(3, 2, dtype=torch.int32)
    with pytest.raises(ShapeError, match=r"features must be float32 \(4, 2\)"):
        blend(points, torch.ones(5, 2), queries, index)
    with pytest.raises(ShapeError, match=r"index must be \[3,K\]"):
        blend(points, features, queries, index[:2])
    with pytest.raises(ShapeError, match="softening must be above 0"):
        blend(points, features, queries, index, softening=0.0)
    for wrong in (4, -2):
        with pytest.raises(ShapeError, match=r"number the 4 points \(0..3\)"):
            blend(points, features, queries, index + wrong)
