"""How far a track is from the truth: expression, pose, place, surface, jitter, closed lips, blinks.

All is measured in the space of each frame's camera, so that it does not matter whether camera or head moved. A single
camera cannot tell a large head from a near one: places and surfaces are given in metres as tracked ("metric") and after
one factor of size for the whole clip ("scale-free"), which moves the head along its rays.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Bool, Float

from headrecon.datasets.face_signals import FaceSignals, runs
from headrecon.datasets.track_truth import TrackTruth
from headrecon.evaluation.scan_alignment import align_mesh_to_scan, distances_to
from headrecon.evaluation.track_match import (
    Match,
    camera_space,
    flat_rows,
    match_track,
    skin_triangles,
    surface_of,
)  # fmt: skip
from headrecon.geometry import so3
from headrecon.geometry.alignment import Similarity, umeyama
from headrecon.geometry.closest import SurfaceIndex
from headrecon.io.arkit_curves import arkit_curves
from headrecon.models.point_model import PointModel
from headrecon.structures import ARKIT_NAMES, HeadAssets, Track

#: A weight that the truth never takes above this does not move.
_MOVES = 0.05
#: Turns of the head (degrees off the camera) by which pose errors are sorted.
YAW_BINS = ((0, 30), (30, 60), (60, 180))


@dataclass(frozen=True)
class Events:
    """Closed lips or blinks: how many there were, how many were found, and how many found ones there were."""

    true: int
    found: int
    said: int
    right: int

    @property
    def recall(self) -> float:
        return self.found / self.true if self.true else float("nan")

    @property
    def precision(self) -> float:
        return self.right / self.said if self.said else float("nan")


@dataclass(frozen=True)
class TrackScore:
    """Figures of one track; see docs/accuracy.md for what each means. Errors are means over frames unless named.

    expression: mean absolute error by ARKit name, of weights that the truth moves. pose_by_yaw: degrees by how far the
    head is turned off the camera, None where it never was. face_*: mean distance of the true face's points to the
    tracked surface. gap_at_closures_mm: how far apart lips are, beyond rest, where the true ones touch or are pressed.
    """

    frames: int
    missed: int
    expression: dict[str, float]
    expression_mean: float
    expression_correlation: float
    pose_degrees: float
    pose_by_yaw: dict[str, float | None]
    place_mm: float
    place_scale_free_mm: float
    depth_mm: float
    scale: float
    face_mm: float
    face_scale_free_mm: float
    face_aligned_mm: float
    reprojection_px: float
    reprojection_percent: float
    jitter_px: float
    jitter_mm: float
    lips: Events
    blinks: Events
    gap_at_closures_mm: float

    def as_dict(self) -> dict[str, object]:
        """Plain values for JSON; NaN (nothing to find) becomes None."""
        out: dict[str, object] = {k: _plain(v) for k, v in asdict(self).items()}
        for name in ("lips", "blinks"):
            events: Events = getattr(self, name)
            out[name] = {**asdict(events), "recall": _plain(events.recall), "precision": _plain(events.precision)}
        return out


def _plain(value: object) -> object:
    return None if isinstance(value, float) and not np.isfinite(value) else value


@dataclass(frozen=True)
class ScoreOptions:
    """surface_frames: so many frames, evenly spread, are compared surface to surface; surface_points: at most so many
    points of the true face in each. slack: frames by which an event may be off and still counts.
    """

    surface_frames: int = 16
    surface_points: int = 500
    slack: int = 1


def evaluate_track(
    track: Track, truth: TrackTruth, assets: HeadAssets, options: ScoreOptions = ScoreOptions()
) -> TrackScore:
    """Score a track against the truth of its video. assets: the head model of the track; the truth's may be another.

    Raises InputError when they have no frame in common or the model is not the track's.
    """
    match = match_track(track, truth, assets)
    weights, mean, correlation = _expression(match)
    degrees = pose_errors(match)
    scale = _scale(match)
    apart = match.predicted.places - match.true.places
    free = scale * match.predicted.places - match.true.places
    surface = _surfaces(match, assets, scale, options)
    off = np.linalg.norm(match.predicted.pixels - match.true.pixels, axis=2)
    wide = np.linalg.norm(match.true.pixels[:, 36] - match.true.pixels[:, 45], axis=1).max()
    jitter_px, jitter_mm = _jitter(match)
    closed = match.true.signals.lips_closed
    eyes_mm = 1e3 * float(np.linalg.norm(truth.neutral_landmarks[36] - truth.neutral_landmarks[45]))
    # Pressed lips are no more closed than lips that touch: what is seen is how far they are apart.
    gap = eyes_mm * (np.maximum(match.predicted.signals.lip_gap, 0) - np.maximum(match.true.signals.lip_gap, 0))[closed]
    return TrackScore(
        frames=len(match.track),
        missed=match.missed,
        expression=weights,
        expression_mean=mean,
        expression_correlation=correlation,
        pose_degrees=float(degrees.mean()),
        pose_by_yaw=_by_yaw(match, degrees),
        place_mm=1e3 * float(np.linalg.norm(apart, axis=1).mean()),
        place_scale_free_mm=1e3 * float(np.linalg.norm(free, axis=1).mean()),
        depth_mm=1e3 * float(np.abs(apart[:, 2]).mean()),
        scale=scale,
        face_mm=surface[0],
        face_scale_free_mm=surface[1],
        face_aligned_mm=surface[2],
        reprojection_px=float(off.mean()),
        reprojection_percent=100 * float(off.mean() / wide),
        jitter_px=jitter_px,
        jitter_mm=jitter_mm,
        lips=events(match.true.signals.lips_closed, match.predicted.signals.lips_closed, options.slack),
        blinks=_blinks(match.true.signals, match.predicted.signals, options.slack),
        gap_at_closures_mm=float(np.maximum(gap, 0).mean()) if closed.any() else float("nan"),
    )


def _expression(match: Match) -> tuple[dict[str, float], float, float]:
    """Mean absolute errors by name, their mean, and the mean correlation over time, of the weights that move."""
    found, wanted = arkit_curves(match.track).weights, arkit_curves(match.truth.track).weights
    moving = np.flatnonzero(wanted.max(0) > _MOVES)
    error = np.abs(found - wanted)[:, moving].mean(0)
    both = [k for k in moving if found[:, k].std() > 1e-9 and wanted[:, k].std() > 1e-9]
    # A weight that never moves in the track follows nothing: correlation 0.
    total = sum(float(np.corrcoef(found[:, k], wanted[:, k])[0, 1]) for k in both)
    by_name = {ARKIT_NAMES[k]: float(e) for k, e in zip(moving, error, strict=True)}
    if not len(moving):
        return by_name, float(np.abs(found - wanted).mean()), float("nan")
    return by_name, float(error.mean()), total / len(moving)


def pose_errors(match: Match) -> Float[np.ndarray, " T"]:
    """Degrees between the heads' turns after one constant rotation, in which two models may say "straight" differently.

    Of the same model nothing is taken out: straight is straight.
    """
    apart = np.swapaxes(match.true.turns, 1, 2) @ match.predicted.turns
    constant = np.eye(3)
    if match.track.model != match.truth.track.model:
        u, _, vt = np.linalg.svd(np.median(apart, axis=0))  # the median: some wild frames do not turn all others
        constant = u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt
    return np.degrees(np.array([np.linalg.norm(so3.log(constant.T @ r)) for r in apart]))


def _by_yaw(match: Match, degrees: Float[np.ndarray, " T"]) -> dict[str, float | None]:
    """Errors by the angle between the nose and the line to the camera."""
    towards = -match.true.places / np.linalg.norm(match.true.places, axis=1, keepdims=True)
    off = np.degrees(np.arccos(np.clip((match.true.turns[:, :, 2] * towards).sum(1), -1, 1)))
    out: dict[str, float | None] = {}
    for low, high in YAW_BINS:
        inside = (off >= low) & (off < high)
        out[f"{low}-{high}"] = float(degrees[inside].mean()) if inside.any() else None
    return out


def _scale(match: Match) -> float:
    """The factor of size, for the whole clip, that brings the places nearest to the true ones."""
    found, wanted = match.predicted.places, match.true.places
    return float((found * wanted).sum() / (found * found).sum())


def _surfaces(match: Match, assets: HeadAssets, scale: float, options: ScoreOptions) -> tuple[float, float, float]:
    """Mean distance in mm of the true face to the tracked skin: as it is, with the right size, and moved onto it."""
    model = PointModel(assets, assets.landmarks["ibug68"])
    triangles, rows = skin_triangles(assets), flat_rows(match.track, assets)
    count = min(options.surface_frames, len(rows))
    chosen = np.unique(np.linspace(0, len(rows) - 1, count).round().astype(int)).tolist()
    step = max(1, match.truth.face.shape[1] // options.surface_points)
    errors = []
    for frame in chosen:
        vertices, marks = (1e3 * camera_space(match.track, frame, p) for p in surface_of(assets, model, rows[frame]))
        points = 1e3 * camera_space(match.truth.track, frame, match.truth.face[frame, ::step].astype(np.float64))
        surface = SurfaceIndex(vertices, triangles)
        start = umeyama(marks, 1e3 * match.true.points[frame], with_scale=False)
        aligned = align_mesh_to_scan(surface, points, start, with_scale=False)
        here = Similarity(np.eye(3), np.zeros(3), 1.0)
        sized = Similarity(np.eye(3), np.zeros(3), scale)
        errors.append([float(distances_to(surface, points, pose).mean()) for pose in (here, sized, aligned)])
    means = np.mean(errors, axis=0)
    return float(means[0]), float(means[1]), float(means[2])


def _jitter(match: Match) -> tuple[float, float]:
    """Noise from frame to frame of the 68 points, in px and mm across the line of sight, per coordinate.

    The second difference of the error over time has sqrt(6) times the deviation of noise that is new in every frame;
    what changes slowly drops out. Of a still head this is the noise of what is tracked.
    """
    if len(match.track) < 3 or not match.follows.any():
        return float("nan"), float("nan")
    out = []
    for error in (
        match.predicted.pixels - match.true.pixels,
        1e3 * (match.predicted.points - match.true.points)[..., :2],
    ):
        second = np.diff(error, n=2, axis=0)[match.follows]
        out.append(float(np.sqrt((second**2).mean() / 6)))
    return out[0], out[1]


def events(true: Bool[np.ndarray, " T"], said: Bool[np.ndarray, " T"], slack: int = 1) -> Events:
    """Stretches of True in both, matched when they overlap, or would with `slack` frames more on either side."""
    truth, found = runs(true), runs(said)

    def near(stretch: np.ndarray, flags: np.ndarray) -> bool:
        return bool(flags[max(0, stretch[0] - slack) : stretch[1] + slack + 1].any())

    return Events(len(truth), sum(near(s, said) for s in truth), len(found), sum(near(s, true) for s in found))


def _blinks(true: FaceSignals, said: FaceSignals, slack: int) -> Events:
    return events(true.eyes_closed, said.eyes_closed, slack)
