"""Plain-torch twin of sampling feature grids on three planes, and of the decoder behind it; any float type.

Tri-plane: Chan et al., "Efficient Geometry-aware 3D Generative Adversarial Networks" (EG3D), CVPR 2022, section 4.
Tri-grid: An et al., "PanoHead", CVPR 2023, section 3.2. Spheres: Li et al., "SphereHead", ECCV 2024, and its published
code. Autograd gives the gradients.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

CHART_EPSILON = 1e-8  # HR_TRIGRID_CHART_EPSILON in trigrid.h


def sample_reference(
    grid: Tensor, rotations: Tensor | None, points: Tensor, axes: Sequence[int], scale: float
) -> Tensor:
    """[B,N,C]: the mean over three planes (and the blend of the charts) of grid [B,K,3,D,H,W,C] at points [B,N,3]."""
    position = points * scale
    if rotations is None:
        return _chart_mean(grid[:, 0], position, axes)
    total = weights = torch.zeros((), dtype=points.dtype, device=points.device)
    for chart, rotation in enumerate(rotations):
        coordinates, weight = sphere_coordinates(position @ rotation.mT)
        total = total + _chart_mean(grid[:, chart], coordinates, axes) * weight[..., None]
        weights = weights + weight
    return total / (weights + CHART_EPSILON)[..., None]


def sphere_coordinates(position: Tensor) -> tuple[Tensor, Tensor]:
    """(theta, phi, r) of positions [...,3], each mapped to -1..1, and the weight sin^2(theta) (1 + cos(phi)) / 2."""
    x, y, z = position.unbind(-1)
    flat2 = x * x + y * y
    on_axis = ~(flat2 > 1e-30)  # the angles have no derivative there
    safe2 = torch.where(on_axis, 1.0, flat2)
    flat = torch.where(on_axis, 0.0, safe2.sqrt())
    far2 = torch.where(on_axis, (x * x + y * y + z * z).detach(), flat2 + z * z)
    x, y, z = (torch.where(on_axis, v.detach(), v) for v in (x, y, z))
    theta = torch.atan2(flat, z)
    phi = torch.where(on_axis, torch.atan2(y, x).detach(), torch.atan2(y, torch.where(on_axis, 1.0, x)))
    radius = torch.where(far2 > 0, torch.where(far2 > 0, far2, 1.0).sqrt(), 0.0)
    there = (far2 > 1e-30) & (far2 < 3e38)
    weight = torch.where(there, 0.5 * flat * (flat + x) / torch.where(there, far2, 1.0), 0.0)
    return torch.stack([2 / math.pi * theta - 1, phi / math.pi, 2 / math.sqrt(3) * radius - 1], -1), weight


def _chart_mean(planes: Tensor, coordinates: Tensor, axes: Sequence[int]) -> Tensor:
    """[B,N,C]: the mean of planes [B,3,D,H,W,C] at coordinates [B,N,3] in -1..1."""
    depth, height, width = planes.shape[2:5]
    image = torch.arange(len(planes), device=planes.device)[:, None]
    total = torch.zeros((), dtype=planes.dtype, device=planes.device)
    for plane in range(3):
        across, down, deep = (coordinates[..., axes[3 * plane + k]] for k in range(3))
        third = _pair(deep, depth) if depth > 1 else [(torch.zeros_like(deep, dtype=torch.long), torch.ones_like(deep))]
        for z, wz in third:
            for y, wy in _pair(down, height):
                for x, wx in _pair(across, width):
                    total = total + (wx * wy * wz)[..., None] * planes[image, plane, z, y, x]
    return total / 3


def _pair(coordinate: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    """The two neighbouring cells on an axis of `size` cells, and their weights: 0 outside, for NaN too."""
    at = (coordinate + 1) * (size / 2) - 0.5
    at = torch.where((at > -1) & (at < size), at, -2.0)
    below = torch.floor(at.detach())
    rest = at - below
    found = []
    for step, weight in ((0, 1 - rest), (1, rest)):
        index = below.long() + step
        inside = (index >= 0) & (index < size)
        found.append((index.clamp(0, size - 1), torch.where(inside, weight, 0.0)))
    return found


def decode_reference(features: Tensor, decoder: Sequence[Tensor], activation: int) -> tuple[Tensor, Tensor]:
    """Raw density [...] and activated features [...,F] of features [...,C]. decoder: w1, b1, w2, b2."""
    w1, b1, w2, b2 = decoder
    hidden = torch.nn.functional.softplus(features @ w1.mT + b1, threshold=1e6)
    out = hidden @ w2.mT + b2
    return out[..., 0], activate(out[..., 1:], activation)


def activate(raw: Tensor, activation: int) -> Tensor:
    """0: as it is; 1: EG3D's stretched sigmoid; 2: PanoHead's leaky ReLU."""
    if activation == 1:
        return 1.002 * torch.sigmoid(raw) - 0.001
    if activation == 2:
        return math.sqrt(2) * torch.nn.functional.leaky_relu(raw, 0.2)
    return raw
