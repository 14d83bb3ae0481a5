"""Who the person in a video is: identity, focal length and scale from the keyframes together, once for the clip."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from headrecon.fitting import landmark_groups as groups
from headrecon.fitting.landmarks import visibility_of
from headrecon.fitting.metric_scale import Figure, MetricKnowledge
from headrecon.fitting.photo import CameraHint, LandmarkFit, LandmarkFitter
from headrecon.fitting.video.openings import Openings
from headrecon.fitting.video.personal import PersonalHead, PointError, personal_head, personal_offsets
from headrecon.geometry.cameras import project_points
from headrecon.geometry.mesh import vertex_normals
from headrecon.io.exif import FocalHint
from headrecon.models.posed_mesh import embed, posed_vertices
from headrecon.structures import FaceObservation

#: Frames of one clip repeat the detector's mistakes about this person: however many there are, they count as so many
#: photos. A turned frame errs in its own way, so it is more than one.
_WORTH = 3.0
#: For the estimate of shape, which looks at the same skin in every frame.
_SHAPE_WORTH = 2.0
#: Deviation of the logarithm of a focal length that landmarks are not to move.
_HELD = 0.005


@dataclass(frozen=True)
class ClipIdentity:
    """What is fixed for a whole clip. fit: of the keyframes, in their order; person: the head that frames are compared
    with; openings: how far this person's eyes are usually open."""

    fit: LandmarkFit
    betas: Float[np.ndarray, " Nb"]
    focal_px: float
    person: PersonalHead
    openings: Openings

    def with_identity(self, flat: Float[np.ndarray, " F"]) -> Float[np.ndarray, " P"]:
        """A frame's parameters as those of the whole model: `person` holds the identity, so they lack the betas."""
        layout, short = self.fit.layout, self.person.points.layout
        out = layout.zeros()
        for name, s in layout.slices.items():
            out[s] = self.betas if name == "betas" else flat[short.slices[name]]
        return out


def fit_identity(
    fitter: LandmarkFitter,
    keyframes: Sequence[FaceObservation],
    followed: Sequence[Float[np.ndarray, "478 3"]],
    knowledge: MetricKnowledge,
    openings: Openings,
    focal: FocalHint | None = None,
) -> ClipIdentity:
    """Fit all keyframes jointly, with one focal length, and prepare the head for tracking. Raises InputError.

    keyframes: seen as carefully as photos; followed: the same faces' points as they are seen in every frame. focal:
    the lens, unless `knowledge` has it or the distance. It is held, as landmarks would pull it to their own idea of a
    face (docs/accuracy.md: to about 60 mm whatever the lens is); how sure it is goes into the figures. Without it the
    landmarks decide.
    """
    count = len(keyframes)
    shared = _clip_fitter(fitter, count)
    held = focal is not None and knowledge.focal_px is None and knowledge.distance_m is None
    hint = replace(focal, sigma_log=_HELD) if focal is not None and held else focal
    fit = shared.fit(list(keyframes), CameraHint(hint), knowledge, one_camera=True)
    if focal is not None and held:
        fit = replace(fit, view_figures=tuple(_less_sure(f, focal.sigma_log) for f in fit.view_figures))
    betas = fit.flat[0, fit.layout.slices["betas"]].copy()
    person = personal_head(fitter.assets, betas)
    errors = [_error(fitter, fit, i, points) for i, points in enumerate(followed)]
    person = person.with_offsets(personal_offsets(errors, person.interocular_m))
    return ClipIdentity(fit, betas, float(fit.view_figures[0]["focal_px"].value), person, openings)


def _less_sure(figures: dict[str, Figure], sigma_log: float) -> dict[str, Figure]:
    """A view's figures with the deviation of a focal length that was held: the distance goes with it."""
    out = dict(figures)
    for name in ("focal_px", "focal_f35_mm", "distance_m"):
        f = figures[name]
        out[name] = Figure.positive(f.value, math.hypot(f.sigma, f.value * sigma_log), f.unit)
    return out


def _clip_fitter(fitter: LandmarkFitter, count: int) -> LandmarkFitter:
    """The fitter with evidence that counts as much as `count` frames of one clip are worth."""
    options = fitter.options
    share = min(1.0, _WORTH / count)
    options = replace(
        options,
        noise=options.noise.scaled(share**-0.5, 1.0),
        stated_noise=None if options.stated_noise is None else options.stated_noise.scaled(share**-0.5, 1.0),
        shape_trust=options.shape_trust * min(1.0, _SHAPE_WORTH / count),
        # One person before one camera: the belief about their distance is held once, not once a frame. Held a dozen
        # times, it put people who film themselves twice as far away as they were, with a lens twice as long.
        distance_sigma_log=options.distance_sigma_log * count**0.5,
    )
    return fitter.with_options(options)


def _error(fitter: LandmarkFitter, fit: LandmarkFit, index: int, marks: Float[np.ndarray, "478 3"]) -> PointError:
    """How one keyframe's points miss the head that was fitted to all of them."""
    models, flat = fitter.models, fit.flat[index]
    vertices = posed_vertices(models.assets, models.points, flat)
    normals = vertex_normals(vertices, models.triangles)
    at = embed(vertices, models.marks)
    observed = np.concatenate([marks[: groups.NUM_MESH, :2], groups.iris_centers_px(marks)])
    pixels, depth = project_points(at, fit.pinholes[index])
    share = visibility_of(embed(normals, models.marks), at)
    share[list(groups.FOREHEAD)] *= 0.3
    turn = flat[fit.layout.slices["global_orient"]]
    scale = float(fit.pinholes[index].Ks[0, 0] / np.median(depth))
    return PointError(observed - pixels, share, turn, scale)
