"""Sampling and blurring against SciPy, which does them too."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, map_coordinates

from headrecon.geometry.sampling import gaussian_blur, sample_bilinear

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(7, 9), (1, 1), (2, 5)])
def test_bilinear(shape: tuple[int, int]) -> None:
    image = RNG.uniform(size=shape)
    x, y = RNG.uniform(-2, shape[1] + 2, (4, 25)), RNG.uniform(-2, shape[0] + 2, (4, 25))
    expected = map_coordinates(image, [y, x], order=1, mode="nearest")
    np.testing.assert_allclose(sample_bilinear(image, x, y), expected, atol=1e-12)


def test_colours_come_out_as_floats() -> None:
    image = np.array([[[0, 255, 10], [100, 5, 10]]], dtype=np.uint8)
    found = sample_bilinear(image, np.array([0.25, 1.0]), np.array([0.0, 0.0]))
    np.testing.assert_allclose(found, [[25.0, 192.5, 10.0], [100.0, 5.0, 10.0]], atol=1e-4)
    assert found.dtype == np.float32


@pytest.mark.parametrize("sigma", [0.6, 1.0, 2.7])
def test_blur(sigma: float) -> None:
    image = RNG.uniform(size=(40, 33))
    np.testing.assert_allclose(
        gaussian_blur(image, sigma), gaussian_filter(image, sigma, truncate=round(4 * sigma) / sigma), atol=1e-12
    )
