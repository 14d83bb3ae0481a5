"""The first texture of a head from one photo: what the photo shows is projected, the rest is completed.

Nothing here removes the light of the photo; the colours are as seen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from headrecon.appearance.completion import (
    LowFrequencies,
    SkinColors,
    add_strands,
    clothing_gate,
    complete_vertices,
    low_frequencies,
    mirrored_detail,
    skin_and_hair,
)
from headrecon.appearance.parts import paint_parts
from headrecon.appearance.projection import Photo, View, look, sample, see
from headrecon.appearance.pull_push import pull_push
from headrecon.appearance.texels import Texels, bake_texels
from headrecon.errors import ShapeError
from headrecon.geometry.mesh import vertex_normals
from headrecon.structures import HeadAssets, triangulate


@dataclass(frozen=True)
class HeadTexture:
    """A texture in the model's UVs (row 0 is v = 1, sRGB) and how far each texel was seen in the photo, 0..1."""

    image: UInt8[np.ndarray, "S S 3"]
    observed: Float[np.ndarray, "S S"]


@torch.no_grad()
def make_texture(assets: HeadAssets, vertices: Float[np.ndarray, "V 3"], photo: Photo, size: int = 1024) -> HeadTexture:
    """Texture of the head that `photo` shows. vertices: posed as in the photo, metres, in the world of its camera.

    A head that lies outside the picture gets a neutral skin all over. Raises ShapeError when sizes do not agree.
    """
    if vertices.shape != assets.v_template.shape:
        raise ShapeError(f"texture: vertices must have shape {assets.v_template.shape}, found {vertices.shape}")
    if not 16 <= size <= 8192:
        raise ShapeError(f"texture: size must lie in 16..8192, found {size}")
    texels = bake_texels(assets, size)
    points = torch.from_numpy(np.ascontiguousarray(vertices, dtype=np.float32))
    normals = vertex_normals(points, texels.triangles.long())
    view = look(photo, points, texels.triangles, _triangle_parts(assets), target_px=round(1.2 * size))
    sight = None if view is None else see(view, points, normals)
    tones = skin_and_hair(assets, view)
    low = None if view is None else low_frequencies(assets, view)
    base = complete_vertices(assets, low, sight, tones)
    colors, observed = _paint_skin(assets, texels, (points, normals), (view, low), (base, tones))
    colors = paint_parts(assets, texels, colors, (photo, view, points), tones)
    image = pull_push(texels.picture(colors), texels.picture(torch.ones(len(texels), 1))[..., 0])
    return HeadTexture(
        image=(image.clamp(0, 1) * 255 + 0.5).to(torch.uint8).numpy(),
        observed=texels.picture(observed[:, None])[..., 0].numpy(),
    )


def _triangle_parts(assets: HeadAssets) -> Tensor:
    return torch.from_numpy(assets.face_part[triangulate(assets.faces)[1]].astype(np.int64))


def _paint_skin(
    assets: HeadAssets,
    texels: Texels,
    surface: tuple[Tensor, Tensor],
    picture: tuple[View | None, LowFrequencies | None],
    fill: tuple[Float[Tensor, "V 3"], SkinColors],
) -> tuple[Float[Tensor, "N 3"], Float[Tensor, " N"]]:
    """Colours of all texels as if all were skin, and how well each was seen."""
    base, tones = fill
    view, low = picture
    smooth = texels.interpolate(base)
    if view is None or low is None:
        return smooth, torch.zeros(len(texels))
    own, pixels, weight = _seen_skin(assets, texels, surface, view)
    weight = weight * clothing_gate(assets, texels.take(own), low, pixels, tones)
    detail = torch.zeros_like(smooth)
    detail[own] = sample(view.image_srgb, pixels, "bicubic") - smooth[own]
    seen = torch.zeros(len(texels))
    seen[own] = weight
    unseen = mirrored_detail(assets, texels, detail, seen)
    add_strands(assets, texels, unseen, tones)
    return smooth + torch.lerp(unseen, detail, seen[:, None]), seen


def _seen_skin(
    assets: HeadAssets, texels: Texels, surface: tuple[Tensor, Tensor], view: View
) -> tuple[Int[Tensor, " M"], Float[Tensor, "M 2"], Float[Tensor, " M"]]:
    """Rows of the skin texels that the photo shows, their pixels, and weights > 0."""
    near = torch.zeros(assets.num_vertices, dtype=torch.bool)
    near[texels.triangles[view.seen_faces].long().reshape(-1)] = True
    # A triangle smaller than a pixel may be missed by all pixel centres: its neighbours decide.
    face_near = near[texels.triangles.long()].any(1)
    skin = assets.part_names.index("skin") if "skin" in assets.part_names else None
    hope = face_near[texels.face.long()]
    rows = torch.nonzero(hope if skin is None else hope & (texels.part == skin))[:, 0]
    chosen = texels.take(rows)
    points, normals = (chosen.interpolate(x) for x in surface)
    sight = see(view, points, torch.nn.functional.normalize(normals, dim=1))
    kept = torch.nonzero(sight.weight > 0)[:, 0]
    return rows[kept], sight.pixels[kept], sight.weight[kept]
