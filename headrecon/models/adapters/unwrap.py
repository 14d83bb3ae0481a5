"""A plain UV unwrap for models that come without one: the head from its centre like a globe, eyeballs as discs.

The globe is cut along the back (longitude is 0.5 towards +z); latitude rather than height is the second coordinate, so
that the crown and the underside of the chin keep their area. Faces that hide behind others as seen from the centre
(nostrils, behind the ears) share texture with what covers them: good enough to paint, worse than a made-up layout.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

#: Corners (u, v) of the boxes in the texture: the head below, both eyeballs above it.
_HEAD_BOX = ((0.005, 0.005), (0.995, 0.84))
_EYE_BOXES = (((0.02, 0.855), (0.155, 0.99)), ((0.845, 0.855), (0.98, 0.99)))


def unwrap_head(
    vertices: Float[np.ndarray, "V 3"],
    faces: Int[np.ndarray, "F 3"],
    eyes: tuple[Int[np.ndarray, " A"], Int[np.ndarray, " B"]],
) -> tuple[Float[np.ndarray, "T 2"], Int[np.ndarray, "F 3"]]:
    """UVs in 0..1 and their faces; vertices on a seam get one UV for each side.

    `eyes` are the faces of the subject's left and right eyeball (either may be empty).
    """
    corners = np.zeros((len(faces), 3, 2))
    head = np.setdiff1d(np.arange(len(faces)), np.concatenate(eyes))
    corners[head] = _globe(vertices, faces[head])
    for own, box in zip(eyes, _EYE_BOXES, strict=True):
        if len(own):
            corners[own] = _into_box(_disc(vertices, faces[own]), box, (0.0, 0.0), (1.0, 1.0))
    return _merge(faces, corners)


def _globe(vertices: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"]) -> Float[np.ndarray, "F 3 2"]:
    """Longitude and latitude about the middle of the head, scaled into its box."""
    used = vertices[np.unique(faces)]
    low, high = used.min(0), used.max(0)
    # Two thirds up: the middle of the skull, not of skull, neck and shoulders.
    centre = np.array([(low[0] + high[0]) / 2, low[1] + (high[1] - low[1]) * 2 / 3, (low[2] + high[2]) / 2])
    d = vertices[faces] - centre
    across = np.hypot(d[..., 0], d[..., 2])
    own = np.arctan2(*d.mean(1)[:, [0, 2]].T)
    at_pole = across < 1e-6 * np.ptp(used[:, 1])
    longitude = _about_own(np.where(at_pole, own[:, None], np.arctan2(d[..., 0], d[..., 2])), own)
    uv = np.stack([longitude, np.arctan2(d[..., 1], across)], axis=-1)
    # Faces on the cut reach a little beyond half a turn; the same on both sides keeps the nose in the middle.
    reach = np.abs(longitude).max()
    return _into_box(uv, _HEAD_BOX, (-reach, uv[..., 1].min()), (reach, uv[..., 1].max()))


def _disc(vertices: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"]) -> Float[np.ndarray, "F 3 2"]:
    """Azimuthal equidistant about +z: the pupil in the middle (0.5, 0.5), the back of the ball on the rim."""
    used = vertices[np.unique(faces)]
    d = vertices[faces] - (used.min(0) + used.max(0)) / 2
    length = np.maximum(np.linalg.norm(d, axis=-1), 1e-12)
    radius = np.arccos(np.clip(d[..., 2] / length, -1, 1)) / (2 * np.pi)
    middle = d.mean(1)
    at_pole = np.hypot(d[..., 0], d[..., 1]) < 1e-6 * length
    own = np.arctan2(middle[:, 1], middle[:, 0])
    azimuth = _about_own(np.where(at_pole, own[:, None], np.arctan2(d[..., 1], d[..., 0])), own)
    # A face around the back pole would span the whole disc; nobody sees it, so it becomes a point on the rim.
    around = (np.ptp(azimuth, axis=1) > np.pi) & (middle[:, 2] < 0)
    azimuth[around] = own[around, None]
    radius[around] = 0.5
    return 0.5 + radius[..., None] * np.stack([np.cos(azimuth), np.sin(azimuth)], axis=-1)


def _about_own(angles: Float[np.ndarray, "F 3"], own: Float[np.ndarray, " F"]) -> Float[np.ndarray, "F 3"]:
    """Angles of the corners within half a turn of the face's own, so that no face wraps around."""
    gap = angles - own[:, None]
    return angles - 2 * np.pi * np.round(gap / (2 * np.pi))


def _into_box(uv, box, low, high) -> Float[np.ndarray, "F 3 2"]:
    (start, end), low, high = np.array(box), np.array(low), np.array(high)
    return start + (uv - low) / np.maximum(high - low, 1e-12) * (end - start)


def _merge(
    faces: Int[np.ndarray, "F 3"], corners: Float[np.ndarray, "F 3 2"]
) -> tuple[Float[np.ndarray, "T 2"], Int[np.ndarray, "F 3"]]:
    """One UV for each distinct (vertex, uv) pair."""
    keys = np.column_stack([faces.ravel(), np.round(corners.reshape(-1, 2) * 1e7).astype(np.int64)])
    _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    return corners.reshape(-1, 2)[first], inverse.reshape(faces.shape).astype(np.int32)
