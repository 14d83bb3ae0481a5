"""A small painted head that turns, moves and opens its mouth: footage with an exact track, made in milliseconds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from headrecon.avatars.footage import Footage
from headrecon.avatars.protocol import Person
from headrecon.geometry.cameras import to_homogeneous_image
from headrecon.models.moving_head import MovingHead
from headrecon.ops.interpolate import interpolate
from headrecon.ops.rasterize import rasterize
from headrecon.structures import Cameras, HeadParams, Track, triangulate
from tests.synthetic_assets import make_tiny_assets

FLIP = np.diag([1.0, -1.0, -1.0, 1.0])


def subject() -> Person:
    assets = replace(make_tiny_assets(), shapedirs=np.zeros((make_tiny_assets().num_vertices, 3, 0), np.float32))
    return Person(assets, np.zeros(0), np.zeros((assets.num_vertices, 3)), ())


def moving_track(count: int = 24, size: int = 96, seed: int = 0) -> Track:
    assets = subject().assets
    t = np.linspace(0, 2 * np.pi, count, endpoint=False)
    zero = np.zeros(count)
    expression = np.zeros((count, assets.num_expressions))
    expression[:, assets.expression_names.index("jawOpen")] = 0.5 - 0.5 * np.cos(2 * t)
    params = HeadParams(
        betas=np.zeros((count, 0)),
        expression=expression,
        global_orient=np.stack([0.1 * np.sin(2 * t), 0.35 * np.sin(t), zero], 1),
        neck_pose=np.zeros((count, 3)),
        jaw_pose=np.zeros((count, 3)),
        leye_pose=np.stack([zero, 0.2 * np.cos(t), zero], 1),
        reye_pose=np.stack([zero, 0.2 * np.cos(t), zero], 1),
        transl=np.stack([0.02 * np.cos(t), zero, -0.7 + 0.02 * np.sin(t)], 1),
    )
    k = np.array([[1.6 * size, 0, size / 2], [0, 1.6 * size, size / 2], [0, 0, 1]])
    cameras = Cameras(np.tile(FLIP, (count, 1, 1)), np.tile(k, (count, 1, 1)), size, size)
    names = tuple(assets.expression_names)
    return Track(assets.name, names, params, cameras, np.arange(count), np.arange(count) / 25, np.ones(count))


def painted(vertices: np.ndarray) -> np.ndarray:
    """A colour for every vertex of the head at rest: stripes and patches that a misplaced Gaussian would smear."""
    x, y, z = (vertices / 0.1).T
    waves = np.stack([np.sin(6 * y + x), np.cos(5 * x), np.sin(4 * x * y + z)], 1)
    return (0.5 + 0.3 * waves).astype(np.float32)


def moving_footage(count: int = 24, size: int = 96) -> Footage:
    person, track = subject(), moving_track(count, size)
    head = MovingHead.of(person.assets, track)
    triangles = torch.as_tensor(triangulate(person.assets.faces)[0])
    colours = torch.as_tensor(painted(person.assets.v_template))[None]
    pictures, alphas = np.zeros((count, size, size, 3), np.uint8), np.zeros((count, size, size), np.uint8)
    for i in range(count):
        points = to_homogeneous_image(torch.as_tensor(head.vertices(i))[None], head.camera(i).torch())
        raster = rasterize(points, triangles, size, size)
        image = interpolate(colours, triangles, raster.face_index, raster.barycentrics)[0]
        pictures[i] = (255 * image.numpy()).round().astype(np.uint8)
        alphas[i] = 255 * raster.covered[0].numpy()
    return Footage(track, pictures, alphas, np.ones(count, bool)).validate()


def psnr(image: np.ndarray, truth: np.ndarray) -> float:
    return float(-10 * np.log10(((image - truth) ** 2).mean()))
