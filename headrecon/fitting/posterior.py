"""The Gaussian posterior around a solution (Laplace's approximation), with bounded parameters handled.

The covariance is the inverse of J^T W J + prior precision. A parameter near or on its bound does not have a Gaussian
there: given the others it follows a normal distribution cut off at the bound. Its precision is raised so that
this conditional distribution keeps the variance of the truncated normal, which neither pretends that a
parameter on its bound is known exactly nor lets it vary into the forbidden side.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from headrecon.fitting.least_squares import Problem, Solution


@dataclass(frozen=True)
class Posterior:
    """Covariance over the flat vector of a problem; entries that were fixed have zero variance."""

    covariance: Float[np.ndarray, "P P"]
    slices: dict[str, slice]

    def marginal(self, name: str) -> Float[np.ndarray, "N N"]:
        """Covariance of one block."""
        s = self.slices[name]
        return self.covariance[s, s]

    def sigma(self, name: str) -> Float[np.ndarray, " N"]:
        """Standard deviations of one block."""
        return np.sqrt(np.diag(self.marginal(name)))

    def propagate(self, jacobian: Float[np.ndarray, "M P"]) -> Float[np.ndarray, "M M"]:
        """Covariance of derived quantities by the delta method."""
        return jacobian @ self.covariance @ jacobian.T


def truncated_variance(
    mean: Float[np.ndarray, " N"],
    sigma: Float[np.ndarray, " N"],
    lower: Float[np.ndarray, " N"],
    upper: Float[np.ndarray, " N"],
) -> Float[np.ndarray, " N"]:
    """Variance of N(mean, sigma^2) cut to [lower, upper] (Johnson, Kotz, Balakrishnan 1994, section 13.10.1)."""
    from scipy.special import log_ndtr

    a, b = (lower - mean) / sigma, (upper - mean) / sigma
    flip = a + b > 0  # mirror so that the mass lies where log_ndtr is accurate
    a, b = np.where(flip, -b, a), np.where(flip, -a, b)
    log_a, log_b = log_ndtr(a), log_ndtr(b)
    log_mass = log_b + np.log(-np.expm1(np.minimum(log_a - log_b, -1e-300)))

    def density(t: np.ndarray) -> np.ndarray:
        return np.exp(-0.5 * t * t - 0.5 * np.log(2 * np.pi) - log_mass)

    pa, pb = density(a), density(b)
    ta, tb = np.where(np.isfinite(a), a, 0.0) * pa, np.where(np.isfinite(b), b, 0.0) * pb
    variance = sigma**2 * (1 + ta - tb - (pa - pb) ** 2)
    # Far out in the tail the terms cancel; there the density is an exponential of rate |t|.
    tail = sigma / np.maximum(np.abs(b), 1e-12)
    far = b < -8
    variance = np.where(far, np.minimum(tail**2, (upper - lower) ** 2 / 12), variance)
    return np.clip(
        variance, 0.0, np.minimum(sigma**2, np.where(np.isfinite(upper - lower), upper - lower, np.inf) ** 2)
    )


def laplace_posterior(problem: Problem, solution: Solution) -> Posterior:
    """Posterior covariance at a solution. Raises SingularProblem when a free parameter has neither data nor prior."""
    from scipy.linalg import lapack

    from headrecon.fitting.box import SingularProblem

    _, gradient, hessian = problem.normal_equations(solution.x)
    free = np.flatnonzero(problem.free)
    precision = hessian[np.ix_(free, free)]
    lower, upper, x, g = (v[free] for v in (problem.lower, problem.upper, solution.x, gradient))
    bounded = np.flatnonzero(np.isfinite(lower) | np.isfinite(upper))
    if bounded.size:
        curvature = np.diag(precision)[bounded]
        variance = truncated_variance(
            x[bounded] - g[bounded] / curvature, curvature**-0.5, lower[bounded], upper[bounded]
        )
        extra = 1.0 / np.maximum(variance, 1e-12 / curvature) - curvature
        precision[bounded, bounded] += np.maximum(extra, 0.0)
    root = 1.0 / np.sqrt(np.diag(precision))
    factor, info = lapack.dpotrf(precision * root[:, None] * root, lower=1)
    if info != 0:
        raise SingularProblem(f"the posterior precision is not positive definite (pivot {info})")
    inverse, _ = lapack.dpotri(factor, lower=1)
    inverse = np.tril(inverse) + np.tril(inverse, -1).T
    covariance = np.zeros_like(hessian)
    covariance[np.ix_(free, free)] = inverse * root[:, None] * root
    return Posterior(covariance, dict(problem.slices))
