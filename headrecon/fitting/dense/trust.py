"""How far each skin point can be believed: glasses, beard, strands of hair, cast shadows and highlights are not skin.

Such things cover patches. A point is therefore judged by the misfit of its surroundings and not by its own, which
would also cost every mole its voice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from headrecon.fitting.dense.light_model import LightPrior, shade
from headrecon.fitting.dense.skin_points import SkinPoints
from headrecon.fitting.dense.skin_prior import OPPONENT


@dataclass(frozen=True)
class TrustOptions:
    """patch_m: deviation of the neighbourhood. cut: misfit, in prior deviations, at which a patch keeps a quarter of
    its weight (Geman and McClure 1987). rounds: of fitting the light and weighing anew."""

    patch_m: float = 0.006
    cut: float = 2.0
    rounds: int = 8


#: Smooth light and blotchy skin: how many independent measurements of the light a face amounts to.
INDEPENDENT_LOOKS = 60.0


def neighbourhood(skin: SkinPoints, patch_m: float) -> Float[np.ndarray, "N N"]:
    """Weights with which the surroundings of each point are averaged; rows sum to 1."""
    at = skin.rest
    square = np.sum(at * at, axis=1)
    nearby = np.exp(-0.5 * np.maximum(square[:, None] + square - 2 * at @ at.T, 0.0) / patch_m**2)
    return nearby / nearby.sum(1, keepdims=True)


def trust_of(misfit: Float[np.ndarray, " N"], cut: float) -> Float[np.ndarray, " N"]:
    """Weights in 0..1 for mean squared misfits in units of the prior's variance (1 is what is expected)."""
    return (cut**2 / (cut**2 + np.maximum(misfit - 1.0, 0.0))) ** 2


def extra_variance(
    skin: SkinPoints, trust: Float[np.ndarray, " N"], support: Float[np.ndarray, " N"], channels: int
) -> Float[np.ndarray, "N D"]:
    """Independent variance that gives points of small trust, and at the rim of what is skin, a small say."""
    share = np.maximum(trust * np.minimum(support, 1.0) ** 2, 1e-3)
    return skin.variance[:, :channels] * (1.0 / share - 1.0)[:, None]


def first_light(
    skin: SkinPoints,
    observed: Float[np.ndarray, "N 3"],
    normals: Float[np.ndarray, "N 3"],
    grain: Float[np.ndarray, "N 3"],
    options: TrustOptions,
    prior: LightPrior,
) -> tuple[Float[np.ndarray, "27"], Float[np.ndarray, " N"]]:
    """Light and trust for a head held still: Gauss-Newton on the light, reweighted by patch misfit."""
    target = observed - skin.log_albedo - grain
    precision = 1.0 / prior.block("light").sigma ** 2
    light = np.zeros(len(precision))
    light[:3] = OPPONENT @ np.median(target, axis=0)
    trust = np.ones(len(skin))
    nearby = neighbourhood(skin, options.patch_m)
    # Neighbours say nearly the same: together the points count as about so many independent looks.
    looks = min(1.0, INDEPENDENT_LOOKS / len(skin)) * skin.area / skin.area.mean()
    for _ in range(options.rounds):
        shading = shade(light, normals)
        residual = (target - shading.log) @ OPPONENT.T
        jac = (OPPONENT @ shading.by_light).reshape(-1, len(light))
        weight = ((looks * trust)[:, None] / skin.variance).reshape(-1)
        hessian = (jac * weight[:, None]).T @ jac + np.diag(precision)
        light = light + np.linalg.solve(hessian, jac.T @ (weight * residual.reshape(-1)) - precision * light)
        residual = (target - shade(light, normals).log) @ OPPONENT.T
        trust = trust_of(nearby @ np.mean(residual**2 / skin.variance, axis=1), options.cut)
    return light, trust
