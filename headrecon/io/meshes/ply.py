"""PLY (Turk 1994): writes binary little-endian with colours and normals; reads ASCII and both binary forms."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int, UInt8

from headrecon.errors import InputError
from headrecon.io.meshes.loaded import LoadedMesh, checked_indices, checked_vertices, pad_polygons, read_bytes
from headrecon.structures import HeadAssets, Mesh

if TYPE_CHECKING:
    from collections.abc import Callable

_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2",
    "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4",
    "double": "f8", "float64": "f8",
}  # fmt: skip
_ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
_LISTS = ("vertex_indices", "vertex_index")


def write_ply(
    path: str | Path,
    mesh: Mesh,
    colors: UInt8[np.ndarray, "V 3"] | None = None,
    normals: Float[np.ndarray, "V 3"] | None = None,
    comment: str = "",
) -> None:
    """Write binary little-endian PLY; quads stay quads. Raises InputError when the file cannot be written."""
    columns: list[tuple[str, str, np.ndarray]] = [(n, "<f4", mesh.vertices[:, i]) for i, n in enumerate("xyz")]
    if normals is not None:
        columns += [(n, "<f4", normals[:, i]) for i, n in enumerate(("nx", "ny", "nz"))]
    if colors is not None:
        columns += [(n, "u1", colors[:, i]) for i, n in enumerate(("red", "green", "blue"))]
    table = np.empty(len(mesh.vertices), dtype=[(name, kind) for name, kind, _ in columns])
    for name, _, values in columns:
        table[name] = values
    header = ["ply", "format binary_little_endian 1.0"]
    header += [f"comment {line}" for line in comment.encode("ascii", "replace").decode().splitlines()]
    header += [f"element vertex {len(table)}"]
    header += [f"property {'uchar' if kind == 'u1' else 'float'} {name}" for name, kind, _ in columns]
    header += [f"element face {len(mesh.faces)}", "property list uchar int vertex_indices", "end_header", ""]
    try:
        Path(path).write_bytes("\n".join(header).encode("ascii") + table.tobytes() + _face_bytes(mesh.faces))
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error


def _face_bytes(faces: Int[np.ndarray, "F K"]) -> bytes:
    """Per face a count byte and that many little-endian int32, in the order of the faces."""
    sizes = (faces >= 0).sum(1)
    starts = np.concatenate([[0], np.cumsum(1 + 4 * sizes)])
    out = np.zeros(starts[-1], dtype=np.uint8)
    for size in np.unique(sizes):
        own = np.flatnonzero(sizes == size)
        rows = np.ascontiguousarray(faces[own, :size], dtype="<i4").view(np.uint8).reshape(len(own), -1)
        rows = np.concatenate([np.full((len(own), 1), size, np.uint8), rows], axis=1)
        out[starts[own][:, None] + np.arange(rows.shape[1])] = rows
    return out.tobytes()


def vertex_colors(assets: HeadAssets, texture: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "V 3"]:
    """Colour of every vertex from a texture in the model's UVs: bilinear, averaged over the vertex's UV corners."""
    colors = sample_texture(texture, assets.uvs)
    used = assets.faces >= 0
    vertex, uv = assets.faces[used], assets.uv_faces[used]
    total = np.zeros((assets.num_vertices, 3))
    np.add.at(total, vertex, colors[uv])
    count = np.bincount(vertex, minlength=assets.num_vertices)[:, None]
    return np.clip(total / np.maximum(count, 1) + 0.5, 0, 255).astype(np.uint8)


def sample_texture(image: UInt8[np.ndarray, "H W 3"], uvs: Float[np.ndarray, "N 2"]) -> Float[np.ndarray, "N 3"]:
    """Bilinear samples 0..255; v runs up, texel centres lie at half steps, borders are clamped."""
    height, width = image.shape[:2]
    x = np.clip(uvs[:, 0] * width - 0.5, 0, width - 1)
    y = np.clip((1 - uvs[:, 1]) * height - 0.5, 0, height - 1)
    x0, y0 = x.astype(int), y.astype(int)
    x1, y1 = np.minimum(x0 + 1, width - 1), np.minimum(y0 + 1, height - 1)
    fx, fy = (x - x0)[:, None], (y - y0)[:, None]
    top = image[y0, x0] * (1 - fx) + image[y0, x1] * fx
    bottom = image[y1, x0] * (1 - fx) + image[y1, x1] * fx
    return top * (1 - fy) + bottom * fy


@dataclass
class _Element:
    """One element of the header; a property is (name, type, type of its list count or None)."""

    name: str
    count: int
    properties: list[tuple[str, str, str | None]]

    @property
    def has_list(self) -> bool:
        return any(count_type for _, _, count_type in self.properties)


@dataclass
class _Lists:
    """Values of a list property, flat, with the length of each list."""

    sizes: np.ndarray
    values: np.ndarray


_Columns = dict[str, "np.ndarray | _Lists"]


def read_ply(path: str | Path, keep_nan: bool = False) -> LoadedMesh:
    """Read vertices, faces of any size, colours, normals; without faces it is a point cloud. Raises InputError."""
    path = Path(path)
    data = read_bytes(path)
    byte_order, elements, start = _header(path, data)
    read = _read_ascii if byte_order == "" else _read_binary
    tables: dict[str, _Columns] = {}
    try:
        read(data[start:], byte_order, elements, tables)
    except (ValueError, IndexError, OverflowError) as error:
        raise InputError(f"mesh {path}: the PLY ends early or is damaged ({error})") from error
    return _loaded(path, tables, keep_nan)


def _loaded(path: Path, tables: dict[str, _Columns], keep_nan: bool) -> LoadedMesh:
    vertex, face = tables.get("vertex", {}), tables.get("face", {})
    if not {"x", "y", "z"} <= set(vertex):
        raise InputError(f"mesh {path}: the PLY must have an element 'vertex' with x, y and z, found {list(vertex)}")
    vertices = checked_vertices(path, _stack(vertex, ("x", "y", "z")), keep_nan)
    lists = next((face[name] for name in _LISTS if name in face), None)
    if lists is None:
        faces = np.zeros((0, 3), dtype=np.int64)
    elif isinstance(lists, _Lists):
        corners = checked_indices(path, lists.values.astype(np.int64), len(vertices), "vertex")
        faces, _ = pad_polygons(corners, lists.sizes)
    else:
        raise InputError(f"mesh {path}: vertex_indices must be a list property, found a single number")
    colors = normals = None
    if {"red", "green", "blue"} <= set(vertex):
        rgb = _stack(vertex, ("red", "green", "blue"))
        is_float = getattr(vertex["red"], "dtype", np.dtype("u1")).kind == "f"
        colors = np.clip(np.nan_to_num(rgb) * (255 if is_float else 1) + 0.5 * is_float, 0, 255).astype(np.uint8)
    if {"nx", "ny", "nz"} <= set(vertex):
        normals = _stack(vertex, ("nx", "ny", "nz"))
    return LoadedMesh(Mesh(vertices, faces), colors, normals)


def _stack(columns: _Columns, names: tuple[str, ...]) -> np.ndarray:
    return np.stack([np.asarray(columns[n], dtype=np.float64) for n in names], axis=1)


def _header(path: Path, data: bytes) -> tuple[str, list[_Element], int]:
    """Byte order ('' for ASCII), elements, and where the data starts."""
    end = data.find(b"end_header", 0, 1 << 16)
    if not data.startswith(b"ply") or end < 0:
        raise InputError(f"mesh {path} is no PLY: expected a header from 'ply' to 'end_header'")
    newline = data.find(b"\n", end)
    order, elements = None, []
    for line in data[:end].decode("latin-1").splitlines()[1:]:
        words = line.split()
        if not words or words[0] in ("comment", "obj_info"):
            continue
        try:
            if words[0] == "format":
                order = _ORDERS[words[1]]
            elif words[0] == "element":
                elements.append(_Element(words[1], int(words[2]), []))
            elif words[0] == "property" and words[1] == "list":
                elements[-1].properties.append((words[4], _TYPES[words[3]], _TYPES[words[2]]))
            elif words[0] == "property":
                elements[-1].properties.append((words[2], _TYPES[words[1]], None))
            else:
                raise KeyError(words[0])
        except (KeyError, IndexError, ValueError) as error:
            raise InputError(f"mesh {path}: cannot read the PLY header line {line!r}") from error
    if order is None:
        raise InputError(f"mesh {path}: the PLY header has no 'format' line")
    # Every row takes at least one byte: a count beyond the file is a lie, and would cost memory.
    if any(e.count < 0 or (e.properties and e.count > len(data)) for e in elements):
        raise InputError(f"mesh {path}: the PLY header promises more elements than the file can hold")
    return order, elements, (newline if newline >= 0 else len(data) - 1) + 1


def _read_ascii(data: bytes, _: str, elements: list[_Element], tables: dict[str, _Columns]) -> None:
    rows = iter(line for line in data.splitlines() if line.strip())
    for element in elements:
        mine = [next(rows, b"").split() for _ in range(element.count)]
        if not element.has_list:
            width = len(element.properties)
            if any(len(row) < width for row in mine):
                raise ValueError(f"a {element.name} line has too few numbers")
            table = np.array([row[:width] for row in mine], dtype=bytes).astype(np.float64).reshape(-1, width)
            tables[element.name] = {p[0]: table[:, i].astype(p[1]) for i, p in enumerate(element.properties)}
            continue
        if len(element.properties) == 1:
            tables[element.name] = {element.properties[0][0]: _ascii_lists(mine)}
            continue

        def take(
            row: int, position: int, kind: str, count: int, mine: list[list[bytes]] = mine
        ) -> tuple[np.ndarray, int]:
            words = mine[row][position : position + count]
            if len(words) < count:
                raise ValueError("a face line has too few numbers")
            return np.array(words, dtype=bytes).astype(np.float64).astype(kind), position + count

        tables[element.name] = _walk(element, take, lambda _row, _position: 0)


def _ascii_lists(rows: list[list[bytes]]) -> _Lists:
    """Rows that hold one list each: its length, then its values."""
    sizes = np.array([row[0] for row in rows], dtype=bytes).astype(np.int64) if rows else np.zeros(0, np.int64)
    if any(len(row) <= size or size < 0 for row, size in zip(rows, sizes.tolist(), strict=True)):
        raise ValueError("a face line has too few numbers")
    words = [word for row, size in zip(rows, sizes.tolist(), strict=True) for word in row[1 : size + 1]]
    return _Lists(sizes, np.array(words, dtype=bytes).astype(np.float64) if words else np.zeros(0))


def _read_binary(data: bytes, order: str, elements: list[_Element], tables: dict[str, _Columns]) -> None:
    offset = 0
    for element in elements:
        rows = _uniform_rows(data, offset, order, element)
        if rows is not None:
            tables[element.name] = rows[0]
            offset = rows[1]
            continue
        end = [offset]

        def take(_row: int, position: int, kind: str, count: int, end: list[int] = end) -> tuple[np.ndarray, int]:
            dtype = np.dtype(order + kind)
            values = np.frombuffer(data, dtype, count, position)
            end[0] = position + count * dtype.itemsize
            return values, end[0]

        tables[element.name] = _walk(element, take, lambda row, position, start=offset: start if row == 0 else position)
        offset = end[0]


def _uniform_rows(data: bytes, offset: int, order: str, element: _Element) -> tuple[_Columns, int] | None:
    """All rows at once when every list has the length that it has in the first row; else None."""
    if element.count == 0:
        return {}, offset
    fields: list[tuple] = []
    position = offset
    lengths: dict[str, int] = {}
    for name, kind, count_type in element.properties:
        if count_type is None:
            fields.append((name, order + kind))
            position += np.dtype(kind).itemsize
            continue
        length = int(np.frombuffer(data, order + count_type, 1, position)[0])
        if not 0 <= length * np.dtype(kind).itemsize <= len(data):
            raise ValueError(f"a list of {length} values")
        lengths[name] = length
        fields += [(f"#{name}", order + count_type), (name, order + kind, (length,))]
        position += np.dtype(count_type).itemsize + length * np.dtype(kind).itemsize
    dtype = np.dtype(fields)
    if offset + dtype.itemsize * element.count > len(data):
        if not lengths:
            raise ValueError(f"{element.count} rows of {element.name!r} do not fit")
        return None
    table = np.frombuffer(data, dtype, element.count, offset)
    if any((table[f"#{name}"] != length).any() for name, length in lengths.items()):
        return None
    columns: _Columns = {
        name: _Lists(np.full(element.count, lengths[name]), table[name].reshape(-1)) if name in lengths else table[name]
        for name, _, _ in element.properties
    }
    return columns, offset + dtype.itemsize * element.count


def _walk(element: _Element, take: Callable[..., tuple[np.ndarray, int]], start: Callable[[int, int], int]) -> _Columns:
    """Row by row, for lists of differing lengths."""
    values: dict[str, list[np.ndarray]] = {name: [] for name, _, _ in element.properties}
    position = 0
    for row in range(element.count):
        position = start(row, position)
        for name, kind, count_type in element.properties:
            count = 1
            if count_type is not None:
                counted, position = take(row, position, count_type, 1)
                count = int(counted[0])
                if count < 0:
                    raise ValueError(f"a list of {count} values")
            got, position = take(row, position, kind, count)
            values[name].append(got)
    columns: _Columns = {}
    for name, kind, count_type in element.properties:
        flat = np.concatenate(values[name]) if values[name] else np.zeros(0, kind)
        sizes = np.array([len(v) for v in values[name]], dtype=np.int64)
        columns[name] = flat if count_type is None else _Lists(sizes, flat)
    return columns
