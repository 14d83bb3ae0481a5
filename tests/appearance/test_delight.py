from __future__ import annotations

import numpy as np
import pytest
import torch

from headrecon.appearance.delight import unlike_skin
from headrecon.appearance.grain import noise_tile
from headrecon.appearance.mirroring import mirror_map
from headrecon.appearance.projection import Photo
from headrecon.appearance.pull_push import pull_push
from headrecon.appearance.texels import bake_texels
from headrecon.appearance.texture import make_texture
from headrecon.geometry.cameras import project_points
from headrecon.ops.texture import sample_texture
from headrecon.rendering.cameras_orbit import orbit_cameras
from headrecon.rendering.lighting import Lighting, ambient
from headrecon.rendering.mesh import Appearance, RenderOptions, render_mesh
from headrecon.structures import Cameras, Mesh
from tests.synthetic_assets import make_tiny_assets

SIZE = 256
SKIN = (0.72, 0.54, 0.46)


@pytest.fixture(scope="module")
def assets():
    return make_tiny_assets()


@pytest.fixture(scope="module")
def albedo(assets) -> torch.Tensor:
    """Speckled skin, the same on both sides in the large and different in the small."""
    texels = bake_texels(assets, SIZE)
    points = texels.interpolate(torch.from_numpy(assets.v_template))
    speckle = 0.02 * torch.sin(900 * points[:, 0]) * torch.sin(800 * points[:, 1])
    colors = torch.tensor(SKIN) * (1 + speckle[:, None])
    return pull_push(texels.picture(colors), texels.picture(torch.ones(len(texels), 1))[..., 0])


def side_light(x: float = -0.9) -> Lighting:
    lamp = torch.nn.functional.normalize(torch.tensor([[x, 0.35, 0.7]]), dim=1)
    return Lighting(
        torch.as_tensor(ambient((0.35, 0.35, 0.36), (0.25, 0.25, 0.25))),
        lamp,
        torch.tensor([[0.75, 0.72, 0.68]]),
        "view",
    )


def lit_photo(assets, texture: torch.Tensor, lighting: Lighting, yaw: float = 0.0, size: int = 400) -> Photo:
    mesh = Mesh(assets.v_template, assets.faces, assets.uvs, assets.uv_faces)
    cameras = orbit_cameras(assets.v_template, [yaw], size)
    options = RenderOptions(lighting=lighting, background_srgb=(0.0, 1.0, 0.0))
    got = render_mesh(mesh, cameras, Appearance(texture_srgb=texture), options)
    viewmat, k = torch.as_tensor(cameras.viewmats)[0].float(), torch.as_tensor(cameras.Ks)[0].float()
    image, alpha = torch.as_tensor(got.image_srgb)[0], torch.as_tensor(got.alpha)[0]
    return Photo(image, Cameras(viewmat, k, size, size), alpha)


@pytest.fixture(scope="module")
def made(assets, albedo):
    photo = lit_photo(assets, albedo, side_light())
    return photo, make_texture(assets, assets.v_template, photo, SIZE)


def on_texels(assets, picture: torch.Tensor) -> torch.Tensor:
    texels = bake_texels(assets, SIZE)
    return picture.reshape(SIZE * SIZE, -1)[texels.index]


def seen_skin(assets, texture) -> torch.Tensor:
    """bool per texel: skin, well seen, and neither scalp nor neck, whose colours are guarded."""
    texels = bake_texels(assets, SIZE)
    regions = np.stack([assets.regions["scalp"], assets.regions["neck"]], 1)
    guarded = texels.interpolate(torch.from_numpy(regions)).amax(1)
    return (texels.part == 0) & (on_texels(assets, torch.from_numpy(texture.observed))[:, 0] > 0.9) & (guarded < 0.01)


def baked_shade(colours: torch.Tensor, truth: torch.Tensor) -> float:
    """Spread of the ratio to the truth: what is left after one factor per colour, in the mean."""
    ratio = colours / truth
    return float((ratio / ratio.median(0).values - 1).abs().mean())


def test_light_is_divided_out(assets, albedo, made):
    """A quarter of the shade that plain projection bakes in is left at most; the sides differ by under 5 %."""
    photo, texture = made
    texels = bake_texels(assets, SIZE)
    where = seen_skin(assets, texture)
    assert where.sum() > 2000
    points = texels.interpolate(torch.from_numpy(assets.v_template))[where]
    pixels, _ = project_points(points, photo.cameras)
    flipped = torch.stack([pixels[:, 0] / 400, 1 - pixels[:, 1] / 400], 1)
    plain, truth = sample_texture(photo.image_srgb, flipped), on_texels(assets, albedo)[where]
    colours = on_texels(assets, torch.from_numpy(texture.image).float() / 255)[where]
    assert baked_shade(plain, truth) > 0.10
    assert baked_shade(colours, truth) < 0.25 * baked_shade(plain, truth)
    right, left = points[:, 0] < -0.02, points[:, 0] > 0.02
    sides = [float(c[left].mean() / c[right].mean()) for c in (plain, colours)]
    assert abs(sides[0] - 1) > 0.2
    assert abs(sides[1] - 1) < 0.05


def test_the_light_is_reported_in_the_cameras_axes(made):
    light = made[1].light
    assert light is not None
    assert light.space == "view"
    luma = torch.as_tensor(light.ambient_sh).mean(1)
    # The lamp stands at the viewer's left, above and in front.
    assert -luma[3] < -0.1 * luma[0]
    assert -luma[1] > 0
    assert luma[2] > 0


def test_the_other_light_gives_the_same_albedo(assets, albedo, made):
    other = make_texture(assets, assets.v_template, lit_photo(assets, albedo, side_light(0.9)), SIZE)
    where = seen_skin(assets, made[1]) & seen_skin(assets, other)
    one, two = (on_texels(assets, torch.from_numpy(t.image).float() / 255)[where] for t in (made[1], other))
    assert (one - two).abs().mean() < 0.02


def test_rim_light_and_highlights_go(assets, albedo):
    """A bluish white streak on the cheek and a shining forehead do not reach the texture."""
    photo = lit_photo(assets, albedo, side_light(-0.2))
    image = photo.image_srgb.clone()
    image[230:290, 262:270] = torch.tensor([0.85, 0.93, 1.0])
    image[118:140, 185:215] = 0.35 * image[118:140, 185:215] + 0.65
    spoilt = Photo(image, photo.cameras, photo.mask)
    clean, made = (make_texture(assets, assets.v_template, p, SIZE) for p in (photo, spoilt))
    skin = bake_texels(assets, SIZE).part == 0
    one, two = (on_texels(assets, torch.from_numpy(t.image).float() / 255)[skin] for t in (clean, made))
    assert (image - photo.image_srgb).abs().amax() > 0.25
    assert (one - two).abs().mean(1).quantile(0.999) < 0.10
    assert (two[:, 2] < two[:, 0]).all()


def test_unseen_skin_continues_the_seen(assets, albedo, made):
    """No texel of plain skin differs by much from the person's tone, nor from its neighbours on the surface."""
    texture = torch.from_numpy(made[1].image).float() / 255
    texels = bake_texels(assets, SIZE)
    scalp = texels.interpolate(torch.from_numpy(assets.regions["scalp"])[:, None])[:, 0]
    flat = on_texels(assets, texture)[(texels.part == 0) & (scalp < 0.01)]
    assert (flat.mean(1) / flat.mean(1).median() - 1).abs().quantile(0.995) < 0.12
    observed = torch.from_numpy(made[1].observed)
    step = (texture[:, 1:] - texture[:, :-1]).abs().amax(-1)
    edge = (observed[:, 1:] > 0) != (observed[:, :-1] > 0)
    assert step[edge].quantile(0.99) < 0.05


def test_mirror_images_lie_where_the_layout_has_them(assets):
    mirror = mirror_map(assets)
    corners = np.unique(np.stack([assets.faces[assets.faces >= 0], assets.uv_faces[assets.faces >= 0]], 1), axis=0)
    skin = np.unique(assets.faces[assets.face_part == 0].clip(0))
    inner = corners[np.isin(corners[:, 0], skin) & (np.abs(assets.v_template[corners[:, 0], 0]) > 0.01)]
    twice = mirror.uv.numpy()[inner[:, 0]]
    own = assets.uvs[inner[:, 1]]
    # The tiny head's skin is laid out symmetrically about u = own island's middle.
    middle = (own[:, 0].max() + own[:, 0].min()) / 2
    assert np.median(np.abs(twice[:, 0] + own[:, 0] - 2 * middle)) < 1e-3
    assert mirror.valid.float().mean() > 0.9


def test_grain_repeats_and_has_the_strength_of_the_seen():
    generator = torch.Generator().manual_seed(0)
    detail = 0.01 * torch.randn(512 * 512, 3, generator=generator)
    rows = torch.arange(1, 512 * 512 + 1, dtype=torch.int32).reshape(512, 512)
    grain = noise_tile(rows, detail)
    assert grain is not None
    side = grain.tile.shape[0]
    assert 0.006 < float(grain.tile.std()) < 0.014
    assert grain.direction < 0.2
    # Across the border where the tile meets itself it is no rougher than inside.
    inside = (grain.tile[:, 1:] - grain.tile[:, :-1]).abs().mean()
    across = (grain.tile[:, 0] - grain.tile[:, side - 1]).abs().mean()
    assert across < 1.5 * inside
    assert noise_tile(torch.zeros(512, 512, dtype=torch.int32), detail) is None


def test_white_hair_is_told_from_the_skin_that_shines_through() -> None:
    """Half of what the scalp shows is skin, much of it in the shade; the hair is greyer and about as bright."""
    rng = np.random.default_rng(0)
    skin, hair = torch.tensor([0.76, 0.55, 0.48]).log(), torch.tensor([0.74, 0.68, 0.64]).log()
    shade = torch.from_numpy(rng.uniform(-0.4, 0.1, (600, 1))).float()
    mixed = torch.lerp(skin, hair, torch.from_numpy(rng.uniform(0.5, 1.0, (500, 1))).float())
    noise = torch.from_numpy(rng.normal(0, 0.01, (1100, 3))).float()
    pixels = torch.cat([skin + shade, mixed]) + noise
    found = unlike_skin(pixels, skin, (0.15, 0.5), True).median(0).values
    assert float((found - hair).abs().max()) < 0.06
    # Dark hair is what is dark, fair hair what is more golden than skin.
    for tone in ((0.2, 0.15, 0.1), (0.75, 0.58, 0.35)):
        other = torch.tensor(tone).log()
        found = unlike_skin(torch.cat([skin + shade, other + noise[:500]]), skin, (0.15, 0.5), True).median(0).values
        assert float((found - other).abs().max()) < 0.06
    # Nothing but skin: the shaded half of it would not be hair by its brightness alone.
    found = unlike_skin(skin + shade + noise[:600], skin, (0.15, 0.5), False)
    assert len(found) == 600
