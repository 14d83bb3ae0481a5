"""Whole pictures: `rendering.mesh.render_mesh`."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

from headrecon.benchmarks.cases import Case, Prepared
from headrecon.benchmarks.mesh_cases import egg
from headrecon.rendering.cameras_orbit import orbit_cameras
from headrecon.rendering.mesh import Appearance, RenderOptions, render_mesh
from headrecon.structures import Mesh


def _picture(device: str, size: int, factor: int, textured: bool) -> Prepared:
    del device  # the renderer is the CPU's
    xyz, faces, uvs = egg(70)
    mesh = Mesh(np.asarray(xyz), np.asarray(faces), uvs, faces)
    texture = torch.rand(2048, 2048, 3, generator=torch.Generator().manual_seed(0)) if textured else None
    appearance, options = Appearance(texture_srgb=texture), RenderOptions(supersample=factor)
    cameras = orbit_cameras(mesh.vertices, [20.0], size)
    return Prepared(lambda: render_mesh(mesh, cameras, appearance, options).image_srgb)


CASES = (
    Case(
        "render_mesh",
        "textured (2048²), 768², 2 x 2 samples",
        partial(_picture, size=768, factor=2, textured=True),
        goal_ms=250.0,
        devices=("cpu",),
    ),
    Case(
        "render_mesh",
        "textured (2048²), 768², 3 x 3 samples",
        partial(_picture, size=768, factor=3, textured=True),
        devices=("cpu",),
    ),
    Case(
        "render_mesh",
        "clay, 512², 2 x 2 samples",
        partial(_picture, size=512, factor=2, textured=False),
        devices=("cpu",),
    ),
)
