"""Robust kernels for least squares, applied to the squared norm s of a whitened residual group.

Each kernel gives rho(s) with rho'(0) = 1 and the weight rho'(s) of iteratively reweighted least squares. The solver
uses plain reweighting (J^T rho' J) rather than Triggs' second-order correction (Triggs et al. 2000, section 4.3): the
gradient is exact either way, and without the correction the normal matrix stays positive semi-definite for outliers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float


@runtime_checkable
class Kernel(Protocol):
    """What the solver asks of a kernel."""

    def rho(self, s: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]: ...

    def weight(self, s: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]: ...


@dataclass(frozen=True)
class Quadratic:
    """Plain least squares."""

    def rho(self, s: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
        return s

    def weight(self, s: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
        return np.ones_like(s)


@dataclass(frozen=True)
class Huber:
    """Quadratic up to `scale` standard deviations, linear beyond."""

    scale: float = 1.5

    def rho(self, s: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
        k = self.scale
        return np.where(s <= k * k, s, 2 * k * np.sqrt(np.maximum(s, k * k)) - k * k)

    def weight(self, s: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
        return self.scale / np.sqrt(np.maximum(s, self.scale**2))


@dataclass(frozen=True)
class GemanMcClure:
    """Redescending: rho = c^2 s / (c^2 + s), so an outlier costs at most c^2."""

    scale: float = 4.0

    def rho(self, s: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
        c2 = self.scale**2
        return c2 * s / (c2 + s)

    def weight(self, s: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
        c2 = self.scale**2
        return (c2 / (c2 + s)) ** 2


@dataclass(frozen=True)
class Tukey:
    """Tukey's biweight: zero weight beyond `scale` standard deviations. Needs a good start."""

    scale: float = 6.0

    def rho(self, s: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
        c2 = self.scale**2
        return c2 / 3 * (1 - np.clip(1 - s / c2, 0, None) ** 3)

    def weight(self, s: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
        return np.clip(1 - s / self.scale**2, 0, None) ** 2
