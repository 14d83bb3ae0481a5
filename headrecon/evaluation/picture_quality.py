"""How alike two pictures are: PSNR, SSIM and, where its network is on this machine, LPIPS.

Pictures are sRGB in 0..1; figures are of single pictures and averaged afterwards, as usual in the field (the mean of
PSNRs, not the PSNR of the mean error).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headrecon.errors import ShapeError
from headrecon.ops.ssim import ssim_map

#: Equal pictures would have an infinite PSNR: errors are taken for no smaller than half a step of 8 bits.
_LEAST_MSE = (0.5 / 255) ** 2
#: Pixels that the window of SSIM reaches to each side.
_REACH = 5


def psnr(
    image: Float[np.ndarray, "H W D"],
    reference: Float[np.ndarray, "h w d"],
    region: Bool[np.ndarray, "H W"] | None = None,
) -> float:
    """Peak signal-to-noise ratio in dB (peak 1) over all channels of the region's pixels; at most 54.2.

    Raises ShapeError for pictures that do not fit or an empty region.
    """
    _check(image, reference, region)
    square = np.square(image.astype(np.float64) - reference).mean(-1)
    error = float(square.mean() if region is None else square[region].mean())
    return -10 * math.log10(max(error, _LEAST_MSE))


def ssim(
    image: Float[np.ndarray, "H W D"],
    reference: Float[np.ndarray, "h w d"],
    region: Bool[np.ndarray, "H W"] | None = None,
) -> float:
    """Mean SSIM (Wang et al. 2004): Gaussian window 11 x 11, sigma 1.5, window's own variances, mean over channels.

    Windows that reach beyond the picture are left out ("valid", as scikit-image with gaussian_weights); with a region
    the mean is over windows whose centre lies in it. Raises ShapeError as `psnr`, and for pictures under 11 pixels.
    """
    _check(image, reference, region)
    first, second = (torch.from_numpy(np.ascontiguousarray(p, dtype=np.float32)) for p in (image, reference))
    found = ssim_map(first, second, padding="valid").mean(-1).numpy()
    if region is None:
        return float(found.mean(dtype=np.float64))
    inner = region[_REACH:-_REACH, _REACH:-_REACH]
    if not inner.any():
        raise ShapeError("ssim: the region lies within 5 pixels of the picture's border")
    return float(found[inner].mean(dtype=np.float64))


def _check(image: np.ndarray, reference: np.ndarray, region: np.ndarray | None) -> None:
    if image.shape != reference.shape or image.ndim != 3 or image.size == 0:
        raise ShapeError(
            f"pictures to compare must both be [H,W,D] of one size, found {image.shape} and {reference.shape}"
        )
    if region is not None and (region.shape != image.shape[:2] or not region.any()):
        raise ShapeError(f"a region must be [H,W] of {image.shape[:2]} with at least one pixel, found {region.shape}")


Distance = Callable[[Float[np.ndarray, "H W 3"], Float[np.ndarray, "H W 3"]], float]


@lru_cache(maxsize=1)
def perceptual_distance() -> tuple[Distance | None, str]:
    """LPIPS with AlexNet (Zhang et al. 2018), or None and why there is none. Downloads nothing.

    Used where the `lpips` package is installed and torchvision's AlexNet lies in torch's cache already.
    """
    try:
        import lpips  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None, "the package lpips is not installed"
    cached = Path(torch.hub.get_dir()) / "checkpoints"
    if not any(cached.glob("alexnet-*.pth")):
        return None, f"torchvision's AlexNet is not in {cached}, and nothing is downloaded for a figure"
    network = lpips.LPIPS(net="alex", verbose=False).eval()

    @torch.no_grad()
    def distance(image: np.ndarray, reference: np.ndarray) -> float:
        return float(network(_as_lpips_takes_it(image), _as_lpips_takes_it(reference)))

    return distance, ""


def _as_lpips_takes_it(image: Float[np.ndarray, "H W 3"]) -> Float[Tensor, "1 3 H W"]:
    """-1..1, channels first."""
    return torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32)).permute(2, 0, 1)[None] * 2 - 1
