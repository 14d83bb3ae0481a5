"""Splats for other tools: which face is written, where it is put, what goes with it, and what is refused."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import headrecon
from headrecon.avatar_export import FORMATS, Exported, ExportOptions, export
from headrecon.cli import main
from headrecon.driving.figures import AvatarFigure
from headrecon.driving.motion import motion_for
from headrecon.errors import AssetError, InputError
from headrecon.geometry import so3
from headrecon.io.meshes.glb import RiggedHead, write_glb
from headrecon.io.meshes.glb_reader import open_glb
from headrecon.io.splats.glb import read_splat_glb
from headrecon.io.splats.html import read_splat_html
from headrecon.io.splats.ply import read_splat_ply
from headrecon.io.splats.splat import read_splat
from headrecon.io.splats.spz import read_spz
from headrecon.io.tensor_files import read_tensors
from headrecon.io.tracks import write_track
from headrecon.models.named_weights import read_weights
from headrecon.saved_head import load_saved_head
from headrecon.structures import ARKIT_NAMES, HeadAssets, HeadParams, Track
from tests.disc_avatar import DiscAvatar, disc_avatar
from tests.io.tracks import make_track
from tests.synthetic_assets import make_tiny_assets

BETAS = np.array([0.5, -1.0])
READERS: dict[str, Any] = {
    "ply": read_splat_ply, "splat": read_splat, "spz": read_spz, "glb-splat": read_splat_glb,
    "html": lambda path: read_splat_html(path)[0],
}  # fmt: skip


@pytest.fixture(scope="module")
def assets() -> HeadAssets:
    return make_tiny_assets()


@pytest.fixture(scope="module")
def avatar(assets: HeadAssets) -> DiscAvatar:
    return disc_avatar(assets, BETAS, 500)


@pytest.fixture(autouse=True)
def head_models(assets: HeadAssets, monkeypatch: pytest.MonkeyPatch) -> None:
    def known(name: str) -> HeadAssets:
        if name != assets.name:
            raise AssetError(f"no head model {name!r}")
        return assets

    for module in ("headrecon.saved_head", "headrecon.driving.motion"):
        monkeypatch.setattr(f"{module}.load_head", known)


@pytest.fixture
def track(assets: HeadAssets) -> Track:
    """Four frames, numbered 0, 1, 3 and 4, about a metre before the camera."""
    made = make_track(4, names=assets.expression_names, betas=2)
    place = made.params.transl * 0.1 + [0, 0, -1.0]
    return replace(made, model=assets.name, params=replace(made.params, transl=place))


@pytest.fixture
def folder(assets: HeadAssets, tmp_path: Path) -> Path:
    """An output folder of a mesh head, as `reconstruct` writes it."""
    out = tmp_path / "head"
    out.mkdir()
    texture = np.zeros((64, 64, 3), np.uint8) + np.array([200, 120, 80], np.uint8)
    neutral = assets.v_template + assets.shapedirs @ np.pad(BETAS, (0, assets.num_betas - 2))
    write_glb(out / "head.glb", RiggedHead(assets, neutral, texture, texture_format="png"))
    document = {
        "schema": "headrecon.head/1", "model": {"name": assets.name, "version": "1"}, "commercial_use": True,
        "licences": [{"name": "A head", "spdx": "CC0-1.0", "commercial": True, "source": "here"}],
        "parameters": {"betas": BETAS.tolist()},
    }  # fmt: skip
    (out / "head.json").write_text(json.dumps(document))
    return out


def means_of(avatar: DiscAvatar, row: np.ndarray) -> np.ndarray:
    return avatar.gaussians(AvatarFigure(avatar).joints.layout.unpack(row)).means.numpy()


def test_at_rest_the_head_stands_where_its_model_does(tmp_path: Path, avatar: DiscAvatar) -> None:
    """The avatar lives a metre before its camera; in a file it is at the origin, upright, looking along +z."""
    done = export(avatar, tmp_path / "a.ply")
    assert done == Exported((tmp_path / "a.ply",), 500, 1)
    expected = avatar.gaussians(avatar.rest()).means.numpy() + [0, 0, 1]
    np.testing.assert_allclose(read_splat_ply(tmp_path / "a.ply").means, expected, atol=1e-6)


def test_an_avatar_that_rests_askew_is_straightened(tmp_path: Path, avatar: DiscAvatar) -> None:
    class Askew(DiscAvatar):
        def rest(self) -> HeadParams:
            turn = torch.tensor([[0.2, 0.5, -0.1]])
            return HeadParams(**{**vars(super().rest()), "global_orient": turn})

    askew_avatar = Askew(*(getattr(avatar, f.name) for f in fields(avatar)))
    straight, askew = export_means(avatar, tmp_path), export_means(askew_avatar, tmp_path)
    np.testing.assert_allclose(askew, straight, atol=1e-6)


def export_means(avatar: DiscAvatar, folder: Path) -> np.ndarray:
    export(avatar, folder / "b.ply", overwrite=True)
    return read_splat_ply(folder / "b.ply").means


@pytest.mark.parametrize("given", ["{name}=0.7", {"{name}": 0.7}])
def test_expressions_are_asked_for_by_name(tmp_path: Path, avatar: DiscAvatar, assets: HeadAssets, given: Any) -> None:
    name = assets.expression_names[0]
    given = given.format(name=name) if isinstance(given, str) else {name: 0.7}
    export(avatar, tmp_path / "a.ply", ExportOptions(expression=given))
    figure = AvatarFigure(avatar)
    row = figure.rest()
    row[figure.joints.layout.slices["expression"]][0] = 0.7
    found = read_splat_ply(tmp_path / "a.ply").means
    np.testing.assert_allclose(found, means_of(avatar, row) + [0, 0, 1], atol=1e-6)
    assert np.abs(means_of(avatar, row) - means_of(avatar, figure.rest())).max() > 1e-4  # and it does move


def test_a_frame_of_a_track_in_its_world_and_at_rest(tmp_path: Path, avatar: DiscAvatar, track: Track) -> None:
    figure = AvatarFigure(avatar)
    options = ExportOptions(track=track, frame=3, place="track")  # the third of the frames that could be read
    export(avatar, tmp_path / "a.ply", options)
    expected = means_of(avatar, motion_for(figure, track, in_track=True).rows[2])
    found = read_splat_ply(tmp_path / "a.ply").means
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert -1.3 < found[:, 2].mean() < -0.7  # before the camera
    export(avatar, tmp_path / "b.ply", replace(options, place="rest"))
    home = read_splat_ply(tmp_path / "b.ply").means
    rest = avatar.gaussians(avatar.rest()).means.numpy() + [0, 0, 1]
    assert np.linalg.norm(home.mean(0) - rest.mean(0)) < 0.06  # the head moves by centimetres about its place
    # The same shape, moved as a whole: distances between Gaussians are kept.
    spans = [np.linalg.norm(m[:, None] - m[None, :100], axis=2) for m in (found, home)]
    np.testing.assert_allclose(spans[0], spans[1], atol=2e-6)


def test_a_sequence_is_a_folder_of_frames_or_a_page(tmp_path: Path, avatar: DiscAvatar, track: Track) -> None:
    write_track(tmp_path / "track.npz", track)
    options = ExportOptions(track=tmp_path, sequence=True, place="track")
    done = export(avatar, tmp_path / "frames", options)
    assert [p.name for p in done.files] == [f"frame_{n:06d}.ply" for n in (0, 1, 3, 4)] and done.frames == 4
    page = json.loads((tmp_path / "frames" / "splats.json").read_text())
    assert page["schema"] == "headrecon.splats/1" and [f["frame"] for f in page["frames"]] == [0, 1, 3, 4]
    motion = motion_for(AvatarFigure(avatar), track, in_track=True)
    for path, row in zip(done.files, motion.rows, strict=True):
        np.testing.assert_allclose(read_splat_ply(path).means, means_of(avatar, row), atol=1e-6)
    with pytest.raises(InputError, match="--overwrite"):
        export(avatar, tmp_path / "frames", options)
    assert export(avatar, tmp_path / "frames", replace(options, every=2, format="spz"), overwrite=True).frames == 2
    assert sorted(p.name for p in (tmp_path / "frames").iterdir()) == [
        "frame_000000.spz", "frame_000003.spz", "splats.json",
    ]  # fmt: skip
    export(avatar, tmp_path / "clip.html", replace(options, format="html"))
    frames = read_splat_html(tmp_path / "clip.html")
    assert len(frames) == 4
    for found, row in zip(frames, motion.rows, strict=True):
        np.testing.assert_allclose(found.means, means_of(avatar, row), atol=2e-5)
    assert '"times":[0.0,0.0333,0.1,0.1333]' in (tmp_path / "clip.html").read_text()


@pytest.mark.parametrize("kind", list(FORMATS))
def test_a_mesh_head_becomes_splats_in_every_format(tmp_path: Path, folder: Path, kind: str) -> None:
    out = tmp_path / f"me{FORMATS[kind]}"
    done = headrecon.export(folder, out, ExportOptions(format=kind, splats=3000))
    assert done.gaussians == 3000
    found, head = READERS[kind](out), load_saved_head(folder)
    low, high = head.neutral.min(0), head.neutral.max(0)
    assert (found.means >= low - 1e-3).all() and (found.means <= high + 1e-3).all()
    assert (found.means.max(0) - found.means.min(0) > 0.9 * (high - low)).all()
    colours = found.sh[:, 0] * 0.28209479 + 0.5
    assert (colours[:, 0] > colours[:, 1]).all() and (colours[:, 1] > colours[:, 2]).all()  # the texture's one colour
    assert np.median(found.scales.min(1)) < 0.2 * np.median(found.scales.max(1))  # flat discs


def test_licences_travel_where_a_format_has_room(tmp_path: Path, folder: Path) -> None:
    export(folder, tmp_path / "a.glb", ExportOptions(format="glb-splat", splats=1000))
    asset = open_glb(tmp_path / "a.glb", (tmp_path / "a.glb").read_bytes()).json["asset"]
    assert asset["copyright"] == "A head: CC0-1.0" and asset["extras"]["commercialUse"] is True
    export(folder, tmp_path / "a.html", ExportOptions(format="html", splats=1000))
    assert "A head: CC0-1.0" in (tmp_path / "a.html").read_text()


def test_the_rig_tells_where_each_splat_is(tmp_path: Path, folder: Path) -> None:
    """From the two files of the rig alone, without this package's model: the splats of the calm face."""
    done = export(folder, tmp_path / "me.ply", ExportOptions(splats=2000, rig=True))
    assert [p.name for p in done.files] == ["me.ply", "me.rig.glb", "me.bindings.safetensors"]
    bind = read_tensors(tmp_path / "me.bindings.safetensors")
    glb = open_glb(tmp_path / "me.rig.glb", (tmp_path / "me.rig.glb").read_bytes())
    primitives = glb.json["meshes"][0]["primitives"]
    points = [glb.accessor(p["attributes"]["POSITION"]) for p in primitives]
    corners = np.array([points[p][rows] for p, rows in zip(bind["rig.primitives"], bind["rig.corners"], strict=True)])
    on_mesh = (corners[bind["bind.triangles"]] * bind["bind.barycentrics"][..., None]).sum(1)
    found = read_splat_ply(tmp_path / "me.ply").means
    np.testing.assert_allclose(on_mesh + bind["splats.offsets"], found, atol=1e-6)
    # The corners are those of the triangles that the file draws.
    drawn = {tuple(sorted(t)) for t in glb.accessor(primitives[0]["indices"]).reshape(-1, 3).tolist()}
    assert {tuple(sorted(c)) for c in bind["rig.corners"][bind["rig.primitives"] == 0].tolist()} == drawn


def test_turned_gaussians_show_the_same_colours_from_the_turned_side() -> None:
    from headrecon.io.splats.cloud import cloud_from
    from tests.io.splats.clouds import covariances, random_cloud
    from tests.io.splats.test_round_trips import seen_from

    cloud = cloud_from(random_cloud(50, degree=3))
    for omega in ([0.3, -1.2, 0.8], [np.pi, 0, 0], [0, 0, 0]):
        turn = so3.exp(np.array(omega, dtype=float))
        moved = cloud.moved(turn, np.array([1.0, 2.0, 3.0]))
        np.testing.assert_allclose(moved.means, cloud.means @ turn.T + [1, 2, 3], atol=1e-6)
        expected = turn @ covariances(cloud.gaussians()) @ turn.T
        np.testing.assert_allclose(covariances(moved.gaussians()), expected, atol=1e-9)
        side = np.array([0.6, -0.48, 0.64])
        same = seen_from(moved.gaussians(), turn @ side)
        np.testing.assert_allclose(same, seen_from(cloud.gaussians(), side), atol=1e-5)


def test_names_without_a_side_mean_both() -> None:
    weights = read_weights("eyeBlink=0.4", ARKIT_NAMES)
    assert {ARKIT_NAMES[i] for i in np.flatnonzero(weights)} == {"eyeBlinkLeft", "eyeBlinkRight"}
    with pytest.raises(InputError, match="mouthSmileLeft or mouthSmileRight"):
        read_weights("smile=1", ARKIT_NAMES)
    with pytest.raises(InputError, match="no expression is named 'jaw'"):  # left and right at once would be nothing
        read_weights("jaw=1", ARKIT_NAMES)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--expression", "jawopen=1"], "did you mean"),
        (["--expression", "smile"], "smile"),
        (["--frame", "2", "--track", "TRACK"], "the track has frames 0 to 4"),
        (["--frame", "2"], "--track"),
        (["--sequence"], "needs a folder"),
        (["--track", "TRACK"], "--frame N or --sequence"),
        (["--place", "track"], "--frame N or --sequence"),
        (["--frame", "1", "--sequence"], "--frame, or --sequence"),
        (["--frame", "1", "--expression", "x=1"], "choose one"),
        (["--frame", "1", "--every", "0"], "every must be 1 or more"),
        (["--format", "spz"], "ending in .spz"),
        (["--format", "obj"], "invalid choice"),
        (["--splats", "5"], "1,000 to"),
        (["--frame", "1", "--track", "nowhere.npz"], "nowhere.npz"),
    ],
)
def test_what_cannot_be_exported_is_one_sentence_and_exit_code_2(
    tmp_path: Path, folder: Path, track: Track, capfd: pytest.CaptureFixture, options: list[str], words: str
) -> None:
    write_track(tmp_path / "track.npz", track)
    out = tmp_path / "a.ply"
    named = [str(tmp_path / "track.npz") if x == "TRACK" else x for x in options]
    try:
        code = main(["export", str(folder), "--out", str(out), *named])
    except SystemExit as stopped:
        code = stopped.code
    told = [line for line in capfd.readouterr().err.splitlines() if line.startswith("headrecon: ")][-1]
    assert code == 2 and words in told, told
    assert not out.exists() and not list(tmp_path.glob(".*partial*"))


def test_the_command(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "me.html"
    assert main(["export", str(folder), "--out", str(out), "--splats", "1000"]) == 0
    assert "1,000 Gaussians" in capsys.readouterr().out and out.is_file()
    assert main(["export", str(folder), "--out", str(out)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main(["export", str(tmp_path), "--out", str(tmp_path / "b.ply")]) == 2
    assert "neither an avatar nor a head" in capsys.readouterr().err
