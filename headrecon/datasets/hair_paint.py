"""Brows, beard and hair: where they grow, how strands run, and how far hair stands off the skull."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from headrecon.datasets.face_frame import SKULL_CENTRE, FaceFrame, curve_coordinates, resampled, smooth_step
from headrecon.datasets.looks import Look
from headrecon.datasets.value_noise import NoiseField, SurfacePoints

#: The hair line as seen from the middle of the skull: azimuth from the front and elevation, degrees.
_LINE_AZIMUTH = (0, 25, 42, 52, 62, 72, 84, 96, 106, 116, 140, 180)
_LINE_ELEVATION = (37, 38, 33, 22, 6, -6, 0, 9, -6, -26, -40, -43)
#: The upper edge of a beard: azimuth and height in face coordinates.
_BEARD_AZIMUTH = (0, 12, 22, 34, 48, 62, 74, 90)
_BEARD_TOP = (-47, -47, -58, -62, -52, -30, -5, 0)


def _angles(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Azimuth (0 front, 180 back, both sides alike) and elevation in degrees, seen from the middle of the skull."""
    rel = points - SKULL_CENTRE
    azimuth = np.degrees(np.arctan2(np.abs(rel[:, 0]), rel[:, 2]))
    return azimuth, np.degrees(np.arctan2(rel[:, 1], np.hypot(rel[:, 0], rel[:, 2])))


def hair_weight(
    points: Float[np.ndarray, "N 3"], ears: Float[np.ndarray, " N"], look: Look, noise: NoiseField
) -> Float[np.ndarray, " N"]:
    """How much a place of the skin is covered by hair, 0 to 1. Bald heads have none."""
    if look.hair_mm <= 0:
        return np.zeros(len(points))
    azimuth, elevation = _angles(points)
    line = np.interp(azimuth, _LINE_AZIMUTH, _LINE_ELEVATION)
    # A receding line moves up over the forehead and most at the temples.
    line = line + look.hairline * smooth_step(azimuth, 75, 40) * (1 + 0.5 * np.exp(-(((azimuth - 38) / 14) ** 2)))
    ragged = 1.8 * noise.octaves(points, 9.0)
    return smooth_step(elevation - line + ragged, -1.5, 5.0) * (1 - np.clip(2 * ears, 0, 1))


def hair_offsets(
    points: Float[np.ndarray, "V 3"], weight: Float[np.ndarray, " V"], look: Look, noise: NoiseField
) -> Float[np.ndarray, " V"]:
    """How far hair lifts each vertex along its normal, mm of the average face: more on top than at the sides."""
    _, elevation = _angles(points)
    body = 0.35 + 0.65 * smooth_step(elevation, -20, 55)
    lumps = 1 + 0.16 * noise.octaves(points, 38.0, 2)
    return look.hair_mm * weight * np.sqrt(np.clip(weight, 0, 1)) * body * np.clip(lumps, 0.4, 1.8)


def paint_hair(
    colours: Float[np.ndarray, "N 3"], points: Float[np.ndarray, "N 3"], weight: Float[np.ndarray, " N"],
    look: Look, noise: NoiseField,
) -> Float[np.ndarray, "N 3"]:  # fmt: skip
    """The colours (linear) with hair over them where the weight is above 0."""
    rows = np.flatnonzero(weight > 0.01)
    at = points[rows] - SKULL_CENTRE
    radius = np.linalg.norm(at, axis=1, keepdims=True)
    # Strands run back from the forehead and down at the sides: stretch the noise along that.
    across, height = np.arctan2(at[:, 0], at[:, 1] + 40), np.arctan2(at[:, 2], np.hypot(at[:, 0], at[:, 1]))
    wave = 0.012 * noise(points[rows], 25.0)
    strands = noise(np.column_stack([(across + wave) * 75, height * 6, radius[:, 0] * 0.05]), 1.0)
    locks = noise(np.column_stack([(across + wave) * 20, height * 2.5, radius[:, 0] * 0.02]), 1.0)
    base = _linear(np.array(look.hair))
    shade = np.exp(0.22 * strands + 0.16 * locks)[:, None]
    out = colours.copy()
    share = np.clip(weight[rows] * (1.45 + 0.2 * strands), 0, 1)[:, None]
    out[rows] = out[rows] * (1 - share) + np.clip(base * shade, 0.002, 0.8) * share
    return out


def paint_brows(
    colours: Float[np.ndarray, "N 3"], points: Float[np.ndarray, "N 3"], frame: FaceFrame, look: Look,
    noise: NoiseField,
) -> Float[np.ndarray, "N 3"]:  # fmt: skip
    """Brows of single hairs: upright near the nose, along the brow further out."""
    out = colours.copy()
    for side in ("right", "left"):
        curve = resampled(frame.brow(side), 80)
        rows = np.flatnonzero(np.linalg.norm(points - curve.mean(0), axis=1) < 45)
        at = curve_coordinates(points[rows], curve)
        up = np.array([0.0, 1.0, 0.0]) - at.tangent * at.tangent[:, 1:2]
        up /= np.linalg.norm(up, axis=1, keepdims=True)
        height = (at.offset * up).sum(1) + 0.25 * look.brow_mm  # the landmarks lie on the upper edge of most brows
        length = np.linalg.norm(np.diff(curve, axis=0), axis=1).sum()
        beyond = (at.offset * at.tangent).sum(1)  # past the ends
        position = at.along * length + beyond
        half = 0.5 * look.brow_mm * np.interp(at.along, [0, 0.12, 0.55, 0.8, 1], [0.8, 1.0, 0.85, 0.6, 0.25])
        lean = np.radians(np.interp(at.along, [0, 0.3, 1], [75, 40, 8]))
        # Coordinates across and along a hair.
        across = position * np.sin(lean) - height * np.cos(lean)
        along = position * np.cos(lean) + height * np.sin(lean)
        hairs = noise(np.column_stack([across / 0.75, along / 7.0, np.zeros(len(rows))]), 1.0)
        soft = 1.1 + 0.5 * hairs
        body = smooth_step(np.abs(height) - half, soft, -soft)
        ends = smooth_step(position, -2.5, 2.0) * smooth_step(position, length + 3, length - 3)
        near = smooth_step(at.distance, look.brow_mm + 4, look.brow_mm)
        share = np.clip(look.brows * body * ends * near * (0.80 + 0.35 * hairs), 0, 1)[:, None]
        colour = _linear(np.array(look.hair)) * 0.7
        out[rows] = out[rows] * (1 - share) + colour * share
    return out


def paint_beard(
    colours: Float[np.ndarray, "N 3"], surface: SurfacePoints, ears: Float[np.ndarray, " N"],
    lips: Float[np.ndarray, " N"], look: Look, noise: NoiseField,
) -> Float[np.ndarray, "N 3"]:  # fmt: skip
    """Stubble to a short beard. lips: 1 on them, where none grows."""
    if look.beard <= 0:
        return colours
    azimuth, _ = _angles(surface.vertices)
    at = surface.vertices
    top = np.interp(azimuth, _BEARD_AZIMUTH, _BEARD_TOP) + 1.5 * noise.octaves(at, 8.0)
    grows = smooth_step(at[:, 1], top + 3, top - 6) * smooth_step(at[:, 1], -150, -122) * smooth_step(azimuth, 92, 80)
    grows *= 0.75 + 0.25 * np.clip(noise.octaves(at + 90, 14.0), -1, 1)  # no beard is equally dense
    grows = surface.carry(grows) * (1 - np.clip(2 * ears, 0, 1)) * (1 - lips)
    rows = np.flatnonzero(grows > 0.01)
    hairs = noise(surface.points[rows] * [1.0, 0.35, 1.0], 0.8)
    share = np.clip(grows[rows] * look.beard * (0.62 + 0.35 * hairs), 0, 0.93)[:, None]
    out = colours.copy()
    colour = 0.6 * _linear(np.array(look.hair)) + 0.08 * out[rows] * np.array([0.8, 0.95, 1.1])
    out[rows] = out[rows] * (1 - share) + colour * share
    return out


def _linear(srgb: np.ndarray) -> np.ndarray:
    return np.where(srgb <= 0.04045, srgb / 12.92, ((np.maximum(srgb, 0) + 0.055) / 1.055) ** 2.4)
