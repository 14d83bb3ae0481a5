"""What other programs need to move an avatar's splats: the rigged head, and how each splat is bound to it.

`rig.glb` is the head at rest with its expressions and joints. `bindings.safetensors` holds the avatar's own arrays by
the names of its file, and where each triangle of the head model is found in `rig.glb`. docs/formats.md, "Splats that
move", says how they are put together.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

from headrecon.avatars.protocol import SplatAvatar
from headrecon.errors import InputError
from headrecon.io.meshes.glb import RiggedHead, face_groups, write_glb
from headrecon.io.meshes.topology import split_at_seams
from headrecon.io.tensor_files import write_tensors
from headrecon.structures import HeadAssets, triangulate

RIG_FILES = ("rig.glb", "bindings.safetensors")
SCHEMA = "headrecon.splat-rig/1"
#: Where no photo coloured the head: its splats do.
_PLAIN = (198, 178, 166)
_ABOUT = (
    "Splats bound to the triangles of a head. rig.glb beside this file is the head at rest; triangle t of its model "
    "is the triangle with vertices rig.corners[t] of the mesh's primitive rig.primitives[t]. docs/formats.md of "
    "headrecon, section 'Splats that move', describes every array."
)


def write_rig(
    folder: Path, prefix: str, avatar: SplatAvatar, texture: UInt8[np.ndarray, "S s 3"] | None = None
) -> tuple[Path, Path]:
    """Write both files, their names after `prefix`. texture: of the head; None is plain skin.

    Raises InputError for an avatar that cannot say how its splats are bound.
    """
    bind: Any = getattr(avatar, "bindings", None)
    if bind is None:
        raise InputError(f"an avatar of the kind {avatar.kind} has no rig to write; leave out --rig")
    person = avatar.person
    glb, tensors = (folder / f"{prefix}{name}" for name in RIG_FILES)
    vertices = person.assets.v_template + person.offsets
    texture = np.full((8, 8, 3), _PLAIN, np.uint8) if texture is None else texture
    write_glb(glb, RiggedHead(person.assets, vertices, texture, licences=person.licences, offsets=person.offsets))
    primitives, corners = corners_in_glb(person.assets)
    arrays = {**bind(), "rig.primitives": primitives, "rig.corners": corners}
    if avatar.kind == "gaussian":
        from headrecon.avatars.gaussian.splat_rig import UNITS

        arrays["rig.correction_units"] = np.array(UNITS, np.float32)
    licences = "; ".join(dict.fromkeys(f"{x.name}: {x.spdx}" for x in person.licences))
    write_tensors(tensors, arrays, {"schema": SCHEMA, "kind": avatar.kind, "about": _ABOUT, "licences": licences})
    return glb, tensors


def corners_in_glb(assets: HeadAssets) -> tuple[Int[np.ndarray, " T"], Int[np.ndarray, "T 3"]]:
    """For each triangle of the model (quads split by `structures.triangulate`): the primitive of a GLB by
    `io.meshes.glb` that holds it, and its three vertices there."""
    triangles, owner = triangulate(assets.faces)
    uv_triangles, _ = triangulate(assets.uv_faces)
    primitives = np.zeros(len(triangles), np.int32)
    corners = np.zeros((len(triangles), 3), np.int32)
    for number, faces in enumerate(f for _, f in face_groups(assets) if len(f)):
        own = np.isin(owner, faces)
        primitives[own] = number
        corners[own] = split_at_seams(triangles[own], uv_triangles[own], assets.uvs).triangles
    return primitives, corners
