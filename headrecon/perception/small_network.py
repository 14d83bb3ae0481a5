"""A small convolutional network in numpy: convolutions as matrix products, nothing else.

Our own network has a million weights and runs once per face; a second inference runtime, or torch for the draft preset,
would cost more to load than it takes to run. Batch normalisation is folded into the weights when they are exported.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from headrecon.errors import AssetError


def convolve(
    image: Float[np.ndarray, "B H W C"],
    weight: Float[np.ndarray, "k k C O"],
    bias: Float[np.ndarray, " O"],
    stride: int,
) -> Float[np.ndarray, "B h w O"]:
    """Zero-padded convolution ("same" at stride 1); h = ceil(H / stride)."""
    size = weight.shape[0]
    pad = size // 2
    padded = np.pad(image, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(1, 2))[:, ::stride, ::stride]
    batch, height, width = windows.shape[:3]
    # [B,h,w,C,k,k] against [C,k,k,O]
    flat = windows.reshape(batch * height * width, -1) @ weight.transpose(2, 0, 1, 3).reshape(-1, weight.shape[3])
    return (flat + bias).reshape(batch, height, width, -1)


class FaceRegressor:
    """A picture and a vector to a vector: strided convolutions with residual blocks, two fully connected layers, and a
    linear path past all of them.

    tables: `stem`, `down<i>`, `block<i>.<j>a`, `block<i>.<j>b`, `picture`, `vector`, `joint`, `out` and `linear`, each
    as `<name>/weight` and `<name>/bias`. Raises AssetError when one is missing.
    """

    def __init__(self, tables: Mapping[str, np.ndarray]) -> None:
        self._tables = {name: np.asarray(value, np.float32) for name, value in tables.items()}
        for name in ("stem", "picture", "vector", "joint", "out", "linear"):
            self._layer(name)
        self.vector_size = self._tables["vector/weight"].shape[0]

    def __call__(
        self, images: Float[np.ndarray, "B H W 3"], vectors: Float[np.ndarray, "B N"]
    ) -> Float[np.ndarray, "B M"]:
        x = np.maximum(convolve(images, *self._layer("stem"), stride=2), 0.0)
        level = 0
        while f"down{level}/weight" in self._tables:
            x = np.maximum(convolve(x, *self._layer(f"down{level}"), stride=2), 0.0)
            block = 0
            while f"block{level}.{block}a/weight" in self._tables:
                y = np.maximum(convolve(x, *self._layer(f"block{level}.{block}a"), stride=1), 0.0)
                x = np.maximum(x + convolve(y, *self._layer(f"block{level}.{block}b"), stride=1), 0.0)
                block += 1
            level += 1
        seen = np.maximum(self._dense("picture", x.reshape(len(x), -1)), 0.0)
        known = np.maximum(self._dense("vector", vectors), 0.0)
        joint = np.maximum(self._dense("joint", np.concatenate([seen, known], axis=1)), 0.0)
        return self._dense("out", joint) + self._dense("linear", vectors)

    def _layer(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        try:
            return self._tables[f"{name}/weight"], self._tables[f"{name}/bias"]
        except KeyError as error:
            raise AssetError(f"the network table lacks {error}; reinstall headrecon") from error

    def _dense(self, name: str, values: np.ndarray) -> np.ndarray:
        weight, bias = self._layer(name)
        return values @ weight + bias
