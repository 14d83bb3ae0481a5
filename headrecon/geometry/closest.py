"""Exact closest points on a triangle mesh, by a k-d tree over the triangles' centroids."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial import KDTree


def barycentrics_of_closest(
    points: Float[np.ndarray, "*N 3"], corners: Float[np.ndarray, "*N 3 3"]
) -> Float[np.ndarray, "*N 3"]:
    """Barycentrics of the point of each triangle that is closest to each point.

    Projects to the plane; where that falls outside, the best of the three edges is taken. Triangles without area give a
    point on their longest edge.
    """
    a, b, c = corners[..., 0, :], corners[..., 1, :], corners[..., 2, :]
    ab, ac, ap = b - a, c - a, points - a
    d00, d01, d11 = (ab * ab).sum(-1), (ab * ac).sum(-1), (ac * ac).sum(-1)
    d20, d21 = (ap * ab).sum(-1), (ap * ac).sum(-1)
    area = d00 * d11 - d01 * d01
    safe = np.where(area > 1e-30, area, 1.0)
    v, w = (d11 * d20 - d01 * d21) / safe, (d00 * d21 - d01 * d20) / safe
    inside = (area > 1e-30) & (v >= 0) & (w >= 0) & (v + w <= 1)
    plane = np.stack([1 - v - w, v, w], -1)
    candidates = []
    for i, k in ((0, 1), (1, 2), (2, 0)):
        start, edge = corners[..., i, :], corners[..., k, :] - corners[..., i, :]
        t = ((points - start) * edge).sum(-1) / np.maximum((edge * edge).sum(-1), 1e-30)
        t = np.clip(t, 0, 1)
        weights = np.zeros(plane.shape)
        weights[..., i], weights[..., k] = 1 - t, t
        distance = ((start + t[..., None] * edge - points) ** 2).sum(-1)
        candidates.append((distance, weights))
    best = np.argmin(np.stack([d for d, _ in candidates]), axis=0)
    edges = np.choose(best[..., None], [w for _, w in candidates])
    return np.where(inside[..., None], plane, edges)


def closest_points(
    vertices: Float[np.ndarray, "V 3"],
    triangles: Int[np.ndarray, "F 3"],
    points: Float[np.ndarray, "N 3"],
) -> tuple[Int[np.ndarray, " N"], Float[np.ndarray, "N 3"]]:
    """The triangle nearest to each point and the barycentrics of the nearest place on it. Exact.

    A triangle within distance d has its centroid within d plus its own radius; more centroids are asked for until that
    proves that none was missed. Raises ValueError for a mesh without triangles.
    """
    if len(triangles) == 0:
        raise ValueError("closest_points: the mesh has no triangles")
    corners = np.asarray(vertices, dtype=np.float64)[triangles]
    centroids = corners.mean(1)
    radius = np.sqrt(((corners - centroids[:, None]) ** 2).sum(2).max())
    tree = KDTree(centroids)
    face = np.zeros(len(points), dtype=np.int64)
    bary = np.zeros((len(points), 3))
    todo, count = np.arange(len(points)), min(12, len(triangles))
    while todo.size:
        reach, index = tree.query(points[todo], k=count)
        reach, index = reach.reshape(len(todo), -1), index.reshape(len(todo), -1)
        tested = corners[index]
        target = np.broadcast_to(points[todo][:, None], (*index.shape, 3))
        weights = barycentrics_of_closest(target, tested)
        distance = np.linalg.norm((weights[..., None] * tested).sum(2) - target, axis=2)
        best = distance.argmin(1)
        row = np.arange(len(todo))
        face[todo], bary[todo] = index[row, best], weights[row, best]
        unsure = (reach[:, -1] < distance[row, best] + radius) & (count < len(triangles))
        todo, count = todo[unsure], min(4 * count, len(triangles))
    return face, bary
