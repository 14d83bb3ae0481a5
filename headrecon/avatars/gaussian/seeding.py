"""Where Gaussians begin: spread over the head by area and by how much is to be seen there, over hair and shoulders."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from scipy.spatial import KDTree

from headrecon.avatars.footage import Footage
from headrecon.avatars.gaussian.carrier import Carrier, Places
from headrecon.avatars.gaussian.splat_rig import CHANNELS, SplatRig, facing
from headrecon.geometry.cameras import camera_centers, project_points, to_homogeneous_image
from headrecon.geometry.mesh import face_areas, face_normals, vertex_normals
from headrecon.io.meshes.ply import sample_texture
from headrecon.ops.rasterize import rasterize
from headrecon.structures import Cameras, HeadAssets, HeadParams, triangulate

#: Gaussians per area relative to plain skin, by part and by region of the head.
_PART_DENSITY = {
    "leye": 2.0,
    "reye": 2.0,
    "upper_teeth": 1.6,
    "lower_teeth": 1.4,
    "mouth": 0.6,
    "gums": 0.4,
    "tongue": 0.4,
}
_REGION_DENSITY = {"face": 1.6, "lips": 2.5, "nose": 1.3, "brows": 1.8, "neck": 0.8, "ears": 0.7}
#: What the footage never shows needs less; it is there so that the head has a back.
_UNSEEN_DENSITY = 0.6
#: Share of the Gaussians of the scalp that begin up to so far above it (metres): hair that stands off.
_LOOSE_SHARE, _LOOSE_M = 0.3, 0.015
#: Standard deviations: over the surface in shares of the mean distance between neighbours, and across it.
_SPREAD, _UNSEEN_SPREAD, _FLATNESS = 0.55, 0.65, 0.25
#: Opacity to begin with, before the sigmoid: where something is seen, and where nothing is.
_SEEN_LOGIT, _UNSEEN_LOGIT = 0.5, 5.0
#: Limits of the distance between neighbours, metres.
_SPACING_M = (3e-4, 0.02)
#: How far below the picture the sheet goes on, in shares of its height.
_BELOW = 0.06
#: How much light does not get into the mouth, by part.
_SHADE = {"mouth": 0.75, "gums": 0.5, "tongue": 0.5, "upper_teeth": 0.25, "lower_teeth": 0.4}
_LOOKS, _GREY = 10, 0.5


@dataclass(frozen=True)
class Seen:
    """What pictures show at points: mean colour, and the share of the pictures in which each is seen on the person."""

    colours_srgb: Float[np.ndarray, "N 3"]
    share: Float[np.ndarray, " N"]


@dataclass(frozen=True)
class Looks:
    """Frames to look at, with the carrier's vertices in each (world, metres)."""

    footage: Footage
    posed: list[tuple[int, Float[np.ndarray, "V 3"]]]

    def view(self, index: int) -> Cameras:
        """The camera of a frame, numpy."""
        cameras = self.footage.track.cameras.numpy()
        return replace(cameras, viewmats=cameras.viewmats[index], Ks=cameras.Ks[index])

    def pixels(self, points: Float[np.ndarray, "N 3"], view: Cameras) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Column and row of the pixel that each point falls on, held within the picture; and whether it does."""
        found, depth = project_points(points, view)
        columns, rows = (
            np.clip(np.floor(found[:, i]).astype(int), 0, n - 1) for i, n in ((0, view.width), (1, view.height))
        )
        inside = (found >= 0).all(1) & (found[:, 0] < view.width) & (found[:, 1] < view.height) & (depth > 0)
        return columns, rows, inside


def seed_rig(
    carrier: Carrier,
    looks: Looks,
    counts: tuple[int, int],
    num_features: int,
    texture_srgb: UInt8[np.ndarray, "S S 3"] | None,
    rng: np.random.Generator,
) -> SplatRig:
    """Gaussians to begin with. counts: on the head, on the sheet. texture_srgb: what looks do not show."""
    split = carrier.head_triangles
    head = _sampled(carrier, np.arange(split), _head_density(carrier, looks), counts[0], rng)
    sheet_ids = np.arange(split, len(carrier.triangles))
    sheet = _sampled(carrier, sheet_ids, np.ones(len(sheet_ids)), counts[1] if len(sheet_ids) else 0, rng)
    sheet = sheet.take(np.flatnonzero(_wanted(carrier, looks, sheet)))
    places = Places(
        np.concatenate([head.triangles, sheet.triangles]), np.concatenate([head.barycentrics, sheet.barycentrics])
    )
    colours, seen = _colours(carrier, looks, places, texture_srgb)
    return _rig(carrier, places, colours, seen, _loose(carrier, places, rng), num_features)


def look_frames(usable: Bool[np.ndarray, " T"], params: HeadParams, count: int = _LOOKS) -> Int[np.ndarray, " L"]:
    """Frames that differ most in how the head is turned and what the mouth does (farthest points first)."""
    ids = np.flatnonzero(usable)
    p = params.numpy()
    rows = np.concatenate([p.global_orient, p.transl * 5, p.expression * 0.3], 1)[ids]
    chosen = [int(np.argmin(np.linalg.norm(rows - rows.mean(0), axis=1)))]
    distance = np.linalg.norm(rows - rows[chosen[0]], axis=1)
    while len(chosen) < min(count, len(ids)):
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(rows - rows[chosen[-1]], axis=1))
    return ids[np.sort(np.array(chosen))]


def _head_density(carrier: Carrier, looks: Looks) -> Float[np.ndarray, " T"]:
    """Gaussians per area for each triangle of the head, relative to plain skin."""
    assets = carrier.model.assets
    triangles, source = triangulate(assets.faces)
    density = np.ones(len(triangles))
    for part, name in enumerate(assets.part_names):
        density[assets.face_part[source] == part] = _PART_DENSITY.get(name, 0.0 if name == "lashes" else 1.0)
    for name, factor in _REGION_DENSITY.items():
        if name in assets.regions:
            weight = assets.regions[name][triangles].mean(1)
            density *= 1 + (factor - 1) * np.clip(weight, 0, 1)
    faces_us = np.zeros(len(triangles))
    for index, vertices in looks.posed:
        towards = camera_centers(looks.view(index)) - vertices[triangles].mean(1)
        towards /= np.linalg.norm(towards, axis=1, keepdims=True)
        faces_us = np.maximum(faces_us, (face_normals(vertices, triangles) * towards).sum(1))
    return density * np.where(faces_us > 0.02, 1.0, _UNSEEN_DENSITY)


def _sampled(
    carrier: Carrier,
    triangles: Int[np.ndarray, " T"],
    density: Float[np.ndarray, " T"],
    count: int,
    rng: np.random.Generator,
) -> Places:
    """Points spread evenly: each triangle gets its share, and the rounding goes from one to the next."""
    rest = carrier.rest.cpu().numpy().astype(np.float64)
    if not count or not len(triangles):
        return Places(np.zeros(0, np.int64), np.zeros((0, 3)))
    share = face_areas(rest, carrier.triangles[triangles]) * density
    chosen, barycentrics = scatter(share, rng.random((2, count)))
    return Places(triangles[chosen], barycentrics)


def scatter(
    weights: Float[np.ndarray, " T"], spots: Float[np.ndarray, "2 N"]
) -> tuple[Int[np.ndarray, " N"], Float[np.ndarray, "N 3"]]:
    """Triangles in proportion to their weights, within one of it each, and where in them spots of a unit square lie.

    Uniform in a triangle where spots are: Osada et al., "Shape distributions", ACM TOG 2002, section 4.2.
    """
    count = spots.shape[1]
    ends = np.cumsum(weights)
    chosen = np.searchsorted(ends, (np.arange(count) + 0.5) / count * ends[-1], side="right")
    root, v = np.sqrt(spots[0]), spots[1]
    return np.minimum(chosen, len(weights) - 1), np.stack([1 - root, root * (1 - v), root * v], axis=1)


def look_at(carrier: Carrier, looks: Looks, places: Places) -> Seen:
    """Colours of the places in the pictures, weighted by how much each faces the camera; hidden sides count nothing."""
    corners = carrier.triangles[places.triangles]
    total, colour = np.full(len(places), 1e-9), np.zeros((len(places), 3))
    share = np.zeros(len(places))
    footage = looks.footage
    for index, vertices in looks.posed:
        view = looks.view(index)
        points = (vertices[corners] * places.barycentrics[..., None]).sum(1)
        normals = (vertex_normals(vertices, carrier.triangles)[corners] * places.barycentrics[..., None]).sum(1)
        x, y, inside = looks.pixels(points, view)
        towards = camera_centers(view) - points
        cosine = (normals * towards).sum(1) / np.linalg.norm(towards, axis=1)
        alpha = footage.alphas[index][y, x] / 255.0
        weight = np.where(inside & (cosine > 0.05), alpha * cosine, 0.0)
        colour += weight[:, None] * footage.colours_srgb[index][y, x] / 255.0
        total += weight
        share += inside * alpha
    return Seen(colour / total[:, None], np.where(total > 1e-6, share / max(len(looks.posed), 1), 0.0))


def _colours(
    carrier: Carrier, looks: Looks, places: Places, texture_srgb: UInt8[np.ndarray, "S S 3"] | None
) -> tuple[Float[np.ndarray, "N 3"], Bool[np.ndarray, " N"]]:
    """Colours to begin with, and which of them were seen. What looks do not show is as the texture says; else as the
    nearest that they show."""
    seen = look_at(carrier, looks, places)
    inner = _inner(carrier, places)
    found = (seen.share > 0.1) & (inner == 0)  # a shut mouth shows lips where teeth are
    colours = np.where(found[:, None], seen.colours_srgb, _GREY)
    if not found.any():
        return colours, found
    points = (carrier.rest.cpu().numpy()[carrier.triangles[places.triangles]] * places.barycentrics[..., None]).sum(1)
    _, nearest = KDTree(points[found]).query(points[~found])
    colours[~found] = colours[found][nearest]
    if texture_srgb is not None:
        on_head = ~found & (places.triangles < carrier.head_triangles)
        painted = _painted(carrier.model.assets, places.take(np.flatnonzero(on_head)), texture_srgb)
        colours[on_head] = painted * (1 - inner[on_head, None])
    return colours, found


def _inner(carrier: Carrier, places: Places) -> Float[np.ndarray, " N"]:
    """How much darker than its paint a place is for lying in the mouth, 0..1."""
    assets = carrier.model.assets
    _, source = triangulate(assets.faces)
    by_part = np.array([_SHADE.get(name, 0.0) for name in assets.part_names])
    by_triangle = np.concatenate([by_part[assets.face_part[source]], np.zeros(len(carrier.triangles) - len(source))])
    return by_triangle[places.triangles]


def _painted(assets: HeadAssets, places: Places, texture_srgb: UInt8[np.ndarray, "S S 3"]) -> Float[np.ndarray, "N 3"]:
    """The texture's colours at places on the head."""
    corners = triangulate(assets.uv_faces)[0][places.triangles]
    uv = (assets.uvs[corners] * places.barycentrics[..., None]).sum(1)
    return sample_texture(texture_srgb, uv) / 255.0


def _wanted(carrier: Carrier, looks: Looks, places: Places) -> Bool[np.ndarray, " N"]:
    """Which places of the sheet have the person before the camera and are not hidden by the head in most pictures.

    Those just below the picture are judged by its lowest row: as the body moves they come into view.
    """
    corners = carrier.triangles[places.triangles]
    triangles = torch.as_tensor(carrier.triangles[: carrier.head_triangles])
    hidden, shown = np.zeros(len(places)), np.zeros(len(places))
    for index, vertices in looks.posed:
        view = looks.view(index)
        points = to_homogeneous_image(torch.as_tensor(vertices).float()[None], view.torch())
        covered = rasterize(points, triangles, view.height, view.width).covered[0].numpy()
        points = (vertices[corners] * places.barycentrics[..., None]).sum(1)
        x, y, _ = looks.pixels(points, view)
        found, _ = project_points(points, view)
        near = (found[:, 0] >= 0) & (found[:, 0] < view.width) & (found[:, 1] < (1 + _BELOW) * view.height)
        hidden += covered[y, x]
        shown += near * looks.footage.alphas[index][y, x] / 255.0
    return (shown > 0.15 * len(looks.posed)) & (hidden <= 0.7 * len(looks.posed))


def _loose(carrier: Carrier, places: Places, rng: np.random.Generator) -> Float[np.ndarray, " N"]:
    """Metres above the surface at which each Gaussian begins."""
    assets = carrier.model.assets
    corners = carrier.triangles[places.triangles]
    scalp = np.zeros(len(carrier.rest))
    scalp[: assets.num_vertices] = assets.regions.get("scalp", np.zeros(assets.num_vertices))
    hairy = (scalp[corners] * places.barycentrics).sum(1)
    lifted = rng.random(len(places)) < _LOOSE_SHARE * hairy
    return np.where(lifted, rng.random(len(places)) * _LOOSE_M, 0.0)


def _rig(
    carrier: Carrier,
    places: Places,
    colours: Float[np.ndarray, "N 3"],
    seen: Bool[np.ndarray, " N"],
    height_m: Float[np.ndarray, " N"],
    num_features: int,
) -> SplatRig:
    rest = carrier.rest.cpu().numpy().astype(np.float64)
    points = (rest[carrier.triangles[places.triangles]] * places.barycentrics[..., None]).sum(1)
    normals = face_normals(rest, carrier.triangles)[places.triangles]
    # The nearest four tell the spacing, as in 3D Gaussian splatting.
    distance, _ = KDTree(points).query(points, k=min(5, len(points)))
    apart = np.sqrt((distance[:, 1:] ** 2).mean(1)) if len(points) > 1 else np.full(len(points), 0.002)
    spacing = np.clip(apart, *_SPACING_M)
    spread = np.where(seen, _SPREAD, _UNSEEN_SPREAD)[:, None]
    scales = np.stack([spacing, spacing, _FLATNESS * spacing], 1) * spread
    return SplatRig(
        places=places,
        offsets=_float(normals * height_m[:, None]),
        quats_wxyz=facing(normals),
        log_scales=_float(np.log(scales)),
        logits=_float(np.where(seen, _SEEN_LOGIT, _UNSEEN_LOGIT)),
        colours=_float(colours),
        corrections=torch.zeros(len(places), CHANNELS, num_features),
    )


def _float(values: np.ndarray) -> torch.Tensor:
    return torch.as_tensor(np.asarray(values), dtype=torch.float32)
