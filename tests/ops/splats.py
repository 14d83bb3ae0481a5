"""Gaussians and cameras for the tests of splatting."""

from __future__ import annotations

from dataclasses import fields, replace

import torch
from torch import Tensor

from headrecon.ops.splat_gaussians import SplatOptions, SplatPictures, splat_gaussians
from headrecon.structures import Cameras, Gaussians

ALL_PICTURES = SplatOptions(depth=True, median_depth=True, normals=True)


def camera(width: int = 47, height: int = 39, count: int = 1, focal: float = 60.0) -> Cameras:
    """Cameras two metres before the origin: the first looks along +z, each further one is turned a little more."""
    viewmats = torch.eye(4).repeat(count, 1, 1)
    turn = torch.tensor([[0.0, 0.1, -0.5], [-0.1, 0.0, 0.3], [0.5, -0.3, 0.0]])
    viewmats[:, :3, :3] = torch.matrix_exp(turn * torch.arange(count)[:, None, None])
    viewmats[:, 2, 3] = 2.0
    viewmats[:, 0, 3] = 0.2 * torch.arange(count)
    k = torch.tensor([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])
    return Cameras(viewmats, k.repeat(count, 1, 1), width, height)


def random_gaussians(
    seed: int, count: int, lead: tuple[int, ...] = (), channels: int = 3, sh: int = 0, log_scale: float = -2.5
) -> Gaussians:
    """Gaussians about the origin, some decimetres big; with sh coefficients instead of colours if sh > 0."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*lead, count, *shape, generator=generator)

    return Gaussians(
        normal(3) * 0.4,
        normal(4),
        (normal(3) * 0.5 + log_scale).exp(),
        torch.rand(*lead, count, generator=generator),
        normal(channels) * 0.5 + 0.5 if not sh else None,
        normal(sh, 3) * 0.3 if sh else None,
    )


def one_gaussian(**changes: object) -> Gaussians:
    """A ball of 0.1 m at the origin, opacity 0.8, colour (0.2, 0.5, 1)."""
    ball = Gaussians(
        torch.zeros(1, 3),
        torch.tensor([[1.0, 0.0, 0.0, 0.0]]),
        torch.full((1, 3), 0.1),
        torch.tensor([0.8]),
        torch.tensor([[0.2, 0.5, 1.0]]),
    )
    return replace(ball, **changes)  # type: ignore[arg-type]


def together(*several: Gaussians) -> Gaussians:
    """All of them in one."""
    return Gaussians(*(torch.cat([getattr(g, f.name) for g in several]) for f in fields(Gaussians)[:5]))


def learnable(gaussians: Gaussians) -> Gaussians:
    """A copy whose tensors collect gradients."""
    copies = {f.name: getattr(gaussians, f.name) for f in fields(gaussians)}
    return Gaussians(**{name: None if t is None else t.clone().requires_grad_() for name, t in copies.items()})


def weighted_sum(pictures: SplatPictures, seed: int = 5) -> Tensor:
    """A number that depends on every pixel of every picture in its own way."""
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(())
    for f in fields(pictures)[:5]:
        picture = getattr(pictures, f.name)
        if picture is not None:
            total = total + (picture * torch.randn(picture.shape, generator=generator)).sum()
    return total


def gradients(
    gaussians: Gaussians, cameras: Cameras, options: SplatOptions, background: Tensor | None = None
) -> tuple[SplatPictures, dict[str, Tensor]]:
    """The pictures, and gradients of `weighted_sum` by everything that has some."""
    own = learnable(gaussians)
    viewmats = cameras.viewmats.clone().requires_grad_()
    behind = None if background is None else background.clone().requires_grad_()
    pictures = splat_gaussians(own, replace(cameras, viewmats=viewmats), options, behind)
    weighted_sum(pictures).backward()
    leaves = {f.name: getattr(own, f.name) for f in fields(own)} | {"viewmats": viewmats, "background": behind}
    leaves["centres"] = pictures.info.probe
    return pictures, {n: leaf.grad for n, leaf in leaves.items() if leaf is not None and leaf.grad is not None}
