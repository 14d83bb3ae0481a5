"""The Gaussian avatar: posed, drawn, saved. Learned by `training`; drawn without any network."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headrecon.avatars.gaussian.carrier import Carrier
from headrecon.avatars.gaussian.features import MotionBasis
from headrecon.avatars.gaussian.sparse import SparseMix
from headrecon.avatars.gaussian.splat_rig import SplatRig
from headrecon.avatars.gaussian.torso import Sheet, SheetMotion
from headrecon.avatars.protocol import AvatarPictures, Person
from headrecon.errors import ShapeError
from headrecon.ops.splat_gaussians import SplatOptions, splat_gaussians
from headrecon.structures import Cameras, Gaussians, HeadParams

#: How Gaussians are drawn, in training and ever after: they fit these pixels only as they were fitted.
SPLAT_OPTIONS = SplatOptions(near_z=0.05, antialiased=True)


@dataclass(frozen=True)
class GaussianAvatar:
    """A head, hair and shoulders of Gaussians (`avatars.protocol.SplatAvatar`).

    sheet, sheet_motion: the surface of the shoulders and how it moves. rest_pose: of `rest()`.
    """

    person: Person
    rig: SplatRig
    basis: MotionBasis
    sheet: Sheet
    sheet_motion: Float[Tensor, "A 3 P"]
    rest_pose: HeadParams
    kind: str = "gaussian"

    @cached_property
    def carrier(self) -> Carrier:
        return Carrier(self.person.assets, self.person.offsets, self.sheet.anchors, self.sheet.triangles, self.device)

    @cached_property
    def _mix(self) -> SparseMix:
        return self.rig.places.mix(self.carrier)

    @property
    def device(self) -> torch.device:
        return self.rig.offsets.device

    def rest(self) -> HeadParams:
        """No expression, as the head mostly stood in its footage."""
        return self.rest_pose

    @torch.no_grad()
    def gaussians(self, params: HeadParams) -> Gaussians:
        """World-space Gaussians of one instant (B = 1). Raises ShapeError for more."""
        if params.batch != 1:
            raise ShapeError(f"an avatar is posed one instant at a time: expected B = 1, found {params.batch}")
        params = self._own(params)
        features = self.basis(params)[0]
        motion = SheetMotion(self.carrier.sheet_rest, self.sheet_motion)
        moved = self.carrier.pose(params, motion(features[-self.basis.num_pose :]))
        return self.rig.pose(moved, self._mix, features)

    def _own(self, params: HeadParams) -> HeadParams:
        """The parameters here, of this person."""
        params = params.to(device=self.device, dtype=torch.float32)
        return replace(params, betas=params.betas[:, :0])

    @torch.no_grad()
    def render(
        self, params: HeadParams, cameras: Cameras, background_srgb: Float[Tensor, " 3"] | None = None
    ) -> AvatarPictures:
        """Draw one instant with cameras viewmats [C,4,4]. Colours are held within 0..1."""
        cameras = cameras.torch().to(self.device)
        behind = None if background_srgb is None else background_srgb.to(self.device)
        pictures = splat_gaussians(self.gaussians(params), cameras, SPLAT_OPTIONS, behind)
        return AvatarPictures(pictures.image.clamp(0, 1), pictures.alpha)

    def save(self, folder: str | Path, overwrite: bool = False) -> None:
        """Write `avatar.json` and `avatar.safetensors`; the folder appears whole or not at all."""
        from headrecon.avatars.gaussian.files import write_gaussian_avatar
        from headrecon.io.runs import output_folder

        with output_folder(folder, overwrite) as staging:
            write_gaussian_avatar(staging, self)

    def mesh(self, params: HeadParams) -> Float[np.ndarray, "V 3"]:
        """Vertices of the head that carries the Gaussians, world, metres."""
        with torch.no_grad():
            found = self.carrier.model(self._own(params), self.carrier.offsets).vertices[0]
        return found.cpu().numpy()

    def bindings(self) -> dict[str, np.ndarray]:
        """What another program needs to move the Gaussians: every array of the file, by name (docs/formats.md)."""
        from headrecon.avatars.gaussian.files import avatar_arrays

        return avatar_arrays(self)
