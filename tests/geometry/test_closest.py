"""Closest points on a mesh against brute force over a fine sampling and against trimesh's formula."""

from __future__ import annotations

import numpy as np
import pytest
from trimesh.triangles import closest_point

from headrecon.geometry.closest import barycentrics_of_closest, closest_points


def test_barycentrics_agree_with_trimesh() -> None:
    rng = np.random.default_rng(0)
    corners, points = rng.normal(size=(500, 3, 3)), rng.normal(size=(500, 3)) * 2
    bary = barycentrics_of_closest(points, corners)
    found = (bary[..., None] * corners).sum(1)
    np.testing.assert_allclose(found, closest_point(corners, points), atol=1e-9)  # same maths in float64
    assert (bary >= -1e-12).all() and np.allclose(bary.sum(1), 1)


def test_degenerate_triangle_gives_a_point_on_it() -> None:
    corners = np.array([[[0.0, 0, 0], [1, 0, 0], [2, 0, 0]]])
    bary = barycentrics_of_closest(np.array([[1.5, 1.0, 0]]), corners)
    np.testing.assert_allclose((bary[..., None] * corners).sum(1), [[1.5, 0, 0]], atol=1e-12)


def test_finds_the_nearest_even_on_uneven_meshes() -> None:
    """One huge triangle among small ones: its centroid is far away, yet it may be nearest."""
    rng = np.random.default_rng(1)
    small = rng.normal(size=(200, 1, 3)) + 0.05 * rng.normal(size=(200, 3, 3))
    huge = np.array([[[-20.0, -20, 0.1], [20, -20, 0.1], [0, 30, 0.1]]])
    corners = np.concatenate([small, huge])
    triangles = np.arange(len(corners) * 3).reshape(-1, 3)
    points = rng.normal(size=(60, 3))
    face, bary = closest_points(corners.reshape(-1, 3), triangles, points)
    found = np.linalg.norm((bary[..., None] * corners[face]).sum(1) - points, axis=1)
    every = np.stack(
        [np.linalg.norm(closest_point(corners, np.tile(p, (len(corners), 1))) - p, axis=1) for p in points]
    )
    np.testing.assert_allclose(found, every.min(1), atol=1e-9)
    assert (face == len(corners) - 1).any()


def test_no_triangles_is_an_error() -> None:
    with pytest.raises(ValueError, match="no triangles"):
        closest_points(np.zeros((3, 3)), np.zeros((0, 3), dtype=int), np.zeros((1, 3)))
