"""Small pictures of a head, at three sizes, to be compared through the rigid head: brightness, and red against green.

Both are logarithms: light that changes by a factor adds a number to the first, which comparing neighbours takes out,
and nothing to the second, which tells brows, lips and hair from skin whatever light falls on them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

#: Metres of the head that a pixel of the finest picture spans, and how many sizes there are, each half the next.
PIXEL_M, LEVELS = 0.002, 3
CHANNELS = 2
#: Added to brightness (0..255) before the logarithm: noise in the dark shall not count as pattern.
_DARK = 12.0
#: Rec. 709 weights of red, green and blue in what the eye takes for brightness.
_LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)


@dataclass(frozen=True)
class Window:
    """The part of all frames of a stretch that is kept. left, top, width, height: pixels of the frame; size: width and
    height of the kept picture."""

    left: int
    top: int
    width: int
    height: int
    size: tuple[int, int]

    @staticmethod
    def around(
        low: Float[np.ndarray, "2"], high: Float[np.ndarray, "2"], image: tuple[int, int], per_m: float
    ) -> Window:
        """The box low..high (pixels), as much of it as lies in the image (width, height). per_m: pixels a metre."""
        x0, y0 = (int(np.clip(np.floor(v), 0, n - 8)) for v, n in zip(low, image, strict=True))
        x1, y1 = (int(np.clip(np.ceil(v), s + 8, n)) for v, s, n in zip(high, (x0, y0), image, strict=True))
        factor = min(1.0, 1.0 / (per_m * PIXEL_M))
        size = (max(8, round((x1 - x0) * factor)), max(8, round((y1 - y0) * factor)))
        return Window(x0, y0, x1 - x0, y1 - y0, size)

    def keep(self, image_srgb: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "h w 3"]:
        """The window of a frame, small: what is held in memory."""
        part = image_srgb[self.top : self.top + self.height, self.left : self.left + self.width]
        if self.size == (self.width, self.height):
            return part.copy()
        # Averaged down: every pixel of the frame counts, so that noise and fine hair do not flicker.
        return np.asarray(Image.fromarray(part).resize(self.size, Image.Resampling.BOX))


@dataclass(frozen=True)
class Sample:
    """Both channels at some pixels, their slopes (per pixel of the frame) and which pixels lie within the window."""

    value: Float[np.ndarray, "N C"]
    slope: Float[np.ndarray, "N C 2"]
    inside: Bool[np.ndarray, " N"]


@dataclass(frozen=True)
class RigidPicture:
    """One frame's window."""

    window: Window
    colours: UInt8[np.ndarray, "h w 3"]

    @cached_property
    def _levels(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Both channels [h,w,2] and their slopes (x, y), coarse to fine."""
        out = []
        colours = _smoothed(self.colours.astype(np.float32)) + _DARK
        picture = np.log(np.stack([colours @ _LUMA, colours[..., 0] / colours[..., 1]], axis=-1))
        for level in range(LEVELS):
            if level:
                picture = _halved(picture)
            dy, dx = np.gradient(picture, axis=(0, 1))
            out.append((picture, np.stack([dx, dy], axis=-1)))
        return out[::-1]

    def sample(self, pixels: Float[np.ndarray, "N 2"], level: int) -> Sample:
        """The channels at pixels of the frame. level: 0 the coarsest."""
        picture, slopes = self._levels[level]
        high, wide = picture.shape[:2]
        scale = np.array([wide / self.window.width, high / self.window.height])
        at = (pixels - (self.window.left, self.window.top)) * scale - 0.5
        inside = np.asarray(((at >= 0) & (at <= np.array([wide - 1, high - 1]))).all(1))
        at = np.clip(np.nan_to_num(at), 0, np.array([wide, high]) - 1.001)
        corner = at.astype(np.int64)
        (fx, fy), (x, y) = (at - corner).T, corner.T
        weights = ((1 - fx) * (1 - fy), fx * (1 - fy), (1 - fx) * fy, fx * fy)
        places = ((y, x), (y, x + 1), (y + 1, x), (y + 1, x + 1))
        value, slope = np.zeros((len(at), CHANNELS)), np.zeros((len(at), CHANNELS, 2))
        for weight, place in zip(weights, places, strict=True):
            value += weight[:, None] * picture[place]
            slope += weight[:, None, None] * slopes[place]
        return Sample(value, slope * scale, inside)


def _smoothed(picture: np.ndarray) -> np.ndarray:
    """1-2-1 along both axes."""
    for axis in (0, 1):
        padded = np.pad(picture, [(1, 1) if a == axis else (0, 0) for a in range(picture.ndim)], mode="edge")
        count = picture.shape[axis]
        low, high = (np.take(padded, np.arange(k, k + count), axis=axis) for k in (0, 2))
        picture = 0.5 * picture + 0.25 * (low + high)
    return picture


def _halved(picture: np.ndarray) -> np.ndarray:
    """Smoothed, then two by two averaged; an odd last row or column is repeated."""
    picture = _smoothed(picture)
    high, wide = picture.shape[:2]
    picture = np.pad(picture, ((0, high % 2), (0, wide % 2), (0, 0)), mode="edge")
    return 0.25 * (picture[::2, ::2] + picture[1::2, ::2] + picture[::2, 1::2] + picture[1::2, 1::2])
