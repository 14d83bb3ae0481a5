"""Face outline points slide: each outer round they are matched anew to where the surface turns away from the camera.

The detector's cheek and chin points follow the visible outline, which is another set of surface points in every view.
So each of them owns a band: the curve in which the half-plane through the face's axis and the landmark cuts the skin,
from the cheek's front to behind the landmark (after the "landmark marching" of Zhu, Lei, Yan, Yi, Li, CVPR 2015). Where
the band turns from facing to averted lies the outline; only the distance across it is penalised.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from headrecon.fitting import landmark_groups as groups
from headrecon.models.posed_mesh import embed
from headrecon.structures import HeadAssets, LandmarkEmbedding, triangulate

#: A band starts at this share of the landmark's distance from the face's axis ...
INNER_SHARE = 0.55
#: ... and ends this far behind the landmark, in front of the ears and of the neck.
BEHIND_M = 0.02
#: The outline applies to a landmark unless the landmark lies further than this inside of it, plainly visible.
REACH_M = 0.008
#: How far inside of the landmark's place the outline may lie: a cheek seen from 50 degrees needs 4 cm.
INWARD_M = 0.045
#: Lips and eyes have folds of their own that face away; the outline is not looked for within their hull grown by this.
FOLD_MARGIN = 1.35


@dataclass(frozen=True)
class ContourBands:
    """Candidate points per sliding landmark, ordered from the front of the face outwards."""

    candidates: LandmarkEmbedding
    starts: Int[np.ndarray, " S"]  # first candidate of each band, and the total at the end (S = bands + 1)
    landmark: Int[np.ndarray, " N"]  # MediaPipe index of each band
    own: Int[np.ndarray, " N"]  # the candidate nearest to the landmark itself


@dataclass(frozen=True)
class ContourMatch:
    """The outline points chosen for one view: landmark indices and candidate indices."""

    landmarks: Int[np.ndarray, " N"]
    candidates: Int[np.ndarray, " N"]


def build_bands(assets: HeadAssets) -> ContourBands:
    """Cut the bands on the template. Works for any model that has `mediapipe478` landmarks and a part named skin."""
    vertices = assets.v_template.astype(np.float64)
    marks = embed(vertices, assets.landmarks["mediapipe478"])
    centre = marks[: groups.NUM_MESH].mean(0)
    skin = assets.faces[assets.faces_of("skin")] if "skin" in assets.part_names else assets.faces
    triangles = triangulate(skin)[0]
    triangles = triangles[~_folds(assets, vertices, marks)[triangles].any(1)]
    edges = np.unique(np.sort(np.concatenate([triangles[:, [i, (i + 1) % 3]] for i in range(3)]), axis=1), axis=0)
    ids, bary, starts, landmark, own = [], [], [0], [], []
    for k in groups.SLIDING:
        pairs, weights, points = _cut(vertices, edges, centre, marks[k])
        if len(pairs) < 3:
            continue
        ids.append(np.concatenate([pairs, pairs[:, :1]], axis=1))
        bary.append(np.stack([1 - weights, weights, np.zeros_like(weights)], axis=1))
        own.append(starts[-1] + int(np.argmin(np.linalg.norm(points - marks[k], axis=1))))
        starts.append(starts[-1] + len(pairs))
        landmark.append(k)
    embedding = LandmarkEmbedding(
        np.concatenate(ids) if ids else np.zeros((0, 3), int), np.concatenate(bary) if bary else np.zeros((0, 3))
    )
    return ContourBands(embedding, np.array(starts), np.array(landmark, int), np.array(own, int))


def _folds(assets: HeadAssets, vertices: np.ndarray, marks: np.ndarray) -> np.ndarray:
    """Vertices where no outline of the face is: around lips and eyes (seen from the front), and the ears."""
    angles = np.linspace(0, 2 * np.pi, 180, endpoint=False)
    directions = np.stack([np.cos(angles), np.sin(angles)])
    out = np.zeros(len(vertices), dtype=bool)
    eyes = ((*groups.RIGHT_EYE, *groups.RIGHT_BROW), (*groups.LEFT_EYE, *groups.LEFT_BROW))
    for ids in (groups.LIPS, *eyes):
        ring = marks[list(ids), :2]
        grown = ring.mean(0) + FOLD_MARGIN * (ring - ring.mean(0))
        # Inside the convex hull: no direction in which a vertex lies beyond the whole ring.
        out |= (vertices[:, :2] @ directions <= (grown @ directions).max(0)).all(1)
    if "ears" in assets.regions:
        out |= assets.regions["ears"] > 0.3
    return out


def _cut(
    vertices: np.ndarray, edges: np.ndarray, centre: np.ndarray, mark: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Edges crossed by the half-plane through the axis (centre, +z) and the mark: pairs, weights, points."""
    direction = mark[:2] - centre[:2]
    radius = np.linalg.norm(direction)
    direction = direction / radius
    local = vertices - centre
    side = local[:, 0] * -direction[1] + local[:, 1] * direction[0]
    a, b = side[edges[:, 0]], side[edges[:, 1]]
    crossing = (a > 0) != (b > 0)
    pairs = edges[crossing]
    t = (a / np.where(a == b, 1.0, a - b))[crossing]
    points = vertices[pairs[:, 0]] * (1 - t[:, None]) + vertices[pairs[:, 1]] * t[:, None]
    out = (points - centre)[:, :2] @ direction
    depth = points[:, 2] - mark[2]
    keep = (out > INNER_SHARE * radius) & (depth > -BEHIND_M) & (np.abs(out - radius) < 0.06)
    pairs, t, points = pairs[keep], t[keep], points[keep]
    # Ordered by the angle about a point inside the head, so that the curve runs from the front outwards and back.
    relative = points - (centre - np.array([0.0, 0.0, 0.06]))
    order = np.argsort(np.arctan2(relative[:, :2] @ direction, relative[:, 2]), kind="stable")
    return pairs[order], t[order], points[order]


def match_outline(
    bands: ContourBands, vertices: Float[np.ndarray, "V 3"], normals: Float[np.ndarray, "V 3"]
) -> ContourMatch:
    """Choose each band's outline point for a camera at the origin; bands without one keep their fixed landmark."""
    points = embed(vertices, bands.candidates)
    facing = -np.sum(embed(normals, bands.candidates) * points, axis=1)
    landmarks, chosen = [], []
    for k, own, start, stop in zip(bands.landmark, bands.own, bands.starts[:-1], bands.starts[1:], strict=True):
        front = facing[start:stop] > 0
        turns = np.flatnonzero(front[:-1] & ~front[1:])
        if turns.size == 0:
            continue
        steps = np.linalg.norm(np.diff(points[start:stop], axis=0), axis=1)
        along = np.concatenate([[0.0], np.cumsum(steps)])
        distance = along[turns] - along[own - start]
        first = start + int(turns[np.argmin(np.abs(distance))])
        # of the two points about the turn, the one that is nearer to grazing
        best = first if facing[first] < -facing[first + 1] else first + 1
        if not -INWARD_M < along[best - start] - along[own - start] < REACH_M:
            continue
        landmarks.append(int(k))
        chosen.append(best)
    return ContourMatch(np.array(landmarks, int), np.array(chosen, int))


def image_normals(normals: Float[np.ndarray, "N 3"], points: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N 2"]:
    """Unit outline normals in the image (x right, y down) of surface points seen by a camera at the origin.

    The tangent plane of an outline point holds the camera, so it is seen as a line, whose image normal is (n_x, -n_y).
    What is left of the normal along the view ray (the chosen point is not exactly grazing) is taken out first.
    """
    rays = points / np.linalg.norm(points, axis=1, keepdims=True)
    grazing = normals - np.sum(normals * rays, axis=1, keepdims=True) * rays
    flat = grazing[:, :2] * [1.0, -1.0]
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-12)
