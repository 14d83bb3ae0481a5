"""Read ICT-FaceKit light: its directory of OBJ files, or the whole model packed into one `.npz`.

The directory holds `generic_neutral_mesh.obj`, `identityNNN.obj` (the mean plus one standard deviation of a mode),
one OBJ per expression and `vertex_indices.json`. Everything is in centimetres, +y up, facing +z.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from jaxtyping import Float, Int

from headrecon.errors import AssetError, InputError
from headrecon.io.meshes.obj import read_obj
from headrecon.io.npz import read_npz

NEUTRAL = "generic_neutral_mesh.obj"
INDICES = "vertex_indices.json"
PACKED_NAMES = ("neutral_vertices", "identity_deltas_q", "expression_deltas_q", "landmark_vertices_68")
_MAX_JSON_BYTES = 64 << 20


@dataclass(frozen=True)
class IctFiles:
    """ICT-FaceKit as it comes, in centimetres. materials: per face, an index into material_names (M_Face, ...)."""

    source: Path
    vertices: Float[np.ndarray, "V 3"]
    faces: Int[np.ndarray, "F 4"]
    uvs: Float[np.ndarray, "T 2"]
    uv_faces: Int[np.ndarray, "F 4"]
    materials: Int[np.ndarray, " F"]
    material_names: tuple[str, ...]
    identity: Float[np.ndarray, "Nb V 3"]
    expressions: dict[str, Float[np.ndarray, "V 3"]]
    landmarks: Int[np.ndarray, " 68"]

    def vertices_of(self, *materials: str) -> Int[np.ndarray, " N"]:
        """Vertices of the faces with these materials."""
        wanted = [self.material_names.index(m) for m in materials if m in self.material_names]
        used = np.unique(self.faces[np.isin(self.materials, wanted)])
        return used[used >= 0]


def model_directory(path: Path) -> Path | None:
    """The directory that holds the OBJ files: `path` itself or its `FaceXModel`; None if neither does."""
    return next((p for p in (path, path / "FaceXModel") if (p / NEUTRAL).is_file()), None)


def read_ict(path: str | Path) -> IctFiles:
    """Read either form. Raises AssetError when it is not ICT-FaceKit, incomplete or damaged."""
    path = Path(path)
    if not path.is_dir():
        return _read_packed(path)
    folder = model_directory(path)
    if folder is None:
        raise AssetError(
            f"{path}: no {NEUTRAL} in it or in its FaceXModel; expected ICT-FaceKit's directory of OBJ files"
        )
    return _read_directory(folder)


# The packed file ----------------------------------------------------------------------------------------------------


def _read_packed(path: Path) -> IctFiles:
    table = read_npz(path)
    wanted = {
        "neutral_vertices": (2, "f"), "uvs": (2, "f"), "faces": (2, "iu"), "uv_faces": (2, "iu"),
        "face_material": (1, "iu"), "material_names": (1, "U"), "identity_deltas_q": (3, "i"),
        "identity_scale": (1, "f"), "expression_deltas_q": (3, "i"), "expression_scale": (1, "f"),
        "expression_names": (1, "U"), "landmark_vertices_68": (1, "iu"),
    }  # fmt: skip
    for name, (ndim, kinds) in wanted.items():
        if name not in table or table[name].ndim != ndim or table[name].dtype.kind not in kinds:
            raise AssetError(f"{path}: not a packed ICT-FaceKit: array {name!r} is missing or of the wrong type")
    expressions = _dequantise(path, table, "expression")
    names = [str(n) for n in table["expression_names"]]
    if len(names) != len(expressions):
        raise AssetError(f"{path}: {len(names)} expression_names for {len(expressions)} expressions")
    return _checked(
        SimpleNamespace(
            source=path,
            vertices=table["neutral_vertices"].astype(np.float64),
            faces=table["faces"].astype(np.int32),
            uvs=table["uvs"].astype(np.float64),
            uv_faces=table["uv_faces"].astype(np.int32),
            materials=table["face_material"].astype(np.int32),
            material_names=tuple(str(n) for n in table["material_names"]),
            identity=_dequantise(path, table, "identity"),
            expressions=dict(zip(names, expressions, strict=True)),
            landmarks=table["landmark_vertices_68"].astype(np.int32),
        )
    )


def _dequantise(path: Path, table: dict[str, np.ndarray], kind: str) -> Float[np.ndarray, "N V 3"]:
    """Each mode is stored as integers times one scale."""
    deltas, scale = table[f"{kind}_deltas_q"], table[f"{kind}_scale"]
    if scale.shape != deltas.shape[:1] or deltas.shape[1:] != table["neutral_vertices"].shape:
        raise AssetError(
            f"{path}: {kind}_deltas_q {deltas.shape} does not fit its scales {scale.shape} or the vertices"
        )
    return deltas.astype(np.float32) * scale.astype(np.float32)[:, None, None]


# The directory ------------------------------------------------------------------------------------------------------


def _read_directory(folder: Path) -> IctFiles:
    neutral = folder / NEUTRAL
    indices = _read_indices(folder / INDICES)
    try:
        mesh = read_obj(neutral).mesh
    except InputError as error:
        raise AssetError(f"{folder}: {error}") from error
    if mesh.uvs is None or mesh.uv_faces is None:
        raise AssetError(f"{neutral}: has no texture coordinates; ICT-FaceKit's neutral mesh has")
    materials, names = _read_materials(neutral, len(mesh.faces))

    def deltas(file: Path) -> Float[np.ndarray, "V 3"]:
        return (_read_vertices(file, len(mesh.vertices)) - mesh.vertices).astype(np.float32)

    identity = [deltas(file) for file in sorted(folder.glob("identity[0-9]*.obj"))]
    expressions = {n: deltas(folder / f"{n}.obj") for n in indices["expressions"] if (folder / f"{n}.obj").is_file()}
    return _checked(
        SimpleNamespace(
            source=folder,
            vertices=mesh.vertices,
            faces=_as_quads(mesh.faces),
            uvs=mesh.uvs,
            uv_faces=_as_quads(mesh.uv_faces),
            materials=materials,
            material_names=names,
            identity=np.stack(identity) if identity else np.zeros((0, *mesh.vertices.shape), np.float32),
            expressions=expressions,
            landmarks=np.array(indices["landmarks"], np.int32),
        )
    )


def _read_indices(path: Path) -> dict[str, list]:
    """Names of the expressions and the 68 landmark vertices."""
    expected = (
        f"{path}: expected ICT-FaceKit's JSON with 'expressions' (names) and 'idx_to_landmark_verts' (68 numbers)"
    )
    if not path.is_file() or path.stat().st_size > _MAX_JSON_BYTES:
        raise AssetError(expected)
    try:
        table = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise AssetError(expected) from error
    names = table.get("expressions") if isinstance(table, dict) else None
    landmarks = table.get("idx_to_landmark_verts") if isinstance(table, dict) else None
    # isidentifier keeps a name from leading out of the folder.
    if not isinstance(names, list) or not all(isinstance(n, str) and n.isidentifier() for n in names):
        raise AssetError(expected)
    if not isinstance(landmarks, list) or len(landmarks) != 68 or not all(type(i) is int for i in landmarks):
        raise AssetError(expected)
    return {"expressions": names, "landmarks": landmarks}


def _read_materials(path: Path, face_count: int) -> tuple[Int[np.ndarray, " F"], tuple[str, ...]]:
    """Material of each face, from the `usemtl` lines."""
    names: list[str] = []
    per_face: list[int] = []
    current = ""
    for line in path.read_bytes().splitlines():
        if line.startswith(b"usemtl "):
            current = line[7:].strip().decode("utf-8", "replace")
        elif line.startswith(b"f "):
            if current not in names:
                names.append(current)
            per_face.append(names.index(current))
    if len(per_face) != face_count:
        raise AssetError(f"{path}: faces must be triangles or quads, found larger ones")
    return np.array(per_face, np.int32), tuple(names)


def _read_vertices(path: Path, count: int) -> Float[np.ndarray, "V 3"]:
    """Only the `v` lines of an OBJ, which stand together: a whole model is 153 files of 2.5 MB."""
    data = b"\n" + path.read_bytes()
    start, last = data.find(b"\nv "), data.rfind(b"\nv ")
    end = data.find(b"\n", last + 1)
    block = data[start : end if end > 0 else len(data)] if start >= 0 else b""
    try:
        numbers = np.array(block.replace(b"\nv ", b" ").split(), dtype=bytes).astype(np.float64)
    except ValueError as error:
        raise AssetError(f"{path}: its 'v' lines are not plain numbers ({error})") from error
    if numbers.size != 3 * count:
        raise AssetError(f"{path}: expected {count} vertices as in {NEUTRAL}, found {numbers.size / 3:g}")
    return numbers.reshape(count, 3)


def _as_quads(faces: Int[np.ndarray, "F K"]) -> Int[np.ndarray, "F 4"]:
    padding = np.full((len(faces), 4 - faces.shape[1]), -1)
    return np.concatenate([faces, padding], axis=1).astype(np.int32)


def _checked(files: SimpleNamespace) -> IctFiles:
    """The fields of IctFiles once they fit together."""
    v, where = len(files.vertices), files.source
    if files.vertices.shape[1:] != (3,) or not np.isfinite(files.vertices).all():
        raise AssetError(f"{where}: the neutral vertices must be finite points [V,3], found {files.vertices.shape}")
    if files.faces.shape[1:] != (4,) or files.uv_faces.shape != files.faces.shape:
        raise AssetError(f"{where}: faces and uv_faces must be alike [F,4], found {files.faces.shape}")
    for name, table, size in (("faces", files.faces, v), ("uv_faces", files.uv_faces, len(files.uvs))):
        if not table.size or int(table[:, :3].min()) < 0 or int(table.min()) < -1 or int(table.max()) >= size:
            raise AssetError(f"{where}: {name} must index 0..{size - 1}")
    if files.uvs.shape[1:] != (2,) or len(files.materials) != len(files.faces):
        raise AssetError(f"{where}: uvs must be [T,2] and every face needs a material")
    if int(files.materials.min()) < 0 or int(files.materials.max()) >= len(files.material_names):
        raise AssetError(f"{where}: face_material must index material_names")
    if files.landmarks.shape != (68,) or int(files.landmarks.min()) < 0 or int(files.landmarks.max()) >= v:
        raise AssetError(f"{where}: expected 68 landmark vertices in 0..{v - 1}")
    finite = np.isfinite(files.identity).all() and all(np.isfinite(d).all() for d in files.expressions.values())
    if not finite:
        raise AssetError(f"{where}: an identity or expression holds NaN or infinity")
    return IctFiles(**vars(files))
