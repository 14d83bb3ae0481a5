"""How much a track trembles: what is left of a point's motion when what is steady is taken out."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from headrecon.geometry.cameras import project_points
from headrecon.models.moving_head import MovingHead
from headrecon.models.point_model import PointModel
from headrecon.structures import LandmarkEmbedding

#: The second difference of white noise of deviation 1 has deviation sqrt(6).
_GAIN = 6.0**0.5


def point_jitter(head: MovingHead, marks: LandmarkEmbedding) -> Float[np.ndarray, " T"]:
    """Per frame the median over the points of |x(t-1) - 2 x(t) + x(t+1)| / sqrt(6), pixels; NaN at both ends.

    For a still head it is the noise of a point; motion that speeds up or slows down counts as well. O(T L).
    """
    model = PointModel(head.assets, marks)
    count = len(head.track)
    out = np.full(count, np.nan)
    last: list[np.ndarray] = []
    for place in range(count):
        pixels, _ = project_points(model.evaluate(head.flat(place)), head.camera(place))
        last = [*last[-2:], pixels]
        if len(last) == 3:
            second = last[0] - 2 * last[1] + last[2]
            out[place - 1] = float(np.median(np.linalg.norm(second, axis=1))) / _GAIN
    return out
