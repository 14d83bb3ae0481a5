"""Takes the light out of a photo of a head: what is left is the colour of the skin itself (albedo).

Light is estimated from the skin (`rendering.light_estimation`) and divided out, with the head's own shade. What such
smooth light cannot explain is told from skin by its scale and colour: highlights are white, faces are symmetric, and
skin changes little over centimetres except where it is stubbled. All in linear light, on a picture of moderate size;
the factor that comes out is smooth, so it also serves a finer photo.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headrecon.appearance.diffusion import mirror_vertices
from headrecon.appearance.projection import Sight, View, sample, see, smoothstep
from headrecon.appearance.zones import Zones
from headrecon.geometry.mesh import vertex_areas
from headrecon.ops.interpolate import interpolate
from headrecon.rendering.colour import linear_to_srgb, srgb_to_linear
from headrecon.rendering.light_estimation import LightEstimate, SkinSamples, estimate_light, irradiance
from headrecon.rendering.self_shadowing import openness, transfer_vectors
from headrecon.rendering.skin_tones import LUMINANCE
from headrecon.structures import HeadAssets

#: Blurs over which colours are compared (metres on the head): pores and hairs vanish in the first, features of the
#: face in the second.
_FINE_M, _BROAD_M = 0.003, 0.012
#: Whether a colour may be skin is asked of this blur: streaks of light are thin.
_SHARP_M = 0.0012
#: Light is never taken to be weaker than this share of the face's mean: dividing by less would blow up noise.
_DARKEST, _DIMMEST_ON_HAIR = 0.12, 0.7
#: Of what differs from the person's skin over centimetres this share is kept: brighter, darker, of another colour.
_KEEP_BRIGHT, _KEEP_DARK, _KEEP_HUE = 0.35, 0.55, 0.75
#: The same over millimetres, for the brighter side: what highlights leave.
_KEEP_SHINE = 0.6
#: Of what differs from the middle of this person's hair this share goes: brighter, darker, of another colour.
_HAIR_LESS = (0.55, 0.30, 0.70)
#: Luminance of the whitest hair.
_WHITEST_HAIR = 0.5
#: Hair differs from skin by this logarithm of red over blue, or is darker by this one.
_HAIR_HUE, _HAIR_DARK = 0.33, 1.1
#: Logarithms of brightness against skin: above the first pair it is a lamp's reflection, below the second not skin.
_TOO_BRIGHT, _TOO_DARK = (0.50, 0.85), (-1.6, -1.0)
#: Logarithm of red over blue against skin: daylight at the rim and collars below, lips and sore noses above.
_TOO_BLUE, _TOO_RED = (-0.50, -0.25), (0.60, 1.00)
#: Around what is not believed, neighbours are not either (metres).
_DOUBT_M = 0.003
#: The white of an eye is 4 mm wide beside the iris: larger pixels (metres) do not show it apart from the lids.
_EYE_PIXEL_M = 0.9e-3
#: Powers of display values stand for powers of light: the sRGB curve is close to this exponent.
GAMMA = 2.2


@dataclass(frozen=True)
class Delit:
    """A view without its light. view: shows albedo. gain: albedo over photo, both sRGB. trust: 0 where not believed.

    light: in the axes of the camera (`space` "view"). openness: share of an even sky that each vertex sees.
    """

    view: View
    gain: Float[Tensor, "h w 3"]
    trust: Float[Tensor, "h w"]
    light: LightEstimate
    openness: Float[Tensor, " V"]


@dataclass(frozen=True)
class Surface:
    """The posed head: vertices in metres, unit normals, triangles."""

    points: Float[Tensor, "V 3"]
    normals: Float[Tensor, "V 3"]
    triangles: Tensor


@dataclass(frozen=True)
class _Layers:
    """Pixels of a view. fine, sharp: linear colour within the skin, blurred. lit: light there. Else zones, 0..1."""

    fine: Float[Tensor, "h w 3"]
    sharp: Float[Tensor, "h w 3"]
    lit: Float[Tensor, "h w 3"]
    plain: Float[Tensor, "h w"]
    skin: Float[Tensor, "h w"]
    guarded: Float[Tensor, "h w"]
    hair: Float[Tensor, "h w"]


def remove_light(assets: HeadAssets, surface: Surface, view: View, zones: Zones) -> Delit:
    """Estimate the light of the view and divide it out."""
    turn = view.cameras.viewmats[:3, :3] * torch.tensor([1.0, -1.0, -1.0])[:, None]
    transfer = transfer_vectors(surface.points @ turn.T, surface.triangles)
    sight = see(view, surface.points, surface.normals)
    skin = _on_skin(assets, view)
    linear = srgb_to_linear(view.image_srgb)
    fine, sharp = (_blurred(linear, skin, view, radius) for radius in (_FINE_M, _SHARP_M))
    area = vertex_areas(surface.points, surface.triangles.long())
    weight = sight.weight * zones.plain * (1 - zones.guarded) * (area / area.median().clamp(min=1e-12)).clamp(max=4)
    colors = sample(fine, sight.pixels)
    light = estimate_light(SkinSamples(colors, transfer, weight.clamp(max=1)), _eye_white(assets, view))
    shown = irradiance(transfer, light.lighting)
    mean = shown[weight > 0].mean(0) if bool((weight > 0).any()) else shown.mean(0)
    shown = _calm_on_hair(shown.clamp(min=_DARKEST * float(mean.mean())), mean.clamp(min=1e-3), zones)
    per_vertex = torch.cat([shown, torch.stack([zones.plain, zones.guarded, zones.hair], 1)], 1)
    pixels = interpolate(per_vertex, surface.triangles, view.raster.face_index[0], view.raster.barycentrics[0])
    covered = view.part >= 0
    lit = torch.where(covered[..., None], pixels[..., :3].clamp(min=1e-3), mean.clamp(min=1e-3))
    layers = _Layers(fine, sharp, lit, pixels[..., 3] * skin, skin, pixels[..., 4], pixels[..., 5] * skin)
    gain, trust = _believable(assets, surface, (view, sight), layers, (light, zones.hair_known))
    albedo = (view.image_srgb * gain).clamp(0, 1)
    return Delit(replace(view, image_srgb=albedo), gain, trust, light, openness(transfer))


def _believable(
    assets: HeadAssets, surface: Surface, seen: tuple[View, Sight], layers: _Layers, model: tuple[LightEstimate, bool]
) -> tuple[Float[Tensor, "h w 3"], Float[Tensor, "h w"]]:
    """The factor from photo to albedo (display values), and trust in it."""
    view, sight = seen
    light, hair_known = model
    luminance = torch.tensor(LUMINANCE)
    skin = light.albedo.clamp(min=1e-3).log()
    raw = layers.fine.clamp(min=1e-3) / layers.lit
    albedo = _without_shine(raw.clamp(min=1e-3), light.albedo.clamp(min=1e-3), layers.plain)
    sharp = (layers.sharp.clamp(min=1e-3) / layers.lit).log() - skin
    trusted = _trusted(sharp, layers)
    believed = layers.plain * trusted
    broad = _blurred(albedo, believed, view, _BROAD_M)
    near = smoothstep(_plain_blur(layers.plain, view, _BROAD_M), 0.05, 0.4)
    even = _even_out(assets, surface, (view, sight), (broad, believed), skin)
    middle = albedo - broad
    level = (middle @ luminance)[..., None]
    calmer = (1 - _KEEP_SHINE) * level.clamp(min=0) + (1 - _KEEP_HUE) * (middle - level)
    change = near[..., None] * (even - broad) - layers.plain[..., None] * calmer
    change = change + _calmer_hair(albedo, layers.hair, (skin, hair_known))
    gain = ((albedo + change - layers.fine.clamp(min=1e-3).log()) / GAMMA).exp()
    return gain.clamp(0.25, 3.5), doubt_around(1 - layers.plain * (1 - trusted), view)


def _calm_on_hair(shown: Float[Tensor, "V 3"], mean: Float[Tensor, "3"], zones: Zones) -> Float[Tensor, "V 3"]:
    """Light on hair: of the face's mean colour, no stronger and never much weaker than there.

    No skin has told of the light on the crown, and hair that is brightened by a guess looks worse than shaded hair.
    """
    luminance = torch.tensor(LUMINANCE)
    level = (shown @ luminance / (mean @ luminance)).clamp(_DIMMEST_ON_HAIR, 1.0)
    return torch.lerp(shown, level[:, None] * mean, torch.maximum(zones.hair, zones.scalp)[:, None])


def _without_shine(
    albedo: Float[Tensor, "h w 3"], skin: Float[Tensor, "3"], plain: Float[Tensor, "h w"]
) -> Float[Tensor, "h w 3"]:
    """Logarithm of the colours less what the surface reflects like varnish; never darker than the skin by it.

    Shafer's dichromatic model (Color Research & Application 1985): colour = shading x skin + white, by least squares.
    """
    luminance = torch.tensor(LUMINANCE)
    a, b, c = (skin * skin).sum(), skin.sum(), 3.0
    p, q = (albedo * skin).sum(-1), albedo.sum(-1)
    white = ((a * q - b * p) / (a * c - b * b).clamp(min=1e-6)).clamp(min=0)
    level, typical = albedo @ luminance, skin @ luminance
    white = plain * smoothstep(level / typical, 0.95, 1.3) * torch.minimum(white, (level - 0.95 * typical).clamp(min=0))
    matt = (albedo - white[..., None]).clamp(min=1e-3).log()
    # What shone takes over the skin's hue: a difference of two bright colours has hardly one of its own.
    share = (2.5 * white / level.clamp(min=1e-3)).clamp(max=1)[..., None]
    as_skin = skin.log() + ((matt - skin.log()) @ luminance)[..., None]
    return torch.lerp(matt, as_skin, share)


def _calmer_hair(
    albedo: Float[Tensor, "h w 3"], hair: Float[Tensor, "h w"], known: tuple[Float[Tensor, "3"], bool]
) -> Float[Tensor, "h w 3"]:
    """Change of logarithms that brings hair nearer to its median: less sheen, rim light and shade."""
    chosen = albedo[hair > 0.7]
    if len(chosen) < 100:
        return torch.zeros_like(albedo)
    luminance = torch.tensor(LUMINANCE)
    middle = unlike_skin(chosen, known[0], (_HAIR_HUE, _HAIR_DARK), known[1]).median(0).values
    off = albedo - middle
    level = (off @ luminance)[..., None]
    less = torch.where(level > 0, _HAIR_LESS[0] * level, _HAIR_LESS[1] * level)
    # White hair reflects about half; what is brighter is lit by a lamp that the skin knows nothing of.
    too_bright = (middle @ luminance + level - less - math.log(_WHITEST_HAIR)).clamp(min=0)
    return -hair[..., None] * (less + 0.9 * too_bright + _HAIR_LESS[2] * (off - level))


def unlike_skin(
    pixels: Float[Tensor, "N 3"], skin: Float[Tensor, "3"], least: tuple[float, float], sure: bool, thin: int = 4000
) -> Float[Tensor, "M 3"]:
    """Those of about `thin` pixels of the scalp (logarithms of colours) that are unlike skin.

    least: of another hue by so much, or darker by so much. Brightness a little below skin's is skin in the shade, which
    the scalp of white hair shows. Foreheads differ in height, so that a scalp may show much skin; what is unlike it is
    the hair, if it is a good part. Otherwise all count, or, where hair is there for sure, the less skin-like half.
    """
    pixels = pixels[:: max(1, len(pixels) // thin)]
    off = pixels - skin
    hue, dark = off[:, 0] - off[:, 2], off.mean(1) < -least[1]
    # Hair is greyer than skin or more golden, not both; what lies on the other side is background.
    way = hue if len(hue) and float(hue.median()) > 0 else -hue
    odd = way > least[0]
    if int((dark | odd).sum()) <= 0.25 * len(pixels):
        return pixels[hue.abs() >= hue.abs().median()] if sure and len(pixels) else pixels
    if int(dark.sum()) > 0.25 * len(pixels) or not bool(odd.any()):
        return pixels[dark | odd]
    # Skin shines through thin light hair: what is least like skin is the hair.
    return pixels[way >= way[odd].median()]


def _trusted(off: Float[Tensor, "h w 3"], layers: _Layers) -> Float[Tensor, "h w"]:
    """1 for colours that plain skin may have. off: their logarithms against the skin, before anything is reduced."""
    level = off @ torch.tensor(LUMINANCE)
    hue = off[..., 0] - off[..., 2]
    # Dark hairs are less red than skin and yet belong to the face.
    fits = torch.maximum(smoothstep(hue, *_TOO_BLUE), 1 - smoothstep(level, -0.5, -0.25))
    fits = fits * (1 - smoothstep(level, *_TOO_BRIGHT)) * (1 - smoothstep(hue, *_TOO_RED))
    # Faces have brows, lashes, stubble and nostrils; on the neck what is so dark is cloth, on an ear it is hair.
    return fits * torch.maximum(smoothstep(level, *_TOO_DARK), 1 - layers.guarded)


def _even_out(
    assets: HeadAssets,
    surface: Surface,
    seen: tuple[View, Sight],
    found: tuple[Float[Tensor, "h w 3"], Float[Tensor, "h w"]],
    skin: Float[Tensor, "3"],
) -> Float[Tensor, "h w 3"]:
    """The broad colours (logarithms) as they would be without light: both halves alike, and nearer to the skin."""
    view, sight = seen
    broad, believed = found
    values = sample(torch.cat([broad, believed[..., None]], -1), sight.pixels)
    mirror, symmetric = mirror_vertices(assets.v_template.astype(np.float64))
    other = torch.from_numpy(mirror)
    weight = (values[:, 3] * sight.weight)[other] * torch.from_numpy(symmetric)
    there = torch.cat([values[other, :3] * weight[:, None], weight[:, None]], 1)
    pixels = interpolate(there, surface.triangles, view.raster.face_index[0], view.raster.barycentrics[0])
    own = (view.clear * believed + 0.05)[..., None]
    both = (broad * own + pixels[..., :3]) / (own + pixels[..., 3:])
    off = both - skin
    level = (off @ torch.tensor(LUMINANCE))[..., None]
    kept = torch.where(level > 0, _KEEP_BRIGHT * level, _KEEP_DARK * level)
    return skin + kept + _KEEP_HUE * (off - level)


def _on_skin(assets: HeadAssets, view: View) -> Float[Tensor, "h w"]:
    skin = assets.part_names.index("skin") if "skin" in assets.part_names else 0
    return ((view.part == skin) & (view.clear > 0)).float()


def _blurred(
    values: Float[Tensor, "h w 3"], weight: Float[Tensor, "h w"], view: View, radius_m: float
) -> Float[Tensor, "h w 3"]:
    """Mean of the values around each pixel by weight; the plain mean of all where nothing is near."""
    total = weight.sum()
    mean = (values * weight[..., None]).sum((0, 1)) / total.clamp(min=1e-6) if float(total) > 0 else values.mean((0, 1))
    stacked = torch.cat([values * weight[..., None], weight[..., None]], -1)
    soft = blur(stacked, max(0.5, radius_m / view.metres_per_px))
    return (soft[..., :3] + 1e-4 * mean) / (soft[..., 3:] + 1e-4)


def _plain_blur(values: Float[Tensor, "h w"], view: View, radius_m: float) -> Float[Tensor, "h w"]:
    return blur(values[..., None], max(0.5, radius_m / view.metres_per_px))[..., 0]


def blur(image: Float[Tensor, "h w D"], sigma: float) -> Float[Tensor, "h w D"]:
    """Gaussian blur; wide ones on a smaller picture."""
    from scipy.ndimage import gaussian_filter

    step = max(1, int(sigma / 4))
    small = image.permute(2, 0, 1)[None]
    if step > 1:
        small = torch.nn.functional.avg_pool2d(small, step, ceil_mode=True, count_include_pad=False)
    soft = np.stack([gaussian_filter(c, sigma / step, truncate=2.5) for c in small[0].numpy()])
    out = torch.from_numpy(soft)[None]
    if step > 1:
        size = (image.shape[0], image.shape[1])
        grown = (small.shape[2] * step, small.shape[3] * step)
        out = torch.nn.functional.interpolate(out, size=grown, mode="bilinear", align_corners=False)
        out = out[..., : size[0], : size[1]]
    return out[0].permute(1, 2, 0)


def doubt_around(trust: Float[Tensor, "h w"], view: View) -> Float[Tensor, "h w"]:
    """Doubt spread by a few millimetres, then softened."""
    reach = max(1, round(_DOUBT_M / view.metres_per_px))
    low = -torch.nn.functional.max_pool2d(-trust[None, None], 2 * reach + 1, stride=1, padding=reach)[0, 0]
    return blur(low[..., None], 0.7 * reach)[..., 0].minimum(trust)


def _eye_white(assets: HeadAssets, view: View) -> Float[Tensor, "3"] | None:
    """Linear colour of the brighter part of the eyes where it is nearly grey; None where too little shows.

    None, too, where a pixel is so large that the white is mixed with lids: it would have the skin's colour, the light
    would be taken to be as warm as that, and the skin would come out green.
    """
    eyes = [assets.part_names.index(name) for name in ("leye", "reye") if name in assets.part_names]
    if not eyes or view.metres_per_px > _EYE_PIXEL_M:
        return None
    shown = torch.zeros_like(view.part, dtype=torch.bool)
    for eye in eyes:
        shown |= view.part == eye
    colors = view.image_srgb[shown]
    if len(colors) < 40:
        return None
    luma = colors @ torch.tensor(LUMINANCE)
    grey = (colors.amax(1) - colors.amin(1)) < 0.35 * colors.amax(1).clamp(min=1e-3)
    chosen = grey & (luma > luma.quantile(0.6)) & (luma < luma.quantile(0.95))
    return srgb_to_linear(colors[chosen]).mean(0) if int(chosen.sum()) >= 12 else None


def display(linear: Float[Tensor, "3"]) -> Float[Tensor, "3"]:
    """A linear colour as a display value in 0..1."""
    return linear_to_srgb(linear.clamp(0, 1))
