"""Frames of a video on data that follow a known head: poses, gaze and openings come back; keyframes differ."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from headrecon.fitting import landmark_groups as groups
from headrecon.fitting.video.frame_fit import FrameFitter
from headrecon.fitting.video.keyframes import SCALES, choose_keyframes
from headrecon.fitting.video.motion import FORGOTTEN_S, MotionModel, MotionState
from headrecon.fitting.video.openings import Openings, has_blink, opening_heights, touching_lips
from headrecon.fitting.video.personal import PAIRS, PointError, personal_head, personal_offsets
from headrecon.models.point_model import PointModel
from headrecon.perception.eye_frame import EyeFrame

FOCAL, SIZE = 900.0, (640, 480)


@pytest.fixture(scope="module")
def fitter(anny_assets) -> FrameFitter:
    betas = np.random.default_rng(0).normal(size=anny_assets.num_betas) * 0.5
    person = personal_head(anny_assets, betas)
    return FrameFitter(person, FOCAL, SIZE, Openings(np.full(6, 0.12)))


@pytest.fixture(scope="module")
def every_point(anny_assets, fitter) -> PointModel:
    """All 478 points of the same person."""
    return PointModel(fitter.person.surface, fitter.person.surface.landmarks["mediapipe478"])


def state_of(fitter: FrameFitter, **given: tuple[float, ...] | dict[str, float]) -> np.ndarray:
    state = np.zeros(fitter.size)
    state[fitter.slices["placement"]] = (20.0, -10.0, np.log(0.6 / FOCAL))
    for name, value in given.items():
        if isinstance(value, dict):
            for key, weight in value.items():
                state[fitter.person.surface.expression_names.index(key)] = weight
        else:
            state[fitter.slices[name]] = value
    return state


def seen(fitter: FrameFitter, points: PointModel, state: np.ndarray) -> np.ndarray:
    """The points that a perfect detector sees: pixels, and depth in the same scale."""
    values = fitter.values(state)
    at = points.evaluate(fitter.head.flat(values))
    scale = FOCAL / float(np.median(-at[:, 2]))
    return np.concatenate([fitter.head.project(values, at), -scale * (at[:, 2:] - at[:, 2].mean())], axis=1)


@pytest.mark.parametrize("turn", [(0.1, 0.3, -0.1), (-0.2, -0.6, 0.2)])
def test_pose_and_place_come_back_from_scratch(fitter, every_point, turn):
    true = state_of(fitter, global_orient=turn)
    marks = seen(fitter, every_point, true)
    found = fitter.fit(marks, fitter.start(marks))
    found = fitter.fit(marks, found.state)
    orient, place = fitter.slices["global_orient"], fitter.slices["placement"]
    assert np.degrees(np.abs(found.state[orient] - true[orient])).max() < 1.5
    assert np.abs(found.state[place][:2] - true[place][:2]).max() < 1.5  # pixels
    assert abs(found.state[place][2] - true[place][2]) < 0.015
    assert found.error < 0.01
    assert (found.sigma[fitter.free] > 0).all()


def test_an_open_jaw_and_a_look_aside_come_back(fitter, every_point):
    true = state_of(fitter, expression={"jawOpen": 0.6}, leye_pose=(0.0, 0.25, 0.0), reye_pose=(0.0, 0.27, 0.0))
    marks = seen(fitter, every_point, true)
    found = fitter.fit(marks, fitter.fit(marks, fitter.start(marks)).state)
    names = fitter.person.surface.expression_names
    assert abs(found.state[names.index("jawOpen")] - 0.6) < 0.15
    for eye in ("leye_pose", "reye_pose"):
        assert abs(found.state[fitter.slices[eye]][1] - true[fitter.slices[eye]][1]) < 0.08
        assert found.state[fitter.slices[eye]][2] == 0.0  # eyes do not roll


def test_shut_eyes_are_shut_and_touching_lips_touch(fitter, every_point):
    """The detector's heights of shut lids and closed lips, whatever the head's own are."""
    marks = seen(fitter, every_point, state_of(fitter))
    size = groups.interocular_px(marks)
    for k, (upper, lower) in enumerate(PAIRS):
        height = 0.016 if k < 6 else 0.002
        middle = 0.5 * (marks[upper, :2] + marks[lower, :2])
        marks[upper, :2] = middle - [0, 0.5 * height * size]
        marks[lower, :2] = middle + [0, 0.5 * height * size]
    found = fitter.fit(marks, fitter.fit(marks, fitter.start(marks)).state)
    names = fitter.person.surface.expression_names
    assert found.state[names.index("eyeBlinkLeft")] > 0.7
    assert found.state[names.index("eyeBlinkRight")] > 0.7
    values = fitter.values(found.state)
    pixels = fitter.head.project(values, fitter.person.pairs.evaluate(fitter.head.flat(values)))
    gaps = np.abs(pixels[len(PAIRS) :, 1] - pixels[: len(PAIRS), 1])[6:]
    rest = fitter.person.gaps_m[6:] * size / fitter.person.interocular_m
    assert np.abs(gaps - rest).max() < 0.012 * size  # lips as near as at rest


def test_shut_eyes_look_where_they_looked(fitter, every_point):
    """A detector guesses irises behind lids, and guesses them low."""
    gaze = (0.0, 0.2, 0.0)
    true = state_of(fitter, expression={}, leye_pose=gaze, reye_pose=gaze)
    marks = seen(fitter, every_point, true)
    size = groups.interocular_px(marks)
    marks[468:478, 1] += 0.06 * size
    motion = MotionModel(fitter)
    prior = motion.prior(motion.advance(None, true, 0.0), 1 / 30, size)
    guessed = fitter.fit(marks, true, prior).state
    for upper, lower in PAIRS[:6]:
        middle = 0.5 * (marks[upper, :2] + marks[lower, :2])
        marks[upper, :2], marks[lower, :2] = middle - [0, 0.008 * size], middle + [0, 0.008 * size]
    held = fitter.fit(marks, true, prior).state
    for eye in ("leye_pose", "reye_pose"):
        s = fitter.slices[eye]
        assert np.abs(held[s] - true[s]).max() < 0.01
        assert guessed[s][0] > 0.1  # with open lids the points are believed


@pytest.mark.parametrize("turn", [(0.0, 0.0, 0.2), (0.3, 0.1, -0.2), (-0.3, -0.2, 0.0)])
def test_lips_at_rest_touch_however_the_head_is_turned(fitter, every_point, turn):
    """What a head at rest shows of its lips' points is what is asked of it, seen from below and from above too."""
    state = state_of(fitter, global_orient=turn)
    marks = seen(fitter, every_point, state)
    frame = EyeFrame.of(marks)
    values = fitter.values(state)
    turned = fitter.head.orient(values)
    pixels = fitter.head.project(values, fitter.person.pairs.evaluate(fitter.head.flat(values))) @ frame.axes[1]
    shown = (pixels[len(PAIRS) :] - pixels[: len(PAIRS)])[6:] * fitter.person.interocular_m / frame.scale_px
    asked = touching_lips(fitter.person, turned, frame.axes[1])
    assert np.abs(asked - shown).max() < 3e-4
    assert np.allclose(touching_lips(fitter.person, np.eye(3), np.array([0.0, 1.0])), fitter.person.gaps_m[6:])


def test_halves_of_a_face_do_the_same_unless_the_points_insist(fitter, every_point):
    """Noise on one side is shared by both; a smile on one side alone stays one, and so does a wink."""
    residual = fitter._symmetry
    names = fitter.person.surface.expression_names
    even = dict.fromkeys(names, 0.4)
    state = state_of(fitter, expression=even)
    assert np.abs(residual.evaluate(fitter.values(state))).max() < 1e-12
    state[names.index("mouthSmileLeft")] += 0.1
    assert np.isclose(np.abs(residual.evaluate(fitter.values(state))).max(), 1.0)
    state = state_of(fitter, expression={"mouthLeft": 0.5, "jawRight": 0.5, "jawOpen": 0.5})
    assert not residual.evaluate(fitter.values(state)).any()
    true = state_of(fitter, expression={"mouthSmileLeft": 0.8, "eyeBlinkRight": 0.9})
    marks = seen(fitter, every_point, true)
    found = fitter.fit(marks, fitter.fit(marks, fitter.start(marks)).state).state
    assert found[names.index("mouthSmileLeft")] > found[names.index("mouthSmileRight")] + 0.25
    assert found[names.index("eyeBlinkRight")] > 0.7 > 0.3 > found[names.index("eyeBlinkLeft")]


def test_openings_are_derivatives_of_themselves(fitter, every_point):
    marks = seen(fitter, every_point, state_of(fitter, expression={"jawOpen": 0.3}))
    from headrecon.fitting.video.openings import opening_residual

    residual = opening_residual(fitter.person, fitter.head, fitter.openings, marks, EyeFrame.of(marks), np.eye(3))
    state = state_of(fitter, global_orient=(0.1, 0.2, 0.05), expression={"eyeBlinkLeft": 0.3})
    values = fitter.values(state)
    base, jacobian = residual.linearize(values)
    assert np.allclose(base, residual.evaluate(values))
    start = 0
    for name in residual.blocks:
        width = len(values[name])
        for i in range(width):
            step = 1e-6
            moved = {**values, name: values[name] + step * (np.arange(width) == i)}
            slope = (residual.evaluate(moved) - base) / step
            assert np.allclose(slope, jacobian[:, start + i], atol=2e-3 * (1 + np.abs(slope).max())), name
        start += width


def test_what_is_personal_is_taken_out(fitter, every_point):
    """Points that a detector always sees elsewhere: known after three views, and of no concern to a fourth."""
    rng = np.random.default_rng(1)
    shift = 0.002 * rng.normal(size=(468, 3))
    errors = []
    for yaw in (-0.4, 0.0, 0.4):
        turn = np.array([0.0, yaw, 0.0])
        rotated = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0]])
        missed = 1500.0 * (np.pad(shift, ((0, 2), (0, 0))) @ rotated.T) * [1.0, -1.0]
        errors.append(PointError(missed, np.ones(470), turn, 1500.0))
    found = personal_offsets(errors, fitter.person.interocular_m)
    assert np.abs(found[:468, :2] - shift[:, :2]).mean() < 2e-4
    assert not found[468:].any()  # irises tell gaze


def test_a_head_goes_on_as_it_went_and_slows_down(fitter):
    motion = MotionModel(fitter)
    first, second = state_of(fitter), state_of(fitter, global_orient=(0.0, 0.1, 0.0))
    state = motion.advance(motion.advance(None, first, 0.0), second, 1 / 30)
    ahead = motion.predict(state, 2 / 30)
    orient = fitter.slices["global_orient"]
    assert 0.15 < ahead[orient][1] <= 0.2
    time_s, last = 1 / 30, state
    for _ in range(60):
        time_s += 1 / 30
        last = motion.coast(last, time_s)
    assert last.missed == 60
    assert 0.15 < last.state[orient][1] < 0.7  # it has come to rest
    assert isinstance(last, MotionState) and FORGOTTEN_S < 2


def test_keyframes_differ_and_are_few():
    rng = np.random.default_rng(2)
    features = np.tile(rng.normal(size=(6, len(SCALES))) * 3, (50, 1)) + 0.02 * rng.normal(size=(300, len(SCALES)))
    presence = np.ones(300)
    features[100:110] = np.nan
    presence[100:110] = 0.0
    chosen = choose_keyframes(features, presence, 12)
    frontal = np.unique(np.arange(300)[np.abs(features[:, 0]) * SCALES[0] < 1.0] % 6)
    assert sorted(chosen % 6) == sorted(frontal)  # one of each kind, then nothing new
    assert not set(chosen) & set(range(100, 110))
    assert len(choose_keyframes(features, presence, 2)) == 2
    assert len(choose_keyframes(np.full((5, len(SCALES)), np.nan), np.zeros(5), 3)) == 0
    assert choose_keyframes(features[:1], presence[:1], 3).tolist() == [0]


def test_heights_do_not_change_with_size(fitter, every_point):
    marks = seen(fitter, every_point, state_of(fitter))
    assert np.allclose(opening_heights(3 * marks), opening_heights(marks))
    assert replace(fitter.openings).open_lids.shape == (6,)


def test_a_blink_tells_how_shut_lids_are_read():
    heights = np.full((200, len(PAIRS)), 0.12)
    heights[50:54, :6] = 0.06
    known = Openings.of(heights)
    assert np.allclose(known.open_lids, 0.12)
    assert np.allclose(known.shut_lids, 0.06)
    assert (Openings.of(heights[60:]).shut_lids < 0.02).all()  # no blink: what is usual
    heights[50:54, 3:6] = 0.12
    assert (Openings.of(heights).shut_lids < 0.02).all()  # a wink is none


def test_a_quick_fall_of_both_lids_is_a_blink_even_if_the_detector_sees_them_half_open():
    """Some faces' shut lids are read at 0.6 of open ones. A gaze that goes down looks alike but is not over so soon."""
    times = np.arange(200) / 30
    heights = np.full((200, len(PAIRS)), 0.12)
    heights[50:54, :6] = 0.078
    assert np.allclose(Openings.of(heights, times).shut_lids, 0.078)
    slow = np.full_like(heights, 0.12)
    slow[50:90, :6] = 0.078
    assert (Openings.of(slow, times).shut_lids < 0.02).all()
    wink = heights.copy()
    wink[:, 3:6] = 0.12
    assert (Openings.of(wink, times).shut_lids < 0.02).all()
    assert not has_blink(heights[:1, :6], times[:1])


def test_lids_that_are_hardly_seen_to_shut_do_not_flutter_when_open():
    """Between 0.75 and 1 of the opening lies a whole blink: noise near the top must not be blown up with it."""
    times, rng = np.arange(200) / 30, np.random.default_rng(3)
    heights = np.full((200, len(PAIRS)), 0.12)
    heights[50:54, :6] = 0.09
    known = Openings.of(heights, times)
    assert np.allclose(known.shut_lids, 0.09)
    assert known.lid_shares(heights[52]).max() <= 0 and np.allclose(known.lid_shares(heights[0]), 1)
    noise = 0.02 * 0.12 * rng.normal(size=(500, len(PAIRS)))
    plain = (noise[:, :6] / (0.12 - 0.09 - 0.012)).std()
    assert np.std([known.lid_shares(heights[0] + e) for e in noise]) < 0.8 * plain
    # Lids that are seen to shut are believed as they are.
    clear = Openings(np.full(6, 0.12), np.full(6, 0.02))
    assert np.allclose(clear.lid_shares(np.full(len(PAIRS), 0.076)), 0.5, atol=0.01)


def test_lips_that_are_read_apart_when_they_touch_are_known_from_the_clip():
    heights = np.full((200, len(PAIRS)), 0.12)
    heights[20:40, 6:] = 0.012
    assert 0.012 < Openings.of(heights).touching < 0.016
    heights[20:40, 6:] = 0.002
    assert Openings.of(heights).touching == Openings(np.full(6, 0.12)).touching  # as usual: no lower than that
    heights[20:40, 6:] = 0.12
    assert Openings.of(heights).touching <= 0.02  # a mouth that is always open stays open
