"""Mattes that hold still and carry no colour of the room: steadying over time, and foreground colours at soft edges."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from jaxtyping import Float, UInt8
from scipy.ndimage import uniform_filter, uniform_filter1d

#: Frames before and after that say how opaque a pixel is.
REACH = 3
#: Difference of colours (0..255, mean over channels and a small window) at which a neighbouring frame counts a third.
_SAME = 5.0
_WINDOW = 7
#: Sides of the windows of blur fusion, in shares of the picture's side, from far to near.
_FUSION = (0.17, 0.05, 0.013)
#: Power of the opacity with which pixels tell the person's colour (and of its rest, the room's). The paper has 1: then
#: pixels that show half of the room tint the mean of a wide edge, twice as much as with 3.
_POWER = 3
_LEAST_WEIGHT = 1e-6
#: Alphas (0..255) from which on a pixel shows nothing but the person, and up to which it shows nothing but the room.
_SURE_IN, _CLEAR = 250, 10
#: The plate is believed where frames differ by less than this (0..255, median), and this share of them shows it.
_AGREE, _SEEN = 4.0, 0.1


class Steadied:
    """Alphas averaged over the frames around, wherever the picture did not change there.

    A segmentation network answers a little differently from frame to frame although nothing moved; where something
    did, the frame's own mask stands. rows: reads a frame's colours and raw mask. Memory: 2 x REACH + 1 frames.
    """

    def __init__(self, count: int, rows: Callable[[int], tuple[np.ndarray, np.ndarray]]) -> None:
        self._count, self._rows = count, rows
        self._held: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._likeness: dict[tuple[int, int], np.ndarray] = {}

    def __call__(self, row: int) -> UInt8[np.ndarray, "H W"]:
        near = range(max(0, row - REACH), min(self._count, row + REACH + 1))
        for old in [k for k in self._held if k not in near]:
            del self._held[old]
        for pair in [p for p in self._likeness if min(p) not in near]:
            del self._likeness[pair]
        for k in near:
            if k not in self._held:
                self._held[k] = self._rows(k)
        own = self._held[row][1]
        if not own.any():  # nobody was followed here
            return own
        total, weight = own.astype(np.float32), np.ones(own.shape, np.float32)
        for k in near:
            if k != row and self._held[k][1].any():
                share = self._alike(row, k)
                total += share * self._held[k][1]
                weight += share
        return np.rint(total / weight).astype(np.uint8)

    def _alike(self, a: int, b: int) -> Float[np.ndarray, "H W"]:
        pair = (min(a, b), max(a, b))
        if pair not in self._likeness:
            first, second = (self._held[k][0].astype(np.int16) for k in pair)
            apart = np.abs(first - second).sum(-1, dtype=np.int16).astype(np.float32) / 3
            self._likeness[pair] = np.exp(-np.square(uniform_filter(apart, _WINDOW, mode="nearest") / _SAME))
        return self._likeness[pair]


def foreground_colours(
    image_srgb: UInt8[np.ndarray, "H W 3"],
    alpha: UInt8[np.ndarray, "H W"],
    plate: Float[np.ndarray, "H W 4"] | None = None,
) -> UInt8[np.ndarray, "H W 3"]:
    """The person's own colours where a pixel shows person and room at once; elsewhere the picture's.

    plate: the room's colours 0..255 where it is known (fourth channel 1), seen beside the person in other frames.
    Forte: "Approximate Fast Foreground Colour Estimation" (ICIP 2021): colours of foreground and background are local
    means weighted by alpha, and what they leave of the compositing equation goes to the foreground; with smaller and
    smaller windows. Where the plate is known it is the background. Outside of the person the foreground goes on.
    O(pixels).
    """
    side = max(alpha.shape)
    a = alpha.astype(np.float32)[..., None] / 255
    picture = image_srgb.astype(np.float32)
    known = None if plate is None else plate[..., 3:]
    found, behind = picture, picture
    inside, outside = picture, picture
    for share in _FUSION:
        window = max(3, round(share * side)) | 1
        inside = _local_mean(found, a**_POWER, window, inside)
        outside = _local_mean(behind, (1 - a) ** _POWER, window, outside)
        if plate is not None and known is not None:
            outside = outside + known * (plate[..., :3] - outside)
        found = np.clip(inside + a * (picture - a * inside - (1 - a) * outside), 0, 255)
        behind = outside
    found[a[..., 0] * 255 >= _SURE_IN] = picture[a[..., 0] * 255 >= _SURE_IN]
    return np.rint(found).astype(np.uint8)


def _local_mean(
    values: Float[np.ndarray, "H W 3"], weight: Float[np.ndarray, "H W 1"], window: int, otherwise: np.ndarray
) -> Float[np.ndarray, "H W 3"]:
    """Weighted means over squares; `otherwise` where nothing in the square has weight."""
    stacked = np.concatenate([values * weight, weight], axis=-1)
    sums = uniform_filter1d(uniform_filter1d(stacked, window, axis=0, mode="nearest"), window, axis=1, mode="nearest")
    return np.where(sums[..., 3:] > _LEAST_WEIGHT, sums[..., :3] / np.maximum(sums[..., 3:], _LEAST_WEIGHT), otherwise)


def background_plate(
    rows: Iterable[tuple[UInt8[np.ndarray, "H W 3"], UInt8[np.ndarray, "H W"]]],
) -> Float[np.ndarray, "H W 4"]:
    """The room behind the person where frames show it and agree: colours 0..255, and 1 in the fourth channel there.

    rows: colours and raw masks of some frames, all of which are held in memory. The median over the frames in which a
    pixel is clearly background; a camera that moves leaves nothing that agrees, unless the wall is plain.
    """
    found = list(rows)
    colours = np.ma.masked_array(
        np.stack([c for c, _ in found]).astype(np.float32),
        np.broadcast_to(np.stack([m > _CLEAR for _, m in found])[..., None], (len(found), *found[0][0].shape)),
    )
    middle = np.ma.median(colours, axis=0)
    spread = np.ma.median(abs(colours - middle), axis=0).max(-1).filled(np.inf)
    seen = (~np.ma.getmaskarray(colours)[..., 0]).sum(0)
    known = (spread < _AGREE) & (seen >= max(2, _SEEN * len(found)))
    return np.concatenate([middle.filled(0), known[..., None]], axis=-1).astype(np.float32)
