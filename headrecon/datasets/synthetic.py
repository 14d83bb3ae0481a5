"""Synthetic photos with exact truth: a head of a model's own population, painted, lit and photographed.

Everything is drawn from one seed: identity from the prior, a sparse expression, head pose, gaze, camera distance and
focal length, light, skin, brows, beard, hair, background. The truth is what was rendered, so figures can be checked to
the digit. Works on any model with 68 landmarks: the default one, and ICT-FaceKit in its own topology.
"""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, UInt8

from headrecon.datasets.eye_paint import axis_through, eye_axis
from headrecon.datasets.looks import SKIN_TONES, Look, draw_look
from headrecon.datasets.outside_modes import outside_modes
from headrecon.datasets.scene import SyntheticOptions, backdrop, draw_scene, random_light, through_camera
from headrecon.datasets.studio import SyntheticStudio
from headrecon.datasets.texel_map import as_uint8
from headrecon.models.head_model import HeadModel
from headrecon.rendering.lighting import Lighting, Surface
from headrecon.rendering.mesh import Appearance, RenderOptions, render_mesh
from headrecon.rendering.plain_head import IRIS_DIAMETER_M
from headrecon.structures import Cameras, HeadAssets, HeadParams, Mesh

__all__ = [
    "IRIS_SIGMA_M", "SKIN_TONES", "SyntheticOptions", "SyntheticPhoto", "random_light", "resize_iris",
    "synthetic_photo",
]  # fmt: skip

#: Spread of the iris's diameter among adults (Rüfer, Schröder, Erb 2005), independent of the size of the head.
IRIS_SIGMA_M = 0.00042
#: Studios by model, kept while the model is: making one takes seconds, painting in it a fraction.
_STUDIOS: weakref.WeakKeyDictionary[HeadModel, SyntheticStudio] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class SyntheticPhoto:
    """A rendered photo with its truth. cameras stand at the world's origin and look along -z (as fits report them).

    neutral: the identity at rest, bald. posed: as in the photo, bald; shown: the same with hair, which is what was
    drawn. alpha: how much of each pixel the person covers. texture_srgb: reflectance in the model's UVs.
    """

    image_srgb: UInt8[np.ndarray, "H W 3"]
    params: HeadParams
    cameras: Cameras
    neutral: Float[np.ndarray, "V 3"]
    posed: Float[np.ndarray, "V 3"]
    distance_m: float
    iris_m: float
    skin_tone: int
    shown: Float[np.ndarray, "V 3"]
    alpha: Float[np.ndarray, "H W"]
    texture_srgb: UInt8[np.ndarray, "S S 3"]
    lighting: Lighting
    look: Look

    @property
    def focal_px(self) -> float:
        return float(self.cameras.Ks[0, 0])


def synthetic_photo(
    assets: HeadAssets, seed: int, options: SyntheticOptions | None = None, model: HeadModel | None = None
) -> SyntheticPhoto:
    """Draw and render one photo. The same seed gives the same photo, and the same person whatever the options' angles.

    model: passed in again and again it saves building it and its studio.
    """
    options, model = options or SyntheticOptions(), model or HeadModel(assets)
    studio = _studio(assets, model, options.texture_size)
    rng, look_rng, light_rng = (np.random.default_rng([seed, stream]) for stream in range(3))
    scene = draw_scene(assets, rng, options)
    if options.shot:
        shot_rng, light_rng = (np.random.default_rng([seed, stream, options.shot]) for stream in (4, 5))
        scene = draw_scene(assets, shot_rng, options, scene.params.betas)
    iris = float(rng.normal(IRIS_DIAMETER_M, IRIS_SIGMA_M))
    look = draw_look(look_rng, options.tone, options.masculine)
    look = look if options.hair else replace(look, hair_mm=0.0)
    painted = studio.paint(look, look_rng)
    person = outside_modes(assets, np.random.default_rng([seed, 3]), options.outside_mm)
    neutral, posed = _shape(model, scene.params, person), _shape(model, scene.params, person, posed=True)
    hair = person + painted.hair_m[:, None] * studio.normals
    shown = _shape(model, scene.params, hair, posed=True)
    for part in ("leye", "reye"):
        posed, shown = (resize_iris(assets, v, part, iris) for v in (posed, shown))
    light = random_light(light_rng, look.skin)
    texture = torch.from_numpy(painted.texture_srgb.astype(np.float32) / 255)
    # Cards of lashes need transparency, and stand as black plates before the eyes without; lashes are painted.
    solid = np.setdiff1d(np.arange(len(assets.faces)), assets.faces_of("lashes"))
    drawn = render_mesh(
        Mesh(shown.astype(np.float32), assets.faces[solid], assets.uvs, assets.uv_faces[solid]),
        scene.cameras,
        Appearance(texture_srgb=texture, surface=Surface(specular=0.022, roughness=look.roughness)),
        RenderOptions(lighting=light, supersample=options.supersample, background_srgb=None),
    )
    alpha = drawn.alpha[0].numpy()
    behind = backdrop(light_rng, options.size)
    image = drawn.image_srgb[0].numpy() * alpha[..., None] + behind * (1 - alpha[..., None])
    image = through_camera(image, light_rng, options)
    return SyntheticPhoto(
        as_uint8(image), scene.params, scene.cameras, neutral, posed, scene.distance_m, iris, look.tone, shown,
        alpha, painted.texture_srgb, light, look,
    )  # fmt: skip


def _studio(assets: HeadAssets, model: HeadModel, size: int) -> SyntheticStudio:
    studio = _STUDIOS.get(model)
    if studio is None or studio.assets is not assets or studio.texels.size != size:
        studio = _STUDIOS[model] = SyntheticStudio(assets, size)
    return studio


@torch.no_grad()
def _shape(model: HeadModel, params: HeadParams, offsets: np.ndarray, posed: bool = False) -> Float[np.ndarray, "V 3"]:
    moved = torch.from_numpy(offsets.astype(np.float32)) if offsets.any() else None
    return model(params if posed else params.neutral(), moved).vertices[0].numpy()


def resize_iris(
    assets: HeadAssets, vertices: Float[np.ndarray, "V 3"], part: str, diameter_m: float
) -> Float[np.ndarray, "V 3"]:
    """Slide an eyeball's vertices along its surface so that the painted iris has the given diameter.

    A model's irises grow with its eyeballs; people's hardly do, which is what makes them a ruler.
    """
    ids = np.unique(assets.faces[assets.faces_of(part)])
    ids = ids[ids >= 0]
    if ids.size == 0:
        return vertices
    points = vertices[ids].astype(np.float64)
    # The iris is painted to this distance from the axis of the mean head's eye; where is that on this eyeball?
    painted = eye_axis(assets, part).beside(assets.v_template[ids])
    eye = axis_through(points, eye_axis(assets, part).poles)
    arm = points - eye.middle
    height = arm @ eye.axis
    across = arm - height[:, None] * eye.axis
    spread = np.linalg.norm(across, axis=1)
    angle = np.arctan2(spread, height)
    near = (height > 0) & (np.abs(painted - IRIS_DIAMETER_M / 2) < 1e-3)
    slope, offset = np.polyfit(painted[near], angle[near], 1)
    edge = float(slope * IRIS_DIAMETER_M / 2 + offset)
    length = np.linalg.norm(arm, axis=1)
    wanted = math.asin(min(diameter_m / 2 / float(length[near].mean()), 0.9))
    moved = np.interp(angle, [0.0, edge, 3 * edge, math.pi], [0.0, wanted, 3 * edge, math.pi])
    unit = across / np.maximum(spread, 1e-9)[:, None]
    out = vertices.copy()
    out[ids] = eye.middle + length[:, None] * (np.sin(moved)[:, None] * unit + np.cos(moved)[:, None] * eye.axis)
    return out
