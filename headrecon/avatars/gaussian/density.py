"""Where more Gaussians are needed, and which are of no use: splits and prunes while training."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from headrecon.avatars.gaussian.splat_rig import SplatRig, rotated

#: Fainter Gaussians are taken out.
_FAINT_LOGIT = -4.2
#: A split puts two in the place of one, at so many deviations along its longest axis, each smaller by this factor.
_APART, _SMALLER = 0.6, 1.6
#: Smaller ones (metres) are not split.
_SMALLEST_M = 3e-4


@dataclass
class Strain:
    """How hard the pictures pull at each Gaussian: sums of absolute gradients by its centre in pixels (Ye et al.,
    "AbsGS", ACM MM 2024), and in how many pictures it was drawn."""

    pull: Float[Tensor, " N"]
    drawn: Float[Tensor, " N"]

    @staticmethod
    def zeros(count: int, device: torch.device) -> Strain:
        return Strain(torch.zeros(count, device=device), torch.zeros(count, device=device))

    def add(self, absolute: Float[Tensor, "N 2"], radii: Float[Tensor, "N 2"], size: int) -> None:
        """Count one picture of this size in pixels (gradients are per pixel, so larger pictures count alike)."""
        self.pull += absolute.norm(dim=1) * (size / 2)
        self.drawn += (radii[:, 0] > 0).float()

    def mean(self) -> Float[Tensor, " N"]:
        return self.pull / self.drawn.clamp_min(1)


def plan(rig: SplatRig, strain: Strain, room: int) -> tuple[Tensor, Tensor]:
    """Rows to keep, and rows of these to split: the `room` (at most) that are pulled at most."""
    keep = (rig.logits > _FAINT_LOGIT) & torch.isfinite(rig.offsets).all(1)
    mean = torch.where(
        keep & (rig.log_scales.amax(1).exp() > _SMALLEST_M), strain.mean(), torch.zeros_like(strain.pull)
    )
    room = min(room + int((~keep).sum()), int((mean > 0).sum()))
    split = torch.argsort(mean, descending=True, stable=True)[: max(room, 0)].sort().values
    return torch.nonzero(keep)[:, 0], split


def divided(rig: SplatRig, keep: Tensor, split: Tensor) -> tuple[SplatRig, Tensor]:
    """The rig with these rows kept, then second halves of the split ones; and the row that each comes from."""
    parents = torch.cat([keep, split])
    found = rig.take(parents.cpu().numpy())
    halved = torch.zeros(len(rig), dtype=torch.bool, device=split.device)
    halved[split] = True
    changed = halved[parents]
    sign = torch.ones(len(parents), device=split.device)
    sign[len(keep) :] = -1
    longest = found.log_scales.argmax(1)
    axis = torch.nn.functional.one_hot(longest, 3).float() * found.log_scales.exp() * (_APART * sign * changed)[:, None]
    turns = torch.nn.functional.normalize(found.quats_wxyz, dim=1)
    smaller = torch.zeros_like(found.log_scales)
    smaller[torch.arange(len(parents), device=split.device), longest] = math.log(_SMALLER)
    tensors = found.tensors()
    tensors["offsets"] = found.offsets + rotated(turns, axis)
    tensors["log_scales"] = found.log_scales - smaller * changed[:, None]
    return found.with_tensors(tensors), parents
