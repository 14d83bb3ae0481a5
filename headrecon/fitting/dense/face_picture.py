"""The photo as the dense stage reads it: a small crop in log light, blurred to a grain, sampled with derivatives.

The face is brought to about one pixel per millimetre, whatever the photo's size. Blurring averages skin alone (the
normalised convolution of Knutsson and Westin, CVPR 1993): eyes, mouth, background and burnt highlights do not bleed in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

#: Pixels of the crop per metre on the face, and how far around the face it reaches (in sizes of the face).
PIXELS_PER_M = 1100.0
MARGIN = 0.35
#: Added to linear light before taking the logarithm: one step of an 8-bit picture in its darkest part is 0.0003.
DARKEST = 0.002
#: 8-bit values from which on a channel counts as burnt out.
BURNT = 251
#: Share of skin in the neighbourhood below which a blurred value is not used.
MIN_SUPPORT = 0.25


@dataclass(frozen=True)
class FaceCrop:
    """Linear light around the face. A photo pixel (x, y) lies at ((x, y) - origin) * scale in the crop.

    usable: 0..1, neither burnt out nor background. mask: opacity of the person, None where nobody looked.
    """

    image_linear: Float[np.ndarray, "h w 3"]
    usable: Float[np.ndarray, "h w"]
    mask: Float[np.ndarray, "h w"] | None
    origin: Float[np.ndarray, "2"]
    scale: float

    def to_crop(self, pixels: Float[np.ndarray, "N 2"]) -> Float[np.ndarray, "N 2"]:
        return (pixels - self.origin) * self.scale


@dataclass(frozen=True)
class LogPicture:
    """log of the blurred light, and how much usable skin each value is made of (0..1)."""

    log_light: Float[np.ndarray, "h w 3"]
    support: Float[np.ndarray, "h w"]

    def sample(self, points: Float[np.ndarray, "N 2"]) -> tuple[Float[np.ndarray, "N 3"], Float[np.ndarray, "N 3 2"]]:
        """Values at crop positions and their derivatives by the position (Catmull-Rom: continuous slope)."""
        return catmull_rom(self.log_light, points)

    def support_at(self, points: Float[np.ndarray, "N 2"]) -> Float[np.ndarray, " N"]:
        h, w = self.support.shape
        i = np.clip(np.floor(points).astype(int), 0, [w - 1, h - 1])
        inside = (points >= 1).all(1) & (points <= [w - 1, h - 1]).all(1)
        return np.where(inside, self.support[i[:, 1], i[:, 0]], 0.0)


def crop_face(
    image_srgb: UInt8[np.ndarray, "H W 3"],
    mask: Float[np.ndarray, "H W"] | None,
    points: Float[np.ndarray, "N 2"],
    pixels_per_m: float,
) -> FaceCrop:
    """Cut the surroundings of `points` (pixels) and bring them to `PIXELS_PER_M`; never enlarges.

    pixels_per_m: of the photo at the face. mask: opacity of the person, or None for all person.
    """
    height, width = image_srgb.shape[:2]
    low, high = points.min(0), points.max(0)
    margin = MARGIN * float((high - low).max())
    x0, y0 = (int(v) for v in np.floor(np.clip(low - margin, 0, [width - 1, height - 1])))
    x1, y1 = (int(v) for v in np.ceil(np.clip(high + margin, [x0 + 1, y0 + 1], [width, height])))
    factor = min(PIXELS_PER_M / pixels_per_m, 1.0)
    size = (max(1, round((x1 - x0) * factor)), max(1, round((y1 - y0) * factor)))
    # One scale for both axes: the crop's right and lower rim may lose a fraction of a pixel.
    scale = min(size[0] / (x1 - x0), size[1] / (y1 - y0))
    box = (0.0, 0.0, size[0] / scale, size[1] / scale)
    cut = np.ascontiguousarray(image_srgb[y0:y1, x0:x1])
    box = (0.0, 0.0, min(box[2], float(x1 - x0)), min(box[3], float(y1 - y0)))

    def small(array: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(array).resize(size, Image.Resampling.BOX, box=box, reducing_gap=None))

    reduced = small(cut)
    usable = np.asarray((reduced < BURNT).all(2), np.float32)
    small_mask = None
    if mask is not None:
        small_mask = small(np.ascontiguousarray(mask[y0:y1, x0:x1], dtype=np.float32))
        usable = np.asarray(usable * np.clip(small_mask * 2 - 1, 0, 1), np.float32)
    return FaceCrop(linear_light(reduced), usable, small_mask, np.array([x0, y0], float), scale)


def linear_light(image: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h w 3"]:
    """Of an sRGB picture, 0..1."""
    table = np.arange(256) / 255.0
    table = np.where(table <= 0.04045, table / 12.92, ((table + 0.055) / 1.055) ** 2.4)
    return table.astype(np.float32)[image]


def blurred(crop: FaceCrop, skin: Float[np.ndarray, "h w"], sigma_px: float) -> LogPicture:
    """The crop averaged over skin (weights 0..1) within a Gaussian of deviation sigma_px, as log light."""
    from scipy.ndimage import gaussian_filter

    weight = crop.usable * skin
    sigma = (sigma_px, sigma_px)
    support = gaussian_filter(weight, sigma, mode="constant", truncate=3.0)
    total = np.stack(
        [gaussian_filter(crop.image_linear[..., c] * weight, sigma, mode="constant", truncate=3.0) for c in range(3)], 2
    )
    mean = total / np.maximum(support, 1e-4)[..., None]
    return LogPicture(np.log(mean.astype(np.float64) + DARKEST), support)


def grain_effect(
    crop: FaceCrop,
    skin: Float[np.ndarray, "h w"],
    shown_linear: Float[np.ndarray, "P 3"],
    sigma_px: float,
    points: Float[np.ndarray, "N 2"],
    own_linear: Float[np.ndarray, "N 3"],
) -> Float[np.ndarray, "N 3"]:
    """What blurring does to log light at crop positions: in folds and at edges a blurred value is not the point's own.

    shown_linear: a model of the light at the pixels where skin > 0. own_linear: that model at the points, not blurred.
    """
    image = np.zeros_like(crop.image_linear)
    image[skin > 0] = shown_linear
    # Burnt highlights and background are left out of the photo's mean, so of the model's too.
    alike = FaceCrop(image, crop.usable, crop.mask, crop.origin, crop.scale)
    return blurred(alike, skin, sigma_px).sample(points)[0] - np.log(own_linear + DARKEST)


def catmull_rom(
    image: Float[np.ndarray, "h w C"], points: Float[np.ndarray, "N 2"]
) -> tuple[Float[np.ndarray, "N C"], Float[np.ndarray, "N C 2"]]:
    """Cubic interpolation (Catmull and Rom 1974) at pixel positions, centre of the first pixel at (0.5, 0.5)."""
    h, w = image.shape[:2]
    at = np.clip(points - 0.5, 0.0, [w - 1.0, h - 1.0])
    cell = np.minimum(np.floor(at).astype(int), [max(w - 2, 0), max(h - 2, 0)])
    t = at - cell
    taps = np.arange(-1, 3)
    cols = np.clip(cell[:, :1] + taps, 0, w - 1)
    rows = np.clip(cell[:, 1:] + taps, 0, h - 1)
    patch = image[rows[:, :, None], cols[:, None, :]]  # [N,4,4,C]
    (wx, dx), (wy, dy) = _cubic_weights(t[:, 0]), _cubic_weights(t[:, 1])
    weights = np.stack([wx[:, None] * wy[..., None], dx[:, None] * wy[..., None], wx[:, None] * dy[..., None]], axis=3)
    sums = patch.reshape(len(at), 16, -1).transpose(0, 2, 1) @ weights.reshape(len(at), 16, 3)  # [N,C,3]
    value, slope = sums[..., 0], sums[..., 1:]
    outside = (points - 0.5 != at)[:, None, :]
    return value, np.where(outside, 0.0, slope)


def _cubic_weights(t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    powers = np.stack([np.ones_like(t), t, t * t, t * t * t], axis=1)
    slopes = np.stack([np.zeros_like(t), np.ones_like(t), 2 * t, 3 * t * t], axis=1)
    matrix = 0.5 * np.array([[0, 2, 0, 0], [-1, 0, 1, 0], [2, -5, 4, -1], [-1, 3, -3, 1]], float)
    return powers @ matrix, slopes @ matrix


def grain_px(crop: FaceCrop, pixels_per_m: float, grain_m: float) -> float:
    """A grain on the face in pixels of the crop; at least 0.7, below which a picture is not smooth."""
    return max(0.7, grain_m * pixels_per_m * crop.scale) if math.isfinite(grain_m) else 0.7
