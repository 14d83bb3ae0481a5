"""All knobs of the multi-view stage."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from headrecon.fitting.multiview.calibration import CalibrationOptions
from headrecon.fitting.multiview.displacement import SolveOptions
from headrecon.fitting.multiview.identity import IdentityOptions
from headrecon.fitting.multiview.matching import MatchOptions
from headrecon.fitting.multiview.membrane import MembraneOptions
from headrecon.fitting.multiview.outline import OutlineOptions
from headrecon.fitting.multiview.sweep import SweepOptions


@dataclass(frozen=True)
class Level:
    """pixels_per_m: of the working pictures on the face. range_m, step_m, stride: of the sweep, see `SweepOptions`.

    calibrations: how often cameras and poses are found anew before it, where they are not known. sweep: or only that.
    """

    pixels_per_m: float
    range_m: float
    step_m: float
    stride: int = 4
    calibrations: int = 1
    sweep: bool = True

    def options(self, base: SweepOptions) -> SweepOptions:
        return replace(base, range_m=self.range_m, step_m=self.step_m, stride=self.stride)


#: Cameras known: the joint fit is some millimetres off at most.
KNOWN_LEVELS = (
    Level(750.0, 0.006, 0.001, 3), Level(1500.0, 0.002, 0.0005), Level(1500.0, 0.0015, 0.0004),
    Level(3000.0, 0.0008, 0.0002),
)  # fmt: skip
#: Cameras from the fit: poses first, over wide windows, then shape and poses in turn.
UNKNOWN_LEVELS = (
    Level(375.0, 0.0, 0.001, 2, 2, sweep=False), Level(750.0, 0.0, 0.001, 3, 2, sweep=False),
    Level(1500.0, 0.0, 0.001, 4, 2, sweep=False), Level(750.0, 0.006, 0.001, 3, 0), Level(1500.0, 0.002, 0.0005, 4, 1),
    Level(1500.0, 0.0015, 0.0004, 4, 2), Level(3000.0, 0.0008, 0.0002, 4, 0),
)  # fmt: skip


@dataclass(frozen=True)
class GuardOptions:
    """A result is kept if the photos agree better by `gain` (mean correlation) and no vertex moved beyond farthest_m.

    least_samples: fewer measurements say nothing.
    """

    gain: float = 0.0
    farthest_m: float = 0.02
    least_samples: int = 200


@dataclass(frozen=True)
class MultiviewOptions:
    """scalp: compare the scalp too, for heads known to be bald. observed: share of the prior deviation below which a
    vertex counts as observed."""

    known: tuple[Level, ...] = KNOWN_LEVELS
    unknown: tuple[Level, ...] = UNKNOWN_LEVELS
    sweep: SweepOptions = field(default_factory=SweepOptions)
    outline: OutlineOptions = field(default_factory=OutlineOptions)
    membrane: MembraneOptions = field(default_factory=MembraneOptions)
    solve: SolveOptions = field(default_factory=SolveOptions)
    identity: IdentityOptions = field(default_factory=IdentityOptions)
    matching: MatchOptions = field(default_factory=MatchOptions)
    calibration: CalibrationOptions = field(default_factory=CalibrationOptions)
    guard: GuardOptions = field(default_factory=GuardOptions)
    scalp: bool = False
    observed: float = 0.5
