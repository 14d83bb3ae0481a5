"""Rotations in 32 bits: a unit quaternion without its largest component, as spz (version 3) and our pages hold them.

The three others are at most sqrt(1/2) long, in 9 bits and a sign each; the largest follows from the length 1.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, UInt8

_LARGEST_SMALL = np.sqrt(0.5)
_SMALL_STEPS = 511


def pack_smallest_three(quats_wxyz: Float[np.ndarray, "N 4"]) -> UInt8[np.ndarray, "N 4"]:
    """Little-endian words of unit quaternions: the number of the largest of x, y, z, w in the top two bits, then the
    others in their order."""
    xyzw = quats_wxyz[:, [1, 2, 3, 0]].astype(np.float64)
    largest = np.abs(xyzw).argmax(1)
    rows = np.arange(len(xyzw))
    xyzw = np.where(xyzw[rows, largest][:, None] < 0, -xyzw, xyzw)
    others = np.array([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])[largest]
    small = xyzw[rows[:, None], others]
    steps = np.minimum(np.floor(np.abs(small) / _LARGEST_SMALL * _SMALL_STEPS + 0.5), _SMALL_STEPS).astype(np.uint32)
    fields = steps | ((small < 0).astype(np.uint32) << 9)
    packed = (largest.astype(np.uint32) << 30) | (fields[:, 0] << 20) | (fields[:, 1] << 10) | fields[:, 2]
    return packed.astype("<u4").view(np.uint8).reshape(-1, 4)


def unpack_smallest_three(packed: UInt8[np.ndarray, "N 4"]) -> Float[np.ndarray, "N 4"]:
    """Unit quaternions, the largest component positive."""
    words = np.ascontiguousarray(packed).view("<u4")[:, 0]
    fields = np.stack([words >> 20, words >> 10, words], axis=1) & 0x3FF
    small = (fields & 0x1FF) * (_LARGEST_SMALL / _SMALL_STEPS) * np.where(fields & 0x200, -1.0, 1.0)
    largest = (words >> 30).astype(np.intp)
    others = np.array([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])[largest]
    xyzw = np.empty((len(words), 4))
    rows = np.arange(len(words))
    xyzw[rows[:, None], others] = small
    xyzw[rows, largest] = np.sqrt(np.maximum(0, 1 - (small * small).sum(1)))
    return xyzw[:, [3, 0, 1, 2]].astype(np.float32)
