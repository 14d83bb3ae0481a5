"""Lights, and how a skin-like or clay-like surface answers them. All in linear light, direction vectors of unit length.

A value of 1 means: a white matt surface that faces the light shows 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from headrecon.geometry.harmonics import C0, C1, LAMBERT_FACTORS
from headrecon.ops.reference import shade as reference
from headrecon.ops.shade import ShadeLights

#: What a matt surface makes of incoming radiance, degree by degree, over pi: a radiance of 1 all round shows 1.
_LAMBERT = tuple(LAMBERT_FACTORS[degree] / math.pi for degree in (0, 1, 1, 1, 2, 2, 2, 2, 2))


@dataclass(frozen=True)
class Lighting:
    """Ambient light in spherical harmonics of degree 2 plus directional lights.

    space says which axes directions are in: "world" (the light stays with the head) or "view" (it stays with the
    camera: +x right, +y up, +z from the head towards the viewer).
    """

    #: Incoming radiance in the basis of `geometry.harmonics` (degree 2), per colour.
    ambient_sh: Float[Tensor, "9 3"]
    #: Unit vectors from the surface to each light.
    directions: Float[Tensor, "L 3"]
    #: Colour times strength of each light, linear.
    intensities: Float[Tensor, "L 3"]
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


def ambient(top: tuple[float, float, float], bottom: tuple[float, float, float]) -> Float[Tensor, "9 3"]:
    """Harmonics of a sky that lights a matt surface with `bottom` facing down, `top` facing up, linear between."""
    sh = torch.zeros(9, 3)
    up, down = torch.tensor(top), torch.tensor(bottom)
    sh[0] = 0.5 * (up + down) / (C0 * _LAMBERT[0])
    sh[1] = 0.5 * (up - down) / (-C1 * _LAMBERT[1])  # the basis function is -C1 y
    return sh


def studio() -> Lighting:
    """Three lights that travel with the camera: warm key, upper left; cool fill, right; rim from behind."""
    directions = torch.tensor([[-0.55, 0.60, 0.75], [0.85, 0.10, 0.55], [0.60, 0.35, -0.72]])
    return Lighting(
        ambient_sh=ambient(top=(0.20, 0.21, 0.23), bottom=(0.09, 0.08, 0.08)),
        directions=torch.nn.functional.normalize(directions, dim=-1),
        intensities=torch.tensor([[0.78, 0.75, 0.70], [0.20, 0.22, 0.25], [0.16, 0.17, 0.19]]),
        space="view",
    )


def soft_front() -> Lighting:
    """Even light for showing a texture without hiding it: mostly ambient, a weak lamp above the camera."""
    return Lighting(
        ambient_sh=ambient(top=(0.66, 0.66, 0.66), bottom=(0.44, 0.44, 0.44)),
        directions=torch.nn.functional.normalize(torch.tensor([[-0.25, 0.45, 0.85]]), dim=-1),
        intensities=torch.tensor([[0.42, 0.42, 0.42]]),
        space="view",
    )


def pack_lighting(lighting: Lighting, surface: Surface, world_to_view: Float[Tensor, "C 3 3"]) -> ShadeLights:
    """Lighting and surface as the shading op takes them. world_to_view: rotations of the cameras (OpenCV)."""
    if lighting.space == "view":
        # View axes are the camera's with y and z turned round: y up, z towards the viewer.
        rotations = world_to_view * world_to_view.new_tensor([1.0, -1.0, -1.0])[:, None]
    else:
        rotations = torch.eye(3).expand_as(world_to_view)
    lambert = lighting.ambient_sh.new_tensor(_LAMBERT)[:, None]
    return ShadeLights(
        rotations=rotations,
        ambient=lighting.ambient_sh * lambert,
        lights=torch.cat([lighting.directions, lighting.intensities], dim=1),
        surface=torch.tensor([surface.specular, surface.roughness, *surface.wrap]),
    )


def shade_points(
    albedo: Float[Tensor, "P 3"],
    normals: Float[Tensor, "P 3"],
    to_eye: Float[Tensor, "P 3"],
    lighting: Lighting,
    surface: Surface,
) -> Float[Tensor, "P 3"]:
    """Light that leaves each point towards the eye: linear, not clipped above. Differentiable.

    Vectors are of unit length and in the axes of `lighting.space`.
    """
    packed = pack_lighting(lighting, surface, torch.eye(3)[None])
    return reference.shade_points(albedo, normals, to_eye, packed.ambient, packed.lights, packed.surface)
