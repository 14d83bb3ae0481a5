"""Regions of an image: where a pixel of the crop comes from, and back."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrecon.perception.crops import Roi, Tile, sample_roi

ROIS = st.builds(Roi, st.floats(-50, 50), st.floats(-50, 50), st.floats(1, 500), st.floats(-math.pi, math.pi))


@given(ROIS)
def test_to_crop_inverts_to_image(roi: Roi) -> None:
    points = np.random.default_rng(0).normal(size=(20, 3))
    np.testing.assert_allclose(roi.to_crop(roi.to_image(points)), points, atol=1e-9)


def test_corners_by_hand() -> None:
    # A square of side 2 about (10, 20), turned a quarter clockwise on the screen: its x axis runs down.
    turned = Roi(10.0, 20.0, 2.0, math.pi / 2)
    np.testing.assert_allclose(turned.corners, [[11, 19], [11, 21], [9, 21], [9, 19]], atol=1e-12)


def ramp(width: int, height: int) -> np.ndarray:
    """A picture whose first two channels are the position of each pixel's centre."""
    y, x = np.mgrid[:height, :width] + 0.5
    return np.stack([x, y, np.zeros_like(x)], axis=-1).round().astype(np.uint8)


@pytest.mark.parametrize("angle", [0.0, 0.3, -1.2, math.pi])
@pytest.mark.parametrize("size", [40.0, 64.0, 150.0])
@pytest.mark.parametrize("mirror", [False, True])
def test_crop_pixels_come_from_where_the_roi_says(angle: float, size: float, mirror: bool) -> None:
    image = ramp(250, 240)
    roi = Roi(125.3, 119.6, size, angle)
    crop = Tile(image, roi, 32).sample(roi, 32, mirror).astype(float)
    j, i = np.mgrid[:32, :32]
    local = np.stack([(i + 0.5) / 32, (j + 0.5) / 32], axis=-1).reshape(-1, 2)
    if mirror:
        local[:, 0] = 1.0 - local[:, 0]
    expected = roi.to_image(local).reshape(32, 32, 2)
    # the ramp is rounded to whole numbers, and each pixel of the crop once more
    np.testing.assert_allclose(crop[..., :2], expected, atol=1.01)
    assert abs((crop[..., :2] - expected).mean()) < 0.52  # rounding 0.5 to even shifts the ramp by up to half


def test_reduction_averages_instead_of_skipping_pixels() -> None:
    checkers = (np.indices((400, 400)).sum(0) % 2 * 255).astype(np.uint8)
    crop = sample_roi(np.repeat(checkers[..., None], 3, 2), Roi(200.0, 200.0, 320.0), 32)
    assert np.abs(crop.astype(int) - 127).max() <= 2


def test_border_is_repeated_and_regions_far_outside_are_black() -> None:
    image = np.full((50, 60, 3), 7, np.uint8)
    image[:, -1] = 200
    crop = sample_roi(image, Roi(60.0, 25.0, 30.0), 30)
    assert (crop[:, 16:] == 200).all()
    assert (crop[:, :12] == 7).all()
    assert not sample_roi(image, Roi(500.0, 500.0, 30.0), 16).any()
