"""Offsets of the neutral head from measured distances: the most probable field under the membrane's prior, and its
deviation. Linear least squares with robust weights; everything sparse."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from headrecon.fitting.multiview.membrane import Membrane
from headrecon.fitting.multiview.surface import Surface
from headrecon.fitting.multiview.sweep import Samples

if TYPE_CHECKING:
    import scipy.sparse


@dataclass(frozen=True)
class SolveOptions:
    """widen: by which the sweep's deviations are too small (measured on renderings with truth).

    together: measurements that say one thing: their windows overlap, and each pair of views is measured both ways.
    cut: misfit in deviations at which a measurement keeps a quarter of its weight. rounds: of weighing anew.
    draws: from the posterior, for the deviations; 0 leaves them out.
    """

    widen: float = 2.0
    together: float = 10.0
    cut: float = 3.0
    rounds: int = 6
    draws: int = 20


@dataclass(frozen=True)
class Displacement:
    """offsets of all vertices (metres, neutral head). sigma: deviation along the normal, metres; prior_sigma: before
    any photo; both 0 without draws. weight: 0..1 per sample."""

    offsets: Float[np.ndarray, "V 3"]
    sigma: Float[np.ndarray, " V"]
    prior_sigma: Float[np.ndarray, " V"]
    weight: Float[np.ndarray, " N"]


def blended_rotations(surface: Surface, params: Float[np.ndarray, " P"]) -> Float[np.ndarray, "V 3 3"]:
    """How posing turns an offset of each neutral vertex."""
    _, _, rotations, _ = surface.joints.pose(params)
    return np.einsum("vj,jab->vab", surface.assets.lbs_weights.astype(np.float64), rotations)


def rows_of(surface: Surface, samples: Samples, params: Float[np.ndarray, "C P"]) -> scipy.sparse.csr_matrix:
    """[N, 3V]: how offsets of all vertices (x, y, z of each) move each sample along its normal as posed."""
    import scipy.sparse as sp

    corners = surface.triangles[samples.face]
    directions = np.empty((len(samples), 3, 3))
    for view in np.unique(samples.view):
        turned = blended_rotations(surface, params[view])
        own = samples.view == view
        directions[own] = np.einsum("na,nkab->nkb", samples.normal[own], turned[corners[own]])
    values = samples.barycentrics[:, :, None] * directions
    columns = 3 * corners[..., None] + np.arange(3)
    rows = np.broadcast_to(np.arange(len(samples))[:, None, None], values.shape)
    shape = (len(samples), 3 * surface.assets.num_vertices)
    return sp.csr_matrix((values.reshape(-1), (rows.reshape(-1), columns.reshape(-1))), shape=shape)


def solve_displacement(
    surface: Surface,
    membrane: Membrane,
    samples: Samples,
    rows: scipy.sparse.csr_matrix,
    wanted: Float[np.ndarray, " N"],
    options: SolveOptions,
) -> Displacement:
    """rows @ offsets = wanted as well as the measurements' deviations and the prior say. No samples: all zero."""
    import scipy.sparse as sp

    rows = rows @ sp.kron(membrane.carry, sp.identity(3), format="csr")
    prior = sp.kron(membrane.precision, sp.identity(3), format="csc")
    sigma = options.widen * samples.sigma
    precision = 1.0 / (options.together * sigma**2)
    solution, factors = np.zeros(3 * membrane.shape[0]), None
    weight = np.ones(len(samples))
    # Wide at first: what is an outlier shows only when the surface lies near most measurements.
    for cut in np.geomspace(4 * options.cut, options.cut, max(options.rounds, 1)):
        if factors is not None:
            weight = (1.0 / (1.0 + ((wanted - rows @ solution) / sigma / cut) ** 2)) ** 2
        matrix = sp.csc_matrix(prior + rows.T @ sp.diags(weight * precision) @ rows)
        right = rows.T @ (weight * precision * wanted)
        # Weights change little: the first factors lead conjugate gradients to the later answers in a few steps.
        factors = factors or factorised(matrix)
        solution = _by_gradients(matrix, right, solution, factors)
    own = before = np.zeros(surface.assets.num_vertices)
    if options.draws > 0 and factors is not None:
        own, before = _deviations(surface, membrane, matrix, rows, weight * precision, factors, options.draws)
    moved = solution.reshape(-1, 3)
    return Displacement(membrane.carry @ moved, own, before, weight)


def factorised(matrix: scipy.sparse.csc_matrix) -> Callable[[np.ndarray], np.ndarray]:
    """The solver of a symmetric positive definite matrix (SuperLU; minimum degree on the pattern)."""
    from scipy.sparse.linalg import splu

    settings = {"SymmetricMode": True}
    return splu(matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options=settings).solve


def _by_gradients(
    matrix: scipy.sparse.csc_matrix,
    right: Float[np.ndarray, " K"],
    start: Float[np.ndarray, " K"],
    nearly: Callable[[np.ndarray], np.ndarray],
) -> Float[np.ndarray, " K"]:
    """matrix^-1 right by conjugate gradients, preconditioned with the solver of a similar matrix."""
    from scipy.sparse.linalg import LinearOperator, cg

    lead = LinearOperator(matrix.shape, matvec=nearly)  # pyright: ignore[reportCallIssue]
    return cg(matrix, right, x0=start, rtol=1e-4, maxiter=30, M=lead)[0]


def _deviations(
    surface: Surface,
    membrane: Membrane,
    matrix: scipy.sparse.csc_matrix,
    rows: scipy.sparse.csr_matrix,
    precision: Float[np.ndarray, " N"],
    factors: Callable[[np.ndarray], np.ndarray],
    draws: int,
) -> tuple[Float[np.ndarray, " V"], Float[np.ndarray, " V"]]:
    """Along the normal (of what has none, in any direction), after and before the photos, from draws:
    A^-1 (F z + B^T W^1/2 z') has covariance A^-1."""
    import scipy.sparse as sp

    rng = np.random.default_rng(0)
    normals = surface.normals(surface.assets.v_template.astype(np.float64))
    lone = np.linalg.norm(normals, axis=1) < 0.5  # inside of the mouth, eyes, teeth
    alone = factorised(sp.csc_matrix(membrane.precision))
    totals, zero = np.zeros((2, len(normals))), np.zeros(3 * membrane.shape[0])
    for _ in range(draws):
        noise = membrane.factor @ rng.standard_normal((membrane.shape[1], 3))
        seen = rows.T @ (np.sqrt(precision) * rng.standard_normal(len(precision)))
        after = _by_gradients(matrix, noise.reshape(-1) + seen, zero, factors).reshape(-1, 3)
        for total, drawn in zip(totals, (after, alone(noise)), strict=True):
            moved = membrane.carry @ drawn
            total += np.where(lone, (moved**2).sum(1) / 3, (moved * normals).sum(1) ** 2)
    after_photos, before_photos = np.sqrt(totals / draws)
    return after_photos, before_photos
