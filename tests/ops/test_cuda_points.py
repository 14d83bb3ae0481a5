"""The CUDA kernels of neural points against the CPU's, whose numbers they promise: emulated, and on a GPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from headrecon.errors import ShapeError
from headrecon.ops import _native_calls_fields as calls
from headrecon.ops.points import blend_points, query_points
from tests.ops.compare import Bounds, assert_alike
from tests.ops.conftest import CudaKernels
from tests.ops.test_cuda_ops import determinism

NAN, INF = float("nan"), float("inf")
#: Sums in another order.
CLOSE = Bounds(relative_l1=1e-5, relative_l2=1e-5, rtol=1e-4, atol=1e-4)


def cloud(count: int, seed: int = 0, batch: int = 1, side: float = 1.0) -> Tensor:
    return torch.rand(batch, count, 3, generator=torch.Generator().manual_seed(seed)) * side


def strange_cloud() -> Tensor:
    """Points that are nowhere, at the border of what can be counted, coincident, and equally far from others."""
    nowhere = torch.tensor([[NAN, 0.0, 0.0], [INF, 0.0, 0.0], [0.0, -INF, NAN]])
    far = torch.tensor([[1e30, 0.0, 0.0], [3e38, -3e38, 3e38], [1e6, 1e6, 0.0], [1e6 + 0.0625, 1e6, 0.0]])
    axis = torch.arange(4.0)
    grid = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    return torch.cat([nowhere, far, grid, grid.flip(0), torch.full((40, 3), 0.25)])[None]


def assert_same_search(cuda: CudaKernels, points: Tensor, queries: Tensor, radius: float, count: int) -> None:
    index = calls.point_index(points, radius)
    assert torch.equal(cuda.run(calls.point_index, points, radius), index)
    found = cuda.run(calls.query_points, index, queries, points.shape[1], radius, count)
    expected = calls.query_points(index, queries, points.shape[1], radius, count)
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])


@pytest.mark.parametrize("count", [1, 8, 13, 32])
@pytest.mark.parametrize("radius", [0.03, 0.2, INF])
@pytest.mark.parametrize("points", [0, 1, 7, 700])
def test_index_and_search_equal_the_cpus(cuda: CudaKernels, points: int, radius: float, count: int) -> None:
    """In a batch of more sets than a grid has rows of blocks when emulated."""
    assert_same_search(cuda, cloud(points, count, 5), cloud(9, 1 + count, 5) * 1.2 - 0.1, radius, count)


@pytest.mark.parametrize("radius", [1e-35, 0.07, 1.0, 10.0, 1e25, 3e38])
def test_strange_points(cuda: CudaKernels, radius: float) -> None:
    points = strange_cloud()
    assert_same_search(cuda, points, torch.cat([points[:, :60], points[:, -1:]], 1), radius, 9)


def test_runs_of_buckets_that_overlap_or_wrap(cuda: CudaKernels) -> None:
    """Few points have few buckets: of the 9 runs of a query many coincide, and some go past the end."""
    for seed in range(6):
        assert_same_search(cuda, cloud(3, seed, side=3.0), cloud(25, seed + 100, side=3.0), 1.0, 4)


def blend_inputs(
    batch: int, points: int, queries: int, channels: int, count: int, shared: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(channels)
    where, at = cloud(points, 1, batch), cloud(queries, 2, batch)
    at[:, 0] = where[:, 0]  # at a point, where the distance has no gradient
    features = torch.randn(1 if shared else batch, points, channels, generator=generator)
    neighbours = torch.randint(0, points, (batch, queries, count), generator=generator, dtype=torch.int32)
    neighbours[torch.rand(neighbours.shape, generator=generator) < 0.3] = -1
    neighbours[:, 0, 0], neighbours[:, 1] = 0, -1
    return where, features, at, neighbours


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(("channels", "count"), [(1, 1), (5, 8), (32, 8), (70, 32)])
def test_blend(cuda: CudaKernels, channels: int, count: int, shared: bool, deterministic: bool) -> None:
    inputs = blend_inputs(5, 40, 21, channels, count, shared)
    generator = torch.Generator().manual_seed(0)
    found, expected = cuda.run(calls.blend_points, inputs, 1e-3), calls.blend_points(inputs, 1e-3)
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])
    grads = torch.randn(expected[0].shape, generator=generator), torch.randn(expected[1].shape, generator=generator)
    with determinism(deterministic):
        for given in (grads, (grads[0], None), (None, grads[1])):
            for needs in ((True, True, True), (True, False, False), (False, True, False), (False, False, True)):
                got = cuda.run(calls.blend_points_backward, inputs, 1e-3, given, needs)
                wanted = calls.blend_points_backward(inputs, 1e-3, given, needs)
                for name, one, other in zip(("points", "features", "queries"), got, wanted, strict=True):
                    assert_alike(one, other, f"{name}, {needs}", CLOSE)


def test_blended_gradients_are_the_same_on_every_run(cuda: CudaKernels) -> None:
    inputs = blend_inputs(1, 6, 200, 8, 8, False)
    grads = (torch.randn(1, 200, 8, generator=torch.Generator().manual_seed(0)), None)
    with determinism(True):
        runs = [cuda.run(calls.blend_points_backward, inputs, 1e-3, grads, (True, True, False)) for _ in range(4)]
    assert all(torch.equal(a[k], runs[0][k]) for a in runs[1:] for k in range(2))


@pytest.mark.parametrize("number", [-2, 40])
def test_neighbours_that_are_not_there(cuda: CudaKernels, number: int) -> None:
    inputs = blend_inputs(1, 40, 12, 3, 4, True)
    inputs[3][0, 11, 3] = number
    with pytest.raises(ShapeError, match="neighbours must be -1 or number the points"):
        cuda.run(calls.blend_points, inputs, 1e-3)
    with pytest.raises(ShapeError, match="neighbours must be -1 or number the points"):
        cuda.run(calls.blend_points_backward, inputs, 1e-3, (torch.ones(1, 12, 3), None), (True, True, True))


def test_neighbours_of_nan_stay_alone(cuda: CudaKernels) -> None:
    inputs = blend_inputs(1, 40, 60, 3, 4, True)
    inputs[1][0, 5], inputs[0][0, 6] = NAN, INF
    found, expected = cuda.run(calls.blend_points, inputs, 1e-3), calls.blend_points(inputs, 1e-3)
    assert found[0].isnan().any() and found[0].isfinite().any()
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.nan_to_num(7.0), other.nan_to_num(7.0))


def test_through_autograd(cuda: CudaKernels) -> None:
    def gradients(points: Tensor, features: Tensor, queries: Tensor) -> tuple[Tensor, ...]:
        moved = tuple(t.detach().requires_grad_() for t in (points, features, queries))
        index = query_points(moved[0], moved[2], 0.4, 6).index
        blended, offsets = blend_points(moved[0], moved[1], moved[2], index, softening=1e-3)
        return torch.autograd.grad(blended.square().sum() + offsets.square().sum(), moved)

    inputs = cloud(50, 0)[0], torch.randn(50, 7, generator=torch.Generator().manual_seed(1)), cloud(30, 2)[0]
    for name, one, other in zip(
        ("points", "features", "queries"), cuda.run(gradients, *inputs), gradients(*inputs), strict=True
    ):
        assert other.abs().max() > 0
        assert_alike(one, other, name, CLOSE)
