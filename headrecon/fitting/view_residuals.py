"""Everything that one photo says, as residuals around the current state: landmarks, outline, irises, gaze."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from headrecon.fitting import contour
from headrecon.fitting import landmark_groups as groups
from headrecon.fitting.head_priors import eyes_turn_irises, vergence_residual, without_fixed_joints
from headrecon.fitting.landmarks import (
    LandmarkResidual,
    modes_px,
    take,
    visibility_of,
    whitening,
)
from headrecon.fitting.least_squares import Residual, Values
from headrecon.fitting.lip_embedding import with_lower_rim
from headrecon.fitting.measures import MeasureSet
from headrecon.fitting.metric_scale import IrisResidual, iris_foreshortening
from headrecon.fitting.options import FitOptions
from headrecon.fitting.parameters import HeadView
from headrecon.fitting.robust import Huber
from headrecon.fitting.scale_volume import scaling_gap, size_gradient
from headrecon.fitting.shape_evidence import shape_residual
from headrecon.geometry import so3
from headrecon.geometry.mesh import vertex_normals
from headrecon.io.exif import FocalHint
from headrecon.models.point_model import PointModel
from headrecon.models.posed_mesh import embed, posed_vertices
from headrecon.perception.eye_frame import EyeFrame
from headrecon.structures import HeadAssets, LandmarkEmbedding, ShapeEstimate, triangulate

#: Mesh points plus the two iris centres: what `FitModels.points` holds, in this order.
POINT_IDS: tuple[int, ...] = (*range(groups.NUM_MESH), groups.RIGHT_IRIS[0], groups.LEFT_IRIS[0])
#: Points that expressions hardly move, for the pose stage: nose bridge, eye corners, forehead, temples, cheekbones.
COARSE_IDS: tuple[int, ...] = (
    168, 6, 197, 195, 5, 4, 1, 19, 94, 98, 327, 33, 133, 263, 362, 9, 8, 151, 108, 337, 69, 299, 67, 297, 54, 284,
    127, 356, 116, 345, 117, 346, 118, 347, 50, 280, 205, 425, 93, 323, 61, 291, 0, 17, 152, 148, 377,
)  # fmt: skip


@dataclass(frozen=True)
class FitModels:
    """The head model cut to what fitting evaluates; built once per model."""

    assets: HeadAssets
    triangles: Int[np.ndarray, "F 3"]
    marks: LandmarkEmbedding  # of POINT_IDS
    points: PointModel  # of POINT_IDS
    coarse: PointModel  # of COARSE_IDS
    irises: PointModel  # centres: right, left
    bands: contour.ContourBands
    candidates: PointModel  # of the bands
    measures: MeasureSet
    template_marks: Float[np.ndarray, "468 3"]
    anchor: Float[np.ndarray, "3"]
    root: Float[np.ndarray, "3"]
    irises_turn: bool
    size_gradient: Float[np.ndarray, " Nb"]
    scaling_gap: Float[np.ndarray, "L 3"]  # of POINT_IDS

    @staticmethod
    def build(assets: HeadAssets) -> FitModels:
        assets = without_fixed_joints(with_lower_rim(assets))
        all_marks = assets.landmarks["mediapipe478"]
        marks = take(all_marks, np.array(POINT_IDS))
        at = embed(assets.v_template.astype(np.float64), all_marks)
        points = PointModel(assets, marks)
        bands = contour.build_bands(assets)
        irises = [groups.RIGHT_IRIS[0], groups.LEFT_IRIS[0]]
        return FitModels(
            assets=assets,
            triangles=triangulate(assets.faces)[0].astype(np.int64),
            marks=marks,
            points=points,
            coarse=PointModel(assets, take(all_marks, np.array(COARSE_IDS))),
            irises=PointModel(assets, take(all_marks, np.array(irises))),
            bands=bands,
            candidates=PointModel(assets, bands.candidates),
            measures=MeasureSet(assets),
            template_marks=at[: groups.NUM_MESH],
            anchor=0.5 * (at[irises[0]] + at[irises[1]]),
            root=points.joints(points.layout.zeros())[0],
            irises_turn=eyes_turn_irises(assets),
            size_gradient=size_gradient(points),
            scaling_gap=scaling_gap(points),
        )


@dataclass(frozen=True)
class View:
    """One photo: what was seen, and how the solver's blocks make it."""

    head: HeadView
    marks: Float[np.ndarray, "478 D"]
    frame: EyeFrame
    focal: FocalHint
    image_size: tuple[int, int]
    scores: Mapping[str, float] | None
    noise_block: str  # the detector's modes, then the scaling gap
    shape: ShapeEstimate | None = None  # of this head model's identity
    name: str = ""  # what messages call the photo


def surface(models: FitModels, view: View, values: Values) -> tuple[np.ndarray, np.ndarray]:
    """Vertices before the camera and unit normals of the posed head."""
    vertices = posed_vertices(models.assets, models.points, view.head.flat(values))
    vertices = view.head.to_camera(values, vertices)
    return vertices, vertex_normals(vertices, models.triangles)


def coarse_residual(models: FitModels, options: FitOptions, view: View) -> LandmarkResidual:
    """Rigid points only, loosely weighted, for the pose stage."""
    ids = np.array(COARSE_IDS)
    sigma = 0.05 * view.frame.scale_px  # the mean head misses a person by about this much
    weights = np.broadcast_to(np.eye(2) / sigma, (len(ids), 2, 2)).copy()
    none = np.zeros((0, len(ids), 2))
    return LandmarkResidual(
        "coarse", view.head, models.coarse, view.marks[ids, :2], weights, none, kernel=Huber(options.huber)
    )


def view_residuals(
    models: FitModels, options: FitOptions, view: View, values: Values, iris_block: str
) -> list[Residual]:
    """All residuals of a view, with visibility and outline chosen at `values`."""
    vertices, normals = surface(models, view, values)
    outline = contour.match_outline(models.bands, vertices, normals)
    out: list[Residual] = [_points(models, options, view, (vertices, normals), outline.landmarks, values)]
    if len(outline.landmarks):
        out.append(_outline(models, options, view, (vertices, normals), outline))
    if view.shape is not None and options.shape_trust > 0:
        out.append(shape_residual(view.shape, options.shape_trust, view.head.names["betas"]))
    if models.irises_turn:
        out.append(vergence_residual(options.prior, view.head.names))
        if options.use_iris:
            out.append(_irises(models, options, view, values, iris_block))
    return out


def _points(
    models: FitModels,
    options: FitOptions,
    view: View,
    mesh: tuple[np.ndarray, np.ndarray],
    sliding: Int[np.ndarray, " N"],
    values: Values,
) -> LandmarkResidual:
    """Fixed correspondences: mesh points that are not on the outline, and the iris centres."""
    at = embed(mesh[0], models.marks)
    visible = visibility_of(embed(mesh[1], models.marks), at)
    visible[list(groups.FOREHEAD)] /= options.forehead_factor**2
    visible[sliding] = 0.0
    eyes = np.arange(groups.NUM_MESH, len(POINT_IDS))
    # An eyeball's surface faces the camera wherever it can be seen; lids hide it long before its normal does.
    visible[eyes] = 1.0 if models.irises_turn else 0.0
    observed = np.concatenate([view.marks[: groups.NUM_MESH, :2], groups.iris_centers_px(view.marks)])
    scale = view.frame.scale_px / _interocular_m(models, mesh[0])  # pixels per metre at the eyes
    own = models.marks.sigma_m
    moved_m = options.expression_error * expression_motion(models, view, values)
    extra = scale * (moved_m if own is None else np.hypot(own, moved_m))
    order = np.array(POINT_IDS)
    weights = whitening(options.noise.sigma[order], view.frame, visible, extra)
    turn = view.head.orient(values)
    gap = options.size_sigma * scale * (models.scaling_gap @ turn.T)[:, :2] * [1.0, -1.0]
    modes = np.concatenate([modes_px(options.noise, view.frame)[:, order], gap[None]])
    return LandmarkResidual(
        f"landmarks {view.head.tag}",
        view.head,
        models.points,
        observed,
        weights,
        modes,
        view.noise_block,
        Huber(options.huber),
    )


def expression_motion(models: FitModels, view: View, values: Values) -> Float[np.ndarray, " L"]:
    """How far, in metres, the expression moves each point of `POINT_IDS`."""
    x = view.head.flat(values)
    still = x.copy()
    still[models.points.layout.slices["expression"]] = 0.0
    return np.linalg.norm(models.points.evaluate(x) - models.points.evaluate(still), axis=1)


def _interocular_m(models: FitModels, vertices: np.ndarray) -> float:
    at = embed(vertices, models.marks)
    right, left = at[list(groups.RIGHT_EYE_CORNERS)].mean(0), at[list(groups.LEFT_EYE_CORNERS)].mean(0)
    return float(np.linalg.norm(left - right))


def _outline(
    models: FitModels,
    options: FitOptions,
    view: View,
    mesh: tuple[np.ndarray, np.ndarray],
    outline: contour.ContourMatch,
) -> LandmarkResidual:
    """Distance across the outline of the sliding points."""
    chosen = take(models.bands.candidates, outline.candidates)
    across = contour.image_normals(embed(mesh[1], chosen), embed(mesh[0], chosen))
    no_gap = np.zeros((1, len(outline.landmarks), 2))
    sigma = options.noise.sigma[outline.landmarks].mean(1) * view.frame.scale_px * options.contour_factor
    return LandmarkResidual(
        f"outline {view.head.tag}",
        view.head,
        models.candidates.subset(outline.candidates),
        view.marks[outline.landmarks, :2],
        (across / sigma[:, None])[:, None, :],
        np.concatenate([modes_px(options.noise, view.frame)[:, outline.landmarks], no_gap]),
        view.noise_block,
        Huber(options.huber),
        outline.landmarks,
    )


def _irises(models: FitModels, options: FitOptions, view: View, values: Values, iris_block: str) -> IrisResidual:
    head = view.head.orient(values) @ so3.exp(values[view.head.names["neck_pose"]])
    gaze = np.stack([(head @ so3.exp(values[view.head.names[n]]))[:, 2] for n in ("reye_pose", "leye_pose")])
    centers = view.head.evaluate(models.irises, values)
    rays = -centers / np.linalg.norm(centers, axis=1, keepdims=True)
    # An iris seen from the side is measured badly, as the deeper cornea and the lids cut it.
    turned = np.clip(np.sum(gaze * rays, axis=1), 0.2, 1.0)
    return IrisResidual(
        f"iris {view.head.tag}",
        view.head,
        models.irises,
        np.log(groups.iris_sizes_px(view.marks)),
        iris_foreshortening(gaze, centers),
        options.iris.sigma / turned,
        iris_block,
    )
