"""A second, closer look at a face: truer landmarks, and what the picture says about the person's shape.

A landmark detector trained on photos draws unusual faces towards usual ones: it has never seen true positions. Rendered
heads have them exactly, which is enough to train on (Wood et al., "Fake It Till You Make It", ICCV 2021; "3D Face
Reconstruction with Dense Landmarks", ECCV 2022). This network takes the detector's points and the picture around
them, and gives each point's error and the mean of the identity coefficients of the default head model; its own
errors, measured on heads rendered with other people's skin, come with it as a covariance.
`scripts/train_face_refiner.py` makes its table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from headrecon.perception.crops import Roi, Tile
from headrecon.perception.face_landmarks import roi_from_landmarks
from headrecon.perception.mesh_symmetry import mirror_indices
from headrecon.perception.small_network import FaceRegressor
from headrecon.structures import FaceObservation, ShapeEstimate

TABLE = "face_refiner.npz"
MESH_POINTS = 468
#: Side of the region looked at, against the one that the landmark network looks at.
REGION = 0.85
#: Pixels that the region is sampled with, then reduced to.
SAMPLED, SEEN = 160, 128
_EYE_CORNERS = [33, 133, 362, 263]


def refiner_roi(points: Float[np.ndarray, "478 3"]) -> Roi:
    """The region of the picture that the refiner looks at."""
    roi = roi_from_landmarks(points)
    return Roi(roi.center_x, roi.center_y, REGION * roi.size, roi.angle_rad)


def region_points(points: Float[np.ndarray, "478 3"], roi: Roi) -> Float[np.ndarray, "478 3"]:
    """Landmarks in the region: x and y in -0.5..0.5, z in the same scale from the depth of the eyes."""
    flat = roi.to_crop(points[:, :2]) - 0.5
    depth = points[:, 2:] / roi.size
    return np.concatenate([flat, depth - depth[_EYE_CORNERS].mean()], axis=1)


def mirrored_points(points: Float[np.ndarray, "B 478 D"]) -> Float[np.ndarray, "B 478 D"]:
    """The same in the mirrored region."""
    swapped = points[:, mirror_indices()].copy()
    swapped[:, :, 0] *= -1
    return swapped


def standardized(image_srgb: UInt8[np.ndarray, "H W 3"]) -> Float[np.ndarray, "S S 3"]:
    """The region at `SEEN` pixels with the mean of each colour taken out and the contrast divided out."""
    small = np.asarray(Image.fromarray(image_srgb).resize((SEEN, SEEN), Image.Resampling.BILINEAR), np.float32) / 255
    return (small - small.mean((0, 1))) / (small.std() + 0.03)


@dataclass(frozen=True)
class PointCode:
    """Landmarks or their errors as a few numbers: principal components, each divided by its scale."""

    mean: Float[np.ndarray, " N"]
    components: Float[np.ndarray, "K N"]
    scale: Float[np.ndarray, " K"]

    def encode(self, points: Float[np.ndarray, "B 478 D"]) -> Float[np.ndarray, "B K"]:
        """Numbers that stand for the points."""
        return (points.reshape(len(points), -1) - self.mean) @ self.components.T / self.scale

    def decode(self, numbers: Float[np.ndarray, "B K"], dimensions: int) -> Float[np.ndarray, "B 478 D"]:
        """Points that the numbers stand for."""
        return ((numbers * self.scale) @ self.components + self.mean).reshape(len(numbers), -1, dimensions)


class FaceRefiner:
    """The network with its tables. Make one and keep it; it holds no state."""

    def __init__(self, tables: Mapping[str, np.ndarray]) -> None:
        network = {k.removeprefix("network/"): v for k, v in tables.items() if k.startswith("network/")}
        self._network = FaceRegressor(network)
        self._points, self._errors = (
            PointCode(*(tables[f"{kind}/{name}"].astype(np.float64) for name in ("mean", "components", "scale")))
            for kind in ("points", "errors")
        )
        self._mirror_betas = tables["mirror_betas"].astype(np.float64)
        self._covariance = tables["covariance"].astype(np.float64)
        self.model = str(tables["model"])

    def refine(self, image_srgb: UInt8[np.ndarray, "H W 3"], face: FaceObservation) -> FaceObservation:
        """The same face with truer mesh points (irises stay as measured) and a `ShapeEstimate`."""
        points = face.landmarks.astype(np.float64)
        roi = refiner_roi(points)
        crop = Tile(image_srgb, roi, SAMPLED, 0.0).sample(roi, SAMPLED)
        correction, betas = self.predict(standardized(crop)[None], region_points(points, roi)[None])
        mesh = roi.to_image(roi.to_crop(points[:MESH_POINTS, :2]) + correction[0, :MESH_POINTS])
        landmarks = face.landmarks.copy()
        landmarks[:MESH_POINTS, :2] = mesh
        return replace(face, landmarks=landmarks, shape=ShapeEstimate(self.model, betas[0], self._covariance))

    def predict(
        self, pictures: Float[np.ndarray, "B S S 3"], points: Float[np.ndarray, "B 478 3"]
    ) -> tuple[Float[np.ndarray, "B 478 2"], Float[np.ndarray, "B Nb"]]:
        """Corrections in parts of the region and mean betas: the mean of a look and a look in the mirror."""
        both = np.concatenate([pictures, pictures[:, :, ::-1]])
        codes = self._points.encode(np.concatenate([points, mirrored_points(points)]))
        answer = self._network(both.astype(np.float32), codes.astype(np.float32)).astype(np.float64)
        num_betas = self._mirror_betas.shape[0]
        betas, codes = answer[:, :num_betas], answer[:, num_betas:]
        errors = self._errors.decode(codes, 2)
        half = len(pictures)
        correction = (errors[:half] + mirrored_points(errors[half:])) / 2
        return correction, (betas[:half] + betas[half:] @ self._mirror_betas.T) / 2


def load_face_refiner() -> FaceRefiner:
    """The shipped network."""
    with np.load(Path(str(resources.files("headrecon") / "data" / TABLE)), allow_pickle=False) as table:
        return FaceRefiner(dict(table))
