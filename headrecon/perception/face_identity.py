"""Whether two pictures show the same person: a vector per face, near for one person and far for others.

The network is dlib's (`recognition_network`); its author states 99.38 % on Labeled Faces in the Wild with two faces
taken as one person's below a distance of 0.6. Only the alignment differs: ours is by MediaPipe's points.

It decides which of several photos to use, and nothing else: no vector is written to disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from headrecon.geometry.alignment import umeyama
from headrecon.perception.crops import Roi, sample_roi
from headrecon.perception.recognition_network import SIDE, RecognitionNetwork, load_recognition_network
from headrecon.structures import FaceObservation

#: Distance below which two faces are taken as one person's, as the network's author recommends.
SAME_PERSON = 0.6
#: Where dlib's own alignment puts some of MediaPipe's points in the crop, 0..1: measured over eleven photos.
_PLACES: dict[int, tuple[float, float]] = {
    33: (0.244, 0.318), 263: (0.756, 0.318), 133: (0.402, 0.325), 362: (0.598, 0.325), 159: (0.314, 0.291),
    386: (0.686, 0.291), 145: (0.324, 0.335), 374: (0.676, 0.335), 4: (0.5, 0.512), 2: (0.5, 0.574),
    61: (0.323, 0.689), 291: (0.677, 0.689),
}  # fmt: skip


def face_chip(image_srgb: UInt8[np.ndarray, "H W 3"], face: FaceObservation) -> UInt8[np.ndarray, "150 150 3"]:
    """The face upright and centred, as the network takes it."""
    return chip_at(image_srgb, face.landmarks)


def chip_at(
    image_srgb: UInt8[np.ndarray, "H W 3"], landmarks: Float[np.ndarray, "478 D"]
) -> UInt8[np.ndarray, "150 150 3"]:
    """As `face_chip`, for MediaPipe's points alone."""
    places = np.array(list(_PLACES.values()))
    pixels = landmarks[list(_PLACES), :2].astype(np.float64)
    fitted = umeyama(places, pixels)
    center = fitted.apply(np.array([[0.5, 0.5]]))[0]
    angle = float(np.arctan2(fitted.rotation[1, 0], fitted.rotation[0, 0]))
    return sample_roi(image_srgb, Roi(float(center[0]), float(center[1]), float(fitted.scale), angle), SIDE)


@dataclass(frozen=True)
class FaceIdentity:
    """Tells people apart. Calls from several threads are safe."""

    network: RecognitionNetwork

    def embed(self, image_srgb: UInt8[np.ndarray, "H W 3"], face: FaceObservation) -> Float[np.ndarray, "128"]:
        """The vector of a face in an upright picture. It holds to about 45 degrees of yaw; beyond, expect a stranger.

        The face and its mirror image are averaged, which evens out pose and light. About 35 ms.
        """
        chip = face_chip(image_srgb, face)
        return self.network(np.stack([chip, chip[:, ::-1]])).identity.mean(0)


def same_person(a: Float[np.ndarray, "128"], b: Float[np.ndarray, "128"]) -> float:
    """Distance of two faces; below `SAME_PERSON` they are taken as one person's."""
    return float(np.linalg.norm(a - b))


def one_person(embeddings: Sequence[Float[np.ndarray, "128"]], limit: float = SAME_PERSON) -> list[int]:
    """Which of the faces are the person who is in most of them, by index, rising.

    The face with the most others within the limit is the centre (of equals the one nearest to its own, then the
    first); those near it belong, and then those near the mean of these. O(n^2).
    """
    if not embeddings:
        return []
    points = np.stack(embeddings).astype(np.float64)
    distances = np.linalg.norm(points[:, None] - points[None], axis=-1)
    near = distances < limit
    spread = np.where(near, distances, 0.0).sum(1) / near.sum(1)
    centre = min(range(len(points)), key=lambda i: (-int(near[i].sum()), spread[i], i))
    mean = points[near[centre]].mean(0)
    belongs = near[centre] | (np.linalg.norm(points - mean, axis=1) < limit)
    return [int(i) for i in np.flatnonzero(belongs)]


def load_face_identity() -> FaceIdentity:
    """With the shipped network. Raises AssetError when its file cannot be read."""
    return FaceIdentity(load_recognition_network())
