"""Umeyama's alignment recovers what was applied, and refuses what has no answer."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrecon.errors import ShapeError
from headrecon.geometry import so3
from headrecon.geometry.alignment import Similarity, umeyama


@given(st.integers(0, 2**31 - 1), st.booleans())
@settings(max_examples=60, deadline=None)
def test_recovers_what_was_applied(seed: int, with_scale: bool) -> None:
    rng = np.random.default_rng(seed)
    source = rng.normal(size=(12, 3))
    truth = Similarity(
        so3.exp(rng.normal(size=3)), rng.normal(size=3), float(rng.uniform(0.2, 5)) if with_scale else 1.0
    )
    found = umeyama(source, truth.apply(source), rng.uniform(0.1, 1, 12), with_scale)
    np.testing.assert_allclose(found.matrix, truth.matrix, atol=1e-9)
    np.testing.assert_allclose(found.inverse().apply(truth.apply(source)), source, atol=1e-9)


def test_weights_ignore_outliers_and_mirrors_stay_rotations() -> None:
    rng = np.random.default_rng(5)
    source = rng.normal(size=(10, 3))
    target = source.copy()
    target[0] += 100
    found = umeyama(source, target, np.array([0.0] + [1.0] * 9))
    np.testing.assert_allclose(found.matrix, np.eye(4), atol=1e-9)
    mirrored = umeyama(source, source * [-1, 1, 1])
    assert np.linalg.det(mirrored.rotation) == pytest.approx(1)


def test_planar_points_in_two_dimensions() -> None:
    source = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    found = umeyama(source, source @ np.array([[0.0, 2.0], [-2.0, 0.0]]) + [3.0, 4.0])
    assert found.scale == pytest.approx(2)
    np.testing.assert_allclose(found.rotation, [[0, -1], [1, 0]], atol=1e-12)


def test_refuses_nonsense() -> None:
    with pytest.raises(ShapeError, match="same shape"):
        umeyama(np.zeros((4, 3)), np.zeros((5, 3)))
    with pytest.raises(ShapeError, match="weights"):
        umeyama(np.eye(3), np.eye(3), np.array([1.0, 0.0, 0.0]))
    with pytest.raises(ShapeError, match="same point"):
        umeyama(np.ones((4, 3)), np.eye(4, 3))
