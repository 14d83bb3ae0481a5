"""Shapes that a model's identity space cannot express, so that a truth does not lie exactly where a prior looks."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from headrecon.datasets.face_frame import face_frame, smooth_step
from headrecon.datasets.value_noise import NoiseField
from headrecon.structures import HeadAssets

#: Size of the dents and bulges, and reach of the face from the tip of the nose within which they are full, mm.
_GRAIN_MM, _REACH_MM = 22.0, 85.0


def outside_modes(assets: HeadAssets, rng: np.random.Generator, rms_mm: float) -> Float[np.ndarray, "V 3"]:
    """A smooth random displacement of the face in metres, `rms_mm` in the mean square over its vertices.

    What the identity directions could express of it is taken out by least squares over the face; eyes, teeth and the
    back of the head stay. Zero for rms_mm = 0.
    """
    out = np.zeros((assets.num_vertices, 3))
    if rms_mm <= 0:
        return out
    frame = face_frame(assets)
    points = frame.vertices
    fields = [NoiseField(rng) for _ in range(3)]
    away = np.linalg.norm(points - frame.marks[33], axis=1)
    skin = np.zeros(assets.num_vertices)
    ids = np.unique(assets.faces[assets.faces_of("skin")])
    skin[ids[ids >= 0]] = 1.0
    share = skin * smooth_step(away, _REACH_MM + 30, _REACH_MM)
    for side in ("right", "left"):  # lids would part from the eyeballs
        eye = np.linalg.norm(points - frame.eye_ring(side).mean(0), axis=1)
        share *= smooth_step(eye, 14, 30)
    wild = np.stack([field.octaves(points, _GRAIN_MM, 2) for field in fields], axis=1) * share[:, None]
    face = np.flatnonzero(share > 0.05)
    some = face[:: max(1, len(face) // 2500)]  # enough rows for a hundred unknowns
    directions = assets.shapedirs[some].reshape(-1, assets.num_betas).astype(np.float64)
    known, *_ = np.linalg.lstsq(directions, wild[some].reshape(-1), rcond=None)
    rest = wild - (assets.shapedirs @ known.astype(assets.shapedirs.dtype)) * share[:, None]
    out[:] = rest * (rms_mm * 1e-3 / max(float(np.sqrt((rest[face] ** 2).sum(1).mean())), 1e-12))
    return out
