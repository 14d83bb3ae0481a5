"""What is known of offsets before any photo: smooth, small; loose parts (eyes, teeth) go with the skin, and the rims of
lids with their eyeball.

A Gaussian field over the skin with a Matern covariance, by its sparse precision Q = t^2 (k^2 M + K) M^-1 (k^2 M + K)
of linear finite elements (Lindgren, Rue and Lindstrom, "An explicit link between Gaussian fields and Gaussian Markov
random fields", JRSS B 2011, section 2.3): M the lumped areas, K the cotangent stiffness, range sqrt(8) / k, variance
1 / (4 pi k^2 t^2). Offsets are smoothed and not the surface, so what the model knows of wrinkles and lids stays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
from jaxtyping import Float, Int

from headrecon.fitting.multiview.surface import Surface
from headrecon.geometry.mesh import adjacency, cotangent_laplacian
from headrecon.models.eye_sockets import EyeSocket, eye_sockets

if TYPE_CHECKING:
    import scipy.sparse

#: Reach of the skin around a loose part that carries it, metres.
_CARRIED_M = 0.008
#: Deviation of an eyeball from the mean of the skin around it, metres.
_EYE_SIGMA_M = 0.0003


@dataclass(frozen=True)
class MembraneOptions:
    """sigma_m: of an offset in each direction. range_m: at which two offsets have nothing to do with each other."""

    sigma_m: float = 0.0015
    range_m: float = 0.04


@dataclass(frozen=True)
class Membrane:
    """vertex: the D skin vertices that move, as the model counts them; after them come unknowns of E eyeballs.

    factor: F with Q = F F^T. carry: [V,D+E], offsets of all vertices from the unknowns.
    """

    vertex: Int[np.ndarray, " D"]
    precision: scipy.sparse.csr_matrix
    factor: scipy.sparse.csr_matrix
    carry: scipy.sparse.csr_matrix

    @property
    def shape(self) -> tuple[int, int]:
        """How many unknowns there are (each in three directions), and how many columns `factor` has."""
        return cast(tuple[int, int], self.factor.shape)

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
        corners = at[moving]
        areas = 0.5 * np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
        mass = np.maximum(np.bincount(local.reshape(-1), np.repeat(areas / 3, 3), len(vertex)), 1e-10)
        kappa2 = 8.0 / options.range_m**2
        tau2 = 1.0 / (4 * np.pi * kappa2 * options.sigma_m**2)
        stiff = sp.diags(kappa2 * mass) + cotangent_laplacian(at[vertex], local)
        eyes = eye_sockets(surface.assets)
        around = [_skin_around(at[eye.eyeball], at[vertex]) for eye in eyes]
        factor = _with_eyes(sp.csr_matrix(np.sqrt(tau2) * stiff @ sp.diags(mass**-0.5)), around)
        used = np.zeros(count, bool)
        used[np.unique(surface.triangles)] = True
        parts = [np.flatnonzero(label == part) for part in np.unique(label[used & ~np.isin(label, own)])]
        carry = _carry(surface, vertex, eyes, parts)
        return Membrane(vertex, sp.csr_matrix(factor @ factor.T), factor, carry)


def _skin_around(part: Float[np.ndarray, "N 3"], skin: Float[np.ndarray, "D 3"]) -> Float[np.ndarray, " D"]:
    """Shares of the skin's vertices in what carries a loose part; their sum is 1."""
    from scipy.spatial import KDTree

    distance = KDTree(part).query(skin)[0]
    share = np.exp(-0.5 * ((distance - distance.min()) / _CARRIED_M) ** 2)
    share[share <= 0.01] = 0.0
    return share / share.sum()


def _with_eyes(factor: scipy.sparse.csr_matrix, around: list[Float[np.ndarray, " D"]]) -> scipy.sparse.csr_matrix:
    """The skin's factor with an unknown for each eyeball, tied to the skin around it."""
    import scipy.sparse as sp

    size = len(factor.indptr) - 1
    blocks = [sp.vstack([factor, sp.csr_matrix((len(around), size))])]
    for eye, share in enumerate(around):
        near = np.flatnonzero(share)
        tie = np.sqrt(share[near]) / _EYE_SIGMA_M
        rows = np.concatenate([near, np.full(len(near), size + eye)])
        columns = np.tile(np.arange(len(near)), 2)
        blocks.append(
            sp.csr_matrix((np.concatenate([tie, -tie]), (rows, columns)), shape=(size + len(around), len(near)))
        )
    return sp.csr_matrix(sp.hstack(blocks))


def _carry(
    surface: Surface,
    vertex: Int[np.ndarray, " D"],
    eyes: list[EyeSocket],
    parts: list[Int[np.ndarray, " _"]],
) -> scipy.sparse.csr_matrix:
    """Skin moves by itself and near an eyeball with it (rims that follow what is compared around them leave the
    eyeball), loose parts as a whole with the skin around them or as the eyeball that they belong to; vertices of no
    triangle stay."""
    import scipy.sparse as sp

    at, unknowns = surface.assets.v_template.astype(np.float64), len(vertex) + len(eyes)
    free, triples = np.ones(len(vertex)), []
    for number, eye in enumerate(eyes):
        share = np.zeros(len(at))
        share[eye.near] = eye.share
        tied = free * share[vertex]
        free = free - tied
        near = np.flatnonzero(tied)
        triples.append((vertex[near], np.full(len(near), len(vertex) + number), tied[near]))
    triples.append((vertex, np.arange(len(vertex)), free))
    for ids in parts:
        own = [number for number, eye in enumerate(eyes) if np.isin(ids, eye.eyeball).all()]
        share = np.zeros(unknowns)
        if own:
            share[len(vertex) + own[0]] = 1.0
        else:
            share[: len(vertex)] = _skin_around(at[ids], at[vertex])
        near = np.flatnonzero(share)
        triples.append((np.repeat(ids, len(near)), np.tile(near, len(ids)), np.tile(share[near], len(ids))))
    rows, columns, values = (np.concatenate(x) for x in zip(*triples, strict=True))
    return sp.csr_matrix((values, (rows, columns)), shape=(len(at), unknowns))
