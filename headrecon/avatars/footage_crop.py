"""The part of a video that shows one person's head, hair and shoulders: one square that stands still."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from headrecon.geometry.cameras import crop_cameras, project_points
from headrecon.models.moving_head import MovingHead
from headrecon.structures import Cameras

#: Room around the projected head, in heights of the head: hair stands off it, shoulders reach beyond it.
_ABOVE, _BESIDE, _BELOW = 0.30, 0.60, 0.55
#: At most so many frames say where the head is.
_LOOKED_AT = 200
#: Every so many vertices say how far the head reaches.
_VERTEX_STEP = 17


@dataclass(frozen=True)
class Crop:
    """A square of the video, x0 to x0 + side; it may reach beyond the picture. size: of it when scaled, pixels."""

    x0: int
    y0: int
    side: int
    size: int

    def cameras(self, cameras: Cameras) -> Cameras:
        """The cameras of the scaled squares."""
        return crop_cameras(
            cameras, (self.x0, self.y0, self.x0 + self.side, self.y0 + self.side), (self.size, self.size)
        )

    def points(self, pixels: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N D"]:
        """Points of the video's picture in the scaled square; a third column keeps its scale."""
        scaled = pixels * (self.size / self.side)
        scaled[:, :2] -= np.array([self.x0, self.y0]) * (self.size / self.side)
        return scaled

    def inside(self, width: int, height: int) -> tuple[int, int, int, int]:
        """x0, y0, x1, y1 in pixels of the scaled square: the part that lies wholly in a video's picture."""
        scale = self.size / self.side
        x0, y0 = (int(np.ceil(max(0, -at) * scale - 1e-9)) for at in (self.x0, self.y0))
        x1 = int(np.floor(min(self.side, width - self.x0) * scale + 1e-9))
        y1 = int(np.floor(min(self.side, height - self.y0) * scale + 1e-9))
        return x0, y0, x1, y1

    def picture(self, image: UInt8[np.ndarray, "H W *D"]) -> UInt8[np.ndarray, "S S *D"]:
        """The scaled square (an average over areas when it shrinks). What lies outside the picture repeats its border.

        Pixels are areas: their centres lie half a pixel in, before and after.
        """
        height, width = image.shape[:2]
        x0, y0 = max(0, self.x0), max(0, self.y0)
        x1, y1 = min(width, self.x0 + self.side), min(height, self.y0 + self.side)
        part = image[y0:y1, x0:x1]
        pads = (y0 - self.y0, self.y0 + self.side - y1), (x0 - self.x0, self.x0 + self.side - x1)
        part = np.pad(part, (*pads, *((0, 0),) * (image.ndim - 2)), mode="edge")
        if self.size == self.side:
            return np.ascontiguousarray(part)
        way = Image.Resampling.BOX if self.size < self.side else Image.Resampling.BICUBIC
        return np.asarray(Image.fromarray(np.ascontiguousarray(part)).resize((self.size, self.size), way))


def choose_crop(head: MovingHead, usable: Bool[np.ndarray, " T"], size: int) -> Crop:
    """The smallest square with head, hair and shoulders in all usable frames, kept within the picture where it can be.

    Where the picture is smaller than that, the square holds what the picture shows of it. O(frames x vertices), at most
    200 frames. Raises ValueError without a usable frame.
    """
    ids = np.flatnonzero(usable)
    if not len(ids):
        raise ValueError("choose_crop needs at least one usable frame")
    ids = ids[np.unique(np.linspace(0, len(ids) - 1, min(len(ids), _LOOKED_AT)).round().astype(int))]
    boxes = np.array([_head_box(head, int(i)) for i in ids])
    # A frame or two that the track has wrong must not widen the square for all.
    x0, y0 = np.percentile(boxes[:, :2], 1, axis=0)
    x1, y1 = np.percentile(boxes[:, 2:], 99, axis=0)
    tall = float(np.median(boxes[:, 3] - boxes[:, 1]))
    x0, x1 = x0 - _BESIDE * tall, x1 + _BESIDE * tall
    y0, y1 = y0 - _ABOVE * tall, y1 + _BELOW * tall
    width, height = head.track.cameras.width, head.track.cameras.height
    x0, y0, x1, y1 = max(0.0, x0), max(0.0, y0), min(float(width), x1), min(float(height), y1)
    side = int(np.ceil(max(x1 - x0, y1 - y0)))
    return Crop(_placed(x0, x1, side, width), _placed(y0, y1, side, height), side, size)


def _head_box(head: MovingHead, place: int) -> Float[np.ndarray, "4"]:
    pixels, _ = project_points(head.vertices(place)[::_VERTEX_STEP].astype(np.float64), head.camera(place))
    return np.concatenate([pixels.min(0), pixels.max(0)])


def _placed(low: float, high: float, side: int, limit: int) -> int:
    """Where a span of `side` begins that holds low..high in its middle, within 0..limit if it fits there."""
    start = round((low + high - side) / 2)
    return min(max(0, start), limit - side) if side <= limit else round((limit - side) / 2)
