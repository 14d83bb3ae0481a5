from __future__ import annotations

import numpy as np
import pytest
import torch

from headrecon.appearance import normal_map
from headrecon.appearance.normal_map import _DEEP, _Field, _raw_slopes, _raw_slopes_back, _relief, _slopes
from headrecon.appearance.projection import Photo
from headrecon.appearance.texels import bake_texels
from headrecon.appearance.texture import make_texture
from headrecon.geometry.cameras import project_points
from headrecon.geometry.tangents import tangent_frames
from tests.appearance.test_delight import SIZE, albedo, assets, lit_photo, side_light

__all__ = ["albedo", "assets"]  # fixtures

_PIXEL_M = 0.0004


def field_of(height: torch.Tensor, bend: tuple[float, float], deep: float) -> _Field:
    """What a photo shows of a relief: slopes by the light's side, hollows by their depth."""
    ones = torch.ones_like(height)
    empty = _Field(ones, ones, bend[0] * ones, bend[1] * ones, ones / _PIXEL_M, ones / _PIXEL_M, 0 * ones)
    slope_u, slope_v = _raw_slopes(height, empty)
    shading = deep * height - bend[0] * slope_u - bend[1] * slope_v
    return _Field(shading, ones, empty.bend_u, empty.bend_v, empty.per_u, empty.per_v, empty.shear)


def bump(sign: float) -> torch.Tensor:
    """0.3 mm high or deep, 2 mm wide, in the middle of 3 x 3 cm."""
    x = (torch.arange(75) - 37) * _PIXEL_M
    return sign * 0.0003 * torch.exp(-(x[:, None].square() + x[None].square()) / (2 * 0.002**2))


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize(
    ("bend", "deep"), [((0.8, 0.0), 0.0), ((-0.5, 0.6), 0.0), ((0.0, 0.0), _DEEP), ((0.5, 0.3), _DEEP)]
)
def test_bumps_and_dents_are_told_apart(sign, bend, deep):
    height = bump(sign)
    field = field_of(height, bend, deep)
    found, truth = _slopes(_relief(field), field), _raw_slopes(height, field)
    for got, wanted, side in zip(found, truth, (bend[0], bend[1]), strict=True):
        if side or deep:
            assert float((got * wanted).sum()) > 0
    joined = [torch.cat([a.reshape(-1), b.reshape(-1)]) for a, b in (found, truth)]
    # With slopes alone to go by, the expectation that dark is deep takes its share.
    assert float(torch.corrcoef(torch.stack(joined))[0, 1]) > 0.5


def test_no_shading_no_relief():
    field = field_of(torch.zeros(20, 30), (0.5, 0.5), _DEEP)
    assert _relief(field).abs().max() == 0


def test_slopes_and_their_transpose_agree():
    generator = torch.Generator().manual_seed(1)
    shape = (7, 9)
    random = [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(6)]
    field = _Field(random[0], random[0], random[0], random[0], random[1], random[2], random[3])
    height, (a, b) = random[4], (random[5], random[0])
    u, v = _raw_slopes(height, field)
    torch.testing.assert_close((u * a + v * b).sum(), (height * _raw_slopes_back(a, b, field)).sum())


def test_frames_of_a_plane_follow_its_texture():
    """A plane of 2 x 1 metres in the unit square, u to the right, v up and sheared."""
    points = torch.tensor([[0.0, 0, 0], [2, 0, 0], [2, 1, 0], [0, 1, 0]])
    uv = torch.tensor([[0.0, 0], [1, 0], [1.2, 1], [0.2, 1]])
    triangles = torch.tensor([[0, 1, 2], [0, 2, 3]])
    normals = torch.tensor([[0.0, 0, 1]]).expand(4, 3)
    got = tangent_frames(points, normals, triangles, uv[triangles])
    torch.testing.assert_close(got.tangent, torch.tensor([[1.0, 0, 0]]).expand(4, 3))
    torch.testing.assert_close(got.bitangent, torch.tensor([[0.0, 1, 0]]).expand(4, 3))
    # The function 3 x + 5 y is 6 (u - 0.2 v) + 5 v: its slopes in texture are 6 and 3.8, in metres 3 and 5.
    torch.testing.assert_close(got.per_u * 6, torch.full((4,), 3.0))
    torch.testing.assert_close(got.per_v * (3.8 - got.shear * 6), torch.full((4,), 5.0))
    mirrored = tangent_frames(points, normals, triangles, (uv * torch.tensor([-1.0, 1]))[triangles])
    assert (mirrored.tangent[:, 0] < 0).all()
    assert (mirrored.bitangent[:, 1] > 0).all()


def test_a_furrow_in_the_photo_becomes_one_in_the_map(assets, albedo):
    """A dark horizontal line in even light: above it the surface turns down, below it up; flat where unseen."""
    photo = lit_photo(assets, albedo, side_light(0.0))
    points = bake_texels(assets, SIZE).interpolate(torch.from_numpy(assets.v_template))
    pixel, _ = project_points(torch.tensor([[0.0, -0.02, 0.09]]), photo.cameras)
    row = int(pixel[0, 1])
    rows = torch.arange(400)[:, None] + 0.5
    dark = 1 - 0.25 * torch.exp(-((rows - row) / 2.0).square())
    image = photo.image_srgb.clone()
    image[:, 150:250] *= dark[..., None]
    made = make_texture(assets, assets.v_template, Photo(image, photo.cameras, photo.mask), 2 * SIZE)
    assert made.normal_map is not None
    assert made.normal_map.shape == (SIZE, SIZE, 3)
    texels = bake_texels(assets, SIZE)
    up = torch.from_numpy(made.normal_map.astype(np.float32) - 128).reshape(-1, 3)[texels.index][:, 1]
    pixels, _ = project_points(points, photo.cameras)
    middle = (texels.part == 0) & (points[:, 2] > 0.05) & (points[:, 0].abs() < 0.02)
    above = middle & (pixels[:, 1] > row - 4) & (pixels[:, 1] < row - 1)
    below = middle & (pixels[:, 1] < row + 4) & (pixels[:, 1] > row + 1)
    assert above.sum() > 10
    assert below.sum() > 10
    assert up[above].mean() < -3 < 3 < up[below].mean()
    back = (texels.part == 0) & (points[:, 2] < -0.05)
    assert up[back].abs().max() <= 1
    assert normal_map.LARGEST == 1024
