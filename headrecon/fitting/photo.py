"""Landmarks of one or several photos to a posed, metric head with its posterior: the landmark stage.

Stages: (1) weak-perspective pose from the landmarks; (2) Levenberg-Marquardt on pose alone with the mean
head; (3) everything jointly, in a few rounds between which the outline and the visible points are chosen anew; (4) the
Laplace posterior and the metric figures. Several photos share identity and iris; each has its own pose, expression
and camera.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from headrecon.errors import InputError
from headrecon.fitting import head_priors, metric_scale
from headrecon.fitting import landmark_groups as groups
from headrecon.fitting.blas_threads import one_blas_thread
from headrecon.fitting.camera_prior import focal_prior
from headrecon.fitting.fit_report import LandmarkFit, build_fit
from headrecon.fitting.initial_pose import weak_perspective_pose
from headrecon.fitting.landmarks import noise_block
from headrecon.fitting.least_squares import Block, Problem, Residual, Solution, solve
from headrecon.fitting.metric_scale import MetricKnowledge
from headrecon.fitting.options import FitOptions
from headrecon.fitting.parameters import HeadView, ViewGeometry, view_block_names
from headrecon.fitting.posterior import posterior_at
from headrecon.fitting.rig import FOCAL_SIGMA, Rig, RigView, place_blocks, rig_start, rig_view_names
from headrecon.fitting.scale_volume import scale_slopes
from headrecon.fitting.view_residuals import COARSE_IDS, FitModels, View, coarse_residual, view_residuals
from headrecon.io.exif import FocalHint
from headrecon.perception.eye_frame import EyeFrame
from headrecon.structures import FaceObservation, HeadAssets

IRIS_BLOCK = "log_iris"
#: Deviation of the log of the iris's size where it is not to say anything about the head's.
IRIS_UNKNOWN = 0.3
#: Relative fall of the cost at which the rounds before the last one stop.
EARLY_TOLERANCE = 0.02


@dataclass(frozen=True)
class CameraHint:
    """What is known about one photo's camera: its focal length, and its principal point if not the centre (pixels).

    name: what messages call the photo.
    """

    focal: FocalHint | None = None
    principal: tuple[float, float] | None = None
    name: str = ""


class LandmarkFitter:
    """Fits one head model; building it prepares what does not depend on the photo, so keep it for many photos."""

    def __init__(self, assets: HeadAssets, options: FitOptions | None = None) -> None:
        if "mediapipe478" not in assets.landmarks:
            raise InputError(
                f"head model {assets.name!r} has no landmarks named 'mediapipe478', which fitting to photos needs; "
                "run `headrecon models embed` on it"
            )
        self.assets, self.options = assets, options or FitOptions()
        with one_blas_thread():
            self.models = FitModels.build(assets)

    def with_options(self, options: FitOptions) -> LandmarkFitter:
        """The same head model, fitted in another way."""
        out = copy.copy(self)
        out.options = options
        return out

    def fit(
        self,
        observations: FaceObservation | Sequence[FaceObservation],
        hints: CameraHint | Sequence[CameraHint] | None = None,
        knowledge: MetricKnowledge | None = None,
        one_camera: bool = False,
        rig: Rig | None = None,
    ) -> LandmarkFit:
        """Fit one photo, or several of the same person. See `fit_landmarks`.

        one_camera: all pictures were taken with one focal length, as the frames of a video are. rig: the photos'
        cameras, where they are known.
        """
        many = [observations] if isinstance(observations, FaceObservation) else list(observations)
        if not many:
            raise InputError("fitting needs at least one observed face, found none")
        if hints is None or isinstance(hints, CameraHint):
            hints = [hints or CameraHint()] * len(many)
        if len(hints) != len(many):
            raise InputError(f"expected one camera hint per photo ({len(many)}), found {len(hints)}")
        if rig is not None and len(rig.Ks) != len(many):
            raise InputError(f"expected one known camera per photo ({len(many)}), found {len(rig.Ks)}")
        with one_blas_thread():
            shared = ("betas", "log_focal") if one_camera else ("betas",)
            return _Fit(self, many, hints, knowledge or MetricKnowledge(), shared, rig).run()


def fit_landmarks(
    observations: FaceObservation | Sequence[FaceObservation],
    assets: HeadAssets,
    options: FitOptions | None = None,
    hints: CameraHint | Sequence[CameraHint] | None = None,
    knowledge: MetricKnowledge | None = None,
) -> LandmarkFit:
    """Fit a head model to the landmarks of one photo, or of several photos of one person.

    observations: what perception saw, in pixels of the upright image. hints: per photo (or one for all), EXIF's
    focal length and an off-centre principal point; without a hint the focal length is estimated under a broad prior.
    knowledge: sizes that the user knows. Raises InputError for input that cannot be used. Deterministic.
    """
    return LandmarkFitter(assets, options).fit(observations, hints, knowledge)


class _Fit:
    """One run: holds what the stages hand to each other."""

    def __init__(
        self,
        fitter: LandmarkFitter,
        observations: Sequence[FaceObservation],
        hints: Sequence[CameraHint],
        knowledge: MetricKnowledge,
        shared: tuple[str, ...] = ("betas",),
        rig: Rig | None = None,
    ) -> None:
        self.shared = shared  # what all views have in common
        self.assets, self.models, self.rig = fitter.assets, fitter.models, rig
        self.options = fitter.options
        self.knowledge = knowledge
        self.views = [self._view(i, o, h) for i, (o, h) in enumerate(zip(observations, hints, strict=True))]
        self.timings: dict[str, float] = {}

    def _view(self, index: int, observation: FaceObservation, hint: CameraHint) -> View:
        marks = self.options.noise.unbiased(groups.check_landmarks(observation.landmarks))
        width, height = observation.image_size
        head_view, focal = self._camera_view(index, hint, (width, height))
        frame = EyeFrame.of(marks)
        if frame.scale_px < 4:
            raise InputError(
                f"the eyes lie only {frame.scale_px:.1f} pixels apart; at least 4 are needed to fit a head"
            )
        shape = observation.shape
        if shape is not None and (shape.model != self.assets.name or len(shape.mean) != self.assets.num_betas):
            shape = None  # of another model's identity space
        return View(
            head_view, marks, frame, focal, (width, height), observation.blendshapes, f"detector/{index}", shape,
            hint.name,
        )  # fmt: skip

    def _camera_view(self, index: int, hint: CameraHint, size: tuple[int, int]) -> tuple[HeadView, FocalHint]:
        """How a photo sees the head, and what is believed about its focal length."""
        models, layout, rig = self.models, self.models.points.layout, self.rig
        if rig is None:
            principal = np.array(hint.principal if hint.principal is not None else (size[0] / 2, size[1] / 2), float)
            geometry = ViewGeometry(models.anchor, models.root, principal)
            focal = focal_prior(size, self.knowledge.focal_hint() or hint.focal)
            return HeadView(layout, geometry, view_block_names(index, self.shared), index), focal
        geometry = rig.geometry(index, models.anchor, models.root)
        focal = FocalHint(rig.focal_px(index), FOCAL_SIGMA, "camera file")
        if not rig.still:
            return HeadView(layout, geometry, view_block_names(index, self.shared), index), focal
        return RigView(layout, geometry, rig_view_names(index), rig.place(index), index), focal

    def run(self) -> LandmarkFit:
        values = self._start()
        values = self._solve_pose(values)
        solution, problem = self._solve_all(values)
        began = time.perf_counter()
        posterior = posterior_at(problem, self._honest(problem, solution))
        fit = build_fit(self.models, self.views, problem, solution, posterior, self.options.iris)
        self.timings["posterior"] = time.perf_counter() - began
        return replace(fit, timings_ms={k: 1e3 * v for k, v in self.timings.items()})

    def _start(self) -> dict[str, np.ndarray]:
        began = time.perf_counter()
        values: dict[str, np.ndarray] = {}
        if self.rig is not None and self.rig.still:
            ids = np.array(COARSE_IDS)
            observed = [v.marks[ids, :2] for v in self.views]
            names = [v.name or f"photo {i + 1}" for i, v in enumerate(self.views)]
            values |= rig_start(self.rig, observed, self.models.template_marks[ids], self.models.root, names)
            self.timings["start"] = time.perf_counter() - began
            return {**values, **{v.head.names["camera"]: np.zeros(6) for v in self.views}}
        for view in self.views:
            g = view.head.geometry
            pose = weak_perspective_pose(self.models.template_marks, view.marks, g.anchor, g.principal)
            values[view.head.names["global_orient"]] = pose.global_orient
            values[view.head.names["placement"]] = pose.placement
        self.timings["start"] = time.perf_counter() - began
        return values

    def _solve_pose(self, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Pose and placement of each view with everything else at its prior mean."""
        began = time.perf_counter()
        out = dict(values)
        for view in self.views:
            if isinstance(view.head, RigView):
                continue  # the start has it from all photos
            keep = {view.head.names["global_orient"], view.head.names["placement"]}
            blocks = [
                b if b.name in keep else replace(b, free=np.zeros(b.size, bool))
                for b in (self._identity(), *self._view_blocks(view))
            ]
            residual = coarse_residual(self.models, self.options, view)
            solution = solve(Problem(blocks, [residual]), out, replace(self.options.solver, max_iterations=10))
            out |= {name: solution.values[name] for name in keep}
        self.timings["pose"] = time.perf_counter() - began
        return out

    def _identity(self) -> Block:
        return head_priors.identity_block(self.assets)

    def _view_blocks(self, view: View) -> list[Block]:
        names, prior = view.head.names, self.options.prior
        blocks = [head_priors.expression_block(self.assets, prior, view.scores, names["expression"])]
        blocks += head_priors.pose_blocks(self.assets, prior, names)
        if isinstance(view.head, RigView):
            assert self.rig is not None
            blocks += place_blocks(view.head, view.focal.focal_px, self.rig)
        else:
            log_focal = np.log(view.focal.focal_px)
            free = self.rig is None or self.rig.refine
            blocks.append(Block.make(names["placement"], 3))
            blocks.append(Block.make(names["log_focal"], 1, mean=log_focal, sigma=view.focal.sigma_log, free=free))
        blocks.append(noise_block(view.noise_block, self.options.noise))
        return blocks

    def _solve_all(self, values: Mapping[str, np.ndarray]) -> tuple[Solution, Problem]:
        blocks = self.blocks()
        empty = Problem(blocks, [])
        state = empty.unpack(empty.pack(values))
        for index in range(self.options.outer_rounds):
            began = time.perf_counter()
            residuals = self.knowledge_residuals()
            for view in self.views:
                residuals += view_residuals(self.models, self.options, view, state, IRIS_BLOCK)
            problem = Problem(self.tilted(blocks, state), residuals)
            # Only the last round must settle: before it the outline is about to be chosen anew.
            last = index == self.options.outer_rounds - 1
            solver = self.options.solver if last else replace(self.options.solver, cost_tolerance=EARLY_TOLERANCE)
            solution = solve(problem, state, solver)
            state = solution.values
            self.timings[f"round_{index + 1}"] = time.perf_counter() - began
        return solution, problem  # pyright: ignore[reportPossiblyUnboundVariable]

    def blocks(self) -> list[Block]:
        """Everything that may move; what views share is there once."""
        blocks = [self._identity(), self._iris()]
        for view in self.views:
            blocks += self._view_blocks(view)
        return list({b.name: b for b in blocks}.values())

    def _iris(self) -> Block:
        block = self.options.iris.block(IRIS_BLOCK)
        if self.rig is not None and self.rig.still and self.rig.metric:
            # Cameras that are known measure the iris instead of being measured by it.
            return replace(block, sigma=np.full(1, IRIS_UNKNOWN))
        return block

    def tilted(self, blocks: Sequence[Block], state: Mapping[str, np.ndarray]) -> list[Block]:
        """The blocks with the correction of `scale_volume` on each view's log(depth / focal), or the rig's unit."""
        heads = [v.head for v in self.views if "placement" in v.head.names]
        slopes = scale_slopes(state, blocks, heads, self.models.size_gradient)
        tilts = {h.names["placement"]: np.array([0.0, 0.0, s]) for h, s in zip(heads, slopes, strict=True)}
        if self.rig is not None and not self.rig.metric:
            slope = scale_slopes(state, blocks, [self.views[0].head], self.models.size_gradient)
            tilts[self.views[0].head.names["rig_scale"]] = np.array(slope)
        return [replace(b, tilt=tilts[b.name]) if b.name in tilts else b for b in blocks]

    def _honest(self, problem: Problem, solution: Solution) -> Solution:
        """The solution with the curvature that the landmarks deserve (`FitOptions.stated_noise`)."""
        if self.options.stated_noise is None:
            return solution
        residuals = self.knowledge_residuals()
        for view in self.views:
            residuals += view_residuals(self.models, self.options.for_posterior(), view, solution.values, IRIS_BLOCK)
        _, _, hessian = Problem(problem.blocks, residuals).normal_equations(solution.x)
        return replace(solution, hessian=hessian)

    def knowledge_residuals(self) -> list[Residual]:
        known, options = self.knowledge, self.options
        out: list[Residual] = []
        if known.ipd_mm is not None:
            out.append(
                metric_scale.LengthResidual(
                    "known ipd", self.models.measures, "ipd", known.ipd_mm * 1e-3, known.ipd_sigma_mm * 1e-3
                )
            )
        for view in self.views:
            if isinstance(view.head, RigView):
                continue
            distance = metric_scale.EyeDistance(view.head, self.models.irises)
            if known.distance_m is not None:
                log, sigma = np.log(known.distance_m), known.distance_sigma
            elif np.isfinite(options.distance_sigma_log):
                log, sigma = np.log(options.distance_m), options.distance_sigma_log
            else:
                continue
            out.append(metric_scale.DistanceResidual(f"distance {view.head.tag}", distance, float(log), sigma))
        return out
