"""Are the stated millimetres honest? Fits synthetic photos with exact truth and counts how often intervals hold it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from headrecon.datasets.synthetic import SyntheticPhoto
from headrecon.models.measurements import measurements_of
from headrecon.structures import HeadAssets

#: Names that the fit reports (without `_mm`) and the measure of `headrecon.models.measurements` they stand for.
REPORTED: dict[str, str] = {"ipd": "interpupillary_distance", "face_width": "bizygomatic_breadth"}


@dataclass(frozen=True)
class Outcome:
    """One figure of one photo: the truth, what was stated, in the figure's own unit."""

    name: str
    truth: float
    value: float
    sigma: float
    low90: float
    high90: float

    @property
    def held(self) -> bool:
        return self.low90 <= self.truth <= self.high90


@dataclass(frozen=True)
class CoverageRow:
    """Of one figure over N photos: how many truths lay in the 90 % interval, and the errors."""

    name: str
    count: int
    held: int
    rms_error: float
    mean_error: float
    mean_sigma: float

    @property
    def share(self) -> float:
        return self.held / self.count


def truths(assets: HeadAssets, photo: SyntheticPhoto) -> dict[str, float]:
    """Exact figures of a synthetic photo, by the names that fits use."""
    measures = measurements_of(assets)
    out = {f"{name}_mm": 1e3 * measures[m].length(photo.neutral) for name, m in REPORTED.items() if m in measures}
    return out | {"distance_m": photo.distance_m, "focal_px": photo.focal_px}


def compare(truth: Mapping[str, float], figures: Mapping[str, object]) -> list[Outcome]:
    """Outcomes of the figures that both sides name. figures: name to something with value, sigma, low90, high90."""
    out = []
    for name, value in truth.items():
        f = figures.get(name)
        if f is not None:
            out.append(Outcome(name, value, f.value, f.sigma, f.low90, f.high90))  # pyright: ignore[reportAttributeAccessIssue]
    return out


def summarise(outcomes: Iterable[Outcome]) -> list[CoverageRow]:
    """One row per figure, in the order in which the figures first appear."""
    by_name: dict[str, list[Outcome]] = {}
    for o in outcomes:
        by_name.setdefault(o.name, []).append(o)
    rows = []
    for name, group in by_name.items():
        error = np.array([o.value - o.truth for o in group])
        held = sum(o.held for o in group)
        sigma = float(np.mean([o.sigma for o in group]))
        rows.append(CoverageRow(name, len(group), held, float(np.sqrt((error**2).mean())), float(error.mean()), sigma))
    return rows
