"""What the landmark stage hands back: parameters, cameras, posterior, figures, residuals and warnings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property

import numpy as np
from jaxtyping import Float

from headrecon.fitting import landmark_groups as groups
from headrecon.fitting import metric_scale
from headrecon.fitting.camera_prior import f35_from_focal
from headrecon.fitting.least_squares import Problem, Solution
from headrecon.fitting.metric_scale import Figure
from headrecon.fitting.posterior import Posterior
from headrecon.fitting.view_residuals import FitModels, View
from headrecon.geometry import so3
from headrecon.models.point_model import ParamLayout
from headrecon.structures import POSE_FIELDS, Cameras, HeadParams

#: A head that turns further than this hides half of its face; the far half is then a guess.
LARGE_YAW_DEG = 50.0
#: the detector alone differs from the model by 3 % on average
POOR_FIT_PERCENT = 7.0
SMALL_FACE_PX = 40.0


@dataclass(frozen=True)
class ResidualReport:
    """Distances between the detected points and the fitted head's, one photo.

    points_px: the 468 mesh points at their fixed correspondences, outline points at their nearest outline, in
    pixels; the summary leaves the forehead out (its points are not meant to fit). percent: of the interocular distance.
    """

    points_px: Float[np.ndarray, "468"]
    median_px: float
    rms_px: float
    median_percent: float
    rms_percent: float
    interocular_px: float


@dataclass(frozen=True)
class LandmarkFit:
    """The answer of the landmark stage for B photos of one person.

    params: batch of B with the same betas. cameras: one per photo, standing at the world's origin and looking along -z,
    or where they are known to stand; the head that belongs to each is in the same world.
    Both as tensors, made when first asked for; `arrays` and `pinholes` are the same in numpy, and `flat` are the
    parameters in float64 as `ParamLayout` orders them.
    posterior: covariance over the blocks of `values` (see `fitting.parameters` for what they mean).
    figures: of the person, `<measure>_mm`, with deviation and 90 % interval; view_figures: per photo `distance_m`,
    `focal_px` and `focal_f35_mm`. points_3d: the fitted 478 points are the model's to give (`HeadModel(params)`).
    """

    flat: Float[np.ndarray, "B P"]
    layout: ParamLayout
    pinholes: tuple[Cameras, ...]
    values: dict[str, np.ndarray]
    posterior: Posterior
    figures: dict[str, Figure]
    view_figures: tuple[dict[str, Figure], ...]
    residuals: tuple[ResidualReport, ...]
    warnings: tuple[str, ...]
    iterations: int
    cost: float
    timings_ms: dict[str, float] = field(default_factory=dict)

    @cached_property
    def arrays(self) -> HeadParams:
        """The parameters as float32 numpy arrays."""
        names = ("betas", "expression", *POSE_FIELDS, "transl")
        return HeadParams(**{n: self.flat[:, self.layout.slices[n]].astype(np.float32) for n in names})

    @cached_property
    def params(self) -> HeadParams:
        """The parameters as float32 tensors."""
        import torch

        return HeadParams(**{f.name: torch.from_numpy(getattr(self.arrays, f.name)) for f in fields(HeadParams)})

    @cached_property
    def cameras(self) -> tuple[Cameras, ...]:
        """The photos' cameras as tensors."""
        return tuple(c.torch() for c in self.pinholes)

    @property
    def camera(self) -> Cameras:
        """The first photo's camera."""
        return self.cameras[0]

    def of_view(self, index: int) -> LandmarkFit:
        """The same answer as if that photo were the only one: its parameters, camera, figures and residuals."""
        return self.of_views([index])

    def of_views(self, ids: Sequence[int]) -> LandmarkFit:
        """The same for some of the photos, in the order that is given."""
        return replace(
            self,
            flat=self.flat[list(ids)],
            pinholes=tuple(self.pinholes[i] for i in ids),
            view_figures=tuple(self.view_figures[i] for i in ids),
            residuals=tuple(self.residuals[i] for i in ids),
        )

    @property
    def betas_sigma(self) -> Float[np.ndarray, " Nb"]:
        """Posterior deviation of each identity coefficient (1 means that the photo says nothing about it)."""
        return self.posterior.sigma("betas")


def build_fit(
    models: FitModels,
    views: Sequence[View],
    problem: Problem,
    solution: Solution,
    posterior: Posterior,
    iris: metric_scale.IrisModel,
) -> LandmarkFit:
    """Collect everything at a solution."""
    values = {name: v.copy() for name, v in solution.values.items()}
    reports = tuple(_residual_report(models, problem, v, values) for v in views)
    figures = metric_scale.length_figures(models.measures, values, posterior)
    diameter = iris.diameter_mm(float(values["log_iris"][0]))
    figures["iris_mm"] = Figure.positive(diameter, diameter * float(posterior.sigma("log_iris")[0]), "mm")
    unit = next((b for b in problem.blocks if b.name == "rig_scale" and b.free is not None and b.free.any()), None)
    if unit is not None:
        length = 1e3 * float(np.exp(values[unit.name][0]))
        figures["camera_unit_mm"] = Figure.positive(length, length * float(posterior.sigma(unit.name)[0]), "mm")
    return LandmarkFit(
        flat=np.stack([v.head.world_flat(values, _root(models, values)) for v in views]),
        layout=models.points.layout,
        pinholes=tuple(_camera(v, values) for v in views),
        values=values,
        posterior=posterior,
        figures=figures,
        view_figures=tuple(_view_figures(models, v, values, posterior) for v in views),
        residuals=reports,
        warnings=tuple(_warnings(views, values, reports, solution)),
        iterations=solution.iterations,
        cost=solution.cost,
    )


def _root(models: FitModels, values: dict[str, np.ndarray]) -> Float[np.ndarray, "3"]:
    """The person's root joint at rest."""
    x = models.points.layout.zeros()
    x[models.points.layout.slices["betas"]] = values["betas"]
    return models.points.joints(x)[0]


def _camera(view: View, values: dict[str, np.ndarray]) -> Cameras:
    (fx, fy), (cx, cy) = view.head.focals(values), view.head.geometry.principal
    intrinsics = np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]], dtype=np.float32)
    return Cameras(view.head.viewmat(values).astype(np.float32), intrinsics, *view.image_size)


def _view_figures(
    models: FitModels, view: View, values: dict[str, np.ndarray], posterior: Posterior
) -> dict[str, Figure]:
    distance = metric_scale.EyeDistance(view.head, models.irises)
    focal = metric_scale.focal_figure(view.head, values, posterior)
    f35 = f35_from_focal(focal.value, view.image_size)
    return {
        "distance_m": metric_scale.distance_figure(distance, values, posterior),
        "focal_px": focal,
        "focal_f35_mm": Figure.positive(f35, f35 * focal.sigma / focal.value, "mm"),
    }


def _residual_report(models: FitModels, problem: Problem, view: View, values: dict[str, np.ndarray]) -> ResidualReport:
    pixels = view.head.project(values, view.head.evaluate(models.points, values))[: groups.NUM_MESH]
    errors = np.linalg.norm(pixels - view.marks[: groups.NUM_MESH, :2], axis=1)
    tag = view.head.tag
    for residual in problem.residuals:
        if residual.name == f"outline {tag}":
            across = residual.evaluate(values)
            weights = np.linalg.norm(residual.weights[:, 0], axis=1)  # pyright: ignore[reportAttributeAccessIssue]
            errors[residual.landmarks] = np.abs(across) / weights  # pyright: ignore[reportAttributeAccessIssue]
    counted = np.delete(errors, list(groups.FOREHEAD))
    scale = view.frame.scale_px
    median, rms = float(np.median(counted)), float(np.sqrt(np.mean(counted**2)))
    return ResidualReport(errors, median, rms, 100 * median / scale, 100 * rms / scale, scale)


def yaw_deg(global_orient: Float[np.ndarray, "3"]) -> float:
    """Turn of the face to the side, seen from the camera, in degrees (0 is frontal)."""
    forward = so3.exp(global_orient)[:, 2]
    return float(np.degrees(np.arctan2(forward[0], forward[2])))


def _warnings(
    views: Sequence[View], values: dict[str, np.ndarray], reports: Sequence[ResidualReport], solution: Solution
) -> list[str]:
    out = []
    for index, (view, report) in enumerate(zip(views, reports, strict=True)):
        where = "the photo" if len(views) == 1 else view.name or f"photo {index + 1}"
        yaw = yaw_deg(so3.log(view.head.orient(values)))
        if abs(yaw) > LARGE_YAW_DEG:
            out.append(f"in {where} the head turns {abs(yaw):.0f} degrees to the side; its far half is guessed")
        if report.rms_percent > POOR_FIT_PERCENT:
            out.append(
                f"in {where} the head misses the landmarks by {report.rms_percent:.1f} % of the eye distance; "
                "below 5 % is usual, so look at the overlay before trusting the result"
            )
        if view.frame.scale_px < SMALL_FACE_PX:
            out.append(
                f"in {where} the eyes are only {view.frame.scale_px:.0f} pixels apart; details are lost below 40"
            )
    if not solution.converged:
        out.append(f"the fit stopped before it settled ({solution.reason})")
    return out
