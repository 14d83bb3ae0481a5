"""Pictures at places between their pixels, and blurred pictures, for small patches: numpy and nothing else.

SciPy's image functions do more, but importing them costs a fifth of a second, which a draft does not have.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Shaped


def sample_bilinear(
    image: Shaped[np.ndarray, "H W *D"], x: Float[np.ndarray, "*N"], y: Float[np.ndarray, "*N"]
) -> Float[np.ndarray, "*N *D"]:
    """Values at column x and row y, where the centre of the first pixel is (0, 0); beyond the border the border's."""
    height, width = image.shape[:2]
    x, y = x.clip(0, width - 1), y.clip(0, height - 1)
    left, top = np.floor(x).astype(np.intp), np.floor(y).astype(np.intp)
    right, low = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    kind = np.result_type(image.dtype, np.float32)
    extra = (1,) * (image.ndim - 2)
    across, down = ((a - b).astype(kind).reshape(*a.shape, *extra) for a, b in ((x, left), (y, top)))
    upper = image[top, left] * (1 - across) + image[top, right] * across
    lower = image[low, left] * (1 - across) + image[low, right] * across
    return upper + (lower - upper) * down


def gaussian_blur(image: Float[np.ndarray, "H W"], sigma: float) -> Float[np.ndarray, "H W"]:
    """Blurred with a Gaussian cut at 4 sigma; the picture is mirrored at its border."""
    radius = max(1, round(4 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    out = image
    for _ in range(2):  # along the rows, then turned round along the columns
        padded = np.pad(out, ((0, 0), (radius, radius)), mode="symmetric")
        out = (np.lib.stride_tricks.sliding_window_view(padded, len(kernel), axis=1) @ kernel).T
    return out
