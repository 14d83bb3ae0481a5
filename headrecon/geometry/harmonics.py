"""Real spherical harmonics up to degree 3, orthonormal on the unit sphere.

Order: degree l = 0..3, within it m = -l..l. Signs carry the Condon-Shortley phase, as in Sloan, "Stupid spherical
harmonics tricks", 2008, appendix A2, and as Gaussian-splat files expect: Y_1 = (-y, z, -x) * sqrt(3 / 4 pi).
"""

from __future__ import annotations

import math

from jaxtyping import Float

from headrecon.arrays import Array, namespace
from headrecon.errors import ShapeError

MAX_DEGREE = 3
C0 = math.sqrt(1 / (4 * math.pi))
C1 = math.sqrt(3 / (4 * math.pi))
C2_XY = math.sqrt(15 / (4 * math.pi))  # also YZ and XZ
C2_Z2 = math.sqrt(5 / (16 * math.pi))
C2_X2Y2 = math.sqrt(15 / (16 * math.pi))
C3_3 = math.sqrt(35 / (32 * math.pi))  # |m| = 3
C3_2 = math.sqrt(105 / (4 * math.pi))  # m = -2 (xyz)
C3_2B = math.sqrt(105 / (16 * math.pi))  # m = 2 (z (x^2 - y^2))
C3_1 = math.sqrt(21 / (32 * math.pi))  # |m| = 1
C3_0 = math.sqrt(7 / (16 * math.pi))

#: Ramamoorthi and Hanrahan 2001, eq. 8: what a Lambertian surface does to light of degree 0, 1, 2 (and 3: nothing).
LAMBERT_FACTORS = (math.pi, 2 * math.pi / 3, math.pi / 4, 0.0)


def num_harmonics(degree: int) -> int:
    """How many basis functions there are up to a degree."""
    return (degree + 1) ** 2


def evaluate_harmonics(directions: Float[Array, "*N 3"], degree: int) -> Float[Array, "*N K"]:
    """Basis values for unit directions, K = (degree + 1)^2; numpy, or torch and then differentiable.

    Raises ShapeError for degree > 3.
    """
    if not 0 <= degree <= MAX_DEGREE:
        raise ShapeError(f"spherical harmonics are implemented for degree 0 to {MAX_DEGREE}, found {degree}")
    x, y, z = (directions[..., i] for i in range(3))
    xp = namespace(directions)
    basis = [xp.full_like(x, C0)]
    if degree > 0:
        basis += [-C1 * y, C1 * z, -C1 * x]
    if degree > 1:
        basis += [
            C2_XY * x * y,
            -C2_XY * y * z,
            C2_Z2 * (3 * z * z - 1),
            -C2_XY * x * z,
            C2_X2Y2 * (x * x - y * y),
        ]
    if degree > 2:
        basis += [
            -C3_3 * y * (3 * x * x - y * y),
            C3_2 * x * y * z,
            -C3_1 * y * (5 * z * z - 1),
            C3_0 * z * (5 * z * z - 3),
            -C3_1 * x * (5 * z * z - 1),
            C3_2B * z * (x * x - y * y),
            -C3_3 * x * (x * x - 3 * y * y),
        ]
    return xp.stack(basis, -1)
