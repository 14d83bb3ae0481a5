"""Scan-to-mesh error in millimetres by the NoW protocol: how far a scan's face lies from a predicted surface."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, Int

from headrecon.errors import InputError
from headrecon.evaluation.now_protocol import check_order, checked_landmarks, face_region, mm_per_unit
from headrecon.evaluation.scan_alignment import AlignmentOptions, align_mesh_to_scan, distances_to
from headrecon.geometry.alignment import Similarity, umeyama
from headrecon.geometry.closest import SurfaceIndex
from headrecon.structures import Mesh, triangulate

#: Fewer scan points than this in the region say nothing about a face.
_FEWEST_POINTS = 50
#: Landmarks lie on their surface; further off than this share of the eyes' distance they belong to another mesh.
_FARTHEST_LANDMARK = 0.25


@dataclass(frozen=True)
class EvaluationOptions:
    """How to score. Units: "mm", "cm", "m", a number of millimetres per unit, or None to tell from the landmarks.

    radius_mm: of the scored region, instead of the protocol's. max_points: at most so many scan vertices are scored
    and align_points decide the alignment; which ones is drawn with `seed`, the same for the same scan.
    """

    scan_unit: str | float | None = None
    pred_unit: str | float | None = None
    radius_mm: float | None = None
    max_points: int = 200_000
    align_points: int = 20_000
    seed: int = 0
    alignment: AlignmentOptions = field(default_factory=AlignmentOptions)


@dataclass(frozen=True)
class ScanErrors:
    """Distances in mm from the scored scan vertices to the aligned mesh.

    alignment takes the prediction, in mm, onto the scan, in mm; its scale is 1 for the metric score.
    """

    distances_mm: Float[np.ndarray, " N"]
    alignment: Similarity

    @property
    def median_mm(self) -> float:
        return float(np.median(self.distances_mm))

    @property
    def mean_mm(self) -> float:
        return float(np.mean(self.distances_mm))

    @property
    def std_mm(self) -> float:
        return float(np.std(self.distances_mm))

    @property
    def p90_mm(self) -> float:
        return float(np.percentile(self.distances_mm, 90))

    def as_dict(self) -> dict[str, float]:
        names = ("median_mm", "mean_mm", "std_mm", "p90_mm")
        return {name: getattr(self, name) for name in names} | {"scale": self.alignment.scale}


@dataclass(frozen=True)
class MeshScore:
    """What `evaluate_mesh` found. vertex_ids: which scan vertices were scored, in the order of the distances."""

    metric: ScanErrors
    scale_free: ScanErrors
    vertex_ids: Int[np.ndarray, " N"]
    scan_vertices: int
    region_vertices: int
    radius_mm: float
    scan_mm_per_unit: float
    pred_mm_per_unit: float

    def per_vertex(self, errors: ScanErrors) -> Float[np.ndarray, " V"]:
        """The distances by scan vertex; NaN where a vertex was not scored."""
        out = np.full(self.scan_vertices, np.nan)
        out[self.vertex_ids] = errors.distances_mm
        return out


def evaluate_mesh(
    prediction: Mesh,
    prediction_landmarks: Float[np.ndarray, "_ _"],
    scan: Mesh,
    scan_landmarks: Float[np.ndarray, "_ _"],
    options: EvaluationOptions = EvaluationOptions(),
) -> MeshScore:
    """Score a predicted head against a scan of the person by the NoW protocol (see `now_protocol`), in millimetres.

    The prediction is placed by seven landmarks (order: `now_protocol.NOW_LANDMARKS`), then moved so that the squared
    distances from the scan's face to it become least, once without and once with its size; the distances after that
    are the error. Scan vertices that are not finite are left out, as are faces of the prediction that have one. A
    scan needs no faces. Raises InputError for landmarks, units or meshes that cannot be scored.
    """
    own, theirs = (
        checked_landmarks(prediction_landmarks, "the prediction"),
        checked_landmarks(scan_landmarks, "the scan"),
    )
    check_order(own, theirs)
    scan_mm = mm_per_unit(theirs, options.scan_unit, "the scan")
    pred_mm = mm_per_unit(own, options.pred_unit, "the prediction")
    own, theirs = own * pred_mm, theirs * scan_mm
    surface = _surface(prediction, pred_mm)
    _check_on_surface(surface, own, "the prediction")
    points = np.asarray(scan.vertices, dtype=np.float64) * scan_mm
    region, radius = _region(points, theirs, options)
    rng = np.random.default_rng(options.seed)
    scored = _subset(np.flatnonzero(region), options.max_points, rng)
    deciding = points[_subset(scored, options.align_points, rng)]
    results = []
    for with_scale in (False, True):
        start = umeyama(own, theirs, with_scale=with_scale)
        pose = align_mesh_to_scan(surface, deciding, start, with_scale, options.alignment)
        results.append(ScanErrors(distances_to(surface, points[scored], pose), pose))
    return MeshScore(results[0], results[1], scored, len(points), int(region.sum()), radius, scan_mm, pred_mm)


def _surface(prediction: Mesh, factor: float) -> SurfaceIndex:
    vertices = np.asarray(prediction.vertices, dtype=np.float64) * factor
    triangles = triangulate(prediction.faces)[0] if len(prediction.faces) else np.zeros((0, 3), dtype=np.int64)
    good = np.asarray(np.isfinite(vertices).all(1))
    triangles = triangles[good[triangles].all(1)]
    if not len(triangles):
        raise InputError("the prediction has no faces; a score needs a surface, not a point cloud")
    return SurfaceIndex(vertices, triangles)


def _check_on_surface(surface: SurfaceIndex, landmarks: np.ndarray, what: str) -> None:
    off = surface.query(landmarks).distance
    eyes = float(np.linalg.norm(landmarks[0] - landmarks[3]))
    if off.max() > _FARTHEST_LANDMARK * eyes:
        raise InputError(
            f"landmark {int(off.argmax()) + 1} of {what} lies {off.max():.0f} mm away from its surface; expected "
            "points on this mesh, in its unit and pose"
        )


def _region(
    points: np.ndarray, landmarks: np.ndarray, options: EvaluationOptions
) -> tuple[Bool[np.ndarray, " V"], float]:
    centre, radius = face_region(landmarks)
    if options.radius_mm is not None:
        if not (np.isfinite(options.radius_mm) and options.radius_mm > 0):
            raise InputError(f"the radius must be a number of millimetres above 0, found {options.radius_mm!r}")
        radius = options.radius_mm
    with np.errstate(invalid="ignore"):
        inside = np.linalg.norm(points - centre, axis=1) <= radius  # NaN is never inside
    if inside.sum() < _FEWEST_POINTS:
        raise InputError(
            f"only {int(inside.sum())} scan vertices lie within {radius:.0f} mm of the face's centre, expected "
            f"at least {_FEWEST_POINTS}; are the landmarks points of this scan, and is its unit right?"
        )
    return inside, radius


def _subset(ids: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """At most so many of the ids, in their order."""
    return ids if len(ids) <= most else np.sort(rng.permutation(ids)[:most])
