"""All vertices of a posed head in numpy, for what needs no gradient: outlines, normals, files, pictures.

The joints come from a `PointModel`, which has the chain of rotations already; `HeadModel` is the differentiable twin.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from headrecon.models.point_model import PointModel
from headrecon.structures import HeadAssets, LandmarkEmbedding


def posed_vertices(
    assets: HeadAssets,
    joints: PointModel,
    x: Float[np.ndarray, " P"],
    offsets: Float[np.ndarray, "V 3"] | None = None,
) -> Float[np.ndarray, "V 3"]:
    """Vertices in metres (float64) at the flat parameters `x` of `joints.layout`.

    joints: any `PointModel` of the same assets. offsets: metres added to the neutral head, such as hair.
    Linear blend skinning as in `HeadModel` (Loper et al. 2015, section 3).
    The shape terms are summed in the precision of the assets' arrays (float32: about 1e-8 m).
    """
    s, count = joints.layout.slices, assets.num_vertices
    rest = assets.v_template.reshape(-1).astype(np.float64)
    for directions, name in ((assets.shapedirs, "betas"), (assets.exprdirs, "expression")):
        rest += directions.reshape(3 * count, -1) @ x[s[name]].astype(directions.dtype)
    if offsets is not None:
        rest += offsets.reshape(-1)
    local, rest_joints, rotations, positions = joints.pose(x)
    if assets.posedirs is not None:
        rest += (local[1:] - np.eye(3)).reshape(-1) @ assets.posedirs
    shift = positions - np.einsum("jab,jb->ja", rotations, rest_joints)
    # One product blends rotations and shifts of all joints for every vertex.
    blended = assets.lbs_weights @ np.concatenate([rotations.reshape(-1, 9), shift], axis=1)
    turned = np.einsum("vab,vb->va", blended[:, :9].reshape(-1, 3, 3), rest.reshape(-1, 3))
    return turned + blended[:, 9:] + x[s["transl"]]


def embed(vertices: Float[np.ndarray, "V 3"], embedding: LandmarkEmbedding) -> Float[np.ndarray, "L 3"]:
    """The landmark positions on given vertices (NumPy twin of what `HeadOutput.landmarks` holds)."""
    return (vertices[embedding.vertex_ids] * embedding.barycentrics[..., None]).sum(1)
