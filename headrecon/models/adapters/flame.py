"""FLAME (Li et al. 2017, "Learning a model of facial shape and expression from 4D scans") as HeadAssets.

Reads the pickles of FLAME 2017 to 2023 (`generic_model.pkl`, `flame2023.pkl`, ...) or an `.npz` of the same arrays.
FLAME is in metres, +y up, facing +z, with our five joints in our order: nothing is turned or scaled.

Its shape components are principal components already multiplied by their standard deviations (T. Bolkart, answer in
TimoBolkart/TF_FLAME issue 7 and Rubikplayer/flame-fitting issue 20), so its betas are standard deviations as ours.
The expression components are statistical too: they carry no ARKit names.

One difference to the `smplx` package: here, as in the paper (equation 2), joints depend on identity alone; `smplx`
regresses them from the shape with the expression added, so that an expression shifts them a little.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from headrecon.errors import AssetError, HeadReconError, ShapeError
from headrecon.io.meshes.obj import read_obj
from headrecon.io.npz import read_npz
from headrecon.models.adapters.unwrap import unwrap_head
from headrecon.models.safe_pickle import load_model_pickle
from headrecon.structures import JOINT_NAMES, HeadAssets, LandmarkEmbedding, Licence

REQUIRED = ("v_template", "f", "shapedirs", "J_regressor", "kintree_table", "weights")
PART_NAMES = ("skin", "leye", "reye")
#: Components of FLAME's `shapedirs`: identity first, then expression.
NUM_IDENTITY, NUM_EXPRESSION = 300, 100
#: Reduced files that circulate: number of components -> (identity, expression).
_REDUCED = {150: (100, 50), 20: (10, 10)}

_SOURCE = "https://flame.is.tue.mpg.de/"
FLAME_LICENCE = Licence(
    name="FLAME",
    spdx="LicenseRef-FLAME",
    commercial=False,
    source=_SOURCE,
    note="Non-commercial unless your copy says otherwise. FLAME 2023 Open is CC-BY-4.0, which the file does not tell: "
    "declare it with `headrecon models add FILE --licence cc-by-4.0`.",
)
DECLARED_LICENCES = {
    "cc-by-4.0": Licence("FLAME 2023 Open", "CC-BY-4.0", True, _SOURCE, "as declared by the user; attribution needed"),
    "non-commercial": FLAME_LICENCE,
}


def load_flame(path: str | Path, licence: str | None = None) -> HeadAssets:
    """Convert a FLAME pickle or `.npz` into HeadAssets (float64, as the file has it).

    `licence` declares the terms of the user's copy: one of DECLARED_LICENCES; by default non-commercial.
    A texture layout is taken from `FLAME_texture.npz` or a template `.obj` of FLAME beside the file; without one, a
    plain unwrap is made. `flame_static_embedding.pkl` beside the file becomes the landmarks "ibug51" (iBUG points 18 to
    68). Raises AssetError when the file is broken, hostile or not FLAME.
    """
    path = Path(path)
    terms = _licence(licence)
    arrays = _Arrays(path, read_npz(path) if path.suffix.lower() == ".npz" else load_model_pickle(path))
    template = arrays.floats("v_template", (None, 3))
    v = len(template)
    faces = arrays.indices("f", v)
    shapedirs = arrays.floats("shapedirs", (v, 3, None))
    identity, expression = split_components(shapedirs.shape[2])
    weights = arrays.floats("weights", (v, len(JOINT_NAMES)))
    regressor = arrays.floats("J_regressor", (len(JOINT_NAMES), v))
    face_part = eye_parts(template, faces, weights)
    uvs, uv_faces = _texture_layout(path, template, faces, face_part)
    assets = HeadAssets(
        name="flame",
        v_template=template,
        faces=faces,
        uvs=uvs,
        uv_faces=uv_faces,
        shapedirs=shapedirs[:, :, :identity],
        exprdirs=shapedirs[:, :, identity : identity + expression],
        expression_names=tuple(f"flame_expr_{i:03d}" for i in range(expression)),
        J_regressor=regressor,
        parents=arrays.parents(),
        lbs_weights=weights / weights.sum(1, keepdims=True),
        face_part=face_part,
        part_names=PART_NAMES,
        licences=(terms,),
        posedirs=arrays.posedirs(v),
        landmarks=_static_landmarks(path, faces),
    )
    try:
        return assets.validate()
    except ShapeError as error:
        raise AssetError(f"{path}: {error}") from error


def split_components(count: int) -> tuple[int, int]:
    """How many of `shapedirs`' components are identity and how many expression.

    FLAME has 300 + 100. Files cut to fewer: 100 + 50 and 10 + 10 are known; others up to 300 hold identity alone.
    """
    if count in _REDUCED:
        return _REDUCED[count]
    return min(count, NUM_IDENTITY), min(max(count - NUM_IDENTITY, 0), NUM_EXPRESSION)


def eye_parts(
    vertices: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"], weights: Float[np.ndarray, "V J"]
) -> Int[np.ndarray, " F"]:
    """Part of each face: an eyeball is a connected piece, not the largest, that an eye joint moves.

    Without such a piece (a file that had its eyeballs welded or removed) everything is skin.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    links = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]]])
    graph = coo_matrix((np.ones(len(links)), links.T), shape=(len(vertices),) * 2)
    _, piece = connected_components(graph, directed=False)
    face_piece = piece[faces[:, 0]]
    out = np.zeros(len(faces), np.int32)
    largest = np.bincount(face_piece).argmax()
    for number in np.unique(face_piece):
        share = weights[piece == number].mean(0)
        for part in ("leye", "reye"):
            if number != largest and share[JOINT_NAMES.index(part)] > 0.5:
                out[face_piece == number] = PART_NAMES.index(part)
    return out


@dataclass(frozen=True)
class _Arrays:
    """Arrays of a FLAME file, fetched with their checks."""

    path: Path
    values: dict[str, Any]

    def __post_init__(self) -> None:
        missing = [name for name in REQUIRED if not isinstance(self.values.get(name), np.ndarray)]
        if missing:
            raise AssetError(
                f"{self.path}: not a FLAME model: {', '.join(missing)} missing (expected arrays {', '.join(REQUIRED)})"
            )

    def floats(self, name: str, shape: tuple[int | None, ...]) -> np.ndarray:
        """A float64 array of the shape, where None stands for any positive size."""
        array = self.values[name]
        fits = array.ndim == len(shape) and all(
            m > 0 and n in (None, m) for n, m in zip(shape, array.shape, strict=True)
        )
        if not fits or array.dtype.kind not in "fiu":
            wanted = ", ".join("any" if n is None else str(n) for n in shape)
            raise AssetError(f"{self.path}: {name} must have shape ({wanted}), found {array.shape} {array.dtype}")
        if not np.isfinite(array).all():
            raise AssetError(f"{self.path}: {name} holds NaN or infinity")
        return np.ascontiguousarray(array, dtype=np.float64)

    def indices(self, name: str, count: int) -> Int[np.ndarray, "F 3"]:
        array = self.values[name]
        if array.ndim != 2 or array.shape[1] != 3 or not len(array) or array.dtype.kind not in "iu":
            raise AssetError(f"{self.path}: {name} must hold triangles (F, 3), found {array.shape} {array.dtype}")
        if int(array.min()) < 0 or int(array.max()) >= count:
            raise AssetError(f"{self.path}: {name} must index the {count} vertices")
        return array.astype(np.int32)

    def parents(self) -> Int[np.ndarray, " J"]:
        """First row of `kintree_table`; its root is written as -1 or as 2**32 - 1."""
        table = self.values["kintree_table"]
        if table.ndim != 2 or table.shape[1] != len(JOINT_NAMES) or table.dtype.kind not in "iu":
            raise AssetError(
                f"{self.path}: kintree_table must have shape (2, {len(JOINT_NAMES)}) for {', '.join(JOINT_NAMES)}; "
                f"found {table.shape}: this is not FLAME (SMPL has 24 joints, MANO 16)"
            )
        parents = table[0].astype(np.int64)
        parents[0] = -1
        return parents.astype(np.int32)

    def posedirs(self, vertices: int) -> Float[np.ndarray, "P V3"] | None:
        """[V,3,36] to our [36, 3V]; the order of the 36 (joint, row, column) is the same. None when absent."""
        if not isinstance(self.values.get("posedirs"), np.ndarray):
            return None
        count = 9 * (len(JOINT_NAMES) - 1)
        array = self.floats("posedirs", (vertices, 3, count))
        return np.ascontiguousarray(array.reshape(3 * vertices, count).T)


def _licence(declared: str | None) -> Licence:
    if declared is None:
        return FLAME_LICENCE
    if declared.lower() not in DECLARED_LICENCES:
        raise AssetError(
            f"licence {declared!r} is not one of {', '.join(DECLARED_LICENCES)}, the terms FLAME comes under"
        )
    return DECLARED_LICENCES[declared.lower()]


def _texture_layout(
    path: Path, vertices: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"], face_part: Int[np.ndarray, " F"]
) -> tuple[Float[np.ndarray, "T 2"], Int[np.ndarray, "F 3"]]:
    """FLAME's own layout from a file beside the model, else the plain unwrap."""
    for candidate in sorted(path.parent.glob("*.npz")):
        if "texture" in candidate.name.lower():
            table = read_npz(candidate, ("vt", "ft"))
            if {"vt", "ft"} <= set(table) and _fits(table["vt"], table["ft"], faces):
                return table["vt"].astype(np.float64), table["ft"].astype(np.int32)
    for candidate in sorted({*path.parent.glob("*template*.obj"), *path.parent.glob("*flame*.obj")}):
        try:
            mesh = read_obj(candidate).mesh
        except HeadReconError:
            continue  # some other OBJ that happens to lie here; FLAME loads without it
        if mesh.uvs is not None and mesh.uv_faces is not None and np.array_equal(mesh.faces, faces):
            return mesh.uvs.astype(np.float64), mesh.uv_faces.astype(np.int32)
    eyes = tuple(np.flatnonzero(face_part == PART_NAMES.index(part)) for part in ("leye", "reye"))
    return unwrap_head(vertices, faces, (eyes[0], eyes[1]))


def _fits(uvs: np.ndarray, uv_faces: np.ndarray, faces: np.ndarray) -> bool:
    right = uvs.ndim == 2 and uvs.shape[1] == 2 and uvs.dtype.kind == "f" and uv_faces.dtype.kind in "iu"
    return right and uv_faces.shape == faces.shape and int(uv_faces.min()) >= 0 and int(uv_faces.max()) < len(uvs)


def _static_landmarks(path: Path, faces: Int[np.ndarray, "F 3"]) -> dict[str, LandmarkEmbedding]:
    """The 51 inner iBUG points that FLAME's authors publish as `flame_static_embedding.pkl`."""
    file = path.parent / "flame_static_embedding.pkl"
    if not file.is_file():
        return {}
    table = load_model_pickle(file, ("lmk_face_idx", "lmk_b_coords"))
    face, weight = table.get("lmk_face_idx"), table.get("lmk_b_coords")
    if not isinstance(face, np.ndarray) or not isinstance(weight, np.ndarray) or weight.shape != (face.size, 3):
        raise AssetError(f"{file}: expected lmk_face_idx (N,) and lmk_b_coords (N, 3)")
    if face.dtype.kind not in "iu" or int(face.min()) < 0 or int(face.max()) >= len(faces):
        raise AssetError(f"{file}: lmk_face_idx must index the {len(faces)} faces of {path.name}")
    return {"ibug51": LandmarkEmbedding(faces[face.ravel().astype(np.int64)], weight.astype(np.float64))}
