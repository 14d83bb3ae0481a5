"""Gaussian splatting against gsplat's projection and harmonics in torch, where that package is installed.

gsplat composites on a GPU only; its splats are composited here by the definition, without tiles, under autograd.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from headrecon.ops.splat_gaussians import SplatOptions, splat_gaussians
from headrecon.structures import Cameras, Gaussians
from tests.ops.compare import Bounds, assert_alike
from tests.ops.splats import camera, learnable, random_gaussians


@pytest.fixture(scope="module")
def gsplat() -> Any:
    return pytest.importorskip("gsplat.cuda._torch_impl", reason="gsplat is not installed (pip install gsplat)")


def peer_picture(gsplat: Any, gaussians: Gaussians, cameras: Cameras, antialiased: bool) -> Tensor:
    """[C,H,W,3] of gsplat's splats."""
    covariances, _ = gsplat._quat_scale_to_covar_preci(
        torch.nn.functional.normalize(gaussians.quats_wxyz, dim=-1), gaussians.scales, True, False, triu=False
    )
    radii, centres, depths, conics, fade = gsplat._fully_fused_projection(
        gaussians.means, covariances, cameras.viewmats, cameras.Ks, cameras.width, cameras.height,
        near_plane=0.005, calc_compensations=antialiased,
    )  # fmt: skip
    ys, xs = torch.meshgrid(torch.arange(cameras.height) + 0.5, torch.arange(cameras.width) + 0.5, indexing="ij")
    drawn = []
    for c in range(len(cameras.viewmats)):
        if gaussians.sh is None:
            colours = gaussians.colours
        else:
            position = -(cameras.viewmats[c, :3, :3].T @ cameras.viewmats[c, :3, 3])
            colours = (gsplat._spherical_harmonics(3, gaussians.means - position, gaussians.sh) + 0.5).clamp(min=0)
        assert colours is not None
        order = torch.argsort(depths[c].detach(), stable=True)
        order = order[radii[c, order, 0] > 0]
        dx, dy = (xs - centres[c, order, 0, None, None]), (ys - centres[c, order, 1, None, None])
        a, b, d = (conics[c, order, k, None, None] for k in range(3))
        opacity = gaussians.opacities[order] * (fade[c, order] if antialiased else 1.0)
        alpha = opacity[:, None, None] * torch.exp(-0.5 * (a * dx * dx + d * dy * dy) - b * dx * dy)
        alpha = torch.where(alpha >= 1 / 255, alpha.clamp(max=0.999), 0.0)
        before = torch.cat([torch.ones_like(alpha[:1]), (1 - alpha).cumprod(0)[:-1]])
        weight = torch.where(before > 1e-4, alpha * before, 0.0)
        drawn.append(torch.einsum("nhw,nd->hwd", weight, colours[order]))
    return torch.stack(drawn)


@pytest.mark.parametrize("antialiased", [False, True])
@pytest.mark.parametrize("sh", [0, 16])
def test_pictures_and_gradients(gsplat: Any, antialiased: bool, sh: int) -> None:
    some, cameras = random_gaussians(100 + sh, 150, sh=sh), camera(61, 47, 2)
    pictures, grads = [], []
    mix = torch.randn(2, 47, 61, 3, generator=torch.Generator().manual_seed(0))
    for ours in (True, False):
        own, viewmats = learnable(some), cameras.viewmats.clone().requires_grad_()
        seen = replace(cameras, viewmats=viewmats)
        if ours:
            image = splat_gaussians(own, seen, SplatOptions(antialiased=antialiased)).image
        else:
            image = peer_picture(gsplat, own, seen, antialiased)
        (image * mix).sum().backward()
        pictures.append(image.detach())
        leaves = (own.means, own.quats_wxyz, own.scales, own.opacities, own.colours if own.sh is None else own.sh)
        grads.append([t.grad for t in leaves if t is not None] + [viewmats.grad])
    # Rims at alpha = 1/255 fall on either side; the determinant without cancellation differs from gsplat's in float32.
    bounds = Bounds(relative_l1=1e-3, relative_l2=2e-3, rtol=5e-3, atol=5e-3, budget=0.005)
    assert_alike(pictures[0], pictures[1], "image", bounds)
    for name, found, wanted in zip(
        ("means", "quats", "scales", "opacities", "colours", "viewmats"), *grads, strict=True
    ):
        assert_alike(found, wanted, f"gradient of {name}", bounds)
