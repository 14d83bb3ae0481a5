"""Why the most probable head is too small, and the term that mends it.

Size and distance of a head can be traded: along that ridge the image stays the same. Identity and expression
coefficients are in metres, so on a smaller and nearer head every feature needs smaller coefficients, which their
priors reward: per unit of log size by |beta|^2. With k well-determined coefficients the joint mode shrinks the head by
about k times the variance of its log size, which is several per cent. It is an artefact of the mode. Integrating
the coefficients out gives the marginal of s = log(depth / focal) the factor det(H(s))^-1/2, and as their
image derivatives go as exp(-s), that factor pushes outwards by the effective number of determined coefficients k,
which equals E|beta|^2 when the priors are right (MacKay 1992, "Bayesian interpolation", section 4.4).

We push outwards by |beta|^2 itself instead of by k. Both agree on average under the priors; but if the priors are
somewhat wrong (a neutral face, a person unlike the population, a detector with its own errors) then |beta|^2 - k
would be taken as evidence about size, and it is not. What is left to fix the size is what should: the iris, the
population's size, perspective, and what the user knows. The component of identity that is size itself keeps its prior.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from headrecon.fitting.least_squares import Block, Values
from headrecon.fitting.parameters import HeadView
from headrecon.models.point_model import PointModel

#: Misfit, in metres per unit of log size, at which a beta costs as much as it mends; 0.3 mm at 3 % larger.
GAP_TOLERANCE_M = 0.01


def size_gradient(points: PointModel) -> Float[np.ndarray, " Nb"]:
    """Derivative of the log size of the mean head (spread of its points about their centre) by each beta."""
    layout = points.layout
    at, jac = points.jacobian(layout.zeros())
    centred = at - at.mean(0)
    directions = jac[:, :, layout.slices["betas"]]
    return np.einsum("lc,lck->k", centred, directions) / float(np.sum(centred**2))


def scaling_gap(points: PointModel) -> Float[np.ndarray, "L 3"]:
    """What the identity space lacks to scale the whole head: scaled mean points less their best fit by betas, per unit.

    A population's shape space is a truncated basis, and no combination of its directions is exactly a larger head:
    making the head 3 % larger leaves a fraction of a millimetre unexplained. Hundreds of landmarks with independent
    errors would take that as firm evidence about absolute size, which image positions cannot hold. Given as one more
    error mode of the points, it is not.
    """
    layout = points.layout
    at, jac = points.jacobian(layout.zeros())
    directions = jac[:, :, layout.slices["betas"]]
    target, basis = at - at.mean(0), directions - directions.mean(0)
    flat, goal = basis.reshape(-1, layout.num_betas) / GAP_TOLERANCE_M, target.reshape(-1) / GAP_TOLERANCE_M
    betas = np.linalg.solve(flat.T @ flat + np.eye(layout.num_betas), flat.T @ goal)
    return target - basis @ betas


def without_size(betas: Float[np.ndarray, " Nb"], gradient: Float[np.ndarray, " Nb"]) -> Float[np.ndarray, " Nb"]:
    """betas less the most probable way to have their size."""
    norm = float(gradient @ gradient)
    return betas if norm == 0 else betas - gradient * (gradient @ betas) / norm


def scale_slopes(
    values: Values, blocks: Sequence[Block], views: Sequence[HeadView], gradient: Float[np.ndarray, " Nb"]
) -> list[float]:
    """Slope of the cost along each view's s that cancels the reward for shrinking (identity's is split evenly)."""
    by_name = {b.name: b for b in blocks}
    slopes = []
    for view in views:
        betas = without_size(values[view.names["betas"]], gradient)
        expression, prior = values[view.names["expression"]], by_name[view.names["expression"]]
        reward = float(np.sum(expression * (expression - prior.mean) / prior.sigma**2))
        slopes.append(-(float(betas @ betas) / len(views) + reward))
    return slopes
