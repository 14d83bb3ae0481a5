"""What a detector's points really say: truer points, and an estimate of the person's shape.

A landmark detector trained on photos draws unusual faces towards usual ones: it has never seen true positions. On
rendered heads they are known exactly (Wood et al., "Fake It Till You Make It", ICCV 2021), so its errors can be
learned: their mean, how they follow the pose, and how much of an unusual shape still shows in the pattern of all
points. Both answers, the error of each point and the mean of the identity coefficients given all points, are linear in
the points; a smooth function of the pose is added. Photos differ from renderings in ways that no rendering shows, so
noise of that size is counted in (`scripts/train_face_refiner.py`). The error that the estimate of identity is left
with, measured on heads that the regression had not seen, is its covariance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from headrecon.perception.mesh_symmetry import mirror_indices
from headrecon.structures import FaceObservation, ShapeEstimate

TABLE = "face_refiner.npz"
MESH_POINTS = 468
_EYE_CORNERS = [33, 133, 362, 263]
_RIGHT_EYE, _LEFT_EYE = [33, 133], [362, 263]
_RIGHT_OUTER, _LEFT_OUTER = 33, 263
_RIGHT_CHEEK, _LEFT_CHEEK, _FOREHEAD, _CHIN = 234, 454, 10, 152
#: Beyond this the pose terms would grow without having been learned (radians; training: 50 and 18 degrees).
_MAX_YAW, _MAX_PITCH = 1.0, 0.8


@dataclass(frozen=True)
class FaceFrame:
    """The frame in which points are compared: origin between the eyes, x along the line of their outer corners as
    seen, the unit is the 3D distance between the eyes' centres."""

    origin: Float[np.ndarray, "2"]
    axes: Float[np.ndarray, "2 2"]  # rows: x and y axis in the picture
    scale_px: float

    @staticmethod
    def of(points: Float[np.ndarray, "478 3"]) -> FaceFrame:
        """Frame of detected points (pixels, z in the same scale)."""
        across = points[_LEFT_OUTER, :2] - points[_RIGHT_OUTER, :2]
        x = across / max(float(np.linalg.norm(across)), 1e-9)
        scale = np.linalg.norm(points[_LEFT_EYE].mean(0) - points[_RIGHT_EYE].mean(0))
        return FaceFrame(points[_EYE_CORNERS, :2].mean(0), np.array([x, [-x[1], x[0]]]), max(float(scale), 1e-9))

    def normalized(self, points: Float[np.ndarray, "478 3"]) -> Float[np.ndarray, "478 3"]:
        """The points in this frame; z from the depth of the eyes."""
        flat = (points[:, :2] - self.origin) @ self.axes.T
        depth = points[:, 2:] - points[_EYE_CORNERS, 2].mean()
        return np.concatenate([flat, depth], axis=1) / self.scale_px


def mirrored_points(points: Float[np.ndarray, "B 478 D"]) -> Float[np.ndarray, "B 478 D"]:
    """The same faces, or offsets of their points, as a mirror shows them."""
    swapped = points[:, mirror_indices()].copy()
    swapped[:, :, 0] *= -1
    return swapped


def pose_terms(points: Float[np.ndarray, "B 478 3"], mean_pitch: float) -> Float[np.ndarray, "B 10"]:
    """Powers and products of yaw and pitch as the points themselves show them."""
    across = points[:, _LEFT_CHEEK] - points[:, _RIGHT_CHEEK]
    up = points[:, _CHIN] - points[:, _FOREHEAD]
    yaw = np.clip(np.arctan2(across[:, 2], across[:, 0]), -_MAX_YAW, _MAX_YAW)
    pitch = np.clip(np.arctan2(up[:, 2], up[:, 1]) - mean_pitch, -_MAX_PITCH, _MAX_PITCH)
    powers = [np.ones_like(yaw), yaw, np.abs(yaw), yaw**2, yaw**3, pitch, pitch**2]
    return np.stack([*powers, yaw * pitch, yaw**2 * pitch, yaw * pitch**2], axis=1)


@dataclass(frozen=True)
class FaceRefiner:
    """The regression's tables. `model` names the head model whose identity it speaks of.

    used: the mesh points that are read and corrected: all but the mouth's, which the detector sees well and which move
    most. axes: principal components of their normalized x and y. weights map a face's place along them, followed by its
    pose terms, to betas and, through `error_components`, to the error of each of these points.
    """

    model: str
    used: Int[np.ndarray, " P"]
    mean_points: Float[np.ndarray, " N"]
    axes: Float[np.ndarray, "K N"]
    mean_pitch: float
    weights: Float[np.ndarray, "M D"]
    error_components: Float[np.ndarray, "E N"]
    mirror_betas: Float[np.ndarray, "Nb Nb"]
    covariance: Float[np.ndarray, "Nb Nb"]

    def design(self, points: Float[np.ndarray, "B 478 3"]) -> Float[np.ndarray, "B M"]:
        """What the weights are multiplied with."""
        flat = points[:, self.used, :2].reshape(len(points), -1)
        return np.concatenate([(flat - self.mean_points) @ self.axes.T, pose_terms(points, self.mean_pitch)], axis=1)

    def predict(
        self, points: Float[np.ndarray, "B 478 3"]
    ) -> tuple[Float[np.ndarray, "B 468 2"], Float[np.ndarray, "B Nb"]]:
        """True minus detected mesh points and mean betas, each the mean of a look and one in the mirror.

        points: as `FaceFrame.normalized` gives them; the corrections are in the same units.
        """
        half = len(points)
        answer = self.design(np.concatenate([points, mirrored_points(points)])) @ self.weights
        num_betas = len(self.mirror_betas)
        betas, codes = answer[:, :num_betas], answer[:, num_betas:]
        errors = np.zeros((2 * half, 478, 2))
        errors[:, self.used] = (codes @ self.error_components).reshape(2 * half, -1, 2)
        errors = (errors[:half] + mirrored_points(errors[half:])) / 2
        return errors[:, :MESH_POINTS], (betas[:half] + betas[half:] @ self.mirror_betas.T) / 2

    def refine(self, face: FaceObservation) -> FaceObservation:
        """The same face with truer mesh points (irises stay as measured) and a `ShapeEstimate`."""
        points = face.landmarks.astype(np.float64)
        frame = FaceFrame.of(points)
        errors, betas = self.predict(frame.normalized(points)[None])
        landmarks = face.landmarks.copy()
        landmarks[:MESH_POINTS, :2] += (errors[0] @ frame.axes * frame.scale_px).astype(landmarks.dtype)
        return replace(face, landmarks=landmarks, shape=ShapeEstimate(self.model, betas[0], self.covariance))

    @staticmethod
    def from_tables(tables: Mapping[str, np.ndarray]) -> FaceRefiner:
        """From the arrays of the shipped file, which keeps most of them in half precision."""
        names = ("mean_points", "axes", "weights", "error_components", "mirror_betas", "covariance")
        arrays = {name: tables[name].astype(np.float64) for name in names}
        return FaceRefiner(
            model=str(tables["model"]), mean_pitch=float(tables["mean_pitch"]), used=tables["used"], **arrays
        )


def load_face_refiner() -> FaceRefiner:
    """The shipped tables."""
    with np.load(Path(str(resources.files("headrecon") / "data" / TABLE)), allow_pickle=False) as tables:
        return FaceRefiner.from_tables(dict(tables))
