"""What a viewer shows: one person, as splats, as a mesh, or as both."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from headrecon.driving.figures import AvatarFigure, BoundMesh, Figure, Look, MeshFigure, load_figure
from headrecon.driving.motion import Motion, motion_for
from headrecon.driving.sources import read_track_at
from headrecon.errors import InputError
from headrecon.structures import Cameras, Gaussians

MESH, SPLATS = "mesh", "splats"


@dataclass(frozen=True)
class Subject:
    """figure: whose parameters move it. mesh: what is drawn as its mesh. title: for people."""

    title: str
    figure: Figure
    mesh: MeshFigure | BoundMesh

    @property
    def layers(self) -> tuple[str, ...]:
        """What can be shown; the first is shown at first."""
        return (SPLATS, MESH) if isinstance(self.figure, AvatarFigure) else (MESH,)

    @property
    def in_browser(self) -> bool:
        """Whether a browser can draw it: it is made of splats."""
        from headrecon.avatars.protocol import SplatAvatar

        return isinstance(self.figure, AvatarFigure) and isinstance(self.figure.avatar, SplatAvatar)

    def picture(
        self, layer: str, row: Float[np.ndarray, " P"], camera: Cameras, look: Look
    ) -> UInt8[np.ndarray, "H W 3"]:
        """Draw one layer at the figure's parameters."""
        if layer == SPLATS or self.mesh is self.figure:
            return self.figure.picture(row, camera, look)
        if isinstance(self.mesh, MeshFigure):
            return self.mesh.picture(self._for_mesh(row, self.mesh), camera, look)
        return self.mesh.picture(row, camera, look)

    def gaussians(self, row: Float[np.ndarray, " P"]) -> Gaussians:
        """The splats of one instant. Raises InputError for a figure without."""
        if not self.in_browser or not isinstance(self.figure, AvatarFigure):
            raise InputError(f"{self.title} has no splats")
        import torch

        with torch.no_grad():
            return self.figure.avatar.gaussians(self.figure.layout.unpack(row))  # pyright: ignore[reportAttributeAccessIssue]

    def motion(self, path: str | os.PathLike[str]) -> tuple[Motion, Float[np.ndarray, " T"]]:
        """A track's motion for this figure, and the times of its frames from 0 on."""
        track = read_track_at(path)
        return motion_for(self.figure, track, in_track=False), track.timestamps_s - track.timestamps_s[0]

    def _for_mesh(self, row: Float[np.ndarray, " P"], mesh: MeshFigure) -> Float[np.ndarray, " Q"]:
        """An avatar's parameters for the mesh head of the same person, of the same head model."""
        own, other = self.figure.joints.layout.slices, mesh.joints.layout.slices
        out = mesh.rest()
        for name, where in other.items():
            if name != "betas":
                out[where] = row[own[name]]
        return out


def load_subject(folder: str | os.PathLike[str], mesh: str | os.PathLike[str] | None = None) -> Subject:
    """What a folder holds. mesh: folder of a textured mesh of the same person, shown beside an avatar's splats.

    Raises InputError or AssetError for folders that cannot be used.
    """
    figure = load_figure(folder)
    title = Path(folder).resolve().name
    if isinstance(figure, MeshFigure):
        if mesh is not None:
            raise InputError(f"--mesh goes with an avatar, and {folder} is a mesh head already")
        return Subject(title, figure, figure)
    if mesh is None:
        return Subject(title, figure, BoundMesh(figure))
    head = load_figure(mesh)
    if not isinstance(head, MeshFigure):
        raise InputError(f"--mesh {mesh} is an avatar; expected a folder of `headrecon track` or `reconstruct`")
    if head.assets.name != figure.assets.name or head.assets.num_expressions != figure.assets.num_expressions:
        raise InputError(
            f"--mesh {mesh} is of the head model {head.assets.name!r} and the avatar of {figure.assets.name!r}; "
            "expected the head that the avatar was made of"
        )
    return Subject(title, figure, head)
