"""The fine part of a texture: what the photo shows at each texel, what the other half shows, and grain for the rest.

Everything smooth (colour, light, trust) comes from vertices and from a small picture; texels add the detail of the
photo to it. Texels are worked on in pieces (`chunks`): at 2048 x 2048 whole passes cost most.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headrecon.appearance.chunks import map_chunks
from headrecon.appearance.completion import LowFrequencies, SkinColors
from headrecon.appearance.delight import Delit, Surface
from headrecon.appearance.grain import Grain, noise_tile, strand_coordinates, strand_tile, strands_at
from headrecon.appearance.mirroring import mirror_map
from headrecon.appearance.projection import COSINES, Sight, sample, smoothstep
from headrecon.appearance.texels import Texels
from headrecon.appearance.zones import Zones
from headrecon.geometry.cameras import camera_centers
from headrecon.geometry.mesh import face_areas, vertex_areas
from headrecon.ops.interpolate import interpolate
from headrecon.ops.rasterize import to_homogeneous_image
from headrecon.structures import HeadAssets, triangulate

#: Mirrored detail is taken from texels seen at least this well, and counts fully from the second weight on.
_MIRROR_WEIGHTS = (0.5, 0.9)
#: Deviation of lightness (display values) of strands where no hair was seen.
_PLAIN_STRANDS = 0.018
#: Of the detail where the photo's expression folds the skin this share goes.
_FOLDED_LESS = 0.9
#: Hair whose streaks agree in direction more than this is drawn as strands.
_FLOWS = 0.25


@dataclass(frozen=True)
class Sources:
    """What texels are made from. photo: the fine crop; its small view lies in delit. base: smooth colour per vertex.

    own_base: the photo's own smooth colour, which its detail is taken against, where `base` is that of several photos.
    sight: how the photo sees the vertices.
    """

    photo: Float[Tensor, "H W 3"]
    delit: Delit
    low: LowFrequencies
    base: Float[Tensor, "V 3"]
    zones: Zones
    tones: SkinColors
    sight: Sight
    own_base: Float[Tensor, "V 3"] | None = None


@dataclass(frozen=True)
class SeenTexels:
    """Texels that the photo shows: their rows among all, detail (albedo less the smooth colour), trust 0..1."""

    rows: Int[Tensor, " M"]
    detail: Float[Tensor, "M 3"]
    weight: Float[Tensor, " M"]


def paint_seen(assets: HeadAssets, texels: Texels, surface: Surface, sources: Sources, threads: int = 1) -> SeenTexels:
    """Detail and trust of the skin texels that the photo shows."""
    view = sources.delit.view
    rows = _hopeful(assets, texels, sources)
    to_eye = torch.nn.functional.normalize(camera_centers(view.cameras) - surface.points, dim=1)
    cosine = (surface.normals * to_eye).sum(1, keepdim=True)
    flat = 1 - _FOLDED_LESS * sources.zones.folded[:, None]
    smooth = sources.base if sources.own_base is None else sources.own_base
    table = torch.cat([to_homogeneous_image(surface.points, view.cameras), cosine, flat, smooth], 1).contiguous()
    quality = view.clear * sources.delit.trust * sources.low.fits
    maps = torch.cat([quality[..., None], sources.delit.gain], -1)
    (height, width), small = sources.photo.shape[:2], view.depth_z.shape
    scale = torch.tensor([width / small[1], height / small[0]])
    found = map_chunks(lambda piece: _look_up(texels, piece, (table, maps, scale), sources), rows, threads)
    if not found:
        return SeenTexels(rows, torch.zeros(0, 3), torch.zeros(0))
    return SeenTexels(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def _look_up(
    texels: Texels, rows: Tensor, tables: tuple[Tensor, Tensor, Tensor], sources: Sources
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows that are seen, their detail and weight."""
    table, maps, scale = tables
    view = sources.delit.view
    got = interpolate(table, texels.triangles, texels.face[rows], texels.barycentrics[rows])
    depth, cosine = got[:, 2], got[:, 3]
    pixels = got[:, :2] / depth.clamp(min=1e-6)[:, None]
    height, width = view.depth_z.shape
    column, row = pixels[:, 0].floor().long(), pixels[:, 1].floor().long()
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height) & (depth > 0)
    front = view.depth_z[row.clamp(0, height - 1), column.clamp(0, width - 1)]
    # The buffer holds depth at pixel centres; a slanted surface may differ by its slope over a pixel.
    slope = ((1 - cosine.square()).clamp(min=0).sqrt() / cosine.clamp(min=0.05)).clamp(max=4)
    near = depth <= front + 1e-3 + 2 * view.metres_per_px * slope
    kept = torch.nonzero(inside & near & (cosine > COSINES[0]))[:, 0]
    pixels = pixels[kept]
    smooth = sample(maps, pixels)
    weight = smooth[:, 0] * smoothstep(cosine[kept], *COSINES) * got[kept, 4]
    color = sample(sources.photo, pixels * scale, "bicubic") * smooth[:, 1:]
    useful = weight > 0
    return rows[kept][useful], (color - got[kept, 5:])[useful], weight[useful]


def _hopeful(assets: HeadAssets, texels: Texels, sources: Sources) -> Int[Tensor, " M"]:
    """Rows of the skin texels on triangles that the view sees, or that touch one which it sees."""
    near = torch.zeros(assets.num_vertices, dtype=torch.bool)
    near[texels.triangles[sources.delit.view.seen_faces].long().reshape(-1)] = True
    # A triangle smaller than a pixel may be missed by all pixel centres: its neighbours decide.
    hope = near[texels.triangles.long()].any(1) & _skin_faces(assets, sources.zones, texels)
    return torch.nonzero(hope[texels.face])[:, 0]


def _skin_faces(assets: HeadAssets, zones: Zones, texels: Texels) -> Tensor:
    """bool [F]: triangles of the outer skin."""
    return (zones.skin[texels.triangles.long()] > 0).all(1)


def add_detail(
    assets: HeadAssets,
    texels: Texels,
    colors: Float[Tensor, "N 3"],
    seen: SeenTexels,
    sources: Sources,
    threads: int = 1,
) -> Float[Tensor, "N 3"]:
    """`colors` (changed in place, and returned) with the photo's detail where seen, made-up detail elsewhere."""
    known = torch.full((texels.size * texels.size,), -1, dtype=torch.int32)
    known[texels.index[seen.rows]] = torch.arange(len(seen.rows), dtype=torch.int32)
    fully = torch.zeros(len(texels), dtype=torch.bool)
    fully[seen.rows[seen.weight >= 1]] = True
    wanted = torch.nonzero(~fully & _skin_faces(assets, sources.zones, texels)[texels.face])[:, 0]
    weight = torch.zeros(len(texels))
    weight[seen.rows] = seen.weight
    colors[seen.rows] += seen.detail * seen.weight[:, None]
    made = _MadeUp(assets, texels, seen, sources, known)

    def fill(rows: Tensor) -> None:  # pieces share no texel
        colors[rows] += made.detail(rows) * (1 - weight[rows])[:, None]

    map_chunks(fill, wanted, threads)
    return colors


class _MadeUp:
    """Detail for texels that the photo does not show: the other half's where that is seen, else grain and strands."""

    def __init__(
        self, assets: HeadAssets, texels: Texels, seen: SeenTexels, sources: Sources, known: Int[Tensor, " P"]
    ) -> None:
        self.texels, self.seen, self.known = texels, seen, known
        self.mirror = mirror_map(assets)
        template = torch.from_numpy(assets.v_template.astype("float32"))
        eyes = torch.from_numpy((assets.J_regressor[3:5].astype("float64") @ assets.v_template).mean(0)).float()
        hair = sources.zones.scalp if sources.tones.hair_grain else torch.zeros_like(sources.zones.scalp)
        density = _density(assets, texels, sources.zones)
        columns = (self.mirror.uv, hair[:, None], strand_coordinates(template, eyes), density[:, None])
        self.table = torch.cat(columns, 1).contiguous()
        zones = sources.zones
        self.skin_tile = _grain_of(texels, seen, (zones.plain * (1 - zones.guarded), 0.9))
        self.hair_tile = _grain_of(texels, seen, (hair, 0.7))
        self.strands = strand_tile()
        self.contrast = max(_PLAIN_STRANDS, 1.2 * sources.tones.hair_grain)
        if self.hair_tile is not None:
            # Short curls have no direction and are repeated as they are; long hair flows, its tile would look woven.
            flows = self.hair_tile.direction > _FLOWS
            self.contrast = max(_PLAIN_STRANDS, 0.7 * self.hair_tile.contrast) if flows else 0.5 * _PLAIN_STRANDS
            self.hair_tile = None if flows else self.hair_tile

    def detail(self, rows: Int[Tensor, " M"]) -> Float[Tensor, "M 3"]:
        texels, size = self.texels, self.texels.size
        face = texels.face[rows]
        got = interpolate(self.table, texels.triangles, face, texels.barycentrics[rows])
        hair = got[:, 2:3]
        out = torch.zeros(len(rows), 3)
        index = texels.index[rows]
        for grain, share in ((self.skin_tile, (1 - hair) * got[:, 6:7]), (self.hair_tile, hair)):
            if grain is not None and bool((share > 0).any()):
                side = grain.tile.shape[0]
                place = torch.div(index, size, rounding_mode="floor").remainder(side) * side + index.remainder(side)
                out += grain.tile.reshape(-1, 3)[place] * share
        hairy = torch.nonzero(hair[:, 0] > 0.02)[:, 0]
        if len(hairy):
            streaks = strands_at(got[hairy, 3:6], self.strands)
            out[hairy] += (streaks * self.contrast * hair[hairy, 0])[:, None]
        column, row = (got[:, 0] * size).long(), ((1 - got[:, 1]) * size).long()
        other = self.known[row.clamp(0, size - 1) * size + column.clamp(0, size - 1)]
        there = torch.nonzero((other >= 0) & self.mirror.valid[face])[:, 0]
        source = other[there].long()
        share = smoothstep(self.seen.weight[source], *_MIRROR_WEIGHTS)[:, None]
        out[there] = torch.lerp(out[there], self.seen.detail[source], share)
        return out


def _density(assets: HeadAssets, texels: Texels, zones: Zones) -> Float[Tensor, " V"]:
    """Texels per metre against those of the face, at most 1: coarse texels average over grain and show less of it."""
    uv_triangles = triangulate(assets.uv_faces)[0].astype("int32")
    on_uvs = torch.nn.functional.pad(torch.from_numpy(assets.uvs.astype("float32")), (0, 1))
    template = torch.from_numpy(assets.v_template.astype("float32"))
    area, uv_area = vertex_areas(template, texels.triangles.long()), torch.zeros(len(template))
    share = face_areas(on_uvs, torch.from_numpy(uv_triangles).long()) / 3
    for corner in range(3):
        uv_area.index_add_(0, texels.triangles[:, corner].long(), share)
    density = (uv_area / area.clamp(min=1e-12)).sqrt()
    face = density[(zones.plain > 0.9) & (zones.guarded < 0.1)]
    return (density / face.median().clamp(min=1e-9)).clamp(max=1) if len(face) else torch.ones(len(template))


def _grain_of(texels: Texels, seen: SeenTexels, where: tuple[Float[Tensor, " V"], float]) -> Grain | None:
    """Grain of well seen texels where a weight of vertices exceeds a threshold; see `grain.noise_tile`."""
    size, (weight, least) = texels.size, where
    good = (weight[texels.triangles.long()].amin(1) > least)[texels.face[seen.rows]] & (seen.weight > 0.9)
    rows = torch.nonzero(good)[:, 0]
    if not len(rows):
        return None
    index = texels.index[seen.rows[rows]]
    mask = torch.zeros(size * size, dtype=torch.int32)
    mask[index] = rows.int() + 1
    return noise_tile(mask.reshape(size, size), seen.detail)
