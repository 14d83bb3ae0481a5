"""How the points of a detected face go into a shape network, and what its answers mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from headrecon.perception.mesh_symmetry import mirror_indices

MESH_POINTS = 468
_RIGHT_CHEEK, _LEFT_CHEEK, _FOREHEAD, _CHIN = 234, 454, 10, 152
#: Beyond this the pose terms would grow without having been learned (radians; training: 65 and 25 degrees).
_MAX_YAW, _MAX_PITCH = 1.0, 0.8


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
class ShapeReader:
    """A shape network with the coding of the points that it takes and of the points' errors that it answers.

    axes: principal components of the normalized x and y of the 468 mesh points, scales: their deviations, noise
    included. The network's answer: betas, then the codes of the points' errors in `error_components`. mirror_betas: the
    betas of the mirrored head.
    """

    mean_points: Float[np.ndarray, "936"]
    axes: Float[np.ndarray, "K 936"]
    scales: Float[np.ndarray, " K"]
    mean_pitch: float
    error_components: Float[np.ndarray, "E 936"]
    mirror_betas: Float[np.ndarray, "Nb Nb"]
    network: Callable[[Any, Float[np.ndarray, " M"]], Float[np.ndarray, " D"]]

    def design(self, points: Float[np.ndarray, "B 478 3"]) -> Float[np.ndarray, "B M"]:
        """The points as the network takes them."""
        flat = points[:, :MESH_POINTS, :2].reshape(len(points), -1)
        along = (flat - self.mean_points) @ self.axes.T / self.scales
        return np.concatenate([along, pose_terms(points, self.mean_pitch)], axis=1)

    def read(
        self, points: Float[np.ndarray, "478 3"], plain: Any, mirrored: Any
    ) -> tuple[Float[np.ndarray, "478 2"], Float[np.ndarray, " Nb"]]:
        """True minus detected points and mean betas, each the mean of a look and one in the mirror.

        points: as `EyeFrame.normalized` gives them; the errors are in the same units. plain, mirrored: the features
        that the network takes, of the face and of its mirror image.
        """
        rows = self.design(np.concatenate([points[None], mirrored_points(points[None])]))
        ours, theirs = (self.network(seen, row) for seen, row in zip((plain, mirrored), rows, strict=True))
        errors = mirrored_points(self._errors(theirs)[None])[0] + self._errors(ours)
        num_betas = len(self.mirror_betas)
        return errors / 2, (ours[:num_betas] + self.mirror_betas @ theirs[:num_betas]) / 2

    def _errors(self, answer: Float[np.ndarray, " D"]) -> Float[np.ndarray, "478 2"]:
        first = len(self.mirror_betas)
        out = np.zeros((478, 2))
        codes = answer[first : first + len(self.error_components)]
        out[:MESH_POINTS] = (codes @ self.error_components).reshape(-1, 2)
        return out

    @staticmethod
    def from_tables(
        tables: Mapping[str, np.ndarray], prefix: str, network: Callable[[Any, np.ndarray], np.ndarray]
    ) -> ShapeReader:
        """From the arrays of the shipped file whose names start with the prefix; `mirror_betas` has none."""
        names = ("mean_points", "axes", "scales", "error_components")
        arrays = {name: tables[prefix + name].astype(np.float64) for name in names}
        mirror = tables["mirror_betas"].astype(np.float64)
        return ShapeReader(
            mean_pitch=float(tables[prefix + "mean_pitch"]), mirror_betas=mirror, network=network, **arrays
        )
