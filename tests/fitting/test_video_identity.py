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
from headrecon.io.exif import FocalHint
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


def test_a_lens_that_is_given_is_held_and_its_doubt_goes_into_the_figures(fitter: LandmarkFitter) -> None:
    truth = draw_truth(fitter.assets, np.random.default_rng(5), 900.0, 0.5)
    seen = photograph(fitter.assets, truth)
    marks = [seen.landmarks.astype(np.float64)] * 2
    hint = FocalHint(600.0, 0.3, "skin")
    openings = Openings(np.full(6, 0.1))
    held = fit_identity(fitter, [seen, seen], marks, MetricKnowledge(), openings, hint)
    assert held.focal_px == pytest.approx(600.0, rel=0.02)
    figure = held.fit.view_figures[0]["focal_px"]
    assert figure.sigma / figure.value == pytest.approx(0.3, abs=0.02)
    assert held.fit.view_figures[0]["distance_m"].sigma > 0.29 * held.fit.view_figures[0]["distance_m"].value
    # How far the person is and how large they look give the lens, whatever was believed of it.
    placed = fit_identity(fitter, [seen, seen], marks, MetricKnowledge(distance_m=0.5), openings, hint)
    assert 750 < placed.focal_px < 1150
    told = fit_identity(fitter, [seen, seen], marks, MetricKnowledge(focal_px=900.0), openings, hint)
    assert told.focal_px == pytest.approx(900.0, rel=0.02)
