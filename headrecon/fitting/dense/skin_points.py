"""Where the photo is compared with the head: skin points of the face, their rings, and what is known of their colour.

The model is sampled, not the picture: a face has as many points in a small picture as in a large one, and everything
that depends on the surface alone is prepared once per model.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
from jaxtyping import Float, Int

from headrecon.fitting import landmark_groups as groups
from headrecon.fitting.dense.skin_prior import SkinPrior, skin_covariances
from headrecon.geometry.mesh import vertex_areas
from headrecon.models.head_model import embed
from headrecon.models.point_model import PointModel
from headrecon.structures import HeadAssets, triangulate

#: Distance that the points keep from each other, and from eyes, brows, nostrils and the opening of the mouth (metres).
SPACING_M = 0.0045
OPENING_M = 0.0035
BROW_M = 0.006
#: How far outside of the detector's face oval skin is still looked at.
BEYOND_OVAL = 1.06


@dataclass(frozen=True)
class SkinPoints:
    """N skin vertices of the face, and the V vertices (themselves and their rings) that their normals depend on.

    vertex: model vertex of each point. near: model vertices that are evaluated; own: position of each point in `near`.
    corners: triangles around the points as positions in `near`; fan: the point that each of them belongs to. pair_*:
    the distinct (point, near) pairs, sorted by point; corner_pair: the pair of each triangle's corner.
    log_albedo: mean pattern of the skin's log colour (pattern: of all vertices of the model). covariances: of the
    deviation from it per opponent channel.
    """

    vertex: Int[np.ndarray, " N"]
    near: Int[np.ndarray, " V"]
    own: Int[np.ndarray, " N"]
    corners: Int[np.ndarray, "T 3"]
    fan: Int[np.ndarray, " T"]
    pair_point: Int[np.ndarray, " M"]
    pair_near: Int[np.ndarray, " M"]
    corner_pair: Int[np.ndarray, "T 3"]
    model: PointModel
    rest: Float[np.ndarray, "N 3"]
    area: Float[np.ndarray, " N"]
    log_albedo: Float[np.ndarray, "N 3"]
    covariances: Float[np.ndarray, "3 N N"]
    pattern: Float[np.ndarray, "all 3"]
    triangles: Int[np.ndarray, "F 3"]
    is_skin: Float[np.ndarray, " F"]

    def __len__(self) -> int:
        return len(self.vertex)

    def take(self, ids: Int[np.ndarray, " A"]) -> SkinPoints:
        """Some of the points, with the vertices that these need."""
        place = np.full(len(self), -1)
        place[ids] = np.arange(len(ids))
        fan = np.flatnonzero(place[self.fan] >= 0)
        pairs = np.flatnonzero(place[self.pair_point] >= 0)
        order = np.argsort(place[self.pair_point[pairs]], kind="stable")
        pairs = pairs[order]
        near = np.unique(self.pair_near[pairs])
        at, pair_at = np.full(len(self.near), -1), np.full(len(self.pair_point), -1)
        at[near], pair_at[pairs] = np.arange(len(near)), np.arange(len(pairs))
        return replace(
            self,
            vertex=self.vertex[ids],
            near=self.near[near],
            own=at[self.own[ids]],
            corners=at[self.corners[fan]],
            fan=place[self.fan[fan]],
            pair_point=place[self.pair_point[pairs]],
            pair_near=at[self.pair_near[pairs]],
            corner_pair=pair_at[self.corner_pair[fan]],
            model=self.model.subset(near),
            rest=self.rest[ids],
            area=self.area[ids],
            log_albedo=self.log_albedo[ids],
            covariances=self.covariances[:, ids[:, None], ids],
        )

    @cached_property
    def variance(self) -> Float[np.ndarray, "N 3"]:
        """Prior variance per point and opponent channel."""
        return np.diagonal(self.covariances, axis1=1, axis2=2).T.copy()

    @staticmethod
    def build(assets: HeadAssets, prior: SkinPrior | None = None) -> SkinPoints:
        """Choose the points on the template. Needs `mediapipe478` landmarks; a model without parts is all skin."""
        vertices = assets.v_template.astype(np.float64)
        triangles, source = triangulate(assets.faces)
        skin_faces = assets.faces_of("skin") if "skin" in assets.part_names else np.arange(len(assets.faces))
        is_skin = np.isin(source, skin_faces)
        skin = triangles[is_skin]
        chosen = _spread(vertices, _candidates(assets, vertices, skin))
        where = np.full(assets.num_vertices, -1)
        where[chosen] = np.arange(len(chosen))
        rows, cols = np.nonzero(where[skin] >= 0)
        corners, fan = skin[rows], where[skin[rows, cols]]
        near, flat = np.unique(corners, return_inverse=True)
        corners = flat.reshape(corners.shape)
        pairs, corner_pair = np.unique(fan[:, None] * len(near) + corners, return_inverse=True)
        place = np.full(assets.num_vertices, -1)
        place[near] = np.arange(len(near))
        areas = vertex_areas_of(vertices, skin)[chosen]
        pattern, covariances = skin_covariances(assets, vertices, triangles, chosen, prior or SkinPrior())
        return SkinPoints(
            vertex=chosen,
            near=near,
            own=place[chosen],
            corners=corners,
            fan=fan,
            pair_point=pairs // len(near),
            pair_near=pairs % len(near),
            corner_pair=corner_pair.reshape(corners.shape),
            model=PointModel(assets, near),
            rest=vertices[chosen],
            area=areas,
            log_albedo=pattern[chosen],
            covariances=covariances,
            pattern=pattern,
            triangles=triangles,
            is_skin=is_skin.astype(np.float64),
        )


def vertex_areas_of(vertices: Float[np.ndarray, "V 3"], triangles: Int[np.ndarray, "F 3"]) -> Float[np.ndarray, " V"]:
    """A third of the area of the triangles around each vertex."""
    import torch

    return vertex_areas(torch.from_numpy(vertices), torch.from_numpy(triangles.astype(np.int64))).numpy()


def _candidates(assets: HeadAssets, vertices: np.ndarray, skin: np.ndarray) -> np.ndarray:
    """Skin vertices inside the face's oval (seen from the front) and away from what is not plain skin."""
    from scipy.spatial import Delaunay, KDTree

    marks = embed(vertices, assets.landmarks["mediapipe478"])
    oval = marks[list(groups.FACE_OVAL)]
    middle = marks[: groups.NUM_MESH].mean(0)
    ring = oval[:, :2].mean(0) + BEYOND_OVAL * (oval[:, :2] - oval[:, :2].mean(0))
    ids = np.unique(skin)
    at = vertices[ids]
    inside = Delaunay(ring).find_simplex(at[:, :2]) >= 0
    inside &= at[:, 2] > middle[2] - 0.09  # in front of the ears, not the back of the head
    openings = [list(groups.RIGHT_EYE), list(groups.LEFT_EYE)]
    for names, margin in ((openings, OPENING_M), ([list(groups.RIGHT_BROW), list(groups.LEFT_BROW)], BROW_M)):
        for ring_ids in names:
            outline = marks[ring_ids][:, :2]
            inside &= ~((Delaunay(outline).find_simplex(at[:, :2]) >= 0) & (at[:, 2] > middle[2] - 0.05))
            inside &= KDTree(_densify(marks[ring_ids])).query(at)[0] > margin
    for part in assets.part_names:
        if part == "skin":
            continue
        other = np.unique(assets.faces[assets.faces_of(part)])
        other = other[other >= 0]
        inside &= KDTree(vertices[other]).query(at)[0] > 0.0025
    return ids[inside]


def _densify(points: np.ndarray) -> np.ndarray:
    closed = np.concatenate([points, points[:1]])
    t = np.linspace(0, 1, 6)[:-1, None]
    return np.concatenate([(1 - t) * a + t * b for a, b in pairwise(closed)])


def _spread(vertices: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """A subset whose points keep `SPACING_M` from each other (Poisson disk elimination in a fixed order)."""
    from scipy.spatial import KDTree

    at = vertices[ids]
    neighbours = KDTree(at).query_ball_point(at, SPACING_M)
    gone = np.zeros(len(ids), bool)
    # Vertices with few close neighbours first: where the mesh is coarse all of them stay.
    for i in np.argsort([len(n) for n in neighbours], kind="stable"):
        if not gone[i]:
            others = np.array([j for j in neighbours[i] if j != i], int)
            gone[others] = True
    return ids[~gone]
