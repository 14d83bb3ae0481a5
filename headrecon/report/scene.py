"""What a report shows: the photo, what was detected in it, and the head that came out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, UInt8

from headrecon.errors import ShapeError
from headrecon.geometry.refinement import Refinement
from headrecon.rendering.lighting import Lighting, soft_front
from headrecon.rendering.look import Appearance, RenderOptions
from headrecon.rendering.texture_levels import TextureLevels
from headrecon.structures import Cameras, HeadAssets, Mesh

#: Behind renders: the same soft grey in every picture.
BACKDROP_SRGB = (0.93, 0.93, 0.94)


@dataclass(frozen=True)
class HeadScene:
    """One photo and its head.

    neutral and posed: vertices in metres; posed lies in the world of `cameras` (the photo's one, numpy). texture is in
    the model's UVs. light: of the photo, where the texture is free of it. landmarks_px: detected points in the photo;
    fitted_px: the same points of the fitted head. seen: vertices on which several photos agree, if they were compared.
    """

    assets: HeadAssets
    photo: UInt8[np.ndarray, "H W 3"]
    cameras: Cameras
    neutral: Float[np.ndarray, "V 3"]
    posed: Float[np.ndarray, "V 3"]
    texture: UInt8[np.ndarray, "S S 3"]
    landmarks_px: Float[np.ndarray, "L 2"] | None = None
    fitted_px: Float[np.ndarray, "L 2"] | None = None
    light: Lighting | None = None
    seen: Bool[np.ndarray, " V"] | None = None

    def checked(self) -> HeadScene:
        """Return self; raise ShapeError when the photo is not the camera's or vertices are not the model's."""
        size = (self.cameras.height, self.cameras.width, 3)
        if self.photo.shape != size:
            raise ShapeError(f"report: the photo must have the camera's shape {size}, found {self.photo.shape}")
        for name in ("neutral", "posed"):
            if getattr(self, name).shape != self.assets.v_template.shape:
                raise ShapeError(f"report: {name} must have shape {self.assets.v_template.shape}")
        return self

    @cached_property
    def finer(self) -> Refinement:
        """Rounds the outlines of what is drawn."""
        return Refinement.of(Mesh(self.neutral, self.assets.faces, self.assets.uvs, self.assets.uv_faces))

    @cached_property
    def neutral_mesh(self) -> Mesh:
        """The neutral head as it is drawn."""
        return self.finer.mesh(self.neutral)

    @cached_property
    def posed_mesh(self) -> Mesh:
        """The head as in the photo, drawn likewise."""
        return self.finer.mesh(self.posed)

    @cached_property
    def textured(self) -> Appearance:
        return Appearance(texture_srgb=self.texture * np.float32(1 / 255))

    @cached_property
    def levels(self) -> TextureLevels:
        """The texture at the sizes that pictures have asked for so far."""
        assert self.textured.texture_srgb is not None
        return TextureLevels(self.textured.texture_srgb)


def textured_look(lighting: Lighting | None = None) -> RenderOptions:
    """The light that the textured head is shown in: even and soft unless another is wanted."""
    return RenderOptions(lighting=lighting or soft_front(), background_srgb=BACKDROP_SRGB)


def to_uint8(image_srgb: Float[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
    return (image_srgb.clip(0, 1) * 255 + 0.5).astype(np.uint8)
