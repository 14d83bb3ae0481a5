"""The light of a photo from the skin that it shows: harmonics of degree 2, in colour, never negative.

Skin seen at many normals under one light is nearly enough to know that light (Ramamoorthi and Hanrahan, "A
signal-processing framework for inverse rendering", SIGGRAPH 2001). What is not skin, highlights and hard shadows are
outliers of the least-squares fit and lose their weight in it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headrecon.errors import ShapeError
from headrecon.geometry.harmonics import evaluate_harmonics
from headrecon.rendering.lighting import Lighting
from headrecon.rendering.self_shadowing import sphere_directions
from headrecon.rendering.skin_tones import LUMINANCE, split_tone

#: Distant lamps that together make the light; each may only add. Degree 2 cannot tell more apart.
_LAMPS = 48
#: Skin differs from place to place by about this share of its brightness; neighbours alike, so that a face has about
#: as many independent patches as this.
_NOISE, _PATCHES = 0.10, 60
#: Lamps differ from their mean by about this many means (a window beside a dim room), their colour by this share.
_CONTRAST, _COLOUR_CONTRAST = 2.0, 0.12
_ROUNDS = 8
#: A photo with less skin than this has no light to tell.
_FEWEST = 30


@dataclass(frozen=True)
class SkinSamples:
    """Skin as a photo shows it at N places: linear colour, light transfer there (`self_shadowing`), trust 0..1."""

    linear: Float[Tensor, "N 3"]
    transfer: Float[Tensor, "N 9"]
    weight: Float[Tensor, " N"]


@dataclass(frozen=True)
class LightEstimate:
    """Light and the mean reflectance (linear) of the skin under it.

    agreement: weights in 0..1 that the samples had in the end; near 0 for what neither skin nor light explains.
    deviation: robust relative spread of the samples about the model, so that 0.1 means ten per cent.
    """

    lighting: Lighting
    albedo: Float[Tensor, "3"]
    agreement: Float[Tensor, " N"]
    deviation: float


def even_light(
    level: tuple[float, float, float] = (1.0, 1.0, 1.0), space: Literal["world", "view"] = "view"
) -> Lighting:
    """The same light from everywhere: a white matt surface shows `level`."""
    sh = torch.zeros(9, 3)
    sh[0] = torch.tensor(level) * math.sqrt(4 * math.pi)
    return Lighting(sh, torch.zeros(0, 3), torch.zeros(0, 3), space)


def irradiance(transfer: Float[Tensor, "*N 9"], lighting: Lighting) -> Float[Tensor, "*N 3"]:
    """What white matt points show under the ambient part of a light, from 0 on. Differentiable."""
    return (transfer @ torch.as_tensor(lighting.ambient_sh).to(transfer)).clamp(min=0)


@torch.no_grad()
def estimate_light(
    samples: SkinSamples,
    eye_white: Float[Tensor, "3"] | None = None,
    space: Literal["world", "view"] = "view",
) -> LightEstimate:
    """Light of degree 2 from samples of skin, and the skin's mean reflectance; see `skin_tones` for their split.

    space: the axes that the transfer vectors were made in. eye_white: linear colour of the sclera, where seen.
    With too little skin the light is even and white. Raises ShapeError when arrays do not fit.
    """
    count = len(samples.linear)
    if samples.transfer.shape != (count, 9) or samples.weight.shape != (count,):
        raise ShapeError(
            f"light: samples must have {count} colours, transfers of 9 and weights; "
            f"found {tuple(samples.transfer.shape)} and {tuple(samples.weight.shape)}"
        )
    weight = samples.weight.double()
    luma = samples.linear.double() @ torch.tensor(LUMINANCE, dtype=torch.float64)
    if int((weight > 0.05).sum()) < _FEWEST or float(luma[weight > 0.05].median()) < 1e-3:
        seen = samples.linear[samples.weight > 0.05].reshape(-1, 3)
        tone = split_tone(seen.mean(0) if len(seen) else torch.tensor([0.45, 0.27, 0.2]), eye_white)
        level = (float(tone.light[0]), float(tone.light[1]), float(tone.light[2]))
        return LightEstimate(even_light(level, space), tone.albedo, samples.weight, math.inf)
    lamps = evaluate_harmonics(sphere_directions(_LAMPS), 2).double() * (4 * math.pi / _LAMPS)  # [K,9]
    matrix = samples.transfer.double() @ lamps.T
    strengths, agreement, deviation = _robust_lamps(matrix, luma, weight)
    colours = _coloured_lamps(matrix, samples.linear.double(), agreement, strengths)
    typical = (agreement[:, None] * (matrix @ colours)).sum(0) / agreement.sum()
    tone = split_tone(typical.float(), eye_white)
    sh = (lamps.T @ colours).float() / tone.albedo
    return LightEstimate(
        Lighting(_never_negative(sh), torch.zeros(0, 3), torch.zeros(0, 3), space),
        tone.albedo,
        (agreement / weight.clamp(min=1e-9)).clamp(0, 1).float(),
        deviation,
    )


def _robust_lamps(matrix: Tensor, luma: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, float]:
    """Strengths [K] >= 0 of the lamps, final weights [N], and the robust relative spread.

    Geman and McClure's weights on relative residuals. The first round starts from the middle of the colours, so that
    neither highlights nor hair pull it away.
    """
    middle = float(luma[weight > 0.05].median())
    agreement = weight * _trust((luma / middle).clamp(min=1e-3).log(), 0.7)
    strengths = torch.full((matrix.shape[1],), middle, dtype=torch.float64)
    deviation = 1.0
    for step in range(_ROUNDS):
        mean = float(strengths.mean())
        k = len(strengths)
        prior = (torch.eye(k, dtype=torch.float64) - 1 / k) / (_CONTRAST * max(mean, 1e-6))
        strengths = _non_negative(matrix, luma, agreement, (prior, torch.zeros(k, dtype=torch.float64)), middle)
        model = (matrix @ strengths).clamp(min=0.05 * middle)
        residual = luma / model - 1
        deviation = float(residual.abs()[weight > 0.3].median() * 1.4826) if bool((weight > 0.3).any()) else 1.0
        scale = max(0.10, min(deviation, 0.25)) * (2.0 if step < 2 else 1.5)
        agreement = weight * _trust(residual, scale)
    return strengths, agreement, deviation


def _coloured_lamps(matrix: Tensor, linear: Tensor, agreement: Tensor, strengths: Tensor) -> Tensor:
    """[K,3]: the lamps per colour. Skin's redness differs from place to place, so they keep near one common tint."""
    model = matrix @ strengths
    out = []
    for channel in range(3):
        tint = float((agreement * linear[:, channel]).sum() / (agreement * model).sum().clamp(min=1e-9))
        expected = tint * strengths
        spread = _COLOUR_CONTRAST * (expected + 0.2 * expected.mean()) + 1e-9
        prior = (torch.diag(1 / spread), expected / spread)
        out.append(_non_negative(matrix, linear[:, channel], agreement, prior, tint * float(model.median())))
    return torch.stack(out, 1)


def _non_negative(matrix: Tensor, values: Tensor, weight: Tensor, prior: tuple[Tensor, Tensor], level: float) -> Tensor:
    """Least squares with strengths >= 0. level: typical value, which noise is a share of."""
    from scipy.optimize import nnls

    count = weight.sum().clamp(min=1e-9)
    scale = _PATCHES / (count * (_NOISE * max(level, 1e-6)) ** 2)
    normal = scale * (matrix.T * weight) @ matrix + prior[0].T @ prior[0]
    right = scale * (matrix.T * weight) @ values + prior[0].T @ prior[1]
    # The same minimum as of the tall system, from its square root: K rows instead of N.
    tiny = 1e-9 * float(normal.diagonal().mean())
    root = torch.linalg.cholesky(normal + tiny * torch.eye(len(normal), dtype=normal.dtype))
    target = torch.linalg.solve_triangular(root, right[:, None], upper=False)[:, 0]
    solution, _ = nnls(root.T.numpy(), target.numpy(), maxiter=50 * len(normal))
    return torch.from_numpy(np.asarray(solution))


def _trust(residual: Tensor, scale: float) -> Tensor:
    return 1 / (1 + (residual / scale).square()).square()


def _never_negative(sh: Float[Tensor, "9 3"]) -> Float[Tensor, "9 3"]:
    """Less contrast where needed, so that a matt surface shows at least 1 % of the mean at every normal."""
    from headrecon.rendering.self_shadowing import lambert_transfer

    shown = lambert_transfer(sphere_directions(400)) @ sh
    mean = sh[0] / math.sqrt(4 * math.pi)
    dip = (mean - shown.amin(0)).clamp(min=1e-9)
    keep = ((mean * 0.99) / dip).clamp(max=1)
    return torch.cat([sh[:1], sh[1:] * keep])
