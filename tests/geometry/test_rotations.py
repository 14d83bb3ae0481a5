"""SO(3): group axioms, agreement of the torch and numpy twins, and safety at zero and at half a turn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headrecon.geometry import rotations, so3

EXACT = 1e-12  # float64 rounding over a handful of products
component = st.floats(-3.5, 3.5, allow_nan=False)
vector = st.tuples(component, component, component).map(lambda v: torch.tensor(v, dtype=torch.float64))


@given(vector, vector, vector)
@settings(max_examples=100, deadline=None)
def test_rotations_form_a_group(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> None:
    ra, rb, rc = (rotations.axis_angle_to_matrix(v) for v in (a, b, c))
    eye = torch.eye(3, dtype=torch.float64)
    product = ra @ rb
    torch.testing.assert_close(product @ product.mT, eye, atol=EXACT, rtol=0)  # closed: still orthogonal
    assert abs(float(torch.linalg.det(product)) - 1) < EXACT
    torch.testing.assert_close((ra @ rb) @ rc, ra @ (rb @ rc), atol=EXACT, rtol=0)
    torch.testing.assert_close(rotations.axis_angle_to_matrix(-a) @ ra, eye, atol=EXACT, rtol=0)


@given(vector)
@settings(max_examples=200, deadline=None)
def test_log_inverts_exp(a: torch.Tensor) -> None:
    matrix = rotations.axis_angle_to_matrix(a)
    back = rotations.matrix_to_axis_angle(matrix)
    assert float(back.norm()) <= math.pi + EXACT
    torch.testing.assert_close(rotations.axis_angle_to_matrix(back), matrix, atol=1e-11, rtol=0)
    np.testing.assert_allclose(so3.exp(so3.log(matrix.numpy())), matrix.numpy(), atol=1e-11)


@given(vector, vector)
@settings(max_examples=100, deadline=None)
def test_quaternion_product_is_matrix_product(a: torch.Tensor, b: torch.Tensor) -> None:
    qa, qb = rotations.axis_angle_to_quat(a), rotations.axis_angle_to_quat(b)
    expected = rotations.axis_angle_to_matrix(a) @ rotations.axis_angle_to_matrix(b)
    torch.testing.assert_close(rotations.quat_to_matrix(rotations.quat_multiply(qa, qb)), expected, atol=1e-11, rtol=0)
    torch.testing.assert_close(
        rotations.quat_to_matrix(-3.0 * qa), rotations.axis_angle_to_matrix(a), atol=EXACT, rtol=0
    )


@given(vector)
@settings(max_examples=100, deadline=None)
def test_numpy_twins_agree(a: torch.Tensor) -> None:
    np.testing.assert_allclose(so3.exp(a.numpy()), rotations.axis_angle_to_matrix(a).numpy(), atol=EXACT)
    np.testing.assert_allclose(so3.left_jacobian(a.numpy()), rotations.so3_left_jacobian(a).numpy(), atol=EXACT)
    np.testing.assert_allclose(so3.skew(a.numpy()), rotations.skew(a).numpy(), atol=0)


def test_worked_by_hand() -> None:
    quarter = torch.tensor([0.0, 0.0, math.pi / 2], dtype=torch.float64)
    moved = rotations.axis_angle_to_matrix(quarter) @ torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(moved, torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64), atol=EXACT, rtol=0)
    half = math.sqrt(0.5)
    torch.testing.assert_close(
        rotations.axis_angle_to_quat(quarter), torch.tensor([half, 0, 0, half], dtype=torch.float64), atol=EXACT, rtol=0
    )


@pytest.mark.parametrize("length", [0.0, 1e-9, 1e-4, 0.999, 1.001, math.pi - 1e-9, math.pi])
@pytest.mark.parametrize("axis", [[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0], [0.6, -0.48, 0.64]])
def test_gradients_are_right_everywhere(length: float, axis: list[float]) -> None:
    omega = (torch.tensor(axis, dtype=torch.float64) * length).requires_grad_()
    functions = [rotations.axis_angle_to_matrix, rotations.axis_angle_to_quat, rotations.so3_left_jacobian]
    if length < 3:  # the logarithm jumps at half a turn by nature
        functions.append(lambda w: rotations.matrix_to_axis_angle(rotations.axis_angle_to_matrix(w)))
    for function in functions:
        assert torch.autograd.gradcheck(function, omega, atol=1e-6)


@pytest.mark.parametrize("length", [0.0, 0.5, 2.0, 3.1])
def test_left_jacobian_is_the_derivative_of_exp(length: float) -> None:
    omega = length * np.array([0.6, -0.48, 0.64])
    step = 1e-6
    expected = np.empty((3, 3))
    for k in range(3):
        plus, minus = omega.copy(), omega.copy()
        plus[k] += step
        minus[k] -= step
        expected[:, k] = (so3.log(so3.exp(plus) @ so3.exp(omega).T) - so3.log(so3.exp(minus) @ so3.exp(omega).T)) / 2
    np.testing.assert_allclose(so3.left_jacobian(omega), expected / step, atol=1e-8)  # central differences, h^2


def test_rotate_points_jacobian() -> None:
    rng = np.random.default_rng(0)
    omega, points = rng.normal(size=3), rng.normal(size=(5, 3))
    jac = so3.rotate_points_jacobian(omega, points @ so3.exp(omega).T)
    for k in range(3):
        d = np.eye(3)[k] * 1e-6
        numeric = (points @ so3.exp(omega + d).T - points @ so3.exp(omega - d).T) / 2e-6
        np.testing.assert_allclose(jac[..., k], numeric, atol=1e-8)
