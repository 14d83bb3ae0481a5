"""What a viewer does behind its panel: which frame is due, which pose is shown, from where, how large."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from headrecon.driving.figures import AvatarFigure, BoundMesh, Look, MeshFigure
from headrecon.driving.motion import Motion
from headrecon.errors import InputError
from headrecon.geometry import so3
from headrecon.geometry.cameras import look_at
from headrecon.geometry.euler import angles, axis_angle
from headrecon.saved_head import SavedHead
from headrecon.structures import ARKIT_NAMES
from headrecon.viewing import subject as subjects
from headrecon.viewing.desk import Desk
from headrecon.viewing.eyes import Eye
from headrecon.viewing.pace import Pace
from headrecon.viewing.playback import Playback
from headrecon.viewing.puppet import Puppet
from headrecon.viewing.regions import OTHER, grouped, matches
from headrecon.viewing.splat_rows import UNITS_PER_METRE, splat_rows
from headrecon.viewing.subject import Subject
from tests.disc_avatar import disc_avatar
from tests.synthetic_assets import TINY_LICENCE, make_tiny_assets

BETAS = np.array([0.5, -1.0])


@pytest.fixture(scope="module")
def figure() -> AvatarFigure:
    return AvatarFigure(disc_avatar(make_tiny_assets(), BETAS, 500))


@pytest.fixture
def desk(figure: AvatarFigure) -> Desk:
    rows = np.tile(figure.rest(), (4, 1))
    rows[:, figure.layout.slices["expression"]] = np.arange(4)[:, None] / 10
    return Desk(Subject("me", figure, BoundMesh(figure)), Motion(rows, ()), np.array([0.0, 0.1, 0.2, 0.5]))


# --- groups -----------------------------------------------------------------------------------------------------------


def test_all_52_have_a_group_and_stay_in_it_once() -> None:
    found = grouped((*ARKIT_NAMES, "ownShape"))
    assert sorted(n for names in found.values() for n in names) == sorted((*ARKIT_NAMES, "ownShape"))
    assert found[OTHER] == ("ownShape",)
    assert found["Jaw"] == ("jawForward", "jawLeft", "jawOpen", "jawRight")
    assert "Brows" not in grouped(("jawOpen",))


def test_finding_takes_words_in_any_order() -> None:
    assert matches("mouthSmileLeft", "left SMILE")
    assert not matches("mouthSmileRight", "left smile")
    assert matches("jawOpen", "")


# --- playing ----------------------------------------------------------------------------------------------------------


def test_playback_shows_the_frame_that_is_due() -> None:
    playback = Playback(np.array([0.0, 0.1, 0.2, 0.5]))
    assert playback.length_s == pytest.approx(0.6)  # the last frame stays as long as most do
    assert playback.frame(100.0) == 0
    playing = playback.play(10.0)
    assert [playing.frame(10.0 + t) for t in (0, 0.09, 0.11, 0.49, 0.51, 0.59, 0.61)] == [0, 0, 1, 2, 3, 3, 0]
    slow = playing.at_speed(0.5, 10.11)
    assert slow.frame(10.11) == 1  # where it was
    assert slow.frame(10.11 + 0.16) == 1
    assert slow.frame(10.11 + 0.19) == 2
    still = playing.pause(10.25)
    assert still.frame(99.0) == 2
    assert still.at_frame(3, 99.0).play(100.0).frame(100.05) == 3
    assert Playback(np.array([0.0])).play(0.0).frame(5.5) == 0


def test_a_track_moves_the_face_until_a_slider_does(desk: Desk) -> None:
    assert desk.advance(0.0) is None
    assert desk.puppet.weights()["jawOpen"] == 0  # at rest, not at the track's first frame
    desk.play(True, 10.0)
    assert desk.advance(10.15) == pytest.approx(0.05)
    assert desk.frame == 1
    assert desk.puppet.weights()["jawOpen"] == pytest.approx(0.1)
    desk.set_weight("jawOpen", 0.9, 10.25)
    assert desk.playback is not None
    assert not desk.playback.playing
    assert desk.advance(10.3) is None
    assert desk.frame is None
    assert desk.puppet.weights()["jawOpen"] == 0.9
    assert desk.puppet.weights()["eyeBlinkLeft"] == pytest.approx(0.1)  # the rest of the frame stays
    desk.seek(3, 11.0)
    assert desk.frame == 3
    assert desk.puppet.weights()["jawOpen"] == pytest.approx(0.3)
    desk.rest(12.0)
    assert not any(desk.puppet.weights().values())


def test_only_what_changes_is_drawn_again(desk: Desk) -> None:
    desk.play(True, 0.0)
    desk.advance(0.0)
    first = desk.stamp
    desk.advance(0.05)  # the same frame
    assert desk.stamp == first
    desk.advance(0.12)
    assert desk.stamp != first
    moved = desk.moved
    desk.set_turn("neck", (10.0, 0.0, 0.0), 0.2)
    assert desk.moved == moved  # a slider knows what it did
    assert desk.stamp[0] > first[0]
    shown = desk.stamp
    desk.set_show(layer="mesh")
    assert desk.stamp != shown
    assert desk.changed.is_set()


# --- pose -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("turn", [(0.0, 0.0, 0.0), (50.0, -20.0, 10.0), (-89.0, 30.0, -44.0)])
def test_angles_are_the_inverse_of_axis_angle(turn: tuple[float, float, float]) -> None:
    np.testing.assert_allclose(angles(axis_angle(*turn)), turn, atol=1e-9)


def test_turns_mean_what_sliders_say() -> None:
    front = np.array([0.0, 0.0, 1.0])
    assert (so3.exp(axis_angle(30.0, 0.0, 0.0)) @ front)[0] > 0.4  # +x is the person's left
    assert (so3.exp(axis_angle(0.0, 30.0, 0.0)) @ front)[1] < -0.4  # down
    assert (so3.exp(axis_angle(0.0, 0.0, 30.0)) @ np.array([0, 1.0, 0]))[0] < -0.4  # the crown leans to the right


def test_the_puppet_is_posed_by_names(figure: AvatarFigure) -> None:
    puppet = Puppet(figure)
    start = puppet.version
    puppet.set_weight("jawOpen", 0.5)
    puppet.set_turn("gaze", 10.0, 5.0)
    slices = figure.layout.slices
    row = puppet.row
    assert row[slices["expression"]][figure.assets.expression_names.index("jawOpen")] == 0.5
    np.testing.assert_allclose(row[slices["leye_pose"]], row[slices["reye_pose"]])
    np.testing.assert_allclose(puppet.turns()["gaze"], (10, 5, 0), atol=1e-9)
    np.testing.assert_allclose(row[slices["transl"]], figure.rest()[slices["transl"]])
    assert puppet.version == start + 2
    row[:] = 7  # a copy
    assert puppet.weights()["jawOpen"] == 0.5
    puppet.rest()
    np.testing.assert_allclose(puppet.row, figure.rest())


def test_many_threads_may_move_it(figure: AvatarFigure) -> None:
    puppet = Puppet(figure)
    names = figure.assets.expression_names[:8]

    def move(name: str) -> None:
        for i in range(200):
            puppet.set_weight(name, i / 199)

    threads = [threading.Thread(target=move, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert puppet.version == 200 * len(names)
    assert all(puppet.weights()[name] == 1.0 for name in names)


# --- eyes -------------------------------------------------------------------------------------------------------------


def test_an_eye_is_our_camera() -> None:
    eye_at, target = np.array([[0.3, 0.2, 1.5]]), np.array([[0.1, 0.0, 0.0]])
    viewmat = look_at(eye_at, target)[0]
    from headrecon.geometry.rotations import matrix_to_quat

    wxyz = matrix_to_quat(torch.tensor(viewmat[:3, :3].T.copy()).double()).tolist()
    eye = Eye(tuple(wxyz), tuple(eye_at[0].tolist()), 0.5, (800, 600))
    camera = eye.camera(4000)
    assert (camera.width, camera.height) == (800, 600)
    np.testing.assert_allclose(camera.viewmats, viewmat, atol=1e-6)
    seen = camera.Ks @ (camera.viewmats @ np.append(target[0], 1.0))[:3]
    np.testing.assert_allclose(seen[:2] / seen[2], [400, 300], atol=1e-3)
    # A point at the upper edge of the field of view lies at the upper edge of the picture, at any size.
    for longest in (4000, 400, 90):
        smaller = eye.camera(longest)
        assert max(smaller.width, smaller.height) <= longest
        edge = smaller.Ks @ np.array([0.0, -np.tan(0.25), 1.0])
        assert edge[1] == pytest.approx(0.0, abs=1e-3)
        side = smaller.Ks @ np.array([np.tan(0.25) * 800 / 600, 0.0, 1.0])
        assert side[0] == pytest.approx(smaller.width, rel=1e-5)


def test_pictures_shrink_until_they_come_in_time_and_grow_again() -> None:
    pace = Pace()

    def settle(pace: Pace, seconds_per_megapixel: float) -> Pace:
        for _ in range(60):
            pace = pace.after(seconds_per_megapixel * pace.longest**2 / 1e6, pace.longest)
        return pace

    slow, fast = settle(pace, 0.2), settle(pace, 0.005)
    assert 0.02 < 0.2 * slow.longest**2 / 1e6 < 0.05
    assert fast.longest == 1280
    assert settle(pace, 50.0).longest == 448  # never a stamp
    assert settle(slow, 0.005).longest == 1280
    assert Pace().after(2.0, 640).longest >= 500  # one slow picture says little


# --- splats -----------------------------------------------------------------------------------------------------------


def test_splats_travel_as_a_browser_reads_them(figure: AvatarFigure) -> None:
    gaussians = figure.avatar.gaussians(figure.layout.unpack(figure.rest()))  # pyright: ignore[reportAttributeAccessIssue]
    rows = splat_rows(gaussians)
    assert rows.shape == (500, 8)
    np.testing.assert_allclose(rows[:, :3].view(np.float32) / UNITS_PER_METRE, gaussians.means, rtol=1e-6)
    assert not rows[:, 3].any()
    half = np.ascontiguousarray(rows[:, 4:7]).view(np.float16).astype(np.float64) / UNITS_PER_METRE**2
    full = np.zeros((500, 3, 3))
    for k, (i, j) in enumerate(((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))):
        full[:, i, j] = full[:, j, i] = half[:, k]
    axes = np.sort(np.linalg.eigvalsh(full), axis=1)
    # Half floats keep three digits; the thin axis is the difference of large ones.
    np.testing.assert_allclose(np.sqrt(axes[:, 2]), gaussians.scales[:, 0], rtol=2e-3)
    assert (axes[:, 0] < 0.05 * axes[:, 2]).all()
    rgba = np.ascontiguousarray(rows[:, 7:]).view(np.uint8)
    np.testing.assert_allclose(rgba[:, :3] / 255, gaussians.colours, atol=0.5 / 255 + 1e-6)
    np.testing.assert_allclose(rgba[:, 3] / 255, gaussians.opacities, atol=0.5 / 255 + 1e-6)


def test_fine_splats_survive_half_floats(figure: AvatarFigure) -> None:
    gaussians = figure.avatar.gaussians(figure.layout.unpack(figure.rest()))  # pyright: ignore[reportAttributeAccessIssue]
    fine = replace(gaussians, scales=torch.full_like(gaussians.scales, 1e-4))  # a tenth of a millimetre
    half = np.ascontiguousarray(splat_rows(fine)[:, 4:7]).view(np.float16).astype(np.float64)
    np.testing.assert_allclose(half[:, (0, 3, 5)], (1e-4 * UNITS_PER_METRE) ** 2, rtol=2e-3)


# --- what is shown ----------------------------------------------------------------------------------------------------


def test_an_avatar_shows_splats_and_a_mesh_that_lie_on_each_other(figure: AvatarFigure) -> None:
    assets = make_tiny_assets()
    head = SavedHead(
        assets, BETAS, np.zeros_like(assets.v_template), np.full((8, 8, 3), 200, np.uint8), (TINY_LICENCE,)
    )
    row = figure.rest()
    row[figure.layout.slices["neck_pose"]] = [0.1, 0.4, 0.0]
    row[figure.layout.slices["expression"]][figure.assets.expression_names.index("jawOpen")] = 1.0
    eye = Eye((0.0, 1.0, 0.0, 0.0), (0.0, 0.0, -0.2), 0.5, (128, 128))  # from +z towards -z, up is up
    pictures = {}
    for name, mesh in (("bound", BoundMesh(figure)), ("own", MeshFigure(head))):
        subject = Subject("me", figure, mesh)
        assert subject.layers == ("splats", "mesh")
        for layer in subject.layers:
            pictures[name, layer] = subject.picture(layer, row, eye.camera(128), Look((0.0, 0.0, 1.0)))
    seen = {key: picture[..., 0] > 30 for key, picture in pictures.items()}
    assert 0.1 < seen["own", "mesh"].mean() < 0.9
    np.testing.assert_array_equal(seen["bound", "mesh"], seen["own", "mesh"])  # of the same person, posed alike
    both = seen["own", "splats"] & seen["own", "mesh"]
    assert both.sum() / (seen["own", "splats"] | seen["own", "mesh"]).sum() > 0.8


def test_what_does_not_go_together_is_refused(figure: AvatarFigure, monkeypatch: pytest.MonkeyPatch) -> None:
    assets = make_tiny_assets()
    head = MeshFigure(SavedHead(assets, BETAS, np.zeros_like(assets.v_template), np.zeros((8, 8, 3), np.uint8), ()))
    other = MeshFigure(replace(head.head, assets=replace(assets, name="other")))
    known = {"avatar": figure, "head": head, "other": other}
    monkeypatch.setattr(subjects, "load_figure", lambda path: known[str(path)])
    assert subjects.load_subject("head").layers == ("mesh",)
    assert not subjects.load_subject("head").in_browser
    assert subjects.load_subject("avatar", "head").mesh is head
    for arguments, message in ((("head", "head"), "mesh head already"), (("avatar", "avatar"), "is an avatar"),
                               (("avatar", "other"), "'other'")):  # fmt: skip
        with pytest.raises(InputError, match=message):
            subjects.load_subject(*arguments)
    with pytest.raises(InputError, match="no splats"):
        subjects.load_subject("head").gaussians(head.rest())
