"""Where in a texture the other half of the face lies: for every vertex the UV of its mirror image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headrecon.geometry.closest import SurfaceIndex
from headrecon.structures import HeadAssets, triangulate

#: Mirror images this near to a vertex (metres) are taken to be that vertex; else the nearest place on the surface.
_SAME_M = 0.0003
#: Beyond this distance (metres) there is no mirror image.
_REACH_M = 0.004
#: A triangle whose mirror image is this many times longer in the texture is cut by a seam there.
_STRETCH = 4.0


@dataclass(frozen=True)
class MirrorMap:
    """uv: place of each vertex's mirror image (v up). valid: of each triangle, whether all of it may be looked up."""

    uv: Float[Tensor, "V 2"]
    valid: Bool[Tensor, " F"]


def mirror_map(assets: HeadAssets) -> MirrorMap:
    """UVs of mirror images in x on the template. Lookups between them are good inside triangles that are `valid`."""
    from scipy.spatial import KDTree

    template = assets.v_template.astype(np.float64)
    mirrored = template * np.array([-1.0, 1.0, 1.0])
    distance, nearest = KDTree(template).query(mirrored)
    uv_of = _uv_of_vertices(assets)
    uv, good = uv_of[nearest], np.asarray(distance) < _SAME_M
    left = np.flatnonzero(~good)
    triangles, uv_triangles = triangulate(assets.faces)[0], triangulate(assets.uv_faces)[0]
    if len(left):
        found = SurfaceIndex(template, triangles).query(mirrored[left])
        corners = assets.uvs[uv_triangles[found.face]]
        uv[left] = (corners * found.barycentrics[..., None]).sum(1)
        good[left] = found.distance < _REACH_M
    own = _longest(assets.uvs[uv_triangles])
    there = _longest(uv[triangles])
    valid = good[triangles].all(1) & (there < _STRETCH * own + 1e-4)
    return MirrorMap(torch.from_numpy(uv.astype(np.float32)), torch.from_numpy(valid))


def _uv_of_vertices(assets: HeadAssets) -> Float[np.ndarray, "V 2"]:
    """One of the UVs that each vertex has; those on a seam have several."""
    used = assets.faces >= 0
    out = np.zeros((assets.num_vertices, 2))
    out[assets.faces[used]] = assets.uvs[assets.uv_faces[used]]
    return out


def _longest(corners: Float[np.ndarray, "F 3 2"]) -> Float[np.ndarray, " F"]:
    return np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2).max(1)
