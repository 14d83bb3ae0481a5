"""What is known of offsets before any photo: smooth, small, and loose parts (eyes, teeth) go with the skin.

A Gaussian field over the skin with a Matern covariance, by its sparse precision Q = t^2 (k^2 M + K) M^-1 (k^2 M + K)
of linear finite elements (Lindgren, Rue and Lindstrom, "An explicit link between Gaussian fields and Gaussian Markov
random fields", JRSS B 2011, section 2.3): M the lumped areas, K the cotangent stiffness, range sqrt(8) / k, variance
1 / (4 pi k^2 t^2). Offsets are smoothed and not the surface, so what the model knows of wrinkles and lids stays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int

from headrecon.fitting.multiview.surface import Surface
from headrecon.geometry.mesh import adjacency, cotangent_laplacian

if TYPE_CHECKING:
    import scipy.sparse

#: Reach of the skin around a loose part that carries it, metres.
_CARRIED_M = 0.008


@dataclass(frozen=True)
class MembraneOptions:
    """sigma_m: of an offset in each direction. range_m: at which two offsets have nothing to do with each other."""

    sigma_m: float = 0.0015
    range_m: float = 0.04


@dataclass(frozen=True)
class Membrane:
    """vertex: the D skin vertices that move, as the model counts them. place: of each model vertex among them, or -1.

    factor: F with Q = F F^T. carry: [V,D], offsets of all vertices from those of the skin.
    """

    vertex: Int[np.ndarray, " D"]
    place: Int[np.ndarray, " V"]
    precision: scipy.sparse.csr_matrix
    factor: scipy.sparse.csr_matrix
    carry: scipy.sparse.csr_matrix

    @staticmethod
    def build(surface: Surface, options: MembraneOptions) -> Membrane:
        import scipy.sparse as sp
        from scipy.sparse.csgraph import connected_components

        count = surface.assets.num_vertices
        at = surface.assets.v_template.astype(np.float64)
        _, label = connected_components(adjacency(surface.triangles, count), directed=False)
        own = np.unique(label[surface.triangles[surface.is_skin]])
        moving = surface.triangles[np.isin(label[surface.triangles[:, 0]], own)]
        vertex, flat = np.unique(moving, return_inverse=True)
        local = flat.reshape(-1, 3)
        place = np.full(count, -1)
        place[vertex] = np.arange(len(vertex))
        corners = at[moving]
        areas = 0.5 * np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
        mass = np.maximum(np.bincount(local.reshape(-1), np.repeat(areas / 3, 3), len(vertex)), 1e-10)
        kappa2 = 8.0 / options.range_m**2
        tau2 = 1.0 / (4 * np.pi * kappa2 * options.sigma_m**2)
        stiff = sp.diags(kappa2 * mass) + cotangent_laplacian(at[vertex], local)
        factor = sp.csr_matrix(np.sqrt(tau2) * stiff @ sp.diags(mass**-0.5))
        carry = _carry(at, label, np.isin(label, own), vertex, surface)
        return Membrane(vertex, place, sp.csr_matrix(factor @ factor.T), factor, carry)


def _carry(
    at: np.ndarray, label: np.ndarray, moves: np.ndarray, vertex: np.ndarray, surface: Surface
) -> scipy.sparse.csr_matrix:
    """Loose parts go along as a whole with the skin nearest to them; vertices of no triangle stay."""
    import scipy.sparse as sp
    from scipy.spatial import KDTree

    rows, cols, weights = [vertex], [np.arange(len(vertex))], [np.ones(len(vertex))]
    used = np.zeros(len(at), bool)
    used[np.unique(surface.triangles)] = True
    for part in np.unique(label[used & ~moves]):
        ids = np.flatnonzero(label == part)
        distance = KDTree(at[ids]).query(at[vertex])[0]
        share = np.exp(-0.5 * ((distance - distance.min()) / _CARRIED_M) ** 2)
        near = np.flatnonzero(share > 0.01)
        rows.append(np.repeat(ids, len(near)))
        cols.append(np.tile(near, len(ids)))
        weights.append(np.tile(share[near] / share[near].sum(), len(ids)))
    shape = (len(at), len(vertex))
    return sp.csr_matrix((np.concatenate(weights), (np.concatenate(rows), np.concatenate(cols))), shape=shape)
