"""PSNR and SSIM against scikit-image, and LPIPS against what its package wants to be given."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from headrecon.errors import ShapeError
from headrecon.evaluation import picture_quality
from headrecon.evaluation.picture_quality import perceptual_distance, psnr, ssim


def pictures() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    truth = rng.random((40, 52, 3)).astype(np.float32)
    return np.clip(truth + 0.1 * rng.standard_normal(truth.shape), 0, 1).astype(np.float32), truth


def test_they_agree_with_scikit_image():
    image, truth = pictures()
    assert psnr(image, truth) == pytest.approx(peak_signal_noise_ratio(truth, image, data_range=1), abs=1e-4)
    expected = structural_similarity(
        image, truth, data_range=1, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert ssim(image, truth) == pytest.approx(expected, abs=1e-5)


def test_a_region_is_judged_alone():
    image, truth = pictures()
    region = np.zeros(truth.shape[:2], bool)
    region[10:20, 15:30] = True
    part = psnr(image[10:20, 15:30], truth[10:20, 15:30])
    assert psnr(image, truth, region) == pytest.approx(part, abs=1e-6)
    # Windows of 11 pixels about the region's pixels: the figure of the part that they cover.
    assert ssim(image, truth, region) == pytest.approx(ssim(image[5:25, 10:35], truth[5:25, 10:35]), abs=1e-5)


def test_equal_pictures_have_a_finite_figure():
    _, truth = pictures()
    assert psnr(truth, truth) == pytest.approx(54.15, abs=0.01) and ssim(truth, truth) == pytest.approx(1.0)


def test_what_does_not_fit_is_refused():
    image, truth = pictures()
    with pytest.raises(ShapeError):
        psnr(image, truth[1:])
    with pytest.raises(ShapeError, match="region"):
        psnr(image, truth, np.zeros(truth.shape[:2], bool))
    with pytest.raises(ShapeError):
        ssim(image[:8], truth[:8])


def test_lpips_is_used_only_where_its_network_is(monkeypatch, tmp_path):
    seen = []

    class Network:
        def __init__(self, net: str, verbose: bool) -> None:
            assert net == "alex"

        def eval(self):
            return self

        def __call__(self, image: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
            seen.append((image.shape, float(image.min()), float(image.max())))
            return (image - reference).abs().mean().reshape(1, 1, 1, 1)

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setitem(sys.modules, "lpips", types.SimpleNamespace(LPIPS=Network))
    picture_quality.perceptual_distance.cache_clear()
    assert perceptual_distance()[0] is None and "AlexNet" in perceptual_distance()[1]
    picture_quality.perceptual_distance.cache_clear()
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "alexnet-owt-7be5be79.pth").touch()
    distance, why = perceptual_distance()
    picture_quality.perceptual_distance.cache_clear()
    assert distance is not None and not why
    black, white = np.zeros((16, 16, 3), np.float32), np.ones((16, 16, 3), np.float32)
    assert distance(white, black) == pytest.approx(2.0)  # -1 to 1
    assert seen == [((1, 3, 16, 16), 1.0, 1.0)]
