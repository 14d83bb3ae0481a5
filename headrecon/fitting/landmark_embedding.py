"""Finds where a face detector's 478 points lie on any head model: render it, look at it, bring the points back to 3D.

Each view gives every point a place on the surface (the face and barycentrics under its pixel). Identities and views
are averaged on the model's template, trusting views in which the surface faces the camera; points are then moved to
the nearest place on the surface and made mirror-symmetric. Works for every model that this package can load.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float

from headrecon.errors import AssetError
from headrecon.fitting.landmark_groups import SELLION, interocular_px
from headrecon.fitting.lip_embedding import with_lower_rim
from headrecon.geometry.closest import closest_points
from headrecon.models.head_model import HeadModel
from headrecon.perception.face_landmarks import Look
from headrecon.perception.faces import observe_faces
from headrecon.perception.mesh_symmetry import mirror_indices
from headrecon.perception.networks import Networks
from headrecon.rendering.cameras_orbit import orbit_cameras
from headrecon.rendering.mesh import Appearance, RenderOptions, RenderOutput, render_mesh
from headrecon.rendering.plain_head import PlainColours, plain_head
from headrecon.structures import Cameras, FaceObservation, HeadAssets, LandmarkEmbedding, Mesh, triangulate

#: MediaPipe points that stand for the 68 of iBUG (Sagonas et al. 2013), in iBUG's order.
IBUG68_FROM_MEDIAPIPE: tuple[int, ...] = (
    162, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 389,
    71, 63, 105, 66, 107, 336, 296, 334, 293, 301, 168, 197, 5, 4, 75, 97, 2, 326, 305,
    33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380,
    61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181, 78, 82, 13, 312, 308, 317, 14, 87,
)  # fmt: skip
#: One look per picture: averaging over views does what averaging over looks would.
_LOOKS: tuple[Look, ...] = (Look(), Look(mirror=True))
Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class EmbeddingOptions:
    """How much to look at. Yaws and pitches in degrees; identities beyond the mean are drawn with `spread` sigma."""

    yaws: tuple[float, ...] = (0.0, -12.0, 12.0, -28.0, 28.0, -42.0, 42.0)
    pitches: tuple[float, ...] = (0.0, 12.0, -12.0)
    identities: int = 4
    spread: float = 0.6
    size: int = 448
    seed: int = 0


@dataclass(frozen=True)
class SeenHead:
    """One rendered identity and what the detector saw of it: per camera the observation (None where no face)."""

    vertices: Float[np.ndarray, "V 3"]
    cameras: Cameras
    render: RenderOutput
    observations: list[FaceObservation | None]


def look_at_head(
    assets: HeadAssets,
    vertices: Float[np.ndarray, "V 3"],
    cameras: Cameras,
    networks: Networks,
    colours: PlainColours = PlainColours(),
    options: RenderOptions | None = None,
) -> SeenHead:
    """Render a plain-coloured head from every camera and run the detector on each picture."""
    appearance = Appearance(vertex_srgb=torch.as_tensor(plain_head(assets, colours)))
    mesh = Mesh(vertices.astype(np.float32), assets.faces)
    output = render_mesh(mesh, cameras, appearance, options or RenderOptions(background_srgb=(0.55, 0.57, 0.6)))
    observations: list[FaceObservation | None] = []
    for image in output.image_srgb.numpy():
        found = observe_faces((image * 255).round().astype(np.uint8), networks, max_faces=1, looks=_LOOKS)
        observations.append(found[0] if found else None)
    return SeenHead(vertices, cameras, output, observations)


def embed_landmarks(
    assets: HeadAssets,
    networks: Networks,
    options: EmbeddingOptions = EmbeddingOptions(),
    progress: Progress | None = None,
) -> dict[str, LandmarkEmbedding]:
    """Embeddings "mediapipe478" and "ibug68" of a head model, with sigma_m: the standard error of each place.

    Raises AssetError when the detector sees no face in most of the pictures.
    """
    sightings = [
        seen
        for i, vertices in enumerate(_identities(assets, options))
        for seen in _sightings(assets, vertices, networks, options, i, progress)
    ]
    if len(sightings) < 4:
        raise AssetError(
            f"head model {assets.name!r}: the face detector saw a face in only {len(sightings)} renderings, at least "
            "4 are needed; check that the model is in metres, +y up and looks along +z"
        )
    points, weights = (np.stack(a) for a in zip(*sightings, strict=True))
    mean, spread = _robust_mean(points, weights)
    mean = _symmetric(mean)
    # Views of one identity share their error, so only identities count as independent.
    embedding = _attach(assets, mean, spread / np.sqrt(1 + 2 * (options.identities // 2)))
    mended = with_lower_rim(replace(assets, landmarks={**assets.landmarks, "mediapipe478": embedding}))
    embedding = mended.landmarks["mediapipe478"]
    chosen = np.array(IBUG68_FROM_MEDIAPIPE)
    return {"mediapipe478": embedding, "ibug68": _take(embedding, chosen)}


def _take(embedding: LandmarkEmbedding, ids: np.ndarray) -> LandmarkEmbedding:
    sigma = None if embedding.sigma_m is None else embedding.sigma_m[ids]
    return LandmarkEmbedding(embedding.vertex_ids[ids], embedding.barycentrics[ids], sigma)


def _identities(assets: HeadAssets, options: EmbeddingOptions) -> list[Float[np.ndarray, "V 3"]]:
    """The mean head, then random ones in pairs of opposite betas, so that their average is the mean again."""
    model = HeadModel(assets)
    generator = torch.Generator().manual_seed(options.seed)
    half = torch.randn(options.identities // 2, assets.num_betas, generator=generator) * options.spread
    betas = torch.cat([torch.zeros(1, assets.num_betas), half, -half])
    params = replace(model.zeros(len(betas)), betas=betas)
    return list(model(params).vertices.numpy())


def _sightings(
    assets: HeadAssets,
    vertices: np.ndarray,
    networks: Networks,
    options: EmbeddingOptions,
    index: int,
    progress: Progress | None,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Per picture: where each point lies on the template [478,3] and how far to trust it [478]."""
    out = []
    pitches = options.pitches if index == 0 else options.pitches[:1]
    for pitch in pitches:
        cameras = orbit_cameras(vertices, options.yaws, options.size, pitch_degrees=pitch)
        seen = look_at_head(assets, vertices, cameras, networks)
        for c, observation in enumerate(seen.observations):
            if observation is not None:
                out.append(_lift(assets, seen, c, observation.landmarks))
    if progress:
        progress("looking at the head", (index + 1) / (2 * (options.identities // 2) + 1))
    return out


def _lift(
    assets: HeadAssets, seen: SeenHead, camera: int, landmarks: Float[np.ndarray, "478 3"]
) -> tuple[Float[np.ndarray, "478 3"], Float[np.ndarray, " 478"]]:
    """The template positions under given landmarks, and how far to trust each.

    Weight is 0 off the head, falls with the slant of the surface, and is 0 where the detector thinks that the point
    lies behind what is seen there: points on the far side of a turned head project onto the near one.
    """
    pixels = landmarks[:, :2]
    width, height = seen.cameras.width, seen.cameras.height
    column = np.clip(np.floor(pixels[:, 0]).astype(int), 0, width - 1)
    row = np.clip(np.floor(pixels[:, 1]).astype(int), 0, height - 1)
    face = seen.render.face_index[camera].numpy()[row, column]
    bary = seen.render.barycentrics[camera].numpy()[row, column]
    triangles = triangulate(assets.faces)[0]
    corners = triangles[np.maximum(face, 0)]
    points = np.einsum("lc,lcd->ld", bary, assets.v_template[corners].astype(np.float64))
    view = seen.cameras.viewmats[camera].numpy()
    surface = np.einsum("lc,lcd->ld", bary, seen.vertices[corners].astype(np.float64))
    ray = surface @ view[:3, :3].T + view[:3, 3]
    ray /= np.maximum(np.linalg.norm(ray, axis=1, keepdims=True), 1e-9)
    normal = seen.render.normals[camera].numpy()[row, column] @ view[:3, :3].T
    slant = np.clip(-(normal * ray).sum(1), 0, 1)
    weight = np.where(face >= 0, np.clip((slant - 0.2) / 0.6, 0, 1) ** 2, 0.0)
    depth_px = seen.render.depth_z[camera].numpy()[row, column] * float(seen.cameras.Ks[camera, 0, 0])
    depth_px = depth_px / seen.render.depth_z[camera].numpy()[row[SELLION], column[SELLION]].clip(1e-6)
    behind = (landmarks[:, 2] - landmarks[SELLION, 2]) - (depth_px - depth_px[SELLION])
    return points, weight * np.exp(-((behind / (0.35 * interocular_px(landmarks))) ** 2))


def _robust_mean(
    points: Float[np.ndarray, "S 478 3"], weights: Float[np.ndarray, "S 478"]
) -> tuple[Float[np.ndarray, "478 3"], Float[np.ndarray, " 478"]]:
    """Weighted mean over sightings with outliers faded (Geman-McClure, 4 mm), and the deviation that is left."""
    weights = weights + 1e-6  # points that no view saw well still get their plain mean
    mean = np.einsum("sl,sld->ld", weights, points) / weights.sum(0)[:, None]
    robust = weights
    for _ in range(10):
        squared = ((points - mean) ** 2).sum(2)
        robust = weights / (1 + squared / 4e-3**2) ** 2
        mean = np.einsum("sl,sld->ld", robust, points) / robust.sum(0)[:, None]
    squared = ((points - mean) ** 2).sum(2)
    return mean, np.sqrt((robust * squared).sum(0) / robust.sum(0) / 2)


def _symmetric(points: Float[np.ndarray, "478 3"]) -> Float[np.ndarray, "478 3"]:
    return (points + points[mirror_indices()] * [-1.0, 1.0, 1.0]) / 2


def _attach(assets: HeadAssets, points: np.ndarray, spread: np.ndarray) -> LandmarkEmbedding:
    """Move mesh points to the skin and iris points to their eyeball."""
    triangles, source = triangulate(assets.faces)
    part = assets.face_part[source]
    eyes = [assets.part_names.index(p) for p in ("reye", "leye") if p in assets.part_names]
    groups: list[tuple[Sequence[int], np.ndarray]] = [(range(468), ~np.isin(part, eyes) & _is_outer(assets, part))]
    for ids, name in ((range(468, 473), "reye"), (range(473, 478), "leye")):
        on_eye = part == assets.part_names.index(name) if name in assets.part_names else np.ones(len(part), bool)
        groups.append((ids, on_eye))
    vertex_ids, bary = np.zeros((478, 3), dtype=np.int32), np.zeros((478, 3))
    for ids, mask in groups:
        rows = np.array(ids)
        face, weights = closest_points(assets.v_template.astype(np.float64), triangles[mask], points[rows])
        vertex_ids[rows], bary[rows] = triangles[mask][face], weights
    return LandmarkEmbedding(vertex_ids, bary.astype(np.float32), spread.astype(np.float32))


def _is_outer(assets: HeadAssets, part: np.ndarray) -> np.ndarray:
    """Faces that a camera sees on a closed mouth: not teeth, gums, tongue or mouth bag."""
    inner = [assets.part_names.index(p) for p in assets.part_names if p not in ("skin", "face", "head", "scalp")]
    outer = ~np.isin(part, inner)
    return outer if outer.any() else np.ones(len(part), dtype=bool)
