"""The rim of the iris in the picture itself: what the networks guess, measured.

Daugman, "High confidence visual recognition of persons by a test of statistical independence", PAMI 1993, equation 1:
the iris is the circle across which the brightness changes most. Lids hide its top and bottom, so only the sides
count; lamps are mirrored in it, so changes are capped; and the networks' answer is the prior, so that a rim without
contrast leaves it as it was.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from headrecon.geometry.sampling import gaussian_blur, sample_bilinear
from headrecon.perception.crops import Roi, sample_roi

#: The eye is resampled so that the expected radius has this many pixels.
_RADIUS_PX = 20.0
_PATCH = 96
#: From 40 degrees above to 30 below the horizontal on either side; the upper lid hangs lower than the lower one rises.
_ARC_DEG = np.arange(-40.0, 31.0, 2.5)
_RADII = np.arange(13.0, 28.01, 0.5)
_SHIFTS_X, _SHIFTS_Y = np.arange(-4.0, 4.01, 1.0), np.arange(-2.0, 2.01, 1.0)
#: How far the networks' answer is from the rim: standard deviations of ln(radius) and of the centre in diameters.
#: From portraits on which the rim was read by eye.
_SIGMA_RADIUS, _SIGMA_X, _SIGMA_Y = 0.08, 0.10, 0.05
#: Weight of the picture against the prior: log-likelihood per unit of mean change (in units of the cap).
_EVIDENCE = 10.0


@dataclass(frozen=True)
class IrisRim:
    """Centre and radius of the visible rim in pixels, and the standard deviation of ln(radius) left by this picture."""

    center: Float[np.ndarray, "2"]
    radius: float
    sigma_log: float


def fit_rim(
    image_srgb: UInt8[np.ndarray, "H W 3"], center: Float[np.ndarray, "2"], radius: float, angle_rad: float
) -> IrisRim:
    """The circle about the expected one that the picture shows; the angle is that of the line through both eyes.

    The result is the mean over all circles, weighted by prior and evidence, so that it changes smoothly.
    """
    roi = Roi(float(center[0]), float(center[1]), radius * _PATCH / _RADIUS_PX, angle_rad)
    scores = _scores(sample_roi(image_srgb, roi, _PATCH))
    prior = (
        -0.5 * (_SHIFTS_Y / (2 * _RADIUS_PX * _SIGMA_Y))[:, None, None] ** 2
        - 0.5 * (_SHIFTS_X / (2 * _RADIUS_PX * _SIGMA_X))[None, :, None] ** 2
        - 0.5 * (np.log(_RADII / _RADIUS_PX) / _SIGMA_RADIUS) ** 2
    )
    logs = _EVIDENCE * scores + prior
    weights = np.exp(logs - logs.max())
    weights /= weights.sum()
    x = float((weights.sum((0, 2)) * _SHIFTS_X).sum())
    y = float((weights.sum((1, 2)) * _SHIFTS_Y).sum())
    by_radius, log_radii = weights.sum((0, 1)), np.log(_RADII / _RADIUS_PX)
    mean = float((by_radius * log_radii).sum())
    spread = float(np.sqrt((by_radius * (log_radii - mean) ** 2).sum()))
    moved = roi.to_image(np.array([[0.5 + x / _PATCH, 0.5 + y / _PATCH]]))[0]
    return IrisRim(moved, radius * float(np.exp(mean)), spread)


def _scores(patch_srgb: UInt8[np.ndarray, "R R 3"]) -> Float[np.ndarray, "Y X N"]:
    """Mean capped change of brightness outwards across every circle, in units of the cap: at most 1."""
    grey = patch_srgb.mean(axis=2)
    middle = grey[_PATCH // 2 - 10 : _PATCH // 2 + 10]
    grey = gaussian_blur(np.minimum(grey, np.percentile(middle, 92.0)), 1.0)  # lamps mirrored in the eye
    arc = np.deg2rad(_ARC_DEG)
    angles = np.concatenate([arc, np.pi - arc])
    radii = np.concatenate([_RADII - 1.0, _RADII + 1.0])
    x = _PATCH / 2 - 0.5 + _SHIFTS_X[:, None, None] + radii[:, None] * np.cos(angles)
    y = _PATCH / 2 - 0.5 + _SHIFTS_Y[:, None, None] + radii[:, None] * np.sin(angles)
    shape = (len(_SHIFTS_Y), len(_SHIFTS_X), len(radii), len(angles))
    values = sample_bilinear(grey, np.broadcast_to(x[None], shape), np.broadcast_to(y[:, None], shape))
    change = values[:, :, len(_RADII) :] - values[:, :, : len(_RADII)]
    cap = max(float(np.percentile(change, 90.0)), 1.0)  # below a grey level there is only noise
    capped = np.clip(change / cap, -0.3, 1.0)
    one, other = capped[..., : len(arc)].mean(-1), capped[..., len(arc) :].mean(-1)
    # Half the weight goes to the worse side: a circle must fit both.
    return 0.5 * np.minimum(one, other) + 0.25 * (one + other)
