"""What Gaussians answer to: a few numbers per instant, linear in expression, gaze and the head's pose.

Expressions are compressed by what they move (principal components of vertices over the footage), and every number is
held within what the footage showed, so that a wild expression changes no colour beyond what was learned.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headrecon.avatars.protocol import Person
from headrecon.geometry.rotations import axis_angle_to_matrix, matrix_to_axis_angle
from headrecon.structures import HeadParams

#: Components of expression: at most so many, down to this share of the largest one's spread.
_COMPONENTS, _LEAST_SHARE = 12, 0.04
#: Least spread by which gaze (rad), turn (rad) and place (m) are divided, so that noise is not blown up.
_LEAST = {"jaw": 0.03, "gaze": 0.06, "turn": 0.05, "place": 0.01}
#: Beyond what was seen, in shares of it.
_SLACK = 0.15


@dataclass(frozen=True)
class MotionBasis:
    """features = (matrix @ [expression, jaw, gaze, turn, place] - mean) held between low and high.

    turn: the head's orientation relative to `orient` (a rotation, world from head at rest) as axis-angle; place: the
    head's root in metres. The last `num_pose` features are those of turn and place alone.
    """

    matrix: Float[Tensor, "K M"]
    mean: Float[Tensor, " K"]
    low: Float[Tensor, " K"]
    high: Float[Tensor, " K"]
    orient: Float[Tensor, "3 3"]
    num_pose: int

    def __len__(self) -> int:
        return len(self.mean)

    def __call__(self, params: HeadParams) -> Float[Tensor, "B K"]:
        """The features of B instants. Differentiable in all but betas."""
        found = motion_row(params, self.orient) @ self.matrix.T - self.mean
        return torch.minimum(torch.maximum(found, self.low), self.high)

    def to(self, device: str | torch.device) -> MotionBasis:
        """The same on another device."""
        return MotionBasis(
            self.matrix.to(device), self.mean.to(device), self.low.to(device), self.high.to(device),
            self.orient.to(device), self.num_pose,
        )  # fmt: skip


def motion_row(params: HeadParams, orient: Float[Tensor, "3 3"]) -> Float[Tensor, "B M"]:
    """Expression, jaw (3), mean gaze (3), turn relative to `orient` (3), place (3), side by side."""
    whole = axis_angle_to_matrix(params.global_orient) @ axis_angle_to_matrix(params.neck_pose)
    turn = matrix_to_axis_angle(orient.T @ whole)
    gaze = (params.leye_pose + params.reye_pose) / 2
    return torch.cat([params.expression, params.jaw_pose, gaze, turn, params.transl], 1)


def motion_basis(person: Person, params: HeadParams) -> MotionBasis:
    """From the parameters of all frames to learn from (B = T)."""
    whole = axis_angle_to_matrix(params.global_orient) @ axis_angle_to_matrix(params.neck_pose)
    orient = mean_rotation(whole)
    rows = motion_row(params, orient).double().cpu().numpy()
    count = params.expression.shape[1]
    blocks = [_expression_block(person, rows[:, :count])]
    names = [name for name in _LEAST for _ in range(3)]
    spreads = rows[:, count:].std(0)
    for column, (name, spread) in enumerate(zip(names, spreads, strict=True)):
        if name in ("turn", "place") or spread > 0.1 * _LEAST[name]:
            one = np.zeros((1, rows.shape[1]))
            one[0, count + column] = 1 / max(spread, _LEAST[name])
            blocks.append(one)
    matrix = np.concatenate(blocks)
    found = rows @ matrix.T
    mean = found.mean(0)
    low, high = found.min(0) - mean, found.max(0) - mean
    slack = _SLACK * (high - low)
    numbers = (torch.as_tensor(a, dtype=torch.float32) for a in (matrix, mean, low - slack, high + slack))
    by_name = dict(zip(("matrix", "mean", "low", "high"), numbers, strict=True))
    return MotionBasis(**by_name, orient=orient.float().cpu(), num_pose=6)


def _expression_block(person: Person, expression: Float[np.ndarray, "T Ne"]) -> Float[np.ndarray, "k M"]:
    """Rows that give the largest components of what expressions moved, each divided by its spread."""
    count = expression.shape[1]
    dirs = person.assets.exprdirs.reshape(-1, count).astype(np.float64)
    moved = expression - expression.mean(0)
    metric = np.linalg.cholesky(dirs.T @ dirs + 1e-9 * np.eye(count))
    _, spread, axes = np.linalg.svd(moved @ metric, full_matrices=False)
    spread = spread / np.sqrt(max(len(expression), 1))
    kept = min(_COMPONENTS, int((spread > _LEAST_SHARE * max(spread[0], 1e-6)).sum()))
    rows = (axes[:kept] / np.maximum(spread[:kept, None], 1e-6)) @ metric.T
    return np.concatenate([rows, np.zeros((kept, 12))], 1)


def mean_rotation(matrices: Float[Tensor, "B 3 3"]) -> Float[Tensor, "3 3"]:
    """The rotation nearest to all of these (chordal mean, by singular values)."""
    u, _, vt = torch.linalg.svd(matrices.double().mean(0))
    sign = torch.tensor([1.0, 1.0, float(torch.sign(torch.linalg.det(u @ vt)))], dtype=torch.float64, device=u.device)
    return ((u * sign) @ vt).to(matrices.dtype)
