"""Which parts of a clip are followed by their pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from headrecon.tracking.stretches import find_stretches


def found(azimuth_deg: Sequence[float], lost: tuple[int, ...] = (), fps: float = 30.0):
    azimuth = np.radians(np.array(azimuth_deg, float))
    good = np.ones(len(azimuth), bool)
    good[list(lost)] = False
    return find_stretches(np.arange(len(azimuth)) / fps, azimuth, good)


def test_a_head_that_hardly_turns_needs_none():
    assert found([0, 10, 20, 30, 33, 20, 0]) == []


def test_a_turn_begins_and_ends_where_the_pose_is_known():
    turn = [0.0] * 10 + [10, 20, 30, 40, 50, 40, 30, 20, 10] + [0.0] * 10
    (one,) = found(turn)
    assert (one.first, one.last) == (10, 18)
    assert one.before == (10, 6, 2)
    assert one.after == (18, 22, 26)
    forward, backward = one.places(100)
    assert forward == list(range(11, 18))
    assert backward == forward[::-1]


def test_two_turns_with_a_known_frame_between_are_two():
    turn = [0, 20, 40, 20, 5, 20, 40, 20, 0]
    assert [(s.first, s.last) for s in found(turn)] == [(0, 4), (4, 8)]


def test_without_a_known_frame_between_they_are_one():
    turn = [0, 20, 40, 20, 40, 20, 0]
    assert [(s.first, s.last) for s in found(turn)] == [(0, 6)]


def test_lost_frames_are_followed_from_both_sides_or_from_one():
    (one,) = found([0.0] * 20, lost=(8, 9, 10))
    assert (one.first, one.last) == (7, 11)
    (tail,) = found([0.0] * 20, lost=tuple(range(15, 20)))
    assert (tail.first, tail.after) == (14, ())
    assert tail.places(100) == (list(range(15, 20)), [])
    assert found([0.0] * 4, lost=(0, 1, 2, 3)) == []


def test_of_a_long_stretch_only_the_ends_are_followed():
    (one,) = found([0.0] * 5 + [60.0] * 500 + [0.0] * 5, lost=tuple(range(5, 505)))
    forward, backward = one.places(50)
    assert forward == list(range(5, 55))
    assert backward == list(range(504, 454, -1))
