"""An avatar for tests of what moves, shows and writes avatars: discs that lie on a head's mesh and go with it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch

from headrecon.avatars.protocol import AvatarPictures, Person
from headrecon.models.point_model import PointModel
from headrecon.models.posed_mesh import posed_vertices
from headrecon.rendering.gaussians import render_gaussians
from headrecon.rendering.plain_head import plain_head
from headrecon.saved_head import joint_model
from headrecon.structures import Cameras, Gaussians, HeadAssets, HeadParams, triangulate


@dataclass(frozen=True)
class DiscAvatar:
    """`colours` [V,3] are those of the mesh's vertices, sRGB."""

    person: Person
    faces: np.ndarray
    weights: np.ndarray
    colours: np.ndarray
    radius_m: float
    home: tuple[float, float, float] = (0.0, 0.0, -1.0)
    kind: str = "gaussian"

    @cached_property
    def joints(self) -> PointModel:
        return joint_model(self.person.assets)

    def rest(self) -> HeadParams:
        zero = HeadParams.zeros(0, self.person.assets.num_expressions)
        return HeadParams(**{**vars(zero), "transl": torch.tensor([self.home])})

    def gaussians(self, params: HeadParams) -> Gaussians:
        row = self.joints.layout.pack(HeadParams(**{**vars(params), "betas": torch.zeros(1, 0)}))
        vertices = posed_vertices(self.person.assets, self.joints, row, self.person.offsets)
        a, b, c = (vertices[self.faces[:, k]] for k in range(3))
        x = b - a
        x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
        z = np.cross(x, c - a)
        z /= np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)
        frames = np.stack([x, np.cross(z, x), z], axis=2)
        count = len(self.faces)
        corners = np.stack([a, b, c], axis=1)
        return Gaussians(
            means=torch.tensor((corners * self.weights[..., None]).sum(1)).float(),
            quats_wxyz=torch.tensor(_quats(frames)).float(),
            scales=torch.tensor([self.radius_m, self.radius_m, 0.1 * self.radius_m]).expand(count, 3),
            opacities=torch.full((count,), 0.95),
            colours=torch.tensor((self.colours[self.faces] * self.weights[..., None]).sum(1)).float(),
        )

    def render(self, params: HeadParams, cameras: Cameras, background_srgb=None) -> AvatarPictures:
        behind = torch.zeros(3) if background_srgb is None else background_srgb
        found = render_gaussians(self.gaussians(params), cameras, background=behind)
        return AvatarPictures(found.image, found.alpha)

    def save(self, folder: str | Path, overwrite: bool = False) -> NoReturn:
        raise NotImplementedError("these discs are made anew by every test")


def disc_avatar(assets: HeadAssets, betas: np.ndarray, count: int = 2000, seed: int = 0) -> DiscAvatar:
    """Discs spread evenly over the head of these betas, in plain colours."""
    rng = np.random.default_rng(seed)
    settled = HeadAssets(
        **{**vars(assets), "v_template": assets.v_template + assets.shapedirs[..., : len(betas)] @ betas,
           "shapedirs": np.zeros((assets.num_vertices, 3, 0))}
    )  # fmt: skip
    triangles, _ = triangulate(assets.faces)
    a, b, c = (settled.v_template[triangles[:, k]] for k in range(3))
    areas = np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2
    picked = rng.choice(len(triangles), count, p=areas / areas.sum())
    weights = rng.dirichlet(np.ones(3), count)
    person = Person(settled, np.asarray(betas, dtype=np.float64), np.zeros_like(settled.v_template), assets.licences)
    radius = 0.7 * float(np.sqrt(areas.sum() / count))
    return DiscAvatar(person, triangles[picked], weights, plain_head(settled), radius)


def _quats(frames: np.ndarray) -> np.ndarray:
    """Unit quaternions (w first) of rotation matrices [N,3,3]: the eigenvector of Bar-Itzhack's matrix (2000)."""
    m = frames
    k = np.zeros((len(m), 4, 4))
    for i in range(3):
        for j in range(3):
            k[:, 1 + i, 1 + j] = m[:, i, j] + m[:, j, i] - (np.trace(m, axis1=1, axis2=2) if i == j else 0)
    k[:, 0, 0] = np.trace(m, axis1=1, axis2=2)
    for i, (p, q) in enumerate(((2, 1), (0, 2), (1, 0))):
        k[:, 0, 1 + i] = k[:, 1 + i, 0] = m[:, p, q] - m[:, q, p]
    return np.linalg.eigh(k / 3)[1][..., -1]
