"""What can be moved and drawn: a mesh head or an avatar, behind one face."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, UInt8

from headrecon.errors import InputError
from headrecon.geometry.refinement import Refinement
from headrecon.models.point_model import ParamLayout, PointModel
from headrecon.models.posed_mesh import posed_vertices
from headrecon.rendering.lighting import Lighting, soft_front
from headrecon.rendering.look import Appearance, RenderOptions
from headrecon.rendering.pictures import draw
from headrecon.rendering.plain_head import plain_head
from headrecon.rendering.texture_levels import TextureLevels
from headrecon.saved_head import SavedHead, joint_model, load_saved_head
from headrecon.structures import Cameras, HeadAssets, Licence, Mesh

if TYPE_CHECKING:
    from headrecon.avatars.protocol import Avatar

#: File that says that a folder holds an avatar.
AVATAR_DOCUMENT = "avatar.json"
#: Splats fainter than this say nothing about where an avatar ends.
_FAINT = 0.3
#: Share of an avatar's splats that may lie outside of the box that is framed, at each end of each axis.
_STRAYS = 0.005
#: How far an avatar's head reaches beyond its mesh, in shares of the mesh's size: to its right, down and back; to its
#: left, up and forwards.
_ROOM = ((0.45, 0.2, 0.3), (0.45, 0.25, 0.3))


@dataclass(frozen=True)
class Look:
    """How figures are drawn. background: sRGB 0..1. lighting: of meshes (None: even and soft); avatars keep the light
    that they were filmed in. supersample: of meshes, 1 to 3 samples per pixel and direction."""

    background: tuple[float, float, float] = (0.93, 0.93, 0.94)
    lighting: Lighting | None = None
    supersample: int = 2


class Figure(ABC):
    """A head of one person. Rows are flat parameters as `joints.layout` has them (float64); cameras hold one camera."""

    @property
    @abstractmethod
    def assets(self) -> HeadAssets:
        """The head model whose parameters move it."""

    @property
    @abstractmethod
    def betas(self) -> Float[np.ndarray, " Nb"]:
        """The person, as far as `assets` leaves it open."""

    @property
    @abstractmethod
    def licences(self) -> tuple[Licence, ...]:
        """Of all that made it."""

    @abstractmethod
    def rest(self) -> Float[np.ndarray, " P"]:
        """Flat parameters without expression, upright, looking along +z, where it feels at home."""

    @abstractmethod
    def reach(self, row: Float[np.ndarray, " P"]) -> Float[np.ndarray, "N 3"]:
        """Points that a picture of all of it should hold, metres."""

    @abstractmethod
    def picture(self, row: Float[np.ndarray, " P"], camera: Cameras, look: Look) -> UInt8[np.ndarray, "H W 3"]:
        """Draw one instant."""

    @cached_property
    def joints(self) -> PointModel:
        """Its joints; `joints.layout` is that of rows."""
        return joint_model(self.assets)


@dataclass(frozen=True)
class MeshFigure(Figure):
    """A head of `reconstruct` or `track`. Needs no torch."""

    head: SavedHead

    @property
    def assets(self) -> HeadAssets:
        return self.head.assets

    @property
    def betas(self) -> Float[np.ndarray, " Nb"]:
        return self.head.betas

    @property
    def licences(self) -> tuple[Licence, ...]:
        return self.head.licences

    def rest(self) -> Float[np.ndarray, " P"]:
        row = self.head.layout.zeros()
        row[self.head.layout.slices["betas"]][: len(self.betas)] = self.betas
        return row

    def reach(self, row: Float[np.ndarray, " P"]) -> Float[np.ndarray, "V 3"]:
        return self.head.posed(self.joints, row)

    def picture(self, row: Float[np.ndarray, " P"], camera: Cameras, look: Look) -> UInt8[np.ndarray, "H W 3"]:
        mesh = self._finer.mesh(self.head.posed(self.joints, row))
        return _drawn(mesh, camera, look, Appearance(self._texture), self._levels)

    @cached_property
    def _finer(self) -> Refinement:
        """Rounds the outlines, as in reports."""
        assets, rest = self.assets, self.reach(self.rest())
        return Refinement.of(Mesh(rest, assets.faces, assets.uvs, assets.uv_faces))

    @cached_property
    def _texture(self) -> Float[np.ndarray, "S s 3"]:
        return self.head.texture.astype(np.float32) / 255

    @cached_property
    def _levels(self) -> TextureLevels:
        """Kept, since halving the texture for every picture takes longer than drawing it."""
        return TextureLevels(self._texture)


@dataclass(frozen=True)
class AvatarFigure(Figure):
    """An avatar of any kind, driven by the parameters of the head model that it is bound to."""

    avatar: Avatar

    @property
    def assets(self) -> HeadAssets:
        return self.avatar.person.assets

    @property
    def betas(self) -> Float[np.ndarray, " Nb"]:
        return np.zeros(self.assets.num_betas)

    @property
    def licences(self) -> tuple[Licence, ...]:
        return self.avatar.person.licences

    @property
    def layout(self) -> ParamLayout:
        return self.joints.layout

    def rest(self) -> Float[np.ndarray, " P"]:
        row = self.layout.zeros()
        params = self.avatar.rest()
        for name, where in self.layout.slices.items():
            if name != "betas":
                row[where] = getattr(params, name)[0].detach().cpu().numpy()
        return row

    def reach(self, row: Float[np.ndarray, " P"]) -> Float[np.ndarray, "N 3"]:
        """Where its splats are round the head, without strays; of an avatar without splats, its mesh.

        Shoulders run out of the picture at its sides, as in a portrait, and so does where they end.
        """
        from headrecon.avatars.protocol import SplatAvatar

        mesh = posed_vertices(self.assets, self.joints, row, self.avatar.person.offsets)
        if not isinstance(self.avatar, SplatAvatar):
            return mesh
        found = self.avatar.gaussians(self.layout.unpack(row))
        means = found.means.detach().cpu().double().numpy()
        means = means[(found.opacities.detach().cpu() > _FAINT).numpy()]
        head = mesh.min(0), mesh.max(0)
        room = (head[1] - head[0]) * np.array(_ROOM)
        means = means[((means >= head[0] - room[0]) & (means <= head[1] + room[1])).all(1)]
        if not len(means):
            return mesh
        low, high = np.quantile(means, [_STRAYS, 1 - _STRAYS], axis=0)
        return means[((means >= low) & (means <= high)).all(1)]

    def picture(self, row: Float[np.ndarray, " P"], camera: Cameras, look: Look) -> UInt8[np.ndarray, "H W 3"]:
        import torch

        views = replace(camera, viewmats=camera.viewmats.reshape(1, 4, 4), Ks=camera.Ks.reshape(1, 3, 3)).torch()
        with torch.no_grad():
            pictures = self.avatar.render(self.layout.unpack(row), views, torch.tensor(look.background))
            return (pictures.image_srgb[0].clamp(0, 1) * 255 + 0.5).to(torch.uint8).cpu().numpy()


@dataclass(frozen=True)
class BoundMesh:
    """The mesh that an avatar is bound to, in plain colours: it shows what the avatar's splats hold on to."""

    figure: AvatarFigure

    @property
    def assets(self) -> HeadAssets:
        return self.figure.assets

    def picture(self, row: Float[np.ndarray, " P"], camera: Cameras, look: Look) -> UInt8[np.ndarray, "H W 3"]:
        """Draw one instant."""
        vertices = posed_vertices(self.assets, self.figure.joints, row, self.figure.avatar.person.offsets)
        mesh = self._finer.mesh(vertices)
        return _drawn(mesh, camera, look, Appearance(vertex_srgb=self._colours), None)

    @cached_property
    def _finer(self) -> Refinement:
        figure = self.figure
        rest = posed_vertices(self.assets, figure.joints, figure.rest(), figure.avatar.person.offsets)
        return Refinement.of(Mesh(rest, self.assets.faces))

    @cached_property
    def _colours(self) -> Float[np.ndarray, "W 3"]:
        return self._finer.spread(plain_head(self.assets))


def _drawn(
    mesh: Mesh,
    camera: Cameras,
    look: Look,
    appearance: Appearance,
    levels: TextureLevels | None,
) -> UInt8[np.ndarray, "H W 3"]:
    options = RenderOptions(
        lighting=look.lighting or soft_front(), supersample=look.supersample, background_srgb=look.background
    )
    picture = next(draw(mesh, camera, appearance, options, levels=levels))
    return (picture.image_srgb.clip(0, 1) * 255 + 0.5).astype(np.uint8)


def load_figure(folder: str | os.PathLike[str]) -> MeshFigure | AvatarFigure:
    """Read what a folder holds: an avatar (`avatar.json`), or a head of `reconstruct` or `track`.

    Raises InputError for another folder or a damaged one, AssetError when the head's model is not here.
    """
    folder = Path(folder)
    if folder.is_dir() and (folder / AVATAR_DOCUMENT).is_file():
        from headrecon.avatars.files import load_avatar

        return AvatarFigure(load_avatar(folder))
    if folder.is_dir() and not (folder / "head.glb").is_file():
        raise InputError(
            f"{folder} holds neither an avatar nor a head: expected {AVATAR_DOCUMENT}, as `headrecon avatar` writes "
            "it, or head.glb with head.json or track.json, as `headrecon reconstruct` and `headrecon track` write them"
        )
    return MeshFigure(load_saved_head(folder))


def as_figure(head: str | os.PathLike[str] | SavedHead | Avatar | Figure) -> Figure:
    """Whatever can be driven, as a figure; names are read from disk."""
    if isinstance(head, (str, os.PathLike)):
        return load_figure(head)
    if isinstance(head, SavedHead):
        return MeshFigure(head)
    return head if isinstance(head, Figure) else AvatarFigure(head)
