"""The tiny synthetic head with MediaPipe's landmarks where they belong, and exact photos of it.

`synthetic_assets` spreads the 468 points without regard to their meaning; fitting needs the eyes' corners at the eyes
and the oval on the oval.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch

from headrecon.fitting import contour
from headrecon.fitting import landmark_groups as groups
from headrecon.fitting.lip_embedding import LOWER_RED, LOWER_RIM
from headrecon.geometry import so3
from headrecon.geometry.mesh import vertex_normals
from headrecon.models.head_model import HeadModel, embed
from headrecon.models.measurements import PREFIX
from headrecon.models.point_model import PointModel
from headrecon.structures import (
    FaceDetection,
    FaceObservation,
    HeadAssets,
    HeadParams,
    LandmarkEmbedding,
    triangulate,
)
from tests.synthetic_assets import EYE_CENTRE, _embed, _mediapipe478_layout, make_tiny_assets

#: 4:3 photo of a phone, in pixels
SIZE = (1200, 1600)


def _ring(count: int, centre: list[float] | np.ndarray, radii: list[float]) -> np.ndarray:
    angle = 2 * np.pi * np.arange(count) / count
    return np.asarray(centre) + np.stack([np.cos(angle), np.sin(angle)], 1) * radii


@lru_cache(maxsize=2)
def tiny_face(num_betas: int = 12, eyelook: bool = True) -> HeadAssets:
    """The tiny head with sensible landmarks and a bizygomatic measure."""
    assets = make_tiny_assets(num_betas=num_betas)
    xy = _mediapipe478_layout()
    flip = np.array([-1.0, 1.0])
    eye = EYE_CENTRE[:2]
    corner = np.array([0.014, 0.0])
    outer, inner = groups.LEFT_EYE_CORNERS
    xy[outer], xy[inner] = eye + corner, eye - corner
    xy[groups.RIGHT_EYE_CORNERS[0]], xy[groups.RIGHT_EYE_CORNERS[1]] = xy[outer] * flip, xy[inner] * flip
    xy[groups.SELLION] = [0.0, 0.024]
    xy[list(groups.LIPS)] = _ring(len(groups.LIPS), [0.0, -0.05], [0.024, 0.009])
    across = np.linspace(-0.018, 0.018, len(LOWER_RIM))
    xy[list(LOWER_RED)] = np.stack([across, np.full_like(across, -0.054)], 1)
    xy[list(LOWER_RIM)] = np.stack([across, np.full_like(across, -0.053)], 1)
    for side, ring, brow in ((1, groups.LEFT_EYE, groups.LEFT_BROW), (-1, groups.RIGHT_EYE, groups.RIGHT_BROW)):
        corners = np.isin(ring, groups.LEFT_EYE_CORNERS + groups.RIGHT_EYE_CORNERS)
        lids = _ring(len(ring), eye * [side, 1], [0.013, 0.006])
        xy[np.array(ring)[~corners]] = lids[~corners]
        xy[list(brow)] = _ring(len(brow), (eye + [0.0, 0.02]) * [side, 1], [0.018, 0.003])
    angle = np.pi / 2 - 2 * np.pi * np.arange(36) / 36  # clockwise from the top, as the photographer sees it
    oval = np.stack([0.068 * np.cos(angle), -0.015 + 0.092 * np.sin(angle)], 1)
    xy[list(groups.FACE_OVAL)] = oval
    v = assets.v_template.astype(np.float64)
    seen = triangulate(assets.faces[np.isin(assets.face_part, [0, 1, 2])])[0]
    marks = _embed(v, seen, xy)
    marks = LandmarkEmbedding(marks.vertex_ids, marks.barycentrics)  # exact: no placement error
    zygion = LandmarkEmbedding(marks.vertex_ids[list(groups.CHEEKS)], marks.barycentrics[list(groups.CHEEKS)])
    landmarks = {**assets.landmarks, "mediapipe478": marks, PREFIX + "bizygomatic_breadth": zygion}
    return replace(assets, landmarks=landmarks)


@lru_cache(maxsize=4)
def _outline_tools(num_betas: int) -> tuple[HeadModel, contour.ContourBands]:
    assets = tiny_face(num_betas)
    return HeadModel(assets, dtype=torch.float64), contour.build_bands(assets)


def _slide_outline(assets: HeadAssets, params: HeadParams, points: np.ndarray) -> None:
    """Put hidden outline points where a detector would see them: on the visible outline (changes `points`)."""
    head, bands = _outline_tools(assets.num_betas)
    vertices = head(params.to(torch.float64)).vertices[0]
    normals = vertex_normals(vertices, torch.from_numpy(triangulate(assets.faces)[0].astype(np.int64)))
    match = contour.match_outline(bands, vertices.numpy(), normals.numpy())
    points[match.landmarks] = embed(vertices.numpy(), bands.candidates)[match.candidates]


@dataclass(frozen=True)
class Truth:
    """A head before a camera at the origin (looking along -z), and the iris that the tiny model does not vary."""

    x: np.ndarray
    focal_px: float
    iris_m: float
    vergence: float = 0.0


def draw_truth(assets: HeadAssets, rng: np.random.Generator, focal_px: float, distance_m: float) -> Truth:
    """Identity and expression from the fitting priors; a moderate pose; gaze near the camera."""
    layout = PointModel(assets, np.array([0])).layout
    x, s = layout.zeros(), layout.slices
    x[s["betas"]] = rng.normal(size=layout.num_betas)
    weights = np.clip(np.abs(rng.normal(size=layout.num_expressions)) * 0.3, 0, 1)
    quiet = np.array([n.startswith("eyeLook") or n == "tongueOut" for n in assets.expression_names])
    x[s["expression"]] = np.where(quiet, 0.0, weights)
    x[s["global_orient"]] = rng.normal(size=3) * [0.12, 0.25, 0.08]
    gaze, vergence = rng.normal(size=2) * 0.1, rng.normal(0.04, 0.03)
    x[s["leye_pose"]] = [gaze[0], gaze[1] - vergence / 2, 0]
    x[s["reye_pose"]] = [gaze[0], gaze[1] + vergence / 2, 0]
    x[s["transl"]] = [*rng.normal(size=2) * 0.03, -distance_m]
    iris = 11.71e-3 * np.exp(rng.normal() * 0.42 / 11.71)
    return Truth(x, focal_px, iris)


def photograph(
    assets: HeadAssets,
    truth: Truth,
    rng: np.random.Generator | None = None,
    sigma: float = 0.0,
    iris_sigma: float = 0.0,
) -> FaceObservation:
    """What a perfect detector sees (plus white noise of `sigma` interocular distances, and iris noise)."""
    model = PointModel(assets, assets.landmarks["mediapipe478"])
    points = model.evaluate(truth.x)
    _slide_outline(assets, model.layout.unpack(truth.x), points)
    camera = points * [1, -1, -1]
    pixels = truth.focal_px * camera[:, :2] / camera[:, 2:] + np.array(SIZE) / 2
    depth = camera[:, 2:] * truth.focal_px / camera[:, 2].mean()
    marks = np.concatenate([pixels, depth - depth.mean()], 1)
    scale = groups.interocular_px(marks)
    if rng is not None:
        marks[:, :2] += rng.normal(size=(478, 2)) * sigma * scale
    s = model.layout.slices
    head = so3.exp(truth.x[s["global_orient"]])
    for ids, name in ((groups.RIGHT_IRIS, "reye_pose"), (groups.LEFT_IRIS, "leye_pose")):
        gaze = (head @ so3.exp(truth.x[s[name]]))[:, 2]
        centre = points[ids[0]]
        cosine = -gaze @ centre / np.linalg.norm(centre)
        size = truth.focal_px * truth.iris_m / camera[ids[0], 2] * np.sqrt(cosine)
        if rng is not None:
            size *= np.exp(rng.normal() * iris_sigma)
        ring = np.array([[1, 0], [0, -1], [-1, 0], [0, 1]]) * size / 2
        marks[list(ids[1:]), :2] = marks[ids[0], :2] + ring
    low, high = marks[:468, :2].min(0), marks[:468, :2].max(0)
    detection = FaceDetection(np.concatenate([low, high]), np.zeros((6, 2)), 1.0)
    return FaceObservation(detection, marks, 1.0, SIZE)
