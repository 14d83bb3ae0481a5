"""Reads back what a head's own GLB holds: the neutral mesh in the order of its model, and the texture.

Only files of `io.meshes.glb`: the order of their vertices follows from the model, so every corner finds its vertex.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from headrecon.errors import InputError
from headrecon.io.images import MAX_MEGAPIXELS
from headrecon.io.meshes.glb import face_groups
from headrecon.io.meshes.glb_reader import BAD, Glb, open_glb
from headrecon.io.meshes.loaded import read_bytes
from headrecon.io.meshes.topology import split_at_seams
from headrecon.structures import HeadAssets, triangulate


def read_rigged(path: str | Path, assets: HeadAssets) -> tuple[Float[np.ndarray, "V 3"], UInt8[np.ndarray, "S s 3"]]:
    """The neutral head (metres, float64; vertices that no face uses are NaN) and the texture of a `head.glb`.

    Raises InputError when the file is damaged, is not one of ours, or belongs to another head model.
    """
    path = Path(path)
    glb = open_glb(path, read_bytes(path))
    try:
        maker = glb.json["asset"].get("extras", {}).get("headModel")
        if maker != assets.name:
            raise InputError(f"{path} is of the head model {maker!r}; expected {assets.name!r}, as head.json says")
        return _vertices(glb, assets, path), _texture(glb, path)
    except BAD as error:
        raise InputError(f"{path}: the GLB is damaged ({type(error).__name__}: {error}); make it again") from error


def _vertices(glb: Glb, assets: HeadAssets, path: Path) -> Float[np.ndarray, "V 3"]:
    triangles, owner = triangulate(assets.faces)
    uv_triangles, _ = triangulate(assets.uv_faces)
    groups = [faces for _, faces in face_groups(assets) if len(faces)]
    primitives = glb.json["meshes"][0]["primitives"]
    out = np.full((assets.num_vertices, 3), np.nan)
    if len(primitives) != len(groups):
        raise _other_version(path, assets)
    for faces, primitive in zip(groups, primitives, strict=True):
        own = np.isin(owner, faces)
        source = split_at_seams(triangles[own], uv_triangles[own], assets.uvs).source
        points = glb.accessor(primitive["attributes"]["POSITION"])
        if points.shape != (len(source), 3) or not np.isfinite(points).all():
            raise _other_version(path, assets)
        out[source] = points
    return out


def _other_version(path: Path, assets: HeadAssets) -> InputError:
    return InputError(
        f"{path} does not fit the head model {assets.name!r} as it is here (other vertices); make the head again"
    )


def _texture(glb: Glb, path: Path) -> UInt8[np.ndarray, "S s 3"]:
    from PIL import Image

    material: dict[str, Any] = glb.json["materials"][0]["pbrMetallicRoughness"]
    texture = glb.json["textures"][material["baseColorTexture"]["index"]]
    view = glb.json["bufferViews"][glb.json["images"][texture["source"]]["bufferView"]]
    start = view.get("byteOffset", 0)
    data = glb.binary[start : start + view["byteLength"]]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as picture:
                if picture.width * picture.height > 1e6 * MAX_MEGAPIXELS:
                    raise InputError(f"{path}: its texture is larger than {MAX_MEGAPIXELS:.0f} megapixels")
                return np.array(picture.convert("RGB"))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: its texture cannot be read ({error}); make the head again") from error
