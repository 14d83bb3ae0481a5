"""Eyeballs and the lids on them.

A model's identities carry eyeballs and skin apart from each other: a shape that photos ask for can leave a lid's rim a
millimetre inside of the eyeball, which then shows through it with a ragged edge. People's lids lie on their eyes; so
wherever a head's shape is settled, the eyeballs are put back behind the lids, and what is left goes to the rims.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from headrecon.structures import HeadAssets

#: Skin so near to an eyeball, at rest, is a lid's rim (metres); beyond the second distance lids end.
LID_RIM_M, LID_ENDS_M = 2.5e-3, 8e-3
#: Rims in front of the eyeball's middle by this much are those that show.
_FRONT_M = 3e-3
#: Reach of the mean that a rim's neighbours take over, metres.
_SPREAD_M = 2e-3


@dataclass(frozen=True)
class EyeSocket:
    """eyeball: its vertices. near: other vertices within `LID_ENDS_M` of it at rest; distance: of those, metres."""

    eyeball: Int[np.ndarray, " N"]
    near: Int[np.ndarray, " M"]
    distance: Float[np.ndarray, " M"]

    @property
    def share(self) -> Float[np.ndarray, " M"]:
        """How much of the eyeball's motion the near vertices share: 1 at the rim, smoothly 0 where lids end."""
        way = np.clip((self.distance - LID_RIM_M) / (LID_ENDS_M - LID_RIM_M), 0.0, 1.0)
        return 1 - way**2 * (3 - 2 * way)


def eye_sockets(assets: HeadAssets) -> list[EyeSocket]:
    """The model's eyes, left one first; models without eyeballs have none."""
    at = assets.v_template.astype(np.float64)
    faces = [assets.faces[assets.faces_of(name)] for name in ("leye", "reye")]
    balls = [np.unique(f[f >= 0]) for f in faces if len(f)]
    free = np.ones(len(at), bool)
    for ball in balls:
        free[ball] = False
    out = []
    for ball in balls:
        low, high = at[ball].min(0) - LID_ENDS_M, at[ball].max(0) + LID_ENDS_M
        around = np.flatnonzero(free & ((at >= low) & (at <= high)).all(1))
        apart = np.concatenate([_nearest(at[part], at[ball]) for part in np.array_split(around, len(around) // 64 + 1)])
        near = apart < LID_ENDS_M
        out.append(EyeSocket(ball, around[near], apart[near]))
    return out


def _nearest(points: Float[np.ndarray, "M 3"], others: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, " M"]:
    return np.linalg.norm(points[:, None] - others, axis=2).min(1)


def seat_eyes(assets: HeadAssets, neutral: Float[np.ndarray, "V 3"]) -> Float[np.ndarray, "V 3"]:
    """Offsets that put eyeballs and lids of a head at rest as far from each other as the model's mean head has them.

    neutral: the head at rest, metres. The eyeballs move in depth, which nobody saw (their size and their place to the
    sides are what irises say), to where the rims' distances differ least from the mean head's, by least squares; what
    differs still moves the rims, along the eyeball's radius, and fades out over the lids. Zero for models without
    eyeballs. Milliseconds.
    """
    rest = assets.v_template.astype(np.float64)
    at = np.asarray(neutral, np.float64)
    out = np.zeros_like(at)
    for socket in eye_sockets(assets):
        middle, radius = _sphere(rest[socket.eyeball])
        shows = (socket.distance < LID_RIM_M) & (rest[socket.near, 2] > middle[2] + _FRONT_M)
        if not shows.any():
            continue
        rim = socket.near[shows]
        wanted = np.linalg.norm(rest[rim] - middle, axis=1) - radius
        middle, radius = _sphere(at[socket.eyeball])
        shift = np.array([0.0, 0.0, _depth(at[rim], middle, radius + wanted)])
        out[socket.eyeball] += shift
        outward = at[socket.near] - (middle + shift)
        distance = np.linalg.norm(outward, axis=1)
        missing = wanted - (distance[shows] - radius)
        apart = np.linalg.norm(rest[socket.near][:, None] - rest[rim], axis=2) / _SPREAD_M
        weight = np.exp(-0.5 * (apart**2 - (apart**2).min(1, keepdims=True)))
        amount = socket.share * (weight @ missing) / weight.sum(1)
        out[socket.near] += (amount / np.maximum(distance, 1e-6))[:, None] * outward
    return out


def _sphere(points: Float[np.ndarray, "N 3"]) -> tuple[Float[np.ndarray, "3"], float]:
    """Middle and radius of the sphere through points, by linear least squares."""
    about = points.mean(0)
    local = points - about
    solved = np.linalg.lstsq(np.c_[2 * local, np.ones(len(local))], (local**2).sum(1), rcond=None)[0]
    return about + solved[:3], float(np.sqrt(max(solved[3] + solved[:3] @ solved[:3], 0.0)))


def _depth(rim: Float[np.ndarray, "N 3"], middle: Float[np.ndarray, "3"], wanted: Float[np.ndarray, " N"]) -> float:
    """How far forward the eyeball goes so that rims lie at their wanted distances from its middle: Gauss-Newton."""
    depth = 0.0
    for _ in range(4):
        outward = rim - middle - [0.0, 0.0, depth]
        distance = np.linalg.norm(outward, axis=1)
        slope = -outward[:, 2] / distance
        depth += float(slope @ (wanted - distance) / (slope @ slope))
    return depth


__all__ = ["LID_ENDS_M", "LID_RIM_M", "EyeSocket", "eye_sockets", "seat_eyes"]
