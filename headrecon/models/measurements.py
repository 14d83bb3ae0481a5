"""Anthropometric measures on a head model: lengths of polylines through embedded points on the neutral head.

A measure travels with its model as the landmark set "measure-<name>": two points give a distance, more give an arc or
(first point repeated last) a circumference. Names and definitions are those of headrecon/data/anthropometry.json.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from headrecon.structures import HeadAssets, LandmarkEmbedding

PREFIX = "measure-"


@dataclass(frozen=True)
class Measurement:
    """One named length: the polyline through `points`, measured on the neutral head."""

    name: str
    points: LandmarkEmbedding

    def length(self, vertices: Float[np.ndarray, "V 3"]) -> float:
        """Length in metres on given vertices."""
        at = (vertices[self.points.vertex_ids] * self.points.barycentrics[..., None]).sum(1)
        return float(np.linalg.norm(np.diff(at, axis=0), axis=1).sum())

    def gradient(self, vertices: Float[np.ndarray, "V 3"], directions: Float[np.ndarray, "V 3 K"]) -> np.ndarray:
        """Derivative of the length along each direction of a linear shape space, [K]."""
        weights = self.points.barycentrics
        at = (vertices[self.points.vertex_ids] * weights[..., None]).sum(1)
        moves = np.einsum("lc,lcdk->ldk", weights, directions[self.points.vertex_ids])
        step = np.diff(at, axis=0)
        unit = step / np.maximum(np.linalg.norm(step, axis=1, keepdims=True), 1e-12)
        return np.einsum("ld,ldk->k", unit, np.diff(moves, axis=0))


def measurements_of(assets: HeadAssets) -> dict[str, Measurement]:
    """The measures that a model defines, by name (none for models without them)."""
    found = {k.removeprefix(PREFIX): e for k, e in assets.landmarks.items() if k.startswith(PREFIX)}
    return {name: Measurement(name, points) for name, points in found.items()}
