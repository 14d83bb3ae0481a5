"""STL, binary and ASCII: reads triangles and joins the corners that coincide, since the format repeats every vertex."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from headrecon.errors import InputError
from headrecon.io.meshes.loaded import LoadedMesh, checked_vertices, read_bytes
from headrecon.structures import Mesh

_HEADER = 84
_TRIANGLE = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
_VERTEX = re.compile(rb"vertex\s+(\S+)\s+(\S+)\s+(\S+)")


def read_stl(path: str | Path, keep_nan: bool = False) -> LoadedMesh:
    """Read the triangles. Raises InputError for damage, and for vertices that are not finite unless keep_nan."""
    path = Path(path)
    data = read_bytes(path)
    corners = _binary(path, data) if _is_binary(data) else _ascii(path, data)
    # Corners that are the same to the bit are one vertex; NaN equals nothing, so such corners stay on their own.
    vertices, index = np.unique(corners.reshape(-1, 3), axis=0, return_inverse=True)
    return LoadedMesh(Mesh(checked_vertices(path, vertices, keep_nan), index.reshape(-1, 3).astype(np.int64)))


def _is_binary(data: bytes) -> bool:
    """By the length that the header promises: many binary files start with "solid" too."""
    if len(data) >= _HEADER:
        count = int.from_bytes(data[80:84], "little")
        if len(data) == _HEADER + count * _TRIANGLE.itemsize:
            return True
    return not data.lstrip().startswith(b"solid")


def _binary(path: Path, data: bytes) -> np.ndarray:
    count = int.from_bytes(data[80:84], "little") if len(data) >= _HEADER else 0
    expected = _HEADER + count * _TRIANGLE.itemsize
    if count == 0 or len(data) < expected:
        raise InputError(
            f"mesh {path} is no STL, or it ends early: its header promises {count} triangles ({expected} bytes), "
            f"found {len(data)} bytes"
        )
    return np.frombuffer(data, _TRIANGLE, count, _HEADER)["corners"].astype(np.float64)


def _ascii(path: Path, data: bytes) -> np.ndarray:
    words = _VERTEX.findall(data)
    if not words or len(words) % 3:
        raise InputError(f"mesh {path}: an ASCII STL must have three 'vertex x y z' lines a facet, found {len(words)}")
    try:
        return np.array(words, dtype=bytes).astype(np.float64).reshape(-1, 3, 3)
    except ValueError as error:
        raise InputError(f"mesh {path}: a 'vertex' line of the STL is not made of numbers ({error})") from error
