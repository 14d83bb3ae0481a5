"""Parameter structs of structural similarity. See `_native_params`."""

from __future__ import annotations

from ctypes import Structure

from headrecon.ops._native_params import layout

_SIZES = "height width channels valid num_threads isa"


class SsimParams(Structure):
    """HrSsimParams in ssim.h, field by field."""

    _fields_ = layout("image reference map partials", "batch", _SIZES, "c1 c2")


class SsimGradParams(Structure):
    """HrSsimGradParams in ssim.h, field by field."""

    _fields_ = layout("image reference partials grad_map grad_image grad_reference", "batch", _SIZES)


SSIM_OPS: dict[str, type[Structure]] = {"ssim": SsimParams, "ssim_backward": SsimGradParams}
