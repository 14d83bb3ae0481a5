"""Moves a mesh onto scan points so that the squared point-to-surface distances become least."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from headrecon.geometry import so3
from headrecon.geometry.alignment import Similarity
from headrecon.geometry.closest import SurfaceIndex

#: Below this distance (in the mesh's unit; 1e-6 mm for millimetres) a direction to the surface means nothing.
_TOUCHING = 1e-6
#: Points that decide the first, coarse alignment.
_COARSE_POINTS = 1500


@dataclass(frozen=True)
class AlignmentOptions:
    """When the solver stops: at a step that moves no point by more than `tolerance` (mm) or lowers the squared error by
    less than the share `gain`, or after `iterations`."""

    iterations: int = 60
    tolerance: float = 1e-3
    gain: float = 1e-7


@dataclass(frozen=True)
class _Linearised:
    """Distances [N] at a pose, their derivatives [N,6 or 7], and the nearest triangle of each point."""

    jacobian: Float[np.ndarray, "N P"]
    residual: Float[np.ndarray, " N"]
    face: Int[np.ndarray, " N"]

    @property
    def cost(self) -> float:
        return float(self.residual @ self.residual)


def align_mesh_to_scan(
    surface: SurfaceIndex,
    points: Float[np.ndarray, "N 3"],
    start: Similarity,
    with_scale: bool,
    options: AlignmentOptions = AlignmentOptions(),
) -> Similarity:
    """The motion of the mesh that minimises the sum of squared distances from `points` to it, from `start` on.

    Levenberg-Marquardt on the distances themselves: their derivative is the direction to the closest place (which
    moves along the surface to first order only), so this converges quadratically where alternating closest points and
    Procrustes creeps. with_scale also solves for the size; distances are measured in the scan's unit either way.
    A part of the points brings the mesh close, then all of them decide. Deterministic; finds the minimum nearest to
    the start.
    """
    if len(points) > 2 * _COARSE_POINTS:
        some = points[:: len(points) // _COARSE_POINTS]
        start = _solve(surface, some, start, with_scale, replace(options, tolerance=20 * options.tolerance))
    return _solve(surface, points, start, with_scale, options)


def _solve(
    surface: SurfaceIndex, points: np.ndarray, pose: Similarity, with_scale: bool, options: AlignmentOptions
) -> Similarity:
    damping, current = 1e-6, _linearised(surface, points, pose, with_scale)
    for _ in range(options.iterations):
        normal, gradient = current.jacobian.T @ current.jacobian, current.jacobian.T @ current.residual
        step = -np.linalg.solve(normal + damping * np.diag(np.maximum(np.diag(normal), 1e-12)), gradient)
        candidate = _moved(pose, step, points)
        found = _linearised(surface, points, candidate, with_scale, current.face)
        moved = float(np.abs(candidate.inverse().apply(points) - pose.inverse().apply(points)).max()) * pose.scale
        gain = current.cost - found.cost
        if gain >= 0:
            pose, current, damping = candidate, found, max(damping * 0.2, 1e-9)
        else:
            damping = min(max(damping * 10, 1e-4), 1e6)
        if moved < options.tolerance or 0 <= gain < options.gain * found.cost:
            break
    return pose


def distances_to(surface: SurfaceIndex, points: Float[np.ndarray, "N 3"], pose: Similarity) -> Float[np.ndarray, " N"]:
    """Distances of scan points to the moved mesh, in the scan's unit."""
    return pose.scale * surface.query(pose.inverse().apply(points)).distance


def _linearised(
    surface: SurfaceIndex, points: np.ndarray, pose: Similarity, with_scale: bool, guess: np.ndarray | None = None
) -> _Linearised:
    """Distances and their derivatives by a small turn and shift of the mesh about the points' centre, and by log size.

    The points are taken into the mesh's own space, so that its search tree is built once.
    """
    found = surface.query(pose.inverse().apply(points), guess)
    on_mesh = (found.barycentrics[..., None] * surface.corners[found.face]).sum(1)
    at = pose.apply(on_mesh)
    apart = points - at
    distance = np.linalg.norm(apart, axis=1)
    touching = distance <= _TOUCHING * pose.scale
    corners = surface.corners[found.face]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]) @ pose.rotation.T
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-30)
    unit = np.where(touching[:, None], normals, apart / np.maximum(distance, 1e-30)[:, None])
    arm = at - points.mean(0)
    # d = |p - x|; moving x by dx changes it by -unit . dx, with dx = w x arm + u + s arm.
    columns = [-np.cross(arm, unit), -unit]
    if with_scale:
        columns.append(-(unit * arm).sum(1, keepdims=True))
    return _Linearised(np.concatenate(columns, axis=1), np.where(touching, 0.0, distance), found.face)


def _moved(pose: Similarity, step: np.ndarray, points: np.ndarray) -> Similarity:
    """The pose after a turn step[:3] and a change of size exp(step[6]) about the points' centre and a shift."""
    centre = points.mean(0)
    turn, growth = so3.exp(step[:3]), float(np.exp(step[6])) if len(step) > 6 else 1.0
    translation = growth * turn @ (pose.translation - centre) + centre + step[3:6]
    return Similarity(turn @ pose.rotation, translation, growth * pose.scale)
