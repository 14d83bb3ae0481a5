"""Smooth random fields in space: value noise on a random lattice, which repeats only after many of its grains."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

_LATTICE = 32


class NoiseField:
    """A random field over space, of mean 0 and deviation about 1, drawn once from `rng`."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._values = rng.standard_normal(_LATTICE**3).astype(np.float32)
        self._shift = rng.uniform(0, _LATTICE, 3)

    def __call__(self, points: Float[np.ndarray, "N 3"], grain: float) -> Float[np.ndarray, " N"]:
        """Values at points; `grain` is the size of its blobs, in the unit of the points."""
        at = (points / grain + self._shift).astype(np.float32)
        whole = np.floor(at)
        part = at - whole
        part = part * part * (3 - 2 * part)  # smooth where linear interpolation has kinks
        low = whole.astype(np.int64) % _LATTICE
        high = (low + 1) % _LATTICE
        strides = np.array([_LATTICE * _LATTICE, _LATTICE, 1])
        low, high = low * strides, high * strides
        total = np.zeros(len(points), dtype=np.float32)
        for corner in range(8):
            place, weight = 0, 1.0
            for axis in range(3):
                take_high = corner >> axis & 1
                place = place + (high if take_high else low)[:, axis]
                weight = weight * (part[:, axis] if take_high else 1 - part[:, axis])
            total += weight * self._values[place]
        # Interpolation between eight independent values lowers their deviation; 1.9 brings it back to about 1.
        return 1.9 * total.astype(np.float64)

    def octaves(self, points: Float[np.ndarray, "N 3"], grain: float, count: int = 3) -> Float[np.ndarray, " N"]:
        """Blobs upon blobs, each octave half as large and half as strong."""
        total, weight = np.zeros(len(points)), 0.0
        for k in range(count):
            total += 0.5**k * self(points + 17.3 * k, grain / 2**k)
            weight += 0.25**k
        return total / np.sqrt(weight)


@dataclass(frozen=True)
class SurfacePoints:
    """N points on a mesh, with what is needed to carry slowly varying values over from its vertices."""

    points: Float[np.ndarray, "N 3"]
    vertices: Float[np.ndarray, "V 3"]
    corners: Int[np.ndarray, "N 3"]
    barycentrics: Float[np.ndarray, "N 3"]

    def __len__(self) -> int:
        return len(self.points)

    def carry(self, values: Float[np.ndarray, " V"]) -> Float[np.ndarray, " N"]:
        """Values of the vertices at the points."""
        return (values[self.corners] * self.barycentrics).sum(1)

    def coarse(self, field: NoiseField, grain: float, shift: float = 0.0, count: int = 3) -> Float[np.ndarray, " N"]:
        """`field.octaves` worked out at the vertices: for grains of several edges' length it looks the same."""
        return self.carry(field.octaves(self.vertices + shift, grain, count))
