"""Lengths on the neutral head and how they change with identity: what metric figures and known sizes are made of.

Interpupillary distance here is the distance between the pupils with parallel gaze (looking at infinity): the model's
iris centres with the eye joints at rest. Opticians order far glasses by this number; while looking at a
camera half a metre away the pupils stand about 1.5 mm closer together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from headrecon.fitting import landmark_groups as groups
from headrecon.models.measurements import measurements_of
from headrecon.models.point_model import PointModel
from headrecon.models.posed_mesh import embed
from headrecon.structures import HeadAssets, LandmarkEmbedding

PUPIL_LENGTHS = ("ipd", "pd_right", "pd_left")
#: Measures of the model that are reported under a shorter name, or (None) are defined here.
RENAMED = {"bizygomatic_breadth": "face_width", "interpupillary_distance": None}


@dataclass(frozen=True)
class _Path:
    name: str
    points: Int[np.ndarray, " N"]


class MeasureSet:
    """Lengths in metres of the neutral head with their derivatives by `betas`.

    Holds `ipd`, `pd_right`, `pd_left`, then the measures that travel with the model (`models/measurements.py`).
    A model without `bizygomatic_breadth` gets as `face_width` the distance between MediaPipe's
    outermost cheek points.
    """

    def __init__(self, assets: HeadAssets) -> None:
        marks = assets.landmarks["mediapipe478"]
        own = [groups.RIGHT_IRIS[0], groups.LEFT_IRIS[0], groups.SELLION, *groups.CHEEKS]
        ids, bary = [marks.vertex_ids[own]], [marks.barycentrics[own]]
        self._paths: list[_Path] = []
        measurements = measurements_of(assets)
        if "bizygomatic_breadth" not in measurements:
            self._paths.append(_Path("face_width", np.array([3, 4])))
        count = len(own)
        for name, measurement in measurements.items():
            shown = RENAMED.get(name, name)
            if shown is None:
                continue
            points = measurement.points
            ids.append(points.vertex_ids)
            bary.append(points.barycentrics)
            self._paths.append(_Path(shown, np.arange(count, count + len(points))))
            count += len(points)
        self._marks = LandmarkEmbedding(np.concatenate(ids), np.concatenate(bary))
        self._model = PointModel(assets, self._marks)
        self.names: tuple[str, ...] = (*PUPIL_LENGTHS, *(p.name for p in self._paths))

    def of_head(self, neutral: Float[np.ndarray, "V 3"]) -> Float[np.ndarray, " M"]:
        """Lengths in the order of `names` on a head at rest with whatever it has beside its identity; its unit."""
        points = embed(np.asarray(neutral, np.float64), self._marks)
        return np.array(self._lengths(points, np.zeros((*points.shape, 0)))[0])

    def within(self, vertices: Bool[np.ndarray, " V"]) -> Bool[np.ndarray, " M"]:
        """Which lengths, in the order of `names`, are between points of these vertices alone."""
        own = (vertices[self._marks.vertex_ids] | (self._marks.barycentrics == 0)).all(1)
        pupils = [bool(own[:2].all()), *[bool(own[:3].all())] * 2]
        return np.array([*pupils, *(bool(own[p.points].all()) for p in self._paths)])

    def evaluate(self, betas: Float[np.ndarray, " Nb"]) -> tuple[Float[np.ndarray, " M"], Float[np.ndarray, "M Nb"]]:
        """Lengths in metres in the order of `names`, and their derivatives."""
        x = self._model.layout.zeros()
        x[self._model.layout.slices["betas"]] = betas
        points, jac = self._model.jacobian(x)
        jac = jac[:, :, self._model.layout.slices["betas"]]
        lengths, slopes = self._lengths(points, jac)
        return np.array(lengths), np.stack(slopes)

    def _lengths(self, points: np.ndarray, jac: np.ndarray) -> tuple[list[float], list[np.ndarray]]:
        lengths, slopes = _pupil_distances(points, jac)
        for path in self._paths:
            length, slope = _polyline(points[path.points], jac[path.points])
            lengths.append(length)
            slopes.append(slope)
        return lengths, slopes


def _polyline(points: np.ndarray, jac: np.ndarray) -> tuple[float, np.ndarray]:
    steps, d_steps = np.diff(points, axis=0), np.diff(jac, axis=0)
    lengths = np.linalg.norm(steps, axis=1)
    units = steps / np.maximum(lengths, 1e-12)[:, None]
    return float(lengths.sum()), np.einsum("nc,nck->k", units, d_steps)


def _pupil_distances(points: np.ndarray, jac: np.ndarray) -> tuple[list[float], list[np.ndarray]]:
    """ipd, and each pupil's distance from the plane through the sellion perpendicular to the pupils' line."""
    right, left, sellion = points[:3]
    length, slope = _polyline(points[:2], jac[:2])
    unit = (left - right) / length
    d_unit = (jac[1] - jac[0] - np.outer(unit, slope)) / length
    pd_right = float(unit @ (sellion - right))
    d_right = unit @ (jac[2] - jac[0]) + (sellion - right) @ d_unit
    return [length, pd_right, length - pd_right], [slope, d_right, slope - d_right]
