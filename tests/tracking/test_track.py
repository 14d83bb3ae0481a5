"""`headrecon.track` from end to end on small clips: what comes out, cuts, lost faces, and runs that were killed."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from headrecon.cli import main
from headrecon.config import ReconstructConfig, resolve_kind
from headrecon.errors import InputError, NoFaceFound
from headrecon.fitting.camera_prior import video_focal_prior
from headrecon.geometry.cameras import project_points
from headrecon.io.tracks import read_track
from headrecon.io.video_reader import VideoReader
from headrecon.io.work_folder import work_folder, work_path
from headrecon.models.moving_head import MovingHead
from headrecon.pipeline import load_engine
from headrecon.stages import Engine
from headrecon.structures import Track
from headrecon.tracking import seen
from headrecon.tracking.run import track, tracked
from headrecon.tracking.settings import TrackConfig
from tests.tracking.clips import SIDE, stripes, views, write_clip

DRAFT = resolve_kind(TrackConfig, "draft", None, {"texture.size": 64, "keyframes.count": 4})
QUIET = replace(DRAFT, output=replace(DRAFT.output, overlay=False))


@pytest.fixture(scope="module")
def engine() -> Engine:
    return load_engine(ReconstructConfig())


def followed(clip: Path, out: Path, engine: Engine, config: TrackConfig = QUIET) -> tuple[Track, tuple[str, ...]]:
    """The track and its warnings, without the output folder."""
    with tracked(clip, out, config, engine, None) as (result, work):
        work.remove()
    return result.track, result.warnings


def test_a_clip_becomes_a_folder(astronaut_image, engine, tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", views(astronaut_image, 20))
    out = tmp_path / "out"
    made = track(clip, out, DRAFT, engine=engine)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["clip.mp4", "out"]  # the working folder is gone
    assert sorted(p.name for p in out.iterdir()) == [
        "arkit.csv", "config.yaml", "head.glb", "livelink.csv", "overlay.mp4", "report.html", "track.json", "track.npz",
    ]  # fmt: skip
    read = read_track(out / "track.npz")
    assert np.array_equal(read.params.expression, made.params.expression)
    assert len(read) == 20
    assert (read.confidence > 0.8).all()
    summary = json.loads((out / "track.json").read_text())
    assert summary["schema"] == "headrecon.track/1"
    assert summary["frames"]["count"] == 20
    assert summary["error_percent"]["median"] < 3.0
    assert summary["skin"]["frames"] == 0  # a draft has landmarks alone
    with av.open(str(out / "overlay.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 20
    assert "least sure frames" in (out / "report.html").read_text().lower()


def test_the_head_moves_as_the_camera_did(astronaut_image, engine, tmp_path):
    """The same photo shifted and scaled: the head's place follows, its face hardly changes."""
    made, warnings = followed(write_clip(tmp_path / "c.mp4", views(astronaut_image, 24)), tmp_path / "out", engine)
    assert warnings == ()
    i = np.arange(24)
    side = 250 + 12 * np.sin(0.3 * i)
    depth = -made.params.transl[:, 2]
    # distance goes with the size of the cut-out, up to a perspective that does not change as it would before a camera
    assert np.corrcoef(depth, side)[0, 1] > 0.96
    assert np.ptp(depth / side) / np.mean(depth / side) < 0.03
    pixels = made.params.transl[:, 0] / depth * made.cameras.Ks[:, 0, 0] + SIDE / 2
    in_portrait = pixels / SIDE * side + 95 + 10 * np.sin(0.25 * i)
    assert np.std(in_portrait) < 1.3  # pixels of the portrait, where the head stands still; the shift is 20
    assert np.std(made.params.expression, axis=0).max() < 0.15  # 45 pixels between the eyes
    # A crop that moves is not a camera that turns: its perspective stays, which looks like a turn of a degree or two.
    assert np.degrees(np.std(made.params.global_orient, axis=0)).max() < 2.0


@pytest.mark.parametrize("killed_at", [3, 9, 14, "identity", "frames"])
def test_a_killed_run_goes_on_and_ends_in_the_same_result(killed_at, astronaut_image, engine, tmp_path, monkeypatch):
    monkeypatch.setattr(seen, "CHUNK", 6)
    clip = write_clip(tmp_path / "c.mp4", [*views(astronaut_image, 8), *stripes(3), *views(astronaut_image, 9, 11)])
    whole, _ = followed(clip, tmp_path / "whole", engine)

    class Killed(BaseException):
        pass

    import headrecon.tracking.run as run_module

    looked = [0]
    real = seen.follow

    def dying(image, state, follower):
        looked[0] += 1
        if looked[0] == killed_at:
            raise Killed
        return real(image, state, follower)

    def dead(*args, **kwargs):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(seen, "follow", dying)
        if killed_at in ("identity", "frames"):
            patch.setattr(run_module, {"identity": "PersonFinder", "frames": "smooth"}[killed_at], dead)
        with pytest.raises(Killed):
            followed(clip, tmp_path / "out", engine)
    assert work_path(tmp_path / "out").is_dir() or killed_at == 3  # nothing was finished yet
    counted = [0]

    def counting(image, state, follower):
        counted[0] += 1
        return real(image, state, follower)

    with monkeypatch.context() as patch:
        patch.setattr(seen, "follow", counting)
        again, _ = followed(clip, tmp_path / "out", engine)
    already = 20 if isinstance(killed_at, str) else (killed_at - 1) // 6 * 6
    assert counted[0] == 20 - already
    for name in ("expression", "global_orient", "transl", "betas", "leye_pose"):
        assert np.array_equal(getattr(again.params, name), getattr(whole.params, name)), name
    assert np.array_equal(again.confidence, whole.confidence)


@pytest.mark.parametrize("killed_at", [2, 9])
def test_a_run_killed_while_skin_is_followed_ends_in_the_same_result(
    killed_at, astronaut_image, engine, tmp_path, monkeypatch
):
    from headrecon.fitting.video.dense_fit import DenseFrameFitter

    monkeypatch.setattr(seen, "CHUNK", 6)
    clip = write_clip(tmp_path / "c.mp4", [*views(astronaut_image, 8), *stripes(2), *views(astronaut_image, 4, 10)])
    asked = replace(QUIET, motion=replace(QUIET.motion, dense=True))
    with tracked(clip, tmp_path / "whole", asked, engine, None) as (whole, work):
        work.remove()
    shown = np.isfinite(whole.errors)
    assert (whole.raw.skin[shown] > 0.6).all()  # every frame's skin was found
    assert np.isnan(whole.raw.skin[~shown]).all()

    class Killed(BaseException):
        pass

    real, refined = DenseFrameFitter.refine, [0]

    def dying(self, *args):
        refined[0] += 1
        if refined[0] == killed_at:
            raise Killed
        return real(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(DenseFrameFitter, "refine", dying)
        with pytest.raises(Killed):
            followed(clip, tmp_path / "out", engine, asked)
        already, refined[0], killed_at = (killed_at - 1) // 6 * 6, 0, 99
        again, _ = followed(clip, tmp_path / "out", engine, asked)
    assert refined[0] == shown.sum() - already
    for name in ("expression", "global_orient", "transl", "leye_pose"):
        assert np.array_equal(getattr(again.params, name), getattr(whole.track.params, name)), name


def test_what_a_kill_while_writing_left_is_removed_and_nothing_else(astronaut_image, engine, tmp_path):
    clip = write_clip(tmp_path / "c.mp4", views(astronaut_image, 2))
    half, empty, other = (tmp_path / f".out.partial-{name}" for name in ("1", "2", "3"))
    for folder in (half, empty, other):
        folder.mkdir()
    (half / "track.npz").write_bytes(b"half")
    (other / "head.json").write_text("{}")  # of another command that may be at work
    followed(clip, tmp_path / "out", engine)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".out.partial-3", "c.mp4"]


def test_other_settings_start_anew(astronaut_image, engine, tmp_path):
    clip = write_clip(tmp_path / "c.mp4", views(astronaut_image, 4))
    with tracked(clip, tmp_path / "out", QUIET, engine, None):
        pass  # as if killed while writing
    kept = work_path(tmp_path / "out")
    before = (kept / "seen-00000.npz").stat().st_mtime_ns
    with tracked(clip, tmp_path / "out", replace(QUIET, output=DRAFT.output), engine, None):
        assert (kept / "seen-00000.npz").stat().st_mtime_ns == before  # what is written does not change what was seen
    twice = replace(QUIET, follow=replace(QUIET.follow, looks=4))
    with tracked(clip, tmp_path / "out", twice, engine, None) as (_, work):
        assert (kept / "seen-00000.npz").stat().st_mtime_ns != before
        work.remove()


def test_two_runs_do_not_share_a_folder(astronaut_image, engine, tmp_path):
    clip = write_clip(tmp_path / "c.mp4", views(astronaut_image, 2))
    with tracked(clip, tmp_path / "out", QUIET, engine, None) as (_, work):
        with pytest.raises(InputError, match="another run is writing"):
            followed(clip, tmp_path / "out", engine)
        work.remove()


def test_a_run_that_is_refused_takes_nothing_from_the_one_at_work(tmp_path):
    """Even where that one has not finished anything yet."""
    with work_folder(tmp_path / "out", {"a": 1}) as work:
        with pytest.raises(InputError, match="another run is writing"), work_folder(tmp_path / "out", {"a": 1}):
            pass
        work.save("seen-00000", {"x": np.zeros(3)})
        work.remove()


def test_a_lost_face_is_carried_on_with_no_confidence_and_found_again(astronaut_image, engine, tmp_path):
    shown = views(astronaut_image, 20)
    for i in range(8, 13):  # a hand before the camera
        shown[i] = np.full_like(shown[i], 90)
    made, warnings = followed(write_clip(tmp_path / "c.mp4", shown), tmp_path / "out", engine)
    assert len(made) == 20
    hidden = np.arange(8, 13)
    assert (made.confidence[hidden] == 0).all()
    assert (made.confidence[:8] > 0.8).all()
    assert (made.confidence[16:] > 0.8).all()  # the detector looks at every fourth frame once a face is lost
    assert any("nobody was seen" in w for w in warnings)
    # between the two sides of the gap, not somewhere else
    x = made.params.transl[:, 0]
    seen_again = int(np.flatnonzero(made.confidence[13:] > 0)[0]) + 13
    low, high = sorted((x[7], x[seen_again]))
    assert (x[hidden] > low - 0.01).all() and (x[hidden] < high + 0.01).all()


def test_uneven_times_are_kept(astronaut_image, engine, tmp_path):
    times = np.cumsum([0.0, *[0.02, 0.05] * 5])
    clip = write_clip(tmp_path / "c.mp4", views(astronaut_image, 11), list(times))
    made, _ = followed(clip, tmp_path / "out", engine)
    assert np.allclose(made.timestamps_s, times, atol=2e-4)


def test_one_frame_is_enough(astronaut_image, engine, tmp_path):
    made, _ = followed(write_clip(tmp_path / "c.mp4", views(astronaut_image, 1)), tmp_path / "out", engine)
    assert len(made) == 1
    assert made.confidence[0] > 0.8


def test_a_clip_without_a_face_is_refused_and_leaves_nothing(tmp_path, capsys):
    clip = write_clip(tmp_path / "c.mp4", stripes(6))
    assert main(["track", str(clip), "--out", str(tmp_path / "out"), "--preset", "draft"]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("headrecon: no face was found in any of the 6 frames")
    assert [p.name for p in tmp_path.iterdir()] == ["c.mp4"]


@pytest.mark.native
def test_a_draft_does_without_torch_and_scipy(astronaut_image, tmp_path):
    """Importing torch alone takes as long as forty frames."""
    clip = write_clip(tmp_path / "c.mp4", views(astronaut_image, 3))
    code = (
        "import sys\n"
        "from headrecon.cli import main\n"
        "code = main(['track', sys.argv[1], '--out', sys.argv[2], '--preset', 'draft'])\n"
        "heavy = sorted({'torch', 'scipy', 'pandas', 'skimage'} & set(sys.modules))\n"
        "sys.exit(code or (f'{heavy} were imported' if heavy else 0))\n"
    )
    command = [sys.executable, "-c", code, str(clip), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "is empty"), (b"no video at all" * 99, "is not a video"), ("sound", "has no picture stream")],
    ids=["empty", "text", "sound"],
)
def test_what_is_no_video_is_refused(content, said, tmp_path, capsys):
    if content == "sound":
        with av.open(str(tmp_path / "c.mp4"), "w") as container:
            stream = container.add_stream("aac", rate=16_000)
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 16_000), np.float32), format="fltp", layout="mono")
            sound.sample_rate = 16_000
            container.mux(stream.encode(sound))
            container.mux(stream.encode())
    else:
        (tmp_path / "c.mp4").write_bytes(content)
    assert main(["track", str(tmp_path / "c.mp4"), "--out", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err.strip().splitlines()[-1]
    assert [p.name for p in tmp_path.iterdir()] == ["c.mp4"]


def test_a_folder_is_no_video(tmp_path, capsys):
    (tmp_path / "frames").mkdir()
    assert main(["track", str(tmp_path / "frames"), "--out", str(tmp_path / "out")]) == 2
    assert "is a folder; expected a video file" in capsys.readouterr().err.strip().splitlines()[-1]
    assert [p.name for p in tmp_path.iterdir()] == ["frames"]


def test_a_head_that_never_turns_does_not_tell_the_lens(astronaut_image, engine, tmp_path):
    """The same portrait shifted: what videos usually have is taken for granted, and its doubt is said."""
    clip = write_clip(tmp_path / "c.mp4", views(astronaut_image, 6))
    asked = replace(QUIET, keyframes=replace(QUIET.keyframes, focal=True, refine=False, looks=1))
    with tracked(clip, tmp_path / "out", asked, engine, None) as (result, work):
        work.remove()
    believed = video_focal_prior((SIDE, SIDE))
    assert result.identity.focal_px == pytest.approx(believed.focal_px, rel=0.05)
    figure = result.identity.fit.view_figures[0]["focal_px"]
    assert figure.sigma / figure.value > 0.4
    told = replace(asked, knowledge=replace(asked.knowledge, focal_px=500.0))
    made, _ = followed(clip, tmp_path / "told", engine, told)
    assert made.cameras.Ks[0, 0, 0] == pytest.approx(500.0, rel=0.03)


def test_a_file_that_ends_too_early_gives_what_decodes(astronaut_image, engine, tmp_path):
    clip = write_clip(tmp_path / "c.mp4", views(astronaut_image, 20))
    clip.write_bytes(clip.read_bytes()[: round(0.85 * clip.stat().st_size)])
    made, warnings = followed(clip, tmp_path / "out", engine)
    assert 4 <= len(made) < 20
    assert (made.confidence > 0.8).all()
    assert any("the file ends too early" in w for w in warnings)


def test_frames_for_trainers(astronaut_image, engine, tmp_path):
    """Frames, masks and cameras as nerfstudio's parser reads them: its keys, paths that exist, OpenGL's axes."""
    shown = views(astronaut_image, 7)
    shown[4] = np.full_like(shown[4], 90)  # nobody is seen
    clip = write_clip(tmp_path / "c.mp4", shown)
    config = replace(QUIET, output=replace(QUIET.output, frames=True))
    made = track(clip, tmp_path / "out", config, engine=engine)
    out = tmp_path / "out"
    meta = json.loads((out / "transforms.json").read_text())
    assert (meta["w"], meta["h"]) == (SIDE, SIDE)
    assert meta["camera_model"] == "OPENCV"
    keys = ("fl_x", "fl_y", "cx", "cy")
    assert np.allclose([meta[k] for k in keys], made.cameras.Ks[0][[0, 1, 0, 1], [0, 1, 2, 2]])
    assert [f["timestep_index"] for f in meta["frames"]] == list(range(7))
    assert np.allclose([f["time"] for f in meta["frames"]], made.timestamps_s)
    decoded = [f.image_srgb for f in VideoReader(clip).frames()]
    heads = MovingHead.of(engine.assets, made)
    for place, frame in enumerate(meta["frames"]):
        with Image.open(out / frame["file_path"]) as picture, Image.open(out / frame["mask_path"]) as mask:
            assert np.array_equal(np.asarray(picture), decoded[place])
            opacity = np.asarray(mask)
        assert opacity.shape == (SIDE, SIDE)
        to_world = np.array(frame["transform_matrix"])
        assert to_world.shape == (4, 4)
        assert np.linalg.det(to_world[:3, :3]) == pytest.approx(1.0)
        # The camera looks along its own -z (OpenGL): the head is before it, where the mask is opaque.
        middle = np.linalg.inv(to_world) @ np.append(heads.vertices(place).mean(0), 1.0)
        assert middle[2] < 0
        x = meta["cx"] + meta["fl_x"] * middle[0] / -middle[2]
        y = meta["cy"] - meta["fl_y"] * middle[1] / -middle[2]
        if made.confidence[place] > 0:
            assert opacity[int(y), int(x)] > 200
            assert 0.1 < (opacity > 127).mean() < 0.95
        else:
            assert not opacity.any()
        assert frame["camera_angle_x"] == pytest.approx(2 * np.arctan(0.5 * SIDE / meta["fl_x"]))
    assert (made.confidence == 0).sum() == 1
    _check_cameras_around_the_head(out, heads, made)


def _check_cameras_around_the_head(out: Path, heads: MovingHead, made: Track) -> None:
    """What does not deform of the head at rest is seen where the moving head has it; only frames with a face."""
    around = json.loads((out / "transforms_head.json").read_text())
    assert [f["timestep_index"] for f in around["frames"]] == np.flatnonzero(made.confidence > 0).tolist()
    places = np.array([np.array(f["transform_matrix"])[:3, 3] for f in around["frames"]])
    # nerfstudio divides by the largest distance of a camera from their middle: cameras at one place would be nowhere.
    assert np.abs(places - places.mean(0)).max() > 1e-3
    stiff = (heads.assets.lbs_weights[:, 1] > 0.999) & (np.abs(heads.assets.exprdirs).max((1, 2)) < 1e-9)
    assert stiff.sum() > 20
    for frame in around["frames"]:
        to_camera = np.linalg.inv(np.array(frame["transform_matrix"]))
        at = heads.neutral[stiff] @ to_camera[:3, :3].T + to_camera[:3, 3]
        seen = np.stack([around["cx"] + around["fl_x"] * at[:, 0] / -at[:, 2],
                         around["cy"] - around["fl_y"] * at[:, 1] / -at[:, 2]], axis=1)  # fmt: skip
        place = frame["timestep_index"]
        pixels, _ = project_points(heads.vertices(place)[stiff].astype(np.float64), heads.camera(place))
        assert np.abs(seen - pixels).max() < 0.05


def test_a_full_disk_while_writing_leaves_no_half_folder(astronaut_image, engine, tmp_path, monkeypatch):
    """The track is done, its files do not fit: nothing half-written, and the second run only writes."""
    import errno

    import headrecon.tracking.outputs as outputs_module

    clip = write_clip(tmp_path / "c.mp4", views(astronaut_image, 5))

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(outputs_module, "write_glb", full)
        with pytest.raises(InputError, match=r"the disk is full.*run the same command again"):
            track(clip, tmp_path / "out", QUIET, engine=engine)
    assert not (tmp_path / "out").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == [".out.working", "c.mp4"]

    def never(*args, **kwargs):
        raise AssertionError("what was finished is looked at again")

    with monkeypatch.context() as patch:
        patch.setattr(seen, "follow", never)
        track(clip, tmp_path / "out", QUIET, engine=engine)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.mp4", "out"]


def test_hours_of_video_say_when_they_will_be_done(monkeypatch):
    """Five hours at 30 a second: said twenty times, with the time that is left, however many frames there are."""
    from headrecon.tracking import eta

    now, said = [0.0], []
    monkeypatch.setattr(eta.time, "monotonic", lambda: now[0])
    tell = eta.frame_progress("following the face", (0.0, 1.0), 540_000, lambda text, share: said.append((text, share)))
    for done in range(1, 540_001, 100):
        now[0] = done / 25.0
        tell(done)
    assert 19 <= len(said) <= 21
    assert "5 h 42 min left at 25 a second" in said[1][0]
    assert all(a[1] <= b[1] for a, b in pairwise(said))


def test_a_full_disk_is_told_and_the_run_goes_on_later(astronaut_image, engine, tmp_path, monkeypatch):
    import errno

    monkeypatch.setattr(seen, "CHUNK", 4)
    clip = write_clip(tmp_path / "c.mp4", views(astronaut_image, 10))
    import headrecon.io.work_folder as work_module

    real, written = work_module.write_npz, [0]

    def full(path, arrays):
        written[0] += 1
        if written[0] == 2:
            error = OSError(errno.ENOSPC, "No space left on device")
            raise InputError(f"cannot write {path}") from error
        real(path, arrays)

    with monkeypatch.context() as patch:
        patch.setattr(work_module, "write_npz", full)
        with pytest.raises(InputError, match=r"the disk is full.*run the same command again"):
            followed(clip, tmp_path / "out", engine)
    made, _ = followed(clip, tmp_path / "out", engine)
    assert len(made) == 10


def test_no_face_of_that_number(astronaut_image, engine, tmp_path):
    clip = write_clip(tmp_path / "c.mp4", views(astronaut_image, 3))
    second = replace(QUIET, follow=replace(QUIET.follow, face=1))
    with pytest.raises(NoFaceFound, match="no face number 1"):
        followed(clip, tmp_path / "out", engine, second)
    other = replace(QUIET, follow=replace(QUIET.follow, segment=3))
    with pytest.raises(InputError, match="segment 3 does not exist"):
        followed(clip, tmp_path / "out", engine, other)


def test_a_cut_to_somebody_else_does_not_change_who_it_is(astronaut_image, engine, tmp_path):
    """Two clips of one person with another face between: the longest part is tracked, and the others are told."""
    from PIL import Image

    mirrored = astronaut_image[:, ::-1]
    other = [np.asarray(Image.fromarray(f).resize((SIDE, SIDE)))[:, :, ::-1].copy() for f in views(mirrored, 6)]
    first, last = views(astronaut_image, 9), views(astronaut_image, 5, 9)
    clip = write_clip(tmp_path / "c.mp4", [*first, *other, *last])
    alone, _ = followed(write_clip(tmp_path / "a.mp4", first), tmp_path / "alone", engine)
    made, warnings = followed(clip, tmp_path / "out", engine)
    assert made.frames.tolist() == list(range(9))
    assert np.abs(made.betas - alone.betas).max() < 0.2  # compression differs
    assert any("the clip has cuts" in w and "segment 0" in w for w in warnings)
    chosen = replace(QUIET, follow=replace(QUIET.follow, segment=1))
    part, _ = followed(clip, tmp_path / "out", engine, chosen)
    assert part.frames.tolist() == list(range(9, 15))
