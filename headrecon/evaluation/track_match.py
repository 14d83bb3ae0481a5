"""A track and its truth side by side, in the space of each frame's camera: what all figures are made from."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from headrecon.datasets.face_signals import FaceSignals, face_signals
from headrecon.datasets.track_truth import TrackTruth
from headrecon.errors import InputError
from headrecon.geometry import so3
from headrecon.models.point_model import PointModel
from headrecon.models.posed_mesh import embed, posed_vertices
from headrecon.structures import HeadAssets, HeadParams, Track, triangulate

#: Corners of both eyes: what says where a head is, whatever its model.
EYE_CORNERS = (36, 39, 42, 45)


@dataclass(frozen=True)
class Points:
    """68 points, the head's turn and its face signals over the T frames of a track, in the cameras' spaces.

    points: metres, OpenCV axes of each frame's camera. turns: rotation of the head into that space. pixels: the points
    in the picture.
    """

    points: Float[np.ndarray, "T 68 3"]
    turns: Float[np.ndarray, "T 3 3"]
    pixels: Float[np.ndarray, "T 68 2"]
    signals: FaceSignals

    @property
    def places(self) -> Float[np.ndarray, "T 3"]:
        """Where the middle of the eyes' corners is."""
        return self.points[:, list(EYE_CORNERS)].mean(1)


@dataclass(frozen=True)
class Match:
    """Frames that track and truth share, in the same order. missed: frames of the truth that the track lacks."""

    track: Track
    truth: TrackTruth
    predicted: Points
    true: Points
    missed: int

    @property
    def follows(self) -> Bool[np.ndarray, " N"]:
        """For each frame but the first and the last, whether its neighbours in the video are here too."""
        return np.diff(self.track.frames, n=1)[1:] + np.diff(self.track.frames, n=1)[:-1] == 2


def match_track(track: Track, truth: TrackTruth, assets: HeadAssets) -> Match:
    """Put a track of the head model `assets` beside its truth by the numbers of the frames.

    Raises InputError when they have no frame in common, or the model is another or has no 68 landmarks.
    """
    if track.model != assets.name or "ibug68" not in assets.landmarks:
        raise InputError(
            f"the track is of the head model {track.model!r}; scoring it needs that model with its 68 landmarks, "
            f"found {assets.name!r}"
        )
    _, own, theirs = np.intersect1d(track.frames, truth.track.frames, return_indices=True)
    if not len(own):
        raise InputError("track and truth have no frame in common; are they of the same video?")
    missed = len(truth.track) - len(own)
    track, truth = (
        track.take(own),
        replace(truth, track=truth.track.take(theirs), landmarks=truth.landmarks[theirs], face=truth.face[theirs]),
    )
    true = _points(truth.track, truth.landmarks.astype(np.float64), truth.signals)
    return Match(track, truth, predicted_points(track, assets), true, missed)


def predicted_points(track: Track, assets: HeadAssets) -> Points:
    """The 68 points of every frame of a track. O(T), a millisecond a frame."""
    model = PointModel(assets, assets.landmarks["ibug68"])
    slices, rows = model.layout.slices, flat_rows(track, assets)
    points = np.stack([model.evaluate(row) for row in rows])
    rest = rows[0] * 0
    rest[slices["betas"]] = rows[0][slices["betas"]]
    return _points(track, points, face_signals(points, model.evaluate(rest)))


def flat_rows(track: Track, assets: HeadAssets) -> Float[np.ndarray, "T P"]:
    """Parameters of every frame as the flat vectors of `point_model.ParamLayout`; expressions by name."""
    order = [assets.expression_names.index(n) if n in assets.expression_names else -1 for n in track.expression_names]
    if -1 in order:
        lost = track.expression_names[order.index(-1)]
        raise InputError(f"the track has an expression {lost!r} that the head model {assets.name!r} lacks")
    params: HeadParams = track.params
    if params.betas.shape[1] > assets.num_betas:
        raise InputError(
            f"the track has {params.betas.shape[1]} betas, {assets.name!r} takes at most {assets.num_betas}"
        )
    expression = np.zeros((len(track), assets.num_expressions))
    expression[:, order] = params.expression
    betas = np.zeros((len(track), assets.num_betas))
    betas[:, : params.betas.shape[1]] = params.betas
    poses = [params.global_orient, params.neck_pose, params.jaw_pose, params.leye_pose, params.reye_pose]
    return np.concatenate([betas, expression, *poses, params.transl], axis=1).astype(np.float64)


def _points(track: Track, points: Float[np.ndarray, "T 68 3"], signals: FaceSignals) -> Points:
    views = np.asarray(track.cameras.viewmats, dtype=np.float64)
    seen = np.einsum("tab,tlb->tla", views[:, :3, :3], points) + views[:, None, :3, 3]
    pixels = np.einsum("tab,tlb->tla", np.asarray(track.cameras.Ks, dtype=np.float64), seen)
    head = so3.exp(np.asarray(track.params.global_orient)) @ so3.exp(np.asarray(track.params.neck_pose))
    return Points(seen, views[:, :3, :3] @ head, pixels[..., :2] / pixels[..., 2:], signals)


def camera_space(track: Track, frame: int, points: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N 3"]:
    """World points of one frame in its camera's space."""
    view = np.asarray(track.cameras.viewmats[frame], dtype=np.float64)
    return points @ view[:3, :3].T + view[:3, 3]


def surface_of(
    assets: HeadAssets, model: PointModel, row: Float[np.ndarray, " P"]
) -> tuple[Float[np.ndarray, "V 3"], Float[np.ndarray, "68 3"]]:
    """All vertices of one frame, and its 68 points."""
    vertices = posed_vertices(assets, model, row)
    return vertices, embed(vertices, assets.landmarks["ibug68"])


def skin_triangles(assets: HeadAssets) -> Int[np.ndarray, "F 3"]:
    """Triangles that a face's surface is made of: skin from the ears forward, not eyes or teeth."""
    triangles = triangulate(assets.faces[assets.faces_of("skin")])[0]
    rest = assets.J_regressor @ assets.v_template
    behind_eyes = assets.v_template[triangles].mean(1)[:, 2] - float(rest[3:5, 2].mean())
    return triangles[behind_eyes > -0.11]
