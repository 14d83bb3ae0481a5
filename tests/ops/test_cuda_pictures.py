"""The CUDA kernels of marching cubes and structural similarity, which promise the CPU's bits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from headrecon.errors import ShapeError
from headrecon.ops import _native_calls_isosurface, _native_calls_ssim
from headrecon.ops._native_calls_isosurface import isosurface
from headrecon.ops.isosurface import IsoLevel, extract_mesh, extract_mesh_sparse
from headrecon.ops.ssim import ssim_map
from tests.ops.conftest import CudaKernels

PLACEMENT = (0.1, (0.5, -1.0, 2.0), (0.01, 0.02, 0.03))


def noise(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def assert_same_mesh(
    cuda: CudaKernels, grid: tuple[Tensor, Tensor | None, Tensor | None], size: tuple[int, int, int]
) -> int:
    for below in (False, True):
        found = cuda.run(isosurface, grid, size, PLACEMENT, below)
        expected = isosurface(grid, size, PLACEMENT, below)
        for name, one, other in zip(("vertices", "colours", "edges", "faces"), found, expected, strict=True):
            assert torch.equal(one.nan_to_num(7.0), other.nan_to_num(7.0)), name
    return len(expected[3])


@pytest.mark.parametrize("channels", [0, 1, 4])
@pytest.mark.parametrize("size", [(2, 2, 2), (5, 7, 9), (3, 4, 64), (4, 3, 65), (2, 3, 200), (9, 9, 129)])
def test_dense_grids(cuda: CudaKernels, size: tuple[int, int, int], channels: int) -> None:
    colours = noise(*size, channels, seed=1) if channels else None
    assert assert_same_mesh(cuda, (noise(*size, seed=3), colours, None), size) > 0


def test_grids_of_more_words_than_a_block_has_threads(cuda: CudaKernels) -> None:
    """A flat sheet along the rows: every edge across it is cut in one run of words; then noise everywhere."""
    sheet = torch.linspace(-1.0, 1.2, 30)[:, None, None].expand(30, 20, 70).contiguous()
    assert assert_same_mesh(cuda, (sheet, None, None), (30, 20, 70)) == 2 * 19 * 69
    assert assert_same_mesh(cuda, (noise(20, 31, 40), None, None), (20, 31, 40)) > 3 * 256


def test_nothing_to_see_and_samples_that_are_no_numbers(cuda: CudaKernels) -> None:
    assert assert_same_mesh(cuda, (torch.zeros(5, 6, 7), None, None), (5, 6, 7)) == 0
    field = noise(6, 6, 6)
    field[2, 2, 2], field[3, 3, 3], field[4, 1, 1] = float("nan"), float("inf"), -float("inf")
    assert assert_same_mesh(cuda, (field, None, None), (6, 6, 6)) > 0


def test_parts_of_grids_and_sparse_grids(cuda: CudaKernels) -> None:
    generator = torch.Generator().manual_seed(0)
    active = torch.randint(-1, 1, (3, 2, 9), generator=generator, dtype=torch.int32)
    assert assert_same_mesh(cuda, (noise(17, 12, 70), None, active), (17, 12, 70)) > 0
    blocks = torch.full((3, 3, 9), -1, dtype=torch.int32)
    blocks.flatten()[torch.randperm(81, generator=generator)[:40]] = torch.arange(40, dtype=torch.int32)
    grid = noise(40, 8, 8, 8), noise(40, 8, 8, 8, 2, seed=1), blocks
    assert assert_same_mesh(cuda, grid, (24, 24, 72)) > 0
    blocks[0, 0, 0] = 40
    with pytest.raises(ShapeError, match="blocks must number the blocks of values"):
        cuda.run(isosurface, grid, (24, 24, 72), PLACEMENT, False)


def test_meshes_too_big_to_number_are_refused(cuda: CudaKernels, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_native_calls_isosurface, "MOST_NUMBERED", 10)
    with pytest.raises(ShapeError, match="fewer than 2\\^31 samples, vertices and faces"):
        cuda.run(isosurface, (noise(5, 5, 5), None, None), (5, 5, 5), PLACEMENT, False)


def test_meshes_through_autograd(cuda: CudaKernels) -> None:
    def gradients(field: Tensor, colours: Tensor, blocks: Tensor, places: Tensor) -> tuple[Tensor, ...]:
        field, colours, blocks = (t.detach().requires_grad_() for t in (field, colours, blocks))
        dense = extract_mesh(field, IsoLevel(0.1), colours)
        sparse = extract_mesh_sparse(blocks, places, IsoLevel(0.1, "below"))
        assert dense.colours is not None
        total = dense.vertices.square().sum() + dense.colours.square().sum() + sparse.vertices.square().sum()
        return dense.faces, sparse.faces, *torch.autograd.grad(total, (field, colours, blocks))

    places = torch.tensor([[0, 0, 0], [0, 0, 1], [-2, 0, 0]])
    inputs = noise(6, 7, 8), noise(6, 7, 8, 3, seed=1), noise(3, 8, 8, 8, seed=2), places
    for one, other in zip(cuda.run(gradients, *inputs), gradients(*inputs), strict=True):
        torch.testing.assert_close(one, other)  # torch's own backward pass, which adds in any order on a GPU


SHAPES = [(1, 11, 11, 1), (2, 12, 27, 3), (1, 40, 37, 3), (1, 33, 64, 2), (3, 17, 75, 1), (1, 34, 12, 9)]
SMALL = [(1, 1, 1, 1), (1, 5, 3, 2), (2, 10, 30, 3), (1, 1, 64, 1)]


@pytest.mark.parametrize(
    ("shape", "valid"), [*((s, v) for s in SHAPES for v in (False, True)), *((s, False) for s in SMALL)]
)
def test_ssim(cuda: CudaKernels, shape: tuple[int, ...], valid: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(shape, generator=generator)
    y = (0.7 * x + 0.3 * torch.rand(shape, generator=generator)).clamp(0, 1)
    for partials in (False, True):
        found = cuda.run(_native_calls_ssim.ssim, x, y, valid, 1.0, partials)
        expected = _native_calls_ssim.ssim(x, y, valid, 1.0, partials)
        assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])
    inputs = (x, y, expected[1])
    grad = torch.randn(expected[0].shape, generator=generator)
    for needs in ((True, True), (True, False), (False, True), (False, False)):
        got = cuda.run(_native_calls_ssim.ssim_backward, inputs, grad, valid, needs)
        wanted = _native_calls_ssim.ssim_backward(inputs, grad, valid, needs)
        for one, other in zip(got, wanted, strict=True):
            assert (one is None) == (other is None)
            assert one is None or (other is not None and torch.equal(one, other))


def test_ssim_of_nan_and_huge_numbers(cuda: CudaKernels) -> None:
    """NaN spreads as far as the window reaches, on both kinds of processor alike."""
    x, y = torch.rand(2, 1, 30, 40, 1, generator=torch.Generator().manual_seed(0))
    x[0, 20, 25], y[0, 3, 4] = float("nan"), 3e38
    found, expected = (
        run(_native_calls_ssim.ssim, x, y, False, 1.0, False)[0] for run in (cuda.run, lambda f, *a: f(*a))
    )
    assert 121 <= int(found.isnan().sum()) < 400
    assert torch.equal(found.nan_to_num(7.0), expected.nan_to_num(7.0))


def test_ssim_through_autograd(cuda: CudaKernels) -> None:
    def gradients(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        x, y = x.detach().requires_grad_(), y.detach().requires_grad_()
        return torch.autograd.grad(ssim_map(x, y).square().mean(), (x, y))

    inputs = tuple(torch.rand(2, 2, 20, 35, 3, generator=torch.Generator().manual_seed(0)))
    for one, other in zip(cuda.run(gradients, *inputs), gradients(*inputs), strict=True):
        assert other.abs().max() > 0
        torch.testing.assert_close(one, other)  # the mean's own backward pass is torch's
