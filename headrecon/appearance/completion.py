"""Completes the skin: median tones of skin and hair, smooth colour for every vertex, detail from the other half."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headrecon.appearance.diffusion import Guide, Prior, SeenColors, diffuse_colors, mirror_vertices
from headrecon.appearance.projection import Sight, View, sample, smoothstep
from headrecon.appearance.texels import Texels
from headrecon.ops.interpolate import interpolate
from headrecon.structures import HeadAssets, triangulate

#: Where nothing is known: a middling skin, sRGB.
_DEFAULT_SKIN = (0.72, 0.56, 0.48)
#: Low frequencies are what a blur of this radius (metres on the head) leaves.
_BLUR_M = 0.003
#: Mirrored detail is taken from texels seen at least this well, at most this far (metres) from the mirror image.
_MIRROR_WEIGHT = 0.5
_MIRROR_REACH_M = 0.003
#: Hair differs from skin by more than this in some channel.
_UNLIKE_SKIN = 0.12
#: How much firmer the expectation of hair on the scalp is than that of skin elsewhere.
_FIRM_HAIR = 12.0
#: Chins end this far below the eyes, give or take a centimetre.
_EYES_TO_CHIN_M = 0.115
#: A tone is the median of at least this many samples.
_ENOUGH = 30


@dataclass(frozen=True)
class SkinColors:
    """Typical colours of one person, sRGB. hair_grain: how much lightness differs from strand to strand.

    hair equals skin where the photo does not tell it.
    """

    skin: Float[Tensor, "3"]
    hair: Float[Tensor, "3"]
    hair_grain: float


def add_strands(assets: HeadAssets, texels: Texels, detail: Float[Tensor, "N 3"], tones: SkinColors) -> None:
    """Add fine streaks to `detail` where the scalp has none, so that unseen hair is not a flat cap."""
    if not tones.hair_grain:
        return
    share = torch.from_numpy(scalp_weight(assets)).float()[:, None]
    touched = (share[texels.triangles.long()] > 0).any(1)[:, 0]
    rows = torch.nonzero(touched[texels.face.long()] & (detail == 0).all(1))[:, 0]
    scalp = texels.take(rows)
    points = scalp.interpolate(torch.from_numpy(assets.v_template.astype(np.float32)))
    azimuth, height = torch.atan2(points[:, 0], points[:, 2]), points[:, 1]
    # Streaks 0.7 to 2 mm apart at a radius of 8 cm. Their beats, and slow changes downwards, keep them irregular.
    wander = 0.04 * torch.sin(31 * height + 2 * azimuth) + 0.015 * torch.sin(83 * height - 7 * azimuth)
    streaks = torch.zeros(len(points))
    for frequency, phase in ((253, 0.3), (397, 1.7), (467, 5.2), (571, 4.1), (719, 2.2)):
        fade = torch.sin(37 * height + frequency * 0.11 * azimuth + 2 * phase)
        streaks += fade * torch.sin(frequency * (azimuth + wander) + phase)
    detail[rows] += (scalp.interpolate(share)[:, 0] * streaks * (tones.hair_grain / 1.4))[:, None]


def scalp_weight(assets: HeadAssets) -> Float[np.ndarray, " V"]:
    """How likely hair grows at each vertex, 0..1: the model's own region and a guess from height and depth."""
    p = assets.v_template.astype(np.float64)
    eyes = (assets.J_regressor[3:5].astype(np.float64) @ p).mean(0)
    crown = p[:, 1].max() - eyes[1]
    # The hairline: half up from the eyes to the crown in front, in front of the ears at the sides, the nape behind.
    behind = np.clip((eyes[2] - p[:, 2]) / max(float(eyes[2] - p[:, 2].min()), 1e-6), 0, 1)
    line = eyes[1] + crown * (0.55 - 1.25 * behind)
    t = np.clip((p[:, 1] - line) / (0.12 * crown) + 0.5, 0, 1)
    guess = t * t * (3 - 2 * t)
    if "ears" in assets.regions:
        guess = guess * (1 - assets.regions["ears"])
    skin = np.zeros(assets.num_vertices)
    skin[_vertices_of(assets, "skin")] = 1
    own = np.asarray(assets.regions.get("scalp", guess))
    return (np.maximum(guess, own) * skin).astype(np.float32)


def skin_and_hair(assets: HeadAssets, view: View | None) -> SkinColors:
    """Median colours of the seen skin and hair, over the pixels of the photo."""
    default = torch.tensor(_DEFAULT_SKIN)
    if view is None:
        return SkinColors(default, default, 0.0)
    triangles = torch.from_numpy(triangulate(assets.faces)[0].astype(np.int32))
    shares = torch.from_numpy(np.stack([scalp_weight(assets), _may_be_clothed(assets)], axis=1))
    got = interpolate(shares, triangles, view.raster.face_index[0], view.raster.barycentrics[0])
    outer = assets.part_names.index("skin") if "skin" in assets.part_names else 0
    good = (view.part == outer) & (view.clear > 0.3)
    skin = _median(_thinned(view.image_srgb[good & (got[..., 0] < 0.05) & (got[..., 1] < 0.05)]), default)
    on_scalp = _thinned(view.image_srgb[good & (got[..., 0] > 0.7)])
    hair = torch.cat([on_scalp, _hair_beyond_the_mesh(view)])
    # Foreheads differ in height: where a good part of the scalp looks unlike skin, that part is the hair.
    unlike = hair[(hair - skin).abs().amax(1) > _UNLIKE_SKIN]
    hair = unlike if len(unlike) > 0.25 * len(hair) else hair
    hair_tone = _median(hair, skin)
    grain = 0.0
    if len(hair) >= _ENOUGH and float((hair_tone - skin).abs().max()) > _UNLIKE_SKIN:
        grain = float((hair - hair_tone).mean(1).abs().median().clamp(max=0.06)) * 0.4
    return SkinColors(skin, hair_tone, grain)


def _vertices_of(assets: HeadAssets, part: str) -> np.ndarray:
    faces = assets.faces[assets.faces_of(part)] if part in assets.part_names else assets.faces
    return np.unique(faces[faces >= 0])


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


@dataclass(frozen=True)
class LowFrequencies:
    """The photo blurred within the skin; known: how much skin went into each pixel, 0..1."""

    colors: Float[Tensor, "h w 3"]
    known: Float[Tensor, "h w"]


def complete_vertices(
    assets: HeadAssets, low: LowFrequencies | None, sight: Sight | None, tones: SkinColors
) -> Float[Tensor, "V 3"]:
    """Smooth colour for every vertex: the photo's low frequencies where seen, else diffused; see `diffusion`."""
    scalp = torch.from_numpy(scalp_weight(assets)).float()[:, None]
    expected = tones.skin * (1 - scalp) + tones.hair * scalp
    if low is None or sight is None:
        return expected
    colors = sample(low.colors, sight.pixels)
    weight = sight.weight * (sample(low.known[..., None], sight.pixels)[:, 0] > 0.2)
    weight = weight * torch.maximum(skin_likeness(colors, tones), 1 - torch.from_numpy(_may_be_clothed(assets)))
    outer = torch.zeros(assets.num_vertices)
    outer[torch.from_numpy(_vertices_of(assets, "skin"))] = 1
    seen = SeenColors(colors.numpy().astype(np.float64), (weight * outer).numpy().astype(np.float64))
    mirror, symmetric = mirror_vertices(assets.v_template.astype(np.float64))
    guide = Guide(seen.colors[mirror], symmetric & (seen.weight[mirror] > 0.3))
    triangles = triangulate(assets.faces)[0]
    # Skin beside the hairline must not creep over the scalp once the colour of the hair is known.
    firm = _FIRM_HAIR if tones.hair_grain else 0.0
    strength = 1 + firm * scalp[:, 0].numpy().astype(np.float64)
    prior = Prior(expected.numpy().astype(np.float64), strength)
    done = diffuse_colors(assets.v_template.astype(np.float64), triangles, seen, guide, prior)
    return torch.from_numpy(done).float()


def skin_likeness(colors: Float[Tensor, "N 3"], tones: SkinColors) -> Float[Tensor, " N"]:
    """1 for colours that shaded skin of this person may have, 0 for collars, scarves and jackets."""
    brightness, typical = colors.mean(1).clamp(min=1e-3), tones.skin.mean()
    hue = (colors / brightness[:, None] - tones.skin / typical).abs().amax(1)
    ratio = brightness / typical
    light_enough = smoothstep(ratio, 0.38, 0.55)
    return light_enough * (1 - smoothstep(ratio, 1.15, 1.3)) * (1 - smoothstep(hue, 0.22, 0.38))


def _may_be_clothed(assets: HeadAssets) -> Float[np.ndarray, " V"]:
    """1 on the neck and below, 0 on the face: the model's own region, else what lies below the chin."""
    if "neck" in assets.regions:
        return np.clip(assets.regions["neck"] * 3, 0, 1).astype(np.float32)
    y = assets.v_template[:, 1].astype(np.float64)
    eyes = (assets.J_regressor[3:5].astype(np.float64) @ y).mean()
    return np.clip((eyes - _EYES_TO_CHIN_M - y) / 0.01, 0, 1).astype(np.float32)


def clothing_gate(
    assets: HeadAssets, texels: Texels, low: LowFrequencies, pixels: Float[Tensor, "N 2"], tones: SkinColors
) -> Float[Tensor, " N"]:
    """Trust in the photo at texels that it shows at `pixels`: below the chin only what looks like skin counts."""
    clothed = texels.interpolate(torch.from_numpy(_may_be_clothed(assets))[:, None])[:, 0]
    return torch.maximum(skin_likeness(sample(low.colors, pixels), tones), 1 - clothed)


def low_frequencies(assets: HeadAssets, view: View) -> LowFrequencies:
    """The photo blurred within the skin only, so that eyes and background do not bleed in."""
    from scipy.ndimage import gaussian_filter

    skin = assets.part_names.index("skin") if "skin" in assets.part_names else 0
    inside = ((view.part == skin) & (view.clear > 0)).float()
    sigma = max(0.5, _BLUR_M / view.metres_per_px)
    known = torch.from_numpy(gaussian_filter(inside.numpy(), sigma, truncate=2.5))
    blurred = gaussian_filter((view.image_srgb * inside[..., None]).numpy(), (sigma, sigma, 0), truncate=2.5)
    return LowFrequencies(torch.from_numpy(blurred) / known.clamp(min=1e-4)[..., None], known)


def mirrored_detail(
    assets: HeadAssets, texels: Texels, detail: Float[Tensor, "N 3"], weight: Float[Tensor, " N"]
) -> Float[Tensor, "N 3"]:
    """Detail (photo minus smooth colour) at the mirror image of each badly seen texel; zero where that is unseen."""
    from scipy.spatial import KDTree

    out = torch.zeros_like(detail)
    source = torch.nonzero(weight > _MIRROR_WEIGHT)[:, 0]
    if not len(source):
        return out
    template = torch.from_numpy(assets.v_template.astype(np.float32))
    points = texels.interpolate(template)
    wanted = torch.nonzero((weight < 1) & _mirror_may_be_seen(assets, texels, points, source))[:, 0]
    if not len(wanted):
        return out
    mirrored = points[wanted] * torch.tensor([-1.0, 1.0, 1.0])
    tree = KDTree(points[source].numpy(), balanced_tree=False, compact_nodes=False)
    distance, nearest = tree.query(mirrored.numpy(), distance_upper_bound=_MIRROR_REACH_M, workers=2)
    found = np.isfinite(distance)
    chosen = source[torch.from_numpy(np.asarray(nearest)[found])]
    fade = smoothstep(weight[chosen], _MIRROR_WEIGHT, 0.9)[:, None]
    out[wanted[torch.from_numpy(found)]] = detail[chosen] * fade
    return out


def _mirror_may_be_seen(assets: HeadAssets, texels: Texels, points: Tensor, source: Tensor) -> Tensor:
    """bool [N]: some vertex near the mirror image is near a seen texel. Spares the search for the back of the head."""
    vertex_seen = torch.zeros(assets.num_vertices)
    vertex_seen[texels.triangles[texels.face[source].long()].long().reshape(-1)] = 1
    mirror, symmetric = mirror_vertices(assets.v_template.astype(np.float64), _MIRROR_REACH_M * 2)
    hope = vertex_seen[torch.from_numpy(mirror)] * torch.from_numpy(symmetric).float()
    return texels.interpolate(hope[:, None])[:, 0] > 0
