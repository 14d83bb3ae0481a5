"""Writes a small head in ICT-FaceKit's formats: spheres for skull, eyes and teeth, with ICT's names, files and unit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.models.flame_files import sphere

#: Where the test's jaw turns, in centimetres, and by how much jawOpen turns it.
HINGE = np.array([0.0, -1.0, 1.0])
OPENING = np.radians(20.0)
EYES = {"Left": np.array([3.1, 3.6, 7.0]), "Right": np.array([-3.1, 3.6, 7.0])}
SPLIT = ("browInnerUp_L", "browInnerUp_R", "cheekPuff_L", "cheekPuff_R", "browDown_L", "browDown_R")
EXPRESSIONS = (*SPLIT, "jawOpen", "mouthLeft", "mouthSmile_R")


def parts() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Material -> vertices and triangles."""
    out = {"M_Face": sphere(np.array([0, -1.0, 1.0]), np.array([8.0, 15.0, 10.0]), 40, 40)}
    for side, centre in EYES.items():
        out[f"M_Sclera{side}"] = sphere(centre, np.full(3, 1.5), 8, 10)
        out[f"M_Iris{side}"] = sphere(centre, np.full(3, 1.4), 6, 8)
    upper = sphere(np.array([0, -2.0, 8.0]), np.array([2.0, 0.5, 1.0]), 6, 8)
    lower = sphere(np.array([0, -4.0, 8.0]), np.array([2.0, 0.5, 1.0]), 6, 8)
    out["M_Teeth"] = (np.concatenate([upper[0], lower[0]]), np.concatenate([upper[1], lower[1] + len(upper[0])]))
    out["M_EyeOcclusion"] = sphere(np.array([3.1, 3.6, 8.6]), np.full(3, 0.5), 4, 5)
    out["M_EyeLashes"] = sphere(np.array([3.1, 4.5, 8.6]), np.full(3, 0.2), 4, 5)
    return out


def turn_about_x(points: np.ndarray, angle: np.ndarray | float) -> np.ndarray:
    """Points turned about the x-parallel axis through HINGE; positive angles open the jaw."""
    y, z = (points - HINGE)[:, 1], (points - HINGE)[:, 2]
    cos, sin = np.cos(angle), np.sin(angle)
    return HINGE + np.stack([points[:, 0], cos * y - sin * z, sin * y + cos * z], axis=1)


def ict_model(num_identity: int = 3) -> dict[str, Any]:
    """Vertices, faces, materials and shapes, in centimetres."""
    rng = np.random.default_rng(0)
    pieces = parts()
    starts = np.cumsum([0, *(len(p) for p, _ in pieces.values())])
    vertices = np.concatenate([p for p, _ in pieces.values()])
    faces = np.concatenate([f + s for (_, f), s in zip(pieces.values(), starts, strict=False)])
    materials = np.concatenate([np.full(len(f), i) for i, (_, f) in enumerate(pieces.values())])
    names = list(pieces)
    y, z = vertices[:, 1], vertices[:, 2]
    share = np.clip((-1.0 - y) / 4.0, 0, 1) * np.clip((y + 13.0) / 4.0, 0, 1) * np.clip((z - 1.0) / 6.0, 0, 1)
    teeth = np.arange(len(vertices))[starts[names.index("M_Teeth")] : starts[names.index("M_Teeth") + 1]]
    share[teeth] = vertices[teeth, 1] < -3.0
    share[starts[1] : starts[names.index("M_Teeth")]] = 0.0  # eyes
    shapes = {name: 0.3 * rng.normal(size=vertices.shape) for name in EXPRESSIONS}
    shapes["jawOpen"] = turn_about_x(vertices, OPENING * share) - vertices
    # Smooth random bends.
    identity = np.zeros((num_identity, *vertices.shape))
    for i in range(num_identity):
        identity[i] = 0.05 * (i + 1) * np.sin(vertices @ rng.normal(size=(3, 3)) * 0.05)
    return {
        "vertices": vertices,
        "faces": faces,
        "materials": materials,
        "names": names,
        "shapes": shapes,
        "identity": identity,
        "landmarks": landmarks(vertices[: starts[1]]),
        "uvs": rng.random((len(vertices), 2)),
        "share": share,
    }


def landmarks(face: np.ndarray) -> list[int]:
    """68 vertices of the face, those that carry meaning for the rig at their places."""
    places = {0: (-7.4, 3.7, 3.0), 16: (7.4, 3.7, 3.0), 8: (0, -8.0, 9.5)}
    return [int(np.linalg.norm(face - places.get(i, (0, i / 10 - 3, 10)), axis=1).argmin()) for i in range(68)]


def obj_text(model: dict[str, Any], vertices: np.ndarray, with_faces: bool = True) -> str:
    lines = ["# ICT FaceKit", "mtllib ICTFaceModelMaterial.mtl"]
    lines += [f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in vertices]
    lines += [f"vt {u:.6f} {v:.6f}" for u, v in model["uvs"]]
    current = None
    for face, material in zip(model["faces"] if with_faces else [], model["materials"], strict=False):
        if material != current:
            current = material
            lines.append(f"usemtl {model['names'][material]}")
        lines.append("f " + " ".join(f"{i + 1}/{i + 1}" for i in face))
    return "\n".join(lines) + "\n"


def write_ict(folder: Path, model: dict[str, Any] | None = None) -> Path:
    """ICT-FaceKit's directory; tongueOut and most expressions are absent, as when a user copied a few files."""
    model = ict_model() if model is None else model
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "generic_neutral_mesh.obj").write_text(obj_text(model, model["vertices"]))
    for i, deltas in enumerate(model["identity"]):
        (folder / f"identity{i:03d}.obj").write_text(obj_text(model, model["vertices"] + deltas))
    for name, deltas in model["shapes"].items():
        (folder / f"{name}.obj").write_text(obj_text(model, model["vertices"] + deltas, with_faces=False))
    table = {"expressions": [*EXPRESSIONS, "noseSneer_L"], "idx_to_landmark_verts": model["landmarks"]}
    (folder / "vertex_indices.json").write_text(json.dumps(table))
    return folder


def write_packed(path: Path, model: dict[str, Any] | None = None) -> Path:
    """The packed `.npz`: quads padded with -1, shapes as integers times a scale per mode."""
    model = ict_model() if model is None else model
    shapes = np.stack(list(model["shapes"].values()))

    def quantise(deltas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        scale = np.abs(deltas).max((1, 2)) / 32767
        return np.round(deltas / scale[:, None, None]).astype(np.int16), scale.astype(np.float32)

    identity, expressions = quantise(model["identity"]), quantise(shapes)
    faces = np.concatenate([model["faces"], np.full((len(model["faces"]), 1), -1)], axis=1).astype(np.int32)
    np.savez(
        path,
        neutral_vertices=model["vertices"].astype(np.float32),
        uvs=model["uvs"].astype(np.float32),
        faces=faces,
        uv_faces=faces,
        face_material=model["materials"].astype(np.uint8),
        material_names=np.array(model["names"]),
        identity_deltas_q=identity[0],
        identity_scale=identity[1],
        expression_deltas_q=expressions[0],
        expression_scale=expressions[1],
        expression_names=np.array(list(model["shapes"])),
        landmark_vertices_68=np.array(model["landmarks"]),
    )
    return path
