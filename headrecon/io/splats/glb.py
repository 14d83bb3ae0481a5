"""Binary glTF 2.0 with KHR_gaussian_splatting (Khronos, ratified 2026): splats where a viewer knows them, else points.

A point primitive with the kernel `ellipse` in the colour space `srgb_rec709_display`: place, rotation (xyzw), scale and
opacity as they are (no logarithms), harmonics by degree; COLOR_0 for viewers that draw points, linear as glTF wants
it. float32 throughout, so nothing is lost.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from headrecon.errors import InputError
from headrecon.io.meshes.glb_reader import BAD, Glb, open_glb
from headrecon.io.splats.cloud import SplatCloud, check_count, checked, cloud_from, read_whole, write_whole
from headrecon.structures import Gaussians, Licence

EXTENSION = "KHR_gaussian_splatting"
_KERNEL = {
    "kernel": "ellipse",
    "colorSpace": "srgb_rec709_display",
    "projection": "perspective",
    "sortingMethod": "cameraDistance",
}
_COMPONENTS = {"<f4": 5126, "<u2": 5123}
_TYPES = {1: "SCALAR", 3: "VEC3", 4: "VEC4"}
_ARRAY_BUFFER = 34962
_POINTS = 0


def write_splat_glb(path: str | Path, gaussians: Gaussians, licences: Sequence[Licence] = ()) -> None:
    """Write Gaussians in head space, in their order. licences: of what they were made from. Raises InputError."""
    write_whole(path, *glb_parts(cloud_from(gaussians), licences))


def glb_parts(cloud: SplatCloud, licences: Sequence[Licence] = ()) -> tuple[bytes, bytes]:
    """Header with JSON, and the binary chunk."""
    attributes: dict[str, int] = {}
    accessors: list[dict[str, Any]] = []
    views: list[dict[str, Any]] = []
    blob = bytearray()
    for name, values in _attributes(cloud).items():
        data = np.ascontiguousarray(values).tobytes()  # every row is a multiple of 4 bytes long, as glTF wants it
        views.append({"buffer": 0, "byteOffset": len(blob), "byteLength": len(data), "target": _ARRAY_BUFFER})
        accessor = {
            "bufferView": len(views) - 1,
            "componentType": _COMPONENTS[values.dtype.str],
            "count": len(values),
            "type": _TYPES[values.shape[1]],
        }
        if values.dtype.kind == "u":
            accessor["normalized"] = True
        if name == "POSITION":
            accessor |= {"min": values.min(0).tolist(), "max": values.max(0).tolist()}
        attributes[name] = len(accessors)
        accessors.append(accessor)
        blob += data
    document = {
        "asset": _asset(licences),
        "extensionsUsed": [EXTENSION],
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"name": "splats", "mesh": 0}],
        "meshes": [{"primitives": [{"attributes": attributes, "mode": _POINTS, "extensions": {EXTENSION: _KERNEL}}]}],
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": len(blob)}],
    }
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    total = 12 + 8 + len(text) + 8 + len(blob)
    start = struct.pack("<4sII", b"glTF", 2, total) + struct.pack("<I4s", len(text), b"JSON") + text
    return start + struct.pack("<I4s", len(blob), b"BIN\0"), bytes(blob)


def _attributes(cloud: SplatCloud) -> dict[str, np.ndarray]:
    colour = cloud.colours.astype(np.float64).clip(0, 1)
    linear = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)  # IEC 61966-2-1
    points = np.concatenate([linear, cloud.opacities[:, None]], axis=1)
    found = {
        "POSITION": cloud.means,
        "COLOR_0": np.rint(points * 65535).astype("<u2"),
        f"{EXTENSION}:ROTATION": cloud.quats_wxyz[:, [1, 2, 3, 0]],
        f"{EXTENSION}:SCALE": cloud.scales,
        f"{EXTENSION}:OPACITY": cloud.opacities[:, None],
    }
    for name, k in _harmonic_names(cloud.degree):
        found[name] = cloud.sh[:, k]
    return {name: v if v.dtype.kind == "u" else v.astype("<f4") for name, v in found.items()}


def _harmonic_names(degree: int) -> list[tuple[str, int]]:
    """Attributes of all degrees up to one, with the column of `sh` that each holds."""
    return [
        (f"{EXTENSION}:SH_DEGREE_{level}_COEF_{m}", level * level + m)
        for level in range(degree + 1)
        for m in range(2 * level + 1)
    ]


def _asset(licences: Sequence[Licence]) -> dict[str, Any]:
    import headrecon

    asset: dict[str, Any] = {"version": "2.0", "generator": f"headrecon {headrecon.__version__}"}
    if licences:
        asset["copyright"] = "; ".join(dict.fromkeys(f"{x.name}: {x.spdx}" for x in licences))
        asset["extras"] = {
            "commercialUse": all(x.commercial for x in licences),
            "licences": [{"name": x.name, "spdx": x.spdx, "source": x.source} for x in licences],
        }
    return asset


def read_splat_glb(path: str | Path) -> Gaussians:
    """Read the splats of a file into head space; several primitives are joined, nodes may not move them.

    Raises InputError for anything without KHR_gaussian_splatting in its plain form (compressed forms are refused).
    """
    path = Path(path)
    glb = open_glb(path, read_whole(path))
    try:
        primitives = [p for mesh in glb.json.get("meshes", []) for p in mesh["primitives"] if _is_splats(p)]
        _refuse_moved(path, glb)
        clouds = [_cloud(path, glb, p) for p in primitives]
    except BAD as error:
        raise InputError(f"{path}: the GLB is damaged ({type(error).__name__}: {error})") from error
    if not clouds:
        raise InputError(f"{path} holds no Gaussian splats: expected a primitive with the extension {EXTENSION}")
    if len({c.degree for c in clouds}) > 1:
        raise InputError(f"{path} holds splats with harmonics of different degrees; save them in separate files")
    columns = zip(*((c.means, c.quats_wxyz, c.scales, c.opacities, c.sh) for c in clouds), strict=True)
    return checked(SplatCloud(*(np.concatenate(c) for c in columns)), path).gaussians()


def _is_splats(primitive: dict[str, Any]) -> bool:
    return EXTENSION in primitive.get("extensions", {})


def _refuse_moved(path: Path, glb: Glb) -> None:
    for node in glb.json.get("nodes", []):
        if any(key in node for key in ("matrix", "rotation", "scale", "translation")):
            raise InputError(f"{path}: a node of the GLB moves what it holds; apply its transform before saving")


def _cloud(path: Path, glb: Glb, primitive: dict[str, Any]) -> SplatCloud:
    extension, attributes = primitive["extensions"][EXTENSION], primitive["attributes"]
    if extension.get("kernel") != "ellipse" or extension.get("extensions"):
        raise InputError(f"{path}: only plain splats with the kernel 'ellipse' are read, found {extension}")
    if extension.get("colorSpace") != "srgb_rec709_display":
        raise InputError(f"{path}: expected colours in srgb_rec709_display, found {extension.get('colorSpace')!r}")
    check_count(glb.json["accessors"][attributes["POSITION"]]["count"], path)
    degree = max(d for d in range(4) if f"{EXTENSION}:SH_DEGREE_{d}_COEF_0" in attributes)
    wanted = {"POSITION": 3, f"{EXTENSION}:ROTATION": 4, f"{EXTENSION}:SCALE": 3, f"{EXTENSION}:OPACITY": 1}
    wanted |= {name: 3 for name, _ in _harmonic_names(degree)}
    found = {name: glb.accessor(attributes[name]).astype(np.float32) for name in wanted}
    count = len(found["POSITION"])
    for name, width in wanted.items():
        if found[name].shape != (count, width):
            raise InputError(f"{path}: {name} must have {count} rows of {width}, found {found[name].shape}")
    sh = np.stack([found[name] for name, _ in _harmonic_names(degree)], axis=1)
    quats = found[f"{EXTENSION}:ROTATION"][:, [3, 0, 1, 2]]
    opacities = found[f"{EXTENSION}:OPACITY"][:, 0]
    return SplatCloud(found["POSITION"], quats, found[f"{EXTENSION}:SCALE"], opacities, sh)
