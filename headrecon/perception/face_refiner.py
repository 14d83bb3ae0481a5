"""A closer look at a detected face: truer points, and an estimate of the person's shape.

A landmark detector trained on photos draws unusual faces towards usual ones: it has never seen true positions. On
rendered heads they are known exactly (Wood et al., "Fake It Till You Make It", ICCV 2021), so its errors can be
learned. Two things tell of them: the pattern of the points themselves, and the feature maps that the detector made them
from, which still hold what its last layers leave out (`shape_network`). Photos differ from renderings in ways that no
rendering shows, so noise was added to the points in training, and parts of the features were left out at random
(`scripts/train_face_refiner.py`). The error that the estimate of identity is left with, measured on heads in skins that
the network had not seen, is its covariance.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8

from headrecon.errors import AssetError
from headrecon.perception.attention_mesh import AttentionMesh, MeshFeatures
from headrecon.perception.crops import Tile
from headrecon.perception.eye_frame import EyeFrame
from headrecon.perception.face_landmarks import roi_from_landmarks
from headrecon.perception.mesh_symmetry import mirror_indices
from headrecon.perception.shape_network import ShapeNetwork
from headrecon.structures import FaceObservation, ShapeEstimate

TABLE = "face_refiner.npz"
MESH_POINTS = 468
_RIGHT_CHEEK, _LEFT_CHEEK, _FOREHEAD, _CHIN = 234, 454, 10, 152
#: Beyond this the pose terms would grow without having been learned (radians; training: 65 and 25 degrees).
_MAX_YAW, _MAX_PITCH = 1.0, 0.8
#: Room around the region when its tile is cut out, as a part of its side.
_MARGIN = 0.1


def mirrored_points(points: Float[np.ndarray, "B 478 D"]) -> Float[np.ndarray, "B 478 D"]:
    """The same faces, or offsets of their points, as a mirror shows them."""
    swapped = points[:, mirror_indices()].copy()
    swapped[:, :, 0] *= -1
    return swapped


def yaw_of(points: Float[np.ndarray, "B 478 3"]) -> Float[np.ndarray, " B"]:
    """Turn to the side in radians, as the depths of the points themselves show it."""
    across = points[:, _LEFT_CHEEK] - points[:, _RIGHT_CHEEK]
    return np.arctan2(across[:, 2], across[:, 0])


def pose_terms(points: Float[np.ndarray, "B 478 3"], mean_pitch: float) -> Float[np.ndarray, "B 10"]:
    """Powers and products of yaw and pitch as the points themselves show them."""
    up = points[:, _CHIN] - points[:, _FOREHEAD]
    yaw = np.clip(yaw_of(points), -_MAX_YAW, _MAX_YAW)
    pitch = np.clip(np.arctan2(up[:, 2], up[:, 1]) - mean_pitch, -_MAX_PITCH, _MAX_PITCH)
    powers = [np.ones_like(yaw), yaw, np.abs(yaw), yaw**2, yaw**3, pitch, pitch**2]
    return np.stack([*powers, yaw * pitch, yaw**2 * pitch, yaw * pitch**2], axis=1)


@dataclass(frozen=True)
class FaceRefiner:
    """The network and what its inputs and answers mean. `model` names the head model whose identity it speaks of.

    used: the points that are corrected: all but the mouth's, which the detector sees well, and irises, which are
    measured. axes: principal components of the normalized x and y of the 468 mesh points, scales: their deviations,
    noise included. The network's answer: betas, then the codes of the points' errors in `error_components`.
    """

    model: str
    used: Int[np.ndarray, " P"]
    mean_points: Float[np.ndarray, "936"]
    axes: Float[np.ndarray, "K 936"]
    scales: Float[np.ndarray, " K"]
    mean_pitch: float
    error_components: Float[np.ndarray, "E 936"]
    mirror_betas: Float[np.ndarray, "Nb Nb"]
    covariance: Float[np.ndarray, "Nb Nb"]
    network: ShapeNetwork

    def design(self, points: Float[np.ndarray, "B 478 3"]) -> Float[np.ndarray, "B M"]:
        """The points as the network takes them."""
        flat = points[:, :MESH_POINTS, :2].reshape(len(points), -1)
        along = (flat - self.mean_points) @ self.axes.T / self.scales
        return np.concatenate([along, pose_terms(points, self.mean_pitch)], axis=1)

    def predict(
        self, points: Float[np.ndarray, "478 3"], plain: MeshFeatures, mirrored: MeshFeatures
    ) -> tuple[Float[np.ndarray, "478 2"], Float[np.ndarray, " Nb"]]:
        """True minus detected points and mean betas, each the mean of a look and one in the mirror.

        points: as `EyeFrame.normalized` gives them; the corrections are in the same units, 0 for points not corrected.
        """
        rows = self.design(np.concatenate([points[None], mirrored_points(points[None])]))
        ours, theirs = (self.network(seen, row) for seen, row in zip((plain, mirrored), rows, strict=True))
        errors = mirrored_points(self._errors(theirs)[None])[0] + self._errors(ours)
        num_betas = len(self.mirror_betas)
        betas = (ours[:num_betas] + self.mirror_betas @ theirs[:num_betas]) / 2
        wanted = np.zeros((len(errors), 2))
        wanted[self.used] = errors[self.used] / 2
        return wanted, betas

    def _errors(self, answer: Float[np.ndarray, " D"]) -> Float[np.ndarray, "478 2"]:
        first = len(self.mirror_betas)
        out = np.zeros((478, 2))
        codes = answer[first : first + len(self.error_components)]
        out[:MESH_POINTS] = (codes @ self.error_components).reshape(-1, 2)
        return out

    def refine(
        self, face: FaceObservation, image_srgb: UInt8[np.ndarray, "H W 3"], mesh: AttentionMesh
    ) -> FaceObservation:
        """The same face with truer mesh points and a `ShapeEstimate`.

        image_srgb: the picture in which it was seen. Two looks at it: about 20 ms and 10 ms for what follows.
        """
        points = face.landmarks.astype(np.float64)
        region = roi_from_landmarks(points)
        tile = Tile(image_srgb, region, mesh.input_size, _MARGIN)
        plain, mirrored = (mesh.features(tile.sample(region, mesh.input_size, flip)) for flip in (False, True))
        frame = EyeFrame.of(points)
        errors, betas = self.predict(frame.normalized(points), plain, mirrored)
        landmarks = face.landmarks.copy()
        landmarks[:, :2] += (errors @ frame.axes * frame.scale_px).astype(landmarks.dtype)
        return replace(face, landmarks=landmarks, shape=ShapeEstimate(self.model, betas, self.covariance))

    @staticmethod
    def from_tables(tables: Mapping[str, np.ndarray]) -> FaceRefiner:
        """From the arrays of the shipped file, which keeps most of them in half precision."""
        names = ("mean_points", "axes", "scales", "error_components", "mirror_betas", "covariance")
        arrays = {name: tables[name].astype(np.float64) for name in names}
        return FaceRefiner(
            model=str(tables["model"]),
            mean_pitch=float(tables["mean_pitch"]),
            used=tables["used"].astype(np.int64),
            network=ShapeNetwork.from_tables(tables),
            **arrays,
        )


def load_face_refiner(path: Path | None = None) -> FaceRefiner:
    """The shipped tables, or those of another file. Raises AssetError when they cannot be read or are incomplete."""
    path = path or Path(str(resources.files("headrecon") / "data" / TABLE))
    try:
        with np.load(path, allow_pickle=False) as tables:
            return FaceRefiner.from_tables(dict(tables))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise AssetError(f"the face refiner's file {path} cannot be read ({error}); install headrecon again") from error
