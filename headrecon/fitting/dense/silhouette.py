"""The head's outline against the person mask: points where the skin turns away, pulled to the mask's edge across it.

The mask holds hair and clothes as well. Where skin itself borders on the background (a cheek seen from the side, an
ear, a bald head) the outline and the edge are the same line. Elsewhere one thing still holds: a head lies inside of its
person. So edges whose inner side looks like this face's skin pull both ways, all others push inwards only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.ndimage import gaussian_filter, map_coordinates

from headrecon.fitting import contour
from headrecon.fitting.dense.face_picture import DARKEST, FaceCrop
from headrecon.fitting.dense.light_model import shade
from headrecon.fitting.dense.skin_prior import OPPONENT
from headrecon.fitting.dense.visibility import Seen
from headrecon.fitting.landmarks import LandmarkResidual
from headrecon.fitting.least_squares import Values
from headrecon.fitting.parameters import HeadView
from headrecon.fitting.robust import GemanMcClure
from headrecon.geometry.mesh import unique_edges
from headrecon.models.point_model import PointModel
from headrecon.structures import HeadAssets, triangulate

#: How far inside of the edge the colour is read (metres): beyond the mask's soft rim.
INSIDE_M = 0.005


@dataclass(frozen=True)
class SilhouetteOptions:
    """sigma_m: deviation of the mask's edge on the face. reach_m: how far an edge is looked for. spacing_m: of the
    points that are kept (a mask's errors are the same for neighbours). outlier: Geman-McClure scale in deviations."""

    sigma_m: float = 0.0020
    reach_m: float = 0.010
    spacing_m: float = 0.008
    outlier: float = 3.0
    #: how far the colour inside the edge may be from the shaded skin (natural log): lightness, then the two opponents
    colour: tuple[float, float, float] = (0.8, 0.25, 0.2)


@dataclass(frozen=True)
class OutlinePoints:
    """Skin vertices that can make an outline, as a point model, with the edges among them."""

    vertex: Int[np.ndarray, " N"]
    model: PointModel
    edges: Int[np.ndarray, "E 2"]  # positions in `vertex`
    triangles: torch.Tensor

    @staticmethod
    def build(assets: HeadAssets) -> OutlinePoints:
        faces = assets.faces_of("skin") if "skin" in assets.part_names else np.arange(len(assets.faces))
        skin = triangulate(assets.faces[faces])[0]
        keep = np.zeros(assets.num_vertices, bool)
        keep[skin] = True
        for region in ("neck", "lips"):
            if region in assets.regions:
                keep &= assets.regions[region] < 0.3
        edges = unique_edges(skin)
        edges = edges[keep[edges].all(1)]
        vertex, flat = np.unique(edges, return_inverse=True)
        everything = torch.from_numpy(triangulate(assets.faces)[0].astype(np.int64))
        return OutlinePoints(vertex, PointModel(assets, vertex), flat.reshape(edges.shape), everything)


@dataclass(frozen=True)
class OutlineMatch:
    """Chosen outline points: index into `OutlinePoints.vertex`, outward image normal, edge in photo pixels, and
    whether skin borders on the background there."""

    index: Int[np.ndarray, " K"]
    outward: Float[np.ndarray, "K 2"]
    target: Float[np.ndarray, "K 2"]
    is_skin: Bool[np.ndarray, " K"]


def match_mask(
    outline: OutlinePoints,
    view: HeadView,
    values: Values,
    surface: tuple[Float[np.ndarray, "V 3"], Float[np.ndarray, "V 3"]],
    crop: FaceCrop,
    seen: Seen,
    light: Float[np.ndarray, "27"],
    options: SilhouetteOptions,
) -> OutlineMatch:
    """Find where the drawn head's rim meets an edge of the mask. Everything within the crop counts."""
    if crop.mask is None:
        return OutlineMatch(np.zeros(0, int), np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0, bool))
    vertices, normals = surface[0][outline.vertex], surface[1][outline.vertex]
    facing = -np.sum(vertices * normals, axis=1)
    across = (facing[outline.edges[:, 0]] > 0) != (facing[outline.edges[:, 1]] > 0)
    ends = outline.edges[across]
    grazing = np.abs(facing[ends] / np.linalg.norm(vertices[ends], axis=2))
    index = np.unique(ends[np.arange(len(ends)), np.argmin(grazing, axis=1)])
    outward = contour.image_normals(normals[index], vertices[index])
    pixels = view.project(values, vertices[index])
    metres = view.focal(values) / -vertices[index, 2]  # photo pixels per metre
    at = crop.to_crop(pixels)
    step = metres * crop.scale  # crop pixels per metre
    # Only the rim of the whole head: just outside of it nothing of the head is drawn, just inside something is.
    outside = at + 0.005 * step[:, None] * outward
    inside = at - 0.003 * step[:, None] * outward
    drawn = (seen.depth_m > 0).astype(np.float32)
    rim = (_look(drawn, outside) < 0.5) & (_look(drawn, inside) > 0.5)
    index, outward, at = index[rim], outward[rim], at[rim]
    step, pixels, metres = step[rim], pixels[rim], metres[rim]
    shift, found = _edge_along(crop.mask, at, outward, step, options.reach_m)
    kept = np.flatnonzero(found)
    kept = kept[_thinned(vertices[index[kept]], options.spacing_m)]
    index, outward, at, shift, step = index[kept], outward[kept], at[kept], shift[kept], step[kept]
    target = pixels[kept] + (shift * metres[kept])[:, None] * outward
    within = at + ((shift - INSIDE_M) * step)[:, None] * outward
    is_skin = _looks_like_skin(crop, within, light, normals[index], options)
    counts = is_skin | (shift < 0)
    return OutlineMatch(index[counts], outward[counts], target[counts], is_skin[counts])


def _looks_like_skin(
    crop: FaceCrop, at: np.ndarray, light: np.ndarray, normals: np.ndarray, options: SilhouetteOptions
) -> np.ndarray:
    """Whether the colour at crop positions is what this face's skin shows under this light."""
    smooth = gaussian_filter(crop.image_linear, (1.5, 1.5, 0.0))
    seen = np.stack([_look(smooth[..., c], at) for c in range(3)], axis=1)
    with np.errstate(invalid="ignore"):
        difference = (np.log(seen + DARKEST) - shade(light, normals).log) @ OPPONENT.T
        return (np.abs(difference) < np.array(options.colour)).all(1)  # False for NaN, outside of the crop


def _look(image: np.ndarray, points: np.ndarray) -> np.ndarray:
    return map_coordinates(image, (points - 0.5).T[::-1], order=1, mode="constant", cval=np.nan)


def _edge_along(
    mask: np.ndarray, at: np.ndarray, outward: np.ndarray, step: np.ndarray, reach_m: float
) -> tuple[np.ndarray, np.ndarray]:
    """Metres outwards to the nearest place where the mask falls through a half, and whether there is a clear one."""
    s = np.linspace(-1.6 * reach_m, 1.6 * reach_m, 65)
    points = at[:, None] + (s[None, :, None] * step[:, None, None]) * outward[:, None]
    profile = _look(mask, points.reshape(-1, 2)).reshape(len(at), len(s))
    a, b = profile[:, :-1], profile[:, 1:]
    falls = (a >= 0.5) & (b < 0.5)
    t = (a - 0.5) / np.where(falls, a - b, 1.0)
    place = s[:-1] + t * (s[1] - s[0])
    distance = np.where(falls, np.abs(place), np.inf)
    best = np.argmin(distance, axis=1) if len(at) else np.zeros(0, int)
    rows = np.arange(len(at))
    shift = place[rows, best]
    width = 0.004
    far = (s[None] > shift[:, None] + width) & (s[None] < shift[:, None] + 1.5 * width)
    deep = (s[None] < shift[:, None] - width) & (s[None] > shift[:, None] - 1.5 * width)
    clear = _mean(profile, far, 1.0) < 0.2
    clear &= _mean(profile, deep, 0.0) > 0.8
    return shift, (distance[rows, best] < reach_m) & clear


def _mean(profile: np.ndarray, where: np.ndarray, empty: float) -> np.ndarray:
    count = where.sum(1)
    total = np.where(where, np.nan_to_num(profile, nan=empty), 0.0).sum(1)
    return np.where(count > 0, total / np.maximum(count, 1), empty)


def _thinned(points: np.ndarray, spacing: float) -> np.ndarray:
    """A subset that keeps its distance, in order."""
    kept: list[int] = []
    for i in range(len(points)):
        if not kept or np.min(np.linalg.norm(points[kept] - points[i], axis=1)) > spacing:
            kept.append(i)
    return np.array(kept, int)


def silhouette_residual(
    outline: OutlinePoints, view: HeadView, match: OutlineMatch, pixels_per_m: float, options: SilhouetteOptions
) -> LandmarkResidual:
    """Distance across the outline of the matched points, in deviations."""
    weights = match.outward[:, None, :] / (options.sigma_m * pixels_per_m)
    return LandmarkResidual(
        f"silhouette {view.tag}",
        view,
        outline.model.subset(match.index),
        match.target,
        weights,
        np.zeros((0, len(match.index), 2)),
        kernel=GemanMcClure(options.outlier),
    )
