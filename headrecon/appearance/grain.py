"""Fine detail for what no photo shows: skin with the grain that this photo has elsewhere, and strands of hair."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

#: Sides of the tiles, in texels of a texture of 1024; they repeat.
_TILE = 48
#: Grain is never stronger than this (display values): what is, is wrinkles or stubble.
_STRONGEST = 0.02
#: Patches that grain may be learnt from: this share of them lies below the chosen one, which so has no wrinkles.
_QUIET, _FULL = 0.5, 0.85
_SEED = 20
#: Strands: how many fit around the head (1.2 mm each, what a texture of 2048 can show); tiles from crown to ears.
_STRANDS, _LENGTHS = 460, 1.0
#: Locks are this much wider than strands; their share of the contrast.
_LOCKS, _LOCK_SHARE = 5.0, 0.4


@dataclass(frozen=True)
class Grain:
    """Noise to repeat, how far the streaks that it was learnt from agree in direction (0..1), and their deviation."""

    tile: Float[Tensor, "T T 3"]
    direction: float
    contrast: float


def noise_tile(rows: Int[Tensor, "S S"], detail: Float[Tensor, "N 3"]) -> Grain | None:
    """A tile that repeats without seam and has the spectrum of what is seen; None where too little is.

    rows: for each texel 1 + its row in detail (photo minus smooth colour), 0 where it is not to be learnt from.
    Random-phase noise (Galerne, Gousseau and Morel, IEEE Transactions on Image Processing 2011): the spectrum of a
    patch, averaged over directions, with the phases of white noise; the same phases for all colours, which so rise and
    fall together as the photo's do.
    """
    size = rows.shape[0]
    side = max(16, _TILE * size // 1024)
    count = size // side
    if count == 0:
        return None
    blocks = rows[: count * side, : count * side].reshape(count, side, count, side)
    # Whole rows are added first: sums over two axes at once take thirty times as long.
    good = torch.nonzero((blocks > 0).sum(1, dtype=torch.int32).sum(2) > _FULL * side * side)
    if not len(good):
        return None
    flat = [_without_trend(_patch(blocks[r, :, c], detail)) for r, c in good[:: max(1, len(good) // 24)].tolist()]
    order = np.argsort([float(patch.std()) for patch in flat])
    patch = flat[int(order[int(_QUIET * (len(order) - 1))])]
    spread = _without_direction(_spectrum(patch))
    noise = torch.fft.rfft2(torch.randn(side, side, generator=torch.Generator().manual_seed(_SEED)))
    tile = torch.fft.irfft2(spread * noise / noise.abs().clamp(min=1e-9), s=(side, side)).permute(1, 2, 0)
    strength = patch.square().mean((0, 1)).sqrt().clamp(max=_STRONGEST)
    tile = tile * (strength / tile.square().mean((0, 1)).sqrt().clamp(min=1e-6))
    return Grain(tile.contiguous(), _coherence(patch), float(patch.mean(-1).std()))


def _spectrum(patch: Float[Tensor, "s s 3"]) -> Float[Tensor, "3 s h"]:
    """Magnitudes per colour; the patch is faded out towards its sides, which do not fit together."""
    hann = torch.hann_window(patch.shape[0], periodic=False)
    return torch.fft.rfft2(
        ((patch - patch.mean((0, 1))) * (hann[:, None] * hann[None])[..., None]).permute(2, 0, 1)
    ).abs()


def _without_direction(spectrum: Float[Tensor, "3 s h"]) -> Float[Tensor, "3 s h"]:
    """Means over all directions of each frequency, none below three waves a tile: a wrinkle must not be repeated."""
    side = spectrum.shape[1]
    radius = torch.hypot((torch.fft.fftfreq(side) * side)[:, None], (torch.fft.rfftfreq(side) * side)[None])
    ring = radius.round().long().reshape(-1)
    count = torch.bincount(ring).clamp(min=1)
    flat = spectrum.reshape(3, -1)
    mean = torch.stack([torch.bincount(ring, weights=channel, minlength=len(count)) / count for channel in flat])
    return (mean[:, ring] * (ring >= 3)).reshape(spectrum.shape).float()


def _patch(rows: Int[Tensor, "s s"], detail: Float[Tensor, "N 3"]) -> Float[Tensor, "s s 3"]:
    known = rows > 0
    return torch.where(known[..., None], detail[(rows - 1).clamp(min=0).long()], 0.0)


def _coherence(patch: Float[Tensor, "T T 3"]) -> float:
    """How far a patch's streaks agree in one direction, 0..1: the coherence of its structure tensor."""
    grey = patch.mean(-1)
    # Differences that share no pixel: white noise has no direction.
    dx, dy = grey[1:-1, 2:] - grey[1:-1, :-2], grey[2:, 1:-1] - grey[:-2, 1:-1]
    xx, yy, xy = float((dx * dx).mean()), float((dy * dy).mean()), float((dx * dy).mean())
    return math.hypot(xx - yy, 2 * xy) / max(xx + yy, 1e-12)


def strand_tile(size: int = 512) -> Float[Tensor, "s s"]:
    """Lightness of strands that run down the tile: zero mean, unit deviation; repeats without seam both ways."""
    noise = torch.randn(2, size, size, generator=torch.Generator().manual_seed(_SEED + 1))
    across, down = torch.fft.fftfreq(size) * size, torch.fft.rfftfreq(size) * size
    strands = []
    for k, width in enumerate((1.0, _LOCKS)):
        # Rows of the tile lie along the strands: few cycles along them, many across.
        along = torch.exp(-0.5 * (across / (0.022 * size / math.sqrt(width))).square())[:, None]
        rate = down / (0.30 * size / width)
        band = rate * torch.exp(-0.5 * rate.square())
        layer = torch.fft.irfft2(torch.fft.rfft2(noise[k]) * along * band[None], s=(size, size))
        strands.append(layer / layer.std())
    mixed = strands[0] + _LOCK_SHARE * strands[1]
    return (mixed - mixed.mean()) / mixed.std()


def strand_coordinates(template: Float[Tensor, "V 3"], eyes: Float[Tensor, "3"]) -> Float[Tensor, "V 3"]:
    """Where each vertex lies in the field of hair: a unit direction's cosine and sine around the crown, and the way
    from the crown down (0 at the crown, 1 about at the ears). Hair grows out of the crown and falls."""
    top = float(template[:, 1].max())
    height = top - float(eyes[1])
    # The whorl of the hair lies a little behind the top.
    crown = torch.tensor([0.0, float(eyes[1]) + 0.35 * height, float(template[:, 2].mean()) - 0.2 * height])
    offset = template - crown
    down = torch.acos((offset[:, 1] / offset.norm(dim=1).clamp(min=1e-6)).clamp(-1, 1)) / (0.5 * math.pi)
    around = torch.nn.functional.normalize(offset[:, [2, 0]], dim=1)
    return torch.cat([around, down[:, None]], 1)


def strands_at(coordinates: Float[Tensor, "N 3"], tile: Float[Tensor, "s s"]) -> Float[Tensor, " N"]:
    """Lightness of the strands at interpolated `strand_coordinates`: bilinear lookups in the tile."""
    size = tile.shape[0]
    azimuth = torch.atan2(coordinates[:, 1], coordinates[:, 0]) / (2 * math.pi)
    down = coordinates[:, 2]
    turns = round(_STRANDS / (0.30 * size))
    column = ((azimuth + 0.004 * torch.sin(7 * down)) * turns * size).remainder(size)
    row = (down * _LENGTHS * size).remainder(size)
    left, top = column.floor(), row.floor()
    across, fall = column - left, row - top
    x, y = left.long() % size, top.long() % size
    x1, y1, flat = (x + 1) % size, (y + 1) % size, tile.reshape(-1)
    upper = torch.lerp(flat[y * size + x], flat[y * size + x1], across)
    lower = torch.lerp(flat[y1 * size + x], flat[y1 * size + x1], across)
    # Around the crown the strands would be infinitely thin.
    return torch.lerp(upper, lower, fall) * (down / 0.12).clamp(max=1)


def _without_trend(patch: Float[Tensor, "s s 3"]) -> Float[Tensor, "s s 3"]:
    """The patch less its own blur over an eighth of its side: only grain is to be learnt."""
    side = patch.shape[0]
    step = max(2, side // 8)
    small = torch.nn.functional.avg_pool2d(patch.permute(2, 0, 1)[None], step)
    trend = torch.nn.functional.interpolate(small, size=(side, side), mode="bilinear", align_corners=False)
    return patch - trend[0].permute(1, 2, 0)
