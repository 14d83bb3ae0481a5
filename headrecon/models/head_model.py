"""A parametric head: blendshapes, forward kinematics and linear blend skinning, batched and differentiable.

The conventions are SMPL's (Loper et al. 2015, section 3) and FLAME's (Li et al. 2017, section 3), so that FLAME, Anny
and ICT-FaceKit all fit the same arrays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headrecon.errors import ShapeError
from headrecon.geometry.rotations import axis_angle_to_matrix
from headrecon.models.posed_mesh import embed  # noqa: F401 - where callers of HeadModel look for it
from headrecon.structures import HeadAssets, HeadParams


@dataclass(frozen=True)
class HeadOutput:
    """A posed head in metres: vertices, the five joints' world positions, and landmarks by embedding name."""

    vertices: Float[Tensor, "B V 3"]
    joints: Float[Tensor, "B J 3"]
    landmarks: dict[str, Float[Tensor, "B L 3"]]


def skinning_transforms(
    joints_rest: Float[Tensor, "B J 3"], rotations: Float[Tensor, "B J 3 3"], parents: tuple[int, ...]
) -> tuple[Float[Tensor, "B J 3 3"], Float[Tensor, "B J 3"]]:
    """World rotation of each joint and its world position, walking from the root to the leaves."""
    world_rot, world_pos = [rotations[:, 0]], [joints_rest[:, 0]]
    for j in range(1, len(parents)):
        p = parents[j]
        offset = (joints_rest[:, j] - joints_rest[:, p])[..., None]
        world_pos.append(world_pos[p] + (world_rot[p] @ offset)[..., 0])
        world_rot.append(world_rot[p] @ rotations[:, j])
    return torch.stack(world_rot, 1), torch.stack(world_pos, 1)


class HeadModel:
    """Callable head: `HeadModel(assets)(params)` gives a `HeadOutput`.

    Differentiable in every field of `HeadParams`. Arrays are copied to `device` and `dtype` once, here.
    """

    def __init__(self, assets: HeadAssets, device: Any = None, dtype: torch.dtype = torch.float32) -> None:
        self.assets = assets

        def tensor(array: np.ndarray) -> Tensor:
            return torch.as_tensor(array, dtype=dtype, device=device)

        v = assets.num_vertices
        self._v_template = tensor(assets.v_template)
        # One matrix for all linear shape terms: a single product moves every vertex.
        linear = np.concatenate([assets.shapedirs, assets.exprdirs], axis=2)
        self._dirs = tensor(np.ascontiguousarray(linear.reshape(3 * v, -1).T))
        self._posedirs = None if assets.posedirs is None else tensor(assets.posedirs)
        # Joints depend on identity alone, so the regressor is folded into the template and the shape directions.
        regressor = assets.J_regressor.astype(np.float64)
        self._joints_template = tensor(regressor @ assets.v_template)
        self._joint_dirs = tensor(np.einsum("jv,vck->jck", regressor, assets.shapedirs, optimize=True))
        self._weights = tensor(assets.lbs_weights)
        self._parents = tuple(int(p) for p in assets.parents)
        self._embeddings = {
            name: (torch.as_tensor(e.vertex_ids.astype(np.int64), device=device), tensor(e.barycentrics))
            for name, e in assets.landmarks.items()
        }

    @property
    def dtype(self) -> torch.dtype:
        return self._v_template.dtype

    @property
    def device(self) -> torch.device:
        return self._v_template.device

    def zeros(self, batch: int = 1) -> HeadParams:
        """Zero parameters of this model's sizes, on its device."""
        a = self.assets
        return HeadParams.zeros(a.num_betas, a.num_expressions, batch, self.dtype, self.device)

    def __call__(self, params: HeadParams, offsets: Float[Tensor, "*B V 3"] | None = None) -> HeadOutput:
        """Pose the head. Raises ShapeError when betas or expression have more columns than the model.

        offsets: metres added to the neutral head before skinning, one set or one per batch (hair, for example); they
        turn with the head and leave expressions, joints and pose as they are. Differentiable in them too.
        """
        coefficients = self._coefficients(params)
        b, v = params.batch, self.assets.num_vertices
        rotations = axis_angle_to_matrix(params.full_pose.to(self.dtype))
        rest = self._v_template + (coefficients @ self._dirs).reshape(b, v, 3)
        if offsets is not None:
            rest = rest + self._checked_offsets(offsets, b)
        if self._posedirs is not None:
            eye = torch.eye(3, dtype=self.dtype, device=self.device)
            rest = rest + ((rotations[:, 1:] - eye).flatten(1) @ self._posedirs).reshape(b, v, 3)
        joints_rest = self._joints_template + torch.einsum(
            "bk,jck->bjc", coefficients[:, : self.assets.num_betas], self._joint_dirs
        )
        world_rot, world_pos = skinning_transforms(joints_rest, rotations, self._parents)
        shift = world_pos - (world_rot @ joints_rest[..., None])[..., 0]
        blended_rot = torch.einsum("vj,bjcd->bvcd", self._weights, world_rot)
        blended_shift = torch.einsum("vj,bjc->bvc", self._weights, shift)
        transl = params.transl.to(self.dtype)[:, None]
        vertices = (blended_rot @ rest[..., None])[..., 0] + blended_shift + transl
        landmarks = {name: self._gather(vertices, name) for name in self._embeddings}
        return HeadOutput(vertices, world_pos + transl, landmarks)

    def _checked_offsets(self, offsets: Tensor, batch: int) -> Tensor:
        v = self.assets.num_vertices
        if tuple(offsets.shape) not in {(v, 3), (1, v, 3), (batch, v, 3)}:
            expected = f"[{v},3] or [{batch},{v},3]"
            raise ShapeError(f"offsets of {self.assets.name!r} must be {expected}, found {tuple(offsets.shape)}")
        return offsets.to(self._v_template)

    def _coefficients(self, params: HeadParams) -> Tensor:
        """betas and expression side by side, padded with zeros to the model's sizes."""
        columns = []
        sizes = (("betas", self.assets.num_betas), ("expression", self.assets.num_expressions))
        for name, size in sizes:
            value = getattr(params, name).to(self.dtype)
            if value.shape[1] > size:
                raise ShapeError(f"{name} has {value.shape[1]} columns but {self.assets.name!r} takes at most {size}")
            columns.append(torch.nn.functional.pad(value, (0, size - value.shape[1])))
        return torch.cat(columns, 1)

    def _gather(self, vertices: Tensor, name: str) -> Tensor:
        ids, weights = self._embeddings[name]
        return (vertices[:, ids] * weights[..., None]).sum(2)
