"""The 478 points of the astronaut: plausible, on the right side, repeatable; and choosing among faces."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from headrecon.errors import InputError, NoFaceFound, ShapeError
from headrecon.io.images import load_image
from headrecon.perception.crops import Roi
from headrecon.perception.face_landmarks import LOOKS, Look, read_face, roi_from_detection, roi_from_landmarks
from headrecon.perception.faces import MIN_EYE_DISTANCE_PX, choose_face, eye_distance_px, observe_faces
from headrecon.perception.mesh_symmetry import mirror_indices
from headrecon.perception.networks import Networks
from headrecon.structures import FaceDetection, FaceObservation

# Points of MediaPipe's mesh, "right" and "left" being the subject's.
NOSE_TIP, CHIN, FOREHEAD, RIGHT_OUTER, RIGHT_INNER, LEFT_INNER, LEFT_OUTER = 1, 152, 10, 33, 133, 362, 263
UPPER_LIP, LOWER_LIP, MOUTH_RIGHT, MOUTH_LEFT = 0, 17, 61, 291
RIGHT_IRIS, LEFT_IRIS = slice(468, 473), slice(473, 478)


def test_what_is_reported(astronaut: FaceObservation, astronaut_image: np.ndarray) -> None:
    assert astronaut.landmarks.shape == (478, 3)
    assert astronaut.landmarks.dtype == np.float32
    assert astronaut.presence > 0.99
    assert astronaut.image_size == (512, 512)
    assert astronaut.blendshapes is None


def test_points_lie_where_the_picture_shows_them(astronaut: FaceObservation) -> None:
    p = astronaut.landmarks[:, :2]
    # Read off an enlargement with a grid, to about half a pixel.
    np.testing.assert_allclose(p[468], (203.8, 101.0), atol=1)
    np.testing.assert_allclose(p[473], (246.8, 103.4), atol=1)
    assert p[FOREHEAD, 1] < p[468, 1] < p[NOSE_TIP, 1] < p[UPPER_LIP, 1] < p[LOWER_LIP, 1] < p[CHIN, 1]


def test_right_is_the_subjects_right(astronaut: FaceObservation) -> None:
    """She faces us, so that her right eye is on the left of the picture; 468 to 472 belong to it."""
    x = astronaut.landmarks[:, 0]
    assert x[RIGHT_OUTER] < x[468] < x[RIGHT_INNER] < x[LEFT_INNER] < x[473] < x[LEFT_OUTER]
    assert x[MOUTH_RIGHT] < x[NOSE_TIP] < x[MOUTH_LEFT]


@pytest.mark.parametrize("iris", [RIGHT_IRIS, LEFT_IRIS])
def test_irises_are_round_and_of_human_size(astronaut: FaceObservation, iris: slice) -> None:
    center, right, top, left, bottom = astronaut.landmarks[iris, :2]
    assert left[0] < center[0] < right[0]
    assert top[1] < center[1] < bottom[1]
    across, down = np.linalg.norm(right - left), np.linalg.norm(top - bottom)
    assert 0.8 < across / down < 1.25
    # 11.7 mm over a pupil distance of 54 to 74 mm: 0.16 to 0.22
    assert 0.15 < across / eye_distance_px(astronaut) < 0.23
    np.testing.assert_allclose((right + left) / 2, center, atol=0.5)


def test_depth_is_nearer_at_the_nose(astronaut: FaceObservation) -> None:
    z = astronaut.landmarks[:, 2]
    assert z[NOSE_TIP] < z[RIGHT_INNER] < z[234]
    assert z[NOSE_TIP] < z[LEFT_INNER] < z[454]


def test_mirror_indices_are_their_own_inverse() -> None:
    swap = mirror_indices()
    np.testing.assert_array_equal(swap[swap], np.arange(478))
    assert swap[[33, 133, 61, 468, 1]].tolist() == [263, 362, 291, 473, 1]
    assert (swap == np.arange(478)).sum() == 28


def test_mirrored_picture_gives_mirrored_points(
    astronaut_image: np.ndarray, astronaut: FaceObservation, networks: Networks
) -> None:
    (mirrored,) = observe_faces(np.ascontiguousarray(astronaut_image[:, ::-1]), networks)
    back = mirrored.landmarks[mirror_indices()]
    back[:, 0] = 512 - back[:, 0]
    error = np.linalg.norm((back - astronaut.landmarks)[:, :2], axis=1) / eye_distance_px(astronaut)
    # The region starts from another detection; 0.25 % is what the mean of eight looks leaves of that on portraits.
    assert error.mean() < 0.01
    assert error.max() < 0.04


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_a_photo_turned_by_exif_gives_the_same_points(
    tmp_path, astronaut_image: np.ndarray, astronaut: FaceObservation, networks: Networks, orientation: int
) -> None:
    stored = np.rot90(astronaut_image, {3: 2, 6: 1, 8: -1}[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "p.png", exif=exif)
    (found,) = observe_faces(load_image(tmp_path / "p.png").image_srgb, networks)
    np.testing.assert_allclose(found.landmarks, astronaut.landmarks, atol=1e-3)


@pytest.mark.parametrize(("turns", "scale"), [(1, 1.0), (2, 1.0), (3, 1.0), (0, 0.7), (0, 2.3)])
def test_turned_and_scaled_pictures_agree(
    astronaut_image: np.ndarray, astronaut: FaceObservation, networks: Networks, turns: int, scale: float
) -> None:
    side = round(512 * scale)
    picture = Image.fromarray(astronaut_image).resize((side, side), Image.Resampling.BICUBIC)
    (found,) = observe_faces(np.ascontiguousarray(np.rot90(np.asarray(picture), turns)), networks)
    x, y = found.landmarks[:, 0] * 512 / side, found.landmarks[:, 1] * 512 / side
    back = {0: (x, y), 1: (512 - y, x), 2: (512 - x, 512 - y), 3: (y, 512 - x)}[turns]
    error = np.linalg.norm(np.stack(back, axis=1) - astronaut.landmarks[:, :2], axis=1) / eye_distance_px(astronaut)
    assert error.mean() < 0.015


def test_many_looks_repeat_better_than_one(astronaut_image: np.ndarray, networks: Networks) -> None:
    """The reason for looking eight times, at a quarter of the noise; half is asked for here."""
    rng = np.random.default_rng(0)
    eyes = np.array([[204.0, 113.0], [243.0, 115.0]])
    readings: dict[int, list[np.ndarray]] = {1: [], 8: []}
    for _ in range(6):
        shift = rng.normal(scale=4.0, size=2)
        box = np.array([177.0, 81.0, 272.0, 175.0]) + np.tile(shift, 2) + rng.normal(scale=3.0, size=4)
        keypoints = np.concatenate([eyes + rng.normal(scale=3.0, size=(2, 2)), np.zeros((4, 2))])
        face = FaceDetection(box, keypoints, 0.9)
        for looks in ((Look(),), LOOKS):
            readings[len(looks)].append(read_face(astronaut_image, face, networks.mesh, looks).points)
    noise = {n: np.std(points, axis=0)[:, :2].mean() for n, points in readings.items()}
    assert noise[8] < noise[1] / 2


def test_the_looks_are_balanced() -> None:
    assert len(LOOKS) == 8
    assert sum(look.mirror for look in LOOKS) == 4
    for mirror in (False, True):
        half = [look for look in LOOKS if look.mirror == mirror]
        np.testing.assert_allclose(np.mean([[*k.shift, k.scale - 1, k.turn_rad] for k in half], axis=0), 0, atol=1e-12)
    assert Look().of(Roi(1.0, 2.0, 3.0, 0.4)) == Roi(1.0, 2.0, 3.0, 0.4)


def test_region_from_detection_by_hand() -> None:
    keypoints = np.zeros((6, 2))
    keypoints[1] = (3.0, 3.0)  # the left eye is as far below the right one as beside it: 45 degrees
    roi = roi_from_detection(FaceDetection(np.array([10.0, 20.0, 30.0, 60.0]), keypoints, 1.0))
    assert (roi.center_x, roi.center_y, roi.size) == (20.0, 40.0, 60.0)
    assert roi.angle_rad == pytest.approx(np.pi / 4)


def test_region_from_landmarks_turns_with_them(astronaut: FaceObservation) -> None:
    points = astronaut.landmarks.astype(float)
    straight = roi_from_landmarks(points)
    turn = Roi(0.0, 0.0, 1.0, 0.7)
    around = turn.to_image(points + [0.5, 0.5, 0.0])
    turned = roi_from_landmarks(around)
    assert turned.size == pytest.approx(straight.size, rel=1e-6)
    assert turned.angle_rad == pytest.approx(straight.angle_rad + 0.7, abs=1e-6)


def test_several_faces_the_largest_first(astronaut_image: np.ndarray, networks: Networks) -> None:
    small = np.asarray(Image.fromarray(astronaut_image).resize((300, 300), Image.Resampling.LANCZOS))
    both = np.full((512, 812, 3), 127, np.uint8)
    both[:300, :300] = small
    both[:, 300:] = astronaut_image
    observations = observe_faces(both, networks)
    distances = [eye_distance_px(o) for o in observations]
    assert len(distances) == 2
    assert distances[0] == pytest.approx(distances[1] * 512 / 300, rel=0.03)
    assert observations[0].landmarks[468, 0] > 300
    chosen, warning = choose_face(observations)
    assert chosen is observations[0]
    assert warning is not None
    assert "2 faces" in warning
    assert "--face" in warning
    assert choose_face(observations, 1) == (observations[1], None)
    assert len(observe_faces(both, networks, max_faces=1)) == 1


def test_choosing_refuses_what_cannot_be_measured(astronaut: FaceObservation) -> None:
    with pytest.raises(NoFaceFound, match="no face"):
        choose_face([])
    assert choose_face([astronaut]) == (astronaut, None)
    with pytest.raises(InputError, match="face 3 does not exist: the picture shows 1"):
        choose_face([astronaut], 3)
    with pytest.raises(InputError, match="face -1"):
        choose_face([astronaut], -1)
    tiny = replace(astronaut, landmarks=astronaut.landmarks * np.float32(0.4))
    with pytest.raises(NoFaceFound, match=rf"17 px between the pupils, at least {MIN_EYE_DISTANCE_PX:.0f} px"):
        choose_face([tiny])


def test_no_face_in_noise_texture_or_cat(networks: Networks) -> None:
    import skimage.data

    noise = np.random.default_rng(0).integers(0, 255, (400, 300, 3), dtype=np.uint8)
    for picture in (noise, np.zeros((200, 200, 3), np.uint8), skimage.data.chelsea(), skimage.data.coffee()):
        assert observe_faces(picture, networks) == []


@pytest.mark.parametrize("shape", [(10, 10), (10, 10, 4)])
def test_wrong_arrays(networks: Networks, shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError):
        observe_faces(np.zeros(shape, np.uint8), networks)


def test_float_pictures_are_refused(networks: Networks) -> None:
    with pytest.raises(ShapeError, match="uint8"):
        observe_faces(np.zeros((10, 10, 3)), networks)
