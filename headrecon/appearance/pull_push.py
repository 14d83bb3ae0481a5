"""Fills the gaps of a picture from coarser and coarser versions of itself (Gortler et al., "The Lumigraph", 1996)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


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
