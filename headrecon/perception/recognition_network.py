"""dlib's face recognition network (King 2017; public domain) in plain numpy: what a face shows of who it is.

A residual network of 29 convolutions (after He et al., CVPR 2016) that its author trained by a metric loss on 3 million
photos of 7485 people, put into the public domain and described as `dlib_face_recognition_resnet_model_v1`. It takes a
face turned upright, 150 x 150 pixels, and ends in 128 numbers that are near for one person and far for others. Its
weights are shipped with 8 bits each, one scale per filter (scripts/make_recognition_network.py), which moves those
numbers by 0.015 where two people are 0.6 or more apart. A draft imports no torch, therefore numpy: 40 ms for two looks.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from headrecon.errors import AssetError

TABLE = "face_recognition.npz"
#: Side of the square picture that it takes.
SIDE = 150
#: Mean red, green, blue that it was trained with.
_MEAN = np.array([122.782, 117.001, 104.298], np.float32)
#: Channels of the residual blocks in order, and whether a block halves the picture.
BLOCKS: tuple[tuple[int, bool], ...] = (
    *[(32, False)] * 3, (64, True), *[(64, False)] * 3, (128, True), *[(128, False)] * 2,
    (256, True), *[(256, False)] * 2, (256, True),
)  # fmt: skip
#: Blocks whose answers are handed on as maps: the last of 8 x 8 and the last of 4 x 4 positions.
_MIDDLE, _DEEP = 9, 12


@dataclass(frozen=True)
class FaceFeatures:
    """What the network makes of B faces: `identity` as for recognition, and two of its maps on the way there."""

    middle: Float[np.ndarray, "B 8 8 128"]
    deep: Float[np.ndarray, "B 4 4 256"]
    identity: Float[np.ndarray, "B 128"]


@dataclass(frozen=True)
class RecognitionNetwork:
    """The filters [k,k,in,out] and offsets [out] of its convolutions, and the last matrix [256,128]."""

    filters: tuple[Float[np.ndarray, "_ _ _ _"], ...]
    offsets: tuple[Float[np.ndarray, " _"], ...]
    last: Float[np.ndarray, "256 128"]

    def __call__(self, chips: UInt8[np.ndarray, "B 150 150 3"]) -> FaceFeatures:
        """The features of crops as `face_identity.face_chip` makes them."""
        x = (chips.astype(np.float32) - _MEAN) / 256
        x = np.maximum(self._convolve(0, x, 2), 0)
        x = _pooled(x)
        middle = deep = x
        for index, (_, halves) in enumerate(BLOCKS):
            y = np.maximum(self._convolve(1 + 2 * index, x, 2 if halves else 1), 0)
            y = self._convolve(2 + 2 * index, y)
            x = np.maximum(_added(y, _halved(x) if halves else x), 0)
            middle, deep = x if index == _MIDDLE else middle, x if index == _DEEP else deep
        return FaceFeatures(middle, deep, x.mean((1, 2)) @ self.last)

    def _convolve(self, layer: int, x: np.ndarray, stride: int = 1) -> np.ndarray:
        """Zeros around the picture where the stride is 1, nothing where it is 2: so it was trained."""
        kernel = self.filters[layer]
        side = kernel.shape[0]
        if stride == 1:
            margin = side // 2
            x = np.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
        height, width = ((n - side) // stride + 1 for n in x.shape[1:3])
        columns = np.empty((len(x), height, width, side, side, x.shape[3]), np.float32)
        for i in range(side):
            for j in range(side):
                columns[:, :, :, i, j] = x[:, i : i + stride * height : stride, j : j + stride * width : stride]
        rows = columns.reshape(len(x) * height * width, -1) @ kernel.reshape(-1, kernel.shape[3])
        return (rows + self.offsets[layer]).reshape(len(x), height, width, -1)

    @staticmethod
    def from_tables(tables: Mapping[str, np.ndarray]) -> RecognitionNetwork:
        """From the arrays of the shipped file: `N.weights` (8 bits), `N.scales`, `N.offsets`, and `last`."""
        count = 1 + 2 * len(BLOCKS)
        filters = tuple(tables[f"{i}.weights"].astype(np.float32) * tables[f"{i}.scales"] for i in range(count))
        offsets = tuple(tables[f"{i}.offsets"].astype(np.float32) for i in range(count))
        return RecognitionNetwork(filters, offsets, tables["last"].astype(np.float32))


def load_recognition_network(path: Path | None = None) -> RecognitionNetwork:
    """The shipped weights, or those of another file. Raises AssetError when they cannot be read or are incomplete."""
    path = path or Path(str(resources.files("headrecon") / "data" / TABLE))
    try:
        with np.load(path, allow_pickle=False) as tables:
            return RecognitionNetwork.from_tables(dict(tables))
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise AssetError(f"the face network's file {path} cannot be read ({error}); install headrecon again") from error


def _pooled(x: np.ndarray) -> np.ndarray:
    """The largest of 3 x 3, every second position, nothing beyond the border."""
    height, width = ((n - 3) // 2 + 1 for n in x.shape[1:3])
    parts = (x[:, i : i + 2 * height : 2, j : j + 2 * width : 2] for i in range(3) for j in range(3))
    out = next(parts).copy()
    for part in parts:
        np.maximum(out, part, out=out)
    return out


def _halved(x: np.ndarray) -> np.ndarray:
    """The mean of 2 x 2."""
    height, width = x.shape[1] // 2, x.shape[2] // 2
    return x[:, : 2 * height, : 2 * width].reshape(len(x), height, 2, width, 2, -1).mean((2, 4))


def _added(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """y + x, the smaller of each dimension filled with zeros."""
    sizes = [max(a, b) for a, b in zip(x.shape, y.shape, strict=True)]
    out = np.zeros(sizes, np.float32)
    for part in (x, y):
        out[tuple(slice(n) for n in part.shape)] += part
    return out
