"""The logarithm of the normal distribution, which cut normals are made from, against SciPy's."""

from __future__ import annotations

import numpy as np
from scipy.special import log_ndtr

from headrecon.fitting.posterior import _log_normal_cdf


def test_log_of_the_normal_distribution() -> None:
    x = np.array([-np.inf, -1e9, -1e4, -40.0, -30.0001, -29.9999, -8.0, -1.0, 0.0, 2.0, 6.0, 30.0, np.inf])
    np.testing.assert_allclose(_log_normal_cdf(x), log_ndtr(x), rtol=1e-10, atol=1e-15)
    assert _log_normal_cdf(np.zeros(0)).shape == (0,)
