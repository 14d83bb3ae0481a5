"""Structural similarity: against its twin, scikit-image and torchmetrics, and against what can be worked out by
hand."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity
from torch import Tensor

from headrecon.errors import ShapeError
from headrecon.ops import _native, _native_calls_ssim, ssim
from headrecon.ops.reference.ssim import ssim_reference, window
from headrecon.ops.ssim import ssim_map
from tests.ops.compare import Bounds, assert_alike

#: Variances are differences of averages near 1: float32 leaves some 1e-6 of them, beside c2 = 9e-4.
BOUNDS = Bounds(relative_l1=2e-5, relative_l2=2e-5, rtol=1e-3, atol=1e-4)
SIZES = [(1, 11, 11, 1), (2, 12, 27, 3), (1, 40, 37, 3), (1, 75, 140, 4), (3, 17, 131, 1), (1, 130, 30, 40)]
SMALL = [(1, 1, 1, 1), (1, 5, 3, 2), (2, 10, 30, 3), (1, 1, 64, 1)]
WORKS = [*((s, v) for s in SIZES for v in (False, True)), *((s, False) for s in SMALL)]


def pictures(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(shape, generator=generator)
    return x, (0.7 * x + 0.3 * torch.rand(shape, generator=generator)).clamp(0, 1)


@pytest.mark.native
@pytest.mark.parametrize("isa", ["base", "auto"])
@pytest.mark.parametrize(("shape", "valid"), WORKS)
def test_native_is_its_twin(shape: tuple[int, ...], valid: bool, isa: str) -> None:
    """Values and both gradients; the twin in float64."""
    x, y = pictures(*shape)
    found, partials = _native_calls_ssim.ssim(x, y, valid, 1.0, True, isa)
    exact = x.double().requires_grad_(), y.double().requires_grad_()
    expected = ssim_reference(*exact, valid, 1.0)
    assert_alike(found, expected, "map", BOUNDS)
    grad = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    grads = _native_calls_ssim.ssim_backward((x, y, partials), grad, valid, (True, True), isa)
    wanted = torch.autograd.grad(expected, exact, grad.double())
    for name, got, want in zip(("image", "reference"), grads, wanted, strict=True):
        assert_alike(got, want, f"gradient of {name}", BOUNDS)


@pytest.mark.native
def test_instruction_sets_threads_and_wanted_gradients_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = pictures(2, 150, 200, 3)
    grad = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    results = []
    for isa, threads in (("auto", 1), ("auto", 5), ("base", 2)):
        monkeypatch.setattr(_native_calls_ssim, "num_threads", lambda threads=threads: threads)
        found, partials = _native_calls_ssim.ssim(x, y, False, 1.0, True, isa)
        results.append((found, *_native_calls_ssim.ssim_backward((x, y, partials), grad, False, (True, True), isa)))
    for result in results[1:]:
        for a, b in zip(result, results[0], strict=True):
            assert a is not None and b is not None and torch.equal(a, b)
    partials = _native_calls_ssim.ssim(x, y, False, 1.0, True)[1]
    for needs in ((True, False), (False, True)):
        alone = _native_calls_ssim.ssim_backward((x, y, partials), grad, False, needs)
        for got, want, need in zip(alone, results[0][1:], needs, strict=True):
            assert (got is None) != need
            assert got is None or (want is not None and torch.equal(got, want))


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_gradients_of_the_public_function(padding: str) -> None:
    x, y = (t.requires_grad_() for t in pictures(2, 14, 13, 3))
    grads = torch.autograd.grad(ssim_map(x, y, padding).square().mean(), (x, y))  # type: ignore[arg-type]
    exact = x.detach().double().requires_grad_(), y.detach().double().requires_grad_()
    wanted = torch.autograd.grad(ssim_reference(*exact, padding == "valid", 1.0).square().mean(), exact)
    for got, want in zip(grads, wanted, strict=True):
        assert_alike(got, want, "gradient", BOUNDS)
    with torch.no_grad():
        assert not ssim_map(x, y).requires_grad
    frozen = y.detach()
    (alone,) = torch.autograd.grad(ssim_map(x, frozen, padding).square().mean(), x)  # type: ignore[arg-type]
    assert_alike(alone, grads[0], "gradient of image alone")


def test_twin_by_finite_differences() -> None:
    for shape, valid in (((1, 12, 11, 1), True), ((1, 4, 3, 2), False)):
        inputs = tuple(t.double().requires_grad_() for t in pictures(*shape))
        assert torch.autograd.gradcheck(lambda a, b, v=valid: ssim_reference(a, b, v, 1.0), inputs)


def test_the_window_is_a_gaussian_of_sigma_1_5() -> None:
    kernel = window(torch.zeros(1, dtype=torch.float64))
    assert float(kernel.sum()) == pytest.approx(1.0, abs=1e-15)
    assert float(kernel[5, 6] / kernel[5, 5]) == pytest.approx(np.exp(-1 / 4.5))
    assert float(kernel[0, 5] / kernel[5, 5]) == pytest.approx(np.exp(-25 / 4.5))


def test_flat_pictures_by_hand() -> None:
    """Without variance only the light term is left: (2ab + c1) / (a² + b² + c1). Variances round to some 1e-8."""
    a, b = torch.full((1, 20, 20, 1), 0.5), torch.full((1, 20, 20, 1), 0.25)
    expected = (2 * 0.5 * 0.25 + 1e-4) / (0.5**2 + 0.25**2 + 1e-4)
    assert ssim_map(a, b, "valid").numpy() == pytest.approx(expected, abs=1e-3)
    assert ssim_map(a, a, "valid").numpy() == pytest.approx(1.0, abs=1e-3)
    scaled = ssim_map(a * 255.0, b * 255.0, "valid", 255.0)
    assert scaled.numpy() == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_a_picture_is_like_itself(padding: str) -> None:
    x, y = pictures(1, 30, 31, 3)
    assert ssim_map(x, x, padding).numpy() == pytest.approx(1.0, abs=1e-5)  # type: ignore[arg-type]
    assert float(ssim_map(x, y, padding).max()) <= 1.0 + 1e-5  # type: ignore[arg-type]
    assert torch.equal(ssim_map(x, y), ssim_map(y, x)), "neither comes first"


def test_valid_is_the_middle_of_same() -> None:
    x, y = pictures(2, 30, 41, 3)
    assert torch.equal(ssim_map(x, y, "valid"), ssim_map(x, y)[:, 5:-5, 5:-5])


def test_scikit_image_agrees() -> None:
    """Its Gaussian window has the same eleven pixels (truncate = 3.5), and it averages where the window fits."""
    x, y = pictures(1, 48, 57, 3)
    expected = structural_similarity(
        x[0].double().numpy(), y[0].double().numpy(), channel_axis=2, gaussian_weights=True, sigma=1.5,
        use_sample_covariance=False, data_range=1.0,
    )  # fmt: skip
    assert float(ssim_map(x, y, "valid").mean()) == pytest.approx(expected, abs=1e-6)


def test_torchmetrics_agrees(torchmetrics: ModuleType) -> None:
    """In the middle: at the border it takes mirrored pixels."""
    x, y = (t.requires_grad_() for t in pictures(2, 40, 33, 3))
    ours = ssim_map(x, y, "valid")
    _, whole = torchmetrics.functional.image.structural_similarity_index_measure(
        x.permute(0, 3, 1, 2), y.permute(0, 3, 1, 2), data_range=1.0, return_full_image=True
    )
    theirs = whole.permute(0, 2, 3, 1)[:, 5:-5, 5:-5]
    assert_alike(ours, theirs, "map", BOUNDS)
    loose = Bounds(relative_l1=1e-3, relative_l2=1e-3)  # its variances are float32, too
    grads = (torch.autograd.grad(t.mean(), (x, y)) for t in (ours, theirs))
    for got, want in zip(*grads, strict=True):
        assert_alike(got, want, "gradient", loose)


@pytest.mark.parametrize("shape", [(0, 20, 20, 3), (1, 0, 20, 3), (1, 20, 0, 3), (1, 20, 20, 0)])
def test_empty_pictures_give_empty_maps(shape: tuple[int, ...]) -> None:
    x = torch.zeros(shape, requires_grad=True)
    found = ssim_map(x, x.detach())
    assert found.shape == shape
    found.sum().backward()
    assert x.grad is not None and x.grad.shape == shape


def test_leading_axes() -> None:
    x, y = pictures(6, 15, 16, 3)
    batched = ssim_map(x, y)
    assert torch.equal(ssim_map(x[2], y[2]), batched[2])
    assert torch.equal(ssim_map(x.reshape(2, 3, 15, 16, 3), y.reshape(2, 3, 15, 16, 3)).flatten(0, 1), batched)


def test_pictures_with_strides_are_those_without() -> None:
    x, y = pictures(1, 20, 24, 3)
    turned = x.permute(0, 2, 1, 3).contiguous().permute(0, 2, 1, 3)
    assert not turned.is_contiguous()
    assert torch.equal(ssim_map(turned, y), ssim_map(x, y))


def test_nan_and_huge_values_spread_no_further_than_the_window() -> None:
    for value in (float("nan"), float("inf"), 3e38):
        x, y = pictures(1, 60, 60, 1)
        clean = ssim_map(x, y)
        x[0, 30, 30] = value
        found = ssim_map(x, y)
        far = torch.ones(60, 60, dtype=torch.bool)
        far[25:36, 25:36] = False
        assert torch.equal(found[0, :, :, 0][far], clean[0, :, :, 0][far])


def test_operators_are_registered_as_torch_wants_them() -> None:
    x, y = (t.requires_grad_() for t in pictures(1, 13, 12, 2))
    torch.library.opcheck(ssim._ssim, (x, y, False, 1.0, True))
    torch.library.opcheck(ssim._ssim, (x.detach(), y.detach(), True, 1.0, False))
    partials = ssim._ssim(x.detach(), y.detach(), False, 1.0, True)[1]
    arguments = (x.detach(), y.detach(), partials, torch.rand(1, 13, 12, 2), False, True, False)
    torch.library.opcheck(ssim._ssim_backward, arguments)


@pytest.mark.native
def test_without_the_native_library_the_twin_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = (t.requires_grad_() for t in pictures(1, 15, 16, 3))
    native = ssim_map(x, y)
    grads = torch.autograd.grad(native.sum(), (x, y))
    monkeypatch.setattr(_native, "available", lambda: False)
    twin = ssim_map(x, y)
    assert_alike(twin, native, "map", BOUNDS)
    for got, want in zip(torch.autograd.grad(twin.sum(), (x, y)), grads, strict=True):
        assert_alike(got, want, "gradient", Bounds(relative_l1=1e-3, relative_l2=1e-3, rtol=1e-2, atol=1e-2))


def test_what_does_not_fit_is_refused() -> None:
    x = torch.zeros(1, 10, 20, 3)
    with pytest.raises(ShapeError, match='"valid" needs pictures of at least 11 x 11 pixels, found 10 x 20'):
        ssim_map(x, x, "valid")
    with pytest.raises(ShapeError, match=r"float32, found torch\.float64"):
        ssim_map(x.double(), x.double())
    with pytest.raises(ShapeError, match="data_range must be positive"):
        ssim_map(x, x, data_range=0.0)
