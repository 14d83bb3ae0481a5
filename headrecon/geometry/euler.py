"""Turns of a head as people say them: yaw, pitch and roll in degrees, to and from axis-angle."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from headrecon.geometry import so3


def axis_angle(yaw: float, pitch: float, roll: float) -> Float[np.ndarray, "3"]:
    """Axis-angle of degrees: first roll about +z, then pitch about +x (positive looks down), then yaw about +y
    (positive turns to the person's left)."""
    about = [np.radians(a) * np.array(axis) for a, axis in ((yaw, (0, 1, 0)), (pitch, (1, 0, 0)), (roll, (0, 0, 1)))]
    turned = so3.exp(about[0]) @ so3.exp(about[1]) @ so3.exp(about[2])
    return so3.log(turned)


def angles(*rotations: Float[np.ndarray, "3"]) -> tuple[float, float, float]:
    """Yaw, pitch and roll in degrees of axis-angles, the mean of several; the inverse of `axis_angle`."""
    found = []
    for rotation in rotations:
        m = so3.exp(rotation)
        yaw, pitch = np.arctan2(m[0, 2], m[2, 2]), np.arcsin(np.clip(-m[1, 2], -1, 1))
        found.append(np.degrees([yaw, pitch, np.arctan2(m[1, 0], m[1, 1])]))
    yaw, pitch, roll = np.mean(found, axis=0)
    return float(yaw), float(pitch), float(roll)
