"""Where a person's skin is compared from frame to frame: points between the model's vertices, and light on them.

Light that changes with a turn of the head, a cloud or a cast shadow is smooth over the face. Differences of log light
between two pictures of the same skin are therefore taken as a sum of a gain, harmonics of the normal (Ramamoorthi and
Hanrahan, SIGGRAPH 2001; a turn of the light maps harmonics of one degree on themselves, so the normals at rest do) and
bumps on the surface some centimetres wide. What is left is the skin's own pattern: brows, lids, lips, folds, freckles.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float, Int

from headrecon.fitting import landmark_groups as groups
from headrecon.fitting.dense.light_model import relative_harmonics
from headrecon.fitting.head_priors import without_fixed_joints
from headrecon.fitting.landmarks import take
from headrecon.fitting.video.personal import cut_to, settled
from headrecon.geometry.mesh import vertex_normals
from headrecon.models.point_model import PointModel
from headrecon.models.posed_mesh import embed
from headrecon.structures import HeadAssets, LandmarkEmbedding, triangulate

#: Distance that points keep from each other, and how many are tried per point that stays.
SPACING_M, _TRIES = 0.004, 6
#: How far beyond the detector's oval of the face (as a factor, seen from the front), and how far back, skin is used.
_BEYOND_OVAL, _BACK_M = 1.04, 0.085
#: Distance and width (deviation) of the bumps of light.
_BUMP_SPACING_M, _BUMP_WIDTH_M = 0.030, 0.020
#: Deviations of log light between frames: gain, harmonics of degree 1 and 2, bumps.
_GAIN, _DEGREE1, _DEGREE2, _BUMP = 3.0, 0.4, 0.15, 0.08
#: The same for the balance of colours, which light changes less.
COLOUR_SHARE = 0.25
#: The inner rims of the lips, once around, and the distance within which nothing is compared.
_INNER_LIPS = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308, 324, 318, 402, 317, 14, 87, 178, 88, 95)
_RIM_M = 0.0025
#: So many neighbours say whether a point's surroundings are skin as it was.
_NEIGHBOURS = 20


@dataclass(frozen=True)
class FacePoints:
    """N points of one person's face (identity settled).

    model: poses them. at: their corners and barycentrics in `surface`. rest, normals: of the head at rest. basis: how
    log light may differ between frames, and sigma: the deviation of each such change. near: the neighbours of each
    point. surface: what can hide skin; joints: poses it.
    """

    model: PointModel
    at: LandmarkEmbedding
    rest: Float[np.ndarray, "N 3"]
    normals: Float[np.ndarray, "N 3"]
    basis: Float[np.ndarray, "N M"]
    sigma: Float[np.ndarray, " M"]
    near: Int[np.ndarray, "N K"]
    surface: HeadAssets
    triangles: Int[np.ndarray, "F 3"]
    joints: PointModel

    def __len__(self) -> int:
        return len(self.rest)

    def take(self, ids: Int[np.ndarray, " A"]) -> FacePoints:
        """Some of the points."""
        return replace(
            self,
            model=self.model.subset(ids),
            at=take(self.at, ids),
            rest=self.rest[ids],
            normals=self.normals[ids],
            basis=self.basis[ids],
            near=_nearest(self.rest[ids]),
        )

    @staticmethod
    def build(assets: HeadAssets, betas: Float[np.ndarray, " Nb"], spacing_m: float = SPACING_M) -> FacePoints:
        """Choose the points; the same ones every time. assets: the whole model with `mediapipe478` landmarks."""
        # As in `personal_head`: poses mean the same there and here.
        person = settled(without_fixed_joints(assets), betas)
        rest = person.v_template
        triangles, source = triangulate(person.faces)
        outer = _outer(person, source)
        normals = vertex_normals(rest, triangles[_skin(person, source)].astype(np.int64))
        marks = embed(rest, assets.landmarks["mediapipe478"])
        at = _spread(rest, triangles[_skin(person, source) & _in_face(rest[triangles].mean(1), marks)], spacing_m)
        at = take(at, np.flatnonzero(_off_lip_rims(embed(rest, at), marks)))
        points, directions = embed(rest, at), embed(normals, at)
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        basis, sigma = _light_basis(points, directions)
        surface, where = cut_to(person, np.unique(triangles[outer]))
        drawn = where[triangles[outer]]
        return FacePoints(
            model=PointModel(person, at),
            at=at,
            rest=points,
            normals=directions,
            basis=basis,
            sigma=sigma,
            near=_nearest(points),
            surface=surface,
            triangles=drawn,
            joints=PointModel(surface, LandmarkEmbedding(np.zeros((1, 3), np.int64), np.array([[1.0, 0.0, 0.0]]))),
        )


def _nearest(points: Float[np.ndarray, "N 3"]) -> Int[np.ndarray, "N K"]:
    from scipy.spatial import KDTree

    return np.asarray(KDTree(points).query(points, min(_NEIGHBOURS, len(points)))[1]).reshape(len(points), -1)


def _skin(assets: HeadAssets, source: Int[np.ndarray, " F"]) -> Bool[np.ndarray, " F"]:
    """Triangles of skin; a model without parts is all skin."""
    faces = assets.faces_of("skin") if "skin" in assets.part_names else np.arange(len(assets.faces))
    return np.isin(source, faces)


def _outer(assets: HeadAssets, source: Int[np.ndarray, " F"]) -> Bool[np.ndarray, " F"]:
    """Triangles that may hide skin: all but what is inside of the mouth."""
    return _skin(assets, source) | np.isin(source, assets.faces_of("leye", "reye"))


def _in_face(points: Float[np.ndarray, "F 3"], marks: Float[np.ndarray, "478 3"]) -> Bool[np.ndarray, " F"]:
    """What lies inside the face's oval, seen from the front, but not in the openings of the eyes."""
    from scipy.spatial import Delaunay

    oval = marks[list(groups.FACE_OVAL), :2]
    ring = oval.mean(0) + _BEYOND_OVAL * (oval - oval.mean(0))
    middle = marks[: groups.NUM_MESH].mean(0)
    inside = (Delaunay(ring).find_simplex(points[:, :2]) >= 0) & (points[:, 2] > middle[2] - _BACK_M)
    for eye in (groups.RIGHT_EYE, groups.LEFT_EYE):
        # Behind the rims of the lids the model's skin goes on around the eyeball.
        rim = marks[list(eye)]
        inside &= ~((Delaunay(rim[:, :2]).find_simplex(points[:, :2]) >= 0) & (points[:, 2] < rim[:, 2].mean()))
    return inside


def _off_lip_rims(points: Float[np.ndarray, "N 3"], marks: Float[np.ndarray, "478 3"]) -> Bool[np.ndarray, " N"]:
    """What does not lie where lips meet: skin there is shown and hidden with every word."""
    from scipy.spatial import KDTree

    ring = marks[list(_INNER_LIPS)]
    steps = np.linspace(0.0, 1.0, 6)[:-1, None, None]
    rim = ((1 - steps) * ring + steps * np.roll(ring, -1, axis=0)).reshape(-1, 3)
    return np.asarray(KDTree(rim).query(points)[0] > _RIM_M)


def _spread(
    vertices: Float[np.ndarray, "V 3"], triangles: Int[np.ndarray, "F 3"], spacing_m: float
) -> LandmarkEmbedding:
    """Points on the triangles that keep `spacing_m` from each other (Poisson disk elimination, fixed seed)."""
    from scipy.spatial import KDTree

    a, b, c = (vertices[triangles[:, k]] for k in range(3))
    areas = 0.5 * np.linalg.norm(np.cross(b - a, c - a), axis=1)
    rng = np.random.default_rng(0)
    count = int(_TRIES * areas.sum() / spacing_m**2)
    face = rng.choice(len(triangles), count, p=areas / areas.sum())
    u, v = rng.random((2, count))
    flip = u + v > 1
    u, v = np.where(flip, 1 - u, u), np.where(flip, 1 - v, v)
    weights = np.stack([1 - u - v, u, v], axis=1)
    points = np.einsum("nk,nkd->nd", weights, vertices[triangles[face]])
    stays, gone = [], np.zeros(count, bool)
    for i, others in enumerate(KDTree(points).query_ball_point(points, spacing_m)):
        if not gone[i]:
            stays.append(i)
            gone[others] = True
    return LandmarkEmbedding(triangles[face[stays]], weights[stays])


def _light_basis(
    points: Float[np.ndarray, "N 3"], normals: Float[np.ndarray, "N 3"]
) -> tuple[Float[np.ndarray, "N M"], Float[np.ndarray, " M"]]:
    """Columns by which log light may change from frame to frame, and the deviation of each."""
    harmonics, _ = relative_harmonics(normals)
    centres = _thinned(points, _BUMP_SPACING_M)
    square = np.sum((points[:, None] - points[centres]) ** 2, axis=2)
    bumps = np.exp(-0.5 * square / _BUMP_WIDTH_M**2)
    basis = np.concatenate([np.ones((len(points), 1)), harmonics, bumps], axis=1)
    sigma = [_GAIN] + [_DEGREE1] * 3 + [_DEGREE2] * 5 + [_BUMP] * len(centres)
    return basis, np.array(sigma)


def _thinned(points: Float[np.ndarray, "N 3"], spacing_m: float) -> list[int]:
    """Indices of points that keep a distance from each other and cover the rest."""
    chosen = [0]
    distance = np.linalg.norm(points - points[0], axis=1)
    for _ in pairwise(range(len(points))):
        farthest = int(distance.argmax())
        if distance[farthest] < spacing_m:
            break
        chosen.append(farthest)
        distance = np.minimum(distance, np.linalg.norm(points - points[farthest], axis=1))
    return chosen
