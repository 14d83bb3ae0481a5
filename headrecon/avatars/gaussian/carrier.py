"""The surface that carries Gaussians: the posed head, and a sheet of anchors for shoulders and chest.

Gaussians are described at rest. A `Carrier` says how far each of its vertices has moved, turned and stretched since;
a Gaussian takes a mix of three of them along. Binding to triangles follows Qian et al., "GaussianAvatars", CVPR 2024,
section 3.2; but turns and stretches are averaged at vertices and mixed over triangles, so that no Gaussian jumps where
two triangles meet (as in Shao et al., "SplattingAvatar", CVPR 2024, section 3.2).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from headrecon.avatars.gaussian.sparse import SparseMix, mix_of_faces, mix_of_rows
from headrecon.geometry.rotations import axis_angle_to_matrix, matrix_to_quat, quat_multiply
from headrecon.models.head_model import HeadModel
from headrecon.structures import HeadAssets, HeadParams, triangulate

#: A triangle may shrink or grow to this share of its side before Gaussians stop following: lids fold to nothing.
_STRETCH = (0.4, 2.5)
_TINY = 1e-12


@dataclass(frozen=True)
class Moved:
    """How the vertices of a carrier stand at one instant.

    vertices: metres. turns_wxyz: unit quaternions from rest; stretch: lengths now over lengths at rest.
    """

    vertices: Float[Tensor, "V 3"]
    turns_wxyz: Float[Tensor, "V 4"]
    stretch: Float[Tensor, " V"]


class Carrier:
    """The head of one person and the sheet of their shoulders, as one mesh of V vertices.

    assets: with the identity settled. offsets: metres added to the neutral head. sheet: rest positions of the anchors
    [A,3] in the world, and their triangles [S,3]; either may be empty. head_triangles come first.
    """

    def __init__(
        self,
        assets: HeadAssets,
        offsets: Float[np.ndarray, "V 3"],
        sheet: Float[np.ndarray, "A 3"],
        sheet_triangles: Int[np.ndarray, "S 3"],
        device: str | torch.device = "cpu",
    ) -> None:
        self.model = HeadModel(assets, device)
        self.offsets = torch.as_tensor(offsets, dtype=torch.float32, device=device)
        head, _ = triangulate(assets.faces)
        self.head_count, self.head_triangles = assets.num_vertices, len(head)
        self.triangles = np.concatenate([head, sheet_triangles + assets.num_vertices]).astype(np.int64)
        self.sheet_rest = torch.as_tensor(sheet, dtype=torch.float32, device=device)
        neutral = self.model(self.model.zeros(), self.offsets).vertices[0]
        self.rest = torch.cat([neutral, self.sheet_rest])
        corners = self.rest[self._faces]
        frames, area = _frames(corners[:, 0], corners[:, 1], corners[:, 2])
        self._rest_frames, self._rest_area = frames, area
        # Turns of triangles are averaged at vertices by area at rest; those of slivers say nothing.
        self._gather = mix_of_faces(self.triangles, area.double().cpu().numpy(), len(self.rest), device)

    @cached_property
    def _faces(self) -> Tensor:
        return torch.as_tensor(self.triangles, device=self.offsets.device)

    @property
    def device(self) -> torch.device:
        return self.offsets.device

    def pose(self, params: HeadParams, sheet: Float[Tensor, "A 3"]) -> Moved:
        """Stand at parameters of one instant, with the sheet's anchors at these places. Differentiable in both."""
        head = self.model(params, self.offsets).vertices[0]
        whole = axis_angle_to_matrix(params.global_orient) @ axis_angle_to_matrix(params.neck_pose)
        # Turns are found with the head turned back: what is left is far from half a turn.
        frames, area = self._triangle_frames(torch.cat([head @ whole[0], sheet]))
        turned = frames @ self._rest_frames.transpose(1, 2)
        ratio = (area + _TINY) / (self._rest_area + _TINY)
        at_vertices = self._gather(torch.cat([turned.flatten(1), ratio[:, None]], 1))
        turns = _mean_turn(at_vertices[:, :9])
        head_turns = turns[: self.head_count]
        turns = torch.cat(
            [quat_multiply(matrix_to_quat(whole).expand_as(head_turns), head_turns), turns[self.head_count :]]
        )
        return Moved(torch.cat([head, sheet]), turns, at_vertices[:, 9].clamp_min(_TINY).sqrt().clamp(*_STRETCH))

    def _triangle_frames(self, vertices: Tensor) -> tuple[Tensor, Tensor]:
        a, b, c = (self._corner[i](vertices) for i in range(3))
        return _frames(a, b, c)

    @cached_property
    def _corner(self) -> list[SparseMix]:
        one = np.ones((len(self.triangles), 1))
        return [mix_of_rows(self.triangles[:, i : i + 1], one, len(self.rest), self.device) for i in range(3)]


def _frames(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Of triangles: rotations [T,3,3] whose columns are an edge, across it, and the normal; and twice their areas."""
    edge = b - a
    cross = torch.linalg.cross(edge, c - a)
    twice = (cross * cross).sum(-1).clamp_min(_TINY**2).sqrt()
    normal = cross / twice[:, None]
    along = edge / (edge * edge).sum(-1, keepdim=True).clamp_min(_TINY**2).sqrt()
    return torch.stack([along, torch.linalg.cross(normal, along), normal], -1), twice


def _mean_turn(matrices: Float[Tensor, "V 9"]) -> Float[Tensor, "V 4"]:
    """Unit quaternions of averages of rotations, each well under half a turn (their antisymmetric part and trace)."""
    m00, m01, m02, m10, m11, m12, m20, m21, m22 = matrices.unbind(-1)
    w = (1 + m00 + m11 + m22).clamp_min(0.05)
    return torch.nn.functional.normalize(torch.stack([w, m21 - m12, m02 - m20, m10 - m01], -1), dim=-1)


@dataclass(frozen=True)
class Places:
    """Where Gaussians are bound: a triangle of the carrier and a point in it, by three weights that sum to 1."""

    triangles: Int[np.ndarray, " N"]
    barycentrics: Float[np.ndarray, "N 3"]

    def __len__(self) -> int:
        return len(self.triangles)

    def take(self, ids: Int[np.ndarray, " M"]) -> Places:
        """Those of some Gaussians."""
        return replace(self, triangles=self.triangles[ids], barycentrics=self.barycentrics[ids])

    def mix(self, carrier: Carrier) -> SparseMix:
        """Values of vertices to values at these places."""
        corners = carrier.triangles[self.triangles]
        return mix_of_rows(corners, self.barycentrics, len(carrier.rest), carrier.device)
