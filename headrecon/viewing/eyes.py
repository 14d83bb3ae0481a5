"""Where a browser looks from, as our cameras."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from headrecon.structures import Cameras


@dataclass(frozen=True)
class Eye:
    """A browser's camera. wxyz turns its axes (OpenCV) into the world's; fov_radians: over the height; size: pixels."""

    wxyz: tuple[float, float, float, float]
    position: tuple[float, float, float]
    fov_radians: float
    size: tuple[int, int]

    def camera(self, longest: int) -> Cameras:
        """The same view, no side longer than so many pixels; sides are at least 16."""
        width, height = self.size
        share = min(1.0, longest / max(width, height))
        size = max(16, round(width * share)), max(16, round(height * share))
        rotation = _rotation(np.asarray(self.wxyz, dtype=np.float64))
        viewmat = np.eye(4)
        viewmat[:3, :3] = rotation.T
        viewmat[:3, 3] = -rotation.T @ np.asarray(self.position, dtype=np.float64)
        focal = 0.5 * size[1] / math.tan(0.5 * self.fov_radians)
        k = np.array(
            [[focal * (size[0] / size[1]) / (width / height), 0, size[0] / 2], [0, focal, size[1] / 2], [0, 0, 1]]
        )
        return Cameras(viewmat.astype(np.float32), k.astype(np.float32), *size)


def _rotation(wxyz: Float[np.ndarray, "4"]) -> Float[np.ndarray, "3 3"]:
    w, x, y, z = wxyz / max(float(np.linalg.norm(wxyz)), 1e-12)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
