"""The iris close-up, the person mask, and a user's task bundle."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from headrecon.errors import AssetError
from headrecon.perception.attention_mesh import LEFT_IRIS, RIGHT_IRIS
from headrecon.perception.faces import observe_faces
from headrecon.perception.iris import measured_iris, read_eye
from headrecon.perception.iris_rim import fit_rim
from headrecon.perception.mesh_symmetry import mirror_indices
from headrecon.perception.networks import NETWORK_FILES, Networks, load_networks
from headrecon.perception.person_mask import person_mask, refine_edges
from headrecon.perception.task_bundle import LANDMARKS_FILE, NOT_SEEN, load_task_bundle
from headrecon.structures import ARKIT_NAMES, FaceObservation

# Read off an enlargement with a grid, to about half a pixel: centre and width of each iris.
IRISES = {RIGHT_IRIS: ((203.8, 101.0), 7.7), LEFT_IRIS: ((246.8, 103.4), 7.6)}


@pytest.mark.parametrize("which", [RIGHT_IRIS, LEFT_IRIS])
def test_close_up_finds_the_iris(
    astronaut_image: np.ndarray, astronaut: FaceObservation, networks: Networks, which: int
) -> None:
    eye = read_eye(astronaut_image, astronaut.landmarks.astype(float), which, networks.iris)
    center, width = IRISES[which]
    np.testing.assert_allclose(eye.iris[0], center, atol=0.8)
    assert np.linalg.norm(eye.iris[1] - eye.iris[3]) == pytest.approx(width, rel=0.12)
    right, top, left, bottom = eye.iris[1:]
    assert left[0] < center[0] < right[0]
    assert top[1] < center[1] < bottom[1]
    # the lids: the contour surrounds the iris centre
    assert eye.contour[:, 0].min() < left[0]
    assert right[0] < eye.contour[:, 0].max()


def test_close_up_treats_both_eyes_alike(
    astronaut_image: np.ndarray, astronaut: FaceObservation, networks: Networks
) -> None:
    """The left eye of the mirrored picture is the right eye of the picture, exactly: the network sees the same crop."""
    mirrored_image = np.ascontiguousarray(astronaut_image[:, ::-1])
    mirrored = astronaut.landmarks[mirror_indices()].astype(float)
    mirrored[:, 0] = 512 - mirrored[:, 0]
    right = read_eye(astronaut_image, astronaut.landmarks.astype(float), RIGHT_IRIS, networks.iris).iris
    left = read_eye(mirrored_image, mirrored, LEFT_IRIS, networks.iris).iris
    left[:, 0] = 512 - left[:, 0]
    # the looks are turned the other way in the mirror, so that their mean differs a little
    np.testing.assert_allclose(left[[0, 3, 2, 1, 4]], right, atol=0.15)


def drawn_eye(center: tuple[float, float], radius: float, lids: bool, lamp: bool) -> np.ndarray:
    """An iris with pupil on a brighter ground, anti-aliased, its top and bottom behind lids, a lamp mirrored in it."""
    y, x = np.mgrid[:120, :160] + 0.5
    distance = np.hypot(x - center[0], y - center[1])

    def disc(r: float) -> np.ndarray:
        return np.clip(r - distance + 0.5, 0.0, 1.0)

    grey = 190.0 + disc(radius) * (95.0 - 190.0) + disc(0.35 * radius) * (20.0 - 95.0)
    if lamp:
        grey[(np.abs(x - center[0] - 0.8 * radius) < 0.2 * radius) & (np.abs(y - center[1]) < 0.2 * radius)] = 255.0
    if lids:
        grey[y < center[1] - 0.6 * radius] = 140.0
        grey[y > center[1] + 0.85 * radius] = 150.0
    return np.repeat(grey.round().astype(np.uint8)[..., None], 3, axis=2)


@pytest.mark.parametrize("radius", [5.0, 12.0, 20.0])
@pytest.mark.parametrize("guess", [0.9, 1.0, 1.12])
@pytest.mark.parametrize(("lids", "lamp"), [(False, False), (True, True)])
def test_rim_of_a_drawn_eye(radius: float, guess: float, lids: bool, lamp: bool) -> None:
    image = drawn_eye((80.3, 60.6), radius, lids, lamp)
    rim = fit_rim(image, np.array([80.3 + 0.1 * radius, 60.6]), radius * guess, 0.0)
    # The rim moves half of the way or more from a wrong guess; it stays a little with it, as a prior must.
    assert abs(np.log(rim.radius / radius)) < 0.5 * abs(np.log(guess)) + 0.03
    assert abs(rim.center[0] - 80.3) < 0.06 * radius
    assert 0.0 < rim.sigma_log < 0.08


def test_rim_of_a_flat_picture_is_the_expected_one_and_uncertain() -> None:
    rim = fit_rim(np.full((100, 100, 3), 90, np.uint8), np.array([50.0, 50.0]), 10.0, 0.4)
    np.testing.assert_allclose(rim.center, [50.0, 50.0], atol=0.05)
    assert rim.radius == pytest.approx(10.0, rel=0.01)
    assert rim.sigma_log == pytest.approx(0.08, rel=0.1)


@pytest.mark.parametrize("which", [RIGHT_IRIS, LEFT_IRIS])
def test_measured_iris_is_a_circle_of_the_right_size(
    astronaut_image: np.ndarray, astronaut: FaceObservation, which: int
) -> None:
    center, right, top, left, bottom = astronaut.landmarks[which : which + 5, :2]
    expected, width = IRISES[which]
    np.testing.assert_allclose(center, expected, atol=0.6)
    assert np.linalg.norm(right - left) == pytest.approx(width, rel=0.08)
    assert np.linalg.norm(top - bottom) == pytest.approx(np.linalg.norm(right - left), rel=0.02)
    np.testing.assert_allclose((right + left + top + bottom) / 4, center, atol=0.05)


def test_where_the_networks_disagree_the_mesh_is_believed(
    astronaut_image: np.ndarray, astronaut: FaceObservation, networks: Networks
) -> None:
    points = astronaut.landmarks.astype(float)
    points[RIGHT_IRIS : RIGHT_IRIS + 5, 0] += 4.0  # half an iris beside the eye
    kept = measured_iris(astronaut_image, points, RIGHT_IRIS, networks.iris)
    np.testing.assert_array_equal(kept, points[RIGHT_IRIS : RIGHT_IRIS + 5])
    assert kept is not points


def test_mask_of_the_astronaut(astronaut_image: np.ndarray, astronaut: FaceObservation, networks: Networks) -> None:
    mask = person_mask(astronaut_image, networks, astronaut)
    assert mask.shape == (512, 512)
    assert mask.dtype == np.float32
    assert mask.min() >= 0
    assert mask.max() <= 1
    inside = astronaut.landmarks[[1, 33, 263, 61, 291, 152, 10], :2].astype(int)
    assert (mask[inside[:, 1], inside[:, 0]] > 0.9).all()
    assert mask[45, 222] > 0.9, "the top of the hair"
    assert mask[400, 150] > 0.9, "the suit"
    for x, y in ((20, 60), (330, 40), (400, 150)):
        assert mask[y, x] < 0.1, f"background at {x}, {y}"


def test_mask_without_a_face_is_that_of_the_whole_picture(
    astronaut_image: np.ndarray, astronaut: FaceObservation, networks: Networks
) -> None:
    plain = person_mask(astronaut_image, networks)
    close = person_mask(astronaut_image, networks, astronaut)
    both = ((plain > 0.5) & (close > 0.5)).sum() / ((plain > 0.5) | (close > 0.5)).sum()
    assert both > 0.93


def test_mask_of_a_face_at_the_border(astronaut_image: np.ndarray, networks: Networks) -> None:
    cut = np.ascontiguousarray(astronaut_image[60:200, 150:290])
    (face,) = observe_faces(cut, networks)
    mask = person_mask(cut, networks, face)
    assert mask.shape == cut.shape[:2]
    assert np.isfinite(mask).all()
    assert mask[40, 70] > 0.9


def test_guided_filter_moves_a_coarse_edge_onto_the_picture() -> None:
    """Half-plane with its true edge at 60, the mask's at 54 and blurred: afterwards it is where the colours change."""
    image = np.full((120, 120, 3), (60, 80, 70), np.uint8)
    image[:, 60:] = (200, 170, 180)
    coarse = np.clip((np.arange(120) - 54) / 16 + 0.5, 0, 1)[None].repeat(120, 0).astype(np.float32)
    refined = refine_edges(coarse, image, radius_px=12.0)
    assert refined[60, 62] - refined[60, 57] > 0.5
    assert coarse[60, 62] - coarse[60, 57] < 0.35
    assert (refined[:, :40] < 0.05).all()
    assert (refined[:, 85:] > 0.95).all()


def test_guided_filter_of_a_large_picture_is_that_of_the_smaller_one() -> None:
    image = np.full((300, 4000, 3), (60, 80, 70), np.uint8)
    image[:, 2000:] = (200, 170, 180)
    coarse = np.clip((np.arange(4000) - 1900) / 300 + 0.5, 0, 1)[None].repeat(300, 0).astype(np.float32)
    large = refine_edges(coarse, image, radius_px=240.0)
    small = refine_edges(coarse[::4, ::4], np.ascontiguousarray(image[::4, ::4]), radius_px=60.0)
    assert large.shape == (300, 4000)
    np.testing.assert_allclose(large[::4, ::4], small, atol=0.2)  # the samples lie half a pixel apart at the step
    assert large[150, 2010] - large[150, 1990] > 0.5


def test_guided_filter_leaves_a_flat_picture_smooth() -> None:
    flat = np.full((50, 70, 3), 128, np.uint8)
    assert (refine_edges(np.ones((50, 70), np.float32), flat, 5.0) == 1).all()
    assert (refine_edges(np.zeros((50, 70), np.float32), flat, 5.0) == 0).all()


@pytest.fixture(scope="session")
def task_path(shared_data: Path) -> Path:
    return shared_data / "models" / "mediapipe" / "face_landmarker.task"


def test_bundle_gives_points_and_scores(
    astronaut_image: np.ndarray, astronaut: FaceObservation, networks: Networks, task_path: Path
) -> None:
    with_bundle = load_networks(task_bundle=task_path)
    (found,) = observe_faces(astronaut_image, with_bundle)
    error = np.linalg.norm((found.landmarks - astronaut.landmarks)[:, :2], axis=1)
    assert error.mean() < 0.04 * 43  # another network: the two agree to a few per cent of the eye distance
    assert found.blendshapes is not None
    assert tuple(found.blendshapes) == ARKIT_NAMES
    assert all(0 <= score <= 1 for score in found.blendshapes.values())
    assert found.blendshapes["mouthSmileLeft"] > 0.7
    assert found.blendshapes["mouthSmileRight"] > 0.7
    assert found.blendshapes["jawOpen"] < 0.3
    assert found.blendshapes[NOT_SEEN] == 0
    assert len(with_bundle.licences) == 2


def test_bundle_that_is_none(tmp_path: Path, networks: Networks) -> None:
    with pytest.raises(AssetError, match="does not exist"):
        load_task_bundle(tmp_path / "missing.task")
    (tmp_path / "text.task").write_text("no zip")
    with pytest.raises(AssetError, match="not a whole zip"):
        load_task_bundle(tmp_path / "text.task")
    with zipfile.ZipFile(tmp_path / "other.task", "w") as archive:
        archive.writestr("hand_landmarks_detector.tflite", b"x")
    with pytest.raises(AssetError, match=r"expected face_landmarks_detector\.tflite"):
        load_task_bundle(tmp_path / "other.task")
    with zipfile.ZipFile(tmp_path / "broken.task", "w") as archive:
        archive.writestr(LANDMARKS_FILE, b"no network")
    with pytest.raises(AssetError, match="cannot load"):
        load_task_bundle(tmp_path / "broken.task")
    with zipfile.ZipFile(tmp_path / "wrong.task", "w") as archive:
        archive.write(networks._directory / NETWORK_FILES["person"][0], LANDMARKS_FILE)
    with pytest.raises(AssetError, match="expected 478 points"):
        load_task_bundle(tmp_path / "wrong.task")


def test_loading_prints_nothing(networks: Networks, capfd: pytest.CaptureFixture[str]) -> None:
    """LiteRT announces its delegate on the process's stderr; that is swallowed, and stderr works afterwards."""
    import os

    Networks(networks._directory).person  # noqa: B018
    os.write(2, b"still here\n")
    assert capfd.readouterr().err == "still here\n"


def test_networks_are_loaded_once_and_only_when_used(networks: Networks) -> None:
    fresh = Networks(networks._directory)
    assert "iris" not in vars(fresh)
    assert fresh.iris is fresh.iris
    assert "person" not in vars(fresh)


def test_missing_network_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match=r"iris_landmark\.tflite cannot be read"):
        Networks(tmp_path).iris  # noqa: B018
