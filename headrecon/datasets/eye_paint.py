"""Eyes and mouth: an iris of exact size with pupil, streaks and limbal ring; sclera; teeth, gums, tongue, lashes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from headrecon.datasets.looks import Look
from headrecon.datasets.value_noise import NoiseField
from headrecon.rendering.plain_head import IRIS_DIAMETER_M, PART_SRGB
from headrecon.structures import HeadAssets


@dataclass(frozen=True)
class EyeAxis:
    """The line from the back of an eyeball to its front; poles: which of its points are the front and the back one."""

    middle: Float[np.ndarray, "3"]
    axis: Float[np.ndarray, "3"]
    radius: float
    poles: tuple[int, int]

    def beside(self, points: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, " N"]:
        """Distances from the axis."""
        return np.linalg.norm(np.cross(points - self.middle, self.axis), axis=1)


def axis_through(points: Float[np.ndarray, "N 3"], poles: tuple[int, int]) -> EyeAxis:
    """The axis of an eyeball's vertices through two of them."""
    front, back = points[poles[0]], points[poles[1]]
    along = (front - back) / 2
    radius = float(np.linalg.norm(along))
    return EyeAxis((front + back) / 2, along / radius, radius, poles)


def eye_axis(assets: HeadAssets, part: str) -> EyeAxis:
    """The axis of an eyeball of the mean head, metres; poles count the vertices of its faces in ascending order."""
    ids = np.unique(assets.faces[assets.faces_of(part)])
    points = assets.v_template[ids[ids >= 0]].astype(np.float64)
    return axis_through(points, (int(points[:, 2].argmax()), int(points[:, 2].argmin())))


def paint_eye(
    points: Float[np.ndarray, "N 3"], eye: EyeAxis, look: Look, noise: NoiseField, rng: np.random.Generator
) -> Float[np.ndarray, "N 3"]:
    """Linear colours at points of an eyeball of the mean head (metres).

    The iris ends IRIS_DIAMETER_M / 2 beside the axis, so that `resize_iris` can give it any size.
    """
    at = (points - eye.middle) * 1e3
    radius, angle = eye.beside(points) * 1e3, np.arctan2(at[:, 1], at[:, 0])
    edge, pupil = 0.5e3 * IRIS_DIAMETER_M, float(rng.uniform(1.4, 2.4))
    veins = np.clip(noise(at * [1, 3.0, 1], 2.0) - 0.9, 0, None)
    corner = np.clip((np.abs(at[:, 0]) - 6) / 8, 0, 1)
    sclera = _linear(np.array([0.78, 0.755, 0.73])) * np.exp(-np.outer(0.30 * corner + 0.15 * veins, [0.2, 1.0, 1.0]))
    streaks = noise(np.column_stack([np.cos(angle) * 14, np.sin(angle) * 14, radius * 0.35]), 1.0)
    depth = np.clip((radius - pupil) / (edge - pupil), 0, 1)
    iris = _linear(np.array(look.iris)) * (0.75 + 0.5 * (1 - depth) + 0.22 * streaks)[:, None]
    iris = np.clip(iris, 0.003, 0.8) * (1 - 0.6 * _rise(depth, 0.80, 0.98))[:, None]  # limbal ring
    front = at @ eye.axis > 0
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
