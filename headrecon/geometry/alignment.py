"""Rigid and similarity alignment of point sets (Umeyama, "Least-squares estimation of transformation parameters
between two point patterns", PAMI 1991)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from headrecon.errors import ShapeError


@dataclass(frozen=True)
class Similarity:
    """target ~ scale * rotation @ source + translation, in D dimensions."""

    rotation: Float[np.ndarray, "D D"]
    translation: Float[np.ndarray, " D"]
    scale: float

    def apply(self, points: Float[np.ndarray, "*N D"]) -> Float[np.ndarray, "*N D"]:
        return self.scale * points @ self.rotation.T + self.translation

    def inverse(self) -> Similarity:
        rotation = self.rotation.T
        return Similarity(rotation, -(rotation @ self.translation) / self.scale, 1.0 / self.scale)

    @property
    def matrix(self) -> Float[np.ndarray, "E E"]:
        """Homogeneous matrix, E = D + 1."""
        d = len(self.translation)
        out = np.eye(d + 1)
        out[:d, :d] = self.scale * self.rotation
        out[:d, d] = self.translation
        return out


def umeyama(
    source: Float[np.ndarray, "N D"],
    target: Float[np.ndarray, "_ _"],
    weights: Float[np.ndarray, " N"] | None = None,
    with_scale: bool = True,
) -> Similarity:
    """The similarity (or rigid motion) that takes source to target with the least weighted squared error.

    Never returns a reflection. Raises ShapeError when the sets differ in shape, hold fewer than D points with
    positive weight, or the source has no extent (the scale would be undefined).
    """
    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    if source.shape != target.shape or source.ndim != 2:
        raise ShapeError(f"alignment needs two sets of the same shape [N,D], found {source.shape} and {target.shape}")
    d = source.shape[1]
    w = np.ones(len(source)) if weights is None else np.asarray(weights, np.float64)
    if w.shape != (len(source),) or (w < 0).any() or np.count_nonzero(w) < d:
        raise ShapeError(f"alignment needs {len(source)} weights >= 0, at least {d} of them positive, found {w.shape}")
    w = w / w.sum()
    mean_s, mean_t = w @ source, w @ target
    cs, ct = source - mean_s, target - mean_t
    variance = float(w @ np.sum(cs * cs, axis=1))
    if with_scale and variance < 1e-30:
        raise ShapeError("alignment with scale needs source points that are not all the same point")
    u, s, vt = np.linalg.svd((ct * w[:, None]).T @ cs)
    sign = np.ones(d)
    if np.linalg.det(u) * np.linalg.det(vt) < 0:
        sign[-1] = -1
    rotation = (u * sign) @ vt
    scale = float(s @ sign) / variance if with_scale else 1.0
    return Similarity(rotation, mean_t - scale * rotation @ mean_s, scale)
