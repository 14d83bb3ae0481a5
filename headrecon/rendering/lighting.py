"""Lights, and how a skin-like or clay-like surface answers them. All in linear light, direction vectors of unit length.

A value of 1 means: a white matt surface that faces the light shows 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from headrecon.arrays import Array, namespace
from headrecon.geometry.harmonics import C0, C1, LAMBERT_FACTORS
from headrecon.ops.samples import ShadeLights

#: What a matt surface makes of incoming radiance, degree by degree, over pi: a radiance of 1 all round shows 1.
_LAMBERT = tuple(LAMBERT_FACTORS[degree] / math.pi for degree in (0, 1, 1, 1, 2, 2, 2, 2, 2))


@dataclass(frozen=True)
class Lighting:
    """Ambient light in spherical harmonics of degree 2 plus directional lights.

    space says which axes directions are in: "world" (the light stays with the head) or "view" (it stays with the
    camera: +x right, +y up, +z from the head towards the viewer). Fields are numpy arrays or torch tensors.
    """

    #: Incoming radiance in the basis of `geometry.harmonics` (degree 2), per colour.
    ambient_sh: Float[Array, "9 3"]
    #: Unit vectors from the surface to each light.
    directions: Float[Array, "L 3"]
    #: Colour times strength of each light, linear.
    intensities: Float[Array, "L 3"]
    space: Literal["world", "view"] = "world"


@dataclass(frozen=True)
class Surface:
    """How a surface answers light, apart from its colour."""

    #: Reflectance at normal incidence; skin has 0.028 (Weyrich et al., "Analysis of Human Faces", SIGGRAPH 2006).
    specular: float = 0.028
    #: GGX roughness (alpha is its square); skin lies around 0.5, clay above.
    roughness: float = 0.5
    #: How far light creeps round the terminator in red, green and blue, as skin scatters it; 0 for a matt solid.
    wrap: tuple[float, float, float] = (0.25, 0.12, 0.08)


def ambient(top: tuple[float, float, float], bottom: tuple[float, float, float]) -> Float[Array, "9 3"]:
    """Harmonics of a sky that lights a matt surface with `bottom` facing down, `top` facing up, linear between."""
    sh = np.zeros((9, 3), dtype=np.float32)
    up, down = np.asarray(top), np.asarray(bottom)
    sh[0] = 0.5 * (up + down) / (C0 * _LAMBERT[0])
    sh[1] = 0.5 * (up - down) / (-C1 * _LAMBERT[1])  # the basis function is -C1 y
    return sh


def studio() -> Lighting:
    """Three lights that travel with the camera: warm key, upper left; cool fill, right; rim from behind."""
    return Lighting(
        ambient_sh=ambient(top=(0.20, 0.21, 0.23), bottom=(0.09, 0.08, 0.08)),
        directions=_directions([-0.55, 0.60, 0.75], [0.85, 0.10, 0.55], [0.60, 0.35, -0.72]),
        intensities=np.array([[0.78, 0.75, 0.70], [0.20, 0.22, 0.25], [0.16, 0.17, 0.19]], dtype=np.float32),
        space="view",
    )


def soft_front() -> Lighting:
    """Even light for showing a texture without hiding it: mostly ambient, a weak lamp above the camera."""
    return Lighting(
        ambient_sh=ambient(top=(0.66, 0.66, 0.66), bottom=(0.44, 0.44, 0.44)),
        directions=_directions([-0.25, 0.45, 0.85]),
        intensities=np.array([[0.42, 0.42, 0.42]], dtype=np.float32),
        space="view",
    )


def _directions(*towards: list[float]) -> Float[np.ndarray, "L 3"]:
    vectors = np.array(towards, dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def pack_lighting(lighting: Lighting, surface: Surface, world_to_view: Float[Array, "C 3 3"]) -> ShadeLights:
    """Lighting and surface as the shading op takes them, in the kind of array that `world_to_view` is.

    world_to_view: rotations of the cameras (OpenCV).
    """
    xp = namespace(world_to_view)

    def array(values: object) -> Array:
        return xp.asarray(values, dtype=xp.float32, device=world_to_view.device)

    if lighting.space == "view":
        # View axes are the camera's with y and z turned round: y up, z towards the viewer.
        rotations = world_to_view * array([1.0, -1.0, -1.0])[:, None]
    else:
        rotations = xp.broadcast_to(xp.eye(3, dtype=xp.float32, device=world_to_view.device), world_to_view.shape)
    return ShadeLights(
        rotations=rotations,
        ambient=array(lighting.ambient_sh) * array(_LAMBERT)[:, None],
        lights=xp.concat([array(lighting.directions), array(lighting.intensities)], 1),
        surface=array([surface.specular, surface.roughness, *surface.wrap]),
    )


def shade_points(
    albedo: Float[Array, "P 3"],
    normals: Float[Array, "P 3"],
    to_eye: Float[Array, "P 3"],
    lighting: Lighting,
    surface: Surface,
) -> Float[Array, "P 3"]:
    """Light that leaves each point towards the eye: linear, not clipped above. Differentiable.

    Vectors are of unit length and in the axes of `lighting.space`.
    """
    import torch

    from headrecon.ops.reference import shade as reference

    packed = pack_lighting(lighting, surface, torch.eye(3, device=albedo.device)[None])
    return reference.shade_points(albedo, normals, to_eye, packed.ambient, packed.lights, packed.surface)
