"""Scores of tracks: the truth itself is perfect, and each kind of error shows in its own figure and in no other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from headrecon.datasets.head_motion import MotionOptions
from headrecon.datasets.synthetic_video import SyntheticVideo, VideoOptions
from headrecon.datasets.track_truth import TrackTruth, write_truth
from headrecon.errors import InputError
from headrecon.evaluation.track_errors import ScoreOptions, TrackScore, evaluate_track, events
from headrecon.evaluation.track_identity import compare_identities
from headrecon.geometry import so3
from headrecon.io.tracks import write_track
from headrecon.structures import HeadAssets, HeadParams, Track

FEW = ScoreOptions(surface_frames=2, surface_points=100)


@pytest.fixture(scope="module")
def truth(anny_assets: HeadAssets) -> TrackTruth:
    options = VideoOptions(seconds=3.0, size=128, texture_size=128, motion=MotionOptions(turn=70.0))
    return SyntheticVideo(anny_assets, 2, options).truth()


def _with(track: Track, **arrays: np.ndarray) -> Track:
    return replace(track, params=replace(track.params, **arrays))


def _score(track: Track, truth: TrackTruth, assets: HeadAssets) -> TrackScore:
    return evaluate_track(track, truth, assets, FEW)


def test_the_truth_is_perfect(truth: TrackTruth, anny_assets: HeadAssets) -> None:
    score = _score(truth.track, truth, anny_assets)
    for name in ("expression_mean", "pose_degrees", "gap_at_closures_mm"):
        assert getattr(score, name) == pytest.approx(0, abs=1e-4)
    for name in ("place_mm", "place_scale_free_mm", "face_mm", "face_aligned_mm", "reprojection_px", "jitter_px"):
        assert getattr(score, name) == pytest.approx(0, abs=0.02)  # irises of their own size move no skin
    assert score.scale == pytest.approx(1, abs=1e-5)
    assert score.expression_correlation == pytest.approx(1)
    assert (score.lips.recall, score.lips.precision) == (1, 1)
    assert (score.blinks.recall, score.blinks.precision) == (1, 1)
    assert score.blinks.true > 1
    assert score.lips.true > 3
    assert all(v is not None for v in score.pose_by_yaw.values())
    assert score.missed == 0


def test_noise_in_place_is_jitter_and_a_shift_is_none(truth: TrackTruth, anny_assets: HeadAssets) -> None:
    track, noise = truth.track, np.random.default_rng(0).normal(0, 1e-3, (len(truth.track), 3))
    shaken = _score(_with(track, transl=track.params.transl + noise), truth, anny_assets)
    assert shaken.jitter_mm == pytest.approx(1.0, rel=0.2)
    assert shaken.pose_degrees == pytest.approx(0, abs=1e-4)
    moved = _score(_with(track, transl=track.params.transl + [0.004, 0.0, 0.0]), truth, anny_assets)
    assert moved.jitter_mm == pytest.approx(0, abs=0.01)
    assert moved.place_mm == pytest.approx(4.0, abs=0.01)
    assert moved.face_aligned_mm == pytest.approx(0, abs=0.02)


def test_a_turn_of_the_head_is_measured_in_degrees(truth: TrackTruth, anny_assets: HeadAssets) -> None:
    track = truth.track
    extra = so3.exp(np.array([0.0, np.radians(2.0), 0.0]))
    turned = np.stack([so3.log(so3.exp(r) @ extra) for r in track.params.neck_pose])
    score = _score(_with(track, neck_pose=turned), truth, anny_assets)
    assert score.pose_degrees == pytest.approx(2.0, abs=0.01)
    # Of another model a constant turn may be what it calls straight.
    other = replace(truth, track=replace(truth.track, model="other"))
    assert _score(_with(track, neck_pose=turned), other, anny_assets).pose_degrees == pytest.approx(0, abs=0.01)


def test_a_head_of_another_size_is_off_in_metres_only(truth: TrackTruth, anny_assets: HeadAssets) -> None:
    """The same picture from 10 % farther away, as if the head were larger: nothing changes but places and surfaces."""
    params, views = truth.track.params, truth.track.cameras.viewmats
    eyes = truth.landmarks[:, [36, 39, 42, 45]].mean(1) - np.linalg.inv(views)[:, :3, 3]
    score = _score(_with(truth.track, transl=params.transl + 0.1 * eyes), truth, anny_assets)
    assert score.scale == pytest.approx(1 / 1.1, abs=1e-3)
    assert score.place_mm > 20
    assert score.place_scale_free_mm < 0.2
    assert score.pose_degrees == pytest.approx(0, abs=1e-4)


def test_eyes_and_lips_that_stay_open_are_missed(truth: TrackTruth, anny_assets: HeadAssets) -> None:
    names, weights = truth.track.expression_names, truth.track.params.expression.copy()
    weights[:, [names.index(f"eyeBlink{side}") for side in ("Left", "Right")]] *= 0.3
    weights[:, names.index("jawOpen")] += 0.1
    score = _score(_with(truth.track, expression=weights), truth, anny_assets)
    assert score.blinks.recall == 0
    assert score.lips.recall < 0.3
    assert score.gap_at_closures_mm > 1
    assert score.expression["jawOpen"] == pytest.approx(0.1)
    assert score.expression["mouthPucker"] == pytest.approx(0)


def test_frames_are_matched_by_their_numbers(truth: TrackTruth, anny_assets: HeadAssets) -> None:
    some = truth.track.take(np.array([0, 1, 2, 3, 10, 11, 12, 40]))
    score = _score(some, truth, anny_assets)
    assert (score.frames, score.missed) == (8, len(truth.track) - 8)
    assert score.pose_degrees == pytest.approx(0, abs=1e-4)
    with pytest.raises(InputError, match="no frame in common"):
        _score(replace(some, frames=some.frames + 10_000), truth, anny_assets)
    with pytest.raises(InputError, match="head model"):
        _score(replace(some, model="flame"), truth, anny_assets)


def test_events_are_stretches_with_a_frame_of_slack() -> None:
    true = np.array([0, 1, 1, 0, 0, 0, 1, 0, 0, 0], bool)
    said = np.array([0, 0, 0, 1, 0, 0, 0, 0, 0, 1], bool)
    found = events(true, said)
    assert (found.true, found.found, found.said, found.right) == (2, 1, 2, 1)
    assert events(true, said, slack=0).found == 0
    assert np.isnan(events(np.zeros(3, bool), said[:3]).recall)


def test_identities_are_compared_in_millimetres(truth: TrackTruth, anny_assets: HeadAssets) -> None:
    track = truth.track
    same = compare_identities(track, track, anny_assets)
    assert (same.mean_mm, same.aligned_mm) == (0, pytest.approx(0, abs=1e-9))
    betas = track.params.betas.copy()
    betas[:, 0] += 1
    other = compare_identities(track, _with(track, betas=betas), anny_assets)
    assert other.mean_mm > other.aligned_mm > other.scale_free_mm > 0.1


def test_the_command_prints_and_writes(
    truth: TrackTruth, anny_assets: HeadAssets, tmp_path, capsys, monkeypatch
) -> None:
    from headrecon.cli import main

    monkeypatch.setattr("headrecon.models.store.load_head", lambda name: anny_assets)
    write_track(tmp_path / "track.npz", truth.track)
    write_truth(tmp_path / "truth.npz", truth)
    arguments = ["eval", "track", str(tmp_path), str(tmp_path / "truth.npz")]
    assert main([*arguments, "--json", str(tmp_path / "s.json")]) == 0
    assert "blinks: recall, precision" in capsys.readouterr().out
    assert '"pose_degrees"' in (tmp_path / "s.json").read_text()
    for arguments in (
        ["eval", "track", str(tmp_path), str(tmp_path / "track.npz")],
        ["eval", "track", str(tmp_path / "s.json"), str(tmp_path / "truth.npz")],
    ):
        assert main(arguments) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_parameters_keep_their_order(truth: TrackTruth, anny_assets: HeadAssets) -> None:
    """A track whose expressions come in another order scores the same."""
    names = truth.track.expression_names
    order = np.random.default_rng(0).permutation(len(names))
    mixed = replace(
        _with(truth.track, expression=truth.track.params.expression[:, order]),
        expression_names=tuple(names[i] for i in order),
    )
    assert isinstance(mixed.params, HeadParams)
    assert _score(mixed, truth, anny_assets).reprojection_px < 0.02
