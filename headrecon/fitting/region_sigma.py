"""How sure the shape is, region by region: what the photo holds about the nose is not what it holds about the ears."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from headrecon.geometry.mesh import vertex_normals
from headrecon.structures import HeadAssets, triangulate

#: A vertex belongs to a region from this weight on.
_INSIDE = 0.5


@dataclass(frozen=True)
class RegionSigma:
    """Standard deviation of where the surface lies, in mm, as fitted and before any photo (the population's).

    seen: share of the region on which several photos agree, 0..1; None where they were not compared.
    """

    sigma_mm: float
    prior_mm: float
    seen: float | None = None


@dataclass(frozen=True)
class SeenSkin:
    """Vertices on which several photos agree, and the deviation of each along its normal, metres."""

    observed: Bool[np.ndarray, " V"]
    sigma_m: Float[np.ndarray, " V"]


def region_sigmas(
    assets: HeadAssets,
    neutral: Float[np.ndarray, "V 3"],
    betas_covariance: Float[np.ndarray, "Nb Nb"],
    skin: SeenSkin | None = None,
) -> dict[str, RegionSigma]:
    """For each region of the model the rms deviation across its surface, seen from the centre of the face.

    neutral: the head at rest, metres. betas_covariance: posterior of the identity. The mean motion of the region
    "face" (of the whole head in a model without one) is taken out, as a place in space is not shape. skin: what several
    photos agree on counts with its own deviation (which knows of shape, not of the size of the whole head).
    """
    directions = assets.shapedirs.astype(np.float64)
    face = np.flatnonzero(assets.regions.get("face", np.ones(assets.num_vertices)) > _INSIDE)
    directions = directions - directions[face].mean(0)
    normals = vertex_normals(neutral.astype(np.float64), triangulate(assets.faces)[0].astype(np.int64))
    across = np.einsum("vc,vck->vk", normals, directions)
    found = {}
    for name, weights in assets.regions.items():
        inside = weights > _INSIDE
        own, share = across[inside], None
        if len(own):
            variance = np.einsum("vk,kl,vl->v", own, betas_covariance, own, optimize=True)
            if skin is not None:
                seen = skin.observed[inside]
                variance = np.where(seen, skin.sigma_m[inside] ** 2, variance)
                share = float(seen.mean())
            found[name] = RegionSigma(_rms_mm(variance), _rms_mm((own**2).sum(1)), share)
    return found


def _rms_mm(variance: Float[np.ndarray, " N"]) -> float:
    return float(1e3 * np.sqrt(np.maximum(variance, 0).mean()))
