"""Which video belongs to a track: found where it should be, refused when it is another."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from headrecon.avatars.footage_source import FramesSource, VideoSource, open_source, track_digest
from headrecon.errors import InputError
from headrecon.io.images import save_png
from headrecon.io.tracks import write_track
from headrecon.io.video_reader import VideoReader
from headrecon.io.video_writer import write_timed_mp4
from tests.avatars.test_footage_store import a_track

SIZE, COUNT = 64, 12


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    pictures = [np.full((SIZE, SIZE, 3), 20 * i, np.uint8) + rng.integers(0, 9, 3, np.uint8) for i in range(COUNT)]
    write_timed_mp4(tmp_path / "clip.mp4", ((i / 25, p) for i, p in enumerate(pictures)), 25.0)
    times = [f.time_s for f in VideoReader(tmp_path / "clip.mp4").frames()]
    out = tmp_path / "track"
    out.mkdir()
    write_track(out / "track.npz", replace(a_track(COUNT, SIZE), timestamps_s=np.array(times)).take(np.arange(2, 10)))
    (out / "track.json").write_text(json.dumps({"schema": "headrecon.track/1", "video": {"file": "clip.mp4"}}))
    return out


def test_frames_come_with_their_places(folder):
    source = open_source(folder)
    assert isinstance(source, VideoSource) and source.path == folder.parent / "clip.mp4"
    places = [(f.place, int(f.image_srgb.mean()) // 20) for f in source.frames()]
    assert places == [(i, i + 2) for i in range(8)]
    assert [f.place for f in source.frames(5)] == [5, 6, 7] and list(source.frames(8)) == []
    assert open_source(folder, folder.parent / "clip.mp4").identity() == source.identity()


def test_a_video_that_is_not_there_or_not_named(folder):
    (folder.parent / "clip.mp4").rename(folder.parent / "other.mp4")
    with pytest.raises(InputError, match=r"clip\.mp4.*--video"):
        open_source(folder)
    for name in (None, "../../etc/passwd", 7):
        (folder / "track.json").write_text(json.dumps({"video": {"file": name}}))
        with pytest.raises(InputError, match="does not say which video"):
            open_source(folder)
    with pytest.raises(InputError, match=r"no track\.npz"):
        open_source(folder.parent)


def test_another_video_is_refused(folder):
    track = open_source(folder).track
    video = folder.parent / "clip.mp4"
    larger = replace(track, cameras=replace(track.cameras, width=128))
    with pytest.raises(InputError, match="128 x 64 pixels, the video of 64 x 64"):
        VideoSource(larger, video)
    with pytest.raises(InputError, match="goes to frame 109, the video holds 12"):
        VideoSource(replace(track, frames=track.frames + 100), video)
    slower = VideoSource(replace(track, timestamps_s=track.timestamps_s * 1.25), video)
    with pytest.raises(InputError, match=r"at 0\.100 s in the track and at 0\.080 s"):
        list(slower.frames())


def test_frames_beside_the_track_are_used(folder):
    for name, value in (("frames", 90), ("masks", 255)):
        (folder / name).mkdir()
        for i in range(2, 10):
            picture = np.full((SIZE, SIZE, 3) if name == "frames" else (SIZE, SIZE), value, np.uint8)
            save_png(folder / name / f"{i:06d}.png", picture)
    source = open_source(folder)
    assert isinstance(source, FramesSource)
    first = next(iter(source.frames(3)))
    assert first.place == 3 and first.mask is not None and (first.mask == 255).all() and (first.image_srgb == 90).all()
    save_png(folder / "masks" / "000004.png", np.zeros((50, 50), np.uint8))
    with pytest.raises(InputError, match="is 50 x 50 pixels"):
        list(source.frames())


def test_a_track_has_a_fingerprint(folder):
    track = open_source(folder).track
    moved = replace(track, confidence=track.confidence * 0.9)
    assert track_digest(track) == track_digest(open_source(folder).track) != track_digest(moved)
