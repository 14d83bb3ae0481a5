"""A glTF reader of a hundred lines, written from the specification and not from our writer, so that it can disagree."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

_TYPES = {5120: "i1", 5121: "u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_SIZES = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}


@dataclass
class Primitive:
    attributes: dict[str, np.ndarray]
    triangles: np.ndarray
    targets: list[dict[str, np.ndarray]]
    material: dict[str, Any]


class Glb:
    """The JSON of a GLB and its arrays."""

    def __init__(self, path: Path) -> None:
        data = path.read_bytes()
        magic, version, length = struct.unpack("<4sII", data[:12])
        assert (magic, version, length) == (b"glTF", 2, len(data))
        json_length, kind = struct.unpack("<I4s", data[12:20])
        assert kind == b"JSON"
        self.json: dict[str, Any] = json.loads(data[20 : 20 + json_length])
        bin_length, kind = struct.unpack("<I4s", data[20 + json_length : 28 + json_length])
        assert kind == b"BIN\0"
        self.bin = data[28 + json_length : 28 + json_length + bin_length]

    def _raw(self, view: int, offset: int, dtype: str, count: int) -> np.ndarray:
        start = self.json["bufferViews"][view].get("byteOffset", 0) + offset
        return np.frombuffer(self.bin, dtype, count, start)

    def array(self, index: int) -> np.ndarray:
        a = self.json["accessors"][index]
        size, dtype = _SIZES[a["type"]], _TYPES[a["componentType"]]
        if "bufferView" in a:
            out = self._raw(a["bufferView"], a.get("byteOffset", 0), dtype, a["count"] * size).reshape(-1, size).copy()
        else:
            out = np.zeros((a["count"], size), dtype)
        if "sparse" in a:
            s, n = a["sparse"], a["sparse"]["count"]
            rows = self._raw(
                s["indices"]["bufferView"], s["indices"].get("byteOffset", 0), _TYPES[s["indices"]["componentType"]], n
            )
            values = self._raw(s["values"]["bufferView"], s["values"].get("byteOffset", 0), dtype, n * size)
            out[rows] = values.reshape(-1, size)
        return out

    def image(self, index: int = 0) -> bytes:
        view = self.json["bufferViews"][self.json["images"][index]["bufferView"]]
        return self.bin[view.get("byteOffset", 0) :][: view["byteLength"]]

    def primitives(self) -> list[Primitive]:
        return [
            Primitive(
                {k: self.array(i) for k, i in p["attributes"].items()},
                self.array(p["indices"]).reshape(-1, 3).astype(np.int64),
                [{k: self.array(i) for k, i in t.items()} for t in p["targets"]],
                self.json["materials"][p["material"]],
            )
            for p in self.json["meshes"][0]["primitives"]
        ]

    def world_matrices(self, rotations: dict[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
        """Node name to world matrix; `rotations` (3x3 by node name) replace those in the file."""
        nodes, out = self.json["nodes"], {}

        def visit(index: int, parent: np.ndarray) -> None:
            node = nodes[index]
            local = np.eye(4)
            local[:3, :3] = _quaternion_matrix(node.get("rotation", [0, 0, 0, 1]))
            if rotations and node["name"] in rotations:
                local[:3, :3] = rotations[node["name"]]
            local[:3, 3] = node.get("translation", [0, 0, 0])
            out[node["name"]] = parent @ local
            for child in node.get("children", []):
                visit(child, out[node["name"]])

        for root in self.json["scenes"][self.json["scene"]]["nodes"]:
            visit(root, np.eye(4))
        return out

    def skinned(
        self, primitive: Primitive, weights: np.ndarray | None = None, rotations: dict[str, np.ndarray] | None = None
    ) -> np.ndarray:
        """Vertices as a viewer shows them: morphs, then linear blend skinning (specification 3.7.3)."""
        if weights is None:
            weights = np.array(self.json["meshes"][0]["weights"])
        p = primitive.attributes["POSITION"].astype(np.float64)
        for weight, target in zip(weights, primitive.targets, strict=True):
            p = p + weight * target["POSITION"]
        skin, world = self.json["skins"][0], self.world_matrices(rotations)
        inverse_bind = self.array(skin["inverseBindMatrices"]).reshape(-1, 4, 4).transpose(0, 2, 1)
        matrices = [world[self.json["nodes"][n]["name"]] @ b for n, b in zip(skin["joints"], inverse_bind, strict=True)]
        blend = np.zeros((len(p), 4, 4))
        for slot in range(4):
            joint, weight = primitive.attributes["JOINTS_0"][:, slot], primitive.attributes["WEIGHTS_0"][:, slot]
            blend += weight[:, None, None] * np.stack(matrices)[joint]
        return np.einsum("vij,vj->vi", blend[:, :3, :3], p) + blend[:, :3, 3]


def _quaternion_matrix(q: list[float]) -> np.ndarray:
    from scipy.spatial.transform import Rotation

    return Rotation.from_quat(q).as_matrix()
