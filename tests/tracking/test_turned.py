"""A clip in which the head turns to profile: its pose there, what is said of it, and a run killed meanwhile."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from headrecon.config import ReconstructConfig, resolve_kind
from headrecon.datasets.head_motion import MotionOptions
from headrecon.datasets.synthetic_video import SyntheticVideo, VideoOptions
from headrecon.evaluation.track_errors import pose_errors
from headrecon.evaluation.track_match import match_track
from headrecon.io.video_writer import write_timed_mp4
from headrecon.pipeline import load_engine
from headrecon.stages import Engine
from headrecon.structures import Track
from headrecon.tracking.run import tracked
from headrecon.tracking.settings import TrackConfig
from headrecon.tracking.turned import TurnedHeads

SIZE, FPS, SEED = 256, 20.0, 32
CONFIG = resolve_kind(TrackConfig, "draft", None, {"texture.size": 64, "keyframes.count": 4, "follow.turned": True})
CONFIG = replace(CONFIG, output=replace(CONFIG.output, overlay=False))


@pytest.fixture(scope="module")
def engine() -> Engine:
    return load_engine(ReconstructConfig())


@pytest.fixture(scope="module")
def video(anny_assets) -> SyntheticVideo:
    motion = MotionOptions(talk=False, blink=False, gaze=0.0, sway=2.0, turn=85.0, light=False, moods=0.0)
    options = VideoOptions(
        seconds=3.0, fps=FPS, size=SIZE, motion=motion, texture_size=384, supersample=1, lens_mm=50.0
    )
    return SyntheticVideo(anny_assets, SEED, options)


@pytest.fixture(scope="module")
def clip(video, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("turned") / "clip.mp4"
    write_timed_mp4(path, zip(video.times_s.tolist(), video.frames(), strict=True), FPS)
    return path


def followed(clip: Path, out: Path, engine: Engine, config: TrackConfig = CONFIG) -> tuple[Track, tuple[str, ...]]:
    with tracked(clip, out, config, engine, None) as (result, work):
        work.remove()
    return result.track, result.warnings


@pytest.mark.slow
def test_a_head_is_followed_to_profile_and_back(clip, video, engine, anny_assets, tmp_path, monkeypatch):
    made, warnings = followed(clip, tmp_path / "a", engine)
    match = match_track(made, video.truth(), anny_assets)
    errors = pose_errors(match)
    towards = -match.true.places / np.linalg.norm(match.true.places, axis=1, keepdims=True)
    off = np.degrees(np.arccos(np.clip((match.true.turns[:, :, 2] * towards).sum(1), -1, 1)))
    far = off > 60
    assert far.sum() >= 8
    assert errors[far].mean() < 12.0
    # Without it the head stays where it was lost.
    plain, _ = followed(clip, tmp_path / "b", engine, replace(CONFIG, follow=replace(CONFIG.follow, turned=False)))
    assert pose_errors(match_track(plain, video.truth(), anny_assets))[far].mean() > 25.0
    assert (made.confidence[far] > 0).mean() > 0.8
    assert (made.confidence[off > 75] <= 0.7).all()
    assert made.confidence[off < 15].min() > made.confidence[far].max()
    assert any("followed by the picture" in w for w in warnings)
    _killed_run_ends_in_the_same(clip, engine, made, tmp_path, monkeypatch)


def _killed_run_ends_in_the_same(clip: Path, engine: Engine, made: Track, tmp_path: Path, monkeypatch) -> None:
    true = TurnedHeads._followed

    def killed(*args, **kwargs):
        true(*args, **kwargs)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TurnedHeads, "_followed", killed)
        with pytest.raises(KeyboardInterrupt):
            followed(clip, tmp_path / "c", engine)
    again, _ = followed(clip, tmp_path / "c", engine)
    for name in ("global_orient", "transl", "expression"):
        assert np.array_equal(getattr(again.params, name), getattr(made.params, name)), name
    assert np.array_equal(again.confidence, made.confidence)
