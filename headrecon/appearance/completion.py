"""Completes the skin: median tones of skin and hair, and a smooth colour for every vertex, seen or not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headrecon.appearance.delight import Delit, Surface, blur, display, doubt_around, unlike_skin
from headrecon.appearance.diffusion import Guide, Prior, SeenColors, diffuse_colors, mirror_vertices
from headrecon.appearance.projection import Sight, View, sample, smoothstep
from headrecon.appearance.zones import Zones
from headrecon.ops.interpolate import interpolate
from headrecon.structures import HeadAssets, triangulate

#: Where nothing is known: a middling skin, sRGB.
_DEFAULT_SKIN = (0.72, 0.56, 0.48)
#: Low frequencies are what a blur of this radius (metres on the head) leaves.
_BLUR_M = 0.003
#: Hair differs from skin by more than this in some channel, where it was not looked for.
_UNLIKE_SKIN = 0.12
#: It differs by more than the first in the logarithm of red over blue, or is darker by more than the second.
_HAIR_HUE, _HAIR_DARK = 0.15, 0.5
#: How much firmer the expectation of hair on the scalp, and of skin on ears and neck, is than that of skin elsewhere.
_FIRM_HAIR, _FIRM_GUARDED = 12.0, 4.0
#: A tone is the median of at least this many samples.
_ENOUGH = 30


@dataclass(frozen=True)
class SkinColors:
    """Typical colours of one person without light, sRGB. hair_grain: how much lightness differs between strands.

    hair equals skin where the photo does not tell it.
    """

    skin: Float[Tensor, "3"]
    hair: Float[Tensor, "3"]
    hair_grain: float


@dataclass(frozen=True)
class LowFrequencies:
    """The albedo blurred within the skin; known: how much skin went into each pixel, 0..1.

    fits: 0 where ears and neck show what is no skin, 1 elsewhere.
    """

    colors: Float[Tensor, "h w 3"]
    known: Float[Tensor, "h w"]
    fits: Float[Tensor, "h w"]


def plain_tones() -> SkinColors:
    """What to paint when no photo tells."""
    default = torch.tensor(_DEFAULT_SKIN)
    return SkinColors(default, default, 0.0)


def skin_and_hair(assets: HeadAssets, surface: Surface, delit: Delit, zones: Zones) -> SkinColors:
    """Median colours of the seen skin and hair, over the pixels of the photo."""
    view = delit.view
    shares = torch.stack([zones.plain * (1 - zones.guarded), zones.hair], 1)
    got = interpolate(shares, surface.triangles, view.raster.face_index[0], view.raster.barycentrics[0])
    outer = assets.part_names.index("skin") if "skin" in assets.part_names else 0
    good = (view.part == outer) & (view.clear > 0.3) & (delit.trust > 0.5)
    skin = _median(_thinned(view.image_srgb[good & (got[..., 0] > 0.9)]), display(delit.light.albedo))
    hair = torch.cat([_thinned(view.image_srgb[good & (got[..., 1] > 0.7)]), _hair_beyond_the_mesh(view)])
    hair = unlike_skin(hair.clamp(min=0.02).log(), skin.log(), (_HAIR_HUE, _HAIR_DARK), zones.hair_known).exp()
    hair_tone = _median(hair, skin)
    # A head whose hair is known to be nothing (bald) has few such pixels and no strands.
    grain = 0.0
    if len(hair) >= _ENOUGH and (zones.hair_known or float((hair_tone - skin).abs().max()) > _UNLIKE_SKIN):
        grain = float((hair - hair_tone).mean(1).abs().median().clamp(0.01, 0.06)) * 0.4
    return SkinColors(skin, hair_tone, grain)


def _median(colors: Float[Tensor, "N 3"], otherwise: Float[Tensor, "3"]) -> Float[Tensor, "3"]:
    return colors.median(0).values if len(colors) >= _ENOUGH else otherwise


def _hair_beyond_the_mesh(view: View) -> Float[Tensor, "N 3"]:
    """Pixels of the person above the bald head and close to it: hair has volume that the mesh lacks."""
    covered = view.part >= 0
    rows = torch.nonzero(covered.any(1))[:, 0]
    if not len(rows) or bool((view.person > 0.5).all()):
        return torch.zeros(0, 3)
    top, height = int(rows[0]), int(rows[-1] - rows[0] + 1)
    columns = torch.nonzero(covered[top : top + height // 4].any(0))[:, 0]
    area = torch.zeros_like(covered)
    low, high = int(columns[0]), int(columns[-1]) + 1
    area[max(0, top - height // 4) : top + height // 10, low:high] = True
    chosen = view.image_srgb[area & ~covered & (view.person > 0.8)]
    return _thinned(chosen)


def _thinned(pixels: Float[Tensor, "N 3"]) -> Float[Tensor, "M 3"]:
    """About four thousand of many pixels: a median needs no more."""
    return pixels[:: max(1, len(pixels) // 4000)]


def seen_colors(low: LowFrequencies, sight: Sight, zones: Zones) -> SeenColors:
    """The photo's low frequencies at each vertex, and how far they are to be trusted there."""
    values = sample(torch.cat([low.colors, low.known[..., None], low.fits[..., None]], -1), sight.pixels)
    weight = sight.weight * (values[:, 3] > 0.2) * values[:, 4] * zones.skin * (1 - zones.folded)
    return SeenColors(values[:, :3].numpy().astype(np.float64), weight.numpy().astype(np.float64))


def complete_vertices(
    assets: HeadAssets, own: SeenColors | None, tones: SkinColors, zones: Zones
) -> Float[Tensor, "V 3"]:
    """Smooth colour for every vertex: the photo's own (`seen_colors`) where seen, else diffused; see `diffusion`."""
    # A bald scalp shows skin; what is expected of an unseen one is this person's hair, where it is known.
    scalp = zones.scalp[:, None]
    expected = tones.skin * (1 - scalp) + tones.hair * scalp
    if own is None:
        return expected
    mirror, symmetric = mirror_vertices(assets.v_template.astype(np.float64))
    guide = Guide(own.colors[mirror], symmetric & (own.weight[mirror] > 0.3))
    # Skin beside the hairline must not creep over the scalp once the colour of the hair is known, nor hair over ears.
    firm = _FIRM_HAIR * zones.scalp if tones.hair_grain else torch.zeros_like(zones.scalp)
    strength = 1 + firm + _FIRM_GUARDED * zones.guarded * (1 - zones.scalp)
    prior = Prior(expected.numpy().astype(np.float64), strength.numpy().astype(np.float64))
    done = diffuse_colors(assets.v_template.astype(np.float64), triangulate(assets.faces)[0], own, guide, prior)
    return torch.from_numpy(done).float()


def skin_likeness(colors: Float[Tensor, "*N 3"], tones: SkinColors) -> Float[Tensor, "*N"]:
    """1 for colours that skin of this person may have, 0 for collars, scarves, jackets and hair over ears."""
    brightness, typical = colors.mean(-1).clamp(min=1e-3), tones.skin.mean()
    hue = (colors / brightness[..., None] - tones.skin / typical).abs().amax(-1)
    ratio = brightness / typical
    light_enough = smoothstep(ratio, 0.50, 0.68)
    return light_enough * (1 - smoothstep(ratio, 1.15, 1.3)) * (1 - smoothstep(hue, 0.20, 0.36))


def low_frequencies(
    assets: HeadAssets, surface: Surface, delit: Delit, tones: SkinColors, zones: Zones
) -> LowFrequencies:
    """The albedo blurred within the skin only, so that eyes and background do not bleed in."""
    view = delit.view
    skin = assets.part_names.index("skin") if "skin" in assets.part_names else 0
    inside = ((view.part == skin) & (view.clear > 0)).float() * delit.trust.clamp(min=1e-3)
    stacked = torch.cat([view.image_srgb * inside[..., None], inside[..., None]], -1)
    soft = blur(stacked, max(0.5, _BLUR_M / view.metres_per_px))
    known = soft[..., 3]
    colors = soft[..., :3] / known.clamp(min=1e-4)[..., None]
    shares = torch.stack([zones.guarded, zones.hair, zones.behind_ears], 1)
    got = interpolate(shares, surface.triangles, view.raster.face_index[0], view.raster.barycentrics[0])
    like = skin_likeness(colors, tones)
    guarded = got[..., 0] * (1 - got[..., 1])
    if tones.hair_grain:
        # An ear that the fit misses by a centimetre would be painted on the hair behind it.
        ear = got[..., 2] * smoothstep((colors - tones.hair).mean(-1), 0.05, 0.12)
        guarded, like = torch.maximum(guarded, ear), like * (1 - ear)
    return LowFrequencies(colors, known, doubt_around(1 - guarded * (1 - like), view))
