"""Plain-torch twins of compositing along rays, drawing samples from weights, and marching through occupied cells.

Compositing: Max, "Optical Models for Direct Volume Rendering", TVCG 1995, section 4; with means of neighbours as EG3D
(Chan et al., CVPR 2022). Drawing: Mildenhall et al., "NeRF", ECCV 2020, section 5.2. Any float type; autograd gives
the gradients of compositing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from headrecon.ops.ray_samples import Absorption, AbsorptionKind, RaySamples, Rule

OPAQUE = 80.0  # optical thickness beyond which nothing gets through


def padded(samples: RaySamples) -> tuple[Tensor, Tensor]:
    """Index [R,S] of every sample of every ray (0 where a ray has fewer than S), and whether it has that many."""
    if samples.offsets is None:
        device = next(t for t in (samples.starts, samples.near_far) if t is not None).device
        index = torch.arange(samples.num_rays * samples.per_ray, device=device)
        index = index.reshape(samples.num_rays, samples.per_ray)
        return index, torch.ones_like(index, dtype=torch.bool)
    first, counts = samples.offsets[:-1], samples.offsets.diff()
    most = int(counts.max()) if len(counts) else 0
    step = torch.arange(most, device=first.device)
    there = step < counts[:, None]
    return torch.where(there, first[:, None] + step, 0), there


def intervals(samples: RaySamples) -> tuple[Tensor, Tensor, Tensor]:
    """Start and end [R,S] of the interval that begins with each sample, cut at the surface, and whether it counts."""
    index, there = padded(samples)
    if samples.starts is None:
        assert samples.near_far is not None
        near, length = samples.near_far[:, :1], samples.near_far[:, 1:] - samples.near_far[:, :1]
        shift = 0.0 if samples.shifts is None else samples.shifts[:, None]
        border = torch.arange(samples.per_ray + 1, dtype=near.dtype, device=near.device) + shift
        border = border.expand(samples.num_rays, -1).clone()
        border[:, :1], border[:, samples.per_ray :] = 0.0, float(samples.per_ray)
        border = near + border * (length / max(samples.per_ray, 1))
        start, end = border[:, :-1], border[:, 1:]
    elif samples.rule == Rule.NEIGHBOURS:
        last = index[:, 1:]
        start = _take(samples.starts, index)
        end = torch.cat([_take(samples.starts, last), start[:, -1:]], 1)
        there = torch.cat([there[:, 1:], torch.zeros_like(there[:, :1])], 1)[:, : there.shape[1]]
        end = end[:, : start.shape[1]]
    else:
        assert samples.ends is not None
        start, end = _take(samples.starts, index), _take(samples.ends, index)
    if samples.surface is not None:
        at = samples.surface[:, None]
        there = there & ~(start >= at)
        end = torch.where(end > at, at, end)
    return start, end, there


def _take(values: Tensor, index: Tensor) -> Tensor:
    return values[index] if values.shape[0] else values.new_zeros((*index.shape, *values.shape[1:]))


def composite_reference(
    values: Tensor, features: Tensor, samples: RaySamples, absorption: Absorption
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sums [R,D], distances [R], opacities [R] and weights [N] of values [N] and features [N,D]."""
    index, there = padded(samples)
    start, end, counts = intervals(samples)
    value, feature = _take(values, index), _take(features, index)
    if samples.rule == Rule.NEIGHBOURS and index.shape[1]:
        later = torch.cat([index[:, 1:], index[:, -1:]], 1)
        value, feature = (value + _take(values, later)) / 2, (feature + _take(features, later)) / 2
    alpha, keep = opacity(value, end - start, absorption)
    alpha, keep = torch.where(counts, alpha, 0.0), torch.where(counts, keep, 1.0)
    through = torch.cumprod(keep, 1)
    before = torch.cat([torch.ones_like(through[:, :1]), through[:, :-1]], 1)[:, : keep.shape[1]]
    going = ~(before < absorption.stop)
    weight = torch.where(going, before * alpha, 0.0)
    # What weighs nothing adds nothing, whatever it is; its gradient still says what it would add.
    used = weight.detach() != 0
    feature = torch.where(used[..., None] | torch.isfinite(feature), feature, 0.0)
    middle = torch.where(used | torch.isfinite(start + end), (start + end) / 2, 0.0)
    sums = (weight[..., None] * feature).sum(1)
    distances = (weight * middle).sum(1)
    weights = values.new_zeros(values.shape[0]).index_add(0, index[there], weight[there])
    return sums, distances, weight.sum(1), weights


def opacity(value: Tensor, length: Tensor, absorption: Absorption) -> tuple[Tensor, Tensor]:
    """What is absorbed and what gets through."""
    if absorption.kind == AbsorptionKind.ALPHA:
        alpha = torch.where(torch.isnan(value), 0.0, value).clamp(0.0, 1.0)
        return alpha, 1 - alpha
    if absorption.kind == AbsorptionKind.SOFTPLUS:
        value = torch.nn.functional.softplus(value + absorption.shift, threshold=1e6)
    dense = torch.where(torch.isnan(value), 0.0, value).clamp(min=0.0)
    long = torch.where(torch.isnan(length), 0.0, length).clamp(min=0.0)
    solid = (dense * long).detach() >= OPAQUE  # infinity times 0 is not
    off = solid | torch.isinf(dense) | torch.isinf(long)
    thickness = torch.where(off, 0.0, dense) * torch.where(off, 0.0, long)
    return torch.where(solid, 1.0, -torch.expm1(-thickness)), torch.where(solid, 0.0, torch.exp(-thickness))


def importance_reference(edges: Tensor, weights: Tensor, uniforms: Tensor) -> Tensor:
    """[R,M]: distances drawn from weights [R,S] over the intervals between edges [R,S+1] by uniforms [R,M]."""
    lengths = edges.diff(dim=1)
    w = torch.where((weights > 0) & (weights < 3e38), weights, 0.0)
    for instead in (lengths.clamp(min=0.0), torch.ones_like(w)):  # nothing there: uniform between the ends
        w = torch.where(w.sum(1, keepdim=True) > 0, w, instead)
    border = torch.cat([torch.zeros_like(w[:, :1]), torch.cumsum(w, 1)], 1)
    target = torch.where(torch.isnan(uniforms), 0.0, uniforms).clamp(0.0, 1.0) * border[:, -1:]
    k = torch.searchsorted(border, target.contiguous(), right=True) - 1
    # The end of everything belongs to the last interval that weighs something.
    place = torch.arange(w.shape[1], device=w.device).expand_as(w)
    k = torch.minimum(k, torch.where(w > 0, place, -1).amax(1, keepdim=True))
    share = (target - border.gather(1, k)) / w.gather(1, k)
    return edges.gather(1, k) + share.clamp(0.0, 1.0) * lengths.gather(1, k)


def march_reference(
    occupied: Tensor, box: tuple[Tensor, Tensor], rays: tuple[Tensor, Tensor, Tensor, Tensor | None], step: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Starts [N], ends [N] and ray indices [N] of the steps whose middle lies in an occupied cell.

    occupied: bool [Nz,Ny,Nx] over the box (lower, upper). rays: origins, directions [R,3], near_far [R,2], shifts [R]
    or None. Tries every step of every ray.
    """
    origins, directions, near_far, shifts = rays
    near, far = near_far[:, :1], near_far[:, 1:]
    shift = torch.zeros_like(near) if shifts is None else shifts[:, None]
    spans = torch.where(torch.isfinite(far - near), (far - near) / step, 0.0)
    most = int(spans.max().clamp(0, 1 << 20).ceil()) + 1 if len(spans) else 0
    start = near + (torch.arange(most, device=near.device) + shift) * step
    middle = start + 0.5 * step
    lower, upper = box
    size = torch.tensor(occupied.shape[::-1], device=near.device)
    at = (origins[:, None] + middle[..., None] * directions[:, None] - lower) / ((upper - lower) / size)
    inside = ((at >= 0) & (at < size)).all(-1) & (start < far)
    x, y, z = torch.where(inside[..., None], at, 0.0).long().unbind(-1)
    kept = inside & occupied[z, y, x].bool()
    ray = torch.arange(len(near), device=near.device)[:, None].expand_as(kept)
    return start[kept], start[kept] + step, ray[kept]
