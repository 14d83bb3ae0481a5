"""Which frames of a video tell most about a person: different poses and expressions, sharp, whole, and few.

Each frame is described by a handful of numbers (turn, openings, brows, size). Keyframes are chosen greedily, always the
frame that differs most from those chosen already (Gonzalez 1985, farthest-first traversal: within a factor of two of
the best spread), starting with the calmest frontal one.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

from headrecon.fitting import landmark_groups as groups
from headrecon.fitting.video.openings import opening_heights

#: What counts as one step of difference: yaw, pitch, roll (radians), lids, lips, mouth's width, brows (eye distances),
#: logarithm of the size.
SCALES = np.array([0.25, 0.2, 0.3, 0.08, 0.15, 0.12, 0.08, 0.35])
#: A frame nearer than this to a chosen one adds nothing.
_LEAST_STEP = 0.35
#: Motion blur: frames that move faster than this share of the fastest tenth are preferred less.
_SPEED_WEIGHT = 0.5
_FOREHEAD_POINT, _CHIN_POINT = 10, 152
_MOUTH_CORNERS = (61, 291)
#: Detectors' points bend beyond this turn; such frames are left to tracking.
_LARGEST_YAW = 1.0
_LEAST_PRESENCE = 0.9
#: Columns of the pose and of the face in `SCALES`; one step of a turn that shows the lens (yaw, pitch, roll in radians,
#: log size); the turn beyond which too little skin is shared.
_POSE, _FACE = [0, 1, 2, 7], [3, 4, 5, 6]
_TURN_SCALES = np.array([0.05, 0.05, 0.3, 0.1])
_LARGEST_TURN = 0.75


def describe(marks: Float[np.ndarray, "T 478 3"]) -> Float[np.ndarray, "T 8"]:
    """The numbers of each frame, in units of `SCALES`."""
    rows = []
    for points in np.asarray(marks, np.float64):
        size = groups.interocular_px(points)
        right, left = groups.eye_centers(points)
        across, down = left - right, points[_CHIN_POINT] - points[_FOREHEAD_POINT]
        cheeks = points[groups.CHEEKS[1]] - points[groups.CHEEKS[0]]
        heights = opening_heights(points)
        width = np.linalg.norm(points[_MOUTH_CORNERS[0]] - points[_MOUTH_CORNERS[1]]) / size
        brows = (points[list(groups.RIGHT_BROW + groups.LEFT_BROW)].mean(0) - 0.5 * (right + left)) @ down
        rows.append(
            [
                np.arctan2(cheeks[2], cheeks[0]),
                np.arctan2(down[2], down[1]),
                np.arctan2(across[1], across[0]),
                heights[:6].mean(),
                heights[6:].mean(),
                width,
                brows / (np.linalg.norm(down) * size),
                np.log(size),
            ]
        )
    return np.array(rows).reshape(-1, len(SCALES)) / SCALES


def choose_keyframes(
    features: Float[np.ndarray, "T 8"], presence: Float[np.ndarray, " T"], count: int
) -> Int[np.ndarray, " K"]:
    """Up to `count` frames, in the order of their index. features: rows of `describe`, NaN where nobody was seen.

    Empty when nobody was seen at all. O(T count) time, O(T) memory.
    """
    usable = _usable(features, presence)
    ids = np.flatnonzero(usable)
    if not len(ids):
        return ids
    rows = features[ids]
    calm = np.median(rows, axis=0)
    calm[:3] = [0.0, np.median(rows[:, 1]), 0.0]
    # Of two frames that are as different as each other the slower one is sharper.
    blur = 1 + _SPEED_WEIGHT * _speed(features)[ids]
    chosen = [int(np.argmin(np.linalg.norm(rows - calm, axis=1) * blur))]
    nearest = np.linalg.norm(rows - rows[chosen[0]], axis=1)
    while len(chosen) < min(count, len(ids)):
        best = int(np.argmax(nearest / blur))
        if nearest[best] < _LEAST_STEP:
            break
        chosen.append(best)
        nearest = np.minimum(nearest, np.linalg.norm(rows - rows[best], axis=1))
    return np.sort(ids[chosen])


def choose_turns(
    features: Float[np.ndarray, "T 8"], presence: Float[np.ndarray, " T"], count: int
) -> Int[np.ndarray, " K"]:
    """Up to `count` frames that differ in how the head is turned and alike in what the face does, in their order.

    They show the lens (`skin_focal`). Like `choose_keyframes` otherwise; empty when nobody was seen well.
    """
    turned = np.abs(np.nan_to_num(features[:, 0], nan=np.inf)) * SCALES[0]
    seen = np.isfinite(features).all(1) & (presence > _LEAST_PRESENCE) & (turned < _LARGEST_TURN)
    ids = np.flatnonzero(seen)
    if not len(ids):
        return ids
    rows = features[ids]
    pose = rows[:, _POSE] * SCALES[_POSE] / _TURN_SCALES
    face = np.linalg.norm(rows[:, _FACE] - np.median(rows[:, _FACE], axis=0), axis=1)
    # A face that moves is not rigid, and one that moves fast is not sharp.
    cost = 0.5 * face + _SPEED_WEIGHT * _speed(features)[ids]
    middle = np.linalg.norm(pose - np.median(pose, axis=0), axis=1)
    chosen = [int(np.argmin(0.3 * middle + cost))]
    nearest = np.linalg.norm(pose - pose[chosen[0]], axis=1)
    while len(chosen) < min(count, len(ids)):
        best = int(np.argmax(nearest - cost))
        if nearest[best] < _LEAST_STEP:
            break
        chosen.append(best)
        nearest = np.minimum(nearest, np.linalg.norm(pose - pose[best], axis=1))
    return np.sort(ids[chosen])


def _usable(features: np.ndarray, presence: np.ndarray) -> Bool[np.ndarray, " T"]:
    seen = np.isfinite(features).all(1) & (presence > 0)
    good = seen & (presence > _LEAST_PRESENCE)
    frontal = good & (np.abs(np.nan_to_num(features[:, 0])) * SCALES[0] < _LARGEST_YAW)
    return frontal if frontal.any() else good if good.any() else seen


def _speed(features: np.ndarray) -> Float[np.ndarray, " T"]:
    """How fast a frame changes, 0..1: 1 for the fastest tenth."""
    if len(features) < 3:
        return np.zeros(len(features))
    steps = np.linalg.norm(np.diff(features, axis=0), axis=1)
    around = np.fmax(np.append(steps, 0.0), np.insert(steps, 0, 0.0))
    finite = around[np.isfinite(around)]
    top = np.percentile(finite, 90) if len(finite) else 1.0
    return np.clip(np.nan_to_num(around, nan=top) / max(top, 1e-9), 0.0, 1.0)
