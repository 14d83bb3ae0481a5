"""The draft's texture: what the photo shows comes back from the texture, what it hides is plain."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from headrecon.appearance.sketch import sketch_texture
from headrecon.errors import ShapeError
from headrecon.ops.arrays import interpolate, rasterize
from headrecon.rendering.cameras_orbit import orbit_views
from headrecon.rendering.look import Appearance, RenderOptions
from headrecon.rendering.pictures import draw
from headrecon.structures import Cameras, Mesh, triangulate
from tests.synthetic_assets import make_tiny_assets

ASSETS = replace(make_tiny_assets(), regions={})  # no ears or neck to be left out
POINTS = ASSETS.v_template
SIZE = 256


def camera_at(yaw: float) -> Cameras:
    one = orbit_views(POINTS, [yaw], 300)
    return Cameras(one.viewmats[0], one.Ks[0], 300, 300)


def photo_of(colours: np.ndarray, yaw: float) -> np.ndarray:
    look = Appearance(vertex_srgb=colours.astype(np.float32))
    options = RenderOptions(lighting=None, background_srgb=(0.0, 0.0, 1.0))
    picture = next(draw(Mesh(POINTS, ASSETS.faces), camera_at(yaw), look, options))
    return (picture.image_srgb * 255).round().astype(np.uint8)


def texels() -> tuple[np.ndarray, np.ndarray]:
    """Positions of the outer skin's texels on the head, and which texels those are."""
    uv = np.stack([ASSETS.uvs[:, 0] * SIZE, (1 - ASSETS.uvs[:, 1]) * SIZE, np.ones(len(ASSETS.uvs))], 1)
    triangles, owner = triangulate(ASSETS.faces)
    layout = rasterize(uv[None].astype(np.float32), triangulate(ASSETS.uv_faces)[0], SIZE, SIZE)
    face = layout.face_index[0]
    inside = (face >= 0) & np.isin(ASSETS.face_part[owner][face], [ASSETS.part_names.index("skin")])
    return interpolate(POINTS, triangles, face[inside], layout.barycentrics[0][inside]), inside


def test_seen_colours_come_back_and_the_back_is_plain() -> None:
    height = (POINTS[:, 1] - POINTS[:, 1].min()) / np.ptp(POINTS[:, 1])
    colours = np.stack([0.3 + 0.5 * height, np.full(len(height), 0.5), 0.3 + 0 * height], 1)
    found = sketch_texture(ASSETS, POINTS, photo_of(colours, 0.0), camera_at(0.0), SIZE)
    where, inside = texels()
    own = found[inside].astype(float) / 255
    wanted = 0.3 + 0.5 * (where[:, 1] - POINTS[:, 1].min()) / np.ptp(POINTS[:, 1])
    centre = POINTS.mean(0)
    offset = where - centre
    front = offset[:, 2] > 0.85 * np.linalg.norm(offset, axis=1)
    assert front.sum() > 200
    assert np.median(np.abs(own[front, 0] - wanted[front])) < 0.02  # a texel and a pixel differ in place
    back = offset[:, 2] < -0.5 * np.linalg.norm(offset, axis=1)
    assert own[back].std(0).max() < 0.02, "what the photo hides must not be striped by what hides it"
    assert own[:, 2].max() < 0.75, "the background came onto the head"


def test_a_head_outside_the_picture_gets_a_plain_skin() -> None:
    camera = camera_at(0.0)
    away = Cameras(camera.viewmats, camera.Ks + np.array([[0, 0, 9e3], [0, 0, 0], [0, 0, 0]], np.float32), 300, 300)
    found = sketch_texture(ASSETS, POINTS, np.zeros((300, 300, 3), np.uint8), away, 64)
    skin = found[texels()[1][::4, ::4]]
    assert skin.min() > 60 and skin.std(0).max() < 40


def test_sizes_that_do_not_agree_are_named() -> None:
    with pytest.raises(ShapeError, match="300"):
        sketch_texture(ASSETS, POINTS, np.zeros((200, 300, 3), np.uint8), camera_at(0.0), 64)
