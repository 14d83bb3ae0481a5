"""Scan-to-mesh scores on surfaces where the answer is known, and what must not change them."""

from __future__ import annotations

import numpy as np
import pytest

from headrecon.errors import InputError
from headrecon.evaluation.now_protocol import face_region
from headrecon.evaluation.scan_alignment import align_mesh_to_scan, distances_to
from headrecon.evaluation.scan_to_mesh import EvaluationOptions, evaluate_mesh
from headrecon.geometry import so3
from headrecon.geometry.alignment import Similarity
from headrecon.geometry.closest import SurfaceIndex
from headrecon.io.meshes.topology import vertex_normals
from headrecon.structures import Mesh, triangulate
from tests.evaluation.shapes import moved, relief, sphere

EVERYTHING = EvaluationOptions(radius_mm=1000.0)


def test_a_ball_one_millimetre_too_small_errs_by_one_millimetre() -> None:
    """The scan's vertices lie 1 mm outside the same vertices of the prediction, which are then the nearest places.

    A thousandth of a millimetre is how close the solver comes to a minimum that is a kink (every vertex of the ball).
    """
    ball, marks = sphere(100.0)
    score = evaluate_mesh(ball, marks, Mesh(ball.vertices * 1.01, ball.faces), marks * 1.01, EVERYTHING)
    assert score.metric.median_mm == pytest.approx(1.0, abs=3e-3) and score.metric.mean_mm == pytest.approx(
        1.0, abs=3e-3
    )
    assert score.metric.std_mm < 0.04 and score.metric.alignment.scale == 1.0
    assert score.scale_free.mean_mm < 1e-4 and score.scale_free.alignment.scale == pytest.approx(1.01, abs=1e-6)
    assert len(score.vertex_ids) == score.region_vertices == len(ball.vertices)


@pytest.mark.parametrize(("unit", "factor"), [("mm", 1.0), ("cm", 0.1), ("m", 0.001)])
def test_position_and_unit_of_the_scan_do_not_matter(unit: str, factor: float) -> None:
    """The unit is told from the eyes; to a thousandth of a millimetre, where the solver stops."""
    predicted, marks = relief(nose=14.0)
    scan, scan_marks = relief(step=5.0)
    plain = evaluate_mesh(predicted, marks, scan, scan_marks)
    assert 0.2 < plain.metric.mean_mm < 3.0  # the noses differ by 8 mm
    other = Mesh(moved(scan.vertices, 3, factor), scan.faces)
    for given in (None, unit):
        found = evaluate_mesh(predicted, marks, other, moved(scan_marks, 3, factor), EvaluationOptions(scan_unit=given))
        np.testing.assert_allclose(found.metric.distances_mm, plain.metric.distances_mm, atol=3e-3)
        np.testing.assert_allclose(found.scale_free.distances_mm, plain.scale_free.distances_mm, atol=3e-3)
        assert found.scan_mm_per_unit == pytest.approx(1 / factor)


def test_the_scale_free_score_ignores_the_size_of_the_prediction() -> None:
    scan, scan_marks = relief(step=5.0)
    one, marks = relief(nose=14.0)
    plain = evaluate_mesh(one, marks, scan, scan_marks)
    larger = evaluate_mesh(Mesh(one.vertices * 1.15, one.faces), marks * 1.15, scan, scan_marks)
    assert larger.scale_free.mean_mm == pytest.approx(plain.scale_free.mean_mm, abs=1e-3)
    assert larger.scale_free.alignment.scale * 1.15 == pytest.approx(plain.scale_free.alignment.scale, rel=1e-4)
    assert larger.metric.mean_mm > plain.metric.mean_mm + 0.3


def test_noise_is_measured_as_what_it_is() -> None:
    """The mean of |N(0, s)| is s sqrt(2 / pi), the median 0.674 s; 6 % is three standard errors of 2,500 points."""
    surface, marks = relief(step=2.5)
    rng = np.random.default_rng(0)
    noisy = surface.vertices + [0, 0, 1] * rng.normal(size=(len(surface.vertices), 1)) * 0.05
    score = evaluate_mesh(surface, marks, Mesh(noisy, surface.faces), marks)
    # Heights err by 0.05; the distance is that times the cosine of the slope, the relief's known normal.
    upright = vertex_normals(surface.vertices, triangulate(surface.faces)[0])[score.vertex_ids, 2]
    assert score.metric.mean_mm == pytest.approx(0.05 * np.sqrt(2 / np.pi) * upright.mean(), rel=0.06)


def test_landmarks_a_few_millimetres_off_do_not_matter() -> None:
    predicted, marks = relief(nose=14.0)
    scan, scan_marks = relief(step=5.0)
    good = evaluate_mesh(predicted, marks, scan, scan_marks, EvaluationOptions(radius_mm=95.0))
    shift = np.random.default_rng(1).normal(size=(7, 3)) * 2.0
    off = evaluate_mesh(predicted, marks + shift, scan, scan_marks, EvaluationOptions(radius_mm=95.0))
    assert off.metric.mean_mm == pytest.approx(good.metric.mean_mm, abs=2e-3)
    assert off.scale_free.mean_mm == pytest.approx(good.scale_free.mean_mm, abs=2e-3)


def test_the_alignment_is_a_minimum() -> None:
    """No small turn, shift or change of size lowers the squared distances."""
    predicted, _ = relief(nose=17.0)
    scan, _ = relief(step=5.0)
    surface = SurfaceIndex(predicted.vertices, triangulate(predicted.faces)[0])
    inner = scan.vertices[np.linalg.norm(scan.vertices[:, :2], axis=1) < 80]
    start = Similarity(np.eye(3), np.array([2.0, -1.0, 3.0]), 1.0)
    pose = align_mesh_to_scan(surface, inner, start, with_scale=True)
    least = (distances_to(surface, inner, pose) ** 2).sum()
    assert least < 0.5 * (distances_to(surface, inner, start) ** 2).sum()
    rng = np.random.default_rng(0)
    for _ in range(12):
        turn = so3.exp(rng.normal(size=3) * 1e-3)
        near = Similarity(turn @ pose.rotation, pose.translation + rng.normal(size=3) * 0.05, pose.scale)
        assert (distances_to(surface, inner, near) ** 2).sum() >= least * (1 - 1e-6)


def test_what_is_not_finite_is_left_out() -> None:
    """Broken vertices of the scan are not scored; faces of the prediction that touch one do not count."""
    surface, marks = relief()
    scan = surface.vertices.copy()
    scan[::5] = np.nan
    score = evaluate_mesh(surface, marks, Mesh(scan, surface.faces), marks)
    assert score.metric.mean_mm < 1e-6 and not (score.vertex_ids % 5 == 0).any()
    errors = score.per_vertex(score.metric)
    assert np.isnan(errors[::5]).all() and np.isfinite(errors).sum() == len(score.vertex_ids)
    broken = surface.vertices.copy()
    broken[100] = np.inf
    assert evaluate_mesh(Mesh(broken, surface.faces), marks, surface, marks).metric.median_mm < 1e-6


def test_holes_repeated_and_degenerate_faces_and_clouds() -> None:
    surface, marks = relief()
    triangles = triangulate(surface.faces)[0]
    messy = np.concatenate([triangles[::2], triangles, triangles[:50, [0, 0, 1]], triangles[:40, ::-1]])
    plain = evaluate_mesh(relief(nose=14.0)[0], marks, surface, marks)
    for faces in (messy, np.zeros((0, 3), np.int64)):  # a cloud of points is a scan, too
        found = evaluate_mesh(relief(nose=14.0)[0], marks, Mesh(surface.vertices, faces), marks)
        np.testing.assert_array_equal(found.metric.distances_mm, plain.metric.distances_mm)
    found = evaluate_mesh(Mesh(surface.vertices, messy), marks, surface, marks)
    assert found.metric.mean_mm < 1e-6


def test_huge_scans_are_thinned_the_same_way_each_time() -> None:
    predicted, marks = relief(nose=14.0)
    scan, scan_marks = relief(step=1.0)
    few = EvaluationOptions(max_points=3000, align_points=1000)
    one, two = (evaluate_mesh(predicted, marks, scan, scan_marks, few) for _ in range(2))
    np.testing.assert_array_equal(one.vertex_ids, two.vertex_ids)
    np.testing.assert_array_equal(one.metric.distances_mm, two.metric.distances_mm)
    assert len(one.vertex_ids) == 3000 < one.region_vertices
    every = evaluate_mesh(predicted, marks, scan, scan_marks)
    assert one.metric.mean_mm == pytest.approx(every.metric.mean_mm, rel=0.12)  # four standard errors of 3,000 points


def test_the_region_is_the_protocols() -> None:
    """By hand: eyes 90 apart, nose 40 long: radius 0.7 * 130 = 91, centre three tenths up the nose."""
    marks = np.array(
        [(-45, 40, 0), (-15, 40, 0), (15, 40, 0), (45, 40, 0), (0, 0, 0), (-25, -20, 0), (25, -20, 0)], float
    )
    centre, radius = face_region(marks)
    np.testing.assert_allclose(centre, [0, 12, 0])
    assert radius == pytest.approx(91.0)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m: m[[3, 2, 1, 0, 4, 6, 5]], "swapped"),
        (lambda m: m[[4, 1, 2, 3, 0, 5, 6]], "right eye, outer corner; right eye, inner corner"),
        (lambda m: m[:6], "shape"),
        (lambda m: np.where(np.arange(7)[:, None] == 2, np.nan, m), "not finite"),
        (lambda m: m[[0, 0, 2, 3, 4, 5, 6]], "coincide"),
        (lambda m: m * 17.0, "unit"),
        (lambda m: m + [0, 0, 900.0], "scan vertices lie within"),
    ],
)
def test_wrong_landmarks_are_named(change, says: str) -> None:
    surface, marks = relief()
    with pytest.raises(InputError, match=says):
        evaluate_mesh(surface, marks, surface, change(marks))


def test_landmarks_of_another_mesh_are_refused() -> None:
    surface, marks = relief()
    with pytest.raises(InputError, match="away from its surface"):
        evaluate_mesh(surface, marks + [0, 0, 60.0], surface, marks)


@pytest.mark.parametrize("unit", ["inch", 0.0, -1.0, float("nan"), "inf"])
def test_bad_units_are_refused(unit) -> None:
    surface, marks = relief()
    with pytest.raises(InputError, match="mm, cm, m or a number"):
        evaluate_mesh(surface, marks, surface, marks, EvaluationOptions(scan_unit=unit))


def test_a_prediction_needs_faces() -> None:
    surface, marks = relief()
    with pytest.raises(InputError, match="no faces"):
        evaluate_mesh(Mesh(surface.vertices, np.zeros((0, 3), np.int64)), marks, surface, marks)
