"""A head photographed by several cameras at once, with exact truth: what multi-view reconstruction is measured on."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, UInt8

from headrecon.datasets.scene import SyntheticOptions, backdrop, random_light, through_camera
from headrecon.datasets.synthetic import SyntheticPhoto
from headrecon.datasets.texel_map import as_uint8
from headrecon.datasets.textured_scan import TexturedScan
from headrecon.geometry.cameras import look_at
from headrecon.rendering.lighting import Lighting, Surface
from headrecon.rendering.mesh import Appearance, RenderOptions, render_mesh
from headrecon.structures import Cameras, HeadAssets, Mesh


@dataclass(frozen=True)
class RingOptions:
    """Where the cameras stand. directions: yaw and pitch of each in degrees, (0, 0) before the face, +yaw at its left.

    jitter_degrees: by which each is moved at random. distance_m: from the face. field_m: height of the picture there.
    same_light: one light for all; else each photo has its own, as photos taken one after another.
    blur_px and noise: of the camera, at most, as in `SyntheticOptions`.
    """

    directions: tuple[tuple[float, float], ...] = (
        (0.0, 0.0),
        (-25.0, 0.0),
        (25.0, 0.0),
        (-50.0, 0.0),
        (50.0, 0.0),
        (0.0, 20.0),
        (0.0, -20.0),
    )
    jitter_degrees: float = 3.0
    distance_m: float = 0.9
    field_m: float = 0.33
    size: int = 1024
    same_light: bool = True
    blur_px: float = 0.6
    noise: float = 0.012
    supersample: int = 2


@dataclass(frozen=True)
class RingPhotos:
    """Photos of one moment. cameras: one per photo, in the world of the vertices. alpha: how much the person covers."""

    images_srgb: tuple[UInt8[np.ndarray, "H W 3"], ...]
    cameras: Cameras
    alpha: Float[np.ndarray, "C H W"]
    vertices: Float[np.ndarray, "V 3"]


def ring_of_person(
    person: SyntheticPhoto, assets: HeadAssets, seed: int, options: RingOptions | None = None
) -> RingPhotos:
    """Cameras around a synthetic person, with the look, light and pose of its photo. assets: the person's model."""
    # Cards of lashes need transparency, and stand as black plates before the eyes without; lashes are painted.
    solid = np.setdiff1d(np.arange(len(assets.faces)), assets.faces_of("lashes"))
    mesh = Mesh(person.shown.astype(np.float32), assets.faces[solid], assets.uvs, assets.uv_faces[solid])
    texture = torch.from_numpy(person.texture_srgb.astype(np.float32) / 255)
    surface = Surface(specular=0.022, roughness=person.look.roughness)
    middle = person.posed[np.unique(assets.landmarks["ibug68"].vertex_ids)].mean(0)
    look = Appearance(texture_srgb=texture, surface=surface)
    return _photograph(mesh, look, middle, person.lighting, seed, options or RingOptions())


def ring_of_scan(scan: TexturedScan, seed: int, options: RingOptions | None = None) -> RingPhotos:
    """Cameras around an upright scan with its colours (`textured_scan.upright_scan`)."""
    texture = torch.from_numpy(scan.texture_srgb.astype(np.float32) / 255)
    mesh = replace(scan.mesh, vertices=scan.mesh.vertices.astype(np.float32))
    look = Appearance(texture_srgb=texture, surface=Surface(specular=0.02))
    light = random_light(np.random.default_rng([seed, 2]))
    return _photograph(mesh, look, scan.landmarks.mean(0), light, seed, options or RingOptions())


def _photograph(
    mesh: Mesh, look: Appearance, middle: Float[np.ndarray, "3"], light: Lighting, seed: int, options: RingOptions
) -> RingPhotos:
    rng = np.random.default_rng([seed, 5])
    cameras = _cameras(middle, rng, options)
    camera = SyntheticOptions(blur_px=options.blur_px, noise=options.noise)
    images, alphas = [], []
    for index in range(len(options.directions)):
        one = Cameras(cameras.viewmats[index], cameras.Ks[index], cameras.width, cameras.height).torch()
        lighting = light if options.same_light else random_light(rng)
        settings = RenderOptions(lighting=lighting, supersample=options.supersample, background_srgb=None)
        drawn = render_mesh(mesh, one, look, settings)
        alpha = drawn.alpha[0].numpy()
        image = drawn.image_srgb[0].numpy() * alpha[..., None] + backdrop(rng, options.size) * (1 - alpha[..., None])
        images.append(as_uint8(through_camera(image, rng, camera)))
        alphas.append(alpha)
    return RingPhotos(tuple(images), cameras, np.stack(alphas), mesh.vertices)


def _cameras(middle: Float[np.ndarray, "3"], rng: np.random.Generator, options: RingOptions) -> Cameras:
    angles = np.radians(np.array(options.directions, float) + options.jitter_degrees * rng.uniform(-1, 1, (1, 2)))
    angles += math.radians(options.jitter_degrees) * rng.uniform(-1, 1, angles.shape)
    yaw, pitch = angles.T
    outward = np.stack([np.sin(yaw) * np.cos(pitch), np.sin(pitch), np.cos(yaw) * np.cos(pitch)], axis=1)
    distances = options.distance_m * rng.uniform(0.93, 1.07, len(outward))
    aims = middle + 0.008 * rng.uniform(-1, 1, outward.shape) - [0.0, 0.0, 0.03]
    views = look_at(aims + distances[:, None] * outward, aims)
    focal = options.size * options.distance_m / options.field_m
    k = np.array([[focal, 0.0, options.size / 2], [0.0, focal, options.size / 2], [0.0, 0.0, 1.0]])
    return Cameras(views, np.tile(k, (len(views), 1, 1)), options.size, options.size)
