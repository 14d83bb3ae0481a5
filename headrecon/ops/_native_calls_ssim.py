"""Calls of native structural similarity. See `_native_calls`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from headrecon.ops import _native
from headrecon.ops._native import ISA, num_threads
from headrecon.ops._native_calls import _pointers
from headrecon.ops._native_params_ssim import SsimGradParams, SsimParams

MARGIN = 5  # HR_SSIM_RADIUS in ssim.h
_SIZES = "pictures of 1 to 16384 pixels a side, of at least 11 with valid padding, and at least one channel"


def map_shape(image: Tensor, valid: bool) -> tuple[Any, ...]:
    """Shape of the map of image [B,H,W,D]."""
    batch, height, width, channels = image.shape
    cut = 2 * MARGIN if valid else 0
    return batch, height - cut, width - cut, channels


def ssim(
    image: Tensor, reference: Tensor, valid: bool, data_range: float, partials: bool, isa: str = "auto"
) -> tuple[Tensor, Tensor]:
    """The map [B,H',W',D] and, for the backward pass, its partial derivatives [4,B,H',W',D] (else empty)."""
    shape = map_shape(image, valid)
    found = image.new_empty(shape)
    kept = image.new_empty((4, *shape) if partials else (0,))
    if found.numel() == 0:
        return found, kept
    params = SsimParams(
        *_pointers(image, reference, found, kept if partials else None),
        *image.shape, int(valid), num_threads(), ISA[isa], (0.01 * data_range) ** 2, (0.03 * data_range) ** 2,
    )  # fmt: skip
    _native._run("ssim", params, image, "", _SIZES)
    return found, kept


def ssim_backward(
    inputs: tuple[Tensor, Tensor, Tensor], grad: Tensor, valid: bool, needs: tuple[bool, bool], isa: str = "auto"
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of image and reference; inputs: both and the partial derivatives."""
    image, reference, partials = inputs
    made = tuple(torch.empty_like(image) if need else None for need in needs)
    if image.numel() == 0 or grad.numel() == 0:
        return tuple(None if g is None else g.zero_() for g in made)  # type: ignore[return-value]
    params = SsimGradParams(
        *_pointers(image, reference, partials, grad, *made), *image.shape, int(valid), num_threads(), ISA[isa]
    )
    _native._run("ssim_backward", params, image, "", _SIZES)
    return made  # type: ignore[return-value]
