"""Gaussians for the tests of files."""

from __future__ import annotations

import numpy as np

from headrecon.structures import Gaussians


def random_cloud(count: int = 200, degree: int = 0, seed: int = 0) -> Gaussians:
    """Of a head's size: scales from 0.2 to 20 mm, all rotations, opacities and colours within what bytes can hold."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return rng.normal(size=(count, *shape)).astype(np.float32)

    return Gaussians(
        normal(3) * np.float32(0.1),
        normal(4),
        np.exp(rng.uniform(np.log(2e-4), np.log(2e-2), (count, 3))).astype(np.float32),
        rng.uniform(0, 1, count).astype(np.float32),
        rng.uniform(0, 1, (count, 3)).astype(np.float32) if degree == 0 else None,
        None if degree == 0 else normal((degree + 1) ** 2, 3) * np.float32(0.25),
    )


def angles_between(a_wxyz: np.ndarray, b_wxyz: np.ndarray) -> np.ndarray:
    """Radians between two rotations each, whatever the quaternions' signs and lengths."""
    a, b = (q.astype(np.float64) / np.linalg.norm(q, axis=1, keepdims=True) for q in (a_wxyz, b_wxyz))
    flipped = np.where((a * b).sum(1, keepdims=True) < 0, -b, b)
    # The chord keeps its precision where the arc cosine of the dot product has none left.
    return 4 * np.arcsin(np.minimum(np.linalg.norm(a - flipped, axis=1) / 2, 1))


def covariances(gaussians: Gaussians) -> np.ndarray:
    """[N,3,3] from quaternions and scales, written out again from the definition of a quaternion's rotation."""
    q = gaussians.quats_wxyz / np.linalg.norm(gaussians.quats_wxyz, axis=1, keepdims=True)
    w, v = q[:, :1].astype(np.float64), q[:, 1:].astype(np.float64)
    out = np.zeros((len(q), 3, 3))
    for k, axis in enumerate(np.eye(3)):
        turned = axis + 2 * w * np.cross(v, axis) + 2 * np.cross(v, np.cross(v, axis))
        column = turned * gaussians.scales[:, k : k + 1]
        out += column[:, :, None] * column[:, None, :]
    return out
