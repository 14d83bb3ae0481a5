"""Settings of the landmark stage."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from headrecon.fitting.head_priors import HeadPrior
from headrecon.fitting.landmarks import DetectorNoise
from headrecon.fitting.least_squares import SolverOptions
from headrecon.fitting.metric_scale import IrisModel


@dataclass(frozen=True)
class FitOptions:
    """How the landmark stage fits. The defaults suit MediaPipe's landmarks on photos."""

    #: independent and correlated error of the detector; a calibrated table ships with the package
    noise: DetectorNoise = field(default_factory=DetectorNoise.isotropic)
    #: The table counts what is left after its modes as independent, which it is not quite. On rendered heads with known
    #: truth these factors give the smallest shape error, and (posterior_factor, on top of sigma_factor) deviations
    #: that hold: see docs/accuracy.md. They are 1 for noise that really is as the table says.
    sigma_factor: float = 4.0
    modes_factor: float = 2.0
    posterior_factor: float = 5.0
    #: share of the evidence of `ShapeEstimate` that counts: the same pixels speak through the landmarks too
    shape_trust: float = 1.0
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

    def exact(self) -> FitOptions:
        """For data that follow the model exactly: no factors, and blendshapes taken at their word."""
        return replace(self, sigma_factor=1.0, modes_factor=1.0, posterior_factor=1.0, expression_error=0.0)

    def scaled_noise(self) -> FitOptions:
        """The options with the factors multiplied into the noise, as the residuals want it."""
        return replace(self, noise=self.noise.scaled(self.sigma_factor, self.modes_factor))

    def for_posterior(self) -> FitOptions:
        """Of scaled options: the noise that the posterior counts with."""
        return replace(self, noise=self.noise.scaled(self.posterior_factor, 1.0))
