from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from headrecon.appearance.projection import Photo
from headrecon.appearance.pull_push import pull_push
from headrecon.appearance.texels import bake_texels
from headrecon.appearance.texture import make_texture
from headrecon.errors import ShapeError
from headrecon.ops.texture import sample_texture
from headrecon.rendering.cameras_orbit import orbit_cameras
from headrecon.rendering.mesh import Appearance, RenderOptions, render_mesh
from headrecon.structures import Cameras, Mesh
from tests.synthetic_assets import make_tiny_assets

GREEN = (0.0, 1.0, 0.0)
SIZE = 256


@pytest.fixture(scope="module")
def assets():
    return make_tiny_assets()


@pytest.fixture(scope="module")
def truth(assets) -> torch.Tensor:
    """A mirror-symmetric reddish skin with stripes, never green."""
    texels = bake_texels(assets, SIZE)
    points = texels.interpolate(torch.from_numpy(assets.v_template))
    red = 0.7 + 0.1 * torch.sin(300 * points[:, 1]) + 0.05 * torch.cos(150 * points[:, 0])
    colors = torch.stack([red, 0.6 * red, 0.55 * red], dim=1)
    return pull_push(texels.picture(colors), texels.picture(torch.ones(len(texels), 1))[..., 0])


def take_photo(assets, texture, yaw: float = 0.0, size: int = 400, **changes) -> Photo:
    mesh = Mesh(assets.v_template, assets.faces, assets.uvs, assets.uv_faces)
    cameras = orbit_cameras(assets.v_template, [yaw], size)
    options = RenderOptions(lighting=None, background_srgb=GREEN)
    got = render_mesh(mesh, cameras, Appearance(texture_srgb=texture), options)
    one = Cameras(cameras.viewmats[0], cameras.Ks[0], size, size)
    return Photo(**{"image_srgb": got.image_srgb[0], "cameras": one, "mask": got.alpha[0], **changes})


def on_skin(assets, picture: torch.Tensor, size: int = SIZE) -> torch.Tensor:
    texels = bake_texels(assets, size)
    return picture.reshape(size * size, -1)[texels.index[texels.part == 0]]


def as_float(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image).float() / 255


def scaled(made: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """`made` times one factor per colour: how bright and how warm the light was is only known from a prior on skin."""
    return made * (expected.median(0).values / made.median(0).values)


def test_texels_know_where_they_are(assets):
    """Interpolating UVs at the texels gives the texels' own centres."""
    texels = bake_texels(assets, 64)
    uv_of_corner = torch.from_numpy(assets.uvs)
    from headrecon.structures import triangulate

    corners = torch.from_numpy(triangulate(assets.uv_faces)[0].astype(np.int64))[texels.face.long()]
    uv = (uv_of_corner[corners] * texels.barycentrics[..., None]).sum(1)
    row, column = texels.index // 64, texels.index % 64
    torch.testing.assert_close(uv[:, 0], (column + 0.5) / 64, atol=1e-4, rtol=0)
    torch.testing.assert_close(uv[:, 1], 1 - (row + 0.5) / 64, atol=1e-4, rtol=0)
    assert set(texels.part.tolist()) == set(range(len(assets.part_names)))


def test_seen_texels_are_the_photos(assets, truth):
    texture = make_texture(assets, assets.v_template, take_photo(assets, truth), SIZE)
    seen = on_skin(assets, torch.from_numpy(texture.observed))[:, 0] > 0.95
    assert 0.15 < seen.float().mean() < 0.6
    expected = on_skin(assets, truth)[seen]
    error = (scaled(on_skin(assets, as_float(texture.image))[seen], expected) - expected).abs().amax(-1)
    # Twice resampled stripes: a photo of 400 pixels holds 1.5 pixels per texel; and some of the stripes' brighter
    # parts is taken for shine, which nobody has in bands of 2 cm.
    assert error.quantile(0.99) < 0.14
    assert error.mean() < 0.04


@pytest.mark.parametrize("yaw", [0.0, 40.0])
@pytest.mark.parametrize("with_mask", [True, False])
def test_background_never_bleeds_in(assets, truth, yaw, with_mask):
    photo = take_photo(assets, truth, yaw)
    photo = photo if with_mask else dataclasses.replace(photo, mask=None)
    skin = on_skin(assets, as_float(make_texture(assets, assets.v_template, photo, SIZE).image))
    assert (skin[:, 1] < skin[:, 0]).all()


def test_a_head_slightly_off_still_takes_no_background(assets, truth):
    """The fit is never perfect: 2 mm sideways must not paint background on the cheek, given the person's mask."""
    shifted = assets.v_template + np.array([0.002, 0, 0], dtype=np.float32)
    skin = on_skin(assets, as_float(make_texture(assets, shifted, take_photo(assets, truth), SIZE).image))
    assert (skin[:, 1] < skin[:, 0]).all()


def test_unseen_half_takes_over_the_detail_of_the_other(assets, truth):
    """From 60 degrees most of the right half is hidden; its stripes come from the left."""
    texture = make_texture(assets, assets.v_template, take_photo(assets, truth, yaw=60.0), SIZE)
    texels = bake_texels(assets, SIZE)
    points = texels.interpolate(torch.from_numpy(assets.v_template))
    flat = as_float(texture.image).reshape(-1, 3)[texels.index]
    expected = truth.reshape(-1, 3)[texels.index]
    hidden = torch.from_numpy(texture.observed).reshape(-1)[texels.index] == 0
    cheek = hidden & (texels.part == 0) & (points[:, 0] < -0.045) & (points[:, 2] > 0.02) & (points[:, 1].abs() < 0.04)
    assert cheek.sum() > 200
    found = scaled(flat[cheek], expected[cheek])
    error = (found - expected[cheek]).abs().mean()
    without = (found.mean(0) - expected[cheek]).abs().mean()
    assert error < 0.6 * without


def test_no_seam_where_the_uv_layout_is_cut(assets, truth):
    """Both UV corners of a vertex on the cut (at the back of the head) show the same colour."""
    texture = as_float(make_texture(assets, assets.v_template, take_photo(assets, truth), SIZE).image)
    corners = np.stack([assets.faces[assets.faces >= 0], assets.uv_faces[assets.faces >= 0]], axis=1)
    skin_vertices = np.unique(assets.faces[assets.face_part == 0].clip(0))
    pairs = np.unique(corners[np.isin(corners[:, 0], skin_vertices)], axis=0)
    cut = [pairs[pairs[:, 0] == v, 1] for v in np.unique(pairs[:, 0])]
    cut = [uv for uv in cut if len(uv) == 2]
    assert len(cut) > 10
    uv = torch.from_numpy(assets.uvs)
    left, right = (sample_texture(texture, uv[[c[i] for c in cut]]) for i in (0, 1))
    assert (left - right).abs().max() < 0.03  # grain of the skin, and 8 bits; a seam of the light would be 0.1


def test_nothing_is_left_black_between_the_islands(assets, truth):
    texture = as_float(make_texture(assets, assets.v_template, take_photo(assets, truth), SIZE).image)
    assert texture.amax(-1).min() > 0.01  # a pupil is about 0.02


def test_hair_colour_reaches_the_back_of_the_head(assets):
    texels = bake_texels(assets, SIZE)
    scalp = texels.interpolate(torch.from_numpy(assets.regions["scalp"])[:, None])
    colors = torch.tensor([0.8, 0.6, 0.5]) * (1 - scalp) + torch.tensor([0.15, 0.1, 0.3]) * scalp
    texture = pull_push(texels.picture(colors), texels.picture(torch.ones(len(texels), 1))[..., 0])
    made = as_float(make_texture(assets, assets.v_template, take_photo(assets, texture, 45.0), SIZE).image)
    points = texels.interpolate(torch.from_numpy(assets.v_template))
    back = (texels.part == 0) & (points[:, 2] < -0.05)
    flat = made.reshape(-1, 3)[texels.index]
    top, nape = flat[back & (points[:, 1] > 0.03)].mean(0), flat[back & (points[:, 1] < -0.09)].mean(0)
    torch.testing.assert_close(top, torch.tensor([0.15, 0.1, 0.3]), atol=0.08, rtol=0)
    # The nape lies a centimetre from the hairline: some of the hair's colour reaches it.
    torch.testing.assert_close(nape, torch.tensor([0.8, 0.6, 0.5]), atol=0.25, rtol=0)


@pytest.mark.parametrize("colour", [(0.2, 0.4, 0.7), (0.25, 0.15, 0.1)])
def test_iris_takes_the_photos_colour(assets, truth, colour):
    photo = take_photo(assets, truth)
    image = photo.image_srgb.clone()
    rows, columns = torch.meshgrid(torch.arange(400) + 0.5, torch.arange(400) + 0.5, indexing="ij")
    iris_px = []
    for x in (170.0, 230.0):
        image[(rows - 180).square() + (columns - x).square() < 8.5**2] = torch.tensor(colour)
        iris_px.append([[x, 180.0], [x + 8, 180], [x, 188], [x - 8, 180], [x, 172]])
    photo = dataclasses.replace(photo, image_srgb=image, iris_px=np.array(iris_px))
    made = as_float(make_texture(assets, assets.v_template, photo, 512).image)
    texels = bake_texels(assets, 512)
    points = texels.interpolate(torch.from_numpy(assets.v_template))
    centre = torch.from_numpy(assets.J_regressor[3] @ assets.v_template)
    offset = points - centre
    # The ring between pupil and rim: 0.45 to 0.75 of the iris, whose radius is 29 degrees on a ball of 12 mm.
    angle = torch.rad2deg(torch.atan2(offset[:, :2].norm(dim=1), offset[:, 2]))
    ring = (texels.part == 1) & (angle > 13) & (angle < 22)
    pupil, white = (texels.part == 1) & (angle < 6), (texels.part == 1) & (angle > 35) & (angle < 50)
    flat = made.reshape(-1, 3)[texels.index]
    got, wanted = flat[ring].median(0).values, torch.tensor(colour)
    # The colour of the light is known from the skin's to some per cent.
    torch.testing.assert_close(got / got.sum(), wanted / wanted.sum(), atol=0.06, rtol=0)
    # The tiny head's eyes lie so deep that its skin, standing for lids, shades them.
    assert 0.5 < got.sum() / wanted.sum() < 1.15
    assert flat[pupil].max() < 0.15
    assert flat[white].amax(1).quantile(0.9) > 0.5  # where no lid shades it


def test_lids_shade_the_eye(assets, truth):
    """Eyeball next to the skin is darker than eyeball that is free of it, at the same angle from its axis."""
    made = as_float(make_texture(assets, assets.v_template, take_photo(assets, truth), 512).image)
    texels = bake_texels(assets, 512)
    points = texels.interpolate(torch.from_numpy(assets.v_template))
    centre = torch.from_numpy(assets.J_regressor[3] @ assets.v_template)
    offset = points - centre
    angle = torch.rad2deg(torch.atan2(offset[:, :2].norm(dim=1), offset[:, 2]))
    skin = points[texels.part == 0]
    white = (texels.part == 1) & (angle > 31) & (angle < 60)
    distance = torch.cdist(points[white], skin).amin(1)
    light = made.reshape(-1, 3)[texels.index][white].mean(1)
    assert (distance < 0.0008).sum() > 10
    assert (distance > 0.003).sum() > 10
    assert light[distance < 0.0008].mean() < 0.75 * light[distance > 0.003].mean()


def test_head_outside_the_picture_gets_a_neutral_skin(assets, truth):
    photo = take_photo(assets, truth)
    for offset in ([5.0, 0, 0], [0, 0, 50.0]):
        texture = make_texture(assets, assets.v_template + np.array(offset, dtype=np.float32), photo, 64)
        assert texture.observed.max() == 0
        assert np.ptp(on_skin(assets, torch.from_numpy(texture.image), 64)[:, 0].numpy().astype(int)) < 12


def test_bytes_and_floats_give_the_same_texture(assets, truth):
    photo = take_photo(
        assets, truth, iris_px=np.tile([[[170.0, 180], [178, 180], [170, 188], [162, 180], [170, 172]]], (2, 1, 1))
    )
    rounded = (photo.image_srgb * 255).round()
    floats = dataclasses.replace(photo, image_srgb=rounded / 255)
    same = dataclasses.replace(photo, image_srgb=rounded.to(torch.uint8))
    one, two = (make_texture(assets, assets.v_template, p, 64).image.astype(int) for p in (floats, same))
    assert np.abs(one - two).max() <= 1


def test_iris_outside_the_picture_is_no_problem(assets, truth):
    photo = take_photo(assets, truth, iris_px=np.full((2, 5, 2), -50.0) + np.arange(10).reshape(1, 5, 2))
    assert make_texture(assets, assets.v_template, photo, 64).observed.max() > 0


def test_small_or_cut_photos(assets, truth):
    tiny = take_photo(assets, truth, size=12)
    assert np.isfinite(make_texture(assets, assets.v_template, tiny, 64).observed).all()
    photo = take_photo(assets, truth)
    half = Cameras(photo.cameras.viewmats, photo.cameras.Ks, 200, 400)
    cut = Photo(photo.image_srgb[:, :200], half, photo.mask[:, :200])
    skin = on_skin(assets, as_float(make_texture(assets, assets.v_template, cut, SIZE).image))
    assert (skin[:, 1] < skin[:, 0]).all()


def test_what_does_not_fit_is_refused(assets, truth):
    photo = take_photo(assets, truth)
    with pytest.raises(ShapeError, match="vertices must have shape"):
        make_texture(assets, assets.v_template[:9], photo)
    with pytest.raises(ShapeError, match="size must lie"):
        make_texture(assets, assets.v_template, photo, 4)
    # Past the run-time shape check of the test suite, which users do not run.
    for name, message in (("image_srgb", "camera's shape"), ("mask", "person mask")):
        wrong = take_photo(assets, truth)
        object.__setattr__(wrong, name, getattr(wrong, name)[:9])
        with pytest.raises(ShapeError, match=message):
            make_texture(assets, assets.v_template, wrong)


def test_input_is_left_alone(assets, truth):
    photo = take_photo(assets, truth)
    before = photo.image_srgb.clone(), photo.mask.clone(), assets.v_template.copy()
    make_texture(assets, assets.v_template, photo, 64)
    assert torch.equal(photo.image_srgb, before[0])
    assert torch.equal(photo.mask, before[1])
    assert (assets.v_template == before[2]).all()
