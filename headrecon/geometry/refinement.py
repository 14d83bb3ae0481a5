"""A finer mesh over a coarse one: long edges are halved and their middles rounded, so that outlines look smooth.

The middle of an edge goes where a cubic through both ends with tangents at right angles to their normals passes: the
edges of PN triangles (Vlachos, Peters, Boyd and Mitchell, "Curved PN triangles", I3D 2001, section 3). The surface
goes through all vertices of the coarse mesh; a limit surface of Catmull and Clark does not, and shrinks noses and ears.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from headrecon.geometry.mesh import vertex_normals
from headrecon.structures import Mesh, triangulate

#: Edges longer than this are halved; on a head in a picture of 512 pixels these are ten pixels.
LONGEST_M = 0.006
_ROUNDS = 3
#: Ends whose normals differ by more than this cosine lie across a crease, which stays as it is.
_CREASE = 0.3


@dataclass(frozen=True)
class Refinement:
    """How a mesh is made finer: for all poses of one head alike, so that nothing jumps from frame to frame.

    coarse: the triangles that were given. faces, uvs, uv_faces: of the finer mesh, whose first vertices (and UVs) are
    the given ones. parents: for each halving the two ends of every new vertex.
    """

    coarse: Int[np.ndarray, "F 3"]
    faces: Int[np.ndarray, "G 3"]
    uvs: Float[np.ndarray, "T 2"] | None
    uv_faces: Int[np.ndarray, "G 3"] | None
    parents: tuple[Int[np.ndarray, "_ 2"], ...]

    @staticmethod
    def of(mesh: Mesh, longest: float = LONGEST_M) -> Refinement:
        """Halve edges longer than `longest` (metres), as far as three halvings reach; UVs go along.

        A mesh without long edges stays as it is, as triangles. O(F) a halving, numpy alone.
        """
        vertices = np.asarray(mesh.vertices, dtype=np.float64)
        coarse = triangles = triangulate(mesh.faces)[0]
        uvs, uv_triangles = mesh.uvs, None if mesh.uv_faces is None else triangulate(mesh.uv_faces)[0]
        normals, parents = vertex_normals(vertices, triangles), []
        for _ in range(_ROUNDS):
            ends = vertices[triangles] - vertices[np.roll(triangles, -1, axis=1)]
            long = (ends * ends).sum(-1) > longest**2
            if not long.any():
                break
            if uvs is not None and uv_triangles is not None:
                uv_triangles, uv_parents = _halve(uv_triangles, long, len(uvs))
                uvs = np.concatenate([uvs, 0.5 * (uvs[uv_parents[:, 0]] + uvs[uv_parents[:, 1]])])
            triangles, ends = _halve(triangles, long, len(vertices))
            parents.append(ends)
            vertices, normals = _with_middles(vertices, normals, ends)
        return Refinement(coarse, triangles, uvs, uv_triangles, tuple(parents))

    def mesh(self, vertices: Float[np.ndarray, "V 3"]) -> Mesh:
        """The finer mesh over these places of the coarse vertices."""
        fine = np.asarray(vertices, dtype=np.float64)
        normals = vertex_normals(fine, self.coarse)
        for ends in self.parents:
            fine, normals = _with_middles(fine, normals, ends)
        return Mesh(fine.astype(np.float32), self.faces, self.uvs, self.uv_faces)

    def spread(self, values: Float[np.ndarray, "V *D"]) -> Float[np.ndarray, "W *D"]:
        """Values of coarse vertices at all vertices: means in the middles of edges."""
        for ends in self.parents:
            values = np.concatenate([values, 0.5 * (values[ends[:, 0]] + values[ends[:, 1]])])
        return values


def _with_middles(
    vertices: Float[np.ndarray, "V 3"], normals: Float[np.ndarray, "V 3"], ends: Int[np.ndarray, "E 2"]
) -> tuple[Float[np.ndarray, "W 3"], Float[np.ndarray, "W 3"]]:
    middles, between = _rounded(vertices, normals, ends)
    return np.concatenate([vertices, middles]), np.concatenate([normals, between])


def _rounded(
    vertices: Float[np.ndarray, "V 3"], normals: Float[np.ndarray, "V 3"], parents: Int[np.ndarray, "E 2"]
) -> tuple[Float[np.ndarray, "E 3"], Float[np.ndarray, "E 3"]]:
    """Middles of edges on the rounded surface, and their normals."""
    a, b = vertices[parents[:, 0]], vertices[parents[:, 1]]
    normal_a, normal_b = normals[parents[:, 0]], normals[parents[:, 1]]
    half = 0.5 * (b - a)
    rise = (half * normal_b).sum(1)[:, None] * normal_b - (half * normal_a).sum(1)[:, None] * normal_a
    smooth = (normal_a * normal_b).sum(1)[:, None] > _CREASE
    middles = 0.5 * (a + b) + np.where(smooth, 0.25 * rise, 0.0)
    between = normal_a + normal_b
    return middles, between / np.maximum(np.linalg.norm(between, axis=1, keepdims=True), 1e-9)


def _halve(
    triangles: Int[np.ndarray, "F 3"], marked: Bool[np.ndarray, "F 3"], count: int
) -> tuple[Int[np.ndarray, "G 3"], Int[np.ndarray, "E 2"]]:
    """Triangles with the marked edges (edge k runs from corner k to the next) halved; the ends of each new vertex.

    New vertices are numbered from `count`. Tables with the same marks (positions, UVs) come out with matching corners.
    """
    ends = np.sort(np.stack([triangles, np.roll(triangles, -1, axis=1)], axis=-1), axis=-1).astype(np.int64)
    keys = ends[..., 0] * np.int64(count) + ends[..., 1]
    known, index = np.unique(keys[marked], return_inverse=True)
    middle = np.full(triangles.shape, -1, dtype=np.int64)
    middle[marked] = count + index.reshape(-1)
    out = [triangles[~marked.any(1)]]
    number = marked.sum(1)
    # Turned so that the marked edges come first: then there is one pattern for each number of them.
    for wanted in (1, 2, 3):
        chosen = np.flatnonzero(number == wanted)
        first = np.argmax(marked[chosen] & ~np.roll(marked[chosen], 1, axis=1), axis=1) if wanted < 3 else 0
        turn = (np.arange(3)[None] + np.reshape(first, (-1, 1))) % 3
        turn = np.broadcast_to(turn, (len(chosen), 3))
        (a, b, c), (ab, bc, ca) = (np.take_along_axis(t[chosen], turn, axis=1).T for t in (triangles, middle))
        patterns = {
            1: ((a, ab, c), (ab, b, c)),
            2: ((ab, b, bc), (a, ab, bc), (a, bc, c)),
            3: ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca)),
        }
        out += [np.stack(corners, axis=1) for corners in patterns[wanted]]
    parents = np.stack([known // count, known % count], axis=1)
    return np.concatenate(out).astype(triangles.dtype), parents
