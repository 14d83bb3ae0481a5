"""Synthetic photos with exact truth: a head of the model's own population, photographed by a known camera.

Everything is drawn from one seed: identity from the prior, a sparse expression, head pose, gaze, camera distance and
focal length, light, skin tone, background. The truth is what was rendered, so figures can be checked to the digit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from headrecon.geometry.rotations import axis_angle_to_matrix
from headrecon.models.head_model import HeadModel
from headrecon.rendering.lighting import Lighting, ambient
from headrecon.rendering.mesh import Appearance, RenderOptions, render_mesh
from headrecon.rendering.plain_head import IRIS_DIAMETER_M, PlainColours, plain_head
from headrecon.structures import Cameras, HeadAssets, HeadParams, Mesh

#: Skin reflectances (sRGB) from light to dark: the middles of the six types of Fitzpatrick's scale as usually drawn.
SKIN_TONES: tuple[tuple[float, float, float], ...] = (
    (0.93, 0.80, 0.72), (0.89, 0.72, 0.61), (0.80, 0.61, 0.49),
    (0.66, 0.46, 0.34), (0.46, 0.30, 0.21), (0.29, 0.19, 0.14),
)  # fmt: skip
#: Spread of the iris's diameter among adults (Rüfer, Schröder, Erb 2005), independent of the size of the head.
IRIS_SIGMA_M = 0.00042
#: 35 mm equivalents that photos of people are taken with (phones, their portrait modes, portrait lenses).
_LENSES_MM = (26.0, 35.0, 50.0, 77.0, 85.0)


@dataclass(frozen=True)
class SyntheticOptions:
    """What varies. Angles in degrees (uniform within ± about `turn`), distances in metres.

    turn: pitch, yaw and roll about which the pose varies. expressions: mean count of shapes at once.
    """

    size: int = 640
    turn: tuple[float, float, float] = (0.0, 0.0, 0.0)
    yaw: float = 20.0
    pitch: float = 12.0
    roll: float = 8.0
    gaze: float = 8.0
    distance_m: tuple[float, float] = (0.45, 2.0)
    expressions: float = 2.5
    identity_scale: float = 1.0
    supersample: int = 2


@dataclass(frozen=True)
class SyntheticPhoto:
    """A rendered photo with its truth. cameras stand at the world's origin and look along -z (as fits report them)."""

    image_srgb: UInt8[np.ndarray, "H W 3"]
    params: HeadParams
    cameras: Cameras
    neutral: Float[np.ndarray, "V 3"]
    posed: Float[np.ndarray, "V 3"]
    distance_m: float
    iris_m: float
    skin_tone: int

    @property
    def focal_px(self) -> float:
        return float(self.cameras.Ks[0, 0])


def synthetic_photo(
    assets: HeadAssets, seed: int, options: SyntheticOptions = SyntheticOptions(), model: HeadModel | None = None
) -> SyntheticPhoto:
    """Draw and render one photo. The same seed gives the same photo; `model` may be passed in to save building it."""
    rng = np.random.default_rng(seed)
    model = model or HeadModel(assets)
    params, cameras, distance = _scene(assets, rng, options)
    with torch.no_grad():
        posed = model(params).vertices[0].numpy()
        neutral = model(params.neutral()).vertices[0].numpy()
    iris = float(rng.normal(IRIS_DIAMETER_M, IRIS_SIGMA_M))
    for part in ("leye", "reye"):
        posed = resize_iris(assets, posed, part, iris)
    tone = int(rng.integers(len(SKIN_TONES)))
    colours = _colours(rng, tone)
    lighting = random_light(rng)
    red, green, blue = (float(c) for c in rng.uniform(0.2, 0.9, 3))
    light = RenderOptions(
        lighting=lighting,
        supersample=options.supersample,
        background_srgb=(red, green, blue),
    )
    appearance = Appearance(vertex_srgb=torch.as_tensor(plain_head(assets, colours)))
    output = render_mesh(Mesh(posed.astype(np.float32), assets.faces), cameras, appearance, light)
    image = (output.image_srgb[0].numpy() * 255).round().astype(np.uint8)
    return SyntheticPhoto(image, params, cameras, neutral, posed, distance, iris, tone)


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
    template = assets.v_template[ids].astype(np.float64)
    centre = (template.max(0) + template.min(0)) / 2
    beside = np.hypot(*(template - centre)[:, :2].T)
    front = template[:, 2] > centre[2]
    painted = front & (beside < IRIS_DIAMETER_M / 2)  # as `plain_head` colours it
    pole = int(np.argmax(template[:, 2]))
    points = vertices[ids].astype(np.float64)
    middle = (points[pole] + points[np.argmin(template[:, 2])]) / 2
    axis = points[pole] - middle
    radius = np.linalg.norm(axis)
    axis = axis / radius
    arm = points - middle
    height = arm @ axis
    across = arm - height[:, None] * axis
    spread = np.linalg.norm(across, axis=1)
    angle = np.arctan2(spread, height)
    edge = (angle[painted].max() + angle[~painted].min()) / 2
    wanted = math.asin(min(diameter_m / 2 / radius, 0.9))
    moved = np.interp(angle, [0.0, edge, 3 * edge, math.pi], [0.0, wanted, 3 * edge, math.pi])
    unit = across / np.maximum(spread, 1e-9)[:, None]
    length = np.linalg.norm(arm, axis=1)
    out = vertices.copy()
    out[ids] = middle + length[:, None] * (np.sin(moved)[:, None] * unit + np.cos(moved)[:, None] * axis)
    return out


def _scene(
    assets: HeadAssets, rng: np.random.Generator, options: SyntheticOptions
) -> tuple[HeadParams, Cameras, float]:
    focal_35 = float(rng.choice(_LENSES_MM))
    size = options.size
    focal = focal_35 / math.hypot(36, 24) * math.hypot(size, size)
    # Close enough for the head to fill a good part of the picture, never closer than the stated distances.
    nearest = max(options.distance_m[0], 0.30 * focal / size)
    distance = float(rng.uniform(nearest, max(nearest * 1.4, min(options.distance_m[1], nearest * 2))))
    angles = np.radians(rng.uniform(-1, 1, 3) * (options.pitch, options.yaw, options.roll) + np.array(options.turn))
    orient = torch.tensor(angles, dtype=torch.float32)[None]
    params = HeadParams.zeros(assets.num_betas, assets.num_expressions)
    gaze = np.radians(rng.uniform(-1, 1, 2) * options.gaze)
    look = torch.tensor([gaze[0] * 0.6, gaze[1], 0.0], dtype=torch.float32)[None]
    betas = torch.tensor(rng.normal(size=(1, assets.num_betas)) * options.identity_scale, dtype=torch.float32)
    params = replace(
        params, betas=betas, expression=_expression(assets, rng, options), global_orient=orient,
        leye_pose=look, reye_pose=look,
    )  # fmt: skip
    # Put the point between the eyes at the wanted place in front of the camera, a little off the middle.
    aim = np.array([*rng.uniform(-0.08, 0.08, 2) * distance * size / focal, -distance])
    joints = torch.as_tensor(assets.J_regressor @ (assets.v_template + assets.shapedirs @ betas[0].numpy())).float()
    root, eyes = joints[0], joints[3:5].mean(0)
    between_eyes = axis_angle_to_matrix(orient)[0] @ (eyes - root) + root
    params = replace(params, transl=(torch.as_tensor(aim, dtype=torch.float32) - between_eyes)[None])
    flip = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))
    k = torch.tensor([[focal, 0.0, size / 2], [0.0, focal, size / 2], [0.0, 0.0, 1.0]])
    return params, Cameras(flip, k, size, size), float(np.linalg.norm(aim))


def _expression(assets: HeadAssets, rng: np.random.Generator, options: SyntheticOptions) -> Float[Tensor, "1 Ne"]:
    """A few shapes at once, mirrored pairs together; gaze shapes are left to the eye joints."""
    weights = np.zeros(assets.num_expressions)
    names = list(assets.expression_names)
    usable = [n for n in names if not n.startswith(("eyeLook", "tongue", "jawLeft", "jawRight", "cheekPuff"))]
    for name in rng.choice(usable, size=min(int(rng.poisson(options.expressions)), len(usable)), replace=False):
        amount = float(rng.beta(1.2, 2.5))
        for side in {name, name.replace("Left", "Right"), name.replace("Right", "Left")}:
            if side in names:
                weights[names.index(side)] = amount * float(rng.uniform(0.85, 1.0))
    return torch.tensor(weights, dtype=torch.float32)[None]


def _colours(rng: np.random.Generator, tone: int) -> PlainColours:
    skin = np.clip(np.array(SKIN_TONES[tone]) * rng.uniform(0.93, 1.07, 3), 0, 1)
    iris = np.array([(0.30, 0.21, 0.13), (0.34, 0.40, 0.46), (0.36, 0.36, 0.22)][int(rng.integers(3))])
    brows = np.clip(skin * rng.uniform(0.2, 0.5), 0, 1)
    lips = float(rng.uniform(0.15, 0.45))
    return PlainColours(_rgb(skin), _rgb(iris), brows=_rgb(brows), lips=lips)


def _rgb(values: np.ndarray) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])


def random_light(rng: np.random.Generator) -> Lighting:
    """A key light from somewhere in front and above, a weaker one from the other side, and a soft surround."""
    yaw, pitch = rng.uniform(-60, 60), rng.uniform(-5, 50)
    key = _direction(yaw, pitch)
    fill = _direction(-yaw, rng.uniform(0, 25))
    strength = rng.uniform(0.3, 0.9)
    warmth = rng.uniform(0.92, 1.08)
    sky = float(rng.uniform(0.3, 0.6))
    return Lighting(
        ambient_sh=ambient((sky, sky, sky), (0.7 * sky, 0.7 * sky, 0.7 * sky)),
        directions=torch.tensor(np.stack([key, fill]), dtype=torch.float32),
        intensities=torch.tensor(
            [[strength * warmth, strength, strength / warmth], [0.3 * strength] * 3], dtype=torch.float32
        ),
    )


def _direction(yaw_degrees: float, pitch_degrees: float) -> np.ndarray:
    yaw, pitch = math.radians(yaw_degrees), math.radians(pitch_degrees)
    return np.array([math.sin(yaw) * math.cos(pitch), math.sin(pitch), math.cos(yaw) * math.cos(pitch)])
