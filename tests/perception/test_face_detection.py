"""Anchors and suppression by hand; detection on the astronaut, turned, small, mirrored and absent."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from headrecon.perception.face_detection import (
    FULL_RANGE,
    SHORT_RANGE,
    detect_faces,
    intersection_over_union,
    run_detector,
    weighted_suppression,
)
from headrecon.perception.networks import Networks

#: Iris centres of the astronaut, read off an enlargement with a grid (subject's right first).
EYES = ((203.8, 101.0), (246.8, 103.4))


def test_anchors_by_hand() -> None:
    near = SHORT_RANGE.centers()
    assert near.shape == (896, 2)
    np.testing.assert_allclose(near[:3] * 128, [[4, 4], [4, 4], [12, 4]])  # stride 8, two per cell, x first
    np.testing.assert_allclose(near[512:519] * 128, [[8, 8]] * 6 + [[24, 8]])  # then stride 16, six per cell
    np.testing.assert_allclose(near[-1] * 128, [120, 120])
    far = FULL_RANGE.centers()
    assert far.shape == (2304, 2)
    np.testing.assert_allclose(far[48] * 192, [2, 6])


def test_intersection_over_union_by_hand() -> None:
    box = np.array([0.0, 0.0, 2.0, 2.0])
    others = np.array([[0, 0, 2, 2], [1, 1, 3, 3], [2, 0, 4, 2], [1, 1, 1, 1], [5, 5, 4, 4]], float)
    np.testing.assert_allclose(intersection_over_union(box, others), [1, 1 / 7, 0, 0, 0])


def test_suppression_averages_by_score() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [50, 50, 60, 60]], float)
    keypoints = boxes[:, None, :2].repeat(6, axis=1)
    faces = weighted_suppression(boxes, keypoints, np.array([0.9, 0.6, 0.7]))
    assert [f.score for f in faces] == [0.9, 0.7]
    np.testing.assert_allclose(faces[0].box, [0.4, 0, 10.4, 10])
    np.testing.assert_allclose(faces[0].keypoints[0], [0.4, 0])
    np.testing.assert_allclose(faces[1].box, boxes[2])


def test_suppression_of_nothing_and_of_an_empty_box() -> None:
    assert weighted_suppression(np.zeros((0, 4)), np.zeros((0, 6, 2)), np.zeros(0)) == []
    (face,) = weighted_suppression(np.array([[3.0, 3, 3, 3]]), np.zeros((1, 6, 2)), np.array([0.8]))
    assert face.score == 0.8


@pytest.mark.parametrize("which", ["face_short_range", "face_full_range"])
def test_both_networks_find_the_astronaut(astronaut_image: np.ndarray, networks: Networks, which: str) -> None:
    layout = SHORT_RANGE if which == "face_short_range" else FULL_RANGE
    (face,) = run_detector(astronaut_image, getattr(networks, which), layout)
    assert face.score > 0.8
    # The eye distance is 43 px; the short-range network's pixel is 4 px wide.
    np.testing.assert_allclose(face.keypoints[:2], EYES, atol=6)
    x0, y0, x1, y1 = face.box
    assert x0 < EYES[0][0] < EYES[1][0] < x1
    assert y0 < EYES[0][1] < y1
    assert 80 < x1 - x0 < 130


@pytest.mark.parametrize("shape", [(512, 300), (300, 512), (511, 383)])
def test_padding_of_pictures_that_are_no_squares(
    astronaut_image: np.ndarray, networks: Networks, shape: tuple[int, int]
) -> None:
    height, width = shape
    (face, *_) = detect_faces(np.ascontiguousarray(astronaut_image[:height, :width]), networks)
    np.testing.assert_allclose(face.keypoints[:2], EYES, atol=6)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_picture_lying_on_its_side(astronaut_image: np.ndarray, networks: Networks, turns: int) -> None:
    (face, *_) = detect_faces(np.ascontiguousarray(np.rot90(astronaut_image, turns)), networks)
    upright = [((x, y), (512 - y, x), (512 - x, 512 - y), (y, 512 - x)) for x, y in EYES]
    # np.rot90 turns counter-clockwise: (x, y) goes to (y, 512 - x)
    expected = [u[{1: 3, 2: 2, 3: 1}[turns]] for u in upright]
    np.testing.assert_allclose(face.keypoints[:2], expected, atol=12)


def test_a_small_face_in_a_large_photo(astronaut_image: np.ndarray, networks: Networks) -> None:
    photo = np.full((3000, 4000, 3), (100, 110, 120), np.uint8)
    small = np.asarray(Image.fromarray(astronaut_image).resize((256, 256), Image.Resampling.LANCZOS))
    photo[1700:1956, 2300:2556] = small  # 20 px between the pupils, the face 1.3 % of the frame
    from headrecon.perception.faces import observe_faces

    (observation,) = observe_faces(photo, networks)
    expected = np.array(EYES) / 2 + [2300, 1700]
    np.testing.assert_allclose(observation.landmarks[[468, 473], :2], expected, atol=2)


def test_nothing_is_found_in_nothing(networks: Networks) -> None:
    assert detect_faces(np.zeros((300, 200, 3), np.uint8), networks) == []
    assert detect_faces(np.full((60, 1000, 3), 200, np.uint8), networks) == []
