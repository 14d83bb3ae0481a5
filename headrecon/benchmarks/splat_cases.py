"""Gaussian splatting on egg-shaped shells of Gaussians that fill the picture as a head does.

The sizes of the Gaussians are such that 6.9 million pairs of a Gaussian and a pixel contribute at 50k, 7.3 million at
200k.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from headrecon.benchmarks.cases import Case, Prepared, Work, peer
from headrecon.ops.splat_gaussians import SplatOptions, splat_gaussians
from headrecon.structures import Cameras, Gaussians


@dataclass(frozen=True)
class SceneSize:
    count: int
    scale: float  # metres: median standard deviation
    pixels: int
    cameras: int = 1


SIZES = {
    "2k Gaussians, 64², 2 cameras": SceneSize(2_000, 0.003, 64, 2),
    "50k Gaussians, 512²": SceneSize(50_000, 0.00101, 512),
    "200k Gaussians, 512²": SceneSize(200_000, 0.000485, 512),
    "200k Gaussians, 1024², 4 cameras": SceneSize(200_000, 0.000485, 1024, 4),
}


def egg_of_gaussians(size: SceneSize, device: str = "cpu") -> tuple[Gaussians, Cameras]:
    """A shell of 16 x 24 x 20 cm, some millimetres thick, of all shapes and opacities, seen from 60 cm."""
    generator = torch.Generator().manual_seed(0)
    way = torch.nn.functional.normalize(torch.randn(size.count, 3, generator=generator), dim=1)
    depth = 1 + 0.05 * torch.randn(size.count, 1, generator=generator)
    scales = (0.4 * torch.randn(size.count, 3, generator=generator)).exp() * size.scale
    opacities = torch.sigmoid(1.5 * torch.randn(size.count, generator=generator))
    quats = torch.randn(size.count, 4, generator=generator)
    colours = torch.rand(size.count, 3, generator=generator)
    means = way * torch.tensor([0.08, 0.12, 0.1]) * depth
    viewmats, focal = [], size.pixels * 0.6 / 0.26
    for i in range(size.cameras):
        turn = torch.tensor(0.2 * i)
        c, s = turn.cos().item(), turn.sin().item()
        viewmats.append(torch.tensor([[c, 0, s, 0], [0, -1, 0, 0], [s, 0, -c, 0.6], [0, 0, 0, 1]]))
    k = torch.tensor([[focal, 0, size.pixels / 2], [0, focal, size.pixels / 2], [0, 0, 1]])
    cameras = Cameras(torch.stack(viewmats), k.repeat(size.cameras, 1, 1), size.pixels, size.pixels)
    return Gaussians(means, quats, scales, opacities, colours).to(device), cameras.to(device)


@lru_cache(maxsize=1)
def _works(label: str, device: str) -> dict[str, Work]:
    gaussians, cameras = egg_of_gaussians(SIZES[label], device)
    learnt = {f.name: getattr(gaussians, f.name) for f in fields(gaussians)}
    leaves = {name: t.clone().requires_grad_() for name, t in learnt.items() if t is not None}
    image = splat_gaussians(Gaussians(**leaves), cameras).image
    grad = torch.randn(image.shape, generator=torch.Generator().manual_seed(1)).to(device)
    everything = SplatOptions(depth=True, median_depth=True, normals=True, antialiased=True)

    def draw() -> Tensor:
        with torch.no_grad():
            return splat_gaussians(gaussians, cameras).image

    def draw_all() -> list[Tensor]:
        with torch.no_grad():
            found = splat_gaussians(gaussians, cameras, everything)
        pictures = (found.image, found.alpha, found.depth_z, found.normals)
        return [t for t in pictures if t is not None]

    def backward() -> Any:
        return torch.autograd.grad(image, tuple(leaves.values()), grad, retain_graph=True)

    return {"splat_gaussians": draw, "splat_gaussians, all pictures": draw_all, "splat_gaussians backward": backward}


def _gsplat(gsplat: Any, label: str, device: str, op: str) -> Work:
    """gsplat's kernels, which need a GPU, on the same scene."""
    gaussians, cameras = egg_of_gaussians(SIZES[label], device)
    parts = [gaussians.means, gaussians.quats_wxyz, gaussians.scales, gaussians.opacities, gaussians.colours]
    leaves = [t.clone().requires_grad_(op.endswith("backward")) for t in parts if t is not None]

    def draw() -> Tensor:
        seen = (cameras.viewmats, cameras.Ks, cameras.width, cameras.height)
        return gsplat.rasterization(*leaves, *seen, packed=False)[0]

    if not op.endswith("backward"):
        return draw
    image = draw()
    grad = torch.randn(image.shape, generator=torch.Generator().manual_seed(1)).to(device)
    return lambda: torch.autograd.grad(image, leaves, grad, retain_graph=True)


def _prepare(device: str, op: str, label: str) -> Prepared:
    peers = ()
    if device == "cuda" and "all" not in op:
        peers = (peer("gsplat", "gsplat", partial(_gsplat, label=label, device=device, op=op)),)
    return Prepared(_works(label, device)[op], peers)


_GOALS = {
    ("splat_gaussians", "50k Gaussians, 512²"): 8.0,
    ("splat_gaussians", "200k Gaussians, 512²"): 20.0,
    ("splat_gaussians backward", "50k Gaussians, 512²"): 12.0,
    ("splat_gaussians backward", "200k Gaussians, 512²"): 30.0,
}
_OPS = ("splat_gaussians", "splat_gaussians, all pictures", "splat_gaussians backward")


def _case(op: str, label: str) -> Case:
    prepare: Callable[[str], Prepared] = partial(_prepare, op=op, label=label)
    return Case(op, label, prepare, _GOALS.get((op, label)), small=label.startswith("2k"))


CASES = tuple(_case(op, label) for label in SIZES for op in _OPS)
