"""Whether photos agree better on a refined head than on the one before."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from headrecon.fitting.multiview.looking import Look
from headrecon.fitting.multiview.options import GuardOptions
from headrecon.fitting.multiview.pairs import neighbours, pair
from headrecon.fitting.multiview.sweep import SweepOptions, correlations


def agreement(looks: list[Look | None], triangles: Int[Tensor, "F 3"], options: SweepOptions) -> float:
    """Mean correlation of windows that two views see of the same skin, weighed by their pattern; NaN without any."""
    if all(k is None for k in looks):
        return float("nan")
    total, weight = 0.0, 0.0
    rest = torch.zeros(1, 1, 1)
    for index, partners in enumerate(neighbours(looks, options.partners, options.least_deg, options.most_deg)):
        for other in partners:
            first, second = looks[index], looks[other]
            if first is None or second is None:
                continue
            made = pair(first, second, triangles)
            score, share, variance = correlations(first, made, rest, options.window)
            share_of = torch.where((share > options.support) & made.shared, variance, torch.zeros(()))
            share_of = share_of / (share_of + options.noise**2)
            total += float((share_of * score[0]).sum())
            weight += float(share_of.sum())
    return total / weight if weight > 0 else float("nan")


def objection(before: float, after: float, offsets: Float[np.ndarray, "V 3"], options: GuardOptions) -> str | None:
    """Why a refined head should not replace the joint fit, or None."""
    if not np.isfinite(after) or not np.isfinite(offsets).all():
        return "the refined head cannot be compared with them"
    if np.isfinite(before) and after <= before + options.gain:
        return f"they agree no better on the refined head (correlation {after:.2f}, before {before:.2f})"
    farthest = float(np.linalg.norm(offsets, axis=1).max())
    if farthest > options.farthest_m:
        return f"a vertex would move by {1e3 * farthest:.0f} mm, more than {1e3 * options.farthest_m:.0f} mm"
    return None
