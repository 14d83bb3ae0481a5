"""Eyes and mouth: an iris of exact size with pupil, streaks and limbal ring; sclera; teeth, gums, tongue, lashes."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from headrecon.datasets.looks import Look
from headrecon.datasets.value_noise import NoiseField
from headrecon.rendering.plain_head import IRIS_DIAMETER_M, PART_SRGB
from headrecon.structures import HeadAssets


def eye_centre(assets: HeadAssets, part: str) -> Float[np.ndarray, "3"]:
    """Middle of an eyeball of the mean head, metres."""
    ids = np.unique(assets.faces[assets.faces_of(part)])
    points = assets.v_template[ids[ids >= 0]]
    return (points.max(0) + points.min(0)) / 2


def paint_eye(
    points: Float[np.ndarray, "N 3"], centre: Float[np.ndarray, "3"], look: Look, noise: NoiseField,
    rng: np.random.Generator,
) -> Float[np.ndarray, "N 3"]:  # fmt: skip
    """Linear colours at points of an eyeball of the mean head (metres), whose axis is +z.

    The iris ends where the mean head's painted iris does, so that `resize_iris` gives it any size exactly.
    """
    at = (points - centre) * 1e3
    radius, angle = np.hypot(at[:, 0], at[:, 1]), np.arctan2(at[:, 1], at[:, 0])
    edge, pupil = 0.5e3 * IRIS_DIAMETER_M, float(rng.uniform(1.4, 2.4))
    veins = np.clip(noise(at * [1, 3.0, 1], 2.0) - 0.9, 0, None)
    corner = np.clip((np.abs(at[:, 0]) - 6) / 8, 0, 1)
    sclera = _linear(np.array([0.78, 0.755, 0.73])) * np.exp(-np.outer(0.30 * corner + 0.15 * veins, [0.2, 1.0, 1.0]))
    streaks = noise(np.column_stack([np.cos(angle) * 14, np.sin(angle) * 14, radius * 0.35]), 1.0)
    depth = np.clip((radius - pupil) / (edge - pupil), 0, 1)
    iris = _linear(np.array(look.iris)) * (0.75 + 0.5 * (1 - depth) + 0.22 * streaks)[:, None]
    iris = np.clip(iris, 0.003, 0.8) * (1 - 0.6 * _rise(depth, 0.80, 0.98))[:, None]  # limbal ring
    front = at[:, 2] > 0
    out = np.where((front & (radius < edge))[:, None], iris, sclera)
    soft = _rise(radius, pupil - 0.15, pupil + 0.15)[:, None]
    return np.where(front[:, None] & (radius < edge)[:, None], out * soft + 0.004 * (1 - soft), out)


def plain_part(name: str, count: int, look: Look) -> Float[np.ndarray, "N 3"]:
    """Linear colour of teeth, gums, tongue, the inside of the mouth, lashes."""
    if name == "lashes":
        return np.tile(0.5 * _linear(np.array(look.hair)), (count, 1))
    srgb = PART_SRGB.get(name, (0.5, 0.3, 0.28))
    return np.tile(_linear(np.array(srgb)), (count, 1))


def _rise(values: np.ndarray, low: float, high: float) -> np.ndarray:
    t = np.clip((values - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def _linear(srgb: np.ndarray) -> np.ndarray:
    return np.where(srgb <= 0.04045, srgb / 12.92, ((np.maximum(srgb, 0) + 0.055) / 1.055) ** 2.4)
