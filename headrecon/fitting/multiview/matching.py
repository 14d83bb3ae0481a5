"""Where a patch of skin that one photo shows lies in another: displacements in two directions, for cameras in doubt.

The second photo is seen through the head; what differs from the first is found window by window by the iterations of
Lucas and Kanade (IJCAI 1981) with windows brought to the same mean and contrast, which is what light changes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from headrecon.fitting.multiview.looking import Look
from headrecon.fitting.multiview.pairs import neighbours, pair, sample_grey
from headrecon.fitting.multiview.pictures import box_sums


@dataclass(frozen=True)
class MatchOptions:
    """window: working pixels. stride: every how many pixels a match is kept. iterations: of the displacement.

    farthest_px: displacements beyond this are not believed. partners, least_deg, most_deg: as in `SweepOptions`.
    """

    window: int = 13
    stride: int = 6
    iterations: int = 6
    farthest_px: float = 6.0
    partners: int = 3
    least_deg: float = 5.0
    most_deg: float = 50.0
    least_correlation: float = 0.65
    support: float = 0.7


@dataclass(frozen=True)
class Matches:
    """N patches that views `first` and `second` both show: a place on the model; its displacement in the second's
    picture against where the head has it (photo pixels), and the inverse covariance of that."""

    first: int
    second: int
    face: Int[np.ndarray, " N"]
    barycentrics: Float[np.ndarray, "N 3"]
    shift_px: Float[np.ndarray, "N 2"]
    precision: Float[np.ndarray, "N 2 2"]

    def __len__(self) -> int:
        return len(self.face)


def match(
    looks: list[Look | None], scales: list[float], triangles: Int[Tensor, "F 3"], options: MatchOptions
) -> list[Matches]:
    """Match each view with its neighbours. scales: working pixels per photo pixel of each view."""
    if all(k is None for k in looks):
        return []
    out = []
    for i, partners in enumerate(neighbours(looks, options.partners, options.least_deg, options.most_deg)):
        for j in partners:
            first, second = looks[i], looks[j]
            if first is None or second is None:
                continue
            found = _match_pair((i, j), first, second, triangles, options)
            if found is not None and len(found):
                s = scales[j]
                shift, precision = found.shift_px / s, found.precision * s**2
                out.append(Matches(i, j, found.face, found.barycentrics, shift, precision))
    return out


def _match_pair(
    ids: tuple[int, int], first: Look, second: Look, triangles: Int[Tensor, "F 3"], o: MatchOptions
) -> Matches | None:
    made = pair(first, second, triangles)
    weight = made.shared.float()
    total = box_sums(weight, o.window)
    if not bool((total > o.support * o.window**2).any()):
        return None
    safe = total.clamp(min=1.0)
    a = first.grey * weight
    mean_a = box_sums(a, o.window) / safe
    std_a = (box_sums(a * first.grey, o.window) / safe - mean_a**2).clamp(min=1e-10).sqrt()
    at = made.base[..., :2] / made.base[..., 2:].clamp(min=1e-4)
    across, down = (torch.gradient(second.grey, dim=d)[0] for d in (1, 0))
    shift = torch.zeros(*first.size, 2)
    for step in range(o.iterations + 1):
        pixels = (at + shift)[None]
        b = sample_grey(second.grey, pixels)[0] * weight
        mean_b = box_sums(b, o.window) / safe
        std_b = (box_sums(b * b, o.window) / safe - mean_b**2).clamp(min=1e-10).sqrt()
        cross = box_sums(a * b, o.window) / safe - mean_a * mean_b
        correlation = cross / (std_a * std_b)
        gain = std_b / std_a
        gx, gy = (sample_grey(g, pixels)[0] * weight for g in (across, down))
        error = (gain * (a - mean_a * weight) - (b - mean_b * weight)) * weight
        xx, xy, yy = (box_sums(g, o.window) for g in (gx * gx, gx * gy, gy * gy))
        if step == o.iterations:
            break
        ex, ey = box_sums(gx * error, o.window), box_sums(gy * error, o.window)
        ridge = 1e-3 * (xx + yy) + 1e-8
        det = (xx + ridge) * (yy + ridge) - xy**2
        move = torch.stack([(yy + ridge) * ex - xy * ey, (xx + ridge) * ey - xy * ex], -1) / det[..., None]
        shift = shift + move.clamp(-1.5, 1.5)
        # Windows of neighbours overlap: a displacement unlike theirs has slipped to another pattern.
        near = box_sums(shift.permute(2, 0, 1) * weight, 5) / box_sums(weight, 5).clamp(min=1.0)
        shift = near.permute(1, 2, 0)
    noise = (2 * (1 - correlation.clamp(max=0.99)) * std_b**2).clamp(min=1e-8)
    return _picked(ids, first, shift, (xx, xy, yy, noise), (correlation, total / o.window**2), o)


def _picked(
    ids: tuple[int, int], first: Look, shift: Tensor, tensors: tuple[Tensor, ...], quality: tuple[Tensor, Tensor],
    o: MatchOptions,
) -> Matches:  # fmt: skip
    grid = (slice(o.stride // 2, None, o.stride), slice(o.stride // 2, None, o.stride))
    xx, xy, yy, noise = (t[grid] for t in tensors)
    correlation, share = (t[grid] for t in quality)
    length = shift[grid].norm(dim=-1)
    good = (correlation > o.least_correlation) & (share > o.support) & (length < o.farthest_px) & first.compared[grid]
    rows = torch.nonzero(good, as_tuple=True)
    precision = (torch.stack([xx, xy, xy, yy], -1) / noise[..., None])[rows].double().numpy().reshape(-1, 2, 2)
    return Matches(
        *ids,
        first.face[grid][rows].numpy(),
        first.barycentrics[grid][rows].double().numpy(),
        shift[grid][rows].double().numpy(),
        precision,
    )
