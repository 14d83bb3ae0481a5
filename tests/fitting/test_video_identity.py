"""The person of a clip: what its frames say together, and what they must not say more than once."""

from __future__ import annotations

import numpy as np
import pytest

from headrecon.fitting.landmarks import DetectorNoise
from headrecon.fitting.metric_scale import MetricKnowledge
from headrecon.fitting.options import FitOptions
from headrecon.fitting.photo import LandmarkFitter
from headrecon.fitting.video.identity import fit_identity
from headrecon.fitting.video.openings import Openings
from tests.tiny_face import draw_truth, photograph, tiny_face


@pytest.fixture(scope="module")
def fitter() -> LandmarkFitter:
    return LandmarkFitter(tiny_face(), FitOptions(noise=DetectorNoise.isotropic(0.3)).exact())


def _focal(fitter: LandmarkFitter, count: int, distance: float) -> float:
    """Estimated from `count` frames that all show the same."""
    truth = draw_truth(fitter.assets, np.random.default_rng(5), 900.0, distance)
    seen = photograph(fitter.assets, truth)
    openings = Openings(np.full(6, 0.1))
    found = fit_identity(
        fitter, [seen] * count, [seen.landmarks.astype(np.float64)] * count, MetricKnowledge(), openings
    )
    return found.focal_px


def test_a_belief_about_distance_is_held_once_however_many_frames_there_are(fitter: LandmarkFitter) -> None:
    """Somebody nearer to the camera than most: frames that repeat each other must not push the head away."""
    one, many = (_focal(fitter, count, 0.35) for count in (1, 10))
    assert 900 < many < one  # nearer to the truth; with the belief held ten times it was 2477
