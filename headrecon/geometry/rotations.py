"""Rotations in torch: axis-angle, matrices and quaternions (`wxyz`), batched and differentiable everywhere.

Every function is smooth at the identity and safe at half a turn: coefficients such as (1 - cos t) / t^2 use their
power series where the closed form cancels, so neither values nor gradients turn into NaN.
Formulas: Sola, Deray, Atchuthan, "A micro Lie theory for state estimation in robotics", 2018, appendix B.
`headrecon.geometry.so3` holds the numpy float64 twins that the solvers use.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

# Power series in t^2 of sin(t)/t, (1-cos t)/t^2 and (t-sin t)/t^3: term n is (-1)^n / (2n + k)!, k = 1, 2, 3.
# Ten terms leave less than 1e-17 for t^2 < 1.
_TERMS = 10
SERIES = {k: tuple((-1.0) ** n / math.factorial(2 * n + k) for n in range(_TERMS)) for k in (1, 2, 3)}
#: Below this squared angle the series is used; above it the closed forms lose at most two digits.
SERIES_LIMIT = 1.0


def _horner(x: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    value = torch.full_like(x, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        value = value * x + c
    return value


def _coefficients(omega: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """sin(t)/t, (1-cos t)/t^2, (t-sin t)/t^3 for t = |omega|, each [...,1,1]."""
    t2 = (omega * omega).sum(-1)[..., None, None]
    near = t2 < SERIES_LIMIT
    # The branch not taken must stay finite, or its NaN gradient leaks through `where`.
    t2_far = torch.where(near, torch.ones_like(t2), t2)
    t2_near = torch.where(near, t2, torch.zeros_like(t2))
    t = t2_far.sqrt()
    far = (t.sin() / t, (1 - t.cos()) / t2_far, (t - t.sin()) / (t2_far * t))
    a, b, c = (torch.where(near, _horner(t2_near, SERIES[k]), f) for k, f in zip((1, 2, 3), far, strict=True))
    return a, b, c


def skew(omega: Float[Tensor, "*B 3"]) -> Float[Tensor, "*B 3 3"]:
    """The matrix [w]x with [w]x v = w x v."""
    x, y, z = omega.unbind(-1)
    o = torch.zeros_like(x)
    return torch.stack([o, -z, y, z, o, -x, -y, x, o], -1).unflatten(-1, (3, 3))


def axis_angle_to_matrix(omega: Float[Tensor, "*B 3"]) -> Float[Tensor, "*B 3 3"]:
    """Rotation matrix of an axis-angle vector in radians (Rodrigues). Differentiable, also at zero."""
    a, b, _ = _coefficients(omega)
    k = skew(omega)
    return torch.eye(3, dtype=omega.dtype, device=omega.device) + a * k + b * (k @ k)


def so3_left_jacobian(omega: Float[Tensor, "*B 3"]) -> Float[Tensor, "*B 3 3"]:
    """J_l with Exp(omega + d) ~ Exp(J_l(omega) d) Exp(omega) (Sola et al. 2018, eq. 145). Differentiable."""
    _, b, c = _coefficients(omega)
    k = skew(omega)
    return torch.eye(3, dtype=omega.dtype, device=omega.device) + b * k + c * (k @ k)


def axis_angle_to_quat(omega: Float[Tensor, "*B 3"]) -> Float[Tensor, "*B 4"]:
    """Unit quaternion wxyz of an axis-angle vector. Differentiable, also at zero."""
    half = omega * 0.5
    a, b, _ = _coefficients(half)
    t2 = (half * half).sum(-1, keepdim=True)
    cos = 1 - b[..., 0] * t2
    return torch.cat([cos, a[..., 0] * half], -1)


def quat_to_matrix(quats_wxyz: Float[Tensor, "*B 4"]) -> Float[Tensor, "*B 3 3"]:
    """Rotation matrix of a quaternion wxyz of any non-zero length (it is normalised). Differentiable."""
    q = torch.nn.functional.normalize(quats_wxyz, dim=-1)
    w, x, y, z = q.unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def matrix_to_quat(matrices: Float[Tensor, "*B 3 3"]) -> Float[Tensor, "*B 4"]:
    """Unit quaternion wxyz with w >= 0 of a rotation matrix (Shepperd 1978: divide by the largest component)."""
    m = matrices.flatten(-2)
    m00, m01, m02, m10, m11, m12, m20, m21, m22 = m.unbind(-1)
    # Each row is 4 q_i (q_w, q_x, q_y, q_z) for i = w, x, y, z; the longest row is the best conditioned.
    rows = torch.stack(
        [
            torch.stack([1 + m00 + m11 + m22, m21 - m12, m02 - m20, m10 - m01], -1),
            torch.stack([m21 - m12, 1 + m00 - m11 - m22, m10 + m01, m02 + m20], -1),
            torch.stack([m02 - m20, m10 + m01, 1 - m00 + m11 - m22, m21 + m12], -1),
            torch.stack([m10 - m01, m02 + m20, m21 + m12, 1 - m00 - m11 + m22], -1),
        ],
        -2,
    )
    best = torch.diagonal(rows.detach(), dim1=-2, dim2=-1).argmax(-1)
    row = torch.take_along_dim(rows, best[..., None, None].expand(*best.shape, 1, 4), -2)[..., 0, :]
    q = torch.nn.functional.normalize(row, dim=-1)
    return torch.where(q[..., :1] < 0, -q, q)


def quat_to_axis_angle(quats_wxyz: Float[Tensor, "*B 4"]) -> Float[Tensor, "*B 3"]:
    """Axis-angle vector of length <= pi of a quaternion wxyz. Differentiable except at exactly half a turn."""
    q = torch.nn.functional.normalize(quats_wxyz, dim=-1)
    q = torch.where(q[..., :1] < 0, -q, q)
    w, v = q[..., :1], q[..., 1:]
    n2 = (v * v).sum(-1, keepdim=True)
    near = n2 < 1e-6
    n = torch.where(near, torch.ones_like(n2), n2).sqrt()
    # 2 atan(n/w)/n = 2/w (1 - (n/w)^2/3 + (n/w)^4/5 - ...) where n is small (then w is near 1)
    w_near = torch.where(near, w, torch.ones_like(w))
    r2 = torch.where(near, n2, torch.zeros_like(n2)) / (w_near * w_near)
    series = 2 / w_near * (1 - r2 / 3 + r2 * r2 / 5)
    return v * torch.where(near, series, 2 * torch.atan2(n, w) / n)


def matrix_to_axis_angle(matrices: Float[Tensor, "*B 3 3"]) -> Float[Tensor, "*B 3"]:
    """Axis-angle vector of length <= pi of a rotation matrix (through the quaternion, so safe near half a turn)."""
    return quat_to_axis_angle(matrix_to_quat(matrices))


def quat_multiply(a_wxyz: Float[Tensor, "*B 4"], b_wxyz: Float[Tensor, "*B 4"]) -> Float[Tensor, "*B 4"]:
    """Hamilton product: the rotation b followed by the rotation a."""
    aw, ax, ay, az = a_wxyz.unbind(-1)
    bw, bx, by, bz = b_wxyz.unbind(-1)
    return torch.stack(
        [
            aw * bw - ax * bx - ay * by - az * bz,
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
        ],
        -1,
    )
