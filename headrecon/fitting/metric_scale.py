"""Metric scale: what fixes the head's size in millimetres, and how sure the result is.

One photo shows angles only. Size comes from the population (`betas` are metric standard deviations), from the iris,
whose visible diameter hardly differs between adults, and from what the user knows. All of them enter one joint fit, and
derived figures get their deviation from its posterior by the delta method.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from headrecon.errors import InputError
from headrecon.fitting.least_squares import Block, Values
from headrecon.fitting.measures import MeasureSet
from headrecon.fitting.parameters import HeadView
from headrecon.fitting.posterior import Posterior
from headrecon.fitting.robust import Kernel, Quadratic
from headrecon.io.exif import FocalHint
from headrecon.models.point_model import PointModel

#: White-to-white corneal diameter: Ruefer, Schroeder, Erb, Cornea 24(3), 2005, 390 adults, both sexes.
IRIS_MM, IRIS_SIGMA_MM = 11.71, 0.42
#: Quantile of the normal distribution that leaves 5 % above.
Z90 = 1.6448536269514722


@dataclass(frozen=True)
class MetricKnowledge:
    """What the user knows about the person or the photo; None where nothing is known.

    ipd_mm: interpupillary distance looking far. distance_m: camera to the point between the eyes.
    focal_px: focal length in pixels of the upright image. The sigmas say how well (focal and distance: relative).
    """

    ipd_mm: float | None = None
    focal_px: float | None = None
    distance_m: float | None = None
    ipd_sigma_mm: float = 0.5
    focal_sigma: float = 0.01
    distance_sigma: float = 0.02

    def __post_init__(self) -> None:
        for name, value, low, high, unit in (
            ("ipd_mm", self.ipd_mm, 35.0, 90.0, "mm between the pupils (adults: 52 to 78)"),
            ("focal_px", self.focal_px, 10.0, 1e6, "pixels"),
            ("distance_m", self.distance_m, 0.1, 100.0, "metres from camera to face"),
        ):
            if value is not None and not low <= value <= high:
                raise InputError(f"{name} must lie between {low:g} and {high:g} {unit}, found {value:g}")
        if min(self.ipd_sigma_mm, self.focal_sigma, self.distance_sigma) <= 0:
            raise InputError("the deviations of known quantities must be greater than zero")

    def focal_hint(self) -> FocalHint | None:
        return None if self.focal_px is None else FocalHint(self.focal_px, self.focal_sigma, "user")


@dataclass(frozen=True)
class IrisModel:
    """How well the iris measures scale.

    detector_bias: by how much perception measures irises too large (+1.2 % on 16 eyes of photos read by eye, +1.3 % on
    rendered ones, docs/accuracy.md). sigma: relative deviation of one eye's measured diameter; common_sigma: relative
    deviation that both eyes share, added to the spread of the population.
    """

    mean_mm: float = IRIS_MM
    population_sigma_mm: float = IRIS_SIGMA_MM
    detector_bias: float = 0.012
    sigma: float = 0.03
    common_sigma: float = 0.022

    def block(self, name: str = "log_iris") -> Block:
        """The logarithm of the iris diameter in metres, as the detector sees it (bias included)."""
        sigma = math.hypot(self.population_sigma_mm / self.mean_mm, self.common_sigma)
        return Block.make(name, 1, mean=math.log(self.mean_mm * 1e-3 * (1 + self.detector_bias)), sigma=sigma)

    def diameter_mm(self, log_iris: float) -> float:
        """The person's iris diameter for a value of the block: the detector's bias taken out."""
        return 1e3 * math.exp(log_iris) / (1 + self.detector_bias)


@dataclass(frozen=True)
class IrisResidual:
    """log of the iris size in pixels: predicted f d / z_eye times the foreshortening, against the measured one.

    `size` is the geometric mean of the two diameters of the ring; an iris turned by a from the view ray keeps
    cos(a) of its area, so sqrt(cos(a)) of this size. The foreshortening is held fixed within a solve.
    """

    name: str
    view: HeadView
    points: PointModel  # iris centres: right, left
    log_size_px: Float[np.ndarray, "2"]
    log_foreshortening: Float[np.ndarray, "2"]  # 0.5 log cos(a)
    sigma: Float[np.ndarray, "2"]
    iris_block: str = "log_iris"
    kernel: Kernel = field(default_factory=Quadratic)
    group: int = 1

    @property
    def blocks(self) -> tuple[str, ...]:
        return (*self.view.blocks, self.iris_block)

    def _residual(self, values: Values, points: np.ndarray) -> np.ndarray:
        log_scale = math.log(self.view.focal(values)) - np.log(-points[:, 2])
        predicted = values[self.iris_block][0] + log_scale + self.log_foreshortening
        return (predicted - self.log_size_px) / self.sigma

    def evaluate(self, values: Values) -> Float[np.ndarray, " M"]:
        return self._residual(values, self.view.evaluate(self.points, values))

    def linearize(self, values: Values) -> tuple[Float[np.ndarray, " M"], Float[np.ndarray, "M K"]]:
        points, slopes = self.view.linearize(self.points, values)
        columns = slopes[:, 2, :] / -points[:, 2:]
        columns[:, -1] += 1.0
        out = np.concatenate([columns, np.ones((len(points), 1))], axis=1) / self.sigma[:, None]
        return self._residual(values, points), out


@dataclass(frozen=True)
class EyeDistance:
    """Distance from the camera at the origin to the midpoint of the iris centres, with derivatives."""

    view: HeadView
    points: PointModel

    def evaluate(self, values: Values) -> float:
        return float(np.linalg.norm(self.view.evaluate(self.points, values).mean(0)))

    def linearize(self, values: Values) -> tuple[float, Float[np.ndarray, " K"]]:
        points, columns = self.view.linearize(self.points, values)
        middle = points.mean(0)
        length = float(np.linalg.norm(middle))
        return length, middle @ columns.mean(0) / length


@dataclass(frozen=True)
class DistanceResidual:
    """log of the distance to the camera against what is known or believed about it."""

    name: str
    distance: EyeDistance
    log_distance: float
    sigma: float
    kernel: Kernel = field(default_factory=Quadratic)
    group: int = 1

    @property
    def blocks(self) -> tuple[str, ...]:
        return self.distance.view.blocks

    def evaluate(self, values: Values) -> Float[np.ndarray, " M"]:
        return np.array([(math.log(self.distance.evaluate(values)) - self.log_distance) / self.sigma])

    def linearize(self, values: Values) -> tuple[Float[np.ndarray, " M"], Float[np.ndarray, "M K"]]:
        length, slope = self.distance.linearize(values)
        return np.array([(math.log(length) - self.log_distance) / self.sigma]), slope[None] / (length * self.sigma)


@dataclass(frozen=True)
class LengthResidual:
    """A known length of the neutral head, metres: the user's interpupillary distance, or a measured face width."""

    name: str
    measures: MeasureSet
    measure: str
    length: float
    sigma: float
    blocks: tuple[str, ...] = ("betas",)
    kernel: Kernel = field(default_factory=Quadratic)
    group: int = 1

    def evaluate(self, values: Values) -> Float[np.ndarray, " M"]:
        return self.linearize(values)[0]

    def linearize(self, values: Values) -> tuple[Float[np.ndarray, " M"], Float[np.ndarray, "M K"]]:
        index = self.measures.names.index(self.measure)
        lengths, slopes = self.measures.evaluate(values[self.blocks[0]])
        return np.array([(lengths[index] - self.length) / self.sigma]), slopes[index][None] / self.sigma


@dataclass(frozen=True)
class Figure:
    """A derived quantity with its standard deviation and 90 % interval, in `unit`."""

    value: float
    sigma: float
    low90: float
    high90: float
    unit: str

    @staticmethod
    def positive(value: float, sigma: float, unit: str) -> Figure:
        """For lengths: the interval is symmetric in the logarithm, which matters once sigma exceeds a few per cent."""
        factor = math.exp(Z90 * sigma / value)
        return Figure(value, sigma, value / factor, value * factor, unit)

    def __str__(self) -> str:
        return f"{self.value:.2f} ± {self.sigma:.2f} {self.unit}"


def length_figures(
    measures: MeasureSet, values: Values, posterior: Posterior, block: str = "betas"
) -> dict[str, Figure]:
    """`<name>_mm` of every measure."""
    lengths, slopes = measures.evaluate(values[block])
    sigmas = np.sqrt(np.einsum("mk,kl,ml->m", slopes, posterior.marginal(block), slopes))
    pairs = zip(measures.names, lengths, sigmas, strict=True)
    return {f"{n}_mm": Figure.positive(float(v) * 1e3, float(s) * 1e3, "mm") for n, v, s in pairs}


def distance_figure(distance: EyeDistance, values: Values, posterior: Posterior) -> Figure:
    """Distance between the camera and the midpoint of the eyes, metres."""
    length, slope = distance.linearize(values)
    columns = np.concatenate(
        [np.arange(posterior.slices[b].start, posterior.slices[b].stop) for b in distance.view.blocks]
    )
    variance = slope @ posterior.covariance[np.ix_(columns, columns)] @ slope
    return Figure.positive(length, math.sqrt(max(float(variance), 0.0)), "m")


def focal_figure(view: HeadView, values: Values, posterior: Posterior) -> Figure:
    """Focal length in pixels."""
    focal = view.focal(values)
    return Figure.positive(focal, focal * float(posterior.sigma(view.names["log_focal"])[0]), "px")


def iris_foreshortening(
    gaze: Float[np.ndarray, "2 3"], centers: Float[np.ndarray, "2 3"], floor: float = 0.3
) -> Float[np.ndarray, "2"]:
    """0.5 log cos of the angle between each gaze direction and the ray to the camera at the origin."""
    rays = -centers / np.linalg.norm(centers, axis=1, keepdims=True)
    return 0.5 * np.log(np.clip(np.sum(gaze * rays, axis=1), floor, 1.0))
