"""Rotations in numpy float64 for the solvers: exponential, logarithm and left Jacobian of SO(3).

Twins of `headrecon.geometry.rotations` (a test compares them); torch's call overhead would dominate a solver that
takes a few milliseconds an iteration. Formulas: Sola et al. 2018, appendix B.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

_TERMS = 10
# (-1)^n / (2n + k)! for k = 1, 2, 3: sin(t)/t, (1-cos t)/t^2, (t-sin t)/t^3 in powers of t^2
_SERIES = np.array([[(-1.0) ** n / math.factorial(2 * n + k) for n in range(_TERMS)] for k in (1, 2, 3)])
_REVERSED = tuple(tuple(float(c) for c in column) for column in _SERIES.T[::-1])


def _coefficients(omega: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    t2 = np.sum(omega * omega, axis=-1)[..., None, None]
    near = t2 < 1.0
    t2_near = np.where(near, t2, 0.0)
    t2_far = np.where(near, 1.0, t2)
    t = np.sqrt(t2_far)
    far = (np.sin(t) / t, (1 - np.cos(t)) / t2_far, (t - np.sin(t)) / (t2_far * t))
    a, b, c = (
        np.where(near, np.polynomial.polynomial.polyval(t2_near, s), f) for s, f in zip(_SERIES, far, strict=True)
    )
    return a, b, c


def _coefficients_one(t2: float) -> tuple[float, float, float]:
    """The same for one vector: plain floats are ten times quicker than arrays of one element."""
    if t2 >= 1.0:
        t = math.sqrt(t2)
        return math.sin(t) / t, (1 - math.cos(t)) / t2, (t - math.sin(t)) / (t2 * t)
    a = b = c = 0.0
    for ca, cb, cc in _REVERSED:
        a, b, c = a * t2 + ca, b * t2 + cb, c * t2 + cc
    return a, b, c


def skew(omega: Float[np.ndarray, "*B 3"]) -> Float[np.ndarray, "*B 3 3"]:
    """The matrix [w]x with [w]x v = w x v."""
    out = np.zeros((*omega.shape[:-1], 3, 3))
    out[..., 0, 1], out[..., 0, 2], out[..., 1, 2] = -omega[..., 2], omega[..., 1], -omega[..., 0]
    out[..., 1, 0], out[..., 2, 0], out[..., 2, 1] = omega[..., 2], -omega[..., 1], omega[..., 0]
    return out


def exp(omega: Float[np.ndarray, "*B 3"]) -> Float[np.ndarray, "*B 3 3"]:
    """Rotation matrix of an axis-angle vector in radians."""
    omega = np.asarray(omega, dtype=np.float64)
    if omega.ndim == 1:
        x, y, z = omega.tolist()
        a, b, _ = _coefficients_one(x * x + y * y + z * z)
        return _one_plus(a, b, (x, y, z))
    a, b, _ = _coefficients(omega)
    k = skew(omega)
    return np.eye(3) + a * k + b * (k @ k)


def left_jacobian(omega: Float[np.ndarray, "*B 3"]) -> Float[np.ndarray, "*B 3 3"]:
    """J_l with exp(omega + d) ~ exp(J_l d) exp(omega)."""
    omega = np.asarray(omega, dtype=np.float64)
    if omega.ndim == 1:
        x, y, z = omega.tolist()
        _, b, c = _coefficients_one(x * x + y * y + z * z)
        return _one_plus(b, c, (x, y, z))
    _, b, c = _coefficients(omega)
    k = skew(omega)
    return np.eye(3) + b * k + c * (k @ k)


def _one_plus(first: float, second: float, omega: tuple[float, float, float]) -> Float[np.ndarray, "3 3"]:
    """1 + first [w]x + second [w]x^2 of one vector, written out in plain floats: five times as fast as on arrays."""
    x, y, z = omega
    a, b, c = first * x, first * y, first * z
    xx, yy, zz = second * x * x, second * y * y, second * z * z
    xy, xz, yz = second * x * y, second * x * z, second * y * z
    return np.array([[1 - yy - zz, xy - c, xz + b], [xy + c, 1 - xx - zz, yz - a], [xz - b, yz + a, 1 - xx - yy]])


def log(matrix: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "3"]:
    """Axis-angle vector of length <= pi of one rotation matrix; safe at the identity and at half a turn."""
    m = np.asarray(matrix, dtype=np.float64)
    w2 = 1 + np.trace(m)
    diagonal = np.array([w2, *(1 + 2 * np.diag(m) - np.trace(m))])
    vee = np.array([m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]])
    best = int(np.argmax(diagonal))
    if best == 0:
        q = np.concatenate([[w2], vee])
    else:
        i = best - 1
        q = np.empty(4)
        q[0] = vee[i]
        q[1:] = m[i] + m[:, i]
        q[best] = diagonal[best]
    q /= np.linalg.norm(q)
    if q[0] < 0:
        q = -q
    n = np.linalg.norm(q[1:])
    scale = 2.0 / q[0] if n < 1e-9 else 2.0 * math.atan2(n, q[0]) / n
    return scale * q[1:]


def rotate_points_jacobian(
    omega: Float[np.ndarray, "3"], rotated: Float[np.ndarray, "*N 3"]
) -> Float[np.ndarray, "*N 3 3"]:
    """Derivative of exp(omega) p with respect to omega, given the rotated points exp(omega) p."""
    return -skew(rotated) @ left_jacobian(omega)
