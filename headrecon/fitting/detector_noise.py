"""How far MediaPipe's points can be trusted on photos, for the answer and for its stated deviations.

On renderings the detector errs by 3 to 7 % of the eye distance, in patterns that follow the shape; on photos of people
its points lie on the features to about 1 %. A fit that allows for what happens on renderings
(scripts/make_detector_noise.py) leaves the noses of real people 4 mm too low. So the answer counts with a plain error
per point, and with the one bias that photos show (scripts/measure_point_bias.py). The stated deviations go on counting
with the rendered patterns, widened: truth in millimetres is known on renderings only, and there they hold
(docs/accuracy.md, which also has the comparison).
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np

from headrecon.fitting import landmark_groups as groups
from headrecon.fitting.landmarks import DetectorNoise
from headrecon.fitting.options import FitOptions
from headrecon.io.npz import read_npz
from headrecon.perception.mesh_features import FEATURES

RENDERED_TABLE, BIAS_TABLE = "detector_noise.npz", "point_bias.npz"
#: Deviation of a point on a photo, eye distances: on features that the picture shows, and on smooth skin.
FEATURE_SIGMA, SKIN_SIGMA = 0.035, 0.085
#: What the refiner's estimate of shape counts for the answer, chosen with them; and for the stated deviations.
SHAPE_TRUST, STATED_TRUST = 2.0, 0.7
#: What the rendered table's independent and correlated parts are multiplied with so that stated intervals hold.
STATED_FACTORS = (40.0, 4.0)


def photo_options() -> FitOptions:
    """The landmark stage's options for MediaPipe's points on photos of people."""
    table, bias = read_npz(_path(RENDERED_TABLE)), read_npz(_path(BIAS_TABLE))["bias"].astype(float)
    rendered = DetectorNoise(table["sigma"].astype(float), table["modes"].astype(float), bias)
    sigma = np.full_like(rendered.sigma, SKIN_SIGMA)
    sigma[[*FEATURES, *range(groups.NUM_MESH, groups.NUM_ALL)]] = FEATURE_SIGMA
    plain = DetectorNoise(sigma, np.zeros_like(rendered.modes), bias)
    stated = rendered.scaled(*STATED_FACTORS)
    return FitOptions(noise=plain, stated_noise=stated, shape_trust=SHAPE_TRUST, stated_trust=STATED_TRUST)


def _path(name: str) -> Path:
    return Path(str(resources.files("headrecon") / "data" / name))
