"""Marching cubes: a head-sized blob in grids of several sizes, dense and sparse."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from headrecon.benchmarks.cases import Case, Prepared, Work, peer
from headrecon.ops.isosurface import IsoLevel, extract_mesh, extract_mesh_sparse

LEVEL = IsoLevel(0.0, "below", (-1.0, -1.0, -1.0), (0.01, 0.01, 0.01))


def _blob(side: int) -> Tensor:
    """Signed distance to a sphere with a relief of a few samples' depth."""
    x = torch.linspace(-1, 1, side)
    distance = (x[:, None, None].square() + x[None, :, None].square() + x.square()).sqrt() - 0.8
    waves = torch.sin(40 * x)
    return distance + 0.01 * (waves[:, None, None] + waves[None, :, None] + waves)


def _scikit_image(module: Any, field: Tensor, method: str) -> Work:
    return lambda: module.marching_cubes(field.numpy(), 0.0, method=method) and None


def _pytorch3d(module: Any, field: Tensor) -> Work:
    return lambda: module.marching_cubes(field[None], 0.0) and None


def _dense(device: str, side: int, channels: int) -> Prepared:
    field = _blob(side)
    colours = torch.rand(*field.shape, channels, generator=torch.Generator().manual_seed(0)) if channels else None
    here, painted = field.to(device), None if colours is None else colours.to(device)

    def run() -> tuple[Tensor, Tensor]:
        found = extract_mesh(here, LEVEL, painted)
        return found.vertices, found.faces

    peers = ()
    if not channels:
        torch3d = "see PyTorch3D's INSTALL.md: it is built from source"
        peers = (
            peer("PyTorch3D", "pytorch3d.ops.marching_cubes", partial(_pytorch3d, field=here), torch3d),
            *(
                peer(f"scikit-image, {m}", "skimage.measure", partial(_scikit_image, field=field, method=m))
                for m in (("lorensen", "lewiner") if device == "cpu" else ())
            ),
        )
    return Prepared(run, peers)


def _sparse(device: str, side: int) -> Prepared:
    """Only the blocks within two samples of the surface and their neighbours."""
    field, count = _blob(side), side // 8
    tiles = field.reshape(count, 8, count, 8, count, 8).permute(0, 2, 4, 1, 3, 5)
    near = (tiles.abs().amin((3, 4, 5)) < 4 / side)[None, None].float()
    places = (torch.nn.functional.max_pool3d(near, 3, 1, 1)[0, 0] > 0).nonzero()
    values, where = tiles[tuple(places.T)].contiguous().to(device), places.to(device)

    def run() -> tuple[Tensor, Tensor]:
        found = extract_mesh_sparse(values, where, LEVEL)
        return found.vertices, found.faces

    return Prepared(run)


CASES = (
    Case("extract_mesh", "33³", partial(_dense, side=33, channels=3), small=True),
    Case("extract_mesh", "128³", partial(_dense, side=128, channels=0)),
    Case("extract_mesh", "256³", partial(_dense, side=256, channels=0), goal_ms=60.0),
    Case("extract_mesh", "256³, three colours", partial(_dense, side=256, channels=3)),
    Case("extract_mesh_sparse", "256³ in blocks near the surface", partial(_sparse, side=256)),
)
