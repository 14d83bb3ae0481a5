"""The frame in which the points of a detected face are compared, from picture to picture and with what is expected."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

_RIGHT_EYE, _LEFT_EYE = [33, 133], [362, 263]
_RIGHT_OUTER, _LEFT_OUTER = 33, 263


@dataclass(frozen=True)
class EyeFrame:
    """Origin between the eyes, x along the line of their outer corners as seen; the unit is the distance between the
    eyes' centres, in three dimensions where the points have them, so that turning the head does not shrink it."""

    origin: Float[np.ndarray, "2"]
    axes: Float[np.ndarray, "2 2"]  # rows: x and y axis in the picture
    scale_px: float

    @staticmethod
    def of(points: Float[np.ndarray, "478 D"]) -> EyeFrame:
        """Frame of detected points (pixels, z in the same scale). Upright where both corners lie in one place."""
        across = points[_LEFT_OUTER, :2] - points[_RIGHT_OUTER, :2]
        length = float(np.linalg.norm(across))
        x = across / length if length > 1e-9 else np.array([1.0, 0.0])
        right, left = points[_RIGHT_EYE].mean(0), points[_LEFT_EYE].mean(0)
        scale = max(float(np.linalg.norm(left - right)), 1e-9)
        return EyeFrame(0.5 * (right + left)[:2], np.array([x, [-x[1], x[0]]]), scale)

    def normalized(self, points: Float[np.ndarray, "478 3"]) -> Float[np.ndarray, "478 3"]:
        """The points in this frame; z from the depth of the eyes."""
        flat = (points[:, :2] - self.origin) @ self.axes.T
        depth = points[:, 2:] - points[[*_RIGHT_EYE, *_LEFT_EYE], 2].mean()
        return np.concatenate([flat, depth], axis=1) / self.scale_px
