"""Head models on disk: one uncompressed `.npz` per model, plain arrays plus one JSON text; no pickles.

Uncompressed on purpose: float32 deltas deflate by a few per cent only and inflating them costs several times the
reading (figures in docs/head-models.md), and a model is loaded at the start of every command.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from headrecon.errors import AssetError, ShapeError
from headrecon.io.npz import read_npz
from headrecon.structures import HeadAssets, LandmarkEmbedding, Licence

FORMAT = "headrecon.head"
FORMAT_VERSION = 1
#: Name of the array that holds the JSON text; `adapter_for` recognises our files by it.
META = "headrecon_meta"

#: Axes and type of each array; a letter must mean the same size everywhere. Geometry is float32: 0.06 µm at half a
#: metre, and half the file.
_ARRAYS: dict[str, tuple[tuple[str | int, ...], type]] = {
    "v_template": (("V", 3), np.float32),
    "faces": (("F", "K"), np.int32),
    "uvs": (("T", 2), np.float32),
    "uv_faces": (("F", "K"), np.int32),
    "shapedirs": (("V", 3, "Nb"), np.float32),
    "exprdirs": (("V", 3, "Ne"), np.float32),
    "J_regressor": (("J", "V"), np.float32),
    "parents": (("J",), np.int32),
    "lbs_weights": (("V", "J"), np.float32),
    "face_part": (("F",), np.int32),
    "posedirs": (("P", "V3"), np.float32),
}
_LANDMARK_ARRAYS: dict[str, tuple[tuple[str | int, ...], type]] = {
    "vertex_ids": (("L", 3), np.int32),
    "barycentrics": (("L", 3), np.float32),
    "sigma_m": (("L",), np.float32),
}
_REGION: tuple[tuple[str | int, ...], type] = (("V",), np.float32)
_OPTIONAL = ("posedirs", "sigma_m")
_SAFE_NAME = re.compile(r"[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*")


def save_assets(assets: HeadAssets, path: str | Path) -> Path:
    """Write a head model to one `.npz` file and return its path; the file appears whole or not at all.

    Geometry is stored as float32. The same assets always give the same bytes.
    Raises AssetError when the assets do not fit together or the file cannot be written.
    """
    path = Path(path)
    arrays = _to_arrays(assets)
    _checked(_from_arrays(arrays, _read_meta(arrays, path), path), path)  # what is written can be read
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
    except OSError as error:
        raise AssetError(f"{path}: cannot be written ({error.strerror}); choose another folder") from error
    try:
        with os.fdopen(handle, "wb") as stream:
            np.savez(stream, allow_pickle=False, **arrays)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)  # mkstemp makes it private; a model is shared like any other file
        os.replace(temporary, path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise AssetError(f"{path}: cannot be written ({error.strerror}); choose another folder") from error
        raise
    return path


def load_assets(path: str | Path) -> HeadAssets:
    """Read a head model written by `save_assets`; every array is checked (`HeadAssets.validate`).

    Raises AssetError when the file is missing, damaged, of another format or version, or inconsistent.
    """
    path = Path(path)
    arrays = read_npz(path)
    return _checked(_from_arrays(arrays, _read_meta(arrays, path), path), path)


def _from_arrays(arrays: dict[str, np.ndarray], meta: dict[str, Any], path: Path) -> HeadAssets:
    axes: dict[str, int] = {}
    own = {name: _take(arrays, name, spec, axes, path) for name, spec in _present(arrays, _ARRAYS)}
    try:
        regions = {_text(n): _take(arrays, f"regions.{n}", _REGION, axes, path) for n in meta["regions"]}
        landmarks = {_text(n): _landmarks(arrays, n, path) for n in meta["landmarks"]}
        return HeadAssets(
            name=_text(meta["name"]),
            version=_text(meta["version"]),
            expression_names=tuple(_text(n) for n in meta["expression_names"]),
            part_names=tuple(_text(n) for n in meta["part_names"]),
            licences=tuple(_licence(entry) for entry in meta["licences"]),
            landmarks=landmarks,
            regions=regions,
            **own,
        )
    except (KeyError, TypeError) as error:
        raise AssetError(f"{path}: its description is incomplete or malformed ({error!r}); convert it again") from error


def _checked(assets: HeadAssets, path: Path) -> HeadAssets:
    """`HeadAssets.validate` with the path in the message, plus two values that it takes for granted."""
    if assets.faces.shape[1] not in (3, 4):
        raise AssetError(f"{path}: faces must be triangles or quads, found an array of shape {assets.faces.shape}")
    if assets.face_part.size and int(assets.face_part.min()) < 0:
        raise AssetError(f"{path}: face_part must not be negative")
    try:
        return assets.validate()
    except ShapeError as error:
        raise AssetError(f"{path}: {error}") from error


def _to_arrays(assets: HeadAssets) -> dict[str, np.ndarray]:
    meta = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "name": assets.name,
        "version": assets.version,
        "expression_names": assets.expression_names,
        "part_names": assets.part_names,
        "licences": [asdict(licence) for licence in assets.licences],
        "landmarks": list(assets.landmarks),
        "regions": list(assets.regions),
    }
    for name in (*assets.landmarks, *assets.regions):
        if not _SAFE_NAME.fullmatch(name):
            raise AssetError(
                f"head model {assets.name!r}: {name!r} must be letters, digits, '_', '-', with single '/' between"
            )
    arrays: dict[str, np.ndarray] = {META: np.frombuffer(json.dumps(meta, sort_keys=True).encode(), dtype=np.uint8)}
    for name, (_, dtype) in _ARRAYS.items():
        value = getattr(assets, name)
        if value is not None:
            arrays[name] = np.ascontiguousarray(value, dtype=dtype)
    for name, emb in assets.landmarks.items():
        for key, (_, dtype) in _LANDMARK_ARRAYS.items():
            value = getattr(emb, key)
            if value is not None:
                arrays[f"landmarks.{name}.{key}"] = np.ascontiguousarray(value, dtype=dtype)
    for name, region in assets.regions.items():
        arrays[f"regions.{name}"] = np.ascontiguousarray(region, dtype=np.float32)
    return arrays


def _read_meta(arrays: dict[str, np.ndarray], path: Path) -> dict[str, Any]:
    text = arrays.get(META)
    if text is None or text.dtype != np.uint8:
        raise AssetError(f"{path}: not a headrecon head model; convert it with `headrecon models add`")
    try:
        meta = json.loads(text.tobytes())
    except (ValueError, RecursionError) as error:
        raise AssetError(f"{path}: its description is not JSON; the file is damaged, convert it again") from error
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise AssetError(f"{path}: not a headrecon head model; convert it with `headrecon models add`")
    if meta.get("format_version") != FORMAT_VERSION:
        raise AssetError(
            f"{path}: format version {meta.get('format_version')!r}, this headrecon reads {FORMAT_VERSION}; "
            "convert the model again with `headrecon models add`"
        )
    return meta


def _present(arrays: dict[str, np.ndarray], table: dict[str, Any]) -> list[tuple[str, Any]]:
    """The arrays to read: all but the optional ones that the file lacks."""
    return [(name, spec) for name, spec in table.items() if name in arrays or name not in _OPTIONAL]


def _landmarks(arrays: dict[str, np.ndarray], name: str, path: Path) -> LandmarkEmbedding:
    prefix = f"landmarks.{name}."
    own = {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}
    axes: dict[str, int] = {}
    return LandmarkEmbedding(
        **{key: _take(own, key, spec, axes, path, prefix) for key, spec in _present(own, _LANDMARK_ARRAYS)}
    )


def _take(
    arrays: dict[str, np.ndarray],
    name: str,
    spec: tuple[tuple[str | int, ...], type],
    axes: dict[str, int],
    path: Path,
    prefix: str = "",
) -> np.ndarray:
    """One array, checked against its type and axes; sizes of letters seen for the first time enter `axes`."""
    expected, dtype = spec
    array = arrays.get(name)
    if array is None:
        raise AssetError(f"{path}: array {prefix + name!r} is missing; convert the model again")
    kinds = "f" if issubclass(dtype, np.floating) else "iu"
    sizes = tuple(axes.get(axis, axis) if isinstance(axis, str) else axis for axis in expected)
    fits = array.ndim == len(sizes) and all(
        isinstance(n, str) or n == m for n, m in zip(sizes, array.shape, strict=True)
    )
    if not fits or array.dtype.kind not in kinds:
        wanted = ", ".join(map(str, sizes))
        raise AssetError(
            f"{path}: array {prefix + name!r} must have shape ({wanted}) and type {np.dtype(dtype)}, "
            f"found {array.shape} {array.dtype}"
        )
    axes.update((axis, size) for axis, size in zip(expected, array.shape, strict=True) if isinstance(axis, str))
    return np.ascontiguousarray(array, dtype=dtype)


def _licence(entry: dict[str, Any]) -> Licence:
    if not isinstance(entry["commercial"], bool):
        raise TypeError("licence field 'commercial' must be true or false")
    return Licence(
        name=_text(entry["name"]),
        spdx=_text(entry["spdx"]),
        commercial=entry["commercial"],
        source=_text(entry["source"]),
        note=_text(entry["note"]),
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected text, found {value!r}")
    return value
