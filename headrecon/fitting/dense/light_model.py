"""Light on skin as the dense stage solves for it: a gain per colour and harmonics of degree 2 relative to it.

S_c(n) = 1 + sum_k q_kc Y_k(n) / Y_0 over the eight harmonics of degrees 1 and 2 (Ramamoorthi and Hanrahan, SIGGRAPH
2001: a convex matt object answers light in these nine alone, up to a per cent), shown = exp(gain_c) albedo S_c. The
coefficients are kept in opponent channels: light on a face is far more uneven in strength than in colour.
Brightness of light and of skin cannot be told apart; their product is the gain.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float

from headrecon.fitting.dense.skin_prior import OPPONENT
from headrecon.fitting.least_squares import Block
from headrecon.geometry.harmonics import C0, C1, C2_X2Y2, C2_XY, C2_Z2, LAMBERT_FACTORS
from headrecon.rendering.lighting import Lighting

NUM_LIGHT = 27
#: Below this share of the mean a shade is bent towards zero instead of crossing it.
FLOOR = 0.12


@dataclass(frozen=True)
class LightPrior:
    """Deviations of the relative harmonics: lightness, then colour, by degree."""

    degree1: float = 0.6
    degree2: float = 0.25
    colour1: float = 0.08
    colour2: float = 0.04

    def block(self, name: str) -> Block:
        """Three log gains without a prior, then eight relative coefficients each, per opponent channel."""
        lightness = [self.degree1] * 3 + [self.degree2] * 5
        colour = [self.colour1] * 3 + [self.colour2] * 5
        return Block.make(name, NUM_LIGHT, sigma=np.array([math.inf] * 3 + lightness + colour + colour))


def compared(channels: int) -> Bool[np.ndarray, "27"]:
    """Which coefficients belong to the first so many opponent channels."""
    gains = np.arange(3) < channels
    return np.concatenate([gains, np.repeat(gains, 8)])


def relative_harmonics(
    normals: Float[np.ndarray, "N 3"],
) -> tuple[Float[np.ndarray, "N 8"], Float[np.ndarray, "N 8 3"]]:
    """Y_k / Y_0 of degrees 1 and 2 at unit normals, and their derivatives."""
    x, y, z = normals.T
    zero = np.zeros_like(x)
    a, b, c, d = C1 / C0, C2_XY / C0, C2_Z2 / C0, C2_X2Y2 / C0
    values = [-a * y, a * z, -a * x, b * x * y, -b * y * z, c * (3 * z * z - 1), -b * x * z, d * (x * x - y * y)]
    one = np.ones_like(x)
    slopes = [
        (zero, -a * one, zero), (zero, zero, a * one), (-a * one, zero, zero), (b * y, b * x, zero),
        (zero, -b * z, -b * y), (zero, zero, 6 * c * z), (-b * z, zero, -b * x), (2 * d * x, -2 * d * y, zero),
    ]  # fmt: skip
    return np.stack(values, axis=1), np.stack([np.stack(s, axis=1) for s in slopes], axis=1)


@dataclass(frozen=True)
class Shading:
    """log of the light on N points in the three colours with derivatives by the light and by the normal."""

    log: Float[np.ndarray, "N 3"]
    by_light: Float[np.ndarray, "N 3 27"]
    by_normal: Float[np.ndarray, "N 3 3"]


def shade(light: Float[np.ndarray, "27"], normals: Float[np.ndarray, "N 3"]) -> Shading:
    """Evaluate the light at unit normals."""
    basis, slopes = relative_harmonics(normals)
    coefficients = OPPONENT.T @ light[3:].reshape(3, 8)  # [colour, harmonic]
    raw = 1 + basis @ coefficients.T
    root = np.sqrt(raw * raw + FLOOR * FLOOR)
    smooth = 0.5 * (raw + root)
    d_log = 1 / root  # (d smooth / d raw) / smooth
    by_light = np.zeros((len(normals), 3, NUM_LIGHT))
    by_light[:, :, :3] = OPPONENT.T
    scaled = d_log[:, :, None, None] * OPPONENT.T[None, :, :, None] * basis[:, None, None, :]
    by_light[:, :, 3:] = scaled.reshape(len(normals), 3, 24)
    by_normal = d_log[:, :, None] * np.einsum("ck,nkd->ncd", coefficients, slopes)
    return Shading(light[:3] @ OPPONENT + np.log(smooth), by_light, by_normal)


def to_lighting(light: Float[np.ndarray, "27"]) -> Lighting:
    """The light with the gains as its colour, so that albedo has a geometric mean of one over the face.

    In world space, which for a fitted photo is the camera's (x right, y up, z towards the viewer).
    """
    coefficients = np.concatenate([np.ones((3, 1)), OPPONENT.T @ light[3:].reshape(3, 8)], axis=1)
    lambert = np.array([LAMBERT_FACTORS[d] / math.pi for d in (0, 1, 1, 1, 2, 2, 2, 2, 2)])
    sh = np.exp(light[:3] @ OPPONENT) * coefficients.T / (C0 * lambert[:, None])
    return Lighting(torch.from_numpy(sh.astype(np.float32)), torch.zeros(0, 3), torch.zeros(0, 3), space="world")
