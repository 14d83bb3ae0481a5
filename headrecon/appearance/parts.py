"""Colours of what is not skin: eyes whose iris and white are matched to the photo, inner mouth, teeth, gums, tongue.

They are painted, not projected: lids and lips hide most of them in a photo and would be baked into the eye otherwise.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from headrecon.appearance.completion import SkinColors
from headrecon.appearance.delight import Delit
from headrecon.appearance.openings import fill_polygons
from headrecon.appearance.projection import Photo, sample, see, smoothstep
from headrecon.appearance.texels import Texels
from headrecon.geometry.closest import SurfaceIndex
from headrecon.rendering.plain_head import IRIS_DIAMETER_M, PART_SRGB
from headrecon.structures import JOINT_NAMES, HeadAssets, triangulate

_IRIS_RADIUS_M = IRIS_DIAMETER_M / 2
#: sRGB tones in even light; A brown iris is the world's most common.
_IRIS = (0.30, 0.20, 0.13)
_SCLERA = (0.80, 0.77, 0.74)
#: The parts inside the mouth.
_INSIDE = {name: tone for name, tone in PART_SRGB.items() if name not in ("leye", "reye")}
#: Teeth that no photo shows: in the shade of lips, less bright than when they are shown.
_TEETH, _WHITEST_TEETH = (0.76, 0.71, 0.64), 0.82
#: Which of `Photo.openings_px` is the mouth, and from how many pixels a tone of teeth is taken.
_MOUTH_OPENING, _ENOUGH_TEETH = 2, 30
#: Lids shade the eye up to this distance (metres), by this much at their edge.
_LID_REACH_M = 0.0035
_LID_SHADE = 0.5
#: Light reaches this far into the mouth (metres); beyond, what is left of it.
_MOUTH_DEPTH_M = 0.03
_MOUTH_DARK = 0.3


def paint_parts(
    assets: HeadAssets,
    texels: Texels,
    colors: Float[Tensor, "N 3"],
    scene: tuple[Photo, Delit | None, Float[Tensor, "V 3"]],
    tones: SkinColors,
) -> Float[Tensor, "N 3"]:
    """A copy of `colors` with the parts painted. scene: photo, its view without light (or None), posed vertices."""
    out = colors.clone()
    template = torch.from_numpy(assets.v_template.astype(np.float32))
    eyes = {name: texels.of_part(assets, name) for name in ("leye", "reye")}
    polar = {n: _polar(assets, texels.take(own).interpolate(template), n) for n, own in eyes.items() if len(own)}
    if polar:
        iris, sclera = _eye_tones(texels, eyes, polar, scene)
        for name, (ratio, around, height) in polar.items():
            painted = _eye(ratio, around, height, iris, sclera)
            out[eyes[name]] = painted * _lid_shade(assets, texels, eyes[name])[:, None]
    teeth = _teeth_tone(scene[0], scene[1])
    for name, tone in _INSIDE.items():
        own = texels.of_part(assets, name)
        if len(own):
            points = texels.take(own).interpolate(template)
            out[own] = _inside(name, points, teeth if "teeth" in name else torch.tensor(tone), colors[own])
    return out


def _polar(assets: HeadAssets, points: Float[Tensor, "N 3"], eye: str) -> tuple[Tensor, Tensor, Tensor]:
    """Angle from the optical axis (at rest +z) in iris radii, angle around it, and height -1..1 on the ball."""
    joint = JOINT_NAMES.index(eye)
    centre = torch.from_numpy(assets.J_regressor[joint].astype(np.float64) @ assets.v_template.astype(np.float64))
    offset = points - centre.float()
    radius = offset.norm(dim=1)
    iris = float(torch.asin((_IRIS_RADIUS_M / radius.median()).clamp(max=0.9)))
    angle = torch.atan2(offset[:, :2].norm(dim=1), offset[:, 2])
    return angle / iris, torch.atan2(offset[:, 1], offset[:, 0]), offset[:, 1] / radius


def _eye(
    ratio: Tensor, around: Tensor, height: Tensor, iris: Float[Tensor, "3"], sclera: Float[Tensor, "3"]
) -> Float[Tensor, "N 3"]:
    """Pupil, iris with fibres and a dark rim, white that reddens and dims backwards, shade under the upper lid."""
    fibres = torch.zeros_like(around)
    for count, phase in ((23, 0.4), (37, 2.1), (61, 5.0)):
        fibres += torch.sin(count * around + phase + 2.0 * torch.sin(5 * ratio + phase))
    collarette = torch.exp(-(((ratio - 0.5) / 0.12) ** 2))
    rim = 1 - 0.6 * smoothstep(ratio, 0.78, 1.0)
    light = (1 + 0.07 * fibres + 0.18 * collarette) * rim
    iris_color = iris * light[:, None]
    back = smoothstep(ratio, 1.3, 3.2)[:, None]
    white = sclera * (1 - back * torch.tensor([0.18, 0.36, 0.36]))
    color = torch.lerp(iris_color, white, smoothstep(ratio, 0.94, 1.08)[:, None])
    color = color * (1 - smoothstep(-ratio, -0.38, -0.32)[:, None] * 0.93)
    return (color * (1 - 0.12 * smoothstep(height, 0.1, 0.6))[:, None]).clamp(0, 1)


def _lid_shade(assets: HeadAssets, texels: Texels, eye: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
    """Light that reaches each texel of an eye at rest, 0..1: less where the lids and their lashes are near."""
    template = assets.v_template.astype(np.float64)
    triangles, owner = triangulate(assets.faces)
    own = np.unique(texels.triangles[texels.face[eye].unique()].numpy())
    corners = template[triangles[np.isin(owner, assets.faces_of("skin"))]]
    low, high = template[own].min(0) - 2 * _LID_REACH_M, template[own].max(0) + 2 * _LID_REACH_M
    near = corners[((corners > low) & (corners < high)).all(2).any(1)]
    if not len(near):
        return torch.ones(len(eye))
    flat = near.reshape(-1, 3)
    distance = SurfaceIndex(flat, np.arange(len(flat)).reshape(-1, 3)).query(template[own]).distance
    shade = torch.ones(assets.num_vertices, 1)
    lit = smoothstep(torch.from_numpy(distance.astype(np.float32)), 0.0, _LID_REACH_M)
    shade[torch.from_numpy(own), 0] = 1 - _LID_SHADE * (1 - lit)
    return texels.take(eye).interpolate(shade)[:, 0]


def _inside(name: str, points: Tensor, tone: Tensor, around: Tensor) -> Float[Tensor, "N 3"]:
    """One flat tone that dims with depth. The cavity starts in the colour that the lips diffuse into it."""
    depth = points[:, 2].max() - points[:, 2]
    dim = 1 - (1 - _MOUTH_DARK) * smoothstep(depth, 0.002, _MOUTH_DEPTH_M)
    if name == "mouth":
        return torch.lerp(around, tone * dim[:, None], smoothstep(depth, 0.001, 0.012)[:, None])
    return tone * (dim if name in ("tongue", "gums") else 0.5 + 0.5 * dim)[:, None]


def _teeth_tone(photo: Photo, delit: Delit | None) -> Float[Tensor, "3"]:
    """Colour of the teeth where the photo shows them between open lips, in even light; else a plain tone.

    Lips shade teeth, and nothing of that is in the light that the photo was freed of: what is measured here is what
    has to be painted so that the same light shows the photo's teeth.
    """
    plain = torch.tensor(_TEETH)
    if delit is None or len(photo.openings_px) <= _MOUTH_OPENING:
        return plain
    outline = photo.openings_px[_MOUTH_OPENING]
    if not np.isfinite(outline).all():
        return plain
    (x0, y0), (x1, y1) = np.floor(outline.min(0)).astype(int).tolist(), np.ceil(outline.max(0)).astype(int).tolist()
    box = (max(0, x0), max(0, y0), min(photo.cameras.width, x1 + 1), min(photo.cameras.height, y1 + 1))
    if box[2] - box[0] < 4 or box[3] - box[1] < 2:
        return plain
    inside = fill_polygons((outline - np.array(box[:2]),), box[2] - box[0], box[3] - box[1]) > 0
    if int(inside.sum()) < _ENOUGH_TEETH:
        return plain
    row, column = torch.nonzero(inside).T
    pixels = torch.stack([column, row], 1).float() + 0.5
    k, view_k = photo.cameras.Ks.reshape(3, 3).float(), delit.view.cameras.Ks
    in_view = (pixels + torch.tensor(box[:2]) - k[:2, 2]) * (view_k[0, 0] / k[0, 0]) + view_k[:2, 2]
    shown = (sample(photo.patch(box), pixels) * sample(delit.gain, in_view)).clamp(0, 1)
    # Gums, tongue and lips are redder than teeth, the dark between them is darker.
    pale = shown[(shown[:, 2] > 0.7 * shown[:, 0]) & (shown.mean(1) > 0.45)]
    return pale.median(0).values.clamp(max=_WHITEST_TEETH) if len(pale) >= _ENOUGH_TEETH else plain


def _eye_tones(
    texels: Texels,
    eyes: dict[str, Tensor],
    polar: dict[str, tuple[Tensor, Tensor, Tensor]],
    scene: tuple[Photo, Delit | None, Tensor],
) -> tuple[Float[Tensor, "3"], Float[Tensor, "3"]]:
    """Colours of iris and white from the photo; the defaults where it shows too little of them."""
    photo, delit, posed = scene
    iris, sclera = torch.tensor(_IRIS), torch.tensor(_SCLERA)
    if delit is None:
        return iris, sclera
    view = delit.view
    seen_iris, seen_white = [_iris_pixels(photo, delit)], []
    for name, own in eyes.items():
        if name not in polar:
            continue
        points = texels.take(own).interpolate(posed)
        centre = points.mean(0)
        sight = see(view, points, torch.nn.functional.normalize(points - centre, dim=1))
        ratio = polar[name][0]
        colors, seen = sample(view.image_srgb, sight.pixels), sight.weight > 0.1
        seen_white.append(colors[seen & (ratio > 1.2) & (ratio < 2.0)])
        if not len(seen_iris[0]):
            seen_iris.append(colors[seen & (ratio > 0.5) & (ratio < 0.85)])
    irises, whites = torch.cat(seen_iris), torch.cat(seen_white)
    if len(irises) >= 12:
        iris = irises.median(0).values.clamp(0.03, 0.8)
    if len(whites) >= 12:
        # The brighter of what lies beside the iris is white; the rest is lid, lash and shade.
        bright = float(whites.mean(1).quantile(0.8).clamp(0.55, 0.86))
        sclera = sclera * (bright / float(sclera.mean()))
    return iris, sclera.clamp(0, 1)


def _iris_pixels(photo: Photo, delit: Delit) -> Float[Tensor, "N 3"]:
    """Colours without light between pupil and rim, in the lower two thirds where the lid throws no shade."""
    k, view_k = photo.cameras.Ks.reshape(3, 3).float(), delit.view.cameras.Ks
    scale = view_k[0, 0] / k[0, 0]
    found = [torch.zeros(0, 3)]
    for ring in photo.iris_px if photo.iris_px is not None else ():
        centre = ring[0]
        radius = float(np.linalg.norm(ring[1:] - centre, axis=1).mean())
        reach = int(radius + 3)
        x, y = (int(v) for v in centre)
        box = (
            max(0, x - reach),
            max(0, y - reach),
            min(photo.cameras.width, x + reach),
            min(photo.cameras.height, y + reach),
        )
        if radius < 2 or box[2] <= box[0] or box[3] <= box[1]:
            continue
        r = torch.linspace(0.5, 0.82, 8)[:, None] * radius
        # Image rows run down: angles from -20 to 200 degrees cover sides and bottom.
        a = torch.deg2rad(torch.linspace(-20, 200, 45))[None]
        pixels = torch.stack([centre[0] - box[0] + r * torch.cos(a), centre[1] - box[1] + r * torch.sin(a)], -1)
        pixels = pixels.reshape(-1, 2).float()
        in_view = (pixels + torch.tensor([box[0], box[1]]) - k[:2, 2]) * scale + view_k[:2, 2]
        found.append(sample(photo.patch(box), pixels) * sample(delit.gain, in_view))
    return torch.cat(found)
