from __future__ import annotations

import base64
import dataclasses
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from headrecon.errors import ShapeError
from headrecon.io.documents import Measurement
from headrecon.rendering.cameras_orbit import orbit_views
from headrecon.rendering.light_rigs import named_light
from headrecon.rendering.lighting import Lighting
from headrecon.rendering.mesh import Appearance, RenderOptions, render_mesh
from headrecon.report.contact_sheet import TITLES, contact_pictures, contact_sheet, head_square
from headrecon.report.html import ReportContent, report_html
from headrecon.report.relit import relit_sheet
from headrecon.report.scene import HeadScene
from headrecon.report.turntable import turntable_frames
from headrecon.structures import Cameras, Licence, Mesh
from tests.synthetic_assets import make_tiny_assets

CELL = 96
NONE = np.zeros((0, 3), dtype=np.float32)


def make_scene(**changes) -> HeadScene:
    assets = make_tiny_assets()
    cameras = orbit_views(assets.v_template, [15.0], 200)
    texture = np.full((64, 64, 3), [200, 120, 80], dtype=np.uint8)
    mesh = Mesh(assets.v_template, assets.faces, assets.uvs, assets.uv_faces)
    look = Appearance(texture_srgb=torch.from_numpy(texture).float() / 255)
    photo = render_mesh(mesh, cameras, look, RenderOptions(background_srgb=(0.0, 0.4, 0.9))).image_srgb[0]
    fields = {
        "assets": assets,
        "photo": (photo.numpy() * 255).astype(np.uint8),
        "cameras": Cameras(cameras.viewmats[0], cameras.Ks[0], 200, 200),
        "neutral": assets.v_template,
        "posed": assets.v_template,
        "texture": texture,
    }
    return HeadScene(**{**fields, **changes})


@pytest.fixture(scope="module")
def scene() -> HeadScene:
    return make_scene()


def blue(picture: np.ndarray) -> np.ndarray:
    return (picture[..., 2] > 150) & (picture[..., 0] < 90)


def orange(picture: np.ndarray) -> np.ndarray:
    return picture[..., 0].astype(int) - picture[..., 2] > 40


def test_sheet_has_ten_captioned_pictures(scene):
    pictures = contact_pictures(scene, CELL)
    assert tuple(pictures) == TITLES
    assert all(p.shape == (CELL, CELL, 3) and p.dtype == np.uint8 for p in pictures.values())
    sheet = contact_sheet(scene, CELL)
    assert sheet.shape[1] > 5 * CELL
    assert sheet.shape[0] > 2 * CELL
    captions = sheet[8 + CELL + 2 : 8 + CELL + 26]
    assert (captions < 128).all(-1).sum() > 100  # ink


def test_geometry_is_tinted_where_photos_agree(scene):
    left = scene.assets.v_template[:, 0] > 0
    pictures = contact_pictures(make_scene(seen=left), CELL)
    title = next(t for t in pictures if t.startswith("geometry ("))
    tinted = pictures[title][..., 2].astype(int) - pictures[title][..., 0] > 15
    middle = CELL // 2
    assert tinted[:, middle + 5 :].mean() > 0.2  # the subject's left is on the picture's right
    assert not tinted[:, : middle - 5].any()
    assert "geometry" in contact_pictures(scene, CELL)


def test_photo_and_overlay_share_one_crop(scene):
    """Where the photo shows the head, the overlay shows geometry; beyond it, the same background."""
    pictures = contact_pictures(scene, CELL)
    photo, overlay = pictures["photo"], pictures["geometry over the photo"]
    assert orange(photo).mean() > 0.2
    changed = np.abs(photo.astype(int) - overlay).max(-1) > 8
    assert changed[orange(photo)].mean() > 0.95
    assert changed[blue(photo)].mean() < 0.05


def test_views_are_textured_and_geometry_is_not(scene):
    pictures = contact_pictures(scene, CELL)
    for title in ("front", "three-quarter", "profile", "back"):
        assert orange(pictures[title]).mean() > 0.2, title
    assert orange(pictures["geometry"]).mean() < 0.01
    assert not np.array_equal(pictures["front"], pictures["profile"])


def test_front_shows_the_neutral_head_and_overlay_the_posed_one(scene):
    moved = dataclasses.replace(scene, posed=scene.posed + np.array([0.05, 0, 0], dtype=np.float32))
    before, after = contact_pictures(scene, CELL), contact_pictures(moved, CELL)
    np.testing.assert_array_equal(before["front"], after["front"])
    assert not np.array_equal(before["geometry over the photo"], after["geometry over the photo"])


def test_the_head_over_the_photo_is_lit_as_the_photo(scene):
    """A texture times its light is the photo; in another light it is not."""
    even = np.zeros((9, 3), dtype=np.float32)
    even[0] = 1 / 0.2820948  # the same from everywhere: a matt surface shows its own colour
    lit, unlit, dark = (
        contact_pictures(dataclasses.replace(scene, light=light), CELL)["head over the photo"].astype(int)
        for light in (Lighting(even, NONE, NONE, "view"), None, Lighting(0.2 * even, NONE, NONE, "view"))
    )
    assert np.abs(lit - unlit).max() <= 2
    assert (unlit - dark)[orange(unlit.astype(np.uint8))].mean() > 40
    found = contact_pictures(scene, CELL)["texture"].astype(int)
    assert np.abs(found - [200, 120, 80]).max() <= 1


def test_turntable_in_another_light(scene):
    plain, lit = (next(turntable_frames(scene, 2, 64, light)) for light in (None, named_light("sunset")))
    assert not np.array_equal(plain, lit)


def test_relit_sheet_has_three_sides(scene):
    sheet = relit_sheet(scene, named_light("left"), None, 48)
    assert sheet.shape == (48, 3 * 48, 3)
    front = sheet[:, :48].astype(int).sum(-1)
    middle = front[14:34]
    assert middle[:, 14:22].mean() > middle[:, 26:34].mean() + 60  # the lamp stands at the viewer's left


def test_landmarks_are_drawn_where_they_are(scene):
    x0, y0, x1, _ = head_square(scene)
    scale = CELL / (x1 - x0)
    wanted = np.array([[x0 + 20 / scale, y0 + 30 / scale]])
    marked = contact_pictures(dataclasses.replace(scene, landmarks_px=wanted), CELL)
    changed = np.abs(marked["landmarks"].astype(int) - marked["photo"]).max(-1) > 60
    rows, columns = np.nonzero(changed)
    assert len(rows)
    assert abs(rows.mean() + 0.5 - 30) < 1
    assert abs(columns.mean() + 0.5 - 20) < 1


def test_heads_at_the_border_and_outside(scene):
    for offset in ([0.12, 0.1, 0], [9.0, 0, 0], [0, 0, 99.0]):
        posed = scene.posed + np.array(offset, dtype=np.float32)
        assert contact_sheet(dataclasses.replace(scene, posed=posed), 64).dtype == np.uint8


def test_scene_that_does_not_fit_is_refused(scene):
    # Past the run-time shape check of the test suite, which users do not run.
    for name, message in (("photo", "camera's shape"), ("posed", "posed must have shape")):
        wrong = dataclasses.replace(scene)
        object.__setattr__(wrong, name, getattr(scene, name)[:5])
        with pytest.raises(ShapeError, match=message):
            contact_sheet(wrong)


def test_turntable_goes_round(scene):
    frames = list(turntable_frames(scene, 8, 64))
    assert len(frames) == 8
    assert all(f.shape == (64, 64, 3) for f in frames)
    # The tiny head has a nose: the side view is not the front view, and the two sides mirror each other.
    assert not np.array_equal(frames[0], frames[2])
    silhouette = [orange(f) for f in frames]
    assert (silhouette[2] ^ silhouette[6][:, ::-1]).mean() < 0.01


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data) -> None:
        self.text += data


def content(**changes) -> ReportContent:
    fields = {
        "title": "photo.jpg",
        "preview": np.full((40, 60, 3), [200, 30, 30], dtype=np.uint8),
        "figures": {
            "ipd_mm": Measurement(63.21, 1.5),
            "face_width_mm": Measurement(140.0, 3.0, (135.5, 146.5)),
            "distance_m": Measurement(0.8123, 0.05),
        },
        "licences": make_tiny_assets().licences,
    }
    return ReportContent(**{**fields, **changes})


def parse(text: str) -> _Page:
    page = _Page()
    page.feed(text)
    return page


def test_page_is_self_contained():
    text = report_html(content(video_mp4=b"\0\0\0 ftypisom", files={"head.glb": "rigged head"}))
    page = parse(text)
    for tag, attrs in page.tags:
        assert tag not in ("script", "link", "iframe", "object"), tag
        for name in ("src", "href", "srcset", "data"):
            assert (attrs.get(name) or "data:").startswith("data:"), (tag, attrs)
    assert "url(" not in text
    assert "@import" not in text
    policies = [a["content"] for t, a in page.tags if t == "meta" and "http-equiv" in a]
    assert policies
    assert policies[0].startswith("default-src 'none'")


def test_pictures_are_inside():
    text = report_html(content(video_mp4=b"\0\0\0 ftypisom"))
    image = re.search(r'src="data:image/jpeg;base64,([^"]+)"', text)
    assert Image.open(io.BytesIO(base64.b64decode(image[1]))).size == (60, 40)
    video = re.search(r'src="data:video/mp4;base64,([^"]+)"', text)
    assert base64.b64decode(video[1]) == b"\0\0\0 ftypisom"


def test_another_light_is_shown_where_there_is_one():
    assert "In another light" not in report_html(content())
    text = report_html(content(relit=np.full((20, 90, 3), 128, np.uint8)))
    assert "In another light" in text
    sizes = [Image.open(io.BytesIO(base64.b64decode(x))).size for x in re.findall(r'jpeg;base64,([^"]+)"', text)]
    assert (90, 20) in sizes


def test_regions_are_listed_surest_first():
    regions = {"ears": {"sigma_mm": 2.94, "prior_mm": 3.1}, "nose": {"sigma_mm": 0.81, "prior_mm": 2.5}}
    text = parse(report_html(content(regions=regions))).text
    assert text.index("nose") < text.index("0.8 mm") < text.index("2.5 mm") < text.index("ears") < text.index("2.9 mm")
    assert "How sure" not in report_html(content())
    assert "seen by several" not in text
    regions["nose"]["seen"] = 0.87
    assert "87 %" in parse(report_html(content(regions=regions))).text


def test_figures_carry_their_uncertainty():
    text = parse(report_html(content())).text
    for expected in ("interpupillary distance", "63.2 mm", "1.5", "60.7 – 65.7", "135.5 – 146.5", "0.81 m", "0.05"):
        assert expected in text, expected


EVIL = "<script>alert('x')</script>\"&"


def test_no_text_can_become_markup():
    licence = Licence(EVIL, EVIL, False, EVIL, EVIL)
    text = report_html(
        content(
            title=EVIL,
            warnings=[EVIL],
            licences=[licence],
            figures={EVIL + "_mm": Measurement(1.0, 1.0)},
            timings_s={EVIL: 1.0},
            versions={EVIL: EVIL},
            files={EVIL: EVIL},
        )
    )
    assert "<script" not in text
    page = parse(text)
    assert page.text.count("alert('x')") >= 10
    assert not [t for t, _ in page.tags if t == "script"]


def test_licences_decide_the_verdict():
    assert "Commercial use is allowed" in report_html(content())
    closed = Licence("closed model", "LicenseRef-research", False, "https://example.org")
    text = parse(report_html(content(licences=[*make_tiny_assets().licences, closed]))).text
    assert "Not for commercial use" in text
    assert "closed model" in text
    assert "allowed" not in text
    assert "No licences were recorded" in report_html(content(licences=[]))
