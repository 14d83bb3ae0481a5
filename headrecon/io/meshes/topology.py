"""What every mesh writer needs before it can write: smooth normals and vertices split where the texture is cut."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int


@dataclass(frozen=True)
class SplitMesh:
    """A mesh with one UV per vertex. Vertex i is vertex `source[i]` of the original; several may share one source."""

    source: Int[np.ndarray, " W"]
    uvs: Float[np.ndarray, "W 2"]
    triangles: Int[np.ndarray, "T 3"]


def split_at_seams(
    triangles: Int[np.ndarray, "T 3"], uv_triangles: Int[np.ndarray, "T 3"], uvs: Float[np.ndarray, "U 2"]
) -> SplitMesh:
    """Give every used (vertex, UV) pair its own vertex, in the order of the original vertices."""
    corners = np.stack([triangles.reshape(-1), uv_triangles.reshape(-1)], axis=1).astype(np.int64)
    # One integer per pair sorts an order of magnitude faster than np.unique over rows.
    key = corners[:, 0] * max(len(uvs), 1) + corners[:, 1]
    unique, inverse = np.unique(key, return_inverse=True)
    source, uv_index = np.divmod(unique, max(len(uvs), 1))
    return SplitMesh(source, uvs[uv_index], inverse.reshape(-1, 3))


def vertex_normals(
    vertices: Float[np.ndarray, "*N V 3"], triangles: Int[np.ndarray, "T 3"]
) -> Float[np.ndarray, "*N V 3"]:
    """Unit normals, each triangle weighted by its angle at the vertex; +y where a vertex has no triangle.

    Angle weights (Thürmer and Wüthrich 1998) do not depend on which diagonal splits a quad in the flat case, so the
    shading shows no trace of the triangulation. Leading axes are batched.
    """
    flat = vertices.reshape(-1, *vertices.shape[-2:]).astype(np.float64)
    n, v, _ = flat.shape
    corners = triangles.reshape(-1)
    out = np.empty_like(flat)
    for i in range(n):
        p = flat[i][triangles]
        edges = _unit(np.roll(p, -1, axis=1) - p)
        cos = -np.einsum("tkc,tkc->tk", edges, np.roll(edges, 1, axis=1))
        angles = np.arccos(np.clip(cos, -1, 1))
        face = _unit(np.cross(edges[:, 0], -edges[:, 2]))
        for axis in range(3):
            out[i, :, axis] = np.bincount(corners, (angles * face[:, axis, None]).reshape(-1), minlength=v)
    lengths = np.linalg.norm(out, axis=-1, keepdims=True)
    out = np.where(lengths > 1e-12, out / np.maximum(lengths, 1e-12), np.array([0.0, 1.0, 0.0]))
    return out.reshape(vertices.shape).astype(vertices.dtype)


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-20)
