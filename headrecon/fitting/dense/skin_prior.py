"""What is believed of skin before a photo is seen: how its colour varies over a face, and how it darkens in folds.

Everything is in logarithms of linear light and in opponent channels (lightness, red against cyan, green against blue),
because pigment, blood and light multiply. The deviation of a face from smooth shading of one colour is modelled as
a Gaussian process on the surface: blotches and beard (long), folds and shadows (medium), pores and moles (short).
It stands for everything that shading by nine harmonics of one tone leaves out, so that a thousand pixels do not claim a
thousand independent measurements.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from headrecon.structures import HeadAssets

#: Orthonormal opponent channels of log RGB: lightness, red against cyan (blood, lips), green against blue.
OPPONENT = np.array([[1.0, 1.0, 1.0], [2.0, -1.0, -1.0], [0.0, 1.0, -1.0]])
OPPONENT /= np.linalg.norm(OPPONENT, axis=1, keepdims=True)


@dataclass(frozen=True)
class SkinPrior:
    """Deviations of log reflectance per opponent channel and their correlation lengths in metres.

    amplitude[k] belongs to length_m[k] (Matern of order 3/2). independent: from point to point. folds: how strongly
    ambient occlusion of the mean head darkens, and how uncertain that is. lips: their colour beside the skin's, and the
    deviation as a share of it.
    """

    length_m: tuple[float, ...] = (0.050, 0.012, 0.005)
    amplitude: tuple[tuple[float, float, float], ...] = ((0.15, 0.05, 0.03), (0.26, 0.07, 0.03), (0.20, 0.05, 0.025))
    independent: tuple[float, float, float] = (0.10, 0.035, 0.02)
    folds: float = 0.8
    folds_sigma: float = 0.35
    lips: tuple[float, float, float] = (-0.15, -0.50, -0.40)
    lips_sigma: float = 0.7


def skin_covariances(
    assets: HeadAssets,
    vertices: Float[np.ndarray, "V 3"],
    triangles: Int[np.ndarray, "F 3"],
    chosen: Int[np.ndarray, " N"],
    prior: SkinPrior,
) -> tuple[Float[np.ndarray, "V 3"], Float[np.ndarray, "3 N N"]]:
    """Mean log colour of every vertex, and the covariance of the chosen ones' deviation per opponent channel."""
    at = vertices[chosen]
    square = np.sum(at * at, axis=1)
    distance = np.sqrt(np.maximum(square[:, None] + square - 2 * at @ at.T, 0.0))
    covariances = np.zeros((3, len(at), len(at)))
    for length, amplitude in zip(prior.length_m, prior.amplitude, strict=True):
        t = np.sqrt(3.0) / length * distance
        kernel = (1 + t) * np.exp(-t)
        for channel in range(3):
            covariances[channel] += amplitude[channel] ** 2 * kernel
    everywhere = np.arange(len(vertices))
    folds = np.repeat(np.log(ambient_openness(vertices, triangles, everywhere))[:, None], 3, axis=1)
    lips = np.zeros((len(vertices), 3))
    if "lips" in assets.regions:
        lips = assets.regions["lips"][:, None].astype(np.float64) * np.array(prior.lips)
    for pattern, sigma in ((folds, prior.folds_sigma), (lips, prior.lips_sigma)):
        opponent = pattern[chosen] @ OPPONENT.T
        for channel in range(3):
            column = sigma * opponent[:, channel]
            covariances[channel] += np.outer(column, column)
    for channel in range(3):
        covariances[channel] += prior.independent[channel] ** 2 * np.eye(len(at))
    return prior.folds * folds + lips, covariances


def ambient_openness(
    vertices: Float[np.ndarray, "V 3"], triangles: Int[np.ndarray, "F 3"], ids: Int[np.ndarray, " N"], count: int = 64
) -> Float[np.ndarray, " N"]:
    """Share of an even surround that reaches each vertex, cosine-weighted, 1 where nothing stands in the way.

    Each direction is a small orthographic depth map (Landis, "Production-ready global illumination", SIGGRAPH 2002
    course notes, describes the quantity).
    """
    import torch

    from headrecon.geometry.mesh import vertex_normals

    normals = vertex_normals(torch.from_numpy(vertices), torch.from_numpy(triangles.astype(np.int64))).numpy()[ids]
    seen, total = np.full(len(ids), 1e-6), np.full(len(ids), 1e-6)
    centre = (vertices.max(0) + vertices.min(0)) / 2
    radius = float(np.linalg.norm(vertices - centre, axis=1).max())
    for direction in _sphere(count):
        weight = np.maximum(normals @ direction, 0.0)
        total += weight
        seen += weight * _reached((vertices - centre) / radius, triangles, ids, direction)
    return np.clip(seen / total, 0.15, 1.0)


def _sphere(count: int) -> np.ndarray:
    """Directions spread evenly over the sphere (Fibonacci lattice)."""
    k = np.arange(count) + 0.5
    z, angle = 1 - 2 * k / count, np.pi * (1 + np.sqrt(5.0)) * k
    ring = np.sqrt(1 - z * z)
    return np.stack([ring * np.cos(angle), ring * np.sin(angle), z], axis=1)


def _reached(unit: np.ndarray, triangles: np.ndarray, ids: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Whether light from `direction` reaches the vertices; the mesh lies within the unit ball."""
    import torch

    from headrecon.ops.rasterize import rasterize

    size, bias = 160, 0.03
    up = np.array([0.0, 1.0, 0.0]) if abs(direction[1]) < 0.9 else np.array([1.0, 0.0, 0.0])
    x = np.cross(up, direction)
    x /= np.linalg.norm(x)
    flat = (np.stack([unit @ x, unit @ np.cross(x, direction)], axis=1) * 0.5 + 0.5) * size
    depth = 2.0 - unit @ direction
    points = np.concatenate([flat, np.ones((len(flat), 1))], axis=1) * depth[:, None]
    raster = rasterize(
        torch.from_numpy(points.astype(np.float32))[None], torch.from_numpy(triangles.astype(np.int32)), size, size
    )
    cell = np.clip(flat[ids].astype(int), 0, size - 1)
    first = raster.depth_z[0].numpy()[cell[:, 1], cell[:, 0]]
    return depth[ids] <= np.where(first > 0, first, np.inf) + bias
