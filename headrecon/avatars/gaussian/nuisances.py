"""What each frame has of its own while the avatar is learned: small errors of the track, exposure, a swaying body.

They are learned beside the avatar and thrown away, except the track's corrections, which make a better track. Their
mean over frames is kept at zero, so that they cannot hold what belongs to the avatar.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from headrecon.structures import HeadParams

#: By name: columns, learning rate, and the standard deviation that the prior expects (rad, m, weights, shares).
_KINDS = {
    "global_orient": (3, 1.5e-3, 0.02),
    "transl": (3, 6e-4, 0.006),
    "expression": (None, 1e-2, 0.1),
    "gaze": (6, 5e-3, 0.08),
    "body": (6, 1e-3, 0.03),
    "gain": (3, 1e-3, 0.03),
    "bias": (3, 5e-4, 0.015),
}
TRACK_KINDS = ("global_orient", "transl", "expression", "gaze")


@dataclass(frozen=True)
class FrameState:
    """One frame's head, what its body does beyond what the head's pose says, and its exposure (gain, bias)."""

    params: HeadParams
    body: Float[Tensor, " 6"]
    gain: Float[Tensor, " 3"]
    bias: Float[Tensor, " 3"]


class Nuisances:
    """Rows of corrections for T frames, each with moments of its own (Adam, Kingma and Ba 2015, one row at a time)."""

    def __init__(self, params: HeadParams, kinds: tuple[str, ...] = tuple(_KINDS)) -> None:
        self.params, self.kinds = params, kinds
        count, num = params.batch, params.expression.shape[1]
        device = params.transl.device
        self.rows = {k: torch.zeros(count, _KINDS[k][0] or num, device=device) for k in _KINDS}
        self.first = {k: torch.zeros_like(v) for k, v in self.rows.items()}
        self.second = {k: torch.zeros_like(v) for k, v in self.rows.items()}
        self.steps = torch.zeros(count, dtype=torch.int64)

    def leaves(self, index: int) -> dict[str, Tensor]:
        """This frame's corrections, to be differentiated."""
        return {k: v[index : index + 1].clone().requires_grad_(k in self.kinds) for k, v in self.rows.items()}

    def state(self, index: int, leaves: dict[str, Tensor]) -> FrameState:
        """The frame with its corrections."""
        params = _corrected(self.params.take(slice(index, index + 1)), leaves)
        return FrameState(params, leaves["body"][0], 1 + leaves["gain"][0], leaves["bias"][0])

    def prior(self, leaves: dict[str, Tensor]) -> Tensor:
        """Half the squares of the corrections in standard deviations."""
        return sum((((leaves[k] / _KINDS[k][2]) ** 2).sum() for k in self.kinds), torch.zeros(())) / 2

    def step(self, index: int, leaves: dict[str, Tensor], rate: float = 1.0) -> None:
        """One step of Adam for this frame. rate: factor on all learning rates."""
        self.steps[index] += 1
        n = int(self.steps[index])
        for kind in self.kinds:
            grad = leaves[kind].grad
            if grad is None:
                continue
            first, second = self.first[kind][index], self.second[kind][index]
            first.mul_(0.9).add_(grad[0], alpha=0.1)
            second.mul_(0.99).addcmul_(grad[0], grad[0], value=0.01)
            size = (second / (1 - 0.99**n)).sqrt_().add_(1e-12)
            self.rows[kind][index].sub_(first / (1 - 0.9**n) / size * (_KINDS[kind][1] * rate))

    def centre(self, ids: Int[np.ndarray, " N"]) -> None:
        """Take the mean over these frames out of their corrections."""
        rows = torch.as_tensor(ids, device=self.params.transl.device)
        for kind in self.kinds:
            values = self.rows[kind]
            values[rows] -= values[rows].mean(0, keepdim=True)

    def copy(self, source: int, target: int) -> None:
        """Give one frame another's corrections."""
        for rows in self.rows.values():
            rows[target] = rows[source]

    def tensors(self) -> dict[str, Tensor]:
        """Everything, for a checkpoint."""
        named = {f"rows.{k}": v for k, v in self.rows.items()}
        named |= {f"first.{k}": v for k, v in self.first.items()} | {f"second.{k}": v for k, v in self.second.items()}
        return named | {"steps": self.steps}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take up where `tensors` left off."""
        for name, target in self.tensors().items():
            target.copy_(tensors[name])

    def refined(self) -> HeadParams:
        """The track's parameters with the corrections in them."""
        return _corrected(self.params, self.rows)


def _corrected(params: HeadParams, rows: dict[str, Tensor]) -> HeadParams:
    return replace(
        params,
        expression=params.expression + rows["expression"],
        global_orient=params.global_orient + rows["global_orient"],
        transl=params.transl + rows["transl"],
        leye_pose=params.leye_pose + rows["gaze"][:, :3],
        reye_pose=params.reye_pose + rows["gaze"][:, 3:],
    )
