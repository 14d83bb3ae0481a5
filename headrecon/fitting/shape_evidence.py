"""What a `ShapeEstimate` adds to a fit: its likelihood, as a residual on the identity coefficients.

The estimate is the posterior mean m of a regression under the population N(0, I), with covariance S. Its likelihood is
what turns the one into the other: precision S^-1 - I, information vector S^-1 m. Several photos multiply theirs.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from headrecon.errors import ShapeError
from headrecon.fitting.least_squares import LinearResidual
from headrecon.structures import ShapeEstimate

#: Directions in which the estimate is not better than the population by this share of a variance say nothing.
_LEAST_GAIN = 0.01


def shape_residual(estimate: ShapeEstimate, trust: float, betas: str = "betas") -> LinearResidual:
    """Residual r = L betas - o whose square is the likelihood, its precision multiplied by `trust`.

    Raises ShapeError when the covariance is not one.
    """
    variance, axes = np.linalg.eigh(estimate.covariance)
    if variance[0] <= 0 or not np.isfinite(variance).all():
        raise ShapeError(f"a shape estimate needs a positive covariance, found eigenvalues down to {variance[0]:.3g}")
    useful = variance < 1 - _LEAST_GAIN
    variance, axes = variance[useful], axes[:, useful]
    precision = 1 / variance - 1
    root = np.sqrt(trust * precision)
    information: Float[np.ndarray, " M"] = trust * (axes.T @ estimate.mean) / variance
    return LinearResidual("shape seen", (betas,), root[:, None] * axes.T, information / root)
