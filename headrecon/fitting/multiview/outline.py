"""Where the head ends in a photo against where the person ends: what stereo cannot see, because skin turns away there.

Rim pixels of the drawn head are measured across the rim to the edge of the person mask. A mask holds hair and clothes
as well and its edge is soft, so these measurements are worth little where patches were compared, and outside of the
head less than inside of it: a head lies within its person.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor

from headrecon.fitting.multiview.looking import Look
from headrecon.fitting.multiview.sweep import Samples

#: Deviation in working pixels of the blur whose slope says where outwards is.
_SLOPE_PX = 2.0


@dataclass(frozen=True)
class OutlineOptions:
    """sigma_m: of the mask's edge where it lies inside of the head; outward_m: where it lies outside. reach_m: how far
    an edge is looked for. stride: every how many rim pixels one is kept. use: whether masks are looked at at all."""

    sigma_m: float = 0.001
    outward_m: float = 0.003
    reach_m: float = 0.006
    stride: int = 4
    use: bool = True


def outline_samples(
    looks: list[Look | None], cameras: Float[np.ndarray, "C 4 4"], focal_px: list[float], options: OutlineOptions
) -> Samples:
    """Measurements at the rim of every view that has a mask. cameras: viewmats; focal_px: in working pixels."""
    parts = []
    for index, seen in enumerate(looks):
        if seen is None or seen.mask is None or not options.use:
            continue
        found = _of_view(index, seen, seen.mask, (cameras[index], focal_px[index]), options)
        if found is not None:
            parts.append(found)
    return Samples.join([Samples.none(), *parts])


def _of_view(
    index: int, seen: Look, mask: Float[Tensor, "h w"], camera: tuple[np.ndarray, float], o: OutlineOptions
) -> Samples | None:
    from scipy.ndimage import gaussian_filter, map_coordinates

    covered = (seen.face >= 0).numpy()
    rim = seen.skin.numpy() & ~_all_around(covered)
    rim[[0, 1, -2, -1]] = False
    rim[:, [0, 1, -2, -1]] = False  # at a crop's border the head is cut off, it does not end
    rows, columns = np.nonzero(rim)
    rows, columns = rows[:: o.stride], columns[:: o.stride]
    if len(rows) == 0:
        return None
    soft = gaussian_filter(covered.astype(np.float32), (_SLOPE_PX, _SLOPE_PX))
    down, across = (np.asarray(np.gradient(soft, axis=axis)) for axis in (0, 1))
    outward = -np.stack([across[rows, columns], down[rows, columns]], axis=1)
    outward /= np.maximum(np.linalg.norm(outward, axis=1, keepdims=True), 1e-9)
    metres = seen.depth_z[rows, columns].double().numpy() / camera[1]
    reach = int(np.clip(np.ceil(o.reach_m / np.median(metres)), 2, 60))
    steps = np.arange(-reach, reach + 1)
    at = np.stack([rows, columns])[..., None] + outward.T[::-1][..., None] * steps
    along = np.asarray(map_coordinates(mask.numpy(), at.reshape(2, -1), order=1, mode="nearest")).reshape(len(rows), -1)
    crossing = (along[:, :-1] >= 0.5) & (along[:, 1:] < 0.5)
    nearest = np.where(crossing, np.abs(steps[:-1] + 0.5), np.inf).argmin(1)
    each = np.arange(len(rows))
    here, there = along[each, nearest], along[each, nearest + 1]
    # The rim's pixels are the last that the head covers: it ends half a pixel further out.
    pixels = steps[nearest] + (here - 0.5) / np.maximum(here - there, 1e-6) - 0.5
    keep = np.flatnonzero(crossing[each, nearest] & (np.abs(pixels) < reach - 1))
    if len(keep) == 0:
        return None
    rows, columns, distance = rows[keep], columns[keep], (pixels * metres)[keep]
    normal = np.concatenate([outward[keep], np.zeros((len(keep), 1))], axis=1) @ camera[0][:3, :3]
    zero = np.zeros(len(keep))
    return Samples(
        view=np.full(len(keep), index),
        face=seen.face[rows, columns].numpy(),
        barycentrics=seen.barycentrics[rows, columns].double().numpy(),
        distance=distance,
        sigma=np.where(distance > 0, o.outward_m, o.sigma_m),
        normal=normal,
        correlation=zero,
        at_rest=zero,
    )


def _all_around(covered: np.ndarray) -> np.ndarray:
    """Pixels whose four neighbours are covered too."""
    inner = np.zeros_like(covered)
    inner[1:-1, 1:-1] = covered[:-2, 1:-1] & covered[2:, 1:-1] & covered[1:-1, :-2] & covered[1:-1, 2:]
    return inner
