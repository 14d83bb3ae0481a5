"""Soft masks on ICT-FaceKit's skin, placed from its own 68 landmarks: ears, neck, lips, brows.

They are found once on the mean face and belong to vertices, so they follow every identity.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from jaxtyping import Float, Int

from headrecon.models.adapters.ict_files import IctFiles
from headrecon.models.adapters.ict_rig import SKIN_MATERIALS

#: Box around an ear: ranges of |x|, y, z from the middle between landmarks 1 and 17, in units of their distance.
_EAR_LOW, _EAR_HIGH = np.array([0.465, -0.42, -0.43]), np.array([9.0, 0.015, -0.145])
_OUTER_LIPS = slice(48, 60)
_BROWS = (slice(17, 22), slice(22, 27))


def make_regions(files: IctFiles, weights: Float[np.ndarray, "V J"]) -> dict[str, Float[np.ndarray, " V"]]:
    """Weights in 0..1 by region name; zero off the skin."""
    marks = files.vertices[files.landmarks]
    middle, unit = (marks[0] + marks[16]) / 2, float(np.linalg.norm(marks[0] - marks[16]))
    ids = files.vertices_of(*SKIN_MATERIALS)
    points = files.vertices[ids]
    at = (points - middle) / unit
    found = {
        "ears": _step(_inside_ear_box(at), 0.0, 0.03),
        "neck": _step(weights[ids, 0], 0.02, 0.15),
        "lips": _lips(points, marks[_OUTER_LIPS], unit),
        "brows": np.maximum(*(_along(points, marks[brow], 0.045 * unit) for brow in _BROWS)),
    }
    return {name: _spread(values, ids, len(files.vertices)) for name, values in found.items()}


def _inside_ear_box(at: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, " N"]:
    """Distance to the nearest side of the ear's box, negative outside."""
    folded = np.column_stack([np.abs(at[:, 0]), at[:, 1:]])
    return np.minimum(folded - _EAR_LOW, _EAR_HIGH - folded).min(1)


def _lips(points: Float[np.ndarray, "N 3"], ring: Float[np.ndarray, "R 3"], unit: float) -> Float[np.ndarray, " N"]:
    """Inside the outer lip line as seen from the front, and not further back than the corners of the mouth."""
    edge = _distance_to_polyline(points[:, :2], np.concatenate([ring, ring[:1]])[:, :2])
    signed = np.where(_in_polygon(points[:, :2], ring[:, :2]), edge, -edge)
    front = _step(points[:, 2] - ring[:, 2].min(), -0.05 * unit, 0.0)
    return _step(signed, -0.01 * unit, 0.01 * unit) * front


def _along(points: Float[np.ndarray, "N 3"], line: Float[np.ndarray, "L 3"], width: float) -> Float[np.ndarray, " N"]:
    """A soft band around a line on the surface; `width` from its middle to its faded edge."""
    return _step(width - _distance_to_polyline(points, line), 0.0, 0.6 * width)


def _distance_to_polyline(points: Float[np.ndarray, "N D"], line: Float[np.ndarray, "L D"]) -> Float[np.ndarray, " N"]:
    best = np.full(len(points), np.inf)
    for a, b in pairwise(line):
        along = b - a
        t = np.clip((points - a) @ along / max(float(along @ along), 1e-12), 0, 1)
        best = np.minimum(best, np.linalg.norm(points - (a + t[:, None] * along), axis=1))
    return best


def _in_polygon(points: Float[np.ndarray, "N 2"], ring: Float[np.ndarray, "R 2"]) -> np.ndarray:
    """Even-odd rule."""
    inside = np.zeros(len(points), bool)
    for a, b in zip(ring, np.roll(ring, -1, axis=0), strict=True):
        crosses = (a[1] > points[:, 1]) != (b[1] > points[:, 1])
        rise = np.where(crosses, b[1] - a[1], 1.0)
        inside ^= crosses & (points[:, 0] < a[0] + (points[:, 1] - a[1]) / rise * (b[0] - a[0]))
    return inside


def _spread(values: Float[np.ndarray, " N"], ids: Int[np.ndarray, " N"], count: int) -> Float[np.ndarray, " V"]:
    out = np.zeros(count, np.float32)
    out[ids] = values
    return out


def _step(value: np.ndarray, low: float, high: float) -> np.ndarray:
    """Smooth 0 to 1 between low and high."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)
