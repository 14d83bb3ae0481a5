"""Structural similarity in plain torch: the twin of the native op.

Z. Wang, A. Bovik, H. Sheikh, E. Simoncelli, "Image Quality Assessment: From Error Visibility to Structural Similarity",
IEEE Transactions on Image Processing 2004, equations 13 to 16.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

SIZE = 11
SIGMA = 1.5


def window(like: Tensor) -> Float[Tensor, "11 11"]:
    """The Gaussian that weighs a pixel's surroundings; its sum is 1."""
    distance = torch.arange(SIZE, device=like.device, dtype=torch.float64) - SIZE // 2
    line = torch.exp(-distance.square() / (2 * SIGMA**2))
    return torch.outer(line, line).div(line.sum().square()).to(like.dtype)


def ssim_reference(
    image: Float[Tensor, "B H W D"], reference: Float[Tensor, "B H W D"], valid: bool, data_range: float
) -> Float[Tensor, "B h w D"]:
    """As `ops.ssim.ssim_map`: the index at each pixel. Differentiable in both pictures."""
    x, y = (t.permute(0, 3, 1, 2) for t in (image, reference))
    channels = x.shape[1]
    kernel = window(x).expand(channels, 1, SIZE, SIZE)
    if 0 in x.shape:
        return (image + reference)[:, : x.shape[2], : x.shape[3]]

    def average(t: Tensor) -> Tensor:
        return torch.nn.functional.conv2d(t, kernel, padding=0 if valid else SIZE // 2, groups=channels)

    mean_x, mean_y = average(x), average(y)
    variance_x, variance_y = average(x * x) - mean_x.square(), average(y * y) - mean_y.square()
    covariance = average(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    light = (2 * mean_x * mean_y + c1) / (mean_x.square() + mean_y.square() + c1)
    structure = (2 * covariance + c2) / (variance_x + variance_y + c2)
    return (light * structure).permute(0, 2, 3, 1)
