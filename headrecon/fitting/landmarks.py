"""Landmark residuals: what a detector saw against what the head model shows, with the detector's correlated error.

A detector's 478 points do not err independently: it makes the whole mouth too wide or one cheek too full. Counted
as independent they would claim an accuracy that they do not have. The error is modelled as e = sum_k n_k M_k + noise,
with modes M_k common to all faces (in a head-aligned frame, in units of the interocular distance), n ~ N(0, I) nuisance
parameters solved for with everything else, and independent noise per point.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

from headrecon.errors import ShapeError
from headrecon.fitting import landmark_groups as groups
from headrecon.fitting.least_squares import Block, Values
from headrecon.fitting.parameters import HeadView
from headrecon.fitting.robust import Huber, Kernel
from headrecon.models.point_model import PointModel
from headrecon.perception.eye_frame import EyeFrame
from headrecon.structures import LandmarkEmbedding

DEFAULT_SIGMA = 0.012


@dataclass(frozen=True)
class DetectorNoise:
    """Error of a landmark detector in units of the interocular distance, in the head-aligned frame (x from the
    subject's right eye to the left one, y downwards).

    sigma: deviation of the independent part per point and axis. modes: correlated part, one standard deviation each.
    bias: detected minus true, the same for all faces; None: none.
    """

    sigma: Float[np.ndarray, "478 2"]
    modes: Float[np.ndarray, "K 478 2"]
    bias: Float[np.ndarray, "478 2"] | None = None

    def __post_init__(self) -> None:
        if self.sigma.shape != (groups.NUM_ALL, 2) or self.modes.shape[1:] != (groups.NUM_ALL, 2):
            raise ShapeError(
                f"detector noise needs sigma [478,2] and modes [K,478,2], found {self.sigma.shape}, {self.modes.shape}"
            )
        if self.bias is not None and self.bias.shape != (groups.NUM_ALL, 2):
            raise ShapeError(f"detector noise needs a bias [478,2], found {self.bias.shape}")
        if not (self.sigma > 0).all():
            raise ShapeError("detector noise needs sigma > 0 for every landmark and axis")

    @staticmethod
    def isotropic(sigma: float = DEFAULT_SIGMA) -> DetectorNoise:
        """The same independent deviation for every point, and no correlated part."""
        return DetectorNoise(np.full((groups.NUM_ALL, 2), sigma), np.zeros((0, groups.NUM_ALL, 2)))

    def scaled(self, sigma: float, modes: float) -> DetectorNoise:
        """The same noise with its independent and its correlated part multiplied."""
        return DetectorNoise(self.sigma * sigma, self.modes * modes, self.bias)

    def unbiased(self, landmarks: Float[np.ndarray, "478 D"]) -> Float[np.ndarray, "478 D"]:
        """Detected points (pixels) without the bias."""
        if self.bias is None:
            return landmarks
        frame = EyeFrame.of(landmarks)
        out = landmarks.copy()
        out[:, :2] -= self.bias @ frame.axes * frame.scale_px
        return out

    @property
    def num_modes(self) -> int:
        return len(self.modes)


@dataclass(frozen=True)
class LandmarkResidual:
    """Image points with a 2x2 square-root information each, and optional correlated error modes.

    r_l = W_l (project(p_l) + sum_k n_k modes_k,l - observed_l). Rows with W_l = 0 do not count.
    """

    name: str
    view: HeadView
    points: PointModel
    observed: Float[np.ndarray, "L 2"]  # pixels
    weights: Float[np.ndarray, "L D 2"]  # 1 / pixels
    modes: Float[np.ndarray, "K L 2"]  # pixels
    noise_block: str | None = None
    kernel: Kernel = field(default_factory=Huber)
    landmarks: Int[np.ndarray, " L"] | None = None  # which MediaPipe points these are, for reports

    @property
    def group(self) -> int:
        return self.weights.shape[1]

    @property
    def blocks(self) -> tuple[str, ...]:
        return self.view.blocks if self.noise_block is None else (*self.view.blocks, self.noise_block)

    @cached_property
    def _weighted_modes(self) -> Float[np.ndarray, "M K"]:
        weighted = np.einsum("ldi,kli->ldk", self.weights, self.modes)
        return weighted.reshape(-1, len(self.modes))

    def _residual(self, pixels: np.ndarray, values: Values) -> np.ndarray:
        r = (self.weights @ (pixels - self.observed)[..., None]).reshape(-1)
        return r if self.noise_block is None else r + self._weighted_modes @ values[self.noise_block]

    def evaluate(self, values: Values) -> Float[np.ndarray, " M"]:
        pixels = self.view.project(values, self.view.evaluate(self.points, values))
        return self._residual(pixels, values)

    def linearize(self, values: Values) -> tuple[Float[np.ndarray, " M"], Float[np.ndarray, "M K"]]:
        points, slopes = self.view.linearize(self.points, values)
        pixels, columns = self.view.project_linear(values, points, slopes, self.weights)
        flat = columns.reshape(-1, self.view.num_columns)
        if self.noise_block is not None:
            flat = np.concatenate([flat, self._weighted_modes], axis=1)
        return self._residual(pixels, values), flat


def noise_block(name: str, noise: DetectorNoise) -> Block:
    """The nuisance parameters of the correlated error, and one for the scaling gap: standard normal."""
    return Block.make(name, noise.num_modes + 1, sigma=1.0)


def whitening(
    sigma: Float[np.ndarray, "L 2"],
    frame: EyeFrame,
    visibility: Float[np.ndarray, " L"],
    extra_px: Float[np.ndarray, " L"],
) -> Float[np.ndarray, "L 2 2"]:
    """Square-root information per landmark in 1/pixels.

    sigma: the detector's deviation (interocular distances, head frame). visibility in 0..1 scales the information;
    extra_px is the deviation of the model's own landmark placement.
    """
    sigma_px = np.hypot(sigma * frame.scale_px, extra_px[:, None])
    return np.sqrt(visibility)[:, None, None] * frame.axes / sigma_px[..., None]


def modes_px(noise: DetectorNoise, frame: EyeFrame) -> Float[np.ndarray, "K 478 2"]:
    """The correlated modes in pixels along the image axes."""
    return noise.modes @ frame.axes * frame.scale_px


def visibility_of(
    normals: Float[np.ndarray, "L 3"], points: Float[np.ndarray, "L 3"], floor: float = 0.04
) -> Float[np.ndarray, " L"]:
    """How much a point can be trusted given how its surface faces the camera at the origin: a smooth step from
    `floor` (turned away by 6 degrees past grazing) to 1 (17 degrees before grazing). Detectors guess hidden points.
    """
    facing = -np.sum(normals * points, axis=1) / np.maximum(np.linalg.norm(points, axis=1), 1e-12)
    t = np.clip((facing + 0.1) / 0.4, 0.0, 1.0)
    return np.maximum(t * t * (3 - 2 * t), floor)


def take(embedding: LandmarkEmbedding, ids: list[int] | np.ndarray) -> LandmarkEmbedding:
    """Some of the points of an embedding."""
    chosen = np.asarray(ids, dtype=int)
    sigma = None if embedding.sigma_m is None else embedding.sigma_m[chosen]
    return LandmarkEmbedding(embedding.vertex_ids[chosen], embedding.barycentrics[chosen], sigma)
