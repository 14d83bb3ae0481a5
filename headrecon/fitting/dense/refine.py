"""The dense stage: a landmark fit refined with the pixels of its photo, or of its photos.

What the landmark stage has (landmarks, outline, irises, priors) keeps acting; two residuals join: the photo's colours
against shaded skin, and the head's rim against the person mask. Visibility, trust and first light are found anew for
each grain, coarse to fine; between them Gauss-Newton moves identity, expression, pose, focal length and light.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, UInt8

from headrecon.errors import ShapeError
from headrecon.fitting.blas_threads import one_blas_thread
from headrecon.fitting.dense import trust as trusting
from headrecon.fitting.dense.dense_fit import DenseFit, keep, objection, skin_report
from headrecon.fitting.dense.face_picture import FaceCrop, blurred, crop_face, grain_effect, grain_px
from headrecon.fitting.dense.light_model import compared, shade
from headrecon.fitting.dense.options import DenseOptions
from headrecon.fitting.dense.photometric import PhotometricResidual, covariance_factors, ring_normals
from headrecon.fitting.dense.silhouette import OutlinePoints, match_mask, silhouette_residual
from headrecon.fitting.dense.skin_points import SkinPoints
from headrecon.fitting.dense.skin_prior import OPPONENT
from headrecon.fitting.dense.visibility import Seen, see
from headrecon.fitting.fit_report import LandmarkFit, build_fit
from headrecon.fitting.landmarks import LandmarkResidual
from headrecon.fitting.least_squares import Block, Problem, Residual, Solution, solve
from headrecon.fitting.metric_scale import MetricKnowledge
from headrecon.fitting.options import FitOptions
from headrecon.fitting.photo import IRIS_BLOCK, CameraHint, LandmarkFitter, _Fit
from headrecon.fitting.posterior import posterior_at
from headrecon.fitting.rig import Rig
from headrecon.fitting.view_residuals import FitModels, View, surface, view_residuals
from headrecon.structures import FaceObservation

#: Share of skin in the neighbourhood of a point below which its blurred colour is not used.
MIN_SUPPORT = 0.35
#: What blurring does to a point counts as known to this share: it changes with the shape that is being sought.
GRAIN_ERROR = 0.5
#: Relative fall of the cost at which a level stops; the costs are some hundreds, so a fraction of a deviation.
COST_TOLERANCE = 3e-4


@dataclass(frozen=True)
class DensePhoto:
    """One photo with what was seen in it. mask: the person's opacity in 0..1, where known."""

    image_srgb: UInt8[np.ndarray, "H W 3"]
    observation: FaceObservation
    mask: Float[np.ndarray, "H W"] | None = None
    hint: CameraHint | None = None

    def __post_init__(self) -> None:
        size = self.observation.image_size
        height, width = self.image_srgb.shape[:2]
        if (width, height) != tuple(size):
            raise ShapeError(f"the observation is of a picture of {size} pixels, the picture has {(width, height)}")
        if self.mask is not None and self.mask.shape != (height, width):
            raise ShapeError(f"the mask must be {(height, width)} as the picture is, found {self.mask.shape}")


def _lit(light: Float[np.ndarray, "27"], shown: Float[np.ndarray, "P 6"]) -> Float[np.ndarray, "P 3"]:
    """Linear light of pixels from their normal (not of unit length) and log albedo."""
    normals = shown[:, :3] / np.maximum(np.linalg.norm(shown[:, :3], axis=1, keepdims=True), 1e-9)
    return np.exp(shade(light, normals).log + shown[:, 3:])


class DenseFitter:
    """Refines the fits of one landmark fitter; building it prepares what does not depend on the photo (0.5 s)."""

    def __init__(self, fitter: LandmarkFitter, options: DenseOptions | None = None) -> None:
        self.fitter, self.options = fitter, options or DenseOptions()
        with one_blas_thread():
            self.skin = SkinPoints.build(fitter.models.assets, self.options.skin)
            self.outline = OutlinePoints.build(fitter.models.assets)

    def refine(
        self,
        fit: LandmarkFit,
        photos: DensePhoto | Sequence[DensePhoto],
        knowledge: MetricKnowledge | None = None,
        rig: Rig | None = None,
    ) -> DenseFit:
        """Refine the landmark fit of one photo, or of several. Hints, knowledge and rig must be those of the fit.

        Never worse by what can be told from the photos: unless the joint cost falls and the landmarks stay where they
        are (`GuardOptions`), the result holds the landmark fit itself and says why. Deterministic.
        """
        many = [photos] if isinstance(photos, DensePhoto) else list(photos)
        if len(many) != len(fit.flat):
            raise ShapeError(f"the fit is of {len(fit.flat)} photos, found {len(many)} to refine it with")
        with one_blas_thread():
            return _Refinement(self, fit, many, (knowledge or MetricKnowledge(), rig)).run()


@dataclass(frozen=True)
class _Round:
    """What was chosen in one photo at the start of a round and is held during its solve."""

    light: Float[np.ndarray, "27"]
    photometric: PhotometricResidual
    rim: LandmarkResidual | None
    trust: np.ndarray


class _PhotoLook:
    """One photo as the rounds look at it."""

    def __init__(
        self, dense: DenseFitter, models: FitModels, view: View, photo: DensePhoto, state: Mapping[str, np.ndarray]
    ) -> None:
        self.dense, self.options, self.models, self.view = dense, dense.options, models, view
        self.light_block = f"light/{view.head.index}"
        vertices, _ = surface(models, view, state)
        at = vertices[dense.skin.vertex]
        self.pixels_per_m = view.head.focal(state) / float(-at[:, 2].mean())
        pixels = view.head.project(state, at)
        self.crop: FaceCrop = crop_face(photo.image_srgb, photo.mask, pixels, self.pixels_per_m)

    def round(self, state: Mapping[str, np.ndarray], grain: float) -> _Round | None:
        """Choose visible points, blur the photo over visible skin, fit the light to the head as it stands."""
        o, skin, head = self.options, self.dense.skin, self.view.head
        mesh = surface(self.models, self.view, state)
        seen = see(skin, head, state, mesh[0], self.crop)
        sigma = grain_px(self.crop, self.pixels_per_m, grain)
        picture = blurred(self.crop, seen.skin, sigma)
        points = mesh[0][skin.near]
        place = self.crop.to_crop(head.project(state, points[skin.own]))
        support = picture.support_at(place)
        active = np.flatnonzero(seen.visible & (support > MIN_SUPPORT))
        if len(active) < o.min_points:
            return None
        observed, _ = picture.sample(place[active])
        normals = ring_normals(skin, points).normals[active]
        some, effect = skin.take(active), np.zeros((len(active), 3))
        for _ in range(2):  # the second time with what blurring does under the light of the first
            light, trust = trusting.first_light(some, observed, normals, effect, o.trust, o.light)
            shown = seen.interpolate(np.concatenate([mesh[1], skin.pattern], axis=1), skin.triangles)
            own = np.exp(shade(light, normals).log + some.log_albedo)
            effect = grain_effect(self.crop, seen.skin, _lit(light, shown), sigma, place[active], own)
        extra = trusting.extra_variance(some, trust, support[active], o.channels)
        extra += (GRAIN_ERROR * (effect @ OPPONENT.T)[:, : o.channels]) ** 2
        factors = covariance_factors(some, extra, o.caution**2)
        residual = PhotometricResidual(head.tag, head, some, picture, self.crop, self.light_block, factors, effect)
        return _Round(light, residual, self._rim({**state, self.light_block: light}, mesh, seen), trust)

    def _rim(
        self, values: Mapping[str, np.ndarray], mesh: tuple[np.ndarray, np.ndarray], seen: Seen
    ) -> LandmarkResidual | None:
        if not self.options.use_silhouette or self.crop.mask is None:
            return None
        o, head = self.options.silhouette, self.view.head
        match = match_mask(self.dense.outline, head, values, mesh, self.crop, seen, values[self.light_block], o)
        if len(match.index) == 0:
            return None
        return silhouette_residual(self.dense.outline, head, match, self.pixels_per_m, o)


class _Refinement:
    """One run: holds what the rounds hand to each other."""

    def __init__(
        self,
        dense: DenseFitter,
        fit: LandmarkFit,
        photos: Sequence[DensePhoto],
        known: tuple[MetricKnowledge, Rig | None],
    ) -> None:
        self.dense, self.options, self.start = dense, dense.options, fit
        hints = [p.hint or CameraHint() for p in photos]
        self.stage = _Fit(dense.fitter, [p.observation for p in photos], hints, known[0], rig=known[1])
        self.models = self.stage.models
        state = dict(fit.values)
        self.looks = [
            _PhotoLook(dense, self.models, v, p, state) for v, p in zip(self.stage.views, photos, strict=True)
        ]

    def run(self) -> DenseFit:
        began = time.perf_counter()
        state = dict(self.start.values)
        rounds, solution, problem = [], None, None
        for grain, iterations in zip(self.options.grains_m, self.options.iterations, strict=True):
            # A photo that shows too little skin still has its landmarks.
            rounds = [r for r in (look.round(state, grain) for look in self.looks) if r is not None]
            if not rounds:
                return keep(self.start, "too little skin is seen for the photo's pixels to refine the head")
            state |= {r.photometric.light_block: r.light for r in rounds}
            problem = self._problem(rounds, state)
            solver = replace(self.stage.options.solver, max_iterations=iterations, cost_tolerance=COST_TOLERANCE)
            solution = solve(problem, state, solver)
            state = solution.values
        assert solution is not None
        assert problem is not None
        return self._result(rounds, solution, problem, began)

    def _blocks(self, rounds: Sequence[_Round]) -> list[Block]:
        # Channels that are not compared keep the light of `first_light`.
        channels = self.options.channels if self.options.photometric else 0
        lights = [self.options.light.block(r.photometric.light_block) for r in rounds]
        return [*self.stage.blocks(), *(replace(light, free=compared(channels)) for light in lights)]

    def _problem(self, rounds: Sequence[_Round], state: Mapping[str, np.ndarray]) -> Problem:
        blocks = self.stage.tilted(self._blocks(rounds), state)
        return Problem(blocks, [*self._sparse(self.stage.options, state), *self._dense_terms(rounds, 1.0)])

    def _sparse(self, options: FitOptions, values: Mapping[str, np.ndarray]) -> list[Residual]:
        out = self.stage.knowledge_residuals()
        for view in self.stage.views:
            out += view_residuals(self.models, options, view, values, IRIS_BLOCK)
        return out

    def _dense_terms(self, rounds: Sequence[_Round], factor: float) -> list[Residual]:
        """The two dense residuals of each photo, their deviations times a factor."""
        out: list[Residual] = []
        for one in rounds:
            if self.options.photometric:
                factors = tuple(factor * f for f in one.photometric.factors)
                out.append(replace(one.photometric, factors=factors))
            if one.rim is not None:
                out.append(replace(one.rim, weights=one.rim.weights / factor))
        return out

    def _result(self, rounds: Sequence[_Round], solution: Solution, problem: Problem, began: float) -> DenseFit:
        lights = {r.photometric.light_block: r.light for r in rounds}
        before = problem.cost(problem.pack({**self.start.values, **lights}))
        honest = self._sparse(self.stage.options.for_posterior(), solution.values)
        stated = [*honest, *self._dense_terms(rounds, self.options.posterior_factor)]
        _, gradient, hessian = Problem(problem.blocks, stated).normal_equations(solution.x)
        # The estimate is the solver's; the more cautious noise may pull elsewhere, which matters at bounds alone.
        gradient = np.where(solution.on_bounds, gradient, 0.0)
        posterior = posterior_at(problem, replace(solution, gradient=gradient, hessian=hessian))
        refined = build_fit(self.models, self.stage.views, problem, solution, posterior, self.stage.options.iris)
        reason = objection(self.start, refined, before, self.options.guard)
        if reason is not None:
            return keep(self.start, reason)
        timings = {**self.start.timings_ms, "dense": 1e3 * (time.perf_counter() - began)}
        skin = skin_report(rounds[0].photometric, solution.values, rounds[0].trust, self.options.caution**2)
        return DenseFit(replace(refined, timings_ms=timings), True, before, solution.cost, skin)
