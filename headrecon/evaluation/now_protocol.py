"""The fixed parts of the NoW protocol: seven landmarks, the region that is scored, units.

Source: Sanyal, Bolkart, Feng and Black, "Learning to Regress 3D Face Shape and Expression from an Image without 3D
Supervision" (RingNet), CVPR 2019, section 4.1, and the challenge's published evaluation (github.com/soubhiksanyal/
now_evaluation, read for its facts). docs/accuracy.md lists where this implementation differs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from headrecon.errors import InputError
from headrecon.geometry.alignment import umeyama

#: The seven points in the order of the challenge; right and left are the person's own.
NOW_LANDMARKS: tuple[str, ...] = (
    "right eye, outer corner", "right eye, inner corner", "left eye, inner corner", "left eye, outer corner",
    "nose bottom", "right mouth corner", "left mouth corner",
)  # fmt: skip
#: The same points among iBUG's 68, counted from 0.
IBUG68_OF_NOW: tuple[int, ...] = (36, 39, 42, 45, 33, 48, 54)
#: Millimetres per unit.
UNITS: dict[str, float] = {"mm": 1.0, "cm": 10.0, "m": 1000.0}
#: Between the outer corners of the eyes lie 75 to 105 mm in adults (Farkas 1994); children's 60 still pass. The range
#: spans less than a factor of ten, so that at most one unit fits.
_EYES_MM = (50.0, 140.0)
#: After the best similarity, faces differ by a few per cent of their size in these seven points; swapped or mirrored
#: points by 20 and more.
_WORST_SHAPE = 0.16


def face_region(landmarks: Float[np.ndarray, "7 3"]) -> tuple[Float[np.ndarray, "3"], float]:
    """Centre and radius of the ball whose scan vertices are scored, in the landmarks' unit.

    The centre lies three tenths of the way from the nose's bottom to between the inner eye corners; the radius is 0.7
    times (distance of the outer eye corners + length of the nose).
    """
    bottom, bridge = landmarks[4], landmarks[1:3].mean(0)
    eyes = float(np.linalg.norm(landmarks[0] - landmarks[3]))
    return bottom + 0.3 * (bridge - bottom), 0.7 * (eyes + float(np.linalg.norm(bridge - bottom)))


def mm_per_unit(landmarks: Float[np.ndarray, "7 3"], unit: str | float | None, what: str) -> float:
    """Millimetres per unit of a mesh. unit: "mm", "cm", "m", a number of millimetres, or None to tell from the eyes.

    Told from the eyes: the one unit in which their outer corners lie 50 to 140 mm apart. Raises InputError.
    """
    if isinstance(unit, str) and unit in UNITS:
        return UNITS[unit]
    if unit is not None:
        try:
            value = float(unit)
        except ValueError:
            value = float("nan")
        if not (np.isfinite(value) and value > 0):
            raise InputError(f"the unit of {what} must be mm, cm, m or a number of millimetres above 0, found {unit!r}")
        return value
    eyes = float(np.linalg.norm(landmarks[0] - landmarks[3]))
    for factor in UNITS.values():
        if _EYES_MM[0] <= eyes * factor <= _EYES_MM[1]:
            return factor
    raise InputError(
        f"the unit of {what} cannot be told: the outer eye corners lie {eyes:.4g} apart, which is no face in mm, cm or "
        "m; give the unit, or for a scan of unknown size how many millimetres one of its units stands for"
    )


def checked_landmarks(points: object, what: str) -> Float[np.ndarray, "7 3"]:
    """The seven points as float64 [7,3]. Raises InputError that says what a point list must look like."""
    try:
        table = np.asarray(points, dtype=np.float64)
    except (TypeError, ValueError):
        table = np.zeros(0)
    if table.shape != (7, 3) or not np.isfinite(table).all():
        found = f"shape {table.shape}" if table.shape != (7, 3) else "values that are not finite"
        raise InputError(f"the landmarks of {what} must be 7 points [7,3] ({_order()}), found {found}")
    eyes = float(np.linalg.norm(table[0] - table[3]))
    if len(np.unique(table, axis=0)) < 7 or eyes <= 0:
        raise InputError(f"the landmarks of {what} must be 7 different points ({_order()}), found some that coincide")
    return table


def _order() -> str:
    return "; ".join(NOW_LANDMARKS)


def check_order(predicted: Float[np.ndarray, "7 3"], scan: Float[np.ndarray, "7 3"]) -> None:
    """Raise InputError when the two sets of points cannot be the same points of two faces."""
    if _misfit(predicted, scan) <= _WORST_SHAPE:
        return
    mirrored: Sequence[int] = (3, 2, 1, 0, 4, 6, 5)
    hint = ""
    for name, points in (("the scan's", scan), ("the prediction's", predicted)):
        other = predicted if points is scan else scan
        if _misfit(points[list(mirrored)], other) <= _WORST_SHAPE:
            hint = f"; {name} left and right look swapped (right and left are the person's own)"
    for name, points in (("the scan's", scan), ("the prediction's", predicted)):
        order = np.diff(points[:4] @ (points[3] - points[0]))
        if (order <= 0).any():
            hint = hint or f"; {name} eye corners do not follow each other from right to left"
    raise InputError(
        f"the 7 landmarks of the prediction and of the scan do not fit each other; expected in this order: {_order()}"
        + hint
    )


def _misfit(source: np.ndarray, target: np.ndarray) -> float:
    """Root mean square distance after the best similarity, in shares of the target's own size."""
    moved = umeyama(source, target).apply(source)
    size = np.sqrt(((target - target.mean(0)) ** 2).sum(1).mean())
    return float(np.sqrt(((moved - target) ** 2).sum(1).mean()) / size)
