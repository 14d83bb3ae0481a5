"""What training minimises: pictures against pictures, and what keeps unseen sides in order. No network."""

from __future__ import annotations

import math
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from headrecon.avatars.gaussian.splat_rig import SplatRig
from headrecon.ops.ssim import ssim_map


@dataclass(frozen=True)
class LossWeights:
    """structure: share of (1 - SSIM) beside absolute differences, as in 3D Gaussian splatting. offset, scale: of
    what exceeds the limits of `Limits`; thin: of needles; near, colour: of the priors for place and colour. frame: of
    the prior on a frame's own corrections."""

    structure: float = 0.2
    offset: float = 30.0
    scale: float = 30.0
    thin: float = 0.02
    near: float = 0.004
    colour: float = 0.02
    frame: float = 2e-5


def picture_loss(
    image: Float[Tensor, "H W 3"], target: Float[Tensor, "H W 3"], weights: LossWeights
) -> Float[Tensor, ""]:
    """Absolute differences and structure, means over pixels and colours."""
    plain = (image - target).abs().mean()
    structure = 1 - ssim_map(image, target).mean()
    return (1 - weights.structure) * plain + weights.structure * structure


@dataclass(frozen=True)
class Limits:
    """What is believed of each Gaussian where pictures do not tell.

    offset_m, scale_m: how far from the surface it may float and how large it may grow before it is pulled back
    (metres). near_m: the standard deviation of its distance from the surface. colours_srgb: those that it began with.
    """

    offset_m: Float[Tensor, " N"]
    scale_m: Float[Tensor, " N"]
    near_m: Float[Tensor, " N"]
    colours_srgb: Float[Tensor, "N 3"]


#: Longest axis over shortest but one: beyond this a Gaussian is a needle that shows from other sides.
_THIN = 8.0


def shape_loss(rig: SplatRig, limits: Limits, weights: LossWeights) -> Float[Tensor, ""]:
    """Means over Gaussians of squared excess over the limits (centimetres), of squared logs of thinness, and of what
    the priors say: what few pixels show stays near the surface, in the colours of its seed."""
    scales = rig.log_scales.exp()
    distance = (rig.offsets**2).sum(1)
    far = (100 * (distance.clamp_min(1e-12).sqrt() - limits.offset_m)).clamp_min(0)
    large = (100 * (scales.amax(1) - limits.scale_m)).clamp_min(0)
    middle = rig.log_scales.sort(dim=1).values
    thin = (middle[:, 2] - middle[:, 1] - math.log(_THIN)).clamp_min(0)
    return (
        weights.offset * (far**2).mean()
        + weights.scale * (large**2).mean()
        + weights.thin * (thin**2).mean()
        + weights.near * (distance / limits.near_m**2).mean()
        + weights.colour * ((rig.colours - limits.colours_srgb) ** 2).sum(1).mean()
    )
