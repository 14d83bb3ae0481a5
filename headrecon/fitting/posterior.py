"""The Gaussian posterior around a solution: Laplace's approximation, with bounds treated by expectation propagation.

Far from bounds the posterior is N(x, H^-1) with H = J^T W J + prior precision. A parameter that may not cross a bound
(an expression weight in 0..1) has a posterior cut off there: its mean lies inside the allowed side even where the most
probable value is the bound itself, and everything correlated with it shifts along. With fifty such weights at once the
shift matters: the most probable expression is weaker than the average one, and identity makes up for it.
Expectation propagation (Minka 2001; for box constraints Cunningham, Hennig, Lacoste-Julien 2011) gives each
bounded parameter a Gaussian factor that reproduces the mean and variance of the cut distribution.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from headrecon.fitting.box import cholesky_solve
from headrecon.fitting.least_squares import Problem, Solution

EP_ROUNDS = 30
EP_DAMPING = 0.7
EP_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Posterior:
    """Mean and covariance over the flat vector of a problem; entries that were fixed have zero variance.

    `mean` differs from the solution, the most probable point, where bounds cut the posterior.
    """

    mean: Float[np.ndarray, " P"]
    covariance: Float[np.ndarray, "P P"]
    slices: dict[str, slice]
    #: what the bounds add to each entry's precision
    bound_precision: Float[np.ndarray, " P"]

    def mean_values(self) -> dict[str, np.ndarray]:
        """The mean, by block."""
        return {name: self.mean[s] for name, s in self.slices.items()}

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


def truncated_moments(
    mean: Float[np.ndarray, " N"],
    sigma: Float[np.ndarray, " N"],
    lower: Float[np.ndarray, " N"],
    upper: Float[np.ndarray, " N"],
) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, " N"]]:
    """Mean and variance of N(mean, sigma^2) cut to [lower, upper] (Johnson, Kotz, Balakrishnan 1994, 13.10.1)."""
    a, b = (lower - mean) / sigma, (upper - mean) / sigma
    flip = a + b > 0  # mirror so that the mass lies in the lower tail, where log_ndtr is accurate
    a, b = np.where(flip, -b, a), np.where(flip, -a, b)
    log_a, log_b = _log_normal_cdf(a), _log_normal_cdf(b)
    log_mass = log_b + np.log(-np.expm1(np.minimum(log_a - log_b, -1e-300)))
    pa, pb = (np.exp(-0.5 * t * t - 0.5 * np.log(2 * np.pi) - log_mass) for t in (a, b))
    ta, tb = np.where(np.isfinite(a), a, 0.0) * pa, np.where(np.isfinite(b), b, 0.0) * pb
    shift, variance = pa - pb, 1 + ta - tb - (pa - pb) ** 2
    # Far out the terms cancel; there the density is an exponential of rate |b| that falls from b downwards.
    far = b < -8
    rate = np.maximum(-b, 1.0)
    width = np.where(np.isfinite(a), np.maximum(b - a, 1e-300), np.inf)
    finite = rate * width < 700
    cut = np.where(finite, 1.0 / np.expm1(np.where(finite, rate * width, 1.0)), 0.0)
    cut_width = np.where(finite, width, 0.0) * cut
    shift = np.where(far, b - 1 / rate + cut_width, shift)
    variance = np.where(far, 1 / rate**2 - cut_width**2 * (1 + 1 / np.maximum(cut, 1e-300)), variance)
    shift = np.clip(np.where(flip, -shift, shift) * sigma + mean, lower, upper)
    return shift, np.clip(variance, 1e-10, 1.0) * sigma**2


def _log_normal_cdf(x: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """ln of the share of a normal distribution below x, accurate far down in the lower tail."""
    near = np.maximum(x, -30.0)
    log_near = np.log([0.5 * math.erfc(-t / math.sqrt(2)) for t in near]) if len(x) else np.zeros(0)
    far = np.minimum(x, -30.0)  # below, the asymptotic series is exact to the last digit
    with np.errstate(invalid="ignore"):
        inverse = 1 / (far * far)
        tail = -0.5 * far * far - np.log(-far) - 0.5 * math.log(2 * math.pi)
        log_far = tail + np.log1p(inverse * (-1 + inverse * (3 + inverse * (-15 + inverse * 105))))
    return np.where(x > -30.0, log_near, log_far)


def posterior_at(problem: Problem, solution: Solution) -> Posterior:
    """Posterior around a solution. Raises SingularProblem when a free parameter has neither data nor prior."""
    free = np.flatnonzero(problem.free)
    precision = solution.hessian[np.ix_(free, free)].copy()
    lower, upper, x = problem.lower[free], problem.upper[free], solution.x[free]
    gradient = solution.gradient[free]
    covariance = _inverse(precision)
    mean = x - covariance @ gradient  # of the Gaussian before it is cut
    bounded = np.flatnonzero(np.isfinite(lower) | np.isfinite(upper))
    tau = np.zeros(0)
    if bounded.size:
        tau, nu = _sites(mean[bounded], covariance[np.ix_(bounded, bounded)], lower[bounded], upper[bounded])
        target = precision @ mean
        target[bounded] += nu
        precision[bounded, bounded] += tau
        covariance = _inverse(precision)
        mean = covariance @ target
    full_mean, full, bound_precision = solution.x.copy(), np.zeros_like(solution.hessian), np.zeros(problem.size)
    full_mean[free] = np.clip(mean, lower, upper)
    full[np.ix_(free, free)] = covariance
    if bounded.size:
        bound_precision[free[bounded]] = tau
    return Posterior(full_mean, full, dict(problem.slices), bound_precision)


def _sites(
    mean: np.ndarray, covariance: np.ndarray, lower: np.ndarray, upper: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Precision and precision-times-mean of the factor that each bound contributes."""
    tau, nu = np.zeros_like(mean), np.zeros_like(mean)
    m, v = mean.copy(), np.diag(covariance).copy()
    eye = np.eye(len(mean))
    for _ in range(EP_ROUNDS):
        cavity_precision = np.maximum(1 / v - tau, 1e-3 / v)
        cavity_mean = (m / v - nu) / cavity_precision
        cut_mean, cut_variance = truncated_moments(cavity_mean, cavity_precision**-0.5, lower, upper)
        new_tau = np.maximum(1 / cut_variance - cavity_precision, 0.0)
        new_nu = cut_mean / cut_variance - cavity_mean * cavity_precision
        tau, nu = tau + EP_DAMPING * (new_tau - tau), nu + EP_DAMPING * (new_nu - nu)
        # (C^-1 + diag(tau))^-1 = C - C (C + 1/tau)^-1 C, written without dividing by a tau of zero
        root = np.sqrt(tau)
        inner = np.linalg.solve(eye + root[:, None] * covariance * root, root[:, None] * covariance)
        updated = covariance - covariance @ (root[:, None] * inner)
        m_new = updated @ (nu + np.linalg.solve(covariance, mean))
        change = float(np.max(np.abs(m_new - m) / np.sqrt(v)))
        m, v = m_new, np.maximum(np.diag(updated), 1e-300)
        if change < EP_TOLERANCE:
            break
    return tau, nu


def _inverse(precision: np.ndarray) -> np.ndarray:
    inverse = cholesky_solve(precision, np.eye(len(precision)))
    return 0.5 * (inverse + inverse.T)
