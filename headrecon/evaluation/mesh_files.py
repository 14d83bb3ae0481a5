"""Scores files: a prediction (a mesh or an output folder of `headrecon reconstruct`) against a scan."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from headrecon.errors import InputError
from headrecon.evaluation.scan_to_mesh import EvaluationOptions, MeshScore, evaluate_mesh
from headrecon.io.meshes.landmark_points import read_landmark_points
from headrecon.io.meshes.loaded import read_mesh
from headrecon.structures import Mesh

_OWN_MESH, _OWN_POINTS = "head.ply", "landmarks3d.json"


@dataclass(frozen=True)
class ScoredFiles:
    """A score with the meshes and landmarks that went into it, in their own units."""

    score: MeshScore
    prediction: Mesh
    scan: Mesh
    scan_landmarks: Float[np.ndarray, "7 3"]

    def as_dict(self) -> dict[str, Any]:
        """What `headrecon eval mesh --json` writes, apart from the distances."""
        s = self.score
        return {
            "schema": "headrecon.mesh-score/1",
            "protocol": "NoW",
            "metric": s.metric.as_dict(),
            "scale_free": s.scale_free.as_dict(),
            "scored_vertices": len(s.vertex_ids),
            "region_vertices": s.region_vertices,
            "scan_vertices": s.scan_vertices,
            "radius_mm": s.radius_mm,
            "scan_mm_per_unit": s.scan_mm_per_unit,
            "prediction_mm_per_unit": s.pred_mm_per_unit,
        }


def evaluate_mesh_files(
    prediction: str | Path,
    scan: str | Path,
    landmarks: str | Path,
    prediction_landmarks: str | Path | None = None,
    options: EvaluationOptions | None = None,
) -> ScoredFiles:
    """`evaluate_mesh` on files. prediction: glb, obj, ply or stl, or a folder that `headrecon reconstruct` wrote.

    landmarks, prediction_landmarks: files or vertex numbers as `read_landmark_points` takes them; the folder, and a
    head.* in it, brings its own. Raises InputError.
    """
    options = options or EvaluationOptions()
    mesh_path, points, own = _prediction(Path(prediction), prediction_landmarks)
    predicted = read_mesh(mesh_path, keep_nan=True).mesh
    scanned = read_mesh(scan, keep_nan=True).mesh
    if own and options.pred_unit is None:
        options = replace(options, pred_unit="m")
    theirs = read_landmark_points(landmarks, scanned.vertices)
    score = evaluate_mesh(predicted, read_landmark_points(points, predicted.vertices), scanned, theirs, options)
    return ScoredFiles(score, predicted, scanned, theirs)


def _prediction(path: Path, points: str | Path | None) -> tuple[Path, str | Path, bool]:
    """Mesh, landmarks, and whether they are this project's own (metres)."""
    if path.is_dir():
        mesh = path / _OWN_MESH
        if not mesh.is_file():
            raise InputError(
                f"{path}: no {_OWN_MESH} in this folder; expected a mesh or an output folder of `headrecon reconstruct`"
            )
        path = mesh
    if points is not None:
        return path, points, False
    beside = path.parent / _OWN_POINTS
    if path.stem == "head" and beside.is_file():
        return path, beside, True
    raise InputError(
        f"prediction {path}: its 7 landmarks are not known; give --pred-landmarks (a file or vertex numbers); "
        f"only output folders of `headrecon reconstruct` bring a {_OWN_POINTS}"
    )
