"""Plain-torch twin of the shading op. `shade_points` is also the differentiable form for relighting and fitting."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from headrecon.geometry.harmonics import evaluate_harmonics
from headrecon.ops.reference.interpolate import interpolate_reference
from headrecon.ops.reference.texture import texture_reference

#: Samples shaded at once. Few enough that the working set stays in the second-level cache, and that torch runs each
#: step on one thread: hundreds of tiny parallel regions crawl when anything else uses the cores.
_CHUNK = 1 << 13


def srgb_to_linear(srgb: Float[Tensor, "*N"]) -> Float[Tensor, "*N"]:
    """Display values in 0..1 to light (IEC 61966-2-1). Differentiable; below 0 the linear part goes on."""
    high = ((srgb.clamp(min=0.04045) + 0.055) / 1.055).pow(2.4)
    return torch.where(srgb <= 0.04045, srgb / 12.92, high)


def linear_to_srgb(linear: Float[Tensor, "*N"]) -> Float[Tensor, "*N"]:
    """Light to display values (IEC 61966-2-1). Differentiable; the inverse of `srgb_to_linear`."""
    high = 1.055 * linear.clamp(min=0.0031308).pow(1.0 / 2.4) - 0.055
    return torch.where(linear <= 0.0031308, linear * 12.92, high)


def shade_points(
    albedo: Float[Tensor, "P 3"],
    normals: Float[Tensor, "P 3"],
    to_eye: Float[Tensor, "P 3"],
    ambient: Float[Tensor, "9 3"],
    lights: Float[Tensor, "L 6"],
    surface: Float[Tensor, "5"],
) -> Float[Tensor, "P 3"]:
    """Light that leaves each point towards the eye: linear, not clipped above. All vectors unit, in the lights' axes.

    ambient: light on a matt surface in harmonics of its normal. lights: direction to the light, intensity. surface:
    specular reflectance, roughness, wrap in red, green and blue. Differentiable in everything.

    Diffuse: harmonics and wrapped Lambert. Specular: GGX (Walter et al., EGSR 2007) with Smith shadowing (Hammon's
    approximation, GDC 2017) and Schlick's Fresnel (Eurographics 1994).
    """
    diffuse = (evaluate_harmonics(normals, 2) @ ambient).clamp(min=0.0)
    directions, intensities = lights[:, :3], lights[:, 3:]
    n_l, v_l = normals @ directions.T, to_eye @ directions.T
    wrap = surface[2:]
    # Dividing by (1 + w)^2 keeps the reflected energy at that of plain Lambert.
    wrapped = ((n_l[..., None] + wrap) / (1.0 + wrap).square()).clamp(min=0.0)  # [P,L,3]
    diffuse = diffuse + (wrapped * intensities).sum(1)
    n_v = (normals * to_eye).sum(-1, keepdim=True)
    return albedo * diffuse + _specular(n_l, v_l, n_v, surface) @ intensities


def _specular(n_l: Tensor, v_l: Tensor, n_v: Tensor, surface: Tensor) -> Float[Tensor, "P L"]:
    """Specular answer times n.l and pi; dot products with the half vector follow from n.l, n.v and v.l alone."""
    reflectance, alpha = surface[0], surface[1].clamp(min=0.05).square()
    alpha_sq = alpha.square()
    half_sq = (0.5 + 0.5 * v_l).clamp(min=1e-3)  # (l.h)^2
    n_h_sq = ((n_l + n_v).square() / (4.0 * half_sq)).clamp(max=1.0)
    distribution = alpha_sq / (n_h_sq * (alpha_sq - 1.0) + 1.0).square()
    fresnel = reflectance + (1.0 - reflectance) * (1.0 - half_sq.sqrt()).pow(5)
    # Lights behind the surface and points turned away from the eye reflect nothing; nor does a matt surface.
    lit = n_l.clamp(min=0.0) * (n_v > 0.0) * (reflectance > 0.0)
    seen = n_v.clamp(min=1e-3)
    shadowing = torch.lerp(2.0 * lit * seen, lit + seen, alpha)
    return distribution * fresnel * 0.5 * lit / shadowing


def shade_reference(
    samples: tuple[Tensor, Tensor],
    geometry: tuple[Tensor, Tensor, Tensor, Tensor],
    colours: tuple[Tensor, int],
    lit: tuple[Tensor, Tensor, Tensor, Tensor],
    factor: int,
    background: Tensor,
) -> tuple[Tensor, Tensor]:
    """(image_srgb [C,H,W,3], alpha [C,H,W]); arguments as `_native.shade`."""
    face_index, barycentrics = samples
    count, height, width = face_index.shape
    flat = face_index.reshape(-1)
    covered = torch.nonzero(flat >= 0)[:, 0]
    light = torch.zeros(count * height * width, 3)
    for start in range(0, len(covered), _CHUNK):
        at = covered[start : start + _CHUNK]
        camera = torch.div(at, height * width, rounding_mode="floor")
        points = (flat[at], barycentrics.reshape(-1, 3)[at], camera)
        albedo = _albedo(points, geometry, colours)
        light[at] = albedo if lit[1].numel() == 0 else _lit(points, geometry, albedo, lit)
    coverage = (face_index >= 0).float()[..., None]
    light = _average(light.reshape(count, height, width, 3), factor)
    alpha = _average(coverage, factor)
    if background.numel() == 0:
        return linear_to_srgb(light / alpha.clamp(min=1e-6)), alpha[..., 0]
    return linear_to_srgb(light + (1.0 - alpha) * srgb_to_linear(background)), alpha[..., 0]


def _values(points: tuple[Tensor, Tensor, Tensor], table: Tensor, corners: Tensor) -> Float[Tensor, "P D"]:
    return interpolate_reference(table[None], corners, points[0][None], points[1][None])[0]


def _albedo(
    points: tuple[Tensor, Tensor, Tensor], geometry: tuple[Tensor, ...], colours: tuple[Tensor, int]
) -> Float[Tensor, "P 3"]:
    """Linear surface colour. Filtering happens in sRGB and the few samples are linearised, not the whole texture."""
    corners, _, _, uvs = geometry
    values, source = colours
    if source == 2:
        lookups = (_values(points, uvs, corners[:, 6:])[None], None, None)
        srgb = texture_reference(values.flatten(0, 1)[None], lookups, (len(values), values.shape[1]), 1, "clamp")[0]
    elif source == 1:
        srgb = _values(points, values[0], corners[:, :3])
    else:
        srgb = values[0].expand(len(points[0]), 3)
    return srgb_to_linear(srgb.clamp(0.0, 1.0))


def _lit(
    points: tuple[Tensor, Tensor, Tensor], geometry: tuple[Tensor, ...], albedo: Tensor, lit: tuple[Tensor, ...]
) -> Float[Tensor, "P 3"]:
    corners, vertices, normals, _ = geometry
    cameras, ambient, lights, surface = lit
    faces, _, camera = points
    centre, rotation = cameras[camera, :3], cameras[camera, 3:].reshape(-1, 3, 3)
    a, b, c = vertices[corners[faces, :3]].unbind(1)
    facing = (torch.linalg.cross(b - a, c - a) * (centre - a)).sum(-1, keepdim=True) >= 0
    normal = _values(points, normals, corners[:, 3:6]) * torch.where(facing, 1.0, -1.0)
    eye = centre - _values(points, vertices, corners[:, :3])
    unit = torch.nn.functional.normalize(torch.stack([normal, eye], 1), dim=-1) @ rotation.mT
    return shade_points(albedo, unit[:, 0], unit[:, 1], ambient, lights, surface).clamp(0.0, 1.0)


def _average(image: Float[Tensor, "C H W D"], s: int) -> Float[Tensor, "C h w D"]:
    """Mean over blocks of s x s samples."""
    count, height, width, channels = image.shape
    return image.reshape(count, height // s, s, width // s, s, channels).mean(dim=(2, 4))
