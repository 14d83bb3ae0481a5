"""What the mesh readers return, and the checks that they share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from headrecon.errors import InputError
from headrecon.structures import Mesh


@dataclass(frozen=True)
class LoadedMesh:
    """A mesh from a file, in the file's own unit and axes. texture: the picture that the file names, if it exists."""

    mesh: Mesh
    colors: UInt8[np.ndarray, "V 3"] | None = None
    normals: Float[np.ndarray, "V 3"] | None = None
    texture: Path | None = None


def read_mesh(path: str | Path, keep_nan: bool = False) -> LoadedMesh:
    """Read an OBJ, PLY, STL or GLB by its suffix. Raises InputError for anything that is not a usable mesh.

    Vertices that are not finite (holes in some scanners' files) are refused, unless keep_nan.
    """
    from headrecon.io.meshes.glb_reader import read_glb
    from headrecon.io.meshes.obj import read_obj
    from headrecon.io.meshes.ply import read_ply
    from headrecon.io.meshes.stl import read_stl

    readers = {".obj": read_obj, ".ply": read_ply, ".stl": read_stl, ".glb": read_glb}
    suffix = Path(path).suffix.lower()
    if suffix not in readers:
        raise InputError(f"mesh {path}: expected a file ending in {' or '.join(readers)}, found {suffix or 'none'!r}")
    return readers[suffix](path, keep_nan)


def read_bytes(path: Path) -> bytes:
    """The file's content; InputError when it is missing, unreadable or empty."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read mesh {path}: {error.strerror or error}") from error
    if not data:
        raise InputError(f"mesh {path} is empty (0 bytes)")
    return data


def checked_vertices(path: Path, vertices: np.ndarray, keep_nan: bool = False) -> np.ndarray:
    """Float64 [V,3]; InputError when there are none, or when some are not finite and keep_nan is not set."""
    if not len(vertices):
        raise InputError(f"mesh {path} holds no vertices")
    bad = np.flatnonzero(~np.isfinite(vertices).all(axis=1))
    if len(bad) == len(vertices) or (len(bad) and not keep_nan):
        raise InputError(f"mesh {path}: vertex {bad[0]} is not finite ({len(bad)} such); repair the scan first")
    return np.ascontiguousarray(vertices, dtype=np.float64)


def checked_indices(path: Path, indices: np.ndarray, count: int, what: str) -> np.ndarray:
    """The indices; InputError when one lies outside 0..count-1."""
    if indices.size and (indices.min() < 0 or indices.max() >= count):
        wrong = indices[(indices < 0) | (indices >= count)][0]
        raise InputError(f"mesh {path}: a face names {what} {int(wrong)}, but there are {count} (counted from 0)")
    return indices


def pad_polygons(corners: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Turn a flat list of polygon corners into faces [F,3] or [F,4] padded with -1, as `Mesh` wants them.

    Polygons of five and more corners are split into a fan of triangles; of fewer than three are dropped. Also returns,
    shaped alike, the position in `corners` that each face corner came from (-1 for padding).
    """
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64) if len(sizes) else np.zeros(0, np.int64)
    blocks, order = [], []
    for size in np.unique(sizes[sizes >= 3]) if len(sizes) else []:
        own = np.flatnonzero(sizes == size)
        first = starts[own][:, None]
        if size <= 4:
            block = np.concatenate([first + np.arange(size), np.full((len(own), 4 - size), -1)], axis=1)
            blocks.append(block)
            order.append(own)
            continue
        for k in range(1, size - 1):
            fan = np.concatenate([first, first + k, first + k + 1, np.full_like(first, -1)], axis=1)
            blocks.append(fan)
            order.append(own)
    if not blocks:
        empty = np.zeros((0, 3), dtype=np.int64)
        return empty, empty
    positions = np.concatenate(blocks)[np.argsort(np.concatenate(order), kind="stable")]
    if (positions[:, 3] < 0).all():
        positions = np.ascontiguousarray(positions[:, :3])
    return np.where(positions >= 0, corners[positions], -1), positions
