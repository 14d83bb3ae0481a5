"""Creases of the photo's expression, which a neutral face does not have."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from headrecon.appearance.folds import fold_weight, least_stretch
from headrecon.appearance.texels import bake_texels
from headrecon.appearance.texture import make_texture
from headrecon.errors import ShapeError
from headrecon.geometry.cameras import project_points
from headrecon.geometry.so3 import exp
from headrecon.structures import triangulate
from tests.appearance.test_texture import SIZE, as_float, assets, take_photo, truth

__all__ = ["assets", "truth"]  # fixtures


def sheet(count: int = 12) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.meshgrid(np.arange(count), np.arange(count))
    points = 0.005 * np.stack([x.ravel(), y.ravel(), 0.3 * np.sin(x.ravel())], 1).astype(np.float64)
    cells = [
        (r * count + c, r * count + c + 1, (r + 1) * count + c) for r in range(count - 1) for c in range(count - 1)
    ]
    lower = [(b, a + count + 1, a + count) for a, b, _ in cells]
    return points, np.array([*cells, *lower])


def turned(points: np.ndarray) -> np.ndarray:
    return points @ exp(np.array([0.4, -1.1, 0.3])).T + (0.1, 0.2, -1.0)


@pytest.mark.parametrize("share", [0.7, 1.0, 1.3])
def test_stretch_of_a_flat_sheet_is_what_was_done_to_it(share: float) -> None:
    points, triangles = sheet()
    points[:, 2] = 0
    slanted = points @ exp(np.array([0.0, 0.0, 0.7])).T
    found = least_stretch(slanted, turned(slanted * (share, 1.0, 1.0)), triangles)
    np.testing.assert_allclose(found, min(share, 1.0), atol=1e-9)


def test_moving_and_bending_is_no_fold() -> None:
    points, triangles = sheet()
    assert fold_weight(points, turned(points), triangles).max() == 0
    assert fold_weight(points, turned(1.3 * points), triangles).max() == 0
    flat = points * (1, 1, 0)
    rolled = np.stack([0.03 * np.sin(flat[:, 0] / 0.03), flat[:, 1], 0.03 * np.cos(flat[:, 0] / 0.03)], 1)
    assert fold_weight(flat, rolled, triangles).max() < 1e-3  # a chord is a little shorter than its arc


def test_what_is_squeezed_folds_and_what_lies_far_does_not() -> None:
    points, triangles = sheet()
    squeezed = points.copy()
    left = points[:, 0] < 0.021
    squeezed[left, 0] = 0.021 - 0.6 * (0.021 - points[left, 0])
    weight = fold_weight(points, turned(squeezed), triangles)
    assert weight[points[:, 0] < 0.014].min() > 0.9
    assert weight[points[:, 0] > 0.044].max() < 0.05


@pytest.mark.parametrize("half_width", [0.003, 0.009])
def test_a_dark_crease_in_squeezed_skin_is_not_the_skins_own(assets, truth, half_width: float) -> None:
    """A line on the cheek, or a shaded hollow, goes when the expression squeezes the cheek, and else stays."""
    texels = bake_texels(assets, SIZE)
    points = texels.interpolate(torch.from_numpy(assets.v_template))
    cheek = (texels.part == 0) & (points[:, 2] > 0) & ((points[:, 0] - 0.035).abs() < half_width)
    cheek &= (points[:, 1] + 0.02).abs() < 4 * half_width
    photo = take_photo(assets, truth)
    pixels, _ = project_points(points[cheek], photo.cameras)
    image = photo.image_srgb.clone()
    (x0, y0), (x1, y1) = pixels.amin(0).floor().int().tolist(), pixels.amax(0).ceil().int().tolist()
    image[y0:y1, x0:x1] *= 0.45
    creased = dataclasses.replace(photo, image_srgb=image)
    # At rest the cheek is much wider than in the photo.
    rest = assets.v_template.copy()
    rest[:, 0] += 0.5 * np.clip(rest[:, 0] - 0.015, 0, 0.04) * (rest[:, 2] > 0)

    def line(**known: np.ndarray) -> float:
        made = as_float(make_texture(assets, assets.v_template, creased, SIZE, **known).image)
        return float(made.reshape(-1, 3)[texels.index[cheek]].mean())

    clean = as_float(make_texture(assets, assets.v_template, photo, SIZE).image).reshape(-1, 3)
    skin = float(clean[texels.index[cheek]].mean())
    dark = skin - line()
    assert dark > 0.08
    assert line(rest=assets.v_template) == pytest.approx(skin - dark, abs=1e-6)
    assert skin - line(rest=rest) < 0.4 * dark


def test_the_head_at_rest_has_to_be_the_same_head(assets, truth) -> None:
    with pytest.raises(ShapeError, match="rest"):
        make_texture(assets, assets.v_template, take_photo(assets, truth), 64, rest=np.zeros((3, 3), np.float32))
    assert len(fold_weight(assets.v_template, assets.v_template, triangulate(assets.faces)[0])) == assets.num_vertices
