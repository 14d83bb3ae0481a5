"""What the dense stage hands back, and when it keeps the landmark fit instead."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import scipy.linalg
from jaxtyping import Float, Int

from headrecon.fitting.dense.light_model import to_lighting
from headrecon.fitting.dense.options import GuardOptions
from headrecon.fitting.dense.photometric import PhotometricResidual
from headrecon.fitting.dense.skin_prior import OPPONENT
from headrecon.fitting.fit_report import LandmarkFit
from headrecon.fitting.least_squares import Values
from headrecon.rendering.lighting import Lighting


@dataclass(frozen=True)
class SkinReport:
    """What the (first) photo showed of the skin, per compared vertex of the model.

    albedo_linear: reflectance up to the brightness that light and skin share. trust: 0..1, low under glasses, hair,
    beard, shadows, highlights. light: of the photo, in world axes (the camera's, y up); it holds the skin's mean tone.
    """

    vertex: Int[np.ndarray, " N"]
    albedo_linear: Float[np.ndarray, "N 3"]
    trust: Float[np.ndarray, " N"]
    light: Lighting


@dataclass(frozen=True)
class DenseFit:
    """The refined fit, in the same form as the landmark stage's (`fit`), or that very fit where `accepted` is False.

    cost_before, cost_after: the joint cost of the landmark fit and of the refined one. skin is None where not accepted.
    """

    fit: LandmarkFit
    accepted: bool
    cost_before: float
    cost_after: float
    skin: SkinReport | None


def skin_report(
    residual: PhotometricResidual, values: Values, trust: Float[np.ndarray, " N"], scale: float
) -> SkinReport:
    """What was learnt of light and skin at a solution. scale: by what the covariance was multiplied in the factors."""
    light = to_lighting(values[residual.light_block])
    return SkinReport(residual.skin.vertex, _expected_albedo(residual, values, scale), trust, light)


def _expected_albedo(residual: PhotometricResidual, values: Values, scale: float) -> Float[np.ndarray, "N 3"]:
    """The mean pattern plus E[deviation | r] = K (K + D)^-1 r per opponent channel; 0 for channels not compared."""
    raw = residual.raw(values)
    deviation = np.zeros((3, raw.shape[1]))
    for channel, factor in enumerate(residual.factors):
        solved = scipy.linalg.cho_solve((factor, True), raw[channel], check_finite=False)
        deviation[channel] = scale * residual.skin.covariances[channel] @ solved
    return np.exp(residual.skin.log_albedo + deviation.T @ OPPONENT)


def keep(fit: LandmarkFit, reason: str) -> DenseFit:
    """The landmark fit as it was, with the reason among its warnings."""
    warning = f"the photo's pixels did not refine the head: {reason}"
    return DenseFit(replace(fit, warnings=(*fit.warnings, warning)), False, fit.cost, fit.cost, None)


def objection(start: LandmarkFit, refined: LandmarkFit, cost_before: float, guard: GuardOptions) -> str | None:
    """Why a refined fit should not replace the landmark fit, or None."""
    if not np.isfinite(refined.cost) or refined.cost >= cost_before:
        return "they agree no better with the refined head"
    for before, after in zip(start.residuals, refined.residuals, strict=True):
        old, new = before.rms_percent, after.rms_percent
        if new > old * (1 + guard.misfit_share) + guard.misfit_percent:
            return f"it would miss the landmarks by {new:.1f} % of the eye distance instead of {old:.1f} %"
    moved = _deviations_moved(start, refined)
    if moved > guard.identity_deviations:
        return f"it would be {moved:.1f} deviations from what the landmarks allow"
    return None


def _deviations_moved(start: LandmarkFit, refined: LandmarkFit) -> float:
    """How far identity moved, in deviations of the landmark posterior, rms over its directions."""
    step = refined.values["betas"] - start.values["betas"]
    spread = start.posterior.marginal("betas")
    return float(np.sqrt(step @ np.linalg.solve(spread + 1e-6 * np.eye(len(step)), step) / len(step)))
