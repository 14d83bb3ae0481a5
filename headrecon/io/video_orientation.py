"""Which way up a video's stored pictures are to be shown: quarter turns and mirrors of the display matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8


@dataclass(frozen=True)
class Orientation:
    """across: rows become columns; then columns and rows are put in reverse. The eight ways to show a rectangle."""

    across: bool = False
    flip_x: bool = False
    flip_y: bool = False

    @staticmethod
    def of_matrix(a: float, b: float, c: float, d: float) -> Orientation:
        """From x' = a x + c y, y' = b x + d y (y down): the nearest one; a matrix of zeros changes nothing."""
        if abs(b) + abs(c) > abs(a) + abs(d):
            return Orientation(True, c < 0, b < 0)
        return Orientation(False, a < 0, d < 0)

    @staticmethod
    def of_frame(frame: Any) -> Orientation:
        """What a decoded frame (PyAV) says, in its display matrix of 16.16 fixed point."""
        for part in frame.side_data:
            if "DISPLAYMATRIX" in str(part.type):
                numbers = np.frombuffer(bytes(part), np.int32)
                if len(numbers) >= 5:
                    a, b, _, c, d = (float(n) for n in numbers[:5])
                    return Orientation.of_matrix(a, b, c, d)
        return Orientation()

    def apply(self, image: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "h w 3"]:
        """The picture as it is to be shown, contiguous."""
        out = image.transpose(1, 0, 2) if self.across else image
        out = out[:, ::-1] if self.flip_x else out
        return np.ascontiguousarray(out[::-1] if self.flip_y else out)
