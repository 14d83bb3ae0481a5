"""Spherical harmonics: orthonormal, with the documented order and signs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from headrecon.errors import ShapeError
from headrecon.geometry import harmonics


def _quadrature() -> tuple[torch.Tensor, torch.Tensor]:
    """Gauss-Legendre in z times uniform in angle: exact for products of two harmonics of degree 3."""
    z, wz = np.polynomial.legendre.leggauss(8)
    phi = 2 * np.pi * np.arange(16) / 16
    r = np.sqrt(1 - z**2)
    points = np.stack([np.outer(r, np.cos(phi)), np.outer(r, np.sin(phi)), np.outer(z, np.ones(16))], -1).reshape(-1, 3)
    return torch.from_numpy(points), torch.from_numpy(np.repeat(wz * 2 * np.pi / 16, 16))


def test_orthonormal() -> None:
    points, weights = _quadrature()
    basis = harmonics.evaluate_harmonics(points, 3)
    gram = basis.mT @ (basis * weights[:, None])
    torch.testing.assert_close(gram, torch.eye(16, dtype=torch.float64), atol=1e-12, rtol=0)


def test_matches_associated_legendre() -> None:
    from scipy.special import sph_harm_y

    points, _ = _quadrature()
    basis = harmonics.evaluate_harmonics(points, 3).numpy()
    theta, phi = np.arccos(points[:, 2].numpy()), np.arctan2(points[:, 1].numpy(), points[:, 0].numpy())
    for degree in range(4):
        for m in range(-degree, degree + 1):
            value = sph_harm_y(degree, abs(m), theta, phi)  # carries (-1)^m already
            real = value.real if m == 0 else math.sqrt(2) * (value.real if m > 0 else value.imag)
            np.testing.assert_allclose(basis[:, degree * degree + degree + m], real, atol=1e-12)


def test_lambert_factors_by_integration() -> None:
    z, w = np.polynomial.legendre.leggauss(4000)
    for degree, expected in enumerate(harmonics.LAMBERT_FACTORS):
        legendre = np.polynomial.legendre.Legendre.basis(degree)(z)
        integral = 2 * math.pi * np.sum(w * np.maximum(z, 0) * legendre)
        assert integral == pytest.approx(expected, abs=1e-5)  # the kink of max(z, 0) limits the quadrature


def test_refuses_higher_degrees() -> None:
    with pytest.raises(ShapeError, match="degree 0 to 3"):
        harmonics.evaluate_harmonics(torch.zeros(1, 3), 4)
    assert harmonics.num_harmonics(3) == 16
