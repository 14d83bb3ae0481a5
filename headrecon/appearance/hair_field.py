"""Thickness of hair over the whole scalp from what an outline shows of it: Gaussian process regression.

Two unknown fields add up to the lift: the coat of hair, which is thick or thin as a whole, more alike on the two sides
of a head than not, and has tufts; and the error of the bald skull underneath, small and very smooth. Conditioning them
on the outline (Rasmussen and Williams 2006, chapter 2) gives the mean, which falls back to typical hair far from what
was seen, and the standard deviation. Outliers are weighted down as under a Student t noise, by repeated solves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from headrecon.appearance.hair_outline import OutlineRows
from headrecon.appearance.hair_scalp import Scalp

#: No coat of hair is modelled thicker (metres): more is a hat or a mistaken mask.
MAX_LIFT_M = 0.08
#: The skull of a fit is not too large by more.
MAX_SINK_M = 0.02
#: Noise outside this (metres) counts less and less.
_OUTLIER_M = 0.004
_ROUNDS = 3
#: Even well seen hair is known to no better than this: rows share the mask's errors, and a row's place is a guess.
_UNMODELLED_M = 0.0025
#: Share of a field's variance that both sides of the head have in common.
_SYMMETRY = 0.75


@dataclass(frozen=True)
class Coat:
    """What to expect of this person. amount: 0 for a bald head, 1 for hair. typical: mean thickness [N] in metres.

    vigour: how much hair may differ from that, in shares of what it may on top. hair_rise, skull_rise: factors 0..1 [N]
    that take the two fields down to nothing towards the face.
    """

    amount: float
    typical: Float[np.ndarray, " N"]
    vigour: Float[np.ndarray, " N"]
    hair_rise: Float[np.ndarray, " N"]
    skull_rise: Float[np.ndarray, " N"]


@dataclass(frozen=True)
class Lift:
    """Lift of each scalp vertex in metres with its standard deviation; residual: of each row, after."""

    metres: Float[np.ndarray, " N"]
    sigma: Float[np.ndarray, " N"]
    residual: Float[np.ndarray, " M"]


@dataclass(frozen=True)
class _Kernel:
    """Standard deviation of what the whole field shares, then of terms with a length each (metres)."""

    shared: float
    terms: tuple[tuple[float, float], ...]

    def __call__(self, a: Float[np.ndarray, "A 3"], b: Float[np.ndarray, "B 3"]) -> Float[np.ndarray, "A B"]:
        mirrored = b * np.array([-1.0, 1.0, 1.0])
        near, far = _distances(a, b), _distances(a, mirrored)
        total = np.full(near.shape, self.shared**2)
        for sigma, length in self.terms:
            own = _matern(near / length)
            total += sigma**2 * ((1 - _SYMMETRY) * own + 0.5 * _SYMMETRY * (own + _matern(far / length)))
        return total

    def variance(self, a: Float[np.ndarray, "A 3"]) -> Float[np.ndarray, " A"]:
        gap = np.linalg.norm(a - a * np.array([-1.0, 1.0, 1.0]), axis=1)
        total = np.full(len(a), self.shared**2)
        for sigma, length in self.terms:
            total += sigma**2 * (1 - 0.5 * _SYMMETRY + 0.5 * _SYMMETRY * _matern(gap / length))
        return total


#: On top of the head: heads of hair differ as a whole, from region to region, and by tufts.
_HAIR = _Kernel(0.006, ((0.011, 0.050), (0.004, 0.018)))
#: Fits see no skull behind the face: its height is wrong by several millimetres, smoothly.
_SKULL = _Kernel(0.002, ((0.006, 0.080), (0.0015, 0.025)))


def solve_lift(scalp: Scalp, coat: Coat, rows: OutlineRows) -> Lift:
    """The most probable lift given the rows, and its uncertainty."""
    middle = scalp.points.mean(0) * np.array([1.0, 0.0, 0.0])  # heads are symmetric about x = 0, people's nearly
    points = scalp.points - middle
    skull_rise = coat.skull_rise
    expected = coat.hair_rise * coat.amount * coat.typical
    hair_rise = coat.hair_rise * coat.amount * coat.vigour
    prior = hair_rise**2 * _HAIR.variance(points) + skull_rise**2 * _SKULL.variance(points)
    if not len(rows):
        lift = _bounded(expected, scalp)
        return Lift(lift, np.sqrt(prior), np.zeros(0))
    at, hair_at, skull_at = rows.of(points), rows.of(hair_rise), rows.of(skull_rise)
    hair_rows, skull_rows = _HAIR(at, at), _SKULL(at, at)
    joint = np.outer(hair_at, hair_at) * hair_rows + np.outer(skull_at, skull_at) * skull_rows
    wanted = np.clip(rows.lift, -MAX_SINK_M, MAX_LIFT_M)
    misfit = wanted - rows.of(expected)
    alpha, factor = _robust_solve(joint, misfit, rows.sigma)
    to_hair = hair_rise[:, None] * _HAIR(points, at) * hair_at
    to_skull = skull_rise[:, None] * _SKULL(points, at) * skull_at
    # Hair is never thinner than nothing: what lies below the skull is the skull's own error, solved for once more.
    hair = np.maximum(expected + to_hair @ alpha, 0.0)
    skull_only = np.outer(skull_at, skull_at) * skull_rows
    beta, _ = _robust_solve(skull_only, wanted - rows.of(hair), rows.sigma)
    lift = _bounded(hair + to_skull @ beta, scalp)
    cross = _lower_solve(factor, (to_hair + to_skull).T)
    own = _UNMODELLED_M * np.maximum(coat.hair_rise * coat.amount, skull_rise)
    sigma = np.sqrt(np.minimum(np.maximum(prior - (cross**2).sum(0), 0.0) + own**2, np.maximum(prior, own**2)))
    return Lift(lift, sigma, wanted - rows.of(lift))


def _robust_solve(
    covariance: Float[np.ndarray, "M M"], misfit: Float[np.ndarray, " M"], sigma: Float[np.ndarray, " M"]
) -> tuple[Float[np.ndarray, " M"], Float[np.ndarray, "M M"]]:
    """Weights of the rows and the Cholesky factor of their covariance, outliers weighted down."""
    from scipy.linalg import cho_factor, cho_solve

    weight = np.ones(len(misfit))
    alpha, factor = np.zeros(len(misfit)), np.eye(len(misfit))
    for _ in range(_ROUNDS):
        # A hair's breadth on the diagonal keeps rows at one place apart.
        noise = sigma**2 / np.maximum(weight, 1e-3) + 1e-8
        factor = np.asarray(cho_factor(covariance + np.diag(noise), lower=True)[0])
        alpha = np.asarray(cho_solve((factor, True), misfit))
        rest = misfit - covariance @ alpha
        weight = 1.0 / (1.0 + (rest / np.maximum(_OUTLIER_M, sigma)) ** 2)
    return alpha, np.tril(factor)


def _lower_solve(factor: Float[np.ndarray, "M M"], right: Float[np.ndarray, "M N"]) -> Float[np.ndarray, "M N"]:
    from scipy.linalg import solve_triangular

    return np.asarray(solve_triangular(factor, right, lower=True))


def _bounded(lift: Float[np.ndarray, " N"], scalp: Scalp) -> Float[np.ndarray, " N"]:
    """Within what hair can be, and below the ears, with no cliff beside what was cut."""
    cut = np.clip(np.minimum(lift, scalp.ceiling), -MAX_SINK_M, MAX_LIFT_M)
    near = np.minimum(scalp.smoothed((cut < lift - 1e-4).astype(np.float64), 2) * 3, 1.0)
    eased = cut + near * (scalp.smoothed(cut, 2) - cut)
    return np.minimum(eased, scalp.ceiling)


def _distances(a: Float[np.ndarray, "A 3"], b: Float[np.ndarray, "B 3"]) -> Float[np.ndarray, "A B"]:
    square = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
    return np.sqrt(np.maximum(square, 0.0))


def _matern(x: np.ndarray) -> np.ndarray:
    """Matérn covariance of smoothness 5/2 for distances in units of its length."""
    s = np.sqrt(5.0) * x
    return (1.0 + s + s * s / 3.0) * np.exp(-s)
