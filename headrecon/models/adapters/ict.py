"""ICT-FaceKit light (Li et al. 2020, "Learning formation of physically-based face attributes") as HeadAssets.

Takes its directory of OBJ files, with however many identity and expression files it holds, or the packed `.npz`.
Centimetres become metres; the axes agree with ours. Identity modes are one standard deviation each, so betas are
standard deviations. Joints and skin weights, which ICT lacks, are made in `headrecon.models.adapters.ict_rig`.

The jaw can be opened in two ways, by `jaw_pose` and by the expression jawOpen: a fit should use one and hold the other
at zero. They agree in between and at jawOpen's 25 degrees (pose correctives see to it); jaw_pose is a rotation that a
skeleton can play and can also go sideways, jawOpen is what ARKit's face capture sends. The eyes turn by
`leye_pose` and `reye_pose` alone; the expressions eyeLook... move only the lids and go with them.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from headrecon.errors import AssetError, ShapeError
from headrecon.models.adapters.ict_atlas import atlas
from headrecon.models.adapters.ict_files import IctFiles, read_ict
from headrecon.models.adapters.ict_regions import make_regions
from headrecon.models.adapters.ict_rig import make_rig, neighbour_matrix
from headrecon.structures import ARKIT_NAMES, HeadAssets, LandmarkEmbedding, Licence

PART_NAMES = ("skin", "mouth", "leye", "reye", "upper_teeth", "lower_teeth", "lashes", "eye_shells")
_PART_OF = {
    "M_Face": "skin",
    "M_BackHead": "skin",
    "M_GumsTongue": "mouth",
    "M_ScleraLeft": "leye",
    "M_IrisLeft": "leye",
    "M_ScleraRight": "reye",
    "M_IrisRight": "reye",
    "M_EyeLashes": "lashes",
    "M_LacrimalFluid": "eye_shells",
    "M_EyeBlend": "eye_shells",
    "M_EyeOcclusion": "eye_shells",
}
_METRES = 0.01
ICT_LICENCE = Licence(
    name="ICT-FaceKit light",
    spdx="MIT",
    commercial=True,
    source="https://github.com/ICT-VGL/ICT-FaceKit",
    note="Copyright 2020 USC Institute for Creative Technologies.",
)


def load_ict(path: str | Path, licence: str | None = None, keep_shells: bool = False) -> HeadAssets:
    """Convert ICT-FaceKit into HeadAssets with the 52 ARKit expressions in Apple's order.

    Expressions that ICT splits in two (browInnerUp, cheekPuff) are added up; those that are missing (tongueOut always,
    others when their OBJ is) are zero and named in the licence's note. Tear film, shadow and blend cards in front of
    the eyes need transparency and would hide them: they are left out unless `keep_shells`; vertices then keep ICT's
    numbers. Landmarks: "ibug68"; regions: ears, neck, lips, brows. `licence` may only be "mit". Raises AssetError.
    """
    if licence is not None and licence.lower() != "mit":
        raise AssetError(f"licence {licence!r}: ICT-FaceKit light is published under MIT; leave the option out")
    files = read_ict(path)
    rig = make_rig(files, neighbour_matrix(files.faces, len(files.vertices)))
    exprdirs, missing = arkit_expressions(files)
    uvs, uv_faces = atlas(files)
    kept_faces = np.ones(len(files.faces), bool) if keep_shells else ~_shell_faces(files)
    assets = HeadAssets(
        name="ict",
        v_template=files.vertices * _METRES,
        faces=files.faces[kept_faces],
        uvs=uvs,
        uv_faces=uv_faces[kept_faces],
        shapedirs=np.ascontiguousarray(files.identity.transpose(1, 2, 0)) * np.float32(_METRES),
        exprdirs=exprdirs * np.float32(_METRES),
        expression_names=ARKIT_NAMES,
        J_regressor=rig.regressor,
        parents=np.array([-1, 0, 1, 1, 1], np.int32),
        lbs_weights=rig.weights,
        posedirs=rig.posedirs * np.float32(_METRES),
        face_part=_parts(files, rig.lower_teeth)[kept_faces],
        part_names=PART_NAMES,
        licences=(_licence(files, missing),),
        landmarks={"ibug68": _vertex_landmarks(files.landmarks)},
        regions=make_regions(files, rig.weights),
    )
    try:
        return (assets if keep_shells else without_unused_vertices(assets)).validate()
    except ShapeError as error:
        raise AssetError(f"{files.source}: {error}") from error


def arkit_name(name: str) -> str:
    """ICT's spelling of an expression as ARKit's: browDown_L -> browDownLeft, cheekPuff_L -> cheekPuff."""
    for suffix, side in (("_L", "Left"), ("_R", "Right")):
        if name.endswith(suffix):
            stem = name.removesuffix(suffix)
            return stem if stem in ARKIT_NAMES else stem + side
    return name


def arkit_expressions(files: IctFiles) -> tuple[Float[np.ndarray, "V 3 52"], list[str]]:
    """Displacements in ARKit's order, in the files' unit, and the names for which there are none."""
    out = np.zeros((*files.vertices.shape, len(ARKIT_NAMES)), np.float32)
    found = set()
    for name, deltas in files.expressions.items():
        target = arkit_name(name)
        if target in ARKIT_NAMES:
            out[:, :, ARKIT_NAMES.index(target)] += deltas
            found.add(target)
    return out, [name for name in ARKIT_NAMES if name not in found]


def without_unused_vertices(assets: HeadAssets) -> HeadAssets:
    """The same head with vertices and UVs that no face uses removed; landmarks must lie on used ones."""
    used = np.unique(assets.faces)[np.unique(assets.faces) >= 0]
    used_uvs = np.unique(assets.uv_faces)[np.unique(assets.uv_faces) >= 0]
    landmarks = {
        name: replace(emb, vertex_ids=_renumber(emb.vertex_ids, used, assets.num_vertices))
        for name, emb in assets.landmarks.items()
    }
    return replace(
        assets,
        v_template=assets.v_template[used],
        faces=_renumber(assets.faces, used, assets.num_vertices),
        uvs=assets.uvs[used_uvs],
        uv_faces=_renumber(assets.uv_faces, used_uvs, len(assets.uvs)),
        shapedirs=assets.shapedirs[used],
        exprdirs=assets.exprdirs[used],
        J_regressor=assets.J_regressor[:, used],
        lbs_weights=assets.lbs_weights[used],
        posedirs=None if assets.posedirs is None else _of_vertices(assets.posedirs, used),
        landmarks=landmarks,
        regions={name: region[used] for name, region in assets.regions.items()},
    )


def _of_vertices(posedirs: Float[np.ndarray, "P V3"], used: Int[np.ndarray, " N"]) -> Float[np.ndarray, "P N3"]:
    return np.ascontiguousarray(posedirs.reshape(len(posedirs), -1, 3)[:, used].reshape(len(posedirs), -1))


def _renumber(indices: np.ndarray, used: Int[np.ndarray, " N"], count: int) -> np.ndarray:
    table = np.full(count + 1, -1, np.int32)  # the last entry keeps -1 at -1
    table[used] = np.arange(len(used))
    out = table[indices]
    if ((out < 0) & (indices >= 0)).any():
        raise ShapeError("landmarks lie on vertices that no face uses")
    return out


def _shell_faces(files: IctFiles) -> np.ndarray:
    shells = [i for i, name in enumerate(files.material_names) if _PART_OF.get(name) == "eye_shells"]
    return np.isin(files.materials, shells)


def _parts(files: IctFiles, lower_teeth: np.ndarray) -> Int[np.ndarray, " F"]:
    """Part of each face from its material; teeth by whether the jaw carries them."""
    out = np.zeros(len(files.faces), np.int32)
    for i, name in enumerate(files.material_names):
        own = files.materials == i
        if name == "M_Teeth":
            lower = lower_teeth[files.faces[:, 0]]
            out[own & lower] = PART_NAMES.index("lower_teeth")
            out[own & ~lower] = PART_NAMES.index("upper_teeth")
        else:
            out[own] = PART_NAMES.index(_PART_OF.get(name, "skin"))
    return out


def _licence(files: IctFiles, missing: list[str]) -> Licence:
    note = (
        f"{ICT_LICENCE.note} {len(files.identity)} identity modes; expressions without a shape: {', '.join(missing)}."
    )
    return replace(ICT_LICENCE, note=note)


def _vertex_landmarks(vertices: Int[np.ndarray, " L"]) -> LandmarkEmbedding:
    """Landmarks that sit on single vertices."""
    weights = np.zeros((len(vertices), 3))
    weights[:, 0] = 1.0
    return LandmarkEmbedding(np.repeat(vertices[:, None], 3, axis=1), weights)
