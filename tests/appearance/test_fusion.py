"""Several photos in one texture: one level of colour, no border between them, more seen than by any alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from headrecon.appearance.diffusion import SeenColors
from headrecon.appearance.fusion import _gains
from headrecon.appearance.projection import Photo
from headrecon.appearance.texels import bake_texels
from headrecon.appearance.texture import HeadTexture, make_texture
from tests.appearance.test_texture import SIZE, as_float, on_skin, scaled, take_photo, truth  # noqa: F401 - a fixture
from tests.synthetic_assets import make_tiny_assets

YAWS = (0.0, 55.0, -55.0)
#: Exposures and white balances of the photos, as factors of display values.
EXPOSURES = ((1.0, 1.0, 1.0), (0.8, 0.75, 0.7), (1.15, 1.15, 1.2))


@pytest.fixture(scope="module")
def assets():
    return make_tiny_assets()


def exposed(photo: Photo, factors: tuple[float, float, float]) -> Photo:
    image = torch.as_tensor(photo.image_srgb) * torch.tensor(factors)
    return Photo(image.clamp(0, 1), photo.cameras, photo.mask)


@pytest.fixture(scope="module")
def photos(assets, truth) -> list[Photo]:  # noqa: F811
    return [exposed(take_photo(assets, truth, yaw), e) for yaw, e in zip(YAWS, EXPOSURES, strict=True)]


@pytest.fixture(scope="module")
def fused(assets, photos) -> HeadTexture:
    further = [(assets.v_template, photo) for photo in photos[1:]]
    return make_texture(assets, assets.v_template, photos[0], SIZE, further=further)


def test_gains_are_found_from_overlaps_and_outliers_do_not_matter() -> None:
    rng = np.random.default_rng(0)
    skin = rng.uniform(0.4, 0.8, (3000, 3))
    seen = []
    for index, gain in enumerate(np.log(EXPOSURES)):
        colours = skin * np.exp(gain) * np.exp(rng.normal(0, 0.02, skin.shape))
        colours[rng.random(len(skin)) < 0.2] = 0.95  # highlights
        weight = np.zeros(len(skin))
        weight[index * 700 : index * 700 + 1600] = 0.9  # the first and the last share 200 vertices
        seen.append(SeenColors(colours, weight))
    found = _gains(seen, torch.ones(len(skin))).numpy()
    wanted = -np.log(EXPOSURES)
    np.testing.assert_allclose(found - found.mean(0), wanted - wanted.mean(0), atol=0.02)


def test_photos_without_overlap_keep_their_colours() -> None:
    colours = np.full((400, 3), 0.5)
    left, right = np.zeros(400), np.zeros(400)
    left[:200], right[200:] = 1.0, 1.0
    found = _gains([SeenColors(colours, left), SeenColors(0.7 * colours, right)], torch.ones(400))
    assert float(found.abs().max()) == 0.0


def test_more_is_seen_than_by_any_photo_alone(assets, photos, fused: HeadTexture) -> None:
    alone = make_texture(assets, assets.v_template, photos[0], SIZE)
    shares = [float((on_skin(assets, torch.from_numpy(t.observed)) > 0.5).float().mean()) for t in (alone, fused)]
    assert shares[1] > 1.4 * shares[0]
    assert len(fused.lights) == 3


def test_the_skin_is_right_from_all_sides_whatever_the_exposures(assets, truth, fused: HeadTexture) -> None:  # noqa: F811
    seen = on_skin(assets, torch.from_numpy(fused.observed))[:, 0] > 0.6
    expected = on_skin(assets, truth)[seen]
    error = (scaled(on_skin(assets, as_float(fused.image))[seen], expected) - expected).abs().amax(-1)
    assert error.mean() < 0.05
    assert error.quantile(0.95) < 0.14


def test_no_side_is_lighter_than_the_other(assets, truth, fused: HeadTexture) -> None:  # noqa: F811
    """Exposures differ by 1.6 in blue; what is left of that between the left and the right side is invisible."""
    texels = bake_texels(assets, SIZE)
    points = texels.interpolate(torch.from_numpy(assets.v_template))
    flat = as_float(fused.image).reshape(-1, 3)[texels.index] / truth.reshape(-1, 3)[texels.index]
    observed = torch.from_numpy(fused.observed).reshape(-1)[texels.index] > 0.5
    skin = (texels.part == 0) & observed & (points[:, 1].abs() < 0.06)
    sides = [flat[skin & (sign * points[:, 0] > 0.045)].median(0).values for sign in (1, -1)]
    middle = flat[skin & (points[:, 0].abs() < 0.02)].median(0).values
    for side in sides:
        torch.testing.assert_close(side, middle, rtol=0.06, atol=0.0)


def test_lights_explain_their_own_photo(fused: HeadTexture) -> None:
    """The brighter exposure has the brighter light."""
    first, dark, bright = (float(torch.as_tensor(x.ambient_sh)[0].sum()) for x in fused.lights if x is not None)
    assert dark < first < bright
