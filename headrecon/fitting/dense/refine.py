"""The dense stage: a landmark fit refined with the photo's pixels.

What the landmark stage has (landmarks, outline, irises, priors) keeps acting; two residuals join: the photo's colours
against shaded skin, and the head's rim against the person mask. Visibility, trust and first light are found anew for
each grain, coarse to fine; between them Gauss-Newton moves identity, expression, pose, focal length and light.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
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
from headrecon.fitting.view_residuals import surface, view_residuals
from headrecon.structures import FaceObservation

LIGHT_BLOCK = "light/0"
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

    def refine(self, fit: LandmarkFit, photo: DensePhoto, knowledge: MetricKnowledge | None = None) -> DenseFit:
        """Refine the landmark fit of one photo. Hint and knowledge must be those that the fit was made with.

        Never worse by what can be told from the photo: unless the joint cost falls and the landmarks stay where they
        are (`GuardOptions`), the result holds the landmark fit itself and says why. Deterministic.
        """
        with one_blas_thread():
            return _Refinement(self, fit, photo, knowledge or MetricKnowledge()).run()


@dataclass(frozen=True)
class _Round:
    """What was chosen at the start of a round and is held during its solve."""

    state: dict[str, np.ndarray]
    photometric: PhotometricResidual
    rim: LandmarkResidual | None
    trust: np.ndarray


class _Refinement:
    """One run: holds what the rounds hand to each other."""

    def __init__(self, dense: DenseFitter, fit: LandmarkFit, photo: DensePhoto, knowledge: MetricKnowledge) -> None:
        self.dense, self.options, self.start, self.photo = dense, dense.options, fit, photo
        self.stage = _Fit(dense.fitter, [photo.observation], [photo.hint or CameraHint()], knowledge)
        self.models, self.view = self.stage.models, self.stage.views[0]

    def run(self) -> DenseFit:
        began = time.perf_counter()
        state = dict(self.start.values)
        vertices, _ = surface(self.models, self.view, state)
        at = vertices[self.dense.skin.vertex]
        self.pixels_per_m = self.view.head.focal(state) / float(-at[:, 2].mean())
        pixels = self.view.head.project(state, at)
        self.crop: FaceCrop = crop_face(self.photo.image_srgb, self.photo.mask, pixels, self.pixels_per_m)
        current, solution, problem = None, None, None
        for grain, iterations in zip(self.options.grains_m, self.options.iterations, strict=True):
            found = self._round(state, grain)
            if found is None:
                return keep(self.start, "too little skin is seen for the photo's pixels to refine the head")
            current = found
            problem = self._problem(current)
            solver = replace(self.stage.options.solver, max_iterations=iterations, cost_tolerance=COST_TOLERANCE)
            solution = solve(problem, current.state, solver)
            state = solution.values
        assert current is not None
        assert solution is not None
        assert problem is not None
        return self._result(current, solution, problem, began)

    def _round(self, state: Mapping[str, np.ndarray], grain: float) -> _Round | None:
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
        residual = PhotometricResidual("photo 0", head, some, picture, self.crop, LIGHT_BLOCK, factors, effect)
        values = {**state, LIGHT_BLOCK: light}
        return _Round(values, residual, self._rim(values, mesh, seen), trust)

    def _rim(
        self, values: Mapping[str, np.ndarray], mesh: tuple[np.ndarray, np.ndarray], seen: Seen
    ) -> LandmarkResidual | None:
        if not self.options.use_silhouette or self.crop.mask is None:
            return None
        o, head = self.options.silhouette, self.view.head
        match = match_mask(self.dense.outline, head, values, mesh, self.crop, seen, values[LIGHT_BLOCK], o)
        if len(match.index) == 0:
            return None
        return silhouette_residual(self.dense.outline, head, match, self.pixels_per_m, o)

    def _blocks(self) -> list[Block]:
        stage = self.stage
        blocks = [stage._identity(), stage.options.iris.block(IRIS_BLOCK), *stage._view_blocks(self.view)]
        light = self.options.light.block(LIGHT_BLOCK)
        # Channels that are not compared keep the light of `first_light`.
        channels = self.options.channels if self.options.photometric else 0
        return [*blocks, replace(light, free=compared(channels))]

    def _problem(self, current: _Round) -> Problem:
        blocks = self.stage._tilted(self._blocks(), current.state)
        return Problem(blocks, [*self._sparse(self.stage.options, current.state), *self._dense_terms(current, 1.0)])

    def _sparse(self, options: FitOptions, values: Mapping[str, np.ndarray]) -> list[Residual]:
        known = self.stage._knowledge_residuals()
        return [*known, *view_residuals(self.models, options, self.view, values, IRIS_BLOCK)]

    def _dense_terms(self, current: _Round, factor: float) -> list[Residual]:
        """The two dense residuals, their deviations times a factor."""
        out: list[Residual] = []
        if self.options.photometric:
            photometric = current.photometric
            out.append(replace(photometric, factors=tuple(factor * f for f in photometric.factors)))
        if current.rim is not None:
            out.append(replace(current.rim, weights=current.rim.weights / factor))
        return out

    def _result(self, current: _Round, solution: Solution, problem: Problem, began: float) -> DenseFit:
        before = problem.cost(problem.pack({**self.start.values, LIGHT_BLOCK: current.state[LIGHT_BLOCK]}))
        honest = self._sparse(self.stage.options.for_posterior(), solution.values)
        stated = [*honest, *self._dense_terms(current, self.options.posterior_factor)]
        _, gradient, hessian = Problem(problem.blocks, stated).normal_equations(solution.x)
        # The estimate is the solver's; the more cautious noise may pull elsewhere, which matters at bounds alone.
        gradient = np.where(solution.on_bounds, gradient, 0.0)
        posterior = posterior_at(problem, replace(solution, gradient=gradient, hessian=hessian))
        refined = build_fit(self.models, [self.view], problem, solution, posterior, self.stage.options.iris)
        reason = objection(self.start, refined, before, self.options.guard)
        if reason is not None:
            return keep(self.start, reason)
        timings = {**self.start.timings_ms, "dense": 1e3 * (time.perf_counter() - began)}
        skin = skin_report(current.photometric, solution.values, current.trust, self.options.caution**2)
        return DenseFit(replace(refined, timings_ms=timings), True, before, solution.cost, skin)
