"""One texture from several photos: their colours brought to one level, then blended in two bands.

Photos differ in exposure and white balance, and light is never taken out to the last per cent. First one gain per photo
and channel is found from where photos see the same skin (medians of differences between each two, reconciled by least
squares). Then smooth colour is averaged over wide, soft weights, so that no border shows, while detail, which has no
smooth part to show a border with, is taken from the photos that see a place best, so that it stays sharp (Burt and
Adelson, "A multiresolution spline", 1983; for textures Baumberg, "Blending images for texturing 3D models", BMVC 2002).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from headrecon.appearance.completion import complete_vertices, seen_colors
from headrecon.appearance.delight import GAMMA, Surface
from headrecon.appearance.diffusion import SeenColors
from headrecon.appearance.projection import smoothstep
from headrecon.appearance.skin_texels import SeenTexels, Sources, paint_seen
from headrecon.appearance.texels import Texels
from headrecon.structures import HeadAssets

#: Of a photo's weight: for smooth colour little more than the weight itself, for detail nearly the best alone.
_SOFT, _SHARP = 2.0, 8.0
#: Two photos are compared where both see skin at least this well, and at no fewer vertices.
_OVERLAP, _ENOUGH = 0.25, 60
#: Gains beyond this (log of display values) are a mistake; a gain without evidence is nought, with this weight.
_MOST_GAIN, _NO_GAIN = 0.35, 0.02
#: Where a photo's own smooth colour stands for the fused one, by its weight: its detail is what differs from its own.
_OWN = (0.0, 0.25)
#: Detail of a blurred or small photo counts less, down to this share.
_LEAST_SHARP = 0.2

Shot = tuple[Surface, Sources]


def level(assets: HeadAssets, shots: Sequence[Shot]) -> list[Shot]:
    """The shots with their colours at one level: albedo, gain and light of each multiplied by one factor a channel."""
    seen = [seen_colors(s.low, s.sight, s.zones) for _, s in shots]
    plain = shots[0][1].zones.plain * (1 - shots[0][1].zones.guarded)
    gains = _gains(seen, plain)
    return [(surface, _brightened(sources, gain)) for (surface, sources), gain in zip(shots, gains, strict=True)]


def _gains(seen: Sequence[SeenColors], plain: Float[Tensor, " V"]) -> Float[Tensor, "C 3"]:
    """Log gain of each photo: differences between photos vanish in the weighted least squares of their medians."""
    count = len(seen)
    logs = [torch.from_numpy(s.colors).clamp(min=0.02).log() for s in seen]
    weights = [torch.from_numpy(s.weight) * (plain > 0.8) for s in seen]
    matrix, right = torch.zeros(count, count, dtype=torch.float64), torch.zeros(count, 3, dtype=torch.float64)
    for i in range(count):
        for j in range(i):
            both = torch.minimum(weights[i], weights[j])
            shared = both > _OVERLAP
            if int(shared.sum()) < _ENOUGH:
                continue
            off = (logs[j] - logs[i])[shared].median(0).values
            trust = float(both[shared].sum())
            matrix[i, i] += trust
            matrix[j, j] += trust
            matrix[i, j] -= trust
            matrix[j, i] -= trust
            right[i] += trust * off
            right[j] -= trust * off
    # Only differences are known: all together keep their mean, and a photo that overlaps none keeps its own.
    anchor = _NO_GAIN * matrix.diagonal().mean().clamp(min=1.0)
    gains = torch.linalg.solve(matrix + anchor * torch.eye(count, dtype=torch.float64), right)
    return (gains - gains.mean(0)).clamp(-_MOST_GAIN, _MOST_GAIN).float()


def _brightened(sources: Sources, log_gain: Float[Tensor, "3"]) -> Sources:
    """The same shot as if it had been exposed otherwise; what is bright beyond white stays so until it is blended."""
    factor = log_gain.exp()
    delit, light = sources.delit, sources.delit.light
    lighting = replace(
        light.lighting,
        ambient_sh=torch.as_tensor(light.lighting.ambient_sh) / factor**GAMMA,
        intensities=torch.as_tensor(light.lighting.intensities) / factor**GAMMA,
    )
    return replace(
        sources,
        delit=replace(
            delit,
            view=replace(delit.view, image_srgb=delit.view.image_srgb * factor),
            gain=delit.gain * factor,
            light=replace(light, lighting=lighting, albedo=light.albedo * factor**GAMMA),
        ),
        low=replace(sources.low, colors=sources.low.colors * factor),
        tones=replace(sources.tones, skin=sources.tones.skin * factor, hair=sources.tones.hair * factor),
    )


def fuse_base(assets: HeadAssets, shots: Sequence[Shot]) -> list[Shot]:
    """The shots with one smooth colour per vertex: that of all photos together.

    The base of each is its own where it sees the skin well, so that its detail has no smooth part, and the common one
    elsewhere; the first shot's zones and tones say what is expected where no photo sees anything.
    """
    main = shots[0][1]
    seen = [seen_colors(s.low, s.sight, s.zones) for _, s in shots]
    colors = torch.stack([torch.from_numpy(s.colors) for s in seen])
    weight = torch.stack([torch.from_numpy(s.weight) for s in seen])
    soft = weight**_SOFT
    mean = (colors * soft[..., None]).sum(0) / soft.sum(0).clamp(min=1e-9)[:, None]
    together = SeenColors(mean.numpy(), weight.amax(0).numpy())
    base = complete_vertices(assets, together, main.tones, main.zones)
    out = []
    for (surface, sources), own, own_weight in zip(shots, colors, weight, strict=True):
        share = smoothstep(own_weight.float(), *_OWN)[:, None]
        out.append((surface, replace(sources, own_base=torch.lerp(base, own.float(), share), base=base)))
    return out


def fuse_detail(assets: HeadAssets, texels: Texels, shots: Sequence[Shot], threads: int) -> list[SeenTexels]:
    """Detail of all photos together, then that of the first alone (whose light explains its relief)."""
    each = [paint_seen(assets, texels, surface, sources, threads) for surface, sources in shots]
    sharp = _sharpness(each)
    total = torch.zeros(len(texels))
    best = torch.zeros(len(texels))
    detail = torch.zeros(len(texels), 3)
    for seen, share in zip(each, sharp, strict=True):
        weight = (seen.weight * share) ** _SHARP
        detail.index_add_(0, seen.rows, seen.detail * weight[:, None])
        total.index_add_(0, seen.rows, weight)
        best[seen.rows] = torch.maximum(best[seen.rows], seen.weight)
    rows = torch.nonzero(total > 0)[:, 0]
    fused = SeenTexels(rows, detail[rows] / total[rows, None].clamp(min=1e-30), best[rows])
    return [fused, each[0]]


def _sharpness(each: Sequence[SeenTexels]) -> list[float]:
    """How much detail each photo holds against the sharpest, at most 1: small and blurred photos hold little."""
    energy = []
    for seen in each:
        good = seen.detail[seen.weight > 0.6]
        energy.append(float(good.mean(1).abs().median()) if len(good) > 100 else 0.0)
    most = max(*energy, 1e-6)
    return [min(1.0, max(_LEAST_SHARP, e / most)) for e in energy]
