"""Settings of the dense stage."""

from __future__ import annotations

from dataclasses import dataclass, field

from headrecon.fitting.dense.light_model import LightPrior
from headrecon.fitting.dense.silhouette import SilhouetteOptions
from headrecon.fitting.dense.skin_prior import SkinPrior
from headrecon.fitting.dense.trust import TrustOptions


@dataclass(frozen=True)
class GuardOptions:
    """When the landmark fit is kept: the landmarks' rms misfit may grow by this share and this much (per cent of the
    eye distance), and identity may leave the landmark posterior by so many deviations (rms over its directions)."""

    misfit_share: float = 0.15
    misfit_percent: float = 0.3
    identity_deviations: float = 2.5


@dataclass(frozen=True)
class DenseOptions:
    """How the dense stage refines. The defaults are chosen on rendered heads with real skin textures, folds, cast
    shadows and highlights, not on plain ones, where shading says far more than on any photo."""

    #: deviation of the blur on the face, one entry per level, coarse to fine (metres)
    grains_m: tuple[float, ...] = (0.0035, 0.002)
    iterations: tuple[int, ...] = (3, 4)
    #: how many of the opponent channels are compared: lightness, red against cyan, green against blue
    channels: int = 2
    #: factor on the deviations of skin, for what its covariance does not describe (highlights, tone curves)
    caution: float = 3.0
    #: further factor on all dense deviations when the posterior is stated
    posterior_factor: float = 1.5
    #: fewer visible skin points than this say too little: the landmark fit is kept
    min_points: int = 120
    #: turn off single terms, for ablations
    photometric: bool = True
    use_silhouette: bool = True
    silhouette: SilhouetteOptions = field(default_factory=SilhouetteOptions)
    trust: TrustOptions = field(default_factory=TrustOptions)
    skin: SkinPrior = field(default_factory=SkinPrior)
    light: LightPrior = field(default_factory=LightPrior)
    guard: GuardOptions = field(default_factory=GuardOptions)
