"""One camera before which a head turns: its focal length from matches of all frames, and what single ones do to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from headrecon.fitting.multiview.calibration import (
    CalibrationOptions,
    Layout,
    MatchedPoints,
    Stand,
    add_matches,
    equations_of_pairs,
    moved,
    priors,
)
from headrecon.fitting.multiview.matching import Matches
from headrecon.fitting.multiview.surface import Surface


def calibrate_one_camera(
    surface: Surface,
    stand: Stand,
    start: Stand,
    matches: Sequence[Matches],
    options: CalibrationOptions,
    focal: tuple[float, float],
) -> tuple[Stand, float]:
    """As `calibrate`, with one focal length for all views, as a video has. Also the deviation of its logarithm.

    focal: what is believed about it beforehand, pixels and deviation of the logarithm (`options.log_focal` is not
    used). The deviation counts the matches as `options.together` says and nothing of what the model cannot show.
    """
    layout = Layout(surface, len(stand.params))
    offsets = np.zeros((surface.assets.num_vertices, 3))
    options = replace(options, log_focal=np.inf)
    points = [MatchedPoints.of(surface, stand, offsets, m, options) for m in matches]
    tie = layout.tie()
    sigma = focal[1]
    for _ in range(options.steps):
        normal, right = _believed(surface, layout, stand, start, options, focal)
        add_matches(surface, layout, stand, offsets, points, options, (normal, right))
        normal, right = tie.T @ normal @ tie, tie.T @ right
        sigma = float(np.sqrt(np.linalg.inv(normal)[-1, -1]))
        stand = moved(layout, stand, tie @ np.linalg.solve(normal, right))
    return stand, sigma


def focal_spread(
    surface: Surface,
    stand: Stand,
    matched: Stand,
    start: Stand,
    matches: Sequence[Matches],
    options: CalibrationOptions,
    focal: tuple[float, float],
) -> float:
    """How far the logarithm of one camera's focal length hangs on single views: its deviation by the jackknife.

    stand: the answer of `calibrate_one_camera`; matched: the stand that it was given. Each view is left out in turn
    and one step is made without it (Tukey 1958; Efron and Stein 1981: rather too large than too small). What one
    frame's face does that the model does not is in it, which the adjustment's own deviation knows nothing of.
    O(C K^3) for C views and K parameters.
    """
    layout = Layout(surface, len(stand.params))
    offsets = np.zeros((surface.assets.num_vertices, 3))
    options = replace(options, log_focal=np.inf)
    points = [MatchedPoints.of(surface, matched, offsets, m, options) for m in matches]
    pairs = list(equations_of_pairs(surface, layout, stand, offsets, points, options))
    believed = _believed(surface, layout, stand, start, options, focal)
    tie, found = layout.tie(), []
    for left_out in range(layout.count):
        normal, right = (a.copy() for a in believed)
        for p, (columns, own, pull) in zip(points, pairs, strict=True):
            if left_out not in p.views:
                normal[np.ix_(columns, columns)] += own
                right[columns] += pull
        found.append(np.linalg.solve(tie.T @ normal @ tie, tie.T @ right)[-1])
    return float(np.std(found) * np.sqrt(layout.count - 1))


def _believed(
    surface: Surface,
    layout: Layout,
    stand: Stand,
    start: Stand,
    options: CalibrationOptions,
    focal: tuple[float, float],
) -> tuple[np.ndarray, np.ndarray]:
    """`priors` with what is believed of one camera's focal length, pixels and deviation of the logarithm.

    It is put on the first view's, as `Layout.tie` makes them one.
    """
    normal, right = priors(surface, layout, stand, start, options)
    first = layout.view(0).stop - 1
    normal[first, first] += 1 / focal[1] ** 2
    right[first] += np.log(focal[0] / stand.cameras[0].Ks[0, 0]) / focal[1] ** 2
    return normal, right
