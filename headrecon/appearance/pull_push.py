"""Fills the gaps of a picture from coarser and coarser versions of itself (Gortler et al., "The Lumigraph", 1996)."""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from headrecon.appearance.texels import Texels

#: Gaps are filled on a picture of about this side, and enlarged from it.
_GAP_SIDE = 512


def pull_push(image: Float[Tensor, "H W D"], known: Float[Tensor, "H W"]) -> Float[Tensor, "H W D"]:
    """Keep pixels where known is 1, fill the others smoothly from around; partly known ones are mixed.

    Used beyond the borders of UV islands, so that filtering and mipmaps of any renderer find no foreign colour there.
    """
    colors = (image * known[..., None]).permute(2, 0, 1)[None]
    weight = known[None, None].clamp(0, 1)
    levels = [(colors, weight)]
    while max(levels[-1][1].shape[-2:]) > 1:
        levels.append(_pull(*levels[-1]))
    coarse = levels[-1][0] / levels[-1][1].clamp(min=1e-6)
    for colors, weight in reversed(levels[:-1]):
        larger = torch.nn.functional.interpolate(coarse, size=colors.shape[-2:], mode="bilinear", align_corners=False)
        coarse = colors + larger * (1 - weight)
    return coarse[0].permute(1, 2, 0)


def _pull(colors: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Half the size: weighted sums over 2 x 2, scaled down where their weight exceeds one full pixel."""
    summed, total = _blocks(weight), _blocks(colors)
    capped = summed.clamp(max=1.0)
    return total * (capped / summed.clamp(min=1e-6)), capped


def _blocks(x: Tensor) -> Tensor:
    """Sums over 2 x 2 blocks; an odd last row or column counts alone. (Slices beat avg_pool2d on a CPU five times.)"""
    x = torch.nn.functional.pad(x, (0, x.shape[-1] % 2, 0, x.shape[-2] % 2))
    rows = x[..., 0::2, :] + x[..., 1::2, :]
    return rows[..., 0::2] + rows[..., 1::2]


def fill_gaps(texels: Texels, colors: UInt8[Tensor, "N 3"]) -> UInt8[Tensor, "S S 3"]:
    """The texels laid out as a picture whose gaps go on with the colours of the nearest islands."""
    size = texels.size
    image = torch.zeros(size * size, 3, dtype=torch.uint8)
    image[texels.index] = colors
    known = torch.zeros(size * size, dtype=torch.uint8)
    known[texels.index] = 255
    step = 1
    while size % (2 * step) == 0 and size // step > _GAP_SIDE:
        step *= 2
    small = _shrunk(image.reshape(size, size, 3), step)
    weight = _shrunk(known.reshape(size, size, 1), step)[..., 0] / 255
    filled = pull_push(small / weight.clamp(min=1e-6)[..., None], weight)
    rounded = (filled.clamp(0, 255) + 0.5).to(torch.uint8)
    gaps = torch.nonzero(known == 0)[:, 0]
    row = torch.div(gaps, size, rounding_mode="floor")
    column = gaps - row * size
    halvings = step.bit_length() - 1
    image[gaps] = rounded[row >> halvings, column >> halvings]
    return image.reshape(size, size, 3)


def _shrunk(image: UInt8[Tensor, "S S D"], step: int) -> Float[Tensor, "s s D"]:
    """Means over blocks of step x step. Summed as bytes in halves would overflow, as floats it is one pass too many."""
    size, channels = image.shape[0], image.shape[2]
    # Whole rows first, which are contiguous.
    rows = image.reshape(size // step, step, size * channels).sum(1, dtype=torch.int32)
    return rows.reshape(size // step, size // step, step, channels).sum(2).float() / (step * step)
