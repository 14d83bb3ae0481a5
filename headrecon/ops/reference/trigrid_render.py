"""Plain-torch twin of fused volume rendering: every sample at once, so it needs the memory that the op saves."""

from __future__ import annotations

import torch
from torch import Tensor

from headrecon.ops.ray_samples import Absorption, RaySamples, Rule
from headrecon.ops.reference.ray_samples import composite_reference, intervals, padded
from headrecon.ops.reference.trigrid import decode_reference, sample_reference


def sample_distances(samples: RaySamples) -> Tensor:
    """[N]: where each sample is taken; 0 for those that do not count, whose place does not matter."""
    index, there = padded(samples)
    start, end, _ = intervals(samples)
    at = start if samples.rule == Rule.NEIGHBOURS else 0.5 * (start + end)
    return start.new_zeros(samples.num_samples).index_add(0, index[there], at[there])


def render_reference(
    field: tuple, decoder: tuple, rays: tuple[Tensor, Tensor], samples: tuple[RaySamples, Absorption]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sums [R,F], distances [R], opacities [R] and weights [N]; arguments as of `_native_calls_volume`."""
    grid, rotations, axes, scale = field
    origins, directions = rays
    index, there = padded(samples[0])
    ray = torch.arange(len(origins), device=origins.device)[:, None].expand_as(index)
    ray_of = torch.zeros(samples[0].num_samples, dtype=torch.long, device=origins.device)
    ray_of[index[there]] = ray[there]
    points = origins[ray_of] + sample_distances(samples[0])[:, None] * directions[ray_of]
    image = ray_of // max(len(origins) // len(grid), 1)
    features = origins.new_zeros(len(points), grid.shape[-1])
    for b in range(len(grid)):
        mine = torch.nonzero(image == b)[:, 0]
        found = sample_reference(grid[b : b + 1], rotations, points[mine][None], axes, scale)[0]
        features = features.index_add(0, mine, found)
    density, decoded = decode_reference(features, decoder[:4], decoder[4])
    return composite_reference(density, decoded, *samples)
