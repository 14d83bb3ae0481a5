"""The viewer itself: its server with clients that come and go, its command, and how it looks in a real browser."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from headrecon.cli import main
from headrecon.driving.figures import AvatarFigure, BoundMesh, MeshFigure
from headrecon.driving.motion import Motion
from headrecon.errors import InputError, NativeMissing
from headrecon.saved_head import SavedHead
from headrecon.viewing import server as servers
from headrecon.viewing.desk import Desk
from headrecon.viewing.server import LOOPBACK, Viewer, open_viewer
from headrecon.viewing.subject import Subject
from tests.disc_avatar import disc_avatar
from tests.synthetic_assets import TINY_LICENCE, make_tiny_assets
from tests.viewing.chromium import Chromium, Page, find_chromium

BETAS = np.array([0.5, -1.0])


@pytest.fixture(scope="module")
def subject() -> Subject:
    avatar = disc_avatar(make_tiny_assets(), BETAS, 3000)
    height = avatar.person.assets.v_template[:, 1:2]
    bands = np.clip(avatar.colours * (1 + 0.4 * np.sin(150 * height)), 0, 1)  # so that what moves can be seen
    figure = AvatarFigure(replace(avatar, colours=bands))
    return Subject("discs", figure, BoundMesh(figure))


@pytest.fixture
def desk(subject: Subject) -> Desk:
    figure = subject.figure
    rows = np.tile(figure.rest(), (40, 1))
    slices = figure.joints.layout.slices
    rows[:, slices["expression"]][:, figure.assets.expression_names.index("jawOpen")] = np.linspace(0, 1, 40)
    rows[:, slices["neck_pose"]][:, 1] = np.linspace(0, 0.5, 40)
    return Desk(subject, Motion(rows, ()), np.arange(40) / 20)


@pytest.fixture
def viewer(desk: Desk) -> Iterator[Viewer]:
    pytest.importorskip("viser", reason="needs viser: pip install 'headrecon[view]'")
    shown = Viewer(desk)
    yield shown
    shown.stop()


def _until(condition, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "never came true"
        time.sleep(0.05)


# --- without a browser ------------------------------------------------------------------------------------------------


def test_without_viser_the_error_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "viser", None)
    with pytest.raises(NativeMissing, match=re.escape("pip install 'headrecon[view]'")):
        servers.require_viser()
    assert main(["view", str(tmp_path)]) == 2
    assert "headrecon[view]" in capsys.readouterr().err


def test_only_this_computer_reaches_it(viewer: Viewer) -> None:
    port = int(viewer.url.rsplit(":", 1)[1])
    with socket.create_connection((LOOPBACK, port), timeout=5):
        pass
    for family, table in ((2, "/proc/net/tcp"), (10, "/proc/net/tcp6")):
        if not Path(table).exists():
            continue
        lines = [line.split() for line in Path(table).read_text().splitlines()[1:]]
        listening = [f[1] for f in lines if f[3] == "0A" and int(f[1].rsplit(":", 1)[1], 16) == port]
        assert listening == ([f"0100007F:{port:04X}"] if family == 2 else [])
    assert viewer._server.request_share_url() is None  # viser's tunnel to the internet is shut


def test_a_port_that_is_taken_is_named(desk: Desk) -> None:
    pytest.importorskip("viser", reason="needs viser: pip install 'headrecon[view]'")
    with socket.socket() as other:
        other.bind((LOOPBACK, 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(InputError, match=f"--port {port}: something else"):
            Viewer(desk, port)
        free = Viewer(desk)  # left out, one is found
        free.stop()
        assert not free.url.endswith(f":{port}")
    with pytest.raises(InputError, match="65535"):
        Viewer(desk, 70000)


def test_stopping_closes_the_port_and_may_be_repeated(desk: Desk) -> None:
    pytest.importorskip("viser", reason="needs viser: pip install 'headrecon[view]'")
    viewer = Viewer(desk)
    port = int(viewer.url.rsplit(":", 1)[1])
    viewer.stop()
    viewer.stop()
    viewer.wait()
    with pytest.raises(OSError, match=r".*"):
        socket.create_connection((LOOPBACK, port), timeout=2)


def test_what_goes_wrong_while_drawing_is_raised(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("viser", reason="needs viser: pip install 'headrecon[view]'")
    viewer = Viewer(desk)
    try:
        monkeypatch.setattr(viewer.canvas, "_serve", lambda now: 1 / 0)
        desk.changed.set()
        with pytest.raises(ZeroDivisionError):
            viewer.wait()
    finally:
        viewer.stop()


def test_ctrl_c_ends_the_command_cleanly(tmp_path: Path) -> None:
    pytest.importorskip("viser", reason="needs viser: pip install 'headrecon[view]'")
    code = (
        # Whoever runs tests in the background of a shell hands an ignored SIGINT down.
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from headrecon.viewing import subject; import tests.viewing.test_viewer as t\n"
        "subject.load_figure = lambda path: t.AvatarFigure(t.disc_avatar(t.make_tiny_assets(), t.BETAS, 200))\n"
        "from headrecon.cli import main; sys.exit(main(['view', 'x']))"
    )
    here = Path(__file__).resolve().parents[2]
    found = os.pathsep.join([str(here), *filter(None, [os.environ.get("PYTHONPATH")])])
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=here,
        env={**os.environ, "PYTHONPATH": found},
    )  # fmt: skip
    assert process.stdout is not None
    first = process.stdout.readline()
    assert re.search(r"http://127\.0\.0\.1:\d+", first), process.stderr and process.stderr.read()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "the viewer is closed" in err
    assert "Traceback" not in err
    assert "viser" not in first + out  # its own messages do not mix with the command's


def test_folders_that_cannot_be_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("viser", reason="needs viser: pip install 'headrecon[view]'")
    assert main(["view", str(tmp_path / "none")]) == 2
    assert "does not exist" in capsys.readouterr().err
    assert main(["view", str(tmp_path)]) == 2
    assert "neither an avatar nor a head" in capsys.readouterr().err


# --- in a browser -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    find_chromium()
    with Chromium(tmp_path_factory.mktemp("chromium") / "profile") as browser:
        yield browser


@pytest.fixture
def page(viewer: Viewer, chromium: Chromium) -> Iterator[Page]:
    tab = chromium.open(viewer.url)
    tab.wait("document.querySelector('canvas') !== null && document.body.innerText.includes('Expression')")
    _until(lambda: any(s.fine for s in viewer.canvas._sent.values()))
    time.sleep(1.0)
    yield tab
    tab.close()


def _head(picture: np.ndarray, background: tuple[int, int, int]) -> np.ndarray:
    """Which pixels of the canvas (left of the panel, under notices) are not background."""
    shown = picture[160:, :600].astype(int)
    return (abs(shown - np.array(background)) > 24).any(-1)


def _settle(page: Page, viewer: Viewer) -> np.ndarray:
    """The picture once nothing moves."""
    time.sleep(0.5)
    _until(lambda: all(s.fine for s in viewer.canvas._sent.values()))
    last = page.picture()
    for _ in range(60):
        time.sleep(0.5)
        now = page.picture()
        if (abs(now.astype(int) - last).max(-1) > 8).mean() < 1e-3:
            return now
        last = now
    raise AssertionError("the picture never stood still")


#: A label's text, without the places where it may be broken.
NAME = "x.innerText.replaceAll('\\u200b', '').trim()"


def _slider(page: Page, label: str) -> tuple[float, float, float]:
    """Left and right end of a slider's track and its height in the page, scrolled into view."""
    found = page.run(
        f"""(() => {{
        const label = [...document.querySelectorAll('label')].find(x => {NAME} === {label!r});
        let row = label; while (!row.querySelector('[role=slider]')) row = row.parentElement;
        row.scrollIntoView({{block: 'center'}});
        const box = row.querySelector('[role=slider]').parentElement.getBoundingClientRect();
        return [box.left, box.right, box.top + box.height / 2]; }})()"""
    )
    return tuple(found)


def _pull(page: Page, label: str, start: float, end: float) -> None:
    """Drag a slider's thumb from one share of its way to another."""
    left, right, y = _slider(page, label)
    time.sleep(0.3)
    left, right, y = _slider(page, label)
    page.drag((left + start * (right - left), y), (left + end * (right - left), y), steps=8)


def _press(page: Page, text: str) -> None:
    page.run(f"""[...document.querySelectorAll('button, label')].find(x => x.innerText.trim() === {text!r}).click()""")


BACKGROUND = (237, 237, 240)


@pytest.mark.slow
def test_sliders_move_the_face_in_the_browser(page: Page, viewer: Viewer, tmp_path: Path) -> None:
    before = _settle(page, viewer)
    head = _head(before, BACKGROUND)
    assert 0.05 < head.mean() < 0.6
    _pull(page, "jawOpen", 0.0, 1.04)
    _until(lambda: viewer.desk.puppet.weights()["jawOpen"] == 1.0)
    opened = _settle(page, viewer)
    moved = (abs(opened.astype(int) - before)[160:, :600] > 24).any(-1)
    assert 0.002 < moved.mean() < 0.3
    rows = np.flatnonzero(moved.any(1))
    assert rows.mean() > np.flatnonzero(head.any(1)).mean()  # it is the lower face that moves
    _pull(page, "Neck yaw", 0.5, 1.0)
    _until(lambda: viewer.desk.puppet.turns()["neck"][0] > 50)
    turned = _settle(page, viewer)
    page.picture(tmp_path / "turned.png")
    assert (abs(turned.astype(int) - opened)[160:, :600] > 24).any(-1).mean() > 0.01
    _press(page, "Reset face and pose")
    _until(lambda: not any(viewer.desk.puppet.weights().values()))
    again = _settle(page, viewer)
    assert (abs(again.astype(int) - before)[160:, :600] > 24).any(-1).mean() < 1e-3
    assert page.run("document.querySelectorAll('[role=slider]')[5].getAttribute('aria-valuenow')") == "0"
    assert not page.errors


@pytest.mark.slow
def test_the_browsers_splats_lie_where_ours_do(page: Page, viewer: Viewer) -> None:
    """Camera, scale, pose and colours of what the browser draws by itself: as in our pictures, from the side too."""
    for camera in (None, ((260.0, 330.0), (330.0, 300.0))):
        if camera is not None:
            page.drag(*camera)
        viewer.desk.set_show(in_browser=False)
        ours = _settle(page, viewer)
        viewer.desk.set_show(in_browser=True)
        _until(lambda: viewer.canvas._node is not None and viewer.canvas._node.visible)
        time.sleep(2.0)
        theirs = _settle(page, viewer)
        a, b = _head(ours, BACKGROUND), _head(theirs, BACKGROUND)
        assert (a & b).sum() / (a | b).sum() > 0.93
        inside = a & b
        apart = abs(ours[160:, :600].astype(int) - theirs[160:, :600])[inside].mean()
        assert apart < 12  # of 255; the browser neither sorts nor smooths exactly as we do
    version = viewer.canvas._node_version
    viewer.desk.set_weight("jawOpen", 1.0, time.monotonic())
    _until(lambda: viewer.canvas._node_version > version)
    moved = _settle(page, viewer)
    assert (abs(moved.astype(int) - theirs)[160:, :600] > 24).any(-1).mean() > 0.001
    assert not page.errors


@pytest.mark.slow
def test_mesh_and_splats_are_switched_and_the_camera_goes_home(page: Page, viewer: Viewer, tmp_path: Path) -> None:
    splats = _settle(page, viewer)
    viewer.desk.set_show(layer="mesh")
    mesh = _settle(page, viewer)
    page.picture(tmp_path / "mesh.png")
    a, b = _head(splats, BACKGROUND), _head(mesh, BACKGROUND)
    assert (a & b).sum() / (a | b).sum() > 0.85
    assert (abs(mesh.astype(int) - splats)[160:, :600][a & b]).mean() > 3
    page.drag((200.0, 400.0), (420.0, 380.0))
    aside = _settle(page, viewer)
    assert (abs(aside.astype(int) - mesh)[160:, :600] > 24).any(-1).mean() > 0.02
    _press(page, "Reset camera")
    home = _settle(page, viewer)
    assert (abs(home.astype(int) - mesh)[160:, :600] > 24).any(-1).mean() < 0.01


@pytest.mark.slow
def test_a_track_plays_and_sliders_follow_when_it_stops(page: Page, viewer: Viewer) -> None:
    _press(page, "Play")
    _until(lambda: viewer.desk.playback is not None and viewer.desk.playback.playing)
    frames = set()
    end = time.monotonic() + 3.0
    while time.monotonic() < end:
        frames.add(viewer.desk.frame)
        time.sleep(0.01)
    assert len(frames) >= 5  # of 40: a busy machine leaves frames out, a track that stands still shows one
    page.wait("[...document.querySelectorAll('button')].some(x => x.innerText.trim() === 'Pause')")
    _press(page, "Pause")
    _until(lambda: not viewer.desk.playback.playing)
    jaw = viewer.desk.puppet.weights()["jawOpen"]
    _until(lambda: abs(viewer.panel._weights["jawOpen"].value - jaw) < 1e-9)
    _pull(page, "Frame", 0.9, 0.0)
    _until(lambda: viewer.desk.frame == 0)


@pytest.mark.slow
def test_finding_hides_what_is_not_looked_for(page: Page, viewer: Viewer) -> None:
    page.run("[...document.querySelectorAll('label')].find(x => x.innerText.trim() === 'Find').scrollIntoView()")
    left, _, y = page.run(
        """(() => { const label = [...document.querySelectorAll('label')].find(x => x.innerText.trim() === 'Find');
        let row = label; while (!row.querySelector('input')) row = row.parentElement;
        const b = row.querySelector('input').getBoundingClientRect();
        return [b.left, b.right, b.top + b.height / 2]; })()"""
    )
    page.click(left + 20, y)
    page.call("Input.insertText", text="smile left")
    shown = "[...document.querySelectorAll('label')].map(x => " + NAME + ")"
    page.wait(f"!{shown}.includes('jawOpen')")
    assert page.run(f"{shown}.includes('mouthSmileLeft')")
    assert not page.run(f"{shown}.includes('mouthSmileRight')")


@pytest.mark.slow
def test_clients_come_and_go(viewer: Viewer, chromium: Chromium) -> None:
    first = chromium.open(viewer.url)
    _until(lambda: len(viewer.canvas._sent) == 1)
    second = chromium.open(viewer.url)
    _until(lambda: len(viewer.canvas._sent) == 2)
    first.close()
    _until(lambda: len(viewer.canvas._sent) == 1)
    viewer.desk.set_weight("jawOpen", 1.0, time.monotonic())
    _until(lambda: all(s.what[0] == viewer.desk.stamp and s.fine for s in viewer.canvas._sent.values()))
    assert viewer.canvas.failure is None
    second.close()
    _until(lambda: not viewer.canvas._sent)
    third = chromium.open(viewer.url)  # and find it still there
    _until(lambda: len(viewer.canvas._sent) == 1)
    third.close()


@pytest.mark.slow
def test_a_mesh_head_is_shown_with_its_texture(chromium: Chromium, tmp_path: Path) -> None:
    pytest.importorskip("viser", reason="needs viser: pip install 'headrecon[view]'")
    assets = make_tiny_assets()
    texture = np.tile(np.array([[[40, 160, 60]]], np.uint8), (16, 16, 1))
    figure = MeshFigure(SavedHead(assets, BETAS, np.zeros_like(assets.v_template), texture, (TINY_LICENCE,)))
    viewer = open_viewer(Subject("green", figure, figure))
    try:
        tab = chromium.open(viewer.url)
        _until(lambda: any(s.fine for s in viewer.canvas._sent.values()))
        picture = _settle(tab, viewer)
        tab.picture(tmp_path / "green.png")
        head = _head(picture, BACKGROUND)
        assert head.mean() > 0.05
        red, green, blue = picture[160:, :600][head].mean(0)
        assert green > 1.5 * red
        assert green > 1.5 * blue
        tab.close()
    finally:
        viewer.stop()
