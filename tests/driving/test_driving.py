"""One head moved as another: what is moved, what stays, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from headrecon.cli import main
from headrecon.driving.clip import drive
from headrecon.driving.figures import MeshFigure
from headrecon.driving.options import DriveOptions
from headrecon.errors import AssetError, InputError
from headrecon.geometry import so3
from headrecon.io.arkit_curves import JAW_OPEN_RADIANS
from headrecon.io.meshes.glb import RiggedHead, write_glb
from headrecon.io.meshes.rigged_reader import read_rigged
from headrecon.io.tracks import write_track
from headrecon.models.retargeting import retarget
from headrecon.saved_head import joint_model, load_saved_head
from headrecon.structures import ARKIT_NAMES, HeadAssets, Track
from tests.io.tracks import make_track
from tests.synthetic_assets import make_tiny_assets

BETAS = np.array([0.5, -1.0])


@pytest.fixture(scope="module")
def assets() -> HeadAssets:
    return make_tiny_assets()


@pytest.fixture
def track(assets: HeadAssets) -> Track:
    made = make_track(4, names=assets.expression_names, betas=2)
    place = made.params.transl * 0.1 + [0, 0, -1.0]
    return replace(made, model=assets.name, params=replace(made.params, transl=place))


@pytest.fixture
def folder(assets: HeadAssets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An output folder: a head with hair, written as `reconstruct` does."""
    for module in ("headrecon.saved_head", "headrecon.driving.motion"):
        monkeypatch.setattr(f"{module}.load_head", lambda name: _known(assets, name))
    out = tmp_path / "head"
    out.mkdir()
    write_head(out, assets)
    return out


def _known(assets: HeadAssets, name: str) -> HeadAssets:
    if name != assets.name:
        raise AssetError(f"no head model {name!r}")
    return assets


def hair_of(assets: HeadAssets) -> np.ndarray:
    return 0.01 * np.clip(assets.v_template[:, 1:2] / 0.1, 0, 1) * np.array([0.0, 1.0, 0.0])


def write_head(out: Path, assets: HeadAssets) -> None:
    texture = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    neutral = assets.v_template + assets.shapedirs @ np.pad(BETAS, (0, assets.num_betas - 2)) + hair_of(assets)
    write_glb(out / "head.glb", RiggedHead(assets, neutral, texture, texture_format="png", offsets=hair_of(assets)))
    licence = {"name": "x", "spdx": "CC0-1.0", "commercial": True, "source": "here"}
    document = {
        "schema": "headrecon.head/1", "model": {"name": assets.name, "version": "1"}, "licences": [licence],
        "parameters": {"betas": BETAS.tolist()}, "commercial_use": True,
    }  # fmt: skip
    (out / "head.json").write_text(json.dumps(document))


def test_a_head_is_read_back_with_its_hair(folder: Path, assets: HeadAssets) -> None:
    head = load_saved_head(folder)
    used = np.unique(assets.faces[assets.faces >= 0])
    np.testing.assert_allclose(head.offsets[used], hair_of(assets)[used], atol=1e-7)
    assert head.texture.shape == (64, 64, 3)
    assert head.licences[0].commercial
    vertices, _ = read_rigged(folder / "head.glb", assets)
    np.testing.assert_allclose(head.neutral[used], vertices[used], atol=1e-7)


def test_a_folder_of_track_will_do(folder: Path, assets: HeadAssets) -> None:
    document = {"schema": "headrecon.track/1", "model": {"name": assets.name}, "betas": BETAS.tolist(),
                "licences": [{"name": "x", "spdx": "MIT", "source": "here"}], "commercial_use": False}  # fmt: skip
    (folder / "head.json").unlink()
    (folder / "track.json").write_text(json.dumps(document))
    head = load_saved_head(folder)
    np.testing.assert_array_equal(head.betas, BETAS)
    assert not head.licences[0].commercial


def test_motion_is_the_tracks_and_identity_the_heads(folder: Path, track: Track, assets: HeadAssets) -> None:
    driven = drive(folder, track, DriveOptions(camera="track"))
    s = driven.figure.joints.layout.slices
    np.testing.assert_allclose(driven.rows[:, s["expression"]], track.params.expression)
    for name in ("global_orient", "neck_pose", "jaw_pose", "leye_pose", "reye_pose"):
        np.testing.assert_allclose(driven.rows[:, s[name]], getattr(track.params, name))
    np.testing.assert_allclose(driven.rows[:, s["betas"]][:, :2], np.tile(BETAS, (4, 1)))
    # The eyes are where the tracked person's are, whoever's they are.
    model = joint_model(assets)
    source = retarget(track, assets, track.betas).rows
    source[:, s["transl"]] = track.params.transl
    for row, wanted in zip(driven.rows, source, strict=True):
        np.testing.assert_allclose(model.joints(row)[3:].mean(0), model.joints(wanted)[3:].mean(0), atol=1e-12)


def test_a_head_driven_by_itself_is_what_was_tracked(folder: Path, track: Track, assets: HeadAssets) -> None:
    own = replace(track, params=replace(track.params, betas=np.tile(BETAS, (4, 1))))
    driven = drive(folder, own, DriveOptions(camera="track"))
    np.testing.assert_allclose(
        driven.rows[:, driven.figure.joints.layout.slices["transl"]], own.params.transl, atol=1e-12
    )
    bald = MeshFigure(replace(driven.figure.head, offsets=np.zeros_like(driven.figure.head.offsets)))
    moved = driven.figure.reach(driven.rows[2]) - bald.reach(driven.rows[2])
    assert np.linalg.norm(moved, axis=1).max() == pytest.approx(0.01, rel=0.05)  # its hair goes with it


def test_the_front_camera_sees_a_head_that_mostly_faces_it(folder: Path, track: Track) -> None:
    turned = np.stack([so3.log(so3.exp(np.array([0, 0.9, 0])) @ so3.exp(r)) for r in track.params.global_orient])
    far = replace(track, params=replace(track.params, global_orient=turned, transl=track.params.transl + 5.0))
    driven = drive(folder, far, DriveOptions(size=(64, 48)))
    s = driven.figure.joints.layout.slices
    heads = so3.exp(driven.rows[:, s["global_orient"]]) @ so3.exp(driven.rows[:, s["neck_pose"]])
    assert np.median(heads[:, 2, 2]) > 0.97
    corner = driven.frame(0)[0, 0]
    assert driven.frame(0).shape == (48, 64, 3)
    assert any((driven.frame(i) != corner).any(-1).mean() > 0.1 for i in range(4))
    # All of it fits: the border is background in every frame.
    for i in range(4):
        picture = driven.frame(i)
        assert (picture[0] == corner).all()
        assert (picture[:, -1] == corner).all()


def test_models_meet_by_names_and_by_what_joints_do(assets: HeadAssets) -> None:
    names = ("mouthPucker", "ownShape", "jawOpen")
    other = replace(make_track(3, names=names), model="other")
    other.params.jaw_pose[:] = [JAW_OPEN_RADIANS / 4, 0, 0]
    other.params.expression[:] = [0.7, 0.2, 0.1]
    found = retarget(other, assets, BETAS)
    s = {**joint_model(assets).layout.slices}
    weights = dict(zip(assets.expression_names, found.rows[0, s["expression"]], strict=True))
    assert weights["mouthPucker"] == pytest.approx(0.7)
    assert weights["jawOpen"] == pytest.approx(0.35)  # the joint's quarter and the shape's tenth
    assert not found.rows[:, s["jaw_pose"]].any()
    assert found.lost == ("ownShape",)
    # A model without the shape opens by its joint.
    keep = [i for i, n in enumerate(assets.expression_names) if not n.startswith("jaw")]
    jawless = replace(
        assets, exprdirs=assets.exprdirs[..., keep], expression_names=tuple(assets.expression_names[i] for i in keep)
    )
    back = retarget(other, jawless, BETAS)
    assert back.rows[0, joint_model(jawless).layout.slices["jaw_pose"]][0] == pytest.approx(0.35 * JAW_OPEN_RADIANS)
    assert back.lost == ("ownShape",)


def test_a_track_of_an_unknown_model_moves_the_head_about(folder: Path, track: Track) -> None:
    strange = replace(track, model="elsewhere")
    rows = drive(folder, strange).rows
    assert np.isfinite(rows).all()
    with pytest.raises(AssetError, match="models add"):
        drive(folder, strange, DriveOptions(camera="track")).rows  # noqa: B018


def test_the_clip_has_the_tracks_times(folder: Path, track: Track, tmp_path: Path) -> None:
    path = drive(folder, track, DriveOptions(size=(64, 64))).save(tmp_path / "clip.mp4")
    with av.open(str(path)) as container:
        times = [frame.time for frame in container.decode(video=0)]
    np.testing.assert_allclose(times, track.timestamps_s - track.timestamps_s[0], atol=1e-3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["clip.mp4", "head"]


def test_the_animated_glb_is_a_head_again(folder: Path, track: Track, assets: HeadAssets, tmp_path: Path) -> None:
    driven = drive(folder, track)
    driven.save_glb(tmp_path / "moving.glb")
    vertices, _ = read_rigged(tmp_path / "moving.glb", assets)
    used = np.unique(assets.faces[assets.faces >= 0])
    np.testing.assert_allclose(vertices[used], driven.figure.head.neutral[used], atol=1e-6)
    content = (tmp_path / "moving.glb").read_bytes()
    assert b'"animations"' in content


def test_the_command(folder: Path, track: Track, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_track(tmp_path / "track.npz", track)
    out = tmp_path / "clip.mp4"
    arguments = ["drive", str(folder), "--with", str(tmp_path), "--out", str(out), "--size", "64x32",
                 "--background", "#00ff00", "--light", "overcast", "--glb", str(tmp_path / "m.glb")]  # fmt: skip
    assert main(arguments) == 0
    assert "4 frames" in capsys.readouterr().out
    with av.open(str(out)) as container:
        first = next(container.decode(video=0)).to_ndarray(format="rgb24")
    assert first.shape == (32, 64, 3)
    assert first[0, 0, 1] > 200
    assert first[0, 0, 0] < 60
    assert main(arguments) == 2  # it is there already
    assert "--overwrite" in capsys.readouterr().err
    assert main([*arguments, "--overwrite"]) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--size", "63"], "even"), (["--size", "axb"], "--size"), (["--background", "red"], "hexadecimal"),
        (["--audio", "none.wav"], "none.wav"), (["--light", "disco"], "disco"), (["--out", "clip.avi"], ".mp4"),
        (["--glb", "x.obj"], ".glb"), (["--with", "nothing.npz"], "nothing.npz"), (["--out", "no/clip.mp4"], "folder"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_said_in_one_sentence(change, message, folder, track, tmp_path, capsys) -> None:
    write_track(tmp_path / "track.npz", track)
    before = sorted(p.name for p in tmp_path.iterdir())
    arguments = ["drive", str(folder), "--with", str(tmp_path / "track.npz"), "--out", str(tmp_path / "clip.mp4")]
    assert main([*arguments, *change]) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("headrecon: ")][-1]
    assert message in error
    assert sorted(p.name for p in tmp_path.iterdir()) == before


@pytest.mark.parametrize("damage", ["json", "glb", "texture", "model", "missing", "betas", "not ours"])
def test_damaged_heads_are_refused(damage: str, folder: Path, track: Track) -> None:
    document = json.loads((folder / "head.json").read_text())
    glb = (folder / "head.glb").read_bytes()
    if damage == "json":
        (folder / "head.json").write_text("{")
    elif damage == "glb":
        (folder / "head.glb").write_bytes(glb[: len(glb) // 2])
    elif damage == "texture":
        (folder / "head.glb").write_bytes(glb.replace(b"\x89PNG", b"\x00\x00\x00\x00"))
    elif damage == "missing":
        (folder / "head.glb").unlink()
    else:
        changes = {"model": {"model": {"name": "flame"}}, "betas": {"parameters": {"betas": ["a"]}},
                   "not ours": {"schema": "else/1"}}  # fmt: skip
        (folder / "head.json").write_text(json.dumps({**document, **changes[damage]}))
    with pytest.raises((InputError, AssetError)) as caught:
        drive(folder, track)
    assert "\n" not in str(caught.value)


def test_a_head_of_another_model_version_is_refused(folder: Path, assets: HeadAssets) -> None:
    fewer = replace(assets, faces=assets.faces[5:], uv_faces=assets.uv_faces[5:], face_part=assets.face_part[5:])
    with pytest.raises(InputError, match="make the head again"):
        read_rigged(folder / "head.glb", fewer)


def test_arkit_names_all_arrive(assets: HeadAssets) -> None:
    assert set(ARKIT_NAMES) <= set(assets.expression_names)
