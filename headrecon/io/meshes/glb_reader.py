"""Reads the surface of a binary glTF 2.0 file: triangles with UVs and base colour picture, at rest and unskinned.

Enough to score or show somebody's head or scan. Morph targets, skins and animations are left out: vertices are those of
the file, moved by the nodes that hold them (a skinned mesh ignores its node, as the specification says, 3.7.3.3).
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headrecon.errors import InputError
from headrecon.io.meshes.loaded import LoadedMesh, checked_indices, checked_vertices, read_bytes
from headrecon.structures import Mesh

_TYPES = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_SIZES = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}
_TRIANGLES = 4
_DEEPEST = 64
#: A file may claim any count; more than this is no mesh that fits a score, and would fill the memory.
_MOST = 20_000_000
BAD = (KeyError, IndexError, TypeError, ValueError, AttributeError, struct.error, RecursionError, OverflowError)


@dataclass
class Glb:
    """A file taken apart: its JSON and its binary chunk."""

    json: dict[str, Any]
    binary: bytes

    def accessor(self, index: int) -> np.ndarray:
        """[count, components] as float64 or integers; normalised integers become 0..1 or -1..1."""
        a = self.json["accessors"][_whole(index)]
        size, dtype, count = _SIZES[a["type"]], np.dtype(_TYPES[a["componentType"]]), _whole(a["count"])
        if count > _MOST:
            raise ValueError(f"an accessor of {count} entries")
        values = np.zeros((count, size), dtype)
        if "bufferView" in a:
            values = self._read(a["bufferView"], a.get("byteOffset", 0), dtype, count, size)
        if "sparse" in a:
            s = a["sparse"]
            n, kind = _whole(s["count"]), np.dtype(_TYPES[s["indices"]["componentType"]])
            rows = self._read(s["indices"]["bufferView"], s["indices"].get("byteOffset", 0), kind, n, 1)[:, 0]
            values = values.copy()
            values[rows] = self._read(s["values"]["bufferView"], s["values"].get("byteOffset", 0), dtype, n, size)
        if a.get("normalized") and dtype.kind in "iu":
            return np.maximum(values / np.iinfo(dtype).max, -1.0)
        return values.astype(np.float64) if dtype.kind == "f" else values.astype(np.int64)

    def _read(self, view: int, offset: int, dtype: np.dtype, count: int, size: int) -> np.ndarray:
        v = self.json["bufferViews"][_whole(view)]
        if v.get("buffer", 0) != 0:
            raise ValueError("a buffer outside the file; export as one .glb")
        start, width = _whole(v.get("byteOffset", 0)) + _whole(offset), dtype.itemsize * size
        stride = _whole(v.get("byteStride", width))
        if count == 0:
            return np.zeros((0, size), dtype)
        if stride < width or start + stride * (count - 1) + width > len(self.binary):
            raise ValueError("a buffer view that reaches beyond the file")
        flat = np.frombuffer(self.binary, np.uint8)[start:]
        rows = np.lib.stride_tricks.as_strided(flat, (count, width), (stride, 1))
        return np.ascontiguousarray(rows).view(dtype).reshape(count, size)


def read_glb(path: str | Path, keep_nan: bool = False) -> LoadedMesh:
    """Read every triangle mesh of the file's scene as one mesh. Raises InputError for anything that cannot be read.

    Compressed meshes (Draco, meshopt) are refused with a message, as are vertices that are not finite unless keep_nan.
    """
    path = Path(path)
    glb = open_glb(path, read_bytes(path))
    try:
        _refuse_extensions(path, glb.json)
        pieces = _pieces(glb)
        parts = [piece for mesh, matrix in pieces for piece in _primitives(glb, mesh, matrix)]
    except BAD as error:
        raise InputError(
            f"mesh {path}: the GLB is damaged or not glTF 2.0 ({type(error).__name__}: {error})"
        ) from error
    if not parts:
        raise InputError(f"mesh {path}: the GLB holds no triangles")
    return _joined(path, parts, keep_nan)


def open_glb(path: Path, data: bytes) -> Glb:
    """Take a file apart. Raises InputError when it is no glTF 2.0 in one file."""
    if len(data) < 20 or data[:4] != b"glTF":
        raise InputError(f"mesh {path} is no binary glTF: expected a file that starts with 'glTF'")
    try:
        version, _length, json_length, kind = struct.unpack("<4xII I4s", data[:20])
        document = json.loads(data[20 : 20 + json_length]) if kind == b"JSON" else None
    except BAD as error:
        raise InputError(f"mesh {path}: the GLB's JSON is damaged ({error})") from error
    if version != 2 or not isinstance(document, dict):
        raise InputError(f"mesh {path}: expected glTF 2.0, found version {version}")
    start = 20 + json_length + (-json_length % 4)
    binary = data[start + 8 :] if data[start + 4 : start + 8] == b"BIN\0" else b""
    return Glb(document, binary[: int.from_bytes(data[start : start + 4], "little")])


def _refuse_extensions(path: Path, document: dict[str, Any]) -> None:
    unknown = [x for x in document.get("extensionsRequired", ()) if "draco" in x.lower() or "meshopt" in x.lower()]
    if unknown:
        raise InputError(f"mesh {path} is compressed ({', '.join(unknown)}); export it without compression")


def _pieces(glb: Glb) -> list[tuple[dict[str, Any], np.ndarray]]:
    """Meshes of the scene with their world matrices; every mesh of the file where it has no scene."""
    nodes, scenes = glb.json.get("nodes", []), glb.json.get("scenes", [])
    if not scenes:
        return [(mesh, np.eye(4)) for mesh in glb.json.get("meshes", [])]
    out: list[tuple[dict[str, Any], np.ndarray]] = []

    def visit(index: int, parent: np.ndarray, depth: int) -> None:
        if depth > _DEEPEST or len(out) > len(nodes):
            raise ValueError("nodes that contain themselves")
        node = nodes[_whole(index)]
        world = parent @ _local(node)
        if "mesh" in node:
            skinned = "skin" in node
            out.append((glb.json["meshes"][_whole(node["mesh"])], np.eye(4) if skinned else world))
        for child in node.get("children", []):
            visit(child, world, depth + 1)

    for root in scenes[_whole(glb.json.get("scene", 0))].get("nodes", []):
        visit(root, np.eye(4), 0)
    return out


def _local(node: dict[str, Any]) -> np.ndarray:
    if "matrix" in node:
        return np.array(node["matrix"], dtype=np.float64).reshape(4, 4).T
    out = np.eye(4)
    x, y, z, w = np.array(node.get("rotation", (0, 0, 0, 1)), dtype=np.float64)
    out[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    out[:3, :3] *= np.array(node.get("scale", (1, 1, 1)), dtype=np.float64)
    out[:3, 3] = np.array(node.get("translation", (0, 0, 0)), dtype=np.float64)
    return out


_Part = tuple[np.ndarray, np.ndarray, "np.ndarray | None"]


def _primitives(glb: Glb, mesh: dict[str, Any], matrix: np.ndarray) -> list[_Part]:
    """(vertices, triangles, UVs with v up or None) of each triangle primitive."""
    out: list[_Part] = []
    for primitive in mesh["primitives"]:
        if primitive.get("mode", _TRIANGLES) != _TRIANGLES or "POSITION" not in primitive["attributes"]:
            continue
        points = glb.accessor(primitive["attributes"]["POSITION"]).astype(np.float64)
        if points.shape[1] != 3:
            raise ValueError("positions that are not triples")
        indices = np.arange(len(points)) if "indices" not in primitive else glb.accessor(primitive["indices"])[:, 0]
        triangles = indices[: len(indices) // 3 * 3].reshape(-1, 3)
        uvs = None
        if "TEXCOORD_0" in primitive["attributes"]:
            uvs = glb.accessor(primitive["attributes"]["TEXCOORD_0"])[:, :2] * [1, -1] + [0, 1]
            if len(uvs) != len(points):
                raise ValueError("texture coordinates that do not match the positions")
        out.append((points @ matrix[:3, :3].T + matrix[:3, 3], triangles, uvs))
    return out


def _joined(path: Path, parts: list[_Part], keep_nan: bool) -> LoadedMesh:
    offsets = np.cumsum([0] + [len(points) for points, _, _ in parts[:-1]])
    for (points, triangles, _), _offset in zip(parts, offsets, strict=True):
        checked_indices(path, triangles, len(points), "vertex")
    vertices = checked_vertices(path, np.concatenate([p for p, _, _ in parts]), keep_nan)
    faces = np.concatenate([t + o for (_, t, _), o in zip(parts, offsets, strict=True)]).astype(np.int64)
    if any(uv is None for _, _, uv in parts):
        return LoadedMesh(Mesh(vertices, faces))
    uvs = np.concatenate([uv for _, _, uv in parts if uv is not None])
    return LoadedMesh(Mesh(vertices, faces, uvs, faces))


def _whole(value: Any) -> int:
    """A count or index of the document; anything but a whole number from 0 on is damage."""
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} where a whole number was expected")
    return value
