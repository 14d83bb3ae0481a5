"""Where the features of a face lie on any head model, in one set of coordinates, so that paint lands on all alike.

Face coordinates are millimetres on a face of average size: origin between the eyes, +x to the person's left, +y up, +z
out of the face. They are found from the model's own 68 landmarks on its mean head and belong to vertices, so paint
follows every identity, expression and pose.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from headrecon.errors import AssetError
from headrecon.geometry.alignment import umeyama
from headrecon.structures import HeadAssets

#: Corners of the eyes (right outer to left outer), bottom of the nose, corners of the mouth, on the average face.
_ANCHORS_68 = (36, 39, 42, 45, 33, 48, 54)
_ANCHORS_MM = np.array(
    [(-45, 0, -4), (-18, -1.5, 1), (18, -1.5, 1), (45, 0, -4), (0, -46, 23), (-24.5, -69, 11), (24.5, -69, 11)], float
)
#: Middle of the skull in face coordinates: hair lines are drawn as seen from there.
SKULL_CENTRE = np.array([0.0, 15.0, -80.0])


@dataclass(frozen=True)
class FaceFrame:
    """A model's mean head in face coordinates. marks: the 68 points; mm: millimetres of the average face per metre."""

    vertices: Float[np.ndarray, "V 3"]
    marks: Float[np.ndarray, "68 3"]

    def eye_ring(self, side: str) -> Float[np.ndarray, "6 3"]:
        return self.marks[36:42] if side == "right" else self.marks[42:48]

    def brow(self, side: str) -> Float[np.ndarray, "5 3"]:
        """From the nose outwards."""
        return self.marks[17:22][::-1] if side == "right" else self.marks[22:27]

    @property
    def outer_lips(self) -> Float[np.ndarray, "12 3"]:
        return self.marks[48:60]

    @property
    def inner_lips(self) -> Float[np.ndarray, "8 3"]:
        return self.marks[60:68]


def face_frame(assets: HeadAssets) -> FaceFrame:
    """The frame of a model. Raises AssetError when it has no landmarks named "ibug68"."""
    if "ibug68" not in assets.landmarks:
        raise AssetError(
            f"head model {assets.name!r} has no landmarks named 'ibug68', which painting a face needs; "
            "run `headrecon models embed` on it"
        )
    points = assets.landmarks["ibug68"]
    marks = (assets.v_template[points.vertex_ids] * points.barycentrics[..., None]).sum(1)
    to_face = umeyama(marks[list(_ANCHORS_68)], _ANCHORS_MM)
    return FaceFrame(to_face.apply(assets.v_template), to_face.apply(marks))


def smooth_step(values: np.ndarray, low: float | int | np.ndarray, high: float | int | np.ndarray) -> np.ndarray:
    """0 below `low`, 1 above `high` (or the other way round when high < low), smooth between."""
    t = np.clip((values - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def resampled(line: Float[np.ndarray, "L 3"], count: int, closed: bool = False) -> Float[np.ndarray, "N 3"]:
    """A smooth curve through the points, as `count` points of about equal distance."""
    from scipy.interpolate import CubicSpline

    line = np.concatenate([line, line[:1]]) if closed else line
    length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    curve = CubicSpline(length, line, bc_type="periodic" if closed else "natural")
    return curve(np.linspace(0, length[-1], count, endpoint=not closed))


@dataclass(frozen=True)
class CurveCoordinates:
    """For N points: how far along a curve (0 to 1) the nearest place is, its distance, and the offset to it (mm)."""

    along: Float[np.ndarray, " N"]
    distance: Float[np.ndarray, " N"]
    offset: Float[np.ndarray, "N 3"]
    tangent: Float[np.ndarray, "N 3"]


def curve_coordinates(points: Float[np.ndarray, "N 3"], curve: Float[np.ndarray, "C 3"]) -> CurveCoordinates:
    """Coordinates about a finely sampled open curve."""
    from scipy.spatial import KDTree

    distance, found = KDTree(curve).query(points)
    nearest = np.asarray(found)
    tangent = np.gradient(curve, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    return CurveCoordinates(nearest / (len(curve) - 1), np.asarray(distance), points - curve[nearest], tangent[nearest])


def inside_ring(points: Float[np.ndarray, "N 3"], ring: Float[np.ndarray, "R 3"]) -> Float[np.ndarray, " N"]:
    """Distance to a closed ring, positive inside, as seen from the front (x and y only)."""
    from scipy.spatial import KDTree

    distance = KDTree(ring[:, :2]).query(points[:, :2])[0]
    x, y = points[:, 0], points[:, 1]
    inside = np.zeros(len(points), bool)
    for (ax, ay), (bx, by) in zip(ring[:, :2], np.roll(ring[:, :2], -1, axis=0), strict=True):
        crosses = (ay > y) != (by > y)
        rise = np.where(crosses, by - ay, 1.0)
        inside ^= crosses & (x < ax + (y - ay) / rise * (bx - ax))
    return np.where(inside, distance, -distance)
