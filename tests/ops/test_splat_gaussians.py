"""Gaussian splatting: cases worked by hand, the rules, and inputs that are out of order."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from headrecon.errors import HeadReconError, ShapeError
from headrecon.ops import splat_gaussians as ops
from headrecon.ops.splat_gaussians import SplatOptions, splat_gaussians
from headrecon.structures import Gaussians
from tests.ops.meshes import as_users_call_it
from tests.ops.splats import ALL_PICTURES, camera, gradients, one_gaussian, random_gaussians, together

CENTRE = (19, 23)  # row and column of the pixel in the middle of the picture of 47 x 39


def test_one_gaussian_on_the_axis() -> None:
    found = splat_gaussians(one_gaussian(), camera(), ALL_PICTURES)
    variance = (60.0 * 0.1 / 2.0) ** 2 + 0.3  # focal x scale / depth, squared, and the blur
    for column in (23, 24, 29, 34):
        alpha = 0.8 * math.exp(-0.5 * (column - 23) ** 2 / variance)
        alpha = alpha if alpha >= 1 / 255 else 0.0
        assert found.alpha[0, 19, column].item() == pytest.approx(alpha, abs=1e-6)
        wanted = torch.tensor([0.2, 0.5, 1.0]) * alpha
        torch.testing.assert_close(found.image[0, 19, column], wanted, atol=1e-6, rtol=0)
    assert found.depth_z is not None and found.median_depth_z is not None and found.normals is not None
    assert found.depth_z[0, 19, 23].item() == pytest.approx(2.0, abs=1e-6)
    assert found.depth_z[0, 0, 0].item() == 0.0  # nothing is seen there
    assert found.median_depth_z[0, 19, 23].item() == 2.0  # alpha 0.8 hides more than half
    assert found.median_depth_z[0, 19, 29].item() == 0.0  # here it does not
    # A ball's axes are equally short: the first one, +x, which lies square to the view and keeps its sign.
    torch.testing.assert_close(found.normals[0, 19, 23].abs(), torch.tensor([0.8, 0.0, 0.0]), atol=1e-6, rtol=0)
    reach = math.sqrt(2 * math.log(0.8 * 255) * variance)
    torch.testing.assert_close(found.info.radii, torch.full((1, 1, 2), reach))
    torch.testing.assert_close(found.info.means2d, torch.tensor([[[23.5, 19.5]]]))
    assert found.info.tiles.tolist() == [[2]]  # 9.9 pixels about (23.5, 19.5): two columns of tiles of 32, one row


def test_normal_of_a_disc_faces_the_camera() -> None:
    turned = torch.tensor([[math.cos(0.3), math.sin(0.3), 0.0, 0.0]])  # 0.6 radians about +x
    disc = one_gaussian(quats_wxyz=turned, scales=torch.tensor([[0.1, 0.1, 0.001]]))
    normals = splat_gaussians(disc, camera(), ALL_PICTURES).normals
    assert normals is not None
    direction = normals[0, 19, 23] / normals[0, 19, 23].norm()
    torch.testing.assert_close(direction, torch.tensor([0.0, math.sin(0.6), -math.cos(0.6)]), atol=1e-5, rtol=0)


def test_antialiasing_fades_what_it_widens() -> None:
    small = one_gaussian(scales=torch.full((1, 3), 0.01))
    plain = splat_gaussians(small, camera()).alpha[0, 19, 23].item()
    faded = splat_gaussians(small, camera(), SplatOptions(antialiased=True)).alpha[0, 19, 23].item()
    variance = (60.0 * 0.01 / 2.0) ** 2
    assert plain == pytest.approx(0.8, abs=1e-6)
    assert faded == pytest.approx(0.8 * variance / (variance + 0.3), rel=1e-5)


def test_nearer_hides_farther_and_background_shows_through() -> None:
    near, far = (
        one_gaussian(means=torch.tensor([[0.0, 0.0, -0.5]])),
        one_gaussian(colours=torch.tensor([[1.0, 0.0, 0.0]])),
    )
    back = torch.tensor([0.0, 1.0, 0.0])
    wanted = 0.8 * torch.tensor([0.2, 0.5, 1.0]) + 0.2 * 0.8 * torch.tensor([1.0, 0, 0]) + 0.04 * back
    for order in ((near, far), (far, near)):
        image = splat_gaussians(together(*order), camera(), background=back).image
        torch.testing.assert_close(image[0, 19, 23], wanted, atol=1e-6, rtol=0)


def test_equal_depths_are_drawn_by_number() -> None:
    red, blue = (one_gaussian(colours=torch.tensor([c])) for c in ([1.0, 0.0, 0.0], [0.0, 0.0, 1.0]))
    assert splat_gaussians(together(red, blue), camera()).image[0, 19, 23, 0].item() == pytest.approx(0.8, abs=1e-6)
    assert splat_gaussians(together(blue, red), camera()).image[0, 19, 23, 0].item() == pytest.approx(0.16, abs=1e-6)


def test_alpha_has_a_limit_and_pixels_an_end() -> None:
    solid = one_gaussian(opacities=torch.tensor([1.0]))
    assert splat_gaussians(solid, camera()).alpha[0, 19, 23].item() == pytest.approx(0.999, abs=1e-6)
    # After two of them 1e-6 of the background is left, which is less than 1e-4: the third is not drawn.
    stack = together(solid, solid, replace(solid, colours=torch.tensor([[1e6, 0.0, 0.0]])))
    assert splat_gaussians(stack, camera()).image[0, 19, 23, 0].item() == pytest.approx(0.2, abs=1e-5)


def test_lengths_of_quaternions_do_not_matter() -> None:
    some = random_gaussians(1, 30)
    stretched = replace(some, quats_wxyz=some.quats_wxyz * torch.linspace(0.01, 50.0, 30)[:, None])
    first, second = splat_gaussians(some, camera()).image, splat_gaussians(stretched, camera()).image
    torch.testing.assert_close(first, second, atol=1e-5, rtol=0)


@pytest.mark.parametrize("z", [-2.0, -1.999, -3.0, 7.0])
def test_at_behind_and_beyond(z: float) -> None:
    # The camera stands at z = -2: on its plane, nearer than near_z, behind it, and beyond far_z.
    hidden = one_gaussian(means=torch.tensor([[0.01, 0.0, z]]))
    found, grads = gradients(hidden, camera(), SplatOptions(far_z=5.0))
    assert found.alpha.max() == 0 and found.info.radii.max() == 0
    assert all(not g.any() for g in grads.values())


BAD = {
    "means": [math.nan, math.inf, -math.inf, 1e38],
    "quats_wxyz": [math.nan, math.inf, 1e38],
    "scales": [math.nan, math.inf, 1e38],
    "opacities": [math.nan, math.inf, -1.0, 0.0],
}


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, values in BAD.items() for v in values])
def test_numbers_out_of_order_hide_that_gaussian_only(name: str, value: float) -> None:
    fine = random_gaussians(2, 9)
    broken = random_gaussians(2, 10)
    broken = Gaussians(**{n: torch.cat([getattr(fine, n), getattr(broken, n)[9:]]) for n in (*BAD, "colours")})
    values = getattr(broken, name).clone()
    values[9] = value
    found, grads = gradients(replace(broken, **{name: values}), camera(), ALL_PICTURES)
    wanted, wanted_grads = gradients(fine, camera(), ALL_PICTURES)
    assert torch.equal(found.image, wanted.image) and torch.equal(found.alpha, wanted.alpha)
    for key, expected in wanted_grads.items():
        got = grads[key]
        assert torch.isfinite(got).all(), key
        if key != "viewmats":
            assert torch.equal(got[:9], expected) and not got[9:].any(), key


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("sh", [0, 4])
def test_colours_that_are_not_finite_count_as_zero(value: float, sh: int) -> None:
    name = "sh" if sh else "colours"
    some = random_gaussians(3, 12, sh=sh)
    bad, zero = getattr(some, name).clone(), getattr(some, name).clone()
    bad[4, ..., 1], zero[4, ..., 1] = value, 0.0
    found = splat_gaussians(replace(some, **{name: bad}), camera()).image
    assert torch.equal(found, splat_gaussians(replace(some, **{name: zero}), camera()).image)
    _, grads = gradients(replace(some, **{name: bad}), camera(), SplatOptions())
    assert all(torch.isfinite(g).all() for g in grads.values())
    if not sh:
        assert not grads["colours"][4, 1].any() and grads["colours"][4, 0].any()


def test_flat_and_huge_gaussians() -> None:
    point = one_gaussian(scales=torch.zeros(1, 3))
    alpha = splat_gaussians(point, camera()).alpha[0]
    assert alpha[19, 24].item() == pytest.approx(0.8 * math.exp(-0.5 / 0.3), abs=1e-6)  # only the blur is left
    assert splat_gaussians(point, camera(), SplatOptions(eps2d=0.0)).alpha.max() == 0  # and without it nothing
    huge = one_gaussian(scales=torch.tensor([[1e6, 1e6, 1e-6]]))
    found, grads = gradients(huge, camera(300, 200), ALL_PICTURES)
    torch.testing.assert_close(found.alpha, torch.full_like(found.alpha, 0.8))
    assert found.info.tiles.item() == 10 * 7  # all tiles of 32 pixels
    assert all(torch.isfinite(g).all() for g in grads.values())
    needle = one_gaussian(scales=torch.tensor([[50.0, 1e-5, 1e-5]]))
    seen = splat_gaussians(needle, camera()).alpha[0]
    torch.testing.assert_close(seen[19], torch.full((47,), 0.8), atol=1e-3, rtol=0)


def test_radius_clip_and_near() -> None:
    assert splat_gaussians(one_gaussian(), camera(), SplatOptions(radius_clip=5.0)).alpha.max() > 0
    assert splat_gaussians(one_gaussian(), camera(), SplatOptions(radius_clip=15.0)).alpha.max() == 0
    assert splat_gaussians(one_gaussian(), camera(), SplatOptions(near_z=2.5)).alpha.max() == 0


@pytest.mark.parametrize("count", [0, 1, 17])
@pytest.mark.parametrize("size", [(1, 1), (33, 5), (16, 16)])
@pytest.mark.parametrize("cameras", [0, 1, 3])
def test_sizes(count: int, size: tuple[int, int], cameras: int) -> None:
    back = torch.tensor([0.1, 0.2, 0.3])
    found, grads = gradients(random_gaussians(4, count), camera(*size, cameras), ALL_PICTURES, back)
    assert found.image.shape == (cameras, size[1], size[0], 3)
    if count == 0 and cameras:
        assert torch.equal(found.image, back.expand(found.image.shape))
        assert grads["background"].abs().sum() > 0
    assert all(torch.isfinite(g).all() for g in grads.values())


def test_batches_of_gaussians_are_drawn_apart() -> None:
    both = random_gaussians(6, 25, lead=(2,))
    cameras = camera(count=3)
    batched = replace(cameras, viewmats=cameras.viewmats.repeat(2, 1, 1, 1), Ks=cameras.Ks.repeat(2, 1, 1, 1))
    back = torch.rand(2, 3, 3, generator=torch.Generator().manual_seed(0))
    found = splat_gaussians(both, batched, ALL_PICTURES, back)
    for b in range(2):
        alone = Gaussians(*(getattr(both, n)[b] for n in (*BAD, "colours")))
        for c in range(3):
            single = replace(cameras, viewmats=cameras.viewmats[c : c + 1], Ks=cameras.Ks[c : c + 1])
            wanted = splat_gaussians(alone, single, ALL_PICTURES, back[b, c])
            assert torch.equal(found.image[b, c], wanted.image[0])
            assert found.normals is not None and wanted.normals is not None
            assert torch.equal(found.normals[b, c], wanted.normals[0])


def test_colours_for_every_camera() -> None:
    some, cameras = random_gaussians(7, 20), camera(count=2)
    own = torch.stack([some.colours, 1.0 - some.colours])  # type: ignore[operator,list-item]
    image = splat_gaussians(replace(some, colours=own), cameras).image
    assert torch.equal(image[0], splat_gaussians(some, cameras).image[0])
    assert torch.equal(image[1], splat_gaussians(replace(some, colours=own[1]), cameras).image[1])


def test_harmonics_of_degree_0_are_a_colour() -> None:
    some = random_gaussians(8, 20)
    assert some.colours is not None
    colours = some.colours.clamp(min=0.0)
    sh = torch.zeros(20, 16, 3)
    sh[:, 0] = (colours - 0.5) / 0.28209479177387814
    found = splat_gaussians(replace(some, colours=None, sh=sh), camera()).image
    torch.testing.assert_close(
        found, splat_gaussians(replace(some, colours=colours), camera()).image, atol=1e-6, rtol=0
    )
    loud = sh + torch.cat([torch.zeros(20, 1, 3), torch.ones(20, 15, 3)], 1)
    reduced = splat_gaussians(replace(some, colours=None, sh=loud), camera(), SplatOptions(sh_degree=0)).image
    torch.testing.assert_close(reduced, found, atol=1e-6, rtol=0)


def test_centre_gradients() -> None:
    some = one_gaussian()
    found, grads = gradients(some, camera(), SplatOptions(centre_gradients=True))
    signed, absolute = found.info.centre_gradients()
    # On the axis the mean moves the centre by focal / depth pixels a metre, and to first order nothing else.
    torch.testing.assert_close(grads["means"][:, :2], signed[0] * 30.0, atol=1e-3, rtol=1e-3)
    assert (absolute >= signed.abs()).all() and (absolute > 0).all()
    with pytest.raises(HeadReconError, match="without a backward pass"):
        splat_gaussians(some, camera(), SplatOptions(centre_gradients=True)).info.centre_gradients()
    with pytest.raises(HeadReconError, match="centre_gradients=True"):
        splat_gaussians(some, camera()).info.centre_gradients()


def unchecked(gaussians: Gaussians, **changes: object) -> Gaussians:
    """A changed copy, past the tests' run-time shape checks."""
    copy = object.__new__(Gaussians)
    for name, value in {**vars(gaussians), **changes}.items():
        object.__setattr__(copy, name, value)
    return copy


def bad_inputs() -> list[tuple[Gaussians, dict[str, object], str]]:
    fine = random_gaussians(0, 4)
    return [
        (unchecked(fine, quats_wxyz=torch.zeros(4, 3)), {}, r"quats_wxyz must be float32 \[4, 4\]"),
        (unchecked(fine, means=torch.zeros(4, 3).double()), {}, "means must be float32"),
        (unchecked(fine, colours=None), {}, "either colours or sh, found none"),
        (unchecked(fine, sh=torch.zeros(4, 1, 3)), {}, "either colours or sh, found both"),
        (unchecked(fine, colours=torch.zeros(5, 3)), {}, r"colours must be \[4\]"),
        (unchecked(fine, colours=None, sh=torch.zeros(4, 4, 3)), {"options": SplatOptions(sh_degree=2)}, "sh_degree 2"),
        (fine, {"options": SplatOptions(near_z=2.0, far_z=1.0)}, "near_z < far_z"),
        (fine, {"background": torch.zeros(4)}, r"background must be float32 \[3\]"),
        (fine, {"cameras": camera(0, 5)}, "1 to 16384 pixels"),
    ]


@pytest.mark.parametrize(("gaussians", "changes", "said"), bad_inputs())
def test_bad_input_is_named(gaussians: Gaussians, changes: dict[str, object], said: str) -> None:
    arguments: dict[str, object] = {"cameras": camera(), "options": SplatOptions(), "background": None, **changes}
    with pytest.raises(ShapeError, match=said):
        as_users_call_it(ops.splat_gaussians)(gaussians, **arguments)


def operator_arguments(requires_grad: bool = True) -> dict[str, tuple[Tensor | object, ...]]:
    """Small but complete arguments of every operator."""
    from headrecon.ops._splat_ops import splat_project, splat_tiles

    some, cameras = random_gaussians(9, 6, sh=4), camera(20, 18, 2)
    assert some.sh is not None
    leaves = [
        t[None].clone().requires_grad_(requires_grad)
        for t in (some.means, some.quats_wxyz, some.scales, some.opacities)
    ]
    viewmats, ks, view = (
        cameras.viewmats[None].clone().requires_grad_(requires_grad),
        cameras.Ks[None],
        (20, 18, 16, 0.1, 9.0, 0.3, 0.0, True),
    )
    splats, radii, normals, tiles, totals = (t.detach() for t in splat_project(*leaves, viewmats, ks, True, *view))
    flat, seen = splats[0], radii[0]
    offsets, ids, entries = splat_tiles(flat, seen, tiles[0], totals[0], True, None, *view)

    def leaf(tensor: Tensor) -> Tensor:
        return tensor.clone().requires_grad_(requires_grad)

    lists = (offsets, ids, tiles[0].clone(), entries)
    return {
        "splat_project": (*leaves, viewmats, ks, True, *view),
        "splat_harmonics": (leaves[0], leaf(some.sh[None]), leaf(torch.randn(1, 2, 3)), radii.clone(), 1),
        "splat_tiles": (flat.clone(), seen.clone(), tiles[0].clone(), totals[0].clone(), True, None, *view),
        "splat_composite": (
            leaf(flat), leaf(torch.rand(2, 6, 5)), leaf(normals[0]), leaf(torch.rand(1, 5)), leaf(torch.zeros(2, 6, 4)),
            *lists, True, True, 2, *view[:3],
        ),
    }  # fmt: skip


@pytest.mark.parametrize("name", ["splat_project", "splat_harmonics", "splat_tiles", "splat_composite"])
def test_operators_are_registered_properly(name: str) -> None:
    torch.library.opcheck(getattr(torch.ops.headrecon, name), operator_arguments(name != "splat_tiles")[name])
