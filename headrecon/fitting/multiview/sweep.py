"""Stereo in the surface's own frame: how far each seen place of the head lies from where the photos agree best.

Every view is a reference in turn. The posed surface is moved along the normal by a few distances, the other photos are
seen through each of them (a plane sweep, Collins, CVPR 1996, with the head itself as the plane: support windows are
curved and slanted as the face is), and windows are compared by normalised cross-correlation, which light and exposure
of a photo do not change. The peak's place, and from its curvature a deviation, are what the solver gets.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headrecon.fitting.multiview.looking import Look
from headrecon.fitting.multiview.pairs import Pair, neighbours, pair
from headrecon.fitting.multiview.pictures import box_sums


@dataclass(frozen=True)
class SweepOptions:
    """window: side of the compared squares, working pixels. range_m and step_m: of the distances tried. stride: every
    how many pixels a measurement is kept. partners: other views per reference, between least_deg and most_deg away.

    least_correlation: of the best distance. support: share of a window that both views must see.
    noise: of the camera, in shares of white per working pixel. floor_m: least deviation of a measurement.
    """

    window: int = 9
    range_m: float = 0.002
    step_m: float = 0.0005
    stride: int = 4
    partners: int = 3
    least_deg: float = 8.0
    most_deg: float = 62.0
    least_correlation: float = 0.5
    support: float = 0.7
    noise: float = 0.004
    floor_m: float = 0.00005


@dataclass(frozen=True)
class Samples:
    """N measurements: a place on the model (face and barycentrics), from which view, how far the true surface lies
    along the normal there (metres), and its deviation.

    normal: of the posed surface. correlation: at the best distance; at_rest: where the surface is.
    """

    view: Int[np.ndarray, " N"]
    face: Int[np.ndarray, " N"]
    barycentrics: Float[np.ndarray, "N 3"]
    distance: Float[np.ndarray, " N"]
    sigma: Float[np.ndarray, " N"]
    normal: Float[np.ndarray, "N 3"]
    correlation: Float[np.ndarray, " N"]
    at_rest: Float[np.ndarray, " N"]

    def __len__(self) -> int:
        return len(self.face)

    @staticmethod
    def none() -> Samples:
        """No measurement."""
        zero, ids, three = np.zeros(0), np.zeros(0, np.int64), np.zeros((0, 3))
        return Samples(ids, ids, three, zero, zero, three, zero, zero)

    @staticmethod
    def join(parts: list[Samples]) -> Samples:
        names = Samples.__dataclass_fields__
        return Samples(**{n: np.concatenate([getattr(p, n) for p in parts]) for n in names})

    def take(self, keep: Bool[np.ndarray, " N"] | Int[np.ndarray, " M"]) -> Samples:
        return Samples(**{n: getattr(self, n)[keep] for n in Samples.__dataclass_fields__})


def sweep(looks: list[Look | None], triangles: Int[Tensor, "F 3"], options: SweepOptions) -> Samples:
    """Measure from every view. looks: one a view, None where the head is not in the picture. Empty without overlap."""
    if all(k is None for k in looks):
        return Samples.none()
    partners = neighbours(looks, options.partners, options.least_deg, options.most_deg)
    parts = [Samples.none()]
    for index, reference in enumerate(looks):
        if reference is None or not partners[index]:
            continue
        others = [looks[j] for j in partners[index]]
        found = _from_reference(index, reference, [k for k in others if k is not None], triangles, options)
        if found is not None:
            parts.append(found)
    return Samples.join(parts)


def correlations(
    reference: Look, made: Pair, offsets: Float[Tensor, "D 1 1"], window: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalised cross-correlation of windows at each offset [D,h,w], share of the window that both see [h,w], and the
    reference's variance within it [h,w]."""
    weight = made.shared.float()
    total = box_sums(weight, window)
    safe = total.clamp(min=1.0)
    a = reference.grey * weight
    mean_a = box_sums(a, window) / safe
    var_a = (box_sums(a * reference.grey, window) / safe - mean_a**2).clamp(min=1e-10)
    b = made.sample(offsets) * weight
    mean_b = box_sums(b, window) / safe
    var_b = (box_sums(b * b, window) / safe - mean_b**2).clamp(min=1e-10)
    both = box_sums(a * b, window) / safe - mean_a * mean_b
    return both / (var_a * var_b).sqrt(), total / window**2, var_a


def _from_reference(
    index: int, reference: Look, others: list[Look], triangles: Int[Tensor, "F 3"], o: SweepOptions
) -> Samples | None:
    count = round(o.range_m / o.step_m)
    offsets = torch.arange(-count, count + 1, dtype=torch.float32)[:, None, None] * o.step_m
    total = torch.zeros(len(offsets), *reference.size)
    weights = torch.zeros(reference.size)
    for other in others:
        made = pair(reference, other, triangles)
        if not bool(made.shared.any()):
            continue
        score, share, var = correlations(reference, made, offsets, o.window)
        # A window without pattern says nothing: its correlation is noise, and it counts as little as it knows.
        weight = torch.where((share > o.support) & made.shared, var / (var + o.noise**2), torch.zeros(()))
        total += weight * score
        weights += weight
    mean = total / weights.clamp(min=1e-6)
    return _peaks(index, reference, mean, weights, offsets[:, 0, 0], o)


def _peaks(
    index: int, reference: Look, mean: Float[Tensor, "D h w"], weights: Float[Tensor, "h w"], offsets: Tensor,
    o: SweepOptions,
) -> Samples | None:  # fmt: skip
    """The best distance of every stride-th pixel, where it is a peak and stands out."""
    s = o.stride
    grid = (slice(s // 2, None, s), slice(s // 2, None, s))
    score, weight = mean[:, *grid], weights[grid]
    best = score.argmax(0)
    inner = best.clamp(1, len(offsets) - 2)
    low, top, high = (score.gather(0, (inner + k)[None])[0] for k in (-1, 0, 1))
    bend = 2 * top - low - high
    keep = (weight > 0.1) & (best == inner) & (top > o.least_correlation) & (bend > 1e-4)
    if not bool(keep.any()):
        return None
    shift = 0.5 * (high - low) / bend.clamp(min=1e-6)
    distance = offsets[inner] + shift * o.step_m
    curvature = bend / o.step_m**2
    # Peak of 1 - |noise|^2 / |pattern|^2 over n pixels: the curvature says what a unit of misfit is worth in metres.
    sigma = torch.sqrt(2 * (1 - top).clamp(min=0.01) / (curvature * o.window**2) + o.floor_m**2)
    rest = score[len(offsets) // 2]
    rows = torch.nonzero(keep, as_tuple=True)

    def picked(t: Tensor) -> np.ndarray:
        return t[rows].double().numpy()

    return Samples(
        view=np.full(len(rows[0]), index),
        face=reference.face[grid][rows].numpy(),
        barycentrics=picked(reference.barycentrics[grid]),
        distance=picked(distance),
        sigma=picked(sigma),
        normal=picked(reference.normal[grid]),
        correlation=picked(top),
        at_rest=picked(rest),
    )
