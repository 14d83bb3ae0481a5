"""What training minimises: pictures against pictures, and what keeps unseen sides in order. No network."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from headrecon.avatars.gaussian.splat_rig import SplatRig
from headrecon.ops.ssim import ssim_map


@dataclass(frozen=True)
class LossWeights:
    """structure: share of (1 - SSIM) beside absolute differences, as in 3D Gaussian splatting. offset, scale: of
    what exceeds the limits of `limits`; thin: of needles. frame: of the prior on a frame's own corrections."""

    structure: float = 0.2
    offset: float = 30.0
    scale: float = 30.0
    thin: float = 0.02
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
    """How far from the surface each Gaussian may float and how large it may grow before it is pulled back (metres)."""

    offset_m: Float[Tensor, " N"]
    scale_m: Float[Tensor, " N"]


#: Longest axis over shortest but one: beyond this a Gaussian is a needle that shows from other sides.
_THIN = 8.0


def shape_loss(rig: SplatRig, limits: Limits, weights: LossWeights) -> Float[Tensor, ""]:
    """Means over Gaussians of squared excess in centimetres over the limits, and of squared logs of thinness."""
    scales = rig.log_scales.exp()
    far = (100 * (rig.offsets.norm(dim=1) - limits.offset_m)).clamp_min(0)
    large = (100 * (scales.amax(1) - limits.scale_m)).clamp_min(0)
    middle = rig.log_scales.sort(dim=1).values
    thin = (middle[:, 2] - middle[:, 1] - torch.log(torch.tensor(_THIN))).clamp_min(0)
    return weights.offset * (far**2).mean() + weights.scale * (large**2).mean() + weights.thin * (thin**2).mean()
