"""Settings of the landmark stage."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from headrecon.errors import ShapeError
from headrecon.fitting.head_priors import HeadPrior
from headrecon.fitting.landmarks import DetectorNoise
from headrecon.fitting.least_squares import SolverOptions
from headrecon.fitting.metric_scale import IrisModel


@dataclass(frozen=True)
class FitOptions:
    """How the landmark stage fits."""

    #: error of the detector's points, as the answer counts with it (`detector_noise.photo_options`: on photos)
    noise: DetectorNoise = field(default_factory=DetectorNoise.isotropic)
    #: the same as the stated deviations count with it, with as many modes; None: `noise`
    stated_noise: DetectorNoise | None = None
    #: share of the evidence of `ShapeEstimate` that counts: the same pixels speak through the landmarks too
    shape_trust: float = 1.0
    #: the same as the stated deviations count with it; None: `shape_trust`
    stated_trust: float | None = None
    prior: HeadPrior = field(default_factory=HeadPrior)
    iris: IrisModel = field(default_factory=IrisModel)
    #: rounds of matching the outline anew and solving everything
    outer_rounds: int = 3
    #: deviations beyond which a landmark counts as an outlier (Huber, on the 2D distance)
    huber: float = 3.0
    #: deviation across the outline and on the forehead, as a multiple of the detector's
    contour_factor: float = 1.5
    forehead_factor: float = 2.5
    #: blendshapes only resemble how a face moves: deviation of a point as a share of how far its expression moves it
    expression_error: float = 0.3
    #: deviation of a person's log size beyond what the identity space can express (see `scale_volume.scaling_gap`)
    size_sigma: float = 0.05
    #: median distance and relative deviation of the prior on camera distance; sigma = inf switches it off
    distance_m: float = 1.2
    distance_sigma_log: float = 0.8
    #: turn for models without irises, and for tests
    use_iris: bool = True
    solver: SolverOptions = field(default_factory=SolverOptions)

    def __post_init__(self) -> None:
        if self.stated_noise is not None and self.stated_noise.num_modes != self.noise.num_modes:
            raise ShapeError(
                f"noise and stated_noise need as many modes, found {self.noise.num_modes} and "
                f"{self.stated_noise.num_modes}"
            )

    def exact(self) -> FitOptions:
        """For data that follow the model exactly: blendshapes taken at their word, one noise for everything."""
        return replace(self, stated_noise=None, expression_error=0.0)

    def for_posterior(self) -> FitOptions:
        """With the noise that the posterior counts with."""
        trust = self.shape_trust if self.stated_trust is None else self.stated_trust
        return self if self.stated_noise is None else replace(self, noise=self.stated_noise, shape_trust=trust)
