from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from headrecon.appearance.delight import _eye_white
from headrecon.appearance.openings import face_openings, fill_polygons
from headrecon.appearance.projection import _outline, look
from headrecon.appearance.texels import bake_texels
from headrecon.appearance.texture import make_texture
from headrecon.geometry.cameras import project_points
from headrecon.structures import triangulate
from tests.appearance.test_texture import SIZE, as_float, assets, on_skin, take_photo, truth

__all__ = ["assets", "truth"]  # fixtures


def test_outlines_are_closed_rings_of_the_right_points():
    landmarks = np.random.default_rng(0).normal(size=(478, 3))
    right, left, mouth = face_openings(landmarks)
    assert (len(right), len(left), len(mouth)) == (16, 16, 20)
    # MediaPipe's corners: 33 and 133 of the right eye, 263 and 362 of the left, 78 and 308 of the mouth.
    for ring, corners in ((right, (33, 133)), (left, (263, 362)), (mouth, (78, 308))):
        for corner in corners:
            assert (ring == landmarks[corner, :2]).all(1).any()


def test_polygons_cover_their_pixels():
    square = np.array([[2.0, 3.0], [7.0, 3.0], [7.0, 6.0], [2.0, 6.0]])
    filled = fill_polygons((square, square[:2], np.full((4, 2), np.nan)), 10, 8)
    assert filled.shape == (8, 10)
    assert filled[4, 3] == 1
    assert filled[:2].sum() == filled[7:].sum() == filled[:, 8:].sum() == 0


def test_what_shows_in_an_opening_is_not_painted_on_the_skin(assets, truth):
    """Teeth-white over the lips of the model stays out of its texture when the outline of the mouth is known."""
    photo = take_photo(assets, truth)
    texels = bake_texels(assets, SIZE)
    points = texels.interpolate(torch.from_numpy(assets.v_template))
    lips = (
        (texels.part == 0) & (points[:, 0].abs() < 0.015) & ((points[:, 1] + 0.05).abs() < 0.006) & (points[:, 2] > 0)
    )
    assert lips.sum() > 20
    pixels, _ = project_points(points[lips], photo.cameras)
    (x0, y0), (x1, y1) = pixels.amin(0).floor().int().tolist(), pixels.amax(0).ceil().int().tolist()
    image = photo.image_srgb.clone()
    image[y0:y1, x0:x1] = torch.tensor([0.1, 0.2, 1.0])
    ring = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], dtype=np.float64)
    painted = dataclasses.replace(photo, image_srgb=image)
    flat = [
        on_skin(assets, as_float(make_texture(assets, assets.v_template, p, SIZE).image))
        for p in (painted, dataclasses.replace(painted, openings_px=(ring,)))
    ]
    assert (flat[0][:, 2] > flat[0][:, 0]).sum() > 20
    assert (flat[1][:, 2] < flat[1][:, 0]).all()


def test_collars_stay_off_the_neck(assets):
    """A white band around the neck in the photo is replaced by skin."""
    texels = bake_texels(assets, SIZE)
    neck = texels.interpolate(torch.from_numpy(assets.regions["neck"])[:, None])
    colors = torch.tensor([0.7, 0.5, 0.42]) * (1 - neck) + torch.tensor([0.95, 0.97, 1.0]) * neck
    texture = texels.picture(colors)
    made = as_float(make_texture(assets, assets.v_template, take_photo(assets, texture), SIZE).image)
    flat = made.reshape(-1, 3)[texels.index]
    on_neck = (texels.part == 0) & (neck[:, 0] > 0.95)
    assert on_neck.sum() > 100
    assert flat[on_neck][:, 2].max() < 0.7


def test_teeth_take_their_colour_from_between_open_lips(assets, truth):
    """Yellowish teeth with dark gaps in an open mouth colour the model's; a shut mouth leaves them plain."""
    photo = take_photo(assets, truth, size=500)
    texels = bake_texels(assets, SIZE)
    teeth = texels.of_part(assets, "upper_teeth")
    image = photo.image_srgb.clone()
    x0, y0, x1, y1 = 225, 350, 275, 372
    image[y0:y1, x0:x1] = torch.tensor([0.72, 0.66, 0.54])
    image[y0:y1, x0:x1:6] = 0.1
    ring = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], dtype=np.float64)
    eye = np.array([[200.0, 200.0], [210.0, 200.0], [210.0, 205.0]])
    shown = dataclasses.replace(photo, image_srgb=image, openings_px=(eye, eye, ring))
    shut = dataclasses.replace(photo, openings_px=(eye, eye, ring * (1, 0) + (0, y0)))
    front = []
    for one in (shown, shut):
        made = as_float(make_texture(assets, assets.v_template, one, SIZE).image).reshape(-1, 3)[texels.index[teeth]]
        front.append(made[made.mean(1) >= made.mean(1).quantile(0.9)].mean(0))
    yellow, plain = (float(c[2] / c[0]) for c in front)
    assert yellow < plain - 0.04
    assert float(front[1].max()) < 0.85


def test_lips_before_teeth_are_no_outline() -> None:
    """A step of 2 cm down to the background is one; the same step from a lip to the teeth behind it is not."""
    depth = torch.full((12, 12), 0.50)
    depth[4:, 4:8] = 0.52
    inner = torch.zeros(12, 12, dtype=torch.bool)
    assert _outline(depth, inner)[4, 4:8].all()
    inner[4:, 4:8] = True
    assert not _outline(depth, inner).any()
    inner[4:, 6:8] = False  # half of the hole is skin farther back
    assert _outline(depth, inner)[4, 6:8].all()


def test_eyes_of_few_pixels_do_not_tell_the_colour_of_the_light(assets, truth) -> None:
    photo = take_photo(assets, truth)
    triangles, owner = triangulate(assets.faces)
    part = torch.from_numpy(assets.face_part[owner].astype(np.int64))
    points = torch.from_numpy(assets.v_template)
    view = look(photo, points, torch.from_numpy(triangles.astype(np.int32)), part, 400)
    assert view is not None
    eyes = torch.isin(view.part, torch.tensor([assets.part_names.index(n) for n in ("leye", "reye")]))
    shaded = torch.linspace(0.5, 0.9, int(eyes.sum()))[:, None] * torch.tensor([1.0, 0.9, 0.85])
    image = view.image_srgb.clone()
    image[eyes] = shaded
    view = dataclasses.replace(view, image_srgb=image, metres_per_px=0.5e-3)
    white = _eye_white(assets, view)
    assert white is not None
    assert float(white[0] / white[2]) == pytest.approx((1 / 0.85) ** 2.2, rel=0.08)
    assert _eye_white(assets, dataclasses.replace(view, metres_per_px=1.2e-3)) is None
