"""The pose that is shown: changed by sliders and tracks from any thread, read by whoever draws."""

from __future__ import annotations

import threading

import numpy as np
from jaxtyping import Float

from headrecon.driving.figures import Figure
from headrecon.driving.stills import TURNS
from headrecon.geometry.euler import angles, axis_angle


class Puppet:
    """A figure's current flat parameters. `version` rises with every change."""

    def __init__(self, figure: Figure) -> None:
        self.names = figure.assets.expression_names
        self._slices = figure.joints.layout.slices
        self._rest = figure.rest()
        self._row = self._rest.copy()
        self._lock = threading.Lock()
        self.version = 0

    @property
    def row(self) -> Float[np.ndarray, " P"]:
        """A copy."""
        with self._lock:
            return self._row.copy()

    def set_row(self, row: Float[np.ndarray, " P"]) -> None:
        """Take over a frame of a track."""
        with self._lock:
            self._row[:] = row
            self.version += 1

    def set_weight(self, name: str, weight: float) -> None:
        """One expression."""
        with self._lock:
            self._row[self._slices["expression"]][self.names.index(name)] = weight
            self.version += 1

    def set_turn(self, title: str, yaw: float, pitch: float, roll: float = 0.0) -> None:
        """Degrees of one of `TURNS`; see `geometry.euler`."""
        with self._lock:
            for field in TURNS[title]:
                self._row[self._slices[field]] = axis_angle(yaw, pitch, roll)
            self.version += 1

    def rest(self) -> None:
        """Back to no expression, upright, at home."""
        self.set_row(self._rest)

    def weights(self) -> dict[str, float]:
        """Expressions by name."""
        return dict(zip(self.names, self.row[self._slices["expression"]].tolist(), strict=True))

    def turns(self) -> dict[str, tuple[float, float, float]]:
        """Yaw, pitch and roll in degrees by title; of the gaze, the mean of both eyes."""
        row = self.row
        return {title: angles(*(row[self._slices[f]] for f in fields)) for title, fields in TURNS.items()}
