"""Small networks on the feature maps of others: what those say about shape beyond the answers that they give.

Two networks that were trained on photos look at a face: MediaPipe's mesh network turns its features into points with
usual faces in mind, dlib's recognition network turns them into who it is. Their features hold more than that. A small
head on top of each was trained on renderings, where the truth is known, while the features stay as photos made them
(scripts/train_face_refiner.py). Plain numpy: 12 x 12 positions do not need more, and a draft imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import numpy as np
from jaxtyping import Float

from headrecon.errors import AssetError
from headrecon.perception.attention_mesh import MeshFeatures

#: The maps that a head takes: what is subtracted from each channel and by what it is multiplied.
_MAPS = ("deep.mean", "deep.scale", "middle.mean", "middle.scale")


@dataclass(frozen=True)
class _Head:
    """Weights by layer: `NAME.w` [k,k,in,out] or [in,out] and `NAME.b` [out]; batch norms are folded into them."""

    weights: Mapping[str, np.ndarray]

    layers: ClassVar[tuple[str, ...]] = ()

    def _normed(self, name: str, picture: np.ndarray) -> np.ndarray:
        return (picture - self.weights[f"{name}.mean"]) * self.weights[f"{name}.scale"]

    def _answer(self, hidden: np.ndarray, points: np.ndarray) -> Float[np.ndarray, " D"]:
        """The dense layers, the same in all heads; what is linear in the points goes past them."""
        row = points.astype(np.float32)
        hidden = _relu(self._dense("hidden", _relu(hidden + self._dense("from_points", row))))
        return (self._dense("out", hidden) + self._dense("straight", row)).astype(np.float64)

    def _dense(self, layer: str, values: np.ndarray) -> np.ndarray:
        return values @ self.weights[f"{layer}.w"] + self.weights[f"{layer}.b"]

    def _convolve(self, layer: str, picture: np.ndarray, stride: int = 1) -> np.ndarray:
        """Convolution of [H,W,C] with zeros around it."""
        kernel, bias = self.weights[f"{layer}.w"], self.weights[f"{layer}.b"]
        side, margin = kernel.shape[0], kernel.shape[0] // 2
        padded = np.pad(picture, ((margin, margin), (margin, margin), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side), axis=(0, 1))[::stride, ::stride]
        rows = windows.transpose(0, 1, 3, 4, 2).reshape(windows.shape[0] * windows.shape[1], -1)
        return (rows @ kernel.reshape(-1, kernel.shape[3]) + bias).reshape(*windows.shape[:2], -1)


class MeshHead(_Head):
    """On the features of MediaPipe's mesh network."""

    layers = (
        "deep", "middle", "join", "shrink", "block1", "block2",
        "from_body", "from_summary", "from_points", "hidden", "out", "straight",
    )  # fmt: skip

    def __call__(self, features: MeshFeatures, points: Float[np.ndarray, " M"]) -> Float[np.ndarray, " D"]:
        """The answer for one look. points: the detected points' place along their components, and pose terms."""
        deep = _relu(self._convolve("deep", self._normed("deep", features.deep)))
        middle = _relu(self._convolve("middle", self._normed("middle", features.middle), stride=2))
        body = _relu(self._convolve("join", np.concatenate([deep, middle], axis=2)))
        body = _relu(self._convolve("shrink", body, stride=2))
        body = _relu(body + self._convolve("block2", _relu(self._convolve("block1", body))))
        hidden = self._dense("from_body", body.reshape(-1)) + self._dense("from_summary", features.summary)
        return self._answer(hidden, points)


class RecognitionHead(_Head):
    """On two maps of the recognition network: middle [8,8,128] and deep [4,4,256] of one face."""

    layers = ("deep", "middle", "join", "from_body", "from_points", "hidden", "out", "straight")

    def __call__(
        self, features: tuple[np.ndarray, np.ndarray], points: Float[np.ndarray, " M"]
    ) -> Float[np.ndarray, " D"]:
        """The answer for one look. points: as for `MeshHead`."""
        middle = _relu(self._convolve("middle", self._normed("middle", features[0]), stride=2))
        deep = _relu(self._convolve("deep", self._normed("deep", features[1])))
        body = _relu(self._convolve("join", np.concatenate([deep, middle], axis=2)))
        return self._answer(self._dense("from_body", body.reshape(-1)), points)


_SomeHead = TypeVar("_SomeHead", MeshHead, RecognitionHead)


def head_from_tables(kind: type[_SomeHead], tables: Mapping[str, np.ndarray], prefix: str) -> _SomeHead:
    """A head from the arrays of the shipped file whose names start with the prefix.

    Raises AssetError when one is missing or not finite.
    """
    weights: dict[str, np.ndarray] = {}
    for name in (*(f"{layer}.{part}" for layer in kind.layers for part in "wb"), *_MAPS):
        if prefix + name not in tables or not np.isfinite(tables[prefix + name]).all():
            raise AssetError(
                f"the shape network's weights {prefix + name!r} are missing or damaged; install headrecon again"
            )
        weights[name] = tables[prefix + name].astype(np.float32)
    return kind(weights)


def _relu(values: np.ndarray) -> np.ndarray:
    return np.maximum(values, 0)
