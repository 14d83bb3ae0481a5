"""The sRGB transfer curve (IEC 61966-2-1)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def srgb_to_linear(srgb: Float[Tensor, "*N"]) -> Float[Tensor, "*N"]:
    """Display values in 0..1 to light. Differentiable; values below 0 continue on the linear part."""
    high = ((srgb.clamp(min=0.04045) + 0.055) / 1.055).pow(2.4)
    return torch.where(srgb <= 0.04045, srgb / 12.92, high)


def linear_to_srgb(linear: Float[Tensor, "*N"]) -> Float[Tensor, "*N"]:
    """Light to display values. Differentiable; the inverse of `srgb_to_linear`."""
    high = 1.055 * linear.clamp(min=0.0031308).pow(1.0 / 2.4) - 0.055
    return torch.where(linear <= 0.0031308, linear * 12.92, high)
