from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from headrecon.errors import InputError, ShapeError
from headrecon.geometry.harmonics import evaluate_harmonics
from headrecon.geometry.mesh import vertex_normals
from headrecon.rendering.light_estimation import SkinSamples, estimate_light, even_light, irradiance
from headrecon.rendering.light_rigs import (
    LIGHT_NAMES,
    light_from_document,
    light_from_panorama,
    light_to_document,
    named_light,
)
from headrecon.rendering.self_shadowing import lambert_transfer, openness, sphere_directions, transfer_vectors
from headrecon.rendering.skin_tones import LUMINANCE, skin_albedo, split_tone
from headrecon.structures import triangulate
from tests.synthetic_assets import make_tiny_assets

SKIN = torch.tensor([0.42, 0.25, 0.18])


def known_light(direction=(0.6, 0.5, 0.6), share: float = 0.7) -> torch.Tensor:
    """Harmonics of a lamp and an even sky; white that faces the lamp shows about 1."""
    lamp = torch.nn.functional.normalize(torch.tensor(direction), dim=0)
    sh = math.pi * share * evaluate_harmonics(lamp[None], 2)[0]
    sh[0] += (1 - share) * math.sqrt(4 * math.pi)
    return sh[:, None] * torch.tensor([1.05, 1.0, 0.92])


def front_normals(count: int = 3000) -> torch.Tensor:
    normals = sphere_directions(count)
    return normals[normals[:, 2] > 0.25]


def take_samples(sh: torch.Tensor, spoilt: float = 0.0) -> tuple[SkinSamples, torch.Tensor]:
    """Speckled skin under a light, a share of it spoilt by highlights and hair; and which is spoilt."""
    rng = torch.Generator().manual_seed(3)
    transfer = lambert_transfer(front_normals())
    seen = SKIN * (transfer @ sh).clamp(min=0) * (1 + 0.05 * torch.randn(len(transfer), 1, generator=rng))
    bad = torch.rand(len(transfer), generator=rng) < spoilt
    seen[bad] = torch.where(torch.rand(int(bad.sum()), 1, generator=rng) < 0.5, 1.6 * seen[bad] + 0.2, 0.3 * seen[bad])
    return SkinSamples(seen, transfer, torch.ones(len(transfer))), bad


@pytest.mark.parametrize("direction", [(0.0, 0.3, 1.0), (0.7, 0.4, 0.5), (-0.8, -0.2, 0.6)])
@pytest.mark.parametrize("spoilt", [0.0, 0.25])
def test_light_and_albedo_are_recovered(direction, spoilt):
    """Shading within 4 % (8 % with a quarter of outliers) and the lamp's direction within 20 degrees."""
    sh = known_light(direction)
    samples, bad = take_samples(sh, spoilt)
    got = estimate_light(samples)
    truth, found = (SKIN * (samples.transfer @ sh)), got.albedo * irradiance(samples.transfer, got.lighting)
    ratio = (found / truth).median(0).values
    assert ((found / truth / ratio - 1).abs().mean()) < (0.08 if spoilt else 0.04)
    torch.testing.assert_close(ratio, torch.ones(3), atol=0.06, rtol=0)
    luma = torch.as_tensor(got.lighting.ambient_sh) @ torch.tensor(LUMINANCE)
    towards = torch.nn.functional.normalize(torch.stack([-luma[3], -luma[1], luma[2]]), dim=0)
    wanted = torch.nn.functional.normalize(torch.tensor(direction), dim=0)
    assert math.degrees(math.acos(min(1.0, float(towards @ wanted)))) < 20
    if spoilt:
        assert got.agreement[bad].mean() < 0.4 * got.agreement[~bad].mean()


def test_irradiance_is_nowhere_negative():
    samples, _ = take_samples(known_light((1.0, 0.1, 0.3), 0.95))
    light = estimate_light(samples).lighting
    shown = lambert_transfer(sphere_directions(500)) @ torch.as_tensor(light.ambient_sh)
    assert shown.min() > 0


def test_too_little_skin_gives_even_light():
    none = SkinSamples(torch.zeros(0, 3), torch.zeros(0, 9), torch.zeros(0))
    got = estimate_light(none)
    assert torch.as_tensor(got.lighting.ambient_sh)[1:].abs().max() == 0
    assert (got.albedo > 0).all()
    bad = SkinSamples(torch.zeros(2, 3), torch.zeros(2, 9), torch.zeros(2))
    object.__setattr__(bad, "weight", torch.zeros(3))
    with pytest.raises(ShapeError, match="light: samples"):
        estimate_light(bad)


def test_even_light_shows_its_level():
    shown = irradiance(lambert_transfer(sphere_directions(50)), even_light((0.5, 1.0, 2.0)))
    torch.testing.assert_close(shown, torch.tensor([0.5, 1.0, 2.0]).expand(50, 3), atol=1e-4, rtol=1e-4)


def test_skin_tones_are_split_plausibly():
    """Product exact; lighter where more is seen; neutral light on a typical skin stays near neutral."""
    light, dark = (skin_albedo(torch.tensor([x]))[0] for x in (66.0, 32.0))
    for skin in (light, dark):
        split = split_tone(1.1 * skin)
        torch.testing.assert_close(split.albedo * split.light, 1.1 * skin, atol=1e-5, rtol=1e-4)
        assert (split.light / split.light.mean() - 1).abs().max() < 0.12
    assert (split_tone(light).albedo > 1.5 * split_tone(dark).albedo).all()
    assert (skin_albedo(torch.linspace(26, 72, 40)).diff(dim=0) > 0).all()
    # A bright eye white tells of strong light, so that the skin must be darker.
    seen = torch.tensor([0.25, 0.15, 0.11])
    bright, dim = (split_tone(seen, torch.full((3,), v)).albedo.mean() for v in (0.8, 0.2))
    assert bright < 0.9 * dim


def test_convex_shapes_do_not_shade_themselves_and_hollows_do():
    assets = make_tiny_assets()
    triangles = triangulate(assets.faces)[0]
    skin = torch.from_numpy(triangles[assets.face_part[triangulate(assets.faces)[1]] == 0].astype(np.int32))
    points = torch.from_numpy(assets.v_template.astype(np.float32))
    top = points[:, 1] > 0.05
    transfer = transfer_vectors(points, skin, 48)
    on_skin = torch.zeros(len(points), dtype=torch.bool)
    on_skin[skin.long().reshape(-1)] = True
    assert openness(transfer)[on_skin & top].min() > 0.9
    # A roof 1 cm above the face takes most of the sky from it.
    roof = torch.tensor([[-0.3, 0.13, -0.3], [0.3, 0.13, -0.3], [0.3, 0.13, 0.3], [-0.3, 0.13, 0.3]])
    n = len(points)
    covered = transfer_vectors(
        torch.cat([points, roof]), torch.cat([skin, torch.tensor([[n, n + 2, n + 1], [n, n + 3, n + 2]]).int()]), 48
    )[:n]
    crown = on_skin & (points[:, 1] > 0.105)
    assert openness(covered)[crown].max() < 0.75
    normals = vertex_normals(points, skin.long())
    open_part = on_skin & top & (openness(transfer) > 0.999)
    torch.testing.assert_close(transfer[open_part], lambert_transfer(normals)[open_part], atol=2e-3, rtol=0)


@pytest.mark.parametrize("name", LIGHT_NAMES)
def test_named_lights_survive_a_document(name):
    light = named_light(name)
    back = light_from_document({"light": light_to_document(light)})
    for key in ("ambient_sh", "directions", "intensities"):
        np.testing.assert_allclose(np.asarray(getattr(back, key)), np.asarray(getattr(light, key)), atol=1e-5)
    assert back.space == light.space


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({}, "ambient_sh"),
        ({"ambient_sh": [[1, 2, 3]]}, "9 finite rows"),
        ({"ambient_sh": [["a", 2, 3]] * 9}, "three numbers"),
        ({"ambient_sh": [[1, 1, 1]] * 9, "directions": [[0, 0, 1]]}, "give as many"),
        ({"ambient_sh": [[1, 1, 1]] * 9, "space": "moon"}, "'view' or 'world'"),
        ({"ambient_sh": [[1, 1, 1]] * 9, "directions": [[0, 0, 0]], "intensities": [[1, 1, 1]]}, "zero"),
    ],
)
def test_bad_documents_are_explained(document, message):
    with pytest.raises(InputError, match=message):
        light_from_document(document)
    with pytest.raises(InputError, match="choose one of studio"):
        named_light("moonlight")


def test_a_panoramas_sun_becomes_a_lamp():
    """A sun 90 degrees left of the middle: seen from inside with the face turned to it, on the viewer's right."""
    image = np.full((64, 128, 3), 0.2)
    image[20:23, 31:34] = 300.0
    light = light_from_panorama(image)
    assert np.asarray(light.directions).shape == (1, 3)
    assert light.directions[0][0] > 0.8
    assert light.directions[0][1] > 0.2
    even = light_from_panorama(np.full((16, 32, 3), 7.0), level=0.9)
    assert len(even.directions) == 0
    np.testing.assert_allclose(even.ambient_sh[0], 0.9 * math.sqrt(4 * math.pi), rtol=0.01)
    with pytest.raises(InputError, match="black"):
        light_from_panorama(np.zeros((8, 16, 3)))
