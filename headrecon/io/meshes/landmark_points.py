"""The seven landmarks of a head or scan from a file: text, NumPy, JSON, MeshLab's picked points, or vertex numbers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from headrecon.errors import InputError

_COUNT = 7
#: Among iBUG's 68: right eye outer and inner corner, left eye inner and outer, nose bottom, mouth corners.
_OF_IBUG68 = (36, 39, 42, 45, 33, 48, 54)
_MOST_BYTES = 16 << 20
_POINT = re.compile(r"<point\b[^>]*>")
_EXPECTED = (
    "expected 7 points (lines of x y z), 7 vertex numbers counted from 0, or 68 iBUG points, as .txt, .npy, .json or "
    "MeshLab's .pp"
)


def read_landmark_points(source: str | Path, vertices: Float[np.ndarray, "V 3"]) -> Float[np.ndarray, "7 3"]:
    """Seven points in the mesh's own unit, in the order of the NoW challenge. Raises InputError.

    source: a file, or seven vertex numbers with commas ("1201,88,..."). A JSON may be a list, or an object with the
    list under "points", "landmarks" or "ibug68" (as in `landmarks3d.json`). 68 points are read as iBUG's. The order is
    not checked here.
    """
    text = str(source)
    if re.fullmatch(r"\s*\d+(\s*,\s*\d+)+\s*", text) and not Path(text).exists():
        return _resolved(text, np.array([int(word) for word in text.split(",")]), vertices)
    path = Path(source)
    return _resolved(path, _read(path), vertices)


def _read(path: Path) -> np.ndarray:
    readers = {".npy": _npy, ".json": _json, ".pp": _picked, ".txt": _text, ".csv": _text, ".xyz": _text, "": _text}
    suffix = path.suffix.lower()
    if suffix not in readers:
        raise InputError(f"landmarks {path}: {_EXPECTED}, found a file ending in {suffix!r}")
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise InputError(f"landmarks {path}: {_EXPECTED}, found a file of {path.stat().st_size >> 20} MB")
        return np.asarray(readers[suffix](path))
    except OSError as error:
        raise InputError(f"cannot read landmarks {path}: {error.strerror or error}") from error
    except (ValueError, TypeError, KeyError, EOFError, RecursionError, OverflowError) as error:
        raise InputError(f"landmarks {path}: {_EXPECTED}; it cannot be read so ({error})") from error


def _npy(path: Path) -> np.ndarray:
    table = np.load(path, allow_pickle=False)
    if not isinstance(table, np.ndarray):
        raise ValueError("several arrays")
    return table


def _text(path: Path) -> np.ndarray:
    lines = [line.split("#")[0].replace(",", " ").replace(";", " ").split() for line in _lines(path)]
    rows = [row for row in lines if row]
    if len({len(row) for row in rows}) != 1:
        raise ValueError("lines of differing length")
    return _numbers(rows[0] if len(rows) == 1 else [row[0] for row in rows] if len(rows[0]) == 1 else rows)


def _numbers(words: Any) -> np.ndarray:
    try:
        return np.array(words, dtype=str).astype(np.int64)
    except ValueError:
        return np.array(words, dtype=str).astype(np.float64)


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines()


def _json(path: Path) -> np.ndarray:
    found = json.loads(path.read_bytes())
    if isinstance(found, dict):
        found = next((found[key] for key in ("points", "landmarks", "ibug68") if key in found), None)
    if not isinstance(found, list):
        raise ValueError("no list of points")
    return np.array(found)


def _picked(path: Path) -> np.ndarray:
    """MeshLab's picked points, in the order of the file. Read by pattern: an XML parser does what the file says."""
    out = []
    for tag in _POINT.findall("\n".join(_lines(path))):
        values = {axis: re.search(rf'\b{axis}="([^"]*)"', tag) for axis in "xyz"}
        if not all(values.values()):
            raise ValueError("a point without x, y or z")
        out.append([float(m.group(1)) for m in values.values() if m is not None])
    return np.array(out)


def _resolved(source: object, table: np.ndarray, vertices: np.ndarray) -> np.ndarray:
    if table.dtype.kind not in "iuf":
        raise InputError(f"landmarks {source}: {_EXPECTED}, found values that are not numbers")
    if table.ndim == 2 and table.shape == (_COUNT, 1):
        table = table[:, 0]
    if table.shape == (_COUNT,):
        ids = table.astype(np.int64)
        if (ids != table).any() or ids.min() < 0 or ids.max() >= len(vertices):
            raise InputError(
                f"landmarks {source}: vertex numbers must lie in 0..{len(vertices) - 1}, found {table.tolist()}"
            )
        table = np.asarray(vertices)[ids]
    elif table.shape == (68, 3):
        table = table[list(_OF_IBUG68)]
    if table.shape != (_COUNT, 3):
        raise InputError(f"landmarks {source}: {_EXPECTED}, found an array of shape {table.shape}")
    table = table.astype(np.float64)
    if not np.isfinite(table).all():
        raise InputError(
            f"landmarks {source}: point {int(np.flatnonzero(~np.isfinite(table).all(1))[0]) + 1} is not finite"
        )
    return table
