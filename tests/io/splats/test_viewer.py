"""The HTML page: read back, safe to make, and in a real browser the same picture as our own renderer's."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from headrecon.errors import InputError, ShapeError
from headrecon.io.splats.cloud import cloud_from
from headrecon.io.splats.html import SplatPage, read_splat_html, write_splat_html
from headrecon.ops.splat_gaussians import SplatOptions
from headrecon.rendering.gaussians import render_gaussians
from headrecon.structures import Cameras, Gaussians
from tests.io.splats.clouds import angles_between, random_cloud

LIGHT = (0xED / 255, 0xED / 255, 0xF0 / 255)


def moved(cloud: Gaussians, frame: int) -> Gaussians:
    """The same Gaussians a little later: places, turns, sizes and colours change."""
    rng = np.random.default_rng(frame)

    def step(*shape: int) -> np.ndarray:
        return rng.normal(size=(len(cloud), *shape)).astype(np.float32)

    assert cloud.colours is not None
    return replace(
        cloud, means=cloud.means + 0.01 * step(3), quats_wxyz=cloud.quats_wxyz + 0.1 * step(4),
        scales=cloud.scales * np.exp(0.1 * step(3)), colours=(cloud.colours + 0.1 * step(3)).clip(0, 1),
    )  # fmt: skip


def check_rounding(found: Gaussians, expected: Gaussians) -> None:
    a, b = cloud_from(found), cloud_from(expected)
    # Half a step of a box of about a metre in 65535; half of 1/255 of the logarithms' range (about 5); bytes.
    np.testing.assert_allclose(a.means, b.means, atol=1.2 / 65535 / 2 + 1e-7)
    np.testing.assert_allclose(np.log(a.scales), np.log(b.scales), atol=0.51 * 6 / 255)
    np.testing.assert_allclose(a.opacities, b.opacities, atol=0.501 / 255)
    np.testing.assert_allclose(a.colours.clip(0, 1), b.colours.clip(0, 1), atol=0.501 / 255)
    np.testing.assert_allclose(
        a.sh[:, 1:], b.sh[:, 1:], atol=0.501 / 127 * max(np.abs(b.sh[:, 1:]).max(initial=0), 1e-9)
    )
    assert np.degrees(angles_between(a.quats_wxyz, b.quats_wxyz)).max() < 0.25


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_a_page_read_back(tmp_path: Path, degree: int) -> None:
    cloud = random_cloud(150, degree)
    write_splat_html(tmp_path / "a.html", cloud)
    (back,) = read_splat_html(tmp_path / "a.html")
    check_rounding(back, cloud)


def test_a_sequence_read_back(tmp_path: Path) -> None:
    frames = [random_cloud(150)]
    for i in range(4):
        frames.append(moved(frames[-1], i))
    write_splat_html(tmp_path / "a.html", frames, SplatPage(times_s=[0.0, 0.04, 0.08, 0.2, 0.24]))
    back = read_splat_html(tmp_path / "a.html")
    assert len(back) == 5
    for found, expected in zip(back, frames, strict=True):
        check_rounding(found, expected)


def test_frames_that_stand_still_take_little_room(tmp_path: Path) -> None:
    cloud = random_cloud(2000)
    write_splat_html(tmp_path / "one.html", cloud)
    write_splat_html(tmp_path / "ten.html", [cloud] * 10)
    one, ten = ((tmp_path / name).stat().st_size for name in ("one.html", "ten.html"))
    assert ten - one < 9 * 500  # nine streams of zeros, in base64


def test_the_page_names_nothing_outside_itself(tmp_path: Path) -> None:
    write_splat_html(tmp_path / "a.html", random_cloud(5), SplatPage(title="A </title><script>alert(1)</script>"))
    text = (tmp_path / "a.html").read_text()
    assert "alert(1)</script>" not in text and "@@" not in text
    assert not re.search(
        r"https?://|//[a-z]|\bsrc=|\bhref=|@import|url\((?!data:)|fetch\(|XMLHttpRequest|import\(", text
    )
    assert "default-src 'none'" in text  # and the browser is told to fetch nothing


def test_pages_that_cannot_be(tmp_path: Path) -> None:
    path, cloud = tmp_path / "a.html", random_cloud(5)
    with pytest.raises(InputError, match="at least one frame"):
        write_splat_html(path, [])
    with pytest.raises(ShapeError, match="same number"):
        write_splat_html(path, [cloud, random_cloud(6)])
    with pytest.raises(InputError, match="must rise"):
        write_splat_html(path, [cloud, cloud], SplatPage(times_s=[0.0, 0.0]))
    with pytest.raises(InputError, match="--every"):
        write_splat_html(path, [random_cloud(1_000_000)] * 40)
    assert not path.exists()


def test_damaged_pages_are_refused(tmp_path: Path) -> None:
    write_splat_html(tmp_path / "a.html", random_cloud(40))
    text = (tmp_path / "a.html").read_text()
    header = text[text.index('id="header">') + 12 : text.index("</script>", text.index('id="header">'))]
    stream = re.search(r'id="stream-0">([^<]*)<', text)
    assert stream is not None
    bomb = base64.b64encode(__import__("zlib").compress(bytes(50_000_000), 9)).decode()
    changes = {
        "no page": "<html></html>",
        "count": text.replace('"count":40', '"count":41'),
        "huge": text.replace('"count":40', '"count":99999999999'),
        "frames": text.replace('"frames":1', '"frames":2'),
        "negative": text.replace('"frames":1', '"frames":-1'),
        "schema": text.replace("headrecon.splat-page/1", "headrecon.splat-page/9"),
        "no json": text.replace(header, header[:-5]),
        "not a number": text.replace('"box_low":[', '"box_low":[NaN,'),
        "bomb": text.replace(stream[1], bomb),
        "cut": text.replace(stream[1], stream[1][:40]),
    }
    for name, changed in changes.items():
        assert changed != text, name
        (tmp_path / "b.html").write_text(changed)
        with pytest.raises(InputError, match=r"b\.html"):
            read_splat_html(tmp_path / "b.html")


# --- in a browser ---

SIZE = 480


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    pytest.importorskip("websockets", reason="needs the package websockets, to talk to a browser")
    chromium = pytest.importorskip("tests.viewing.chromium")
    with chromium.Chromium(tmp_path_factory.mktemp("profile"), (SIZE, SIZE)) as started:
        yield started


def opened(browser: Any, path: Path, where: str) -> Any:
    page = browser.open(f"{path.as_uri()}#plain=1&play=0&{where}")
    page.call("Emulation.setDeviceMetricsOverride", width=SIZE, height=SIZE, deviceScaleFactor=1, mobile=False)
    page.wait("document.body && document.body.dataset.state", 120)
    assert page.run("document.body.dataset.state") == "ready", page.run("document.body.innerText")
    page.run("new Promise((done) => setTimeout(done, 300))")
    return page


def our_picture(path: Path, frame: int, yaw: float, pitch: float, antialiased: bool = False) -> np.ndarray:
    """What the viewer should show, by our own renderer, of what the page holds."""
    text = path.read_text()
    view = json.loads(text[text.index('id="header">') + 12 : text.index("</script>", text.index('id="header">'))])[
        "view"
    ]
    y, p = np.radians(yaw), np.radians(pitch)
    outward = np.array([np.sin(y) * np.cos(p), np.sin(p), np.cos(y) * np.cos(p)])
    right = np.array([np.cos(y), 0, -np.sin(y)])
    rotation = np.stack([right, np.cross(-outward, right), -outward])
    viewmat = np.eye(4)
    viewmat[:3, :3] = rotation
    viewmat[:3, 3] = -rotation @ (np.array(view["target"]) + view["distance"] * outward)
    focal = 0.5 * SIZE / np.tan(np.radians(view["angle"]) / 2)
    k = np.array([[focal, 0, SIZE / 2], [0, focal, SIZE / 2], [0, 0, 1]])
    cameras = Cameras(viewmat[None], k[None], SIZE, SIZE)
    options = SplatOptions(antialiased=antialiased)
    gaussians = read_splat_html(path)[frame]
    return render_gaussians(gaussians, cameras, options, torch.tensor(LIGHT)).image[0].clamp(0, 1).numpy() * 255


def assert_same_picture(shown: np.ndarray, expected: np.ndarray) -> None:
    error = np.abs(shown.astype(float) - expected)
    # A browser blends in 8 bits: each of the layers rounds by half a step. Some hundred overlap in places here.
    assert np.sqrt((error**2).mean()) < 1.5
    assert (error.max(-1) > 12).mean() < 0.001
    assert np.abs(expected - 255 * np.array(LIGHT)).max(-1).mean() > 5  # and there is something to see


@pytest.mark.slow
@pytest.mark.parametrize(("degree", "antialiased"), [(0, False), (0, True), (3, False)])
def test_the_browser_shows_what_our_renderer_does(tmp_path: Path, browser: Any, degree: int, antialiased: bool) -> None:
    path, cloud = tmp_path / "a.html", random_cloud(1500, degree, seed=3)
    write_splat_html(path, cloud, SplatPage(antialiased=antialiased))
    for yaw, pitch in [(0.0, 0.0), (140.0, 35.0)]:
        page = opened(browser, path, f"yaw={yaw}&pitch={pitch}")
        assert_same_picture(page.picture(), our_picture(path, 0, yaw, pitch, antialiased))
        assert not page.errors
        page.close()


@pytest.mark.slow
def test_the_browser_plays_turns_and_changes_background(tmp_path: Path, browser: Any) -> None:
    path, frames = tmp_path / "a.html", [random_cloud(400, seed=4)]
    frames += [moved(frames[0], i) for i in range(2)]
    write_splat_html(path, frames, SplatPage(frame_s=0.2))
    page = opened(browser, path, "frame=2")
    assert_same_picture(page.picture(), our_picture(path, 2, 0.0, 0.0))
    before = page.picture()
    page.drag((SIZE / 2, SIZE / 2), (SIZE / 2 + 100, SIZE / 2))
    page.run("new Promise((done) => setTimeout(done, 500))")
    assert_same_picture(page.picture(), our_picture(path, 2, -35.0, 0.0))  # 0.35 degrees a pixel
    page.run("document.getElementById('home').click(); new Promise((done) => setTimeout(done, 500))")
    np.testing.assert_allclose(page.picture(), before, atol=1)
    page.run("document.getElementById('background').click()")
    corner = page.picture()[2, 2]
    assert tuple(corner) == (0x17, 0x17, 0x1A)
    page.run("document.getElementById('play').click()")
    assert page.wait("document.getElementById('frame').value != 2", 30)
    assert not page.errors
