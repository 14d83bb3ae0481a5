"""Between the joint landmark fit of several photos and the multi-view stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float, UInt8

from headrecon.errors import ShapeError
from headrecon.fitting.fit_report import LandmarkFit
from headrecon.fitting.measures import PUPIL_LENGTHS, MeasureSet
from headrecon.fitting.metric_scale import Figure
from headrecon.fitting.multiview.result import MultiviewFit
from headrecon.fitting.multiview.views import PosedView, Views


def views_of(
    fit: LandmarkFit,
    images_srgb: Sequence[UInt8[np.ndarray, "_ _ 3"]],
    masks: Sequence[Float[np.ndarray, "_ _"] | None],
    known_cameras: bool = False,
    one_moment: bool = False,
) -> Views:
    """The photos of a joint fit, in its order, as the stage takes them. Raises ShapeError for other counts."""
    if not len(images_srgb) == len(masks) == len(fit.flat):
        raise ShapeError(
            f"a fit of {len(fit.flat)} photos needs as many images and masks, found {len(images_srgb)} and {len(masks)}"
        )
    views = []
    for image, mask, params, camera in zip(images_srgb, masks, fit.flat, fit.pinholes, strict=True):
        exact = replace(camera, viewmats=np.asarray(camera.viewmats, np.float64), Ks=np.asarray(camera.Ks, np.float64))
        views.append(PosedView(image, exact, params, mask))
    return Views.of(views, fit.layout.num_betas, known_cameras, one_moment)


def applied(
    fit: LandmarkFit, refined: MultiviewFit, measures: MeasureSet, neutral: Float[np.ndarray, "V 3"]
) -> LandmarkFit:
    """The joint fit with the refined heads and cameras, and the stage's warnings; as it was where not accepted.

    neutral: the refined head at rest. Lengths between observed places, and the pupils', are its own, with the landmark
    stage's relative deviations (wide enough on renderings: docs/accuracy.md). Other lengths, posterior and residuals
    stay that stage's: they are about what landmarks say.
    """
    warnings = (*fit.warnings, *refined.warnings)
    if not refined.accepted:
        return replace(fit, warnings=warnings)
    pinholes = tuple(
        replace(c, viewmats=c.viewmats.astype(np.float32), Ks=c.Ks.astype(np.float32)) for c in refined.cameras
    )
    values = {**fit.values, "betas": refined.params[0, fit.layout.slices["betas"]].copy()}
    figures = dict(fit.figures)
    own = zip(measures.names, measures.of_head(neutral), measures.within(refined.observed), strict=True)
    for name, length, seen in own:
        if seen or name in PUPIL_LENGTHS:
            key = f"{name}_mm"
            length_mm = 1e3 * float(length)
            figures[key] = Figure.positive(length_mm, length_mm * figures[key].sigma / figures[key].value, "mm")
    return replace(
        fit, flat=refined.params.copy(), pinholes=pinholes, values=values, warnings=warnings, figures=figures
    )
