"""The texture of a head from one photo, or from several fused: without the photo's light, whole from every side.

What the photo shows is freed of its light (`delight`) and projected; the other half, then smooth colour with the same
grain (`completion`, `skin_texels`) stand for the rest. Eyes and mouth are painted (`parts`).
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from headrecon.appearance.chunks import one_torch_thread
from headrecon.appearance.completion import complete_vertices, low_frequencies, plain_tones, seen_colors, skin_and_hair
from headrecon.appearance.delight import Surface, remove_light
from headrecon.appearance.folds import fold_weight
from headrecon.appearance.fusion import Shot, fuse_base, fuse_detail, level
from headrecon.appearance.normal_map import normals_from_shading
from headrecon.appearance.parts import paint_parts
from headrecon.appearance.projection import Photo, cut_photo, look, see
from headrecon.appearance.pull_push import fill_gaps
from headrecon.appearance.skin_texels import Sources, add_detail, paint_seen
from headrecon.appearance.texels import Texels, bake_texels
from headrecon.appearance.zones import Zones, find_zones
from headrecon.errors import ShapeError
from headrecon.geometry.mesh import vertex_normals
from headrecon.rendering.lighting import Lighting
from headrecon.structures import HeadAssets, triangulate

#: Height in pixels of the picture that light is removed in; all that it decides is smooth.
_SMALL_VIEW = 560


@dataclass(frozen=True)
class HeadTexture:
    """Textures in the model's UVs (row 0 is v = 1).

    image: albedo, sRGB: the colour in even white light. observed: how far each texel was seen in the photo, 0..1.
    lights: of each photo, in the axes of its camera (`space` "view"), such that albedo times light gives the photo;
    None when the head lies outside the picture. normal_map: tangent-space normals as glTF has them, or None.
    """

    image: UInt8[np.ndarray, "S S 3"]
    observed: Float[np.ndarray, "S S"]
    lights: tuple[Lighting | None, ...] = ()
    normal_map: UInt8[np.ndarray, "n n 3"] | None = None

    @property
    def light(self) -> Lighting | None:
        """The (first) photo's light."""
        return self.lights[0] if self.lights else None


@dataclass(frozen=True)
class _Head:
    """What all photos share. hair: how likely it covers each vertex; rest: vertices at rest; part: of each triangle."""

    assets: HeadAssets
    triangles: Tensor
    part: Tensor
    size: int
    hair: Float[np.ndarray, " V"] | None
    rest: Float[np.ndarray, "R 3"] | None


@torch.no_grad()
def make_texture(
    assets: HeadAssets,
    vertices: Float[np.ndarray, "V 3"],
    photo: Photo,
    size: int = 1024,
    hair: Float[np.ndarray, " V"] | None = None,
    rest: Float[np.ndarray, "R 3"] | None = None,
    further: Sequence[tuple[Float[np.ndarray, "V 3"], Photo]] = (),
) -> HeadTexture:
    """Texture of the head that `photo` shows. vertices: posed as in the photo, metres, in the world of its camera.

    hair: how likely hair covers each vertex, 0..1 (`hair.HairLift.hair_vertices`); else guessed from the model.
    rest: the same head at rest, which tells where the photo's expression folds the skin; else nowhere.
    further: more photos of the head, each with the vertices as posed there; all are fused (`fusion`), while eyes, and
    relief, are the first one's. A head that lies outside the picture gets a neutral skin all over.
    Raises ShapeError when sizes do not agree.
    """
    for posed in (vertices, *(v for v, _ in further)):
        if posed.shape != assets.v_template.shape:
            raise ShapeError(f"texture: vertices must have shape {assets.v_template.shape}, found {posed.shape}")
    if hair is not None and hair.shape != (assets.num_vertices,):
        raise ShapeError(f"texture: hair must have one value for each of {assets.num_vertices} vertices")
    if rest is not None and rest.shape != vertices.shape:
        raise ShapeError(f"texture: rest must have shape {vertices.shape}, found {rest.shape}")
    if not 16 <= size <= 8192:
        raise ShapeError(f"texture: size must lie in 16..8192, found {size}")
    # Two things at a time, each on one thread, get done sooner than one after the other on all threads of torch.
    with one_torch_thread() as threads, ThreadPoolExecutor(1, "texture") as beside:
        texels = beside.submit(torch.no_grad()(bake_texels), assets, size)
        triangles = torch.from_numpy(triangulate(assets.faces)[0].astype(np.int32))
        head = _Head(assets, triangles, _triangle_parts(assets), size, hair, rest)
        shots = [_shot(head, v, p) for v, p in ((vertices, photo), *further)]
        seen = [(p, shot) for (_, p), shot in zip(((vertices, photo), *further), shots, strict=True) if shot]
        if not seen:
            points = torch.from_numpy(np.ascontiguousarray(vertices, dtype=np.float32))
            return _unseen(assets, texels.result(), (photo, points), find_zones(assets, hair))
        made = _painted(assets, texels.result(), seen, threads, beside)
        lights = iter(made.lights)
        return replace(made, lights=tuple(next(lights) if shot else None for shot in shots))


def _shot(head: _Head, vertices: Float[np.ndarray, "V 3"], photo: Photo) -> Shot | None:
    """The head as posed in a photo, and everything smooth that the photo says; None where it does not show it."""
    assets = head.assets
    points = torch.from_numpy(np.ascontiguousarray(vertices, dtype=np.float32))
    surface = Surface(points, vertex_normals(points, head.triangles.long()), head.triangles)
    folded = None if head.rest is None else fold_weight(head.rest, vertices, head.triangles.numpy())
    zones = find_zones(assets, head.hair, folded)
    outer = assets.part_names.index("skin") if "skin" in assets.part_names else 0
    view = look(photo, points, head.triangles, head.part, _SMALL_VIEW, outer)
    if view is None:
        return None
    delit = remove_light(assets, surface, view, zones)
    tones = skin_and_hair(assets, surface, delit, zones)
    low = low_frequencies(assets, surface, delit, tones, zones)
    sight = see(delit.view, surface.points, surface.normals, delit.trust)
    crop = cut_photo(photo, surface.points, round(1.2 * head.size))
    return surface, Sources(crop, delit, low, torch.zeros(0, 3), zones, tones, sight)


def _unseen(assets: HeadAssets, texels: Texels, shown: tuple[Photo, Tensor], zones: Zones) -> HeadTexture:
    """A neutral skin all over, for a head that the photo does not show."""
    tones, (photo, points) = plain_tones(), shown
    colors = texels.interpolate(complete_vertices(assets, None, tones, zones))
    colors = paint_parts(assets, texels, colors, (photo, None, points), tones)
    return HeadTexture(_picture(texels, colors), np.zeros((texels.size, texels.size), dtype=np.float32))


def _painted(
    assets: HeadAssets,
    texels: Texels,
    shown: Sequence[tuple[Photo, Shot]],
    threads: int,
    beside: ThreadPoolExecutor,
) -> HeadTexture:
    """Texels from what the photos show and their sources."""
    size = texels.size
    shots = [shot for _, shot in shown]
    if len(shots) > 1:
        shots = fuse_base(assets, level(assets, shots))
        seen, own = fuse_detail(assets, texels, shots, threads)
        (surface, sources), photo = shots[0], shown[0][0]
    else:
        (photo, (surface, sources)) = shown[0]
        base = complete_vertices(
            assets, seen_colors(sources.low, sources.sight, sources.zones), sources.tones, sources.zones
        )
        sources = replace(sources, base=base)
        seen = own = paint_seen(assets, texels, surface, sources, threads)
    normals = beside.submit(torch.no_grad()(normals_from_shading), assets, texels, surface, own, sources)
    colors = add_detail(assets, texels, texels.interpolate(sources.base), seen, sources, threads)
    colors = paint_parts(assets, texels, colors, (photo, sources.delit, surface.points), sources.tones)
    observed = torch.zeros(size * size)
    observed[texels.index[seen.rows]] = seen.weight
    return HeadTexture(
        image=_picture(texels, colors),
        observed=observed.reshape(size, size).numpy(),
        lights=tuple(s.delit.light.lighting for _, s in shots),
        normal_map=normals.result(),
    )


def _triangle_parts(assets: HeadAssets) -> Tensor:
    return torch.from_numpy(assets.face_part[triangulate(assets.faces)[1]].astype(np.int64))


def _picture(texels: Texels, colors: Float[Tensor, "N 3"]) -> UInt8[np.ndarray, "S S 3"]:
    return fill_gaps(texels, (colors.clamp_(0, 1) * 255 + 0.5).to(torch.uint8)).numpy()
