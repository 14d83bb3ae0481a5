"""A closer look at a detected face: truer points, and an estimate of the person's shape.

A landmark detector trained on photos draws unusual faces towards usual ones: it has never seen true positions. On
rendered heads they are known exactly (Wood et al., "Fake It Till You Make It", ICCV 2021), so its errors can be
learned. Three things tell of them: the pattern of the points themselves, the feature maps that the detector made them
from, which still hold what its last layers leave out, and those of a face recognition network, which knows what tells
people apart (the observation of Zielonka, Bolkart, Thies, "Towards Metrical Reconstruction of Human Faces", ECCV 2022,
with another network). A small network on each (`shape_network`) gives an answer, and the answers are averaged.
Photos differ from renderings in ways that no rendering shows, so noise was added to the points in training, and parts
of the features were left out at random (`scripts/train_face_refiner.py`). The error that the estimate of identity is
left with, measured on heads in skins that the networks had not seen, is its covariance.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from headrecon.errors import AssetError
from headrecon.perception.attention_mesh import AttentionMesh
from headrecon.perception.crops import Tile
from headrecon.perception.eye_frame import EyeFrame
from headrecon.perception.face_identity import face_chip
from headrecon.perception.face_landmarks import roi_from_landmarks
from headrecon.perception.recognition_network import RecognitionNetwork, load_recognition_network
from headrecon.perception.shape_network import MeshHead, RecognitionHead, head_from_tables
from headrecon.perception.shape_reader import ShapeReader, yaw_of
from headrecon.structures import FaceObservation, ShapeEstimate

TABLE = "face_refiner.npz"
#: Room around the region when its tile is cut out, as a part of its side.
_MARGIN = 0.1
#: Share of the reader on recognition features in a face from the front, and the yaw over which it falls to 0: that
#: network takes faces from the front. Chosen on tuning renderings (docs/accuracy.md).
_RECOGNITION_SHARE = 0.6
_FRONT_RAD, _TURNED_RAD = np.radians(15.0), np.radians(40.0)


def turned(points: Float[np.ndarray, "478 3"]) -> float:
    """0 for a face from the front, 1 from 40 degrees of yaw on, smooth between."""
    t = np.clip((abs(float(yaw_of(points[None])[0])) - _FRONT_RAD) / (_TURNED_RAD - _FRONT_RAD), 0.0, 1.0)
    return float(t**2 * (3 - 2 * t))


def recognition_share(points: Float[np.ndarray, "478 3"]) -> float:
    """Share of the reader on recognition features in the answer."""
    return _RECOGNITION_SHARE * (1 - turned(points))


@dataclass(frozen=True)
class FaceRefiner:
    """The readers of a face and what they need. `model` names the head model whose identity they speak of.

    used: the points that are corrected: all but the mouth's, which the detector sees well, and irises, which are
    measured. covariance: of the error that the betas are left with. by_mesh: on the features of MediaPipe's mesh
    network; by_recognition: on those of `recognition`.
    """

    model: str
    used: Int[np.ndarray, " P"]
    covariance: Float[np.ndarray, "Nb Nb"]
    by_mesh: ShapeReader
    by_recognition: ShapeReader
    recognition: RecognitionNetwork

    def refine(
        self, face: FaceObservation, image_srgb: UInt8[np.ndarray, "H W 3"], mesh: AttentionMesh
    ) -> FaceObservation:
        """The same face with truer mesh points and a `ShapeEstimate`.

        image_srgb: the picture in which it was seen. Each network looks twice: about 60 ms together.
        """
        points = face.landmarks.astype(np.float64)
        frame = EyeFrame.of(points)
        normalized = frame.normalized(points)
        errors, betas = self.by_mesh.read(normalized, *self._mesh_features(points, image_srgb, mesh))
        share = recognition_share(points)
        if share > 0:
            known = self.by_recognition.read(normalized, *self._recognition_features(face, image_srgb))
            errors, betas = ((1 - share) * a + share * b for a, b in zip((errors, betas), known, strict=True))
        landmarks = face.landmarks.copy()
        moved = errors @ frame.axes * frame.scale_px
        landmarks[self.used, :2] += moved[self.used].astype(landmarks.dtype)
        return replace(face, landmarks=landmarks, shape=ShapeEstimate(self.model, betas, self.covariance))

    def _mesh_features(self, points: np.ndarray, image: np.ndarray, mesh: AttentionMesh) -> list[Any]:
        region = roi_from_landmarks(points)
        tile = Tile(image, region, mesh.input_size, _MARGIN)
        return [mesh.features(tile.sample(region, mesh.input_size, flip)) for flip in (False, True)]

    def _recognition_features(self, face: FaceObservation, image: np.ndarray) -> list[Any]:
        chip = face_chip(image, face)
        seen = self.recognition(np.stack([chip, chip[:, ::-1]]))
        return list(zip(seen.middle, seen.deep, strict=True))

    @staticmethod
    def from_tables(tables: Mapping[str, np.ndarray], recognition: RecognitionNetwork) -> FaceRefiner:
        """From the arrays of the shipped file, which keeps most of them in half precision."""
        return FaceRefiner(
            model=str(tables["model"]),
            used=tables["used"].astype(np.int64),
            covariance=tables["covariance"].astype(np.float64),
            by_mesh=ShapeReader.from_tables(tables, "mesh.", head_from_tables(MeshHead, tables, "mesh.")),
            by_recognition=ShapeReader.from_tables(
                tables, "recognition.", head_from_tables(RecognitionHead, tables, "recognition.")
            ),
            recognition=recognition,
        )


def load_face_refiner(path: Path | None = None) -> FaceRefiner:
    """The shipped tables, or those of another file. Raises AssetError when they cannot be read or are incomplete."""
    path = path or Path(str(resources.files("headrecon") / "data" / TABLE))
    try:
        with np.load(path, allow_pickle=False) as tables:
            return FaceRefiner.from_tables(dict(tables), load_recognition_network())
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise AssetError(f"the face refiner's file {path} cannot be read ({error}); install headrecon again") from error
