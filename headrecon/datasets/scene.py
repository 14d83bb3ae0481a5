"""Where a synthetic person is photographed: pose, camera, expression, light, backdrop."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headrecon.geometry.rotations import axis_angle_to_matrix
from headrecon.rendering.lighting import Lighting, ambient
from headrecon.structures import Cameras, HeadAssets, HeadParams

#: 35 mm equivalents that photos of people are taken with (phones, their portrait modes, portrait lenses).
_LENSES_MM = (26.0, 35.0, 50.0, 77.0, 85.0)
_LUMINANCE = np.array([0.2126, 0.7152, 0.0722])


@dataclass(frozen=True)
class SyntheticOptions:
    """What varies. Angles in degrees (uniform within ± about `turn`), distances in metres.

    turn: pitch, yaw and roll about which the pose varies. expressions: mean count of shapes at once.
    tone, masculine: of the look (`looks.draw_look`); drawn when None. hair: False leaves every head bald.
    outside_mm: rms of a smooth displacement of the face that the model's identity space cannot express.
    blur_px, noise: of the camera, at most (noise in shares of white). texture_size: of the painted skin.
    shot: which of several photos of the same person: another camera, pose, expression, gaze, light and backdrop.
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
    tone: int | None = None
    masculine: bool | None = None
    hair: bool = True
    outside_mm: float = 0.0
    blur_px: float = 0.6
    noise: float = 0.012
    texture_size: int = 768
    shot: int = 0


@dataclass(frozen=True)
class Scene:
    """Pose and camera. The camera stands at the world's origin and looks along -z."""

    params: HeadParams
    cameras: Cameras
    distance_m: float


@dataclass(frozen=True)
class View:
    """A camera at the world's origin that looks along -z, how far before it the eyes should be, and the head's turn."""

    cameras: Cameras
    distance_m: float
    angles: Float[np.ndarray, "3"]


def draw_view(rng: np.random.Generator, options: SyntheticOptions) -> View:
    """Draw lens, distance and the head's turn about x, y and z (radians)."""
    size = options.size
    focal = float(rng.choice(_LENSES_MM)) / math.hypot(36, 24) * math.hypot(size, size)
    # Close enough for the head to fill a good part of the picture, never closer than the stated distances.
    nearest = max(options.distance_m[0], 0.30 * focal / size)
    distance = float(rng.uniform(nearest, max(nearest * 1.4, min(options.distance_m[1], nearest * 2))))
    spread = (options.pitch, options.yaw, options.roll)
    angles = np.radians(rng.uniform(-1, 1, 3) * spread + np.array(options.turn))
    flip = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))
    k = torch.tensor([[focal, 0.0, size / 2], [0.0, focal, size / 2], [0.0, 0.0, 1.0]])
    return View(Cameras(flip, k, size, size), distance, angles)


def draw_scene(
    assets: HeadAssets, rng: np.random.Generator, options: SyntheticOptions, betas: Float[Tensor, "1 Nb"] | None = None
) -> Scene:
    """Draw identity, expression, pose and a camera that holds the head. betas: the person, where known already."""
    view = draw_view(rng, options)
    size, focal, distance = options.size, float(view.cameras.Ks[0, 0]), view.distance_m
    orient = torch.tensor(view.angles, dtype=torch.float32)[None]
    params = HeadParams.zeros(assets.num_betas, assets.num_expressions)
    gaze = np.radians(rng.uniform(-1, 1, 2) * options.gaze)
    look = torch.tensor([gaze[0] * 0.6, gaze[1], 0.0], dtype=torch.float32)[None]
    drawn = torch.tensor(rng.normal(size=(1, assets.num_betas)) * options.identity_scale, dtype=torch.float32)
    betas = drawn if betas is None else betas
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
    return Scene(params, view.cameras, float(np.linalg.norm(aim)))


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


def random_light(rng: np.random.Generator, skin_srgb: tuple[float, float, float] = (0.80, 0.61, 0.49)) -> Lighting:
    """A key light in front and above, a weaker one from the other side, and an uneven surround of degree 2.

    The whole is exposed for the face, as cameras do: not fully, so that dark skin stays darker than light skin.
    """
    yaw, pitch = rng.uniform(-60, 60), rng.uniform(-5, 50)
    strength = rng.uniform(0.15, 0.9)
    warmth = rng.uniform(0.92, 1.08)
    sky = float(rng.uniform(0.3, 0.6))
    surround = ambient((sky, sky, sky), (0.6 * sky, 0.6 * sky, 0.6 * sky))
    uneven = rng.normal(0, 1, (9, 1)) * (1 + rng.normal(0, 0.12, (9, 3)))
    uneven[0] = 0
    uneven[1:4] *= 0.22
    uneven[4:] *= 0.10
    surround = np.asarray(surround) + uneven * np.asarray(surround)[0]
    lit = 0.8 * sky + 0.55 * strength
    luminance = float(np.power(skin_srgb, 2.2) @ _LUMINANCE)
    gain = float(np.clip((0.26 / (luminance * lit)) ** 0.6, 0.5, 3.0) * rng.uniform(0.8, 1.2))
    colours = [[strength * warmth, strength, strength / warmth], [0.3 * strength] * 3]
    directions = np.stack([_direction(yaw, pitch), _direction(-yaw, rng.uniform(0, 25))])
    return Lighting(
        ambient_sh=(gain * surround).astype(np.float32),
        directions=directions.astype(np.float32),
        intensities=(gain * np.array(colours)).astype(np.float32),
    )


def _direction(yaw_degrees: float, pitch_degrees: float) -> np.ndarray:
    yaw, pitch = math.radians(yaw_degrees), math.radians(pitch_degrees)
    return np.array([math.sin(yaw) * math.cos(pitch), math.sin(pitch), math.cos(yaw) * math.cos(pitch)])


def backdrop(rng: np.random.Generator, size: int) -> Float[np.ndarray, "S S 3"]:
    """A wall or a room far out of focus: muted colours that change slowly, sRGB."""
    from scipy.ndimage import zoom

    grey = rng.uniform(0.15, 0.85)
    tint = 1 + rng.normal(0, 0.08, 3)
    coarse = grey * tint * (1 + rng.normal(0, rng.uniform(0.02, 0.18), (6, 6, 1)) + rng.normal(0, 0.02, (6, 6, 3)))
    fine = np.asarray(zoom(coarse, (size / 6, size / 6, 1), order=3, mode="nearest", grid_mode=True))
    return np.clip(fine[:size, :size], 0.02, 0.98)


def through_camera(
    image: Float[np.ndarray, "S S 3"], rng: np.random.Generator, options: SyntheticOptions
) -> Float[np.ndarray, "S S 3"]:
    """Slight blur and sensor noise, each up to what the options say."""
    from scipy.ndimage import gaussian_filter

    blur, noise = rng.uniform(0, 1, 2) * (options.blur_px, options.noise)
    if blur > 0.05:
        image = gaussian_filter(image, (blur, blur, 0))
    return np.clip(image + noise * rng.standard_normal(image.shape), 0, 1)
