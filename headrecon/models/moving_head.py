"""A track's heads, one frame at a time: vertices and camera of each."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from headrecon.models.point_model import PointModel
from headrecon.models.posed_mesh import posed_vertices
from headrecon.structures import JOINT_NAMES, Cameras, HeadAssets, Track

_NECK = JOINT_NAMES.index("neck")


@dataclass(frozen=True)
class MovingHead:
    """The head of a track. offsets: metres added to the neutral head, such as hair."""

    assets: HeadAssets
    joints: PointModel
    track: Track
    offsets: Float[np.ndarray, "V 3"] | None = None

    @staticmethod
    def of(assets: HeadAssets, track: Track, offsets: Float[np.ndarray, "V 3"] | None = None) -> MovingHead:
        """Settle the identity once, so that a frame only adds its expression."""
        betas = np.asarray(track.betas, np.float64)
        person = replace(
            assets,
            v_template=assets.v_template.astype(np.float64) + assets.shapedirs.astype(np.float64) @ betas,
            shapedirs=np.zeros((assets.num_vertices, 3, 0)),
        )
        return MovingHead(person, PointModel(person, np.array([0])), track, offsets)

    @property
    def neutral(self) -> Float[np.ndarray, "V 3"]:
        """The person at rest, float32."""
        base = self.assets.v_template if self.offsets is None else self.assets.v_template + self.offsets
        return base.astype(np.float32)

    def flat(self, place: int) -> Float[np.ndarray, " P"]:
        """The parameters of the frame at that place of the track, as `joints.layout` has them."""
        layout, params = self.joints.layout, self.track.params
        x = layout.zeros()
        for name, s in layout.slices.items():
            if name != "betas":
                x[s] = getattr(params, name)[place]
        return x

    def vertices(self, place: int) -> Float[np.ndarray, "V 3"]:
        """World vertices (metres, float32) of the frame at that place of the track."""
        return posed_vertices(self.assets, self.joints, self.flat(place), self.offsets).astype(np.float32)

    def skull(self, place: int) -> Float[np.ndarray, "4 4"]:
        """T_world_head of that frame: where the neck carries what of the head at rest (`neutral`) does not deform."""
        x = self.flat(place)
        _, rest, rotations, positions = self.joints.pose(x)
        out = np.eye(4)
        out[:3, :3] = rotations[_NECK]
        out[:3, 3] = positions[_NECK] - rotations[_NECK] @ rest[_NECK] + x[self.joints.layout.slices["transl"]]
        return out

    def camera(self, place: int) -> Cameras:
        """The frame's camera."""
        cameras = self.track.cameras
        return replace(cameras, viewmats=cameras.viewmats[place], Ks=cameras.Ks[place])
