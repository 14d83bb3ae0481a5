"""What is exactly true of a synthetic video: a track, the face's points in every frame, closed lips and blinks.

On disk it is a `track.npz` with more arrays, so that whatever reads tracks reads truth too, and whatever judges a track
needs no head model of the truth's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from headrecon.datasets.face_signals import FaceSignals, face_signals
from headrecon.errors import AssetError
from headrecon.io.npz import read_npz, write_npz
from headrecon.io.tracks import read_track, track_arrays
from headrecon.structures import Track

_PREFIX = "truth."


@dataclass(frozen=True)
class TrackTruth:
    """track: parameters and cameras, which move where the camera did. Points are in metres in the world of the cameras.

    landmarks: iBUG's 68 of the posed head; face: points all over the posed face; both as drawn but without hair.
    neutral_landmarks, neutral_face: the same at rest. still: whether head, face and camera stood still throughout.
    face_ids: which vertices of the model `face` holds.
    """

    track: Track
    landmarks: Float[np.ndarray, "T 68 3"]
    face: Float[np.ndarray, "T N 3"]
    neutral_landmarks: Float[np.ndarray, "68 3"]
    neutral_face: Float[np.ndarray, "N 3"]
    face_ids: np.ndarray
    still: bool = False

    @property
    def signals(self) -> FaceSignals:
        return face_signals(self.landmarks.astype(np.float64), self.neutral_landmarks.astype(np.float64))


def write_truth(path: str | Path, truth: TrackTruth) -> None:
    """Write a `truth.npz`, whole or not at all. Raises InputError when it cannot be written."""
    arrays = track_arrays(truth.track)
    arrays |= {f"{_PREFIX}{name}": np.asarray(getattr(truth, name), dtype=kind) for name, kind in _FIELDS.items()}
    write_npz(path, arrays)


#: Single precision is 0.03 µm at half a metre.
_FIELDS = {
    "landmarks": np.float32, "face": np.float32, "neutral_landmarks": np.float32, "neutral_face": np.float32,
    "face_ids": np.int32, "still": np.bool_,
}  # fmt: skip


def read_truth(path: str | Path) -> TrackTruth:
    """Read a `truth.npz`. Raises AssetError when it is missing, damaged, or a track without truth."""
    track = read_track(path)
    arrays = read_npz(path, [_PREFIX + name for name in _FIELDS])
    found = {name.removeprefix(_PREFIX): array for name, array in arrays.items()}
    if set(found) != set(_FIELDS):
        raise AssetError(f"{path}: a track, but no truth; expected the truth.npz of a synthetic video")
    count = len(track)
    points = found["face_ids"].size
    shapes = {
        "landmarks": (count, 68, 3), "face": (count, points, 3), "neutral_landmarks": (68, 3),
        "neutral_face": (points, 3), "face_ids": (points,), "still": (),
    }  # fmt: skip
    for name, shape in shapes.items():
        if found[name].shape != shape:
            raise AssetError(f"{path}: {name} must have shape {shape}, found {found[name].shape}")
    return TrackTruth(track, **{**found, "still": bool(found["still"])})
