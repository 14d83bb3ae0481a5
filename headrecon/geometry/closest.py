"""Exact closest points on a triangle mesh, by k-d trees over the triangles' centroids."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial import KDTree

#: Points that are looked up together, which bounds the memory.
_CHUNK = 16384


@dataclass(frozen=True)
class ClosestPoints:
    """For N points: the nearest triangle, the barycentrics of the nearest place on it, and the distance to it."""

    face: Int[np.ndarray, " N"]
    barycentrics: Float[np.ndarray, "N 3"]
    distance: Float[np.ndarray, " N"]


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


class SurfaceIndex:
    """Answers closest-point questions on one triangle mesh; build it once for many questions.

    Triangles are sorted into classes of similar size, each with a k-d tree over its centroids: a triangle within
    distance d of a point has its centroid within d plus its own radius, so few large triangles (a neck's cap) do not
    make every question search far. Answers are exact. Raises ValueError for a mesh without triangles.
    """

    def __init__(self, vertices: Float[np.ndarray, "V 3"], triangles: Int[np.ndarray, "F 3"]) -> None:
        if len(triangles) == 0:
            raise ValueError("closest points: the mesh has no triangles")
        self.corners = np.asarray(vertices, dtype=np.float64)[triangles]
        centroids = self.corners.mean(1)
        self.radius = np.sqrt(((self.corners - centroids[:, None]) ** 2).sum(2).max(1))
        smallest = max(float(np.median(self.radius)), 1e-12)
        level = np.ceil(np.log2(np.maximum(self.radius / smallest, 1.0)) / 2).astype(int)
        self._classes = []
        for size in np.unique(level):
            own = np.flatnonzero(level == size)
            self._classes.append((own, KDTree(centroids[own]), float(self.radius[own].max())))

    def query(self, points: Float[np.ndarray, "N 3"], guess: Int[np.ndarray, " N"] | None = None) -> ClosestPoints:
        """The nearest place on the mesh for each of N finite points.

        guess: a triangle for each point that may be the nearest (the last answer for points that moved a little); it
        saves time and does not change the answer.
        """
        points = np.asarray(points, dtype=np.float64)
        best = ClosestPoints(np.zeros(len(points), np.int64), np.zeros((len(points), 3)), np.full(len(points), np.inf))
        if guess is not None:
            self._improve(points, np.arange(len(points)), guess, best)
        for start in range(0, len(points), _CHUNK):
            part = slice(start, start + _CHUNK)
            view = ClosestPoints(best.face[part], best.barycentrics[part], best.distance[part])
            for own, tree, radius in self._classes:
                self._search(points[part], own, tree, radius, view)
        return best

    def _search(self, points: np.ndarray, own: np.ndarray, tree: KDTree, radius: float, best: ClosestPoints) -> None:
        """Improve `best` in place with the triangles of one class."""
        todo, count, seen = np.arange(len(points)), 1, 0
        while todo.size:
            # Columns seen before are not measured again; nearer centroids come first and rule out most of the others.
            wanted = np.arange(seen + 1, count + 1)
            reach, index = tree.query(points[todo], k=wanted)  # pyright: ignore[reportArgumentType]
            face = own[index]
            row, k = np.nonzero(reach - self.radius[face] < best.distance[todo][:, None])
            if row.size:
                self._improve(points, todo[row], face[row, k], best)
            if count == len(own):
                break
            todo = todo[reach[:, -1] < best.distance[todo] + radius]
            seen, count = count, min(4 * count, len(own))

    def _improve(self, points: np.ndarray, row: np.ndarray, face: np.ndarray, best: ClosestPoints) -> None:
        """Measure pairs of point and triangle, and keep what is nearer. Rows may repeat."""
        corners, at = self.corners[face], points[row]
        weights = barycentrics_of_closest(at, corners)
        distance = np.linalg.norm((weights[..., None] * corners).sum(1) - at, axis=1)
        order = np.lexsort((distance, row))  # the first of each row is its nearest
        first = order[np.r_[True, np.diff(row[order]) > 0]]
        nearer = first[distance[first] < best.distance[row[first]]]
        target = row[nearer]
        best.face[target], best.barycentrics[target] = face[nearer], weights[nearer]
        best.distance[target] = distance[nearer]


def closest_points(
    vertices: Float[np.ndarray, "V 3"],
    triangles: Int[np.ndarray, "F 3"],
    points: Float[np.ndarray, "N 3"],
) -> tuple[Int[np.ndarray, " N"], Float[np.ndarray, "N 3"]]:
    """The triangle nearest to each point and the barycentrics of the nearest place on it. Exact.

    For many questions on one mesh keep a `SurfaceIndex`. Raises ValueError for a mesh without triangles.
    """
    found = SurfaceIndex(vertices, triangles).query(points)
    return found.face, found.barycentrics
