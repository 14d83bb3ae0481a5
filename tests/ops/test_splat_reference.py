"""The twin of Gaussian splatting: gradients by finite differences, its lists of tiles, and compositing without them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from headrecon.ops.reference.splat import (
    MIN_ALPHA,
    SplatView,
    camera_centers,
    harmonics_reference,
    project_reference,
    tile_pairs,
    tiles_reference,
)
from headrecon.ops.reference.splat_composite import (
    SplatInputs,
    composite_gradients,
    composite_reference,
)
from tests.ops.splats import camera, random_gaussians

VIEW = SplatView(21, 18, 16, 0.1, math.inf, 0.3, 0.0, True)


def scene(seed: int, count: int, sh: int = 0) -> tuple[tuple[Tensor, ...], Tensor, Tensor, Tensor]:
    """means, quats, scales, opacities; viewmats [1,2,4,4]; Ks; colours or sh: all float64."""
    some, cameras = random_gaussians(seed, count, sh=sh), camera(VIEW.width, VIEW.height, 2, focal=30.0)
    gaussians = tuple(t[None].double() for t in (some.means, some.quats_wxyz, some.scales, some.opacities))
    colours = some.sh if sh else some.colours
    assert colours is not None
    return gaussians, cameras.viewmats[None].double(), cameras.Ks[None].double(), colours[None].double()


def pictures(gaussians: tuple[Tensor, ...], viewmats: Tensor, ks: Tensor, colours: Tensor, degree: int = -1) -> Tensor:
    """All pictures [2,H,W,8] of the twin; view-dependent colours where a degree is given."""
    splats, radii, normals = project_reference(gaussians, (viewmats, ks), VIEW)  # type: ignore[arg-type]
    flat, seen = splats[0], radii[0]
    if degree >= 0:
        shown = harmonics_reference(gaussians[0], colours, camera_centers(viewmats), radii, degree)[0]
    else:
        shown = colours.expand(2, -1, -1)
    background = torch.tensor([0.3, 0.6, 0.1], dtype=flat.dtype).expand(2, -1)
    lists = tiles_reference(flat.detach(), seen, VIEW)
    found = composite_reference(SplatInputs(flat, shown, normals[0], background), lists, VIEW)
    return torch.cat([found.image, found.depth_sum[..., None], found.normal_sum, found.transmittance[..., None]], -1)


@pytest.mark.parametrize("degree", [-1, 0, 3])
def test_gradients_by_finite_differences(degree: int) -> None:
    gaussians, viewmats, ks, colours = scene(0, 3, sh=16 if degree >= 0 else 0)
    # Pixels at the rim of a Gaussian, where alpha is 1/255, jump: only what is well inside is looked at.
    generator = torch.Generator().manual_seed(1)
    mix = torch.randn(2, VIEW.height, VIEW.width, 8, generator=generator, dtype=torch.float64)

    def inside(*leaves: Tensor) -> Tensor:
        return pictures(tuple(leaves[:4]), leaves[4], ks, leaves[5], degree)

    calm = torch.ones(2, VIEW.height, VIEW.width, 1, dtype=torch.float64)
    leaves = [t.clone().requires_grad_() for t in (*gaussians, viewmats, colours)]
    before = inside(*leaves).detach()
    for leaf in leaves:  # pixels that change by more than a smooth function would within 1e-5
        for step in (1e-5, -1e-5):
            moved = [leaf + step if other is leaf else other for other in leaves]
            calm *= (inside(*moved).detach() - before).abs().amax(-1, keepdim=True) < 1e-3
    assert calm.mean() > 0.9

    def scalar(*args: Tensor) -> Tensor:
        return (inside(*args) * mix * calm).sum()

    assert torch.autograd.gradcheck(scalar, leaves, eps=1e-6, atol=1e-4, rtol=1e-4)


def test_tile_by_tile_gradients_are_those_of_autograd() -> None:
    gaussians, viewmats, ks, colours = scene(2, 12)
    splats, radii, normals = project_reference(gaussians, (viewmats, ks), VIEW)  # type: ignore[arg-type]
    lists = tiles_reference(splats[0], radii[0], VIEW)
    background = torch.rand(2, 3, dtype=torch.float64)
    leaves = SplatInputs(
        *(t.clone().requires_grad_() for t in (splats[0], colours.expand(2, -1, -1), normals[0], background))
    )
    found = composite_reference(leaves, lists, VIEW)[:4]
    grads = [torch.randn_like(t) for t in found]
    wanted = torch.autograd.grad(found, leaves, grads)
    got = composite_gradients(SplatInputs(*(t.detach() for t in leaves)), lists, VIEW, tuple(grads))
    for name, a, b in zip(SplatInputs._fields, got, wanted, strict=False):
        torch.testing.assert_close(a, b, msg=lambda text, name=name: f"{name}: {text}")
    torch.testing.assert_close(got.centres[..., :2], wanted[0][..., :2])
    assert (got.centres[..., 2:] >= got.centres[..., :2].abs() - 1e-12).all()


def alphas(splats: Tensor, width: int, height: int) -> Tensor:
    """[I,N,H,W]: opacity of every splat at every pixel, cut off at 1/255, without lists of any kind."""
    ys, xs = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    x, y, sharp_x, shear, sharp_y, opacity = (splats[..., k, None, None] for k in range(6))
    u = (xs - x) + shear * (ys - y)
    raw = opacity * torch.exp(-0.5 * (sharp_x * u.square() + sharp_y * (ys - y).square()))
    return torch.where(raw >= MIN_ALPHA, raw, torch.zeros_like(raw))


@pytest.mark.parametrize("tile_size", [4, 12, 16])
def test_lists_hold_what_reaches_a_tile_and_little_else(tile_size: int) -> None:
    view = replace(VIEW, width=70, height=50, tile_size=tile_size)
    some, cameras = random_gaussians(3, 60), camera(70, 50, 2)
    gaussians = tuple(t[None].double() for t in (some.means, some.quats_wxyz, some.scales, some.opacities))
    ks = cameras.Ks[None].double()
    splats, radii, _ = project_reference(gaussians, (cameras.viewmats[None].double(), ks), view)  # type: ignore[arg-type]
    reached = alphas(splats[0], 70, 50) > 0
    image, splat, tile = tile_pairs(splats[0], radii[0], view)
    rows, columns = view.tiles
    listed = torch.zeros(2, 60, rows * columns, dtype=torch.bool)
    listed[image, splat, tile] = True
    padded = torch.zeros(2, 60, rows * tile_size, columns * tile_size, dtype=torch.bool)
    padded[:, :, :50, :70] = reached
    wanted = padded.unflatten(3, (columns, tile_size)).unflatten(2, (rows, tile_size)).any(5).any(3).flatten(2)
    assert not (wanted & ~listed).any()  # nothing that shows is missing
    assert (listed & ~wanted).sum() <= 0.1 * wanted.sum()  # ellipses that pass between pixel centres
    offsets, ids = tiles_reference(splats[0], radii[0], view)
    for cell in range(2 * rows * columns):
        own = ids[offsets[cell] : offsets[cell + 1]].long()
        depths = splats[0][cell // (rows * columns), own, 6]
        assert (depths[1:] >= depths[:-1]).all()


def test_compositing_by_the_definition() -> None:
    gaussians, viewmats, ks, colours = scene(4, 25)
    splats, radii, _ = project_reference(gaussians, (viewmats, ks), VIEW)  # type: ignore[arg-type]
    found = pictures(gaussians, viewmats, ks, colours)
    for image in range(2):
        order = torch.argsort(splats[0, image, :, 6], stable=True)
        alpha = alphas(splats[0, image][None], VIEW.width, VIEW.height)[0].clamp(max=0.999)
        left = torch.ones(VIEW.height, VIEW.width, dtype=torch.float64)
        total = torch.zeros(VIEW.height, VIEW.width, 3, dtype=torch.float64)
        for n in order.tolist():
            if radii[0, image, n, 0] == 0:
                continue
            a = torch.where(left > 1e-4, alpha[n], 0.0)
            total += (a * left)[..., None] * colours[0, n]
            left = left * (1 - a)
        total += left[..., None] * torch.tensor([0.3, 0.6, 0.1], dtype=torch.float64)
        torch.testing.assert_close(found[image, ..., :3], total)
        torch.testing.assert_close(found[image, ..., 7], left)
