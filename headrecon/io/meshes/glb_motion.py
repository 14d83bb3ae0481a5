"""A head's motion as a glTF animation: morph weights, joint rotations and the root's place over time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from headrecon.errors import ShapeError
from headrecon.io.meshes.gltf_buffer import GltfBuffer
from headrecon.structures import JOINT_NAMES, HeadAssets


@dataclass(frozen=True)
class HeadMotion:
    """T moments. times_s: rising; expression: morph weights; full_pose: axis-angle of the joints in the order of
    `JOINT_NAMES`; transl: metres, added to the root."""

    times_s: Float[np.ndarray, " T"]
    expression: Float[np.ndarray, "T Ne"]
    full_pose: Float[np.ndarray, "T 5 3"]
    transl: Float[np.ndarray, "T 3"]

    def checked(self, assets: HeadAssets) -> HeadMotion:
        """Return self; raise ShapeError when the moments do not rise or the weights are not the model's."""
        count = len(self.times_s)
        if count == 0 or (np.diff(self.times_s) <= 0).any():
            raise ShapeError("GLB: a motion needs times that rise, at least one")
        expected = {
            "expression": (count, assets.num_expressions),
            "full_pose": (count, len(JOINT_NAMES), 3),
            "transl": (count, 3),
        }
        for name, shape in expected.items():
            if getattr(self, name).shape != shape:
                raise ShapeError(f"GLB: motion {name} must have shape {shape}, found {getattr(self, name).shape}")
        return self


def quaternions_xyzw(axis_angles: Float[np.ndarray, "T 3"]) -> Float[np.ndarray, "T 4"]:
    """glTF's quaternions of rotations in radians, each on the side of the one before, so that nothing spins between."""
    angle = np.linalg.norm(axis_angles, axis=1, keepdims=True)
    xyz = 0.5 * axis_angles * np.sinc(angle / (2 * np.pi))
    out = np.concatenate([xyz, np.cos(angle / 2)], axis=1)
    flips = np.cumsum(np.sum(out[1:] * out[:-1], axis=1) < 0) % 2
    out[1:] *= np.where(flips, -1.0, 1.0)[:, None]
    return out


def animation(buffer: GltfBuffer, motion: HeadMotion, joints: Float[np.ndarray, "J 3"], mesh_node: int) -> Any:
    """The animation of a document whose joints are the nodes after the mesh's. joints: their places at rest.

    Joints and weights that never move are left out.
    """
    from pygltflib import Animation, AnimationChannel, AnimationChannelTarget, AnimationSampler

    times = buffer.array((motion.times_s - motion.times_s[0]).astype(np.float32), bounds=True)
    samplers: list[Any] = []
    channels: list[Any] = []

    def add(node: int, path: str, values: np.ndarray) -> None:
        output = buffer.array(np.ascontiguousarray(values, dtype=np.float32))
        samplers.append(AnimationSampler(input=times, output=output, interpolation="LINEAR"))
        target = AnimationChannelTarget(node=node, path=path)
        channels.append(AnimationChannel(sampler=len(samplers) - 1, target=target))

    if motion.expression.any():
        add(mesh_node, "weights", motion.expression.reshape(-1))
    for j in range(len(JOINT_NAMES)):
        if motion.full_pose[:, j].any():
            add(mesh_node + 1 + j, "rotation", quaternions_xyzw(motion.full_pose[:, j].astype(np.float64)))
    if motion.transl.any():
        add(mesh_node + 1, "translation", joints[0] + motion.transl)
    return Animation(name="track", samplers=samplers, channels=channels) if channels else None


__all__ = ["HeadMotion", "animation", "quaternions_xyzw"]
