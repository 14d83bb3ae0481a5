"""Plain-torch twin of the multiresolution hash encoding, any float type, differentiable by autograd."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from headrecon.ops.field_specs import GridLevel, HashGridSpec

_PRIMES = (1, 2654435761, 805459861)


def encode_hashgrid_reference(positions: Tensor, table: Tensor, spec: HashGridSpec) -> Tensor:
    """[N,L*F] at positions [N,D] of a table [E,F] (Müller et al., SIGGRAPH 2022, equations 3 and 4)."""
    inside = torch.where(positions.isnan(), torch.zeros_like(positions), positions).clamp(0.0, 1.0)
    features = [_level_features(inside, table, level, spec) for level in spec.level_table]
    return torch.cat(features, -1)


def _level_features(inside: Tensor, table: Tensor, level: GridLevel, spec: HashGridSpec) -> Tensor:
    # In double and rounded once, as a fused multiply-add is: the cell is then the same as the kernels'.
    at = (inside.double() * level.scale + 0.5).to(inside.dtype)
    corner = at.detach().floor()
    upper = at - corner
    if spec.interpolation == "smoothstep":
        upper = upper * upper * (3.0 - 2.0 * upper)
    total = torch.zeros(len(inside), spec.features, dtype=table.dtype, device=table.device)
    for step in product((0, 1), repeat=spec.dims):
        offset = torch.tensor(step, device=inside.device)
        weight = torch.where(offset == 1, upper, 1.0 - upper).prod(-1)
        entry = level_entries(corner.long() + offset, level)
        total = total + weight[:, None] * table[level.offset + entry]
    return total


def level_entries(corners: Tensor, level: GridLevel) -> Tensor:
    """[N] entry within the level of each corner [N,D]: its place in the dense grid, or its hash."""
    if level.hashed:
        mixed = torch.zeros_like(corners[:, 0])
        for d, prime in enumerate(_PRIMES[: corners.shape[1]]):
            mixed = mixed ^ ((corners[:, d] * prime) & 0xFFFFFFFF)
        return mixed % level.size
    strides = torch.tensor([level.resolution**d for d in range(corners.shape[1])], device=corners.device)
    return (corners * strides).sum(-1) % level.size
