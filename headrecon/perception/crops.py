"""Square, turned regions of an image, resampled to what a network takes; and back from network to image coordinates.

Image coordinates are pixels with the centre of the first pixel at (0.5, 0.5). Crop coordinates run from 0 to 1 over the
region, so that they are the same for every network size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image


@dataclass(frozen=True)
class Roi:
    """A square region: centre and side in pixels, and the angle by which its x axis is turned (clockwise on screen)."""

    center_x: float
    center_y: float
    size: float
    angle_rad: float = 0.0

    def to_image(self, points: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N D"]:
        """Crop coordinates (x, y and, in the same scale, z where D is 3) to pixels of the image."""
        cos, sin = math.cos(self.angle_rad) * self.size, math.sin(self.angle_rad) * self.size
        x, y = points[:, 0] - 0.5, points[:, 1] - 0.5
        moved = np.stack([self.center_x + cos * x - sin * y, self.center_y + sin * x + cos * y], axis=1)
        return np.concatenate([moved, points[:, 2:] * self.size], axis=1)

    def to_crop(self, points: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N D"]:
        """The inverse of `to_image`."""
        cos, sin = math.cos(self.angle_rad) / self.size, math.sin(self.angle_rad) / self.size
        x, y = points[:, 0] - self.center_x, points[:, 1] - self.center_y
        moved = np.stack([0.5 + cos * x + sin * y, 0.5 - sin * x + cos * y], axis=1)
        return np.concatenate([moved, points[:, 2:] / self.size], axis=1)

    @property
    def corners(self) -> Float[np.ndarray, "4 2"]:
        """Top left, top right, bottom right, bottom left, in pixels."""
        return self.to_image(np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]))


class Tile:
    """The part of an image around a region, averaged down to about the resolution at which it will be sampled.

    Several similar regions can be sampled from one tile, which is where the time goes for large photos. Averaging comes
    first because sampling every fourth pixel of a sharp photo would hand the network noise.
    """

    def __init__(self, image_srgb: UInt8[np.ndarray, "H W 3"], roi: Roi, resolution: int, margin: float = 0.0) -> None:
        """Cover the region and margin (a part of its side) around it. A face may reach beyond the image."""
        self._factor = max(1, int(roi.size / resolution))
        corners = roi.corners
        around = 2 * self._factor + margin * roi.size
        self._low = np.floor(corners.min(0) - around).astype(int)
        box = _clamped_box(image_srgb, self._low, np.ceil(corners.max(0) + around).astype(int))
        picture = Image.fromarray(box)
        self._picture = picture.reduce(self._factor) if self._factor > 1 else picture

    def sample(self, roi: Roi, resolution: int, mirror: bool = False) -> UInt8[np.ndarray, "R R 3"]:
        """The region resampled to resolution x resolution pixels, flipped left to right with `mirror`."""
        # Pillow's affine maps output pixel centres to input positions, both with the first centre at (0.5, 0.5).
        step = roi.size / (self._factor * resolution)
        cos, sin = math.cos(roi.angle_rad) * step, math.sin(roi.angle_rad) * step
        left, top = (roi.corners[1 if mirror else 0] - self._low) / self._factor
        across = (-cos, -sin) if mirror else (cos, sin)
        matrix = (across[0], -sin, left, across[1], cos, top)
        size = (resolution, resolution)
        return np.asarray(self._picture.transform(size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR))


def sample_roi(image_srgb: UInt8[np.ndarray, "H W 3"], roi: Roi, resolution: int) -> UInt8[np.ndarray, "R R 3"]:
    """One region of an image resampled to resolution x resolution pixels; beyond the image its border is repeated."""
    return Tile(image_srgb, roi, resolution).sample(roi, resolution)


def _clamped_box(image: UInt8[np.ndarray, "H W 3"], low: np.ndarray, high: np.ndarray) -> UInt8[np.ndarray, "h w 3"]:
    """The box low..high (x, y) of the image, its border repeated where the box reaches beyond."""
    height, width = image.shape[:2]
    x0, x1 = np.clip([low[0], high[0]], 0, width)
    y0, y1 = np.clip([low[1], high[1]], 0, height)
    if x0 == x1 or y0 == y1:  # the box lies wholly outside: nothing of it was photographed
        return np.zeros((high[1] - low[1], high[0] - low[0], 3), np.uint8)
    padding = ((y0 - low[1], high[1] - y1), (x0 - low[0], high[0] - x1), (0, 0))
    inside = image[y0:y1, x0:x1]
    return np.ascontiguousarray(inside) if not np.any(padding) else np.pad(inside, padding, mode="edge")
