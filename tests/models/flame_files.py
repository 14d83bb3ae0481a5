"""Writes small random files in FLAME's format: two hundred vertices, FLAME's joints, components and key names."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse

LEYE, REYE = np.array([0.031, 0.03, 0.07]), np.array([-0.031, 0.03, 0.07])


def sphere(centre: np.ndarray, radii: np.ndarray, rings: int, segments: int) -> tuple[np.ndarray, np.ndarray]:
    """A closed triangle mesh around +-y poles, wound counter-clockwise seen from outside."""
    theta = np.pi * np.arange(1, rings) / rings
    phi = 2 * np.pi * np.arange(segments) / segments
    ring = np.stack(
        [
            np.outer(np.sin(theta), np.sin(phi)),
            np.outer(np.cos(theta), np.ones(segments)),
            np.outer(np.sin(theta), np.cos(phi)),
        ],
        axis=-1,
    )
    points = np.concatenate([[[0.0, 1.0, 0.0]], ring.reshape(-1, 3), [[0.0, -1.0, 0.0]]])
    faces = []
    for s in range(segments):
        t = (s + 1) % segments
        faces.append([0, 1 + s, 1 + t])
        for r in range(rings - 2):
            a, b = 1 + r * segments + s, 1 + r * segments + t
            faces += [[a, a + segments, b + segments], [a, b + segments, b]]
        faces.append([1 + (rings - 2) * segments + s, len(points) - 1, 1 + (rings - 2) * segments + t])
    return centre + points * radii, np.array(faces)


def flame_arrays(components: int = 400, seed: int = 0) -> dict[str, Any]:
    """The content of a FLAME pickle: a head and two eyeballs, everything else random.

    Expressions leave alone the vertices that joints are regressed from, as `smplx` and the paper differ otherwise.
    """
    rng = np.random.default_rng(seed)
    parts = [
        sphere(np.zeros(3), np.array([0.075, 0.115, 0.095]), 10, 14),
        sphere(LEYE, np.full(3, 0.012), 6, 8),
        sphere(REYE, np.full(3, 0.012), 6, 8),
    ]
    starts = np.cumsum([0, *(len(p) for p, _ in parts)])
    vertices = np.concatenate([p for p, _ in parts])
    faces = np.concatenate([f + s for (_, f), s in zip(parts, starts, strict=False)])
    v = len(vertices)
    weights = rng.random((v, 5)) * [1, 1, 1, 0.01, 0.01]
    regressor = np.zeros((5, v))
    for joint in range(3):
        regressor[joint, rng.choice(starts[1], 12, replace=False)] = rng.random(12)
    for joint, start, end in ((3, starts[1], starts[2]), (4, starts[2], starts[3])):
        regressor[joint, start:end] = 1.0
        weights[start:end] = np.eye(5)[joint]
    regressor /= regressor.sum(1, keepdims=True)
    shapedirs = 1e-3 * rng.normal(size=(v, 3, components))
    shapedirs[(regressor > 0).any(0), :, min(300, components // 2) :] = 0.0
    return {
        "v_template": vertices,
        "f": faces.astype(np.uint32),
        "shapedirs": shapedirs,
        "posedirs": 1e-2 * rng.normal(size=(v, 3, 36)),
        "J_regressor": scipy.sparse.csc_matrix(regressor),
        "J": regressor @ vertices,
        "kintree_table": np.array([[2**32 - 1, 0, 1, 1, 1], [0, 1, 2, 3, 4]], np.uint32),
        "weights": weights / weights.sum(1, keepdims=True),
        "bs_style": "lbs",
        "bs_type": "lrotmin",
    }


def write_flame(folder: Path, arrays: dict[str, Any] | None = None, protocol: int = 2) -> Path:
    """`FLAME_NEUTRAL.pkl` and the static landmark embedding, as `smplx` looks for them."""
    arrays = flame_arrays() if arrays is None else arrays
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "FLAME_NEUTRAL.pkl"
    path.write_bytes(pickle.dumps(arrays, protocol))
    rng = np.random.default_rng(5)
    weights = rng.random((51, 3))
    embedding = {
        "lmk_face_idx": rng.integers(0, len(arrays["f"]), 51).astype(np.uint32),
        "lmk_b_coords": weights / weights.sum(1, keepdims=True),
    }
    (folder / "flame_static_embedding.pkl").write_bytes(pickle.dumps(embedding, protocol))
    return path
