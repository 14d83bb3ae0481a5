"""The photo bent so that its features lie on the head's: known displacements come back, nothing else moves."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from headrecon.appearance import feature_alignment as fa
from headrecon.appearance.projection import Photo
from headrecon.perception.mesh_features import BROWS, EYES_AND_MOUTH, LIPS
from headrecon.structures import Cameras, HeadAssets

SIZE = 400
SEEN = np.ones(468)
LIP, BROW, CHEEK, NOSE_BASE = 0, 105, 234, 2


@pytest.fixture(scope="module")
def on_head(anny_assets: HeadAssets) -> np.ndarray:
    """Points of the mean head seen from the front, eyes about 100 pixels apart."""
    e = anny_assets.landmarks["mediapipe478"]
    points = (anny_assets.v_template[e.vertex_ids] * e.barycentrics[..., None]).sum(1)[:468]
    flat = (points - points[6])[:, :2] * (1600.0, -1600.0)
    return (flat + SIZE / 2).astype(np.float64)


def photo(picture: np.ndarray, points: np.ndarray) -> Photo:
    k = torch.tensor([[600.0, 0, SIZE / 2], [0, 600.0, SIZE / 2], [0, 0, 1]])
    openings = tuple(points[list(rim)] for rim in EYES_AND_MOUTH)
    iris = np.stack([points[159] + np.zeros((5, 2)), points[386] + np.zeros((5, 2))])
    return Photo(torch.from_numpy(picture), Cameras(torch.eye(4), k, SIZE, SIZE), None, iris, openings)


def shifted_lips(points: np.ndarray, by: tuple[float, float]) -> np.ndarray:
    out = points.copy()
    out[list(LIPS)] += by
    out[list(EYES_AND_MOUTH[2])] += by
    return out


def test_the_field_takes_each_feature_to_where_it_was_detected(on_head: np.ndarray) -> None:
    field = fa.feature_field(on_head, shifted_lips(on_head, (3.0, -4.0)), SEEN)
    # The noise of a point (0.6 % of the eye distance) leaves some of four pixels.
    np.testing.assert_allclose(field(on_head[[LIP]])[0], (3.0, -4.0), atol=0.5)
    assert np.abs(field(on_head[[CHEEK]])).max() < 0.1  # far from all features nothing moves
    assert np.abs(field(on_head[[33, 263]])).max() < 0.6


def test_brows_stay_and_the_base_of_the_nose_is_where_people_have_it(on_head: np.ndarray) -> None:
    detected = on_head.copy()
    detected[list(BROWS)] += (0.0, 12.0)
    field = fa.feature_field(on_head, detected, SEEN)
    assert np.abs(field(detected[[BROW]])).max() < 1.0
    unit = np.linalg.norm(on_head[263] - on_head[33]) / 1.45
    expected = fa._BASE_TOO_LOW * unit  # what the head's embedding has too low is looked up lower in the photo
    np.testing.assert_allclose(field(on_head[[NOSE_BASE]])[0], (0.0, expected), atol=0.4 * expected)


def test_hidden_and_undefined_points_do_not_count(on_head: np.ndarray) -> None:
    detected = shifted_lips(on_head, (0.0, 6.0))
    hidden = SEEN.copy()
    hidden[[*LIPS, *EYES_AND_MOUTH[2]]] = 0.0
    assert np.abs(fa.feature_field(on_head, detected, hidden)(on_head[[17]])).max() < 1.0
    detected[[0, 17]] = np.nan
    assert np.isfinite(fa.feature_field(on_head, detected, SEEN)(on_head)).all()
    nothing = fa.feature_field(on_head, detected, np.zeros(468))
    picture = np.zeros((SIZE, SIZE, 3), np.uint8)
    assert fa.align_features(photo(picture, on_head), nothing).image_srgb is not None
    assert np.abs(nothing(on_head)).max() == 0


def test_the_picture_never_folds(on_head: np.ndarray) -> None:
    wild = on_head + np.random.default_rng(0).normal(0, 60, on_head.shape)
    field = fa.feature_field(on_head, wild, SEEN)
    step = 0.5
    here = field(on_head)
    for axis in np.eye(2):
        along = 1.0 + ((field(on_head + step * axis) - here) / step) @ axis
        assert along.min() > 0.3, "a step to the side in the head must stay one in the photo"


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_what_the_photo_shows_moves_onto_the_head(on_head: np.ndarray, dtype: type) -> None:
    full = 255 if dtype == np.uint8 else 1.0
    detected = shifted_lips(on_head, (5.0, 4.0))
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    spot = np.exp(-0.5 * ((x - detected[17, 0]) ** 2 + (y - detected[17, 1]) ** 2) / 3.0**2)
    picture = np.repeat((full * spot)[..., None], 3, axis=2).astype(dtype)
    given = photo(picture, detected)
    bent = fa.align_features(given, fa.feature_field(on_head, detected, SEEN))
    assert bent.image_srgb.dtype == given.image_srgb.dtype
    found = bent.image_srgb[..., 0].double().numpy()
    centre = np.array([(found * x).sum(), (found * y).sum()]) / found.sum()
    np.testing.assert_allclose(centre, on_head[17], atol=1.0)
    # The mouth's opening moved with it; the photo that was given did not change.
    np.testing.assert_allclose(bent.openings_px[2].mean(0), on_head[list(EYES_AND_MOUTH[2])].mean(0), atol=1.0)
    assert torch.equal(given.image_srgb, torch.from_numpy(picture))


def test_the_inverse_of_the_field(on_head: np.ndarray) -> None:
    field = fa.feature_field(on_head, shifted_lips(on_head, (5.0, 4.0)), SEEN)
    there = on_head[[0, 17, 61, 33, 4]]
    np.testing.assert_allclose(field.source_of(there + field(there)), there, atol=0.15)
