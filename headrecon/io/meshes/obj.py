"""Wavefront OBJ: writes a textured head with its quads, groups and materials; reads meshes and scans."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from headrecon.errors import InputError
from headrecon.io.meshes.glb import encode_texture, face_groups
from headrecon.io.meshes.loaded import LoadedMesh, checked_indices, checked_vertices, pad_polygons, read_bytes
from headrecon.io.meshes.topology import vertex_normals
from headrecon.structures import HeadAssets, Mesh, triangulate


def write_obj(
    path: str | Path,
    assets: HeadAssets,
    vertices: Float[np.ndarray, "V 3"],
    texture: UInt8[np.ndarray, "H W 3"],
    comment: str = "",
    normal_map: UInt8[np.ndarray, "N N 3"] | None = None,
) -> tuple[Path, Path, Path]:
    """Write `path`, and beside it `.mtl` and `.png` of the same name; returns the three paths.

    normal_map: tangent-space relief of the skin, written as `<name>_normal.png` and named by `norm` in the materials.

    Metres, +y up; v/vt/vn with the model's quads; a group and a material per part. Raises InputError.
    """
    path = Path(path)
    mtl, png = path.with_suffix(".mtl"), path.with_suffix(".png")
    pictures = {png: texture}
    if normal_map is not None:
        pictures[path.with_name(f"{path.stem}_normal.png")] = normal_map
    texts = {
        path: _obj_text(assets, vertices, mtl.name, comment),
        mtl: _mtl_text(assets, *(picture.name for picture in pictures)),
    }
    try:
        for file, text in texts.items():
            file.write_text(text, encoding="utf-8", newline="\n")
        for file, picture in pictures.items():
            file.write_bytes(encode_texture(picture, "png"))
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
    return path, mtl, png


def _obj_text(assets: HeadAssets, vertices: np.ndarray, mtl_name: str, comment: str) -> str:
    normals = vertex_normals(vertices, triangulate(assets.faces)[0])
    lines = ["# headrecon head: metres, +y up, the face looks along +z"]
    lines += [f"# {line}" for line in comment.splitlines()]
    lines += [f"mtllib {mtl_name}", "o head"]
    for key, table, digits in (("v", vertices, 7), ("vt", assets.uvs, 6), ("vn", normals, 4)):
        row = f"{key} " + " ".join([f"%.{digits}f"] * table.shape[1])
        lines += [row % tuple(values) for values in table.tolist()]
    for group, faces in face_groups(assets):
        for part in np.unique(assets.face_part[faces]):
            lines += [f"g {assets.part_names[part]}", f"usemtl {group.name}"]
            own = faces[assets.face_part[faces] == part]
            faces_from_1, uv_faces_from_1 = (assets.faces[own] + 1).tolist(), (assets.uv_faces[own] + 1).tolist()
            for face, uv_face in zip(faces_from_1, uv_faces_from_1, strict=True):
                # A padded triangle holds -1, which is 0 here; OBJ counts from 1.
                corners = [f"{v}/{t}/{v}" for v, t in zip(face, uv_face, strict=True) if v > 0]
                lines.append("f " + " ".join(corners))
    return "\n".join(lines) + "\n"


def _mtl_text(assets: HeadAssets, png_name: str, normal_name: str | None = None) -> str:
    blocks = ["# headrecon materials; Pr (roughness) and norm (relief) are of MTL's PBR extension"]
    for group, faces in face_groups(assets):
        if len(faces):
            # Phong exponent with the same highlight width as GGX roughness r: 2 / r^4 - 2 (Walter et al. 2007).
            shininess = min(1000.0, 2.0 / group.roughness**4 - 2.0)
            blocks += [
                f"newmtl {group.name}",
                "Ka 0 0 0",
                "Kd 1 1 1",
                "Ks 0.04 0.04 0.04",
                f"Ns {shininess:.1f}",
                f"Pr {group.roughness:g}",
                "d 1",
                "illum 2",
                f"map_Kd {png_name}",
            ]
            if normal_name is not None and group.name == "skin":
                blocks.append(f"norm {normal_name}")
    return "\n".join(blocks) + "\n"


@dataclass
class _ObjLines:
    """The lines of an OBJ by kind; for every face the counts of v and vt so far, to which negative indices refer."""

    v: list[list[bytes]]
    vt: list[list[bytes]]
    f: list[list[bytes]]
    before: list[tuple[int, int]]
    mtllib: bytes = b""


def read_obj(path: str | Path, keep_nan: bool = False) -> LoadedMesh:
    """Read vertices (with colours where `v` has six numbers), UVs and faces of any size. Raises InputError.

    Curves, lines, points, groups and materials are skipped; all objects in the file become one mesh.
    """
    path = Path(path)
    lines = _sort_lines(read_bytes(path))
    if not lines.v:
        raise InputError(f"mesh {path} is no OBJ: expected lines such as 'v 0.1 0.2 0.3', found none")
    table = _numbers(path, lines.v, "v", 3)
    vertices = checked_vertices(path, table[:, :3], keep_nan)
    faces, uv_faces = _faces(path, lines, len(vertices))
    uvs = None if uv_faces is None else _numbers(path, lines.vt, "vt", 2)[:, :2]
    colors = _colors(table) if table.shape[1] >= 6 else None
    return LoadedMesh(Mesh(vertices, faces, uvs, uv_faces), colors, None, _texture_of(path, lines.mtllib))


def _sort_lines(data: bytes) -> _ObjLines:
    out = _ObjLines([], [], [], [])
    for line in data.replace(b"\\\r\n", b" ").replace(b"\\\n", b" ").splitlines():
        kind, _, rest = line.strip().partition(b" ")
        if kind == b"v":
            out.v.append(rest.split())
        elif kind == b"vt":
            out.vt.append(rest.split())
        elif kind == b"f":
            out.f.append(rest.split(b"#")[0].split())
            out.before.append((len(out.v), len(out.vt)))
        elif kind == b"mtllib":
            out.mtllib = rest.strip()
    return out


def _numbers(path: Path, rows: list[list[bytes]], kind: str, needed: int) -> np.ndarray:
    """Float table; rows are cut to the shortest, which must have `needed` numbers."""
    width = min(len(row) for row in rows) if rows else needed
    if width < needed:
        worst = next(i for i, row in enumerate(rows) if len(row) == width)
        raise InputError(f"mesh {path}: {kind!r} line {worst + 1} must have {needed} numbers, found {width}")
    try:
        return np.array([row[:width] for row in rows], dtype=bytes).astype(np.float64).reshape(-1, width)
    except ValueError as error:
        raise InputError(f"mesh {path}: a {kind!r} line is not made of numbers ({error})") from error


def _faces(path: Path, lines: _ObjLines, vertex_count: int) -> tuple[np.ndarray, np.ndarray | None]:
    sizes = np.array([len(f) for f in lines.f], dtype=np.int64)
    corners = _corners(path, [corner for face in lines.f for corner in face])
    before = np.repeat(np.array(lines.before, dtype=np.int64).reshape(-1, 2), sizes, axis=0)
    # From 1 counted forwards, or negative counted backwards from the line of the face; 0 means absent.
    resolved = np.where(corners < 0, before + corners, corners - 1)
    checked_indices(path, resolved[:, 0], vertex_count, "vertex")
    faces, positions = pad_polygons(resolved[:, 0], sizes)
    if not len(corners) or (corners[:, 1] == 0).any() or not lines.vt:
        return faces, None
    checked_indices(path, resolved[:, 1], len(lines.vt), "texture coordinate")
    return faces, np.where(positions >= 0, resolved[:, 1][positions], -1)


def _corners(path: Path, tokens: list[bytes]) -> np.ndarray:
    """[N,2] of vertex and UV numbers as written; 0 where a corner has no UV."""
    if not tokens:
        return np.zeros((0, 2), dtype=np.int64)
    slashes = tokens[0].count(b"/")
    try:
        if all(t.count(b"/") == slashes and b"//" not in t for t in tokens):
            flat = np.array(b"/".join(tokens).split(b"/"), dtype=bytes).astype(np.int64)
            table = flat.reshape(-1, slashes + 1)[:, :2]
            return table if slashes else np.pad(table, ((0, 0), (0, 1)))
        parts = [(*token.split(b"/"), b"0")[:2] for token in tokens]
        return np.array([[int(v), int(t or 0)] for v, t in parts], dtype=np.int64)
    except (ValueError, OverflowError) as error:
        raise InputError(f"mesh {path}: a face is not made of indices such as 1/2/3 ({error})") from error


def _colors(table: np.ndarray) -> UInt8[np.ndarray, "V 3"]:
    """Vertex colours after the position: 0..1 in most programs, 0..255 in some."""
    rgb = table[:, 3:6]
    scale = 1.0 if rgb.max(initial=0.0) > 1.0 else 255.0
    return np.clip(np.nan_to_num(rgb) * scale + 0.5, 0, 255).astype(np.uint8)


def _texture_of(path: Path, mtllib: bytes) -> Path | None:
    """The first map_Kd of the material file, when both exist beside the OBJ."""
    if not mtllib:
        return None
    try:
        text = (path.parent / mtllib.decode("utf-8", "replace")).read_text(encoding="utf-8", errors="replace")
    except (OSError, ValueError):
        return None
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == "map_Kd":
            # Only a file beside the mesh: a material must not make us open any path on the disk.
            texture = path.parent / Path(words[-1].replace("\\", "/")).name
            if texture.is_file():
                return texture
    return None
