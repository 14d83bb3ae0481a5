"""Low-frequency colour on the mesh graph: what is seen spreads to what is not, without any seam.

The unseen part solves a screened Poisson equation (Pérez, Gangnet and Blake, "Poisson image editing", SIGGRAPH 2003)
on the surface: its gradients follow a guide (here the other half of the face) and it meets the seen part smoothly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from headrecon.geometry.mesh import cotangent_laplacian

#: Strength of smoothness against one fully seen vertex: small, so that seen colours are kept.
_SMOOTHNESS = 0.05
#: Far from anything seen the prior takes over; against a hint colours reach sqrt(_SMOOTHNESS / _PRIOR) = 5 edges.
_PRIOR = 2e-3
#: Cotangent weights of slivers are cut to this range, so that no edge is cut off or dominates.
_EDGE_RANGE = (0.05, 5.0)


@dataclass(frozen=True)
class SeenColors:
    """Colours of V vertices with the trust in each, 0 where unseen."""

    colors: Float[np.ndarray, "V 3"]
    weight: Float[np.ndarray, " V"]


@dataclass(frozen=True)
class Prior:
    """What to expect of each vertex, and how firmly: 1 for a hint that counts far from all data, 10 for a firm one."""

    colors: Float[np.ndarray, "V 3"]
    strength: Float[np.ndarray, " V"]


@dataclass(frozen=True)
class Guide:
    """Colours whose differences, not values, the unseen part should take over, where `known`."""

    colors: Float[np.ndarray, "V 3"]
    known: Bool[np.ndarray, " V"]


def diffuse_colors(
    vertices: Float[np.ndarray, "V 3"],
    triangles: Int[np.ndarray, "F 3"],
    seen: SeenColors,
    guide: Guide,
    prior: Prior,
) -> Float[np.ndarray, "V 3"]:
    """Colours everywhere: close to the seen ones, guided differences elsewhere, far from all data the prior."""
    import scipy.sparse as sp
    from scipy.sparse.linalg import spsolve

    weights = -cotangent_laplacian(vertices.astype(np.float64), triangles)
    weights.setdiag(0)
    edges = weights.tocoo()
    rows, cols = edges.row, edges.col
    omega = _SMOOTHNESS * np.clip(edges.data, *_EDGE_RANGE)
    count = len(vertices)
    graph = sp.csr_matrix((omega, (rows, cols)), shape=(count, count))
    laplacian = sp.diags(np.asarray(graph.sum(1)).reshape(-1)) - graph
    data = seen.weight.astype(np.float64)
    both = guide.known[rows] & guide.known[cols]
    difference = np.where(both[:, None], guide.colors[rows] - guide.colors[cols], 0.0) * omega[:, None]
    pull = _PRIOR * prior.strength
    right = data[:, None] * seen.colors + pull[:, None] * prior.colors
    for channel in range(3):
        right[:, channel] += np.bincount(rows, difference[:, channel], minlength=count)
    system = (laplacian + sp.diags(data + pull)).tocsc()
    return np.clip(np.asarray(spsolve(system, right)), 0.0, 1.0)


def mirror_vertices(
    template: Float[np.ndarray, "V 3"], tolerance: float = 0.004
) -> tuple[Int[np.ndarray, " V"], Bool[np.ndarray, " V"]]:
    """The vertex nearest to each vertex's mirror image in x, and whether it lies within `tolerance` metres."""
    from scipy.spatial import KDTree

    distance, index = KDTree(template).query(template * np.array([-1.0, 1.0, 1.0]))
    return np.asarray(index), np.asarray(distance) < tolerance
