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

from headrecon.geometry.harmonics import C0, C1, LAMBERT_FACTORS, evaluate_harmonics

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
    directions = torch.tensor([[-0.55, 0.60, 0.75], [0.85, 0.10, 0.55], [0.45, 0.55, -0.75]])
    return Lighting(
        ambient_sh=ambient(top=(0.20, 0.21, 0.23), bottom=(0.09, 0.08, 0.08)),
        directions=torch.nn.functional.normalize(directions, dim=-1),
        intensities=torch.tensor([[0.78, 0.75, 0.70], [0.20, 0.22, 0.25], [0.42, 0.44, 0.48]]),
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


def shade(
    albedo: Float[Tensor, "P 3"],
    normals: Float[Tensor, "P 3"],
    to_eye: Float[Tensor, "P 3"],
    lighting: Lighting,
    surface: Surface,
) -> Float[Tensor, "P 3"]:
    """Light that leaves each point towards the eye (linear, not clipped above). Vectors in the axes of the lighting.

    Diffuse: spherical-harmonics ambient and wrapped Lambert. Specular: GGX (Walter et al., EGSR 2007) with the
    visibility term of Kelemen and Szirmay-Kalos (Eurographics 2001) and Schlick's Fresnel. Differentiable.
    """
    lambert = lighting.ambient_sh.new_tensor(_LAMBERT)
    diffuse = (evaluate_harmonics(normals, 2) @ (lighting.ambient_sh * lambert[:, None])).clamp(min=0.0)
    if len(lighting.directions) == 0:
        return albedo * diffuse
    n_l = normals @ lighting.directions.T
    v_l = to_eye @ lighting.directions.T
    n_v = (normals * to_eye).sum(-1, keepdim=True)
    columns = []
    for channel, w in enumerate(surface.wrap):
        # Dividing by (1 + w)^2 keeps the reflected energy at that of plain Lambert.
        wrapped = ((n_l + w) * (1.0 / (1.0 + w) ** 2)).clamp(min=0.0)
        columns.append(wrapped @ lighting.intensities[:, channel])
    diffuse = diffuse + torch.stack(columns, dim=-1)
    if surface.specular == 0.0:
        return albedo * diffuse
    return albedo * diffuse + _specular(n_l, v_l, n_v, surface) @ lighting.intensities


def _specular(n_l: Tensor, v_l: Tensor, n_v: Tensor, surface: Surface) -> Tensor:
    """[P,L] specular answer times n.l and pi. Half-vector dot products follow from n.l, n.v and v.l alone."""
    half_sq = (0.5 + 0.5 * v_l).clamp(min=1e-3)  # (l.h)^2
    n_h_sq = ((n_l + n_v).square() / (4.0 * half_sq)).clamp(max=1.0)
    alpha_sq = max(surface.roughness, 0.05) ** 4
    distribution = alpha_sq / (n_h_sq * (alpha_sq - 1.0) + 1.0).square()  # times pi
    grazing = 1.0 - half_sq.sqrt()
    grazing_sq = grazing.square()
    fresnel = surface.specular + (1.0 - surface.specular) * grazing_sq.square() * grazing
    # Lights behind the surface and points turned away from the eye reflect nothing.
    lit = n_l.clamp(min=0.0) * (n_v > 0.0)
    return distribution * fresnel * lit / (4.0 * half_sq)
