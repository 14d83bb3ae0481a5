"""A track and its pictures to footage: the crop is exact, the person is cut out, runs go on, bad input is named."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from jaxtyping import Int

from headrecon.avatars.footage import Footage
from headrecon.avatars.footage_build import FaceCheck, FootageOptions, build_footage
from headrecon.avatars.footage_crop import Crop, choose_crop
from headrecon.avatars.footage_source import SourceFrame
from headrecon.datasets.head_motion import MotionOptions
from headrecon.datasets.synthetic_video import SyntheticVideo, VideoOptions
from headrecon.errors import InputError
from headrecon.geometry.cameras import project_points
from headrecon.models.moving_head import MovingHead
from headrecon.structures import Track
from tests.synthetic_assets import make_tiny_assets

OPTIONS = VideoOptions(
    seconds=1.4, size=200, noise=0.0, blur_px=0.0, texture_size=64, torso=True, supersample=1,
    motion=MotionOptions(sway=6.0, camera=0.0, light=False),
)  # fmt: skip


@dataclass(frozen=True)
class Drawn:
    """A source whose masks are exact. lost: rows without a mask; stop: where the machine is switched off."""

    video: SyntheticVideo
    track: Track
    lost: tuple[int, ...] = ()
    stop: int | None = None

    def frames(self, start: int = 0) -> Iterator[SourceFrame]:
        for place in range(start, len(self.track)):
            if place == self.stop:
                raise KeyboardInterrupt
            mask = self.video.cut_out(place)[1]
            yield SourceFrame(place, self.video.frame(place), mask * 0 if place in self.lost else mask)

    def identity(self) -> dict[str, Any]:
        return {"drawn": self.video.seed, "lost": list(self.lost)}


@pytest.fixture(scope="module")
def video() -> SyntheticVideo:
    return SyntheticVideo(make_tiny_assets(), 2, OPTIONS)


def built(source: Drawn, folder, **options: Any) -> Footage:
    return build_footage(source, folder, FootageOptions(size=96, **options), assets=make_tiny_assets())


def test_a_scaled_crop_keeps_places_exactly():
    ramp = np.broadcast_to(np.arange(120, dtype=np.uint8)[None, :, None], (90, 120, 3))
    crop = Crop(10, 5, 80, 20)
    picture = crop.picture(ramp)
    at = crop.points(np.array([[10 + 4 * 7 + 2.0, 25.0]]))[0]
    assert at.tolist() == [7.5, 5.0]  # the middle of the eighth pixel
    # That pixel is the mean of 4 columns, 38 to 41.
    assert picture[3, 7, 0] == pytest.approx(39.5, abs=0.51) and picture.shape == (20, 20, 3)
    outside = Crop(-40, 5, 80, 20)
    assert outside.inside(120, 90) == (10, 0, 20, 20) and (outside.picture(ramp)[:, :10] == 0).all()


def test_the_crop_holds_head_and_shoulders_and_stays_within_the_picture(video: SyntheticVideo):
    head = MovingHead.of(video.assets, video.track)
    crop = choose_crop(head, np.ones(len(video), bool), 96)
    assert min(crop.x0, crop.y0) >= 0 and max(crop.x0, crop.y0) + crop.side <= 200
    pixels, _ = project_points(head.vertices(3).astype(np.float64), head.camera(3))
    tall = np.ptp(pixels[:, 1])
    assert pixels[:, 1].min() - crop.y0 > 0.1 * tall and crop.y0 + crop.side - pixels[:, 1].max() > 0.2 * tall
    # One frame that has the head far away does not widen the square for all.
    params = video.track.params
    wild = replace(params, transl=params.transl + (np.arange(len(video)) == 5)[:, None] * [0.4, 0.0, 0.0])
    other = choose_crop(replace(head, track=replace(video.track, params=wild)), np.ones(len(video), bool), 96)
    assert abs(other.side - crop.side) < 0.2 * crop.side
    with pytest.raises(ValueError, match="usable"):
        choose_crop(head, np.zeros(len(video), bool), 96)


def test_footage_shows_the_person_where_its_cameras_say(video: SyntheticVideo, tmp_path):
    footage = built(Drawn(video, video.track), tmp_path / "footage")
    assert footage.size == (96, 96) and footage.usable.all() and len(footage) == len(video)
    sharper = replace(OPTIONS, size=96)
    cameras = footage.track.cameras
    for row in (0, 20, 41):
        camera = replace(cameras, viewmats=cameras.viewmats[row], Ks=cameras.Ks[row])
        colours, alphas = SyntheticVideo(video.assets, 2, replace(sharper, supersample=3)).cut_out(row, camera)
        assert np.abs(footage.alphas[row].astype(int) - alphas).mean() < 4  # of 255, all of it at outlines
        solid = (alphas == 255) & (footage.alphas[row] == 255)
        assert solid.mean() > 0.15
        assert np.abs(footage.colours_srgb[row][solid].astype(int) - colours[solid]).mean() < 6


def test_a_killed_run_ends_in_the_same_footage_and_a_second_run_makes_nothing(video: SyntheticVideo, tmp_path):
    whole = built(Drawn(video, video.track), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        built(Drawn(video, video.track, stop=20), tmp_path / "killed")
    again = built(Drawn(video, video.track), tmp_path / "killed")
    assert (again.alphas == whole.alphas).all() and (again.colours_srgb == whole.colours_srgb).all()
    stored = built(Drawn(video, video.track, stop=0), tmp_path / "killed")  # nothing is read any more
    assert (stored.alphas == whole.alphas).all()


def test_rows_without_a_person_are_not_used(video: SyntheticVideo, tmp_path):
    unsure = video.track.confidence.copy()
    unsure[4], unsure[5] = 0.2, 0.0
    footage = built(Drawn(video, replace(video.track, confidence=unsure), lost=(9,)), tmp_path / "footage")
    assert np.flatnonzero(~footage.usable).tolist() == [4, 5, 9]


def rows(count: int) -> Int[np.ndarray, " N"]:
    return np.arange(count)


def test_what_cannot_become_an_avatar_is_said(video: SyntheticVideo, tmp_path):
    track = video.track
    with pytest.raises(InputError, match=r"0 of the track's 42 frames.*0\.20.*--preset high"):
        built(Drawn(video, replace(track, confidence=np.full(len(track), 0.2))), tmp_path / "a")
    with pytest.raises(InputError, match=r"has 12 frames.*at least 30.*longer video"):
        built(Drawn(video, track.take(rows(12))), tmp_path / "b")
    with pytest.raises(InputError, match="cut out in 2 of 42"):
        built(Drawn(video, track, lost=tuple(range(2, 42))), tmp_path / "c")
    with pytest.raises(InputError, match="even number"):
        build_footage(Drawn(video, track), tmp_path / "d", FootageOptions(size=97))
    assert not list(tmp_path.glob("[abcd]"))


def test_a_video_of_another_moment_is_found_out():
    rng = np.random.default_rng(6)
    tracked = rng.uniform(0, 100, (478, 3))
    confidence = np.linspace(0.6, 1.0, 50)
    check = FaceCheck(confidence)
    looked = [row for row in range(50) if check.wants(row)]
    assert len(looked) == 5 and min(looked) >= 25  # frames that are surer than most
    for _ in range(5):
        check.compare(tracked, tracked + rng.normal(0, 3, tracked.shape))  # what trackers are off by
    other = FaceCheck(confidence)
    other.compare(tracked, tracked)
    other.compare(tracked, tracked + [30.0, 0.0, 0.0])
    with pytest.raises(InputError, match="does not show the tracked face"):
        other.compare(tracked, tracked + [0.0, 25.0, 0.0])
