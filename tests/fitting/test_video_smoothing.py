"""Smoothing over time: noise goes, blinks and steps stay, gaps are bridged."""

from __future__ import annotations

import numpy as np
import pytest

from headrecon.fitting.video.smoothing import (
    _second_difference,
    _solve,
    filled,
    frame_noise,
    noise_level,
    smooth,
    smooth_turns,
)

NOISE = 0.02


def times(count: int) -> np.ndarray:
    return np.arange(count) / 30


def test_the_banded_solution_is_the_dense_one():
    rng = np.random.default_rng(0)
    moments = np.cumsum(rng.uniform(0.02, 0.05, 40))
    rows = _second_difference(moments)
    weight, precision = rng.uniform(0.1, 5, (38, 2)), rng.uniform(0.1, 2, (40, 2))
    right = rng.normal(size=(40, 2))
    found = _solve(rows, precision, weight, right)
    matrix = np.zeros((38, 40))
    for i in range(38):
        matrix[i, i : i + 3] = rows[i]
    for c in range(2):
        dense = np.diag(precision[:, c]) + matrix.T @ np.diag(weight[:, c]) @ matrix
        assert np.allclose(np.linalg.solve(dense, right[:, c]), found[:, c], atol=1e-12)


def test_a_straight_line_in_uneven_time_has_no_acceleration():
    moments = np.cumsum(np.random.default_rng(1).uniform(0.02, 0.05, 30))
    rows = _second_difference(moments)
    line = 3.0 * moments[:, None] - 1.0
    assert np.abs(rows[:, :1] * line[:-2] + rows[:, 1:2] * line[1:-1] + rows[:, 2:] * line[2:]).max() < 1e-12


def test_noise_of_a_still_face_falls():
    rng = np.random.default_rng(2)
    measured = NOISE * rng.normal(size=(300, 4))
    out = smooth(times(300), measured, np.full_like(measured, NOISE))
    assert (out.std(0) < 0.6 * measured.std(0)).all()


def test_a_blink_keeps_its_depth_and_its_time():
    rng = np.random.default_rng(3)
    true = np.zeros((200, 1))
    true[100:106, 0] = [0.3, 0.8, 1.0, 0.9, 0.5, 0.2]
    out = smooth(times(200), true + NOISE * rng.normal(size=true.shape), np.full_like(true, NOISE))
    assert int(np.argmax(out)) in (101, 102, 103)
    assert out.max() > 0.93
    assert np.abs(out[:98]).max() < 0.05 and np.abs(out[108:]).max() < 0.05


def test_lips_that_touch_for_two_frames_touch_afterwards():
    true = np.full((120, 1), 0.3)
    true[60:62] = 0.0
    noisy = true + 0.01 * np.random.default_rng(4).normal(size=true.shape)
    out = smooth(times(120), noisy, np.full_like(true, 0.01))
    assert out[60:62].max() < 0.05


def test_gaps_are_bridged_and_ends_stay():
    true = np.linspace(0, 1, 90)[:, None]
    sigma = np.full_like(true, 0.01)
    sigma[:10] = sigma[40:60] = sigma[80:] = np.inf
    measured = np.where(np.isfinite(sigma), true, 77.0)
    out = smooth(times(90), measured, sigma)
    assert np.abs(out[12:78] - true[12:78]).max() < 0.01
    assert abs(float(out[0, 0]) - float(true[10, 0])) < 0.05
    assert abs(float(out[-1, 0]) - float(true[79, 0])) < 0.05


def test_amount_zero_changes_nothing_but_gaps():
    measured = np.random.default_rng(5).normal(size=(20, 3))
    sigma = np.ones_like(measured)
    assert np.array_equal(smooth(times(20), measured, sigma, 0.0), measured)
    sigma[5] = np.inf
    assert np.allclose(smooth(times(20), measured, sigma, 0.0)[5], 0.5 * (measured[4] + measured[6]))
    assert np.array_equal(filled(times(20), measured, sigma), smooth(times(20), measured, sigma, 0.0))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_short_clips(count):
    measured = np.arange(count, dtype=float)[:, None]
    assert np.allclose(smooth(times(count), measured, np.ones_like(measured)), measured, atol=1e-6)


def test_noise_is_read_off_the_calm_parts():
    rng = np.random.default_rng(6)
    measured = NOISE * rng.normal(size=(400, 1))
    measured[:200] += 0.5 * np.sin(np.arange(200) * 1.1)[:, None]  # half of the clip is restless
    level = float(noise_level(measured, np.ones_like(measured))[0])
    assert 0.5 * NOISE < level < 1.6 * NOISE
    measured[10] = 1e3
    sigma = np.ones_like(measured)
    sigma[10] = np.inf
    assert float(noise_level(measured, sigma)[0]) < 2 * NOISE


def test_a_quick_talker_at_15_frames_a_second_is_not_taken_for_noise():
    rng = np.random.default_rng(6)
    true = 0.3 * (np.arange(60) % 3 != 0)[:, None].astype(float)  # lips meet in every third frame: nothing is ever calm
    sigma, seconds = np.full_like(true, 0.06), np.arange(60) / 15
    measured = true + 0.003 * rng.normal(size=true.shape)
    assert noise_level(measured, sigma)[0] > 0.06  # motion passes for noise
    noise = frame_noise(measured, sigma, np.array([0.06]))
    assert smooth(seconds, measured, noise)[::3].max() < 0.03
    # What is calmer than the bound is measured, and frames in which nobody is seen say nothing.
    sigma[10] = np.inf
    calm = frame_noise(0.001 * rng.normal(size=true.shape), sigma, np.array([0.06]))
    assert 0.0005 < calm[0, 0] < 0.0015 and np.isinf(calm[10, 0])


def test_a_head_that_turns_round_is_smoothed_the_short_way():
    times = np.arange(60) / 30
    yaw = np.radians(np.linspace(0, 360, 60))
    turns = np.zeros((60, 3))
    turns[:, 1] = (yaw + np.pi) % (2 * np.pi) - np.pi  # jumps by 360 degrees in the middle
    noise = np.full((60, 3), 0.01)
    noise[24:36] = np.inf  # the back of the head is not seen
    turns[24:36] = 0.3
    out = smooth_turns(times, turns, noise)
    off = (out[:, 1] - yaw + np.pi) % (2 * np.pi) - np.pi
    assert np.abs(np.degrees(off)).max() < 4.0
    assert np.abs(out[:, [0, 2]]).max() < 0.05
