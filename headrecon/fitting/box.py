"""Small convex quadratic programs in a box: the inner step of the bounded solver."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from headrecon.errors import HeadReconError


class SingularProblem(HeadReconError):
    """The normal matrix is not positive definite: some parameter is neither seen nor held by a prior."""


def cholesky_solve(matrix: Float[np.ndarray, "N N"], rhs: Float[np.ndarray, "N *M"]) -> Float[np.ndarray, "N *M"]:
    """Solve a positive definite system. Raises SingularProblem when it is not positive definite."""
    # Scaling to a unit diagonal first: radians, metres and log-focals differ by orders of magnitude.
    diagonal = np.diag(matrix)
    if not (diagonal > 0).all():
        raise SingularProblem(f"{int((diagonal <= 0).sum())} free parameters are neither observed nor held by a prior")
    root = 1.0 / np.sqrt(diagonal)
    column = root if rhs.ndim == 1 else root[:, None]
    scaled = matrix * root[:, None] * root
    try:
        np.linalg.cholesky(scaled)  # fails where the solution below would be one of many
    except np.linalg.LinAlgError as error:
        raise SingularProblem(
            f"the normal matrix of {len(matrix)} parameters is not positive definite ({error}); "
            "some combination of them is neither observed nor held by a prior"
        ) from error
    # NumPy cannot solve with the factor. A millisecond more for 250 parameters, and SciPy is not imported for it.
    return np.linalg.solve(scaled, rhs * column) * column


def solve_in_box(
    matrix: Float[np.ndarray, "N N"],
    gradient: Float[np.ndarray, " N"],
    lower: Float[np.ndarray, " N"],
    upper: Float[np.ndarray, " N"],
    max_rounds: int = 40,
) -> Float[np.ndarray, " N"]:
    """argmin_d g.d + 1/2 d.H.d with lower <= d <= upper, for positive definite H and lower <= 0 <= upper.

    A primal-dual active set (Hintermueller, Ito, Kunisch 2002): in each round, entries whose unconstrained value or
    multiplier points beyond a bound are pinned there, all others are solved for. It usually ends in two or three
    rounds; should it cycle, the last iterate is clipped, which the caller's gain test then judges.
    Raises SingularProblem when H is not positive definite.
    """
    bounded = np.isfinite(lower) | np.isfinite(upper)
    # First guess: pinned where the bound is touched already and the gradient pushes outwards.
    at_lower = bounded & (lower >= 0) & (gradient > 0)
    at_upper = bounded & (upper <= 0) & (gradient < 0)
    step = np.zeros_like(gradient)
    for _ in range(max_rounds):
        pinned = at_lower | at_upper
        step = np.where(at_lower, lower, np.where(at_upper, upper, 0.0))
        open_ = np.flatnonzero(~pinned)
        pinned_ids = np.flatnonzero(pinned)
        moved = pinned_ids[step[pinned_ids] != 0]
        rhs = -gradient[open_]
        if moved.size:
            rhs = rhs - matrix[np.ix_(open_, moved)] @ step[moved]
        if open_.size:
            step[open_] = cholesky_solve(matrix[np.ix_(open_, open_)], rhs)
        slope = gradient[pinned_ids] + matrix[pinned_ids] @ step
        new_lower, new_upper = step < lower, step > upper
        new_lower[pinned_ids] = at_lower[pinned_ids] & (slope > 0)
        new_upper[pinned_ids] = at_upper[pinned_ids] & (slope < 0)
        if np.array_equal(new_lower, at_lower) and np.array_equal(new_upper, at_upper):
            break
        at_lower, at_upper = new_lower, new_upper
    return np.clip(step, lower, upper)
