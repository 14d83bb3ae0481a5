"""What a landmark detector alone makes of a video: MediaPipe's expression scores on the mean head, posed by its points.

This is what many tools take for face tracking, and what ours has to beat: no identity, no knowledge of the frame
before, a lens assumed to see 63 degrees (as MediaPipe's face geometry assumes; Grishchenko et al. 2020).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from jaxtyping import Float, UInt8

from headrecon.errors import AssetError, InputError
from headrecon.geometry import so3
from headrecon.geometry.alignment import umeyama
from headrecon.models.point_model import PointModel
from headrecon.perception.faces import observe_faces
from headrecon.perception.networks import Networks
from headrecon.structures import Cameras, HeadAssets, HeadParams, Track

_FIELD_OF_VIEW = math.radians(63)
_ROUNDS = 8
#: Mesh points without the irises, every fourth: a rigid pose has six unknowns.
_POINTS = slice(0, 468, 4)
_FLIP = np.array([1.0, -1.0, -1.0])


def landmark_baseline(
    frames: Iterable[tuple[int, float, UInt8[np.ndarray, "H W 3"]]], assets: HeadAssets, networks: Networks
) -> Track:
    """Track a video, given as (index, seconds, upright sRGB picture), with landmarks and expression scores only.

    networks: with a face landmarker bundle, which has the scores. Frames without a face repeat the one before, with
    confidence 0; those before the first face are left out.
    Raises AssetError without a bundle or the model's 478 points, InputError when no frame shows a face.
    """
    if "mediapipe478" not in assets.landmarks:
        raise AssetError(f"head model {assets.name!r} has no landmarks named 'mediapipe478', which a pose is found by")
    model = PointModel(assets, assets.landmarks["mediapipe478"])
    names, rows, cameras, kept = assets.expression_names, [], [], []
    for index, time, image in frames:
        faces = observe_faces(image, networks, max_faces=1)
        if faces:
            scores = faces[0].blendshapes
            if scores is None:
                raise AssetError("the baseline needs the scores that a face_landmarker.task bundle gives")
            k = _intrinsics(image.shape[1], image.shape[0])
            rows.append(_pose(model, _with_scores(model, names, scores), faces[0].landmarks.astype(np.float64), k))
            cameras.append((k, image.shape))
            kept.append((index, time, float(faces[0].presence)))
        elif rows:
            rows.append(rows[-1])
            cameras.append(cameras[-1])
            kept.append((index, time, 0.0))
    if not rows:
        raise InputError("no frame shows a face; there is nothing to track")
    height, width = cameras[0][1][:2]
    view = np.diag([*_FLIP, 1.0])
    return Track(
        model=assets.name,
        expression_names=names,
        params=HeadParams(**{name: np.stack(rows)[:, s] for name, s in model.layout.slices.items()}),
        cameras=Cameras(np.tile(view, (len(rows), 1, 1)), np.stack([k for k, _ in cameras]), width, height),
        frames=np.array([index for index, _, _ in kept]),
        timestamps_s=np.array([time for _, time, _ in kept]),
        confidence=np.array([presence for _, _, presence in kept]),
    ).validate()


def _intrinsics(width: int, height: int) -> Float[np.ndarray, "3 3"]:
    focal = height / 2 / math.tan(_FIELD_OF_VIEW / 2)
    return np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]])


def _with_scores(model: PointModel, names: tuple[str, ...], scores: dict[str, float]) -> Float[np.ndarray, " P"]:
    row = model.layout.zeros()
    row[model.layout.slices["expression"]] = [scores.get(name, 0.0) for name in names]
    return row


def _pose(
    model: PointModel, row: np.ndarray, landmarks: Float[np.ndarray, "478 3"], k: Float[np.ndarray, "3 3"]
) -> Float[np.ndarray, " P"]:
    """Turn and place the head so that its points fall on the detected ones: similarity first, then Gauss-Newton."""
    points = model.evaluate(row)[_POINTS]
    seen = landmarks[_POINTS]
    first = umeyama(points, (seen - [k[0, 2], k[1, 2], 0.0]) * _FLIP)
    turn, depth = first.rotation, k[0, 0] / first.scale
    place = np.array([*(first.translation[:2] * depth / k[0, 0]), -depth - 0.0])
    place[2] -= float((points @ turn.T)[:, 2].mean())
    for _ in range(_ROUNDS):
        arms = points @ turn.T
        at = arms + place
        z = -at[:, 2]
        residual = np.stack([k[0, 0] * at[:, 0] / z + k[0, 2], -k[1, 1] * at[:, 1] / z + k[1, 2]], 1) - seen[:, :2]
        by_place = np.zeros((len(at), 2, 3))
        by_place[:, 0, 0], by_place[:, 0, 2] = k[0, 0] / z, k[0, 0] * at[:, 0] / z**2
        by_place[:, 1, 1], by_place[:, 1, 2] = -k[1, 1] / z, -k[1, 1] * at[:, 1] / z**2
        jacobian = np.concatenate([by_place @ -so3.skew(arms), by_place], axis=2).reshape(-1, 6)
        step = np.linalg.lstsq(jacobian, -residual.reshape(-1), rcond=None)[0]
        turn, place = so3.exp(step[:3]) @ turn, place + step[3:]
    return _placed(model, row, turn, place)


def _placed(model: PointModel, row: np.ndarray, turn: np.ndarray, place: np.ndarray) -> Float[np.ndarray, " P"]:
    """The row with x -> turn x + place as its root's rotation, which is about the root joint, and translation."""
    root = model.joints(row)[0]
    out = row.copy()
    out[model.layout.slices["global_orient"]] = so3.log(turn)
    out[model.layout.slices["transl"]] = place + turn @ root - root
    return out
