"""Triangle mesh maths: normals and areas (numpy, or torch and then differentiable), connectivity (numpy, scipy.sparse).

`Array` is a numpy array or a torch tensor; all arguments of a call are of one kind, and so is the answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from headrecon.arrays import Array, namespace

if TYPE_CHECKING:
    import scipy.sparse

_TINY = 1e-20


def face_cross(vertices: Float[Array, "*B V 3"], triangles: Int[Array, "F 3"]) -> Float[Array, "*B F 3"]:
    """Cross products of two edges: normal direction (counter-clockwise front) with twice the area as length."""
    a, b, c = (vertices[..., triangles[:, i], :] for i in range(3))
    return namespace(vertices).linalg.cross(b - a, c - a)


def face_normals(vertices: Float[Array, "*B V 3"], triangles: Int[Array, "F 3"]) -> Float[Array, "*B F 3"]:
    """Unit normals of triangles; zero for triangles without area. Differentiable."""
    return _unit(face_cross(vertices, triangles))


def face_areas(vertices: Float[Array, "*B V 3"], triangles: Int[Array, "F 3"]) -> Float[Array, "*B F"]:
    """Areas of triangles in squared units of the vertices."""
    cross = face_cross(vertices, triangles)
    return 0.5 * namespace(cross).linalg.norm(cross, None, -1)


def vertex_normals(vertices: Float[Array, "*B V 3"], triangles: Int[Array, "F 3"]) -> Float[Array, "*B V 3"]:
    """Unit vertex normals: area-weighted mean of the normals around; zero where no triangle is. Differentiable."""
    return _unit(_sum_at_corners(triangles, face_cross(vertices, triangles), vertices.shape[-2]))


def vertex_areas(vertices: Float[Array, "*B V 3"], triangles: Int[Array, "F 3"]) -> Float[Array, "*B V"]:
    """Barycentric vertex areas: a third of the area of the triangles around. They sum to the surface's area."""
    third = face_areas(vertices, triangles)[..., None] / 3
    return _sum_at_corners(triangles, third, vertices.shape[-2])[..., 0]


def _unit(vectors: Float[Array, "*B 3"]) -> Float[Array, "*B 3"]:
    return vectors / (vectors * vectors).sum(-1)[..., None].clip(_TINY) ** 0.5


def _sum_at_corners(
    triangles: Int[Array, "F 3"], values: Float[Array, "*B F D"], num_vertices: int
) -> Float[Array, "*B V D"]:
    """For each vertex the sum of a value of the triangles around it."""
    xp = namespace(values)
    if xp is np and values.ndim == 2:
        # Seven times as fast as np.add.at, and summed in float64.
        order = triangles.T.reshape(-1)
        sums = [np.bincount(order, np.tile(column, 3), num_vertices) for column in values.T]
        return np.stack(sums, axis=1).astype(values.dtype)
    total = xp.zeros((*values.shape[:-2], num_vertices, values.shape[-1]), dtype=values.dtype, device=values.device)
    for i in range(3):
        if xp is np:
            xp.add.at(total, (..., triangles[:, i], slice(None)), values)
        else:
            total = total.index_add(-2, triangles[:, i], values)
    return total


def unique_edges(triangles: Int[np.ndarray, "F 3"]) -> Int[np.ndarray, "E 2"]:
    """Undirected edges (i < j), each once, sorted."""
    edges = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])
    return np.unique(np.sort(edges, axis=1), axis=0)


def edge_faces(triangles: Int[np.ndarray, "F 3"]) -> tuple[Int[np.ndarray, "E 2"], Int[np.ndarray, "E 2"]]:
    """Undirected edges and the two faces beside each (-1 where the edge is a border; extra faces are dropped)."""
    count = len(triangles)
    edges = np.sort(np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]]), axis=1)
    owner = np.tile(np.arange(count), 3)
    unique, inverse = np.unique(edges, axis=0, return_inverse=True)
    inverse = inverse.reshape(-1)
    order = np.argsort(inverse, kind="stable")
    starts = np.searchsorted(inverse[order], np.arange(len(unique)))
    ends = np.append(starts[1:], len(order))
    faces = np.full((len(unique), 2), -1)
    faces[:, 0] = owner[order[starts]]
    shared = ends - starts > 1
    faces[shared, 1] = owner[order[starts[shared] + 1]]
    return unique, faces


def adjacency(triangles: Int[np.ndarray, "F 3"], num_vertices: int) -> scipy.sparse.csr_matrix:
    """Symmetric 0/1 matrix of vertices joined by an edge."""
    import scipy.sparse

    edges = unique_edges(triangles)
    rows, cols = np.concatenate([edges, edges[:, ::-1]]).T
    return scipy.sparse.csr_matrix((np.ones(len(rows)), (rows, cols)), shape=(num_vertices, num_vertices))


def uniform_laplacian(triangles: Int[np.ndarray, "F 3"], num_vertices: int) -> scipy.sparse.csr_matrix:
    """L = I - D^-1 A: row i gives the vertex minus the mean of its neighbours; zero rows for lone vertices."""
    import scipy.sparse

    a = adjacency(triangles, num_vertices)
    degree = np.asarray(a.sum(1)).reshape(-1)
    inverse = np.divide(1.0, degree, out=np.zeros_like(degree), where=degree > 0)
    return scipy.sparse.csr_matrix(scipy.sparse.diags((degree > 0).astype(float)) - scipy.sparse.diags(inverse) @ a)


def cotangent_laplacian(
    vertices: Float[np.ndarray, "V 3"], triangles: Int[np.ndarray, "F 3"]
) -> scipy.sparse.csr_matrix:
    """Positive semi-definite stiffness matrix with cotangent weights (Pinkall and Polthier 1993), rows sum to 0.

    Divide by `vertex_areas` for the Laplace-Beltrami operator. Cotangents are clipped to +-1e3 so that a sliver
    triangle cannot ruin the matrix.
    """
    import scipy.sparse

    count = len(vertices)
    rows, cols, weights = [], [], []
    for i in range(3):
        o, a, b = triangles[:, i], triangles[:, (i + 1) % 3], triangles[:, (i + 2) % 3]
        u, v = vertices[a] - vertices[o], vertices[b] - vertices[o]
        cross = np.linalg.norm(np.cross(u, v), axis=1)
        cot = np.clip(np.sum(u * v, axis=1) / np.maximum(cross, 1e-12), -1e3, 1e3)
        rows += [a, b]
        cols += [b, a]
        weights += [0.5 * cot, 0.5 * cot]
    w = scipy.sparse.csr_matrix(
        (np.concatenate(weights), (np.concatenate(rows), np.concatenate(cols))), shape=(count, count)
    )
    return scipy.sparse.csr_matrix(scipy.sparse.diags(np.asarray(w.sum(1)).reshape(-1)) - w)
