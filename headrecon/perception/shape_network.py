"""A small network on the mesh network's own feature maps: what they say about shape beyond the points it answers with.

The mesh network was trained on photos and turns its features into points with usual faces in mind; its features hold
more than that. This head on top of them was trained on renderings, where the truth is known, while the features stay as
photos made them (scripts/train_face_refiner.py). Plain numpy: 12 x 12 positions do not need more, and a draft
reconstruction imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from headrecon.errors import AssetError
from headrecon.perception.attention_mesh import MeshFeatures

#: Layers: a 3 x 3 (or 1 x 1) convolution each, its stride, and where its input comes from.
_DENSE = ("from_body", "from_summary", "from_points", "hidden", "out", "straight")
_CONVOLUTIONS = ("deep", "middle", "join", "shrink", "block1", "block2")


@dataclass(frozen=True)
class ShapeNetwork:
    """Weights by layer: `NAME.w` [k,k,in,out] or [in,out] and `NAME.b` [out]; batch norms are folded into them."""

    weights: Mapping[str, np.ndarray]

    @staticmethod
    def from_tables(tables: Mapping[str, np.ndarray]) -> ShapeNetwork:
        """From the arrays of the shipped file. Raises AssetError when one is missing or not finite."""
        weights: dict[str, np.ndarray] = {}
        names = [f"{layer}.{kind}" for layer in (*_CONVOLUTIONS, *_DENSE) for kind in "wb"]
        for name in (*names, "deep.mean", "deep.scale", "middle.mean", "middle.scale"):
            if name not in tables or not np.isfinite(tables[name]).all():
                raise AssetError(
                    f"the shape network's weights {name!r} are missing or damaged; install headrecon again"
                )
            weights[name] = tables[name].astype(np.float32)
        return ShapeNetwork(weights)

    def __call__(self, features: MeshFeatures, points: Float[np.ndarray, " M"]) -> Float[np.ndarray, " D"]:
        """The answer for one look. points: the detected points' place along their components, and pose terms."""
        w = self.weights
        deep = _relu(self._convolve("deep", (features.deep - w["deep.mean"]) * w["deep.scale"]))
        middle = _relu(self._convolve("middle", (features.middle - w["middle.mean"]) * w["middle.scale"], stride=2))
        body = _relu(self._convolve("join", np.concatenate([deep, middle], axis=2)))
        body = _relu(self._convolve("shrink", body, stride=2))
        body = _relu(body + self._convolve("block2", _relu(self._convolve("block1", body))))
        row = points.astype(np.float32)
        hidden = self._dense("from_body", body.reshape(-1)) + self._dense("from_summary", features.summary)
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


def _relu(values: np.ndarray) -> np.ndarray:
    return np.maximum(values, 0)
