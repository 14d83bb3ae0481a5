"""A finer mesh over a coarse one."""

from __future__ import annotations

import numpy as np
import pytest

from headrecon.geometry.mesh import edge_faces
from headrecon.geometry.refinement import Refinement
from headrecon.structures import Mesh, triangulate
from tests.synthetic_assets import make_tiny_assets


def refined(mesh: Mesh, longest: float) -> Mesh:
    return Refinement.of(mesh, longest).mesh(mesh.vertices)


def octahedron(halvings: int) -> tuple[np.ndarray, np.ndarray]:
    """A unit ball made by splitting an octahedron and pushing its vertices out."""
    points = np.concatenate([np.eye(3), -np.eye(3)])
    faces = np.array([(0, 1, 2), (1, 3, 2), (3, 4, 2), (4, 0, 2), (1, 0, 5), (3, 1, 5), (4, 3, 5), (0, 4, 5)])
    for _ in range(halvings):
        corners = points[faces]
        middles = (corners + np.roll(corners, -1, axis=1)) / 2
        a, b, c = corners.transpose(1, 0, 2)
        ab, bc, ca = middles.transpose(1, 0, 2)
        soup = np.concatenate([np.stack(t, 1) for t in ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))])
        points, index = np.unique(soup.reshape(-1, 3).round(9), axis=0, return_inverse=True)
        points /= np.linalg.norm(points, axis=1, keepdims=True)
        faces = index.reshape(-1, 3)
    return points, faces


def longest_edge(mesh: Mesh) -> float:
    corners = np.asarray(mesh.vertices)[triangulate(mesh.faces)[0]]
    return float(np.linalg.norm(corners - np.roll(corners, -1, axis=1), axis=-1).max())


def test_a_ball_becomes_rounder_and_keeps_its_vertices() -> None:
    points, faces = octahedron(2)
    ball = Mesh(0.1 * points, faces)
    fine = refined(ball, longest=0.02)
    np.testing.assert_allclose(fine.vertices[: len(points)], ball.vertices, atol=1e-7)
    middles = fine.vertices[fine.faces].mean(1)
    flat = ball.vertices[ball.faces].mean(1)
    off, off_before = (np.median(0.1 - np.linalg.norm(m, axis=1)) for m in (middles, flat))
    assert off < 0.2 * off_before
    # Never outside: a picture must not show a head that is larger than the one that is written.
    assert np.linalg.norm(fine.vertices, axis=1).max() < 0.1 * 1.005
    assert longest_edge(fine) < 1.1 * 0.02


def test_the_surface_stays_closed_and_keeps_its_sides() -> None:
    points, faces = octahedron(1)
    stretched = points * (0.02, 0.05, 0.1)  # some edges are long and some are not: all patterns of halving
    fine = refined(Mesh(stretched, faces), longest=0.03)
    _, beside = edge_faces(fine.faces)
    assert (beside >= 0).all()
    corners = fine.vertices[fine.faces].astype(np.float64)
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    assert ((normal * corners.mean(1)).sum(1) > 0).all()
    assert len(np.unique(np.sort(fine.faces, axis=1), axis=0)) == len(fine.faces)


def test_uvs_go_along_across_seams() -> None:
    """On a flat sheet whose UVs are its coordinates, shifted on one side of a seam, they still are after halving."""
    x, y = np.meshgrid(np.arange(4.0), np.arange(3.0))
    points = 0.01 * np.stack([x.ravel(), y.ravel(), 0 * x.ravel()], 1)
    quads = np.array([(r * 4 + c, r * 4 + c + 1, r * 4 + c + 5, r * 4 + c + 4) for r in range(2) for c in range(3)])
    uvs = np.concatenate([points[:, :2], points[:, :2] + 5.0]).astype(np.float32)
    uv_faces = np.where((quads.min(1) % 4 >= 1)[:, None], quads + 12, quads)
    fine = refined(Mesh(points, quads, uvs, uv_faces), longest=0.006)
    assert fine.uvs is not None
    assert fine.uv_faces is not None
    assert len(fine.uv_faces) == len(fine.faces) > 12
    at, uv = fine.vertices[fine.faces][..., :2], fine.uvs[fine.uv_faces]
    side = (fine.vertices[fine.faces].mean(1)[:, 0] > 0.01)[:, None, None]
    np.testing.assert_allclose(uv, np.where(side, at + 5.0, at), atol=1e-6)
    np.testing.assert_allclose(fine.vertices[:, 2], 0, atol=1e-9)


def test_creases_and_short_edges_are_left_alone() -> None:
    """The sides of a thin wedge meet at an edge with opposite normals: its middle stays on it."""
    head = make_tiny_assets()
    small = refined(Mesh(head.v_template, head.faces, head.uvs, head.uv_faces), longest=10.0)
    np.testing.assert_array_equal(small.faces, triangulate(head.faces)[0])
    np.testing.assert_array_equal(small.vertices, head.v_template)
    wedge = np.array([(0, 0, 0), (0.04, 0, 0), (0, 0.02, 0.001), (0.04, 0.02, 0.001), (0, 0.02, -0.001)])
    fine = refined(Mesh(wedge, np.array([(0, 1, 3), (0, 3, 2), (1, 0, 4)])), longest=0.03)
    new = fine.vertices[len(wedge) :]
    assert np.abs(new[:, 2]).max() < 0.0021
    assert np.abs(new - [0.02, 0, 0]).sum(1).min() == pytest.approx(0, abs=1e-3)


def test_one_refinement_serves_all_poses() -> None:
    """Faces and UVs stay; vertices are those of a mesh that is refined anew where the same edges are long."""
    head = make_tiny_assets()
    mesh = Mesh(head.v_template, head.faces, head.uvs, head.uv_faces)
    plan = Refinement.of(mesh, 0.006)
    moved = head.v_template @ np.array([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], np.float32) + 0.3
    again = plan.mesh(moved)
    anew = refined(Mesh(moved, head.faces, head.uvs, head.uv_faces), 0.006)
    np.testing.assert_array_equal(again.faces, anew.faces)
    np.testing.assert_allclose(again.vertices, anew.vertices, atol=1e-6)
    np.testing.assert_array_equal(again.uvs, anew.uvs)


def test_values_in_between_are_means() -> None:
    mesh = Mesh(np.eye(3, dtype=np.float32), np.array([[0, 1, 2]]))
    plan = Refinement.of(mesh, 1.0)
    values = np.array([[0.0], [2.0], [6.0]])
    spread = plan.spread(values)
    assert spread.shape == (len(plan.mesh(mesh.vertices).vertices), 1)
    assert sorted(spread[3:6, 0]) == [1.0, 3.0, 4.0]
