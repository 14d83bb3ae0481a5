"""Structural similarity (SSIM) with an 11 x 11 Gaussian window, as a map with gradients.

Z. Wang et al., "Image Quality Assessment: From Error Visibility to Structural Similarity", IEEE TIP 2004, section
III-B. The window's four averages are taken along rows, then down columns, tile by tile in the cache, with all that
follows from them in the same pass.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from headrecon.errors import ShapeError
from headrecon.ops import _native
from headrecon.ops._native_calls_ssim import MARGIN, map_shape
from headrecon.ops._native_calls_ssim import ssim as native_ssim
from headrecon.ops._native_calls_ssim import ssim_backward as native_ssim_backward
from headrecon.ops._register import register_op
from headrecon.ops.reference.gradients import gradients_of
from headrecon.ops.reference.ssim import SIZE, ssim_reference


def ssim_map(
    image: Float[Tensor, "*B H W D"],
    reference: Float[Tensor, "*B H W D"],
    padding: Literal["same", "valid"] = "same",
    data_range: float = 1.0,
) -> Float[Tensor, "*B h w D"]:
    """SSIM of every pixel and channel, at most 1 (equal surroundings); its mean is the index of the picture.

    float32 pictures with values over a range of data_range. padding "same" takes what lies outside as 0 and gives
    [H,W], for pictures of any size, as the loss of 3D Gaussian splatting does; "valid" gives the [H-10,W-10] pixels
    whose window fits, which scikit-image averages over (torchmetrics takes mirrored pixels at the border). The
    variances are the window's own, without a correction for samples.

    Differentiable in both pictures. Deterministic: the same bits for any number of threads. NaN spreads as far as the
    window reaches. O(pixels), 22 products a number for each of four averages. Raises ShapeError for shapes or types
    that do not fit, and for pictures under 11 pixels with "valid"; NativeMissing on a device without a built back end.
    """
    if image.shape != reference.shape or image.ndim < 3:
        raise ShapeError(
            f"ssim_map: image and reference must both be [...,H,W,D], found {tuple(image.shape)} and "
            f"{tuple(reference.shape)}"
        )
    if image.dtype != torch.float32 or reference.dtype != torch.float32:
        raise ShapeError(f"ssim_map: pictures must be float32, found {image.dtype} and {reference.dtype}")
    if padding not in ("same", "valid"):
        raise ShapeError(f'ssim_map: padding must be "same" or "valid", found {padding!r}')
    if not data_range > 0:
        raise ShapeError(f"ssim_map: data_range must be positive, found {data_range}")
    height, width, channels = image.shape[-3:]
    if padding == "valid" and min(height, width) < SIZE:
        raise ShapeError(
            f'ssim_map: "valid" needs pictures of at least {SIZE} x {SIZE} pixels, found {height} x {width}; '
            'padding="same" takes any size'
        )
    lead = image.shape[:-3]
    flat = tuple(t.reshape(-1, height, width, channels) if 0 not in t.shape else t for t in (image, reference))
    if image.numel() == 0:
        cut = 2 * MARGIN if padding == "valid" else 0
        return (image + reference)[..., : height - cut, : width - cut, :]
    wanted = torch.is_grad_enabled() and (image.requires_grad or reference.requires_grad)
    found, _ = _ssim(*flat, padding == "valid", data_range, wanted)
    return found.reshape(*lead, *found.shape[1:])


_SCHEMA = "(Tensor image, Tensor reference, bool valid, float data_range, bool partials) -> (Tensor, Tensor)"


def _kernel(image: Tensor, reference: Tensor, valid: bool, data_range: float, partials: bool) -> tuple[Tensor, Tensor]:
    if _native.use_reference(image):
        # The backward pass then differentiates the twin: nothing has to be kept.
        return ssim_reference(image, reference, valid, data_range).contiguous(), _kept(image, valid, partials).zero_()
    return native_ssim(image.contiguous(), reference.contiguous(), valid, data_range, partials)


def _kept(image: Tensor, valid: bool, partials: bool) -> Tensor:
    return image.new_empty((4, *map_shape(image, valid)) if partials else (0,))


def _fake(image: Tensor, reference: Tensor, valid: bool, data_range: float, partials: bool) -> tuple[Tensor, Tensor]:
    return image.new_empty(map_shape(image, valid)), _kept(image, valid, partials)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    image, reference, ctx.valid, ctx.data_range, ctx.partials = inputs
    ctx.save_for_backward(image, reference, output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad: Tensor | None, _: object) -> tuple[Any, ...]:
    image, reference, partials = ctx.saved_tensors
    if grad is None:
        return (None,) * 5
    needs = (ctx.needs_input_grad[0], ctx.needs_input_grad[1])
    if _native.use_reference(image):

        def twin(x: Tensor, y: Tensor) -> Tensor:
            return ssim_reference(x, y, ctx.valid, ctx.data_range)

        return (*gradients_of(twin, (image, reference), needs, (grad,)), None, None, None)
    if not ctx.partials:
        raise RuntimeError("headrecon::ssim keeps what its backward pass needs only with partials=True; use ssim_map")
    found = _ssim_backward(image, reference, partials, grad, ctx.valid, *needs)
    return (*(g if need else None for g, need in zip(found, needs, strict=True)), None, None, None)


def _backward_kernel(
    image: Tensor,
    reference: Tensor,
    partials: Tensor,
    grad: Tensor,
    valid: bool,
    need_image: bool,
    need_reference: bool,
) -> tuple[Tensor, Tensor]:
    inputs = (image.contiguous(), reference.contiguous(), partials.contiguous())
    found = native_ssim_backward(inputs, grad.contiguous(), valid, (need_image, need_reference))
    first, second = (image.new_empty(0) if g is None else g for g in found)
    return first, second


def _backward_fake(
    image: Tensor,
    reference: Tensor,
    partials: Tensor,
    grad: Tensor,
    valid: bool,
    need_image: bool,
    need_reference: bool,
) -> tuple[Tensor, Tensor]:
    return (
        image.new_empty(image.shape if need_image else (0,)),
        image.new_empty(image.shape if need_reference else (0,)),
    )


_ssim = register_op("ssim", _SCHEMA, _kernel, _fake, _backward, _setup_context)
_ssim_backward = register_op(
    "ssim_backward",
    "(Tensor image, Tensor reference, Tensor partials, Tensor grad, bool valid, bool need_image, bool need_reference)"
    " -> (Tensor, Tensor)",
    _backward_kernel,
    _backward_fake,
)
