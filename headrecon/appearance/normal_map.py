"""A normal map from the fine shading of a photo: wrinkles, folds and pores as relief instead of paint.

What the photo shows beside smooth colour is read as relief in two ways at once. Light from the side makes slopes
bright or dark (linear shape from shading: Pentland, "Linear shape from shading", IJCV 1990); even light makes hollows
dark ("dark is deep": Langer and Zucker 1994; as detail on scans: Beeler et al., "High-quality single-shot capture of
facial geometry", SIGGRAPH 2010, section 6). The light that was estimated says which of both counts where.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from headrecon.appearance.delight import GAMMA, Surface
from headrecon.appearance.skin_texels import SeenTexels, Sources
from headrecon.appearance.texels import Texels
from headrecon.geometry.tangents import TangentFrames, tangent_frames
from headrecon.ops.interpolate import interpolate
from headrecon.rendering.light_estimation import irradiance
from headrecon.rendering.self_shadowing import lambert_transfer
from headrecon.rendering.skin_tones import LUMINANCE
from headrecon.structures import HeadAssets, triangulate

#: Normal maps are at most this large: photos rarely hold more.
LARGEST = 1024
#: Relative darkening per metre of depth in even light: a furrow of 0.3 mm loses a sixth of its light.
_DEEP = 500.0
#: Typical relative error of the shading (spots and hairs are paint), slope of relief, and its height in metres.
_NOISE, _SLOPE, _HEIGHT_M = 0.08, 0.22, 0.0004
#: Shading beyond this (relative) is something else; slopes beyond this are cut off softly.
_MOST_SHADING, _STEEPEST = 0.35, 0.6
_STEPS = 10


@dataclass(frozen=True)
class _Field:
    """A crop of the map, H x W. shading: relative, against the smooth. trust: its weight. All slopes in metres."""

    shading: Float[Tensor, "H W"]
    trust: Float[Tensor, "H W"]
    bend_u: Float[Tensor, "H W"]
    bend_v: Float[Tensor, "H W"]
    per_u: Float[Tensor, "H W"]
    per_v: Float[Tensor, "H W"]
    shear: Float[Tensor, "H W"]


def normals_from_shading(
    assets: HeadAssets, texels: Texels, surface: Surface, seen: SeenTexels, sources: Sources
) -> UInt8[np.ndarray, "n n 3"]:
    """Tangent-space normals as glTF has them: x along u, y along v (up), z outwards, each (n + 1) / 2 in 8 bits.

    Flat where the photo shows nothing, or hair. Half the side of the texture, at most LARGEST.
    """
    step = 2 if texels.size % 2 == 0 else 1
    while texels.size // step > LARGEST and texels.size % (2 * step) == 0:
        step *= 2
    side = texels.size // step
    out = np.empty((side, side, 3), dtype=np.uint8)
    out[:] = (128, 128, 255)
    if not len(seen.rows):
        return out
    corners = torch.from_numpy(assets.uvs.astype(np.float32)[triangulate(assets.uv_faces)[0]])
    frames = tangent_frames(surface.points, surface.normals, surface.triangles, corners)
    field, corner = _field(texels, (seen, sources), _per_vertex(surface, frames, sources), step)
    slope_u, slope_v = _slopes(_relief(field), field)
    fade = field.trust.clamp(0, 1)
    normal = torch.stack([-slope_u * fade, -slope_v * fade, torch.ones_like(fade)], -1)
    encoded = (torch.nn.functional.normalize(normal, dim=-1) * 127.5 + 128).to(torch.uint8).numpy()
    height, width = encoded.shape[:2]
    out[corner[0] : corner[0] + height, corner[1] : corner[1] + width] = encoded
    return out


def _per_vertex(surface: Surface, frames: TangentFrames, sources: Sources) -> Float[Tensor, "V 6"]:
    """How shading answers to slopes along u and v, sizes of the texture's axes, and where relief may be."""
    turn = sources.delit.view.cameras.viewmats[:3, :3] * torch.tensor([1.0, -1.0, -1.0])[:, None]
    lighting, luminance = sources.delit.light.lighting, torch.tensor(LUMINANCE)

    def shown(normals: Tensor) -> Tensor:
        unit = torch.nn.functional.normalize(normals, dim=1) @ turn.T
        return irradiance(lambert_transfer(unit), lighting) @ luminance

    middle = shown(surface.normals).clamp(min=1e-3)
    tilt = 0.1
    bends = [
        (shown(surface.normals + tilt * axis) - shown(surface.normals - tilt * axis)) / (2 * tilt * middle)
        for axis in (frames.tangent, frames.bitangent)
    ]
    zones = sources.zones
    allowed = zones.skin * (1 - torch.maximum(zones.hair, zones.scalp))
    return torch.stack([*bends, frames.per_u, frames.per_v, frames.shear, allowed], 1)


def _field(
    texels: Texels, found: tuple[SeenTexels, Sources], per_vertex: Float[Tensor, "V 6"], step: int
) -> tuple[_Field, tuple[int, int]]:
    """The seen part of the map and its upper left corner."""
    seen, sources = found
    side = texels.size // step
    luminance = torch.tensor(LUMINANCE)
    smooth = sources.base @ luminance
    table = torch.cat([per_vertex, smooth[:, None]], 1).contiguous()
    got = interpolate(table, texels.triangles, texels.face[seen.rows], texels.barycentrics[seen.rows])
    relative = GAMMA * (seen.detail @ luminance) / got[:, 6].clamp(min=0.05)
    trust = seen.weight * got[:, 5]
    index = texels.index[seen.rows]
    row = torch.div(index, texels.size, rounding_mode="floor")
    place = torch.div(row, step, rounding_mode="floor") * side
    place = place + torch.div(index - row * texels.size, step, rounding_mode="floor")
    values = torch.cat([relative[:, None].clamp(-2, 2), got[:, :5]], 1) * trust[:, None]
    total = torch.zeros(side * side, 7)
    total.index_add_(0, place, torch.cat([values, trust[:, None]], 1))
    rows, columns = torch.nonzero(total[:, 6].reshape(side, side) > 0, as_tuple=True)
    if not len(rows):
        rows, columns = torch.zeros(1, dtype=torch.long), torch.zeros(1, dtype=torch.long)
    top, left = int(rows.min()), int(columns.min())
    crop = total.reshape(side, side, 7)[top : int(rows.max()) + 1, left : int(columns.max()) + 1]
    mean = crop[..., :6] / crop[..., 6:].clamp(min=1e-6)
    shading = _MOST_SHADING * torch.tanh(mean[..., 0] / _MOST_SHADING)
    trusted = (crop[..., 6] / (step * step)).clamp(max=1)
    # Slopes are taken per pixel of this map; row 0 is on top, v grows upwards.
    return (
        _Field(shading, trusted, mean[..., 1], mean[..., 2], mean[..., 3] * side, mean[..., 4] * side, mean[..., 5]),
        (top, left),
    )


def _relief(field: _Field) -> Float[Tensor, "H W"]:
    """Heights in metres that explain the shading best; conjugate gradients on the normal equations."""
    weight = field.trust.square()
    slope_cost, height_cost = (_NOISE / _SLOPE) ** 2 * field.trust, (_NOISE / _HEIGHT_M) ** 2
    # Heights are counted in units in which all terms weigh about alike, which spares a preconditioner.
    unit = 1 / (_DEEP + math.sqrt(height_cost))

    def normal(h: Tensor) -> Tensor:
        slope_u, slope_v = _raw_slopes(h * unit, field)
        residual = (_DEEP * unit * h - field.bend_u * slope_u - field.bend_v * slope_v) * weight
        back_u = -field.bend_u * residual + slope_cost * slope_u
        back_v = -field.bend_v * residual + slope_cost * slope_v
        return unit * (_DEEP * residual + _raw_slopes_back(back_u, back_v, field)) + height_cost * unit * unit * h

    residual = weight * field.shading
    right = unit * (_DEEP * residual + _raw_slopes_back(-field.bend_u * residual, -field.bend_v * residual, field))
    solution = torch.zeros_like(right)
    direction, left = right.clone(), right.clone()
    power = float((left * left).sum())
    for _ in range(_STEPS):
        if power < 1e-12:
            break
        image = normal(direction)
        length = power / max(float((direction * image).sum()), 1e-20)
        solution += length * direction
        left -= length * image
        new_power = float((left * left).sum())
        direction = left + (new_power / power) * direction
        power = new_power
    return solution * unit


def _slopes(height: Float[Tensor, "H W"], field: _Field) -> tuple[Float[Tensor, "H W"], Float[Tensor, "H W"]]:
    """Slopes along tangent and bitangent, softly limited."""
    slope_u, slope_v = _raw_slopes(height, field)
    steep = (slope_u.square() + slope_v.square()).sqrt().clamp(min=1e-9)
    keep = _STEEPEST * torch.tanh(steep / _STEEPEST) / steep
    return slope_u * keep, slope_v * keep


def _raw_slopes(height: Tensor, field: _Field) -> tuple[Tensor, Tensor]:
    """Central differences in metres of height per metre; rows run down while v runs up."""
    padded = torch.nn.functional.pad(height[None, None], (1, 1, 1, 1), mode="replicate")[0, 0]
    along_u = 0.5 * (padded[1:-1, 2:] - padded[1:-1, :-2])
    along_v = 0.5 * (padded[:-2, 1:-1] - padded[2:, 1:-1])
    return field.per_u * along_u, field.per_v * (along_v - field.shear * along_u)


def _raw_slopes_back(back_u: Tensor, back_v: Tensor, field: _Field) -> Tensor:
    """The transpose of `_raw_slopes`."""
    along_v = field.per_v * back_v
    along_u = field.per_u * back_u - field.shear * along_v
    height, width = along_u.shape
    padded = along_u.new_zeros(height + 2, width + 2)
    padded[1:-1, 2:] += 0.5 * along_u
    padded[1:-1, :-2] -= 0.5 * along_u
    padded[:-2, 1:-1] += 0.5 * along_v
    padded[2:, 1:-1] -= 0.5 * along_v
    # What was read beyond the border is its nearest pixel's.
    padded[1] += padded[0]
    padded[-2] += padded[-1]
    padded[:, 1] += padded[:, 0]
    padded[:, -2] += padded[:, -1]
    return padded[1:-1, 1:-1]
