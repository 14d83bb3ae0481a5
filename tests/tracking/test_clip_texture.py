"""Which keyframes a tracked head is painted from."""

from __future__ import annotations

import numpy as np

from headrecon.geometry import so3
from headrecon.models.posed_mesh import embed
from headrecon.tracking.clip_texture import painting_keyframes
from tests.tiny_face import tiny_face


def seen(yaw_degrees: float) -> np.ndarray:
    """Points of the tiny face as a camera in front of it sees them: pixels, y down, z away."""
    assets = tiny_face()
    points = embed(assets.v_template.astype(np.float64), assets.landmarks["mediapipe478"])
    turned = points @ so3.exp(np.array([0.0, np.radians(yaw_degrees), 0.0])).T
    return 1500.0 * turned * [1.0, -1.0, -1.0] + 300.0


def test_the_front_and_a_side_each() -> None:
    marks = np.stack([seen(yaw) for yaw in (25.0, -10.0, 2.0, -35.0, 40.0, 12.0)])
    assert painting_keyframes(marks) == [2, 3, 4] or painting_keyframes(marks) == [2, 4, 3]


def test_sides_that_show_nothing_new_are_left_out() -> None:
    marks = np.stack([seen(yaw) for yaw in (0.5, -4.0, 5.0, 30.0)])
    assert painting_keyframes(marks) == [0, 3]
    assert painting_keyframes(marks[:3]) == [0]
    assert painting_keyframes(marks[3:]) == [0]


def test_an_open_mouth_is_no_front() -> None:
    """Of two frames from the front the one with the closed mouth is painted first."""
    opened = seen(0.0)
    assert painting_keyframes(np.stack([opened, seen(3.0)])) == [0]
    lips = [14, 87, 317, 178, 402]  # the lower rim
    opened[lips, 1] += 30.0
    assert painting_keyframes(np.stack([opened, seen(3.0)])) == [1]
