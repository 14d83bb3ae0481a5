"""A person's head as a rigid thing: points of skin, ears and scalp that keep their places as the head turns.

Where the landmark network sees no face (beyond 60 degrees of yaw) the picture still shows a cheek, an ear and hair.
Points are spread evenly over the head, and count the less the more expressions move them; the neck, which bends, has
none. Everything here is numpy: drafts use it too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from headrecon.fitting.parameters import CAMERA_AXES
from headrecon.geometry import so3
from headrecon.geometry.mesh import vertex_normals
from headrecon.structures import HeadAssets, triangulate

#: Points on a head: one for every 8 mm of skin.
NUM_POINTS = 2400
#: Points in a patch, for each size of picture, coarse to fine: brightness is compared within patches.
_PATCH_POINTS = (80, 40, 20)
#: Skin that expressions move by so much counts half (metres, root of the sum over all expressions).
_MOVES_M = 0.012
#: Least share of a triangle's motion that is the head's and not the neck's.
_HEAD_SHARE = 0.9
#: Cosine between normal and line of sight from which on a point is seen, and is seen well.
_GRAZING, _FACING = 0.25, 0.6
#: A point further behind the nearest surface than this is hidden; cells of the depth buffer, metres.
_HIDDEN_M, _CELL_M = 0.018, 0.008


@dataclass(frozen=True)
class RigidPose:
    """Where a head is: camera point (OpenCV axes, metres) = rotation @ point + shift."""

    rotation: Float[np.ndarray, "3 3"]
    shift: Float[np.ndarray, "3"]

    def apply(self, points: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N 3"]:
        return points @ self.rotation.T + self.shift

    @property
    def eye(self) -> Float[np.ndarray, "3"]:
        """The camera's place in the head's space."""
        return -self.rotation.T @ self.shift

    def azimuth(self, centre: Float[np.ndarray, "3"]) -> float:
        """Of the camera off the nose, radians; positive towards the head's left."""
        x, _, z = self.eye - centre
        return math.atan2(x, z)

    def turned(self, step: Float[np.ndarray, "6"], centre: Float[np.ndarray, "3"]) -> RigidPose:
        """Turned by the first three entries (in the head's axes, about `centre`), then moved by the last three."""
        rotation = self.rotation @ so3.exp(step[:3])
        return RigidPose(rotation, self.shift + self.rotation @ centre - rotation @ centre + step[3:])

    def step_to(self, other: RigidPose, centre: Float[np.ndarray, "3"]) -> Float[np.ndarray, "6"]:
        """The step with which `turned` leads to the other pose."""
        turn = so3.log(self.rotation.T @ other.rotation)
        moved = other.apply(centre[None])[0] - self.apply(centre[None])[0]
        return np.concatenate([turn, moved])

    def angle_to(self, other: RigidPose) -> float:
        """Radians between the two."""
        return float(np.linalg.norm(so3.log(self.rotation.T @ other.rotation)))


@dataclass(frozen=True)
class Patches:
    """Points of a surface in groups of neighbours. order: points by patch; starts: where each patch begins in it;
    group: the patch of each point."""

    order: Int[np.ndarray, " N"]
    starts: Int[np.ndarray, " G"]
    group: Int[np.ndarray, " N"]

    def sums(self, columns: Float[np.ndarray, "N C"]) -> Float[np.ndarray, "G C"]:
        """Sum over each patch. O(N C)."""
        return np.add.reduceat(columns[self.order], self.starts, axis=0)


@dataclass(frozen=True)
class RigidHead:
    """points, normals: in the head's space, metres; weights: 0..1. patches: per picture size, coarse to fine, of which
    points brightness is compared. centre: about which it turns here; root: joint about which `global_orient` does."""

    points: Float[np.ndarray, "N 3"]
    normals: Float[np.ndarray, "N 3"]
    weights: Float[np.ndarray, " N"]
    patches: tuple[Patches, ...]
    centre: Float[np.ndarray, "3"]
    root: Float[np.ndarray, "3"]

    def pose_of(self, global_orient: Float[np.ndarray, "3"], transl: Float[np.ndarray, "3"]) -> RigidPose:
        """The pose that the head model's parameters stand for, before a camera at the origin that looks along -z."""
        turn = so3.exp(global_orient)
        return RigidPose(CAMERA_AXES[:, None] * turn, CAMERA_AXES * (self.root + transl - turn @ self.root))

    def parameters_of(self, pose: RigidPose) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3"]]:
        """global_orient and transl: the inverse of `pose_of`."""
        turn = CAMERA_AXES[:, None] * pose.rotation
        return so3.log(turn), CAMERA_AXES * pose.shift - self.root + turn @ self.root

    def seen(self, pose: RigidPose) -> Float[np.ndarray, " N"]:
        """How well each point is seen, 0..1: 0 where it faces away or the head hides it. O(N)."""
        rays = pose.eye - self.points
        cosine = (self.normals * rays).sum(1) / np.linalg.norm(rays, axis=1)
        share = np.clip((cosine - _GRAZING) / (_FACING - _GRAZING), 0.0, 1.0)
        camera = pose.apply(self.points)
        return np.where(_in_front(camera), share, 0.0)


def rigid_head(assets: HeadAssets, betas: Float[np.ndarray, " Nb"]) -> RigidHead:
    """Spread points over a person's head at rest. Deterministic. O(N^2) once a clip."""
    vertices = assets.v_template.astype(np.float64) + assets.shapedirs.astype(np.float64) @ betas
    skin = assets.faces_of("skin")
    triangles = triangulate(assets.faces[skin] if len(skin) else assets.faces)[0].astype(np.int64)
    moving = np.sqrt((assets.exprdirs.astype(np.float64) ** 2).sum((1, 2)))
    own = assets.lbs_weights[:, 1:].sum(1)[triangles].min(1) >= _HEAD_SHARE
    triangles = triangles[own] if own.any() else triangles
    normals = vertex_normals(vertices, triangles)
    at, bary = _spread(vertices[triangles])
    corners = triangles[at]

    def carried(values: np.ndarray) -> np.ndarray:
        return np.einsum("nk...,nk->n...", values[corners], bary)

    points, facing = carried(vertices), carried(normals)
    outside = _outside(points, facing)
    points, facing, moves = points[outside], facing[outside], carried(moving)[outside]
    joints = assets.J_regressor.astype(np.float64) @ vertices
    return RigidHead(
        points=points,
        normals=facing / np.maximum(np.linalg.norm(facing, axis=1, keepdims=True), 1e-12),
        weights=1.0 / (1.0 + (moves / _MOVES_M) ** 2),
        patches=tuple(_patches(points, size) for size in _PATCH_POINTS),
        centre=points.mean(0),
        root=joints[0],
    )


def _spread(triangles: Float[np.ndarray, "F 3 3"]) -> tuple[Int[np.ndarray, " N"], Float[np.ndarray, "N 3"]]:
    """Triangles and weights of evenly spread points: as many per area everywhere (Kronecker's sequence, no chance)."""
    area = np.linalg.norm(np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]), axis=1)
    ends = np.cumsum(area)
    places = (np.arange(NUM_POINTS) + 0.5) / NUM_POINTS * ends[-1]
    chosen = np.minimum(np.searchsorted(ends, places), len(triangles) - 1)
    steps = np.arange(1, NUM_POINTS + 1)[:, None] * np.array([0.7548776662466927, 0.5698402909980532])
    u, v = (steps % 1.0).T
    over = u + v > 1
    u, v = np.where(over, 1 - u, u), np.where(over, 1 - v, v)
    return chosen, np.stack([1 - u - v, u, v], axis=1)


def _outside(points: np.ndarray, normals: np.ndarray) -> Bool[np.ndarray, " N"]:
    """Points that can be seen from outside: nostrils, the mouth's inside and what lies under lids cannot.

    A point is inside when another lies shortly before it, in the direction of its normal.
    """
    points = points - points.mean(0)
    across = points @ points.T
    square = (points**2).sum(1)
    ahead = normals @ points.T - (normals * points).sum(1)[:, None]
    aside = np.sqrt(np.maximum(square[:, None] + square - 2 * across - ahead**2, 0.0))
    return ~((ahead > 0.004) & (ahead < 0.03) & (aside < 0.004)).any(1)


def _patches(points: Float[np.ndarray, "N 3"], size: int) -> Patches:
    """Patches of about so many points: around points that lie far from each other (Gonzalez 1985)."""
    chosen = [0]
    nearest = np.full(len(points), np.inf)
    group = np.zeros(len(points), np.int64)
    for k in range(max(1, len(points) // size)):
        apart = ((points - points[chosen[-1]]) ** 2).sum(1)
        group[apart < nearest] = k
        nearest = np.minimum(nearest, apart)
        chosen.append(int(np.argmax(nearest)))
    order = np.argsort(group, kind="stable")
    starts = np.searchsorted(group[order], np.arange(group.max() + 1))
    return Patches(order, starts, group)


def _in_front(camera: Float[np.ndarray, "N 3"]) -> Bool[np.ndarray, " N"]:
    """Which points no other part of the head hides: a coarse depth buffer over the points themselves."""
    depth = camera[:, 2]
    middle = float(np.median(depth))
    cells = np.floor(camera[:, :2] / depth[:, None] * (middle / _CELL_M)).astype(np.int64)
    cells -= cells.min(0) - 1
    wide, high = (cells.max(0) + 2).tolist()
    nearest = np.full((high, wide), np.inf)
    np.minimum.at(nearest, (cells[:, 1], cells[:, 0]), depth)
    around = nearest.copy()
    for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0)):
        around = np.minimum(around, np.roll(nearest, (dy, dx), (0, 1)))
    return depth < around[cells[:, 1], cells[:, 0]] + _HIDDEN_M
