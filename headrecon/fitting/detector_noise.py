"""The shipped error table of the landmark detector (made by scripts/make_detector_noise.py)."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from headrecon.fitting.landmarks import DetectorNoise
from headrecon.models.npz import read_npz

TABLE = "detector_noise.npz"


def load_detector_noise() -> DetectorNoise:
    """Independent deviations and correlated modes of MediaPipe's 478 points, in interocular distances."""
    table = read_npz(Path(str(resources.files("headrecon") / "data" / TABLE)))
    return DetectorNoise(table["sigma"].astype(float), table["modes"].astype(float))
