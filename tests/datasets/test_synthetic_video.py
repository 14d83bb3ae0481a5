"""Synthetic videos: what is said to be true is what was drawn, speech closes lips, blinks close eyes."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from headrecon.datasets.face_signals import FaceSignals, face_signals, runs
from headrecon.datasets.head_motion import MotionOptions, blink_curve, draw_blinks, draw_motion
from headrecon.datasets.speech import VISEMES, draw_speech, mouth_curves
from headrecon.datasets.synthetic_video import SyntheticVideo, VideoOptions
from headrecon.datasets.track_truth import TrackTruth, read_truth, write_truth
from headrecon.errors import AssetError, InputError
from headrecon.geometry.cameras import project_points
from headrecon.io.tracks import read_track, write_track
from headrecon.structures import ARKIT_NAMES, HeadAssets

SMALL = VideoOptions(seconds=2.0, size=128, texture_size=128)


@pytest.fixture(scope="module")
def video(anny_assets: HeadAssets) -> SyntheticVideo:
    return SyntheticVideo(anny_assets, 4, replace(SMALL, motion=MotionOptions(turn=80.0)))


@pytest.fixture(scope="module")
def truth(video: SyntheticVideo) -> TrackTruth:
    return video.truth()


def test_speech_is_made_of_known_shapes_and_ends_in_time() -> None:
    assert {name for shape in VISEMES.values() for name in shape} <= set(ARKIT_NAMES)
    sounds = draw_speech(np.random.default_rng(0), 10.0)
    assert 30 < len(sounds) < 110  # two sounds a syllable, four to six syllables a second less pauses
    assert sounds[-1].end_s < 10
    assert sum(s.viseme == "mbp" for s in sounds) > 5
    assert all(a.end_s <= b.start_s + 1e-12 for a, b in pairwise(sounds))


def test_each_closure_is_reached_however_short() -> None:
    sounds = draw_speech(np.random.default_rng(1), 8.0)
    middles = np.array([(s.start_s + s.end_s) / 2 for s in sounds if s.viseme == "mbp"])
    curves = mouth_curves(sounds, middles)
    for name, wanted in VISEMES["mbp"].items():
        np.testing.assert_allclose(curves[name], wanted, atol=1e-9)
    assert np.abs(curves["mouthFunnel"]).max() < 1e-9


def test_blinks_last_150_to_300_ms_and_close_the_eye() -> None:
    blinks = draw_blinks(np.random.default_rng(0), 20.0)
    lengths = np.array([end - start for start, end in blinks])
    assert lengths.min() >= 0.15
    assert lengths.max() <= 0.30
    start, end = blinks[0]
    times = np.linspace(start, end, 101)
    curve = blink_curve(times, start, end)
    assert curve[0] == curve[-1] == 0
    assert curve.max() == 1
    assert blink_curve(np.array([start - 1, end + 1]), start, end).max() == 0


def test_the_same_motion_at_another_rate() -> None:
    options = MotionOptions(turn=60.0)
    fast = draw_motion(np.random.default_rng(3), np.arange(120) / 60, 2.0, options)
    slow = draw_motion(np.random.default_rng(3), np.arange(60) / 30, 2.0, options)
    np.testing.assert_array_equal(fast.neck[::2], slow.neck)
    np.testing.assert_array_equal(fast.weights["jawOpen"][::2], slow.weights["jawOpen"])
    assert max(c.max() for c in fast.weights.values()) <= 1
    assert min(c.min() for c in fast.weights.values()) >= 0


def test_a_still_head_does_not_move(anny_assets: HeadAssets) -> None:
    still = SyntheticVideo(anny_assets, 4, replace(SMALL, seconds=0.2, motion=MotionOptions.still()))
    truth = still.truth()
    assert truth.still
    assert np.ptp(truth.face, axis=0).max() == 0
    assert not np.array_equal(still.frame(0), still.frame(1))  # the camera's noise is there


def test_the_truth_is_what_was_drawn(video: SyntheticVideo, truth: TrackTruth) -> None:
    """The box of the drawn head in the picture is the box of the projected vertices, also with a moving camera."""
    one = replace(video.options, noise=0.0, blur_px=0.0)
    clean = SyntheticVideo(video.assets, video.seed, one)
    for index in (0, 40):
        cameras = clean.track.cameras
        camera = replace(cameras, viewmats=cameras.viewmats[index], Ks=cameras.Ks[index])
        shown, depth = project_points(clean.vertices(index), camera)
        assert (depth > 0.2).all()
        difference = np.abs(clean.frame(index).astype(int) - _empty(clean, index)).sum(-1)
        rows, columns = np.nonzero(difference > 40)
        low, high = shown.min(0).clip(0, 128), shown.max(0).clip(0, 128)
        found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_allclose(found, [*low, *high], atol=2.5)
    assert np.linalg.norm(video.track.cameras.viewmats[0] - video.track.cameras.viewmats[40]) > 1e-3


def _empty(video: SyntheticVideo, index: int) -> np.ndarray:
    return (video._behind(index) * 255).astype(int)


def test_frames_and_truth_repeat(video: SyntheticVideo, truth: TrackTruth, anny_assets: HeadAssets) -> None:
    again = SyntheticVideo(anny_assets, 4, video.options)
    np.testing.assert_array_equal(again.frame(7), video.frame(7))
    np.testing.assert_array_equal(again.truth().face, truth.face)
    assert not np.array_equal(SyntheticVideo(anny_assets, 5, video.options).frame(7), video.frame(7))
    assert len(list(SyntheticVideo(anny_assets, 4, replace(SMALL, seconds=0.1)).frames())) == 3


def test_the_head_turns_to_where_it_was_told(video: SyntheticVideo) -> None:
    from headrecon.io.arkit_curves import arkit_curves

    yaw = np.degrees(arkit_curves(video.track).head[:, 0])
    assert yaw.max() == pytest.approx(80, abs=8)  # and sways a little
    assert abs(yaw[0]) < 8
    assert abs(yaw[-1]) < 8


def test_closed_lips_and_blinks_are_seen_in_the_geometry(video: SyntheticVideo, truth: TrackTruth) -> None:
    signals = truth.signals
    times = truth.track.timestamps_s
    for start, end in video.motion.blinks:
        inside = (times > start) & (times < end)
        assert signals.eyes_closed[inside].any()
        assert not signals.eyes_closed[(times > end + 0.05) & (times < end + 0.3)].any()
    assert signals.lips_closed[0]  # at rest, before the first word
    # A wide open mouth is not closed, whatever the lips do.
    assert not signals.lips_closed[truth.track.params.expression[:, ARKIT_NAMES.index("jawOpen")] > 0.2].any()


def test_signals_do_not_depend_on_pose_and_size(truth: TrackTruth) -> None:
    from headrecon.geometry import so3

    turn = so3.exp(np.array([0.3, -0.8, 0.2]))
    moved = face_signals(2.5 * truth.landmarks @ turn.T + 1.0, 2.5 * truth.neutral_landmarks)
    np.testing.assert_allclose(moved.lip_gap, truth.signals.lip_gap, atol=1e-5)
    np.testing.assert_allclose(moved.lids, truth.signals.lids, atol=1e-4)


def test_runs() -> None:
    assert runs(np.array([True, True, False, True])).tolist() == [[0, 1], [3, 3]]
    assert runs(np.zeros(4, bool)).tolist() == []
    lids = np.array([[0.1, 0.9], [0.1, 0.1]])
    assert FaceSignals(np.zeros(2), lids).eyes_closed.tolist() == [False, True]  # a wink is no blink


def test_truth_survives_its_file_and_is_a_track(truth: TrackTruth, tmp_path) -> None:
    path = tmp_path / "truth.npz"
    write_truth(path, truth)
    read = read_truth(path)
    np.testing.assert_allclose(read.face, truth.face, atol=1e-7)
    np.testing.assert_array_equal(read.face_ids, truth.face_ids)
    np.testing.assert_array_equal(read_track(path).params.neck_pose, truth.track.params.neck_pose)
    write_track(path, truth.track)
    with pytest.raises(AssetError, match="no truth"):
        read_truth(path)


def test_a_clip_needs_a_frame(anny_assets: HeadAssets) -> None:
    with pytest.raises(InputError, match="at least one frame"):
        SyntheticVideo(anny_assets, 1, replace(SMALL, seconds=0.01))


def test_lips_that_are_rolled_in_past_each_other_are_closed_and_not_open():
    neutral = np.random.default_rng(0).normal(size=(68, 3))
    neutral[[36, 39, 42, 45]] = [[-45, 40, 0], [-15, 40, 0], [15, 40, 0], [45, 40, 0]]
    neutral[[48, 54]] = [[-25, -30, 0], [25, -30, 0]]
    upper, lower = [61, 62, 63], [67, 66, 65]
    neutral[upper] = neutral[lower] = [[-10, -30, 10], [0, -30, 12], [10, -30, 10]]
    points = np.tile(neutral, (3, 1, 1))
    points[:, upper, 1] += np.array([-2.0, 0.0, 4.0])[:, None]  # rolled in, touching, open
    signals = face_signals(points, neutral)
    np.testing.assert_allclose(signals.lip_gap, np.array([-2, 0, 4]) / 90, atol=1e-9)
    assert signals.lips_closed.tolist() == [True, True, False]
