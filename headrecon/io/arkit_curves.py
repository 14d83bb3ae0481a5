"""A track's motion as ARKit's 52 weights and the angles of Live Link Face, whatever joints its head model moves.

ARKit has no jaw joint and says twice where eyes look: as angles and as `eyeLook...` weights. Here the opening of a jaw
joint counts as `jawOpen`, and turns of the eye joints as `eyeLook...`, beside weights of those names.

Signs and units were read off recordings of the app that are public (nine takes of two people: eye angles against the
`eyeLook...` weights in the same rows, correlation 0.94 to 1.00) and, for the head, which those takes leave at zero, off
two public programs that show the app's stream (MeFaMo, GodotLiveLinkFace). All are radians.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from headrecon.geometry import so3
from headrecon.structures import ARKIT_NAMES, Track

#: `eyeLook...` weight for a radian: medians over the recordings (1.2 to 1.7, and 1.7 to 2.4).
EYE_WEIGHT_PER_RADIAN = (1.55, 2.2)
#: Radians of a jaw joint that are `jawOpen` = 1 and `jawLeft` = 1: 40 mm and 12 mm at a chin 100 mm before the joint.
JAW_OPEN_RADIANS = 0.4
JAW_SIDE_RADIANS = 0.12


@dataclass(frozen=True)
class ArkitCurves:
    """weights: 0..1, columns in the order of `ARKIT_NAMES`. head, left_eye, right_eye: yaw, pitch, roll in radians.

    Head: yaw > 0 to the person's left, pitch > 0 up, roll > 0 towards the person's right shoulder; in the world of the
    track's cameras. Eyes, in the head: yaw > 0 to the person's right, pitch > 0 down.
    """

    weights: Float[np.ndarray, "T 52"]
    head: Float[np.ndarray, "T 3"]
    left_eye: Float[np.ndarray, "T 3"]
    right_eye: Float[np.ndarray, "T 3"]


def arkit_curves(track: Track) -> ArkitCurves:
    """Weights and angles of every frame. Expressions that the model lacks are 0; names beyond ARKit's are left out."""
    params = track.params
    weights = np.zeros((len(track), len(ARKIT_NAMES)))
    for column, name in enumerate(track.expression_names):
        if name in ARKIT_NAMES:
            weights[:, ARKIT_NAMES.index(name)] += params.expression[:, column]
    _add_jaw(weights, np.asarray(params.jaw_pose, dtype=np.float64))
    eyes = {}
    for side, pose in (("Left", params.leye_pose), ("Right", params.reye_pose)):
        turn = euler_yxz(so3.exp(np.asarray(pose, dtype=np.float64)))
        eyes[side] = _eye_angles(weights, side, turn)
    head = so3.exp(np.asarray(params.global_orient, dtype=np.float64))
    head = head @ so3.exp(np.asarray(params.neck_pose, dtype=np.float64))
    return ArkitCurves(np.clip(weights, 0, 1), euler_yxz(head) * (1, -1, 1), eyes["Left"], eyes["Right"])


def _add_jaw(weights: np.ndarray, jaw: np.ndarray) -> None:
    """Turning about +x opens, about +y takes the chin to the person's left."""
    weights[:, _index("jawOpen")] += jaw[:, 0] / JAW_OPEN_RADIANS
    weights[:, _index("jawLeft")] += np.maximum(jaw[:, 1], 0) / JAW_SIDE_RADIANS
    weights[:, _index("jawRight")] += np.maximum(-jaw[:, 1], 0) / JAW_SIDE_RADIANS


def _eye_angles(weights: np.ndarray, side: str, turn: np.ndarray) -> np.ndarray:
    """Live Link's angles of an eye; its turn is added to the weights, and weights of the model to the angles."""
    names = {way: _index(f"eyeLook{way}{side}") for way in ("In", "Out", "Up", "Down")}
    to_right, to_left = ("In", "Out") if side == "Left" else ("Out", "In")
    across, along = EYE_WEIGHT_PER_RADIAN
    yaw = -turn[:, 0] + (weights[:, names[to_right]] - weights[:, names[to_left]]) / across
    pitch = turn[:, 1] + (weights[:, names["Down"]] - weights[:, names["Up"]]) / along
    for way, amount in ((to_right, -turn[:, 0] * across), (to_left, turn[:, 0] * across)):
        weights[:, names[way]] += np.maximum(amount, 0)
    for way, amount in (("Down", turn[:, 1] * along), ("Up", -turn[:, 1] * along)):
        weights[:, names[way]] += np.maximum(amount, 0)
    return np.stack([yaw, pitch, turn[:, 2]], axis=1)


def _index(name: str) -> int:
    return ARKIT_NAMES.index(name)


def euler_yxz(rotations: Float[np.ndarray, "*B 3 3"]) -> Float[np.ndarray, "*B 3"]:
    """Angles (y, x, z) in radians of rotations R_y(y) R_x(x) R_z(z): turn, nod, tilt.

    y and z in (-pi, pi], x within ±pi/2; at a nod of ±90 degrees, where the other two cannot be told apart, z is 0.
    """
    r = np.asarray(rotations, dtype=np.float64)
    x = np.arcsin(np.clip(-r[..., 1, 2], -1, 1))
    steep = np.abs(r[..., 1, 2]) > 1 - 1e-12
    y = np.where(steep, np.arctan2(-r[..., 2, 0], r[..., 0, 0]), np.arctan2(r[..., 0, 2], r[..., 2, 2]))
    z = np.where(steep, 0.0, np.arctan2(r[..., 1, 0], r[..., 1, 1]))
    return np.stack([y, x, z], axis=-1)
