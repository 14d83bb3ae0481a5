"""Avatars take the same road as mesh heads; further cameras, the source beside, calm faces, videos as source."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from headrecon.avatars.protocol import SplatAvatar
from headrecon.cli import main
from headrecon.driving import figures, sources
from headrecon.driving.beside import face_box
from headrecon.driving.clip import drive
from headrecon.driving.figures import AvatarFigure, BoundMesh, Look, MeshFigure
from headrecon.driving.motion import from_calm
from headrecon.driving.options import DriveOptions
from headrecon.errors import InputError
from headrecon.geometry import so3
from headrecon.geometry.cameras import camera_centers
from headrecon.io.tracks import write_track
from headrecon.io.video_writer import write_timed_mp4
from headrecon.saved_head import SavedHead
from headrecon.structures import HeadAssets, Track
from tests.disc_avatar import DiscAvatar, disc_avatar
from tests.io.tracks import make_track
from tests.synthetic_assets import TINY_LICENCE, make_tiny_assets

BETAS = np.array([0.5, -1.0])
LOOK = Look(background=(0.0, 0.0, 1.0))


@pytest.fixture(scope="module")
def assets() -> HeadAssets:
    return make_tiny_assets()


@pytest.fixture(scope="module")
def avatar(assets: HeadAssets) -> DiscAvatar:
    return disc_avatar(assets, BETAS)


@pytest.fixture
def track(assets: HeadAssets, monkeypatch: pytest.MonkeyPatch) -> Track:
    monkeypatch.setattr("headrecon.driving.motion.load_head", lambda name: assets)
    made = make_track(4, names=assets.expression_names, betas=2)
    poses = {"transl": made.params.transl * 0.1 + [0, 0, -1.0], "betas": np.tile(BETAS, (4, 1))}
    return replace(made, model=assets.name, params=replace(made.params, **poses))


def _mesh_head(assets: HeadAssets) -> SavedHead:
    texture = np.full((8, 8, 3), 128, np.uint8)
    return SavedHead(assets, BETAS, np.zeros_like(assets.v_template), texture, (TINY_LICENCE,))


def test_discs_are_an_avatar(avatar: DiscAvatar) -> None:
    assert isinstance(avatar, SplatAvatar)


@pytest.mark.parametrize("camera", ["front", "track"])
def test_an_avatar_moves_as_the_mesh_of_the_same_person(
    camera: str, assets: HeadAssets, avatar: DiscAvatar, track: Track
) -> None:
    own = drive(avatar, track, DriveOptions(camera))
    mesh = drive(_mesh_head(assets), track, DriveOptions(camera))
    layout = own.figure.joints.layout
    for name in ("expression", "global_orient", "neck_pose", "jaw_pose", "leye_pose", "reye_pose"):
        np.testing.assert_allclose(
            own.rows[:, layout.slices[name]], mesh.rows[:, mesh.figure.joints.layout.slices[name]]
        )
    # The mesh is put at the origin and the avatar where it was filmed, when the camera stands before it.
    home = np.array(avatar.home) if camera == "front" else np.zeros(3)
    where = mesh.rows[:, mesh.figure.joints.layout.slices["transl"]]
    np.testing.assert_allclose(own.rows[:, layout.slices["transl"]], where + home, atol=1e-6)


def test_a_driven_avatar_is_seen_where_the_mesh_is(assets: HeadAssets, avatar: DiscAvatar, track: Track) -> None:
    options = DriveOptions("track", (128, 128), background=(0.0, 0.0, 1.0))
    both = [drive(head, track, options).frame(2) for head in (avatar, _mesh_head(assets))]
    seen = [frame[..., 0] > 40 for frame in both]  # the background has no red
    assert 0.02 < seen[1].mean() < 0.98
    overlap = (seen[0] & seen[1]).sum() / (seen[0] | seen[1]).sum()
    assert overlap > 0.85  # discs reach a little over the outline


def test_what_an_avatar_reaches_leaves_out_strays_and_the_faint(avatar: DiscAvatar) -> None:
    figure = AvatarFigure(avatar)
    reach = figure.reach(figure.rest())
    assert len(reach) > 0.9 * len(avatar.faces)
    row = figure.rest()
    np.testing.assert_allclose(row[figure.layout.slices["transl"]], avatar.home)

    class Strayed(DiscAvatar):
        def gaussians(self, params):
            found = super().gaussians(params)
            found.means[0], found.opacities[:1] = 50.0, 1.0
            found.means[1], found.opacities[1] = -50.0, 0.1
            return found

    strayed = AvatarFigure(Strayed(**vars_of(avatar)))
    assert np.abs(strayed.reach(row)).max() < 2

    class Broad(DiscAvatar):
        """With shoulders a metre wide."""

        def gaussians(self, params):
            found = super().gaussians(params)
            found.means[: len(found) // 2, 1] -= 0.15
            found.means[: len(found) // 2, 0] *= 8
            return found

    broad = AvatarFigure(Broad(**vars_of(avatar))).reach(row)
    assert np.ptp(broad[:, 0]) < 2.5 * np.ptp(reach[:, 0])
    assert np.ptp(broad[:, 1]) < 1.6 * np.ptp(reach[:, 1])
    assert np.ptp(broad[:, 0]) > 1.2 * np.ptp(reach[:, 0])  # some of them is seen


def vars_of(avatar: DiscAvatar) -> dict:
    return {name: getattr(avatar, name) for name in avatar.__dataclass_fields__}


def test_the_orbit_keeps_its_distance_and_sees_all(avatar: DiscAvatar, track: Track) -> None:
    slow = replace(track, timestamps_s=np.array([0.0, 2.0, 4.0, 6.0]), frames=np.array([0, 60, 120, 180]))
    driven = drive(avatar, slow, DriveOptions("orbit", (96, 128)))
    centres = camera_centers(driven.cameras)
    distances = [np.linalg.norm(c - driven.figure.reach(r).mean(0)) for c, r in zip(centres, driven.rows, strict=True)]
    assert np.ptp(distances) < 0.15 * np.mean(distances)
    yaws = np.degrees(np.arctan2(centres[:, 0], centres[:, 2] - avatar.home[2]))
    np.testing.assert_allclose(yaws, [0, 60, 0, -60], atol=6)
    for i, row in enumerate(driven.rows):
        camera = replace(driven.cameras, viewmats=driven.cameras.viewmats[i], Ks=driven.cameras.Ks[i])
        points = _seen(driven.figure.reach(row), camera)
        assert (points > 0).all()
        assert (points < [96, 128]).all()


def _seen(points: np.ndarray, camera) -> np.ndarray:
    local = points @ camera.viewmats[:3, :3].T + camera.viewmats[:3, 3]
    return (local[:, :2] / local[:, 2:]) @ np.diag(np.diag(camera.Ks)[:2]) + camera.Ks[:2, 2]


def test_relative_motion_starts_from_the_calm_face() -> None:
    rng = np.random.default_rng(0)
    never_shut = 0.4 + 0.6 * rng.uniform(0, 1, 200) ** 2
    never_shut[0] = 1.0
    mostly_calm = np.where(np.arange(200) % 5 == 0, 0.8, 0.0)
    stuck = np.full(200, 1.0)
    weights = np.stack([never_shut, mostly_calm, stuck], axis=1)
    sure = np.ones(200, bool)
    out = from_calm(weights, sure)
    assert np.quantile(out[:, 0], 0.2) == pytest.approx(0, abs=1e-3)  # between two frames
    assert out[0, 0] == pytest.approx(1.0)  # shut is shut, whatever the calm face is
    np.testing.assert_allclose(out[:, 1], mostly_calm)
    assert np.isfinite(out).all()
    assert out.min() >= 0
    sure[:100] = False  # frames in which nobody was seen say nothing about the calm face
    weights[:100] = 0.0
    assert from_calm(weights, sure)[150, 0] == pytest.approx(out[150, 0], abs=0.05)


def test_relative_drive_uses_it(avatar: DiscAvatar, track: Track) -> None:
    plain, relative = (drive(avatar, track, DriveOptions(relative=r)) for r in (False, True))
    s = plain.figure.joints.layout.slices["expression"]
    np.testing.assert_allclose(relative.rows[:, s], from_calm(plain.rows[:, s], track.confidence > 0))
    assert (relative.rows[:, s] <= plain.rows[:, s] + 1e-12).all()


def test_an_avatars_mesh_is_drawn_in_plain_colours(avatar: DiscAvatar, track: Track) -> None:
    driven = drive(avatar, track, DriveOptions(size=(96, 96)))
    camera = replace(driven.cameras, viewmats=driven.cameras.viewmats[0], Ks=driven.cameras.Ks[0])
    picture = BoundMesh(driven.figure).picture(driven.rows[0], camera, LOOK)
    seen = (picture[..., 0] > 40).mean()
    assert 0.1 < seen < 0.9


# --- the source beside ------------------------------------------------------------------------------------------------


def _clip(path: Path, count: int, size: tuple[int, int] = (64, 64)) -> Path:
    """Frame i is grey, 20 i."""
    frames = [np.full((size[1], size[0], 3), 20 * i, np.uint8) for i in range(count)]
    write_timed_mp4(path, [(i / 30, f) for i, f in enumerate(frames)], 30.0)
    return path


def _small(track: Track) -> Track:
    return replace(track, cameras=replace(track.cameras, width=64, height=64))


def test_the_source_is_shown_beside_frame_by_frame(avatar: DiscAvatar, track: Track, tmp_path: Path) -> None:
    video = _clip(tmp_path / "source.mp4", 6)
    for camera, width in (("track", 96), ("front", 64)):  # all of it, or the head in the driven picture's shape
        driven = drive(avatar, _small(track), DriveOptions(camera, size=(64, 96), beside=video))
        frames = list(driven.frames())
        assert len(frames) == 4
        for (_, frame), index in zip(frames, track.frames, strict=True):  # the track lacks the video's third frame
            assert frame.shape == (96, width + 64, 3)
            assert abs(float(frame[:, :width].mean()) - 20 * index) < 4
        alone = replace(driven, options=DriveOptions(camera, size=(64, 96)))
        np.testing.assert_array_equal(frames[3][1][:, width:], alone.frame(3))


def test_beside_shows_where_the_head_stays(track: Track) -> None:
    far = replace(track, cameras=replace(track.cameras, width=2000, height=1000))
    far.cameras.Ks[:, :2, 2] = [1000, 500]
    eyes = np.array([[0.5, 0.0, -3.0], [0.6, 0.0, -3.0], [0.6, 0.05, -3.0], [9.0, 0.0, -3.0]])
    far.confidence[:] = [1, 1, 1, 0]  # the last one is a guess
    left, upper, right, lower = face_box(far, eyes, 1.0)
    assert right - left == pytest.approx(lower - upper)
    pixels = 900 * eyes[:3, :2] * [1, -1] / 3 + [1000, 500]
    assert (pixels > [left + 30, upper + 30]).all()
    assert (pixels < [right - 30, lower - 30]).all()
    assert right - left < 0.5 * 1000  # not much more than the head
    # A head as large as the picture, or at its edge: what there is.
    near = face_box(far, eyes * [0, 0, 0.1], 1.0)
    assert near == pytest.approx((500, 0, 1500, 1000))
    edge = face_box(far, eyes * [0, 1, 1] + [-3.3, 0, 0], 1.0)
    assert edge[0] == pytest.approx(0)
    assert edge[2] - edge[0] == pytest.approx(edge[3] - edge[1])


def test_another_video_beside_is_refused(avatar: DiscAvatar, track: Track, tmp_path: Path) -> None:
    short, other = _clip(tmp_path / "short.mp4", 3), _clip(tmp_path / "other.mp4", 6, (32, 64))
    with pytest.raises(InputError, match="ends at frame"):
        list(drive(avatar, _small(track), DriveOptions(size=(32, 32), beside=short)).frames())
    with pytest.raises(InputError, match="32 x 64"):
        list(drive(avatar, _small(track), DriveOptions(size=(32, 32), beside=other)).frames())


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(avatar: DiscAvatar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(figures, "load_figure", lambda path: AvatarFigure(avatar))
    return tmp_path / "avatar"


def test_a_video_is_tracked_first_and_its_track_used_again(
    folder: Path, track: Track, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    video, calls = _clip(tmp_path / "me.mp4", 6), []

    def tracked(video, out, config, **rest):
        calls.append((Path(video), Path(out), config.preset, config.output.overlay))
        Path(out).mkdir()
        write_track(Path(out) / "track.npz", _small(track))
        document = {"video": {"file": "me.mp4", "width": 64, "height": 64}}
        (Path(out) / "track.json").write_text(json.dumps(document))
        return _small(track)

    monkeypatch.setattr("headrecon.tracking.run.track", tracked)
    out = tmp_path / "driven.mp4"
    arguments = ["drive", str(folder), "--with", str(video), "--out", str(out), "--size", "48", "--beside"]
    assert main([*arguments, "--preset", "draft"]) == 0
    assert calls == [(video, tmp_path / "driven.track", "draft", False)]
    assert "driven.track" in capsys.readouterr().err
    with av.open(str(out)) as container:
        assert next(container.decode(video=0)).width == 96
    assert main([*arguments, "--overwrite", "--camera", "orbit"]) == 0
    assert len(calls) == 1  # the track that is there is used
    other = _clip(tmp_path / "you.mp4", 6)
    assert main([*arguments[:3], str(other), *arguments[4:], "--overwrite"]) == 2
    assert "another video (me.mp4" in capsys.readouterr().err
    (tmp_path / "driven.track" / "track.npz").unlink()
    assert main([*arguments, "--overwrite"]) == 2
    assert "holds no track" in capsys.readouterr().err


def test_what_cannot_be_is_said_before_work_begins(
    folder: Path, track: Track, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_track(tmp_path / "track.npz", track)
    monkeypatch.setattr(sources, "motion_source", lambda *a: pytest.fail("work began"))
    start = ["drive", str(folder), "--with", str(tmp_path), "--out", str(tmp_path / "x.mp4")]
    assert main([*start, "--beside"]) == 2
    assert "name the video" in capsys.readouterr().err
    assert main([*start, "--beside", "none.mp4"]) == 2
    assert "none.mp4 does not exist" in capsys.readouterr().err


def test_an_avatar_gives_no_animated_glb(folder: Path, track: Track, tmp_path: Path, capsys) -> None:
    write_track(tmp_path / "track.npz", track)
    code = main(["drive", str(folder), "--with", str(tmp_path), "--out", str(tmp_path / "x.mp4"), "--size", "32",
                 "--glb", str(tmp_path / "x.glb")])  # fmt: skip
    assert code == 2
    assert "headrecon export" in capsys.readouterr().err
    assert not (tmp_path / "x.mp4").exists()


def test_a_folder_of_neither_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="neither an avatar nor a head"):
        figures.load_figure(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        figures.load_figure(tmp_path / "nothing")


def test_driving_a_mesh_needs_no_torch() -> None:
    import subprocess
    import sys

    code = (
        "import sys, headrecon.driving.clip, headrecon.driving.sources; assert 'torch' not in sys.modules; "
        "assert 'scipy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_rotation_of_the_avatar_is_the_tracks(avatar: DiscAvatar, track: Track) -> None:
    driven = drive(avatar, track, DriveOptions("track"))
    s = driven.figure.joints.layout.slices["global_orient"]
    np.testing.assert_allclose(so3.exp(driven.rows[:, s]), so3.exp(track.params.global_orient))
    assert isinstance(drive(_mesh_head(make_tiny_assets()), track).figure, MeshFigure)
