"""What hash grids and small networks look like: sizes, and where each parameter lies. Data only, no kernels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal

import numpy as np
from torch import Tensor

from headrecon.errors import ShapeError

Activation = Literal["none", "relu", "softplus", "sigmoid", "exp"]
#: HrActivation in activation.h.
ACTIVATIONS: tuple[Activation, ...] = ("none", "relu", "softplus", "sigmoid", "exp")
#: HR_MLP_MAX_WIDTH, HR_MLP_MAX_INPUTS and HR_MLP_MAX_HIDDEN in mlp.h.
MAX_WIDTH, MAX_INPUTS, MAX_HIDDEN = 128, 256, 15
#: HR_HASHGRID_MAX_LEVELS and HR_HASHGRID_MAX_SCALE in hashgrid.h.
MAX_LEVELS, MAX_SCALE = 32, 2.0**24


@dataclass(frozen=True)
class GridLevel:
    """One level: cells per unit, corners along a side, entries, the first of them, and whether corners are hashed."""

    scale: float
    resolution: int
    size: int
    offset: int
    hashed: bool


@dataclass(frozen=True)
class HashGridSpec:
    """A multiresolution hash grid (Müller et al., SIGGRAPH 2022, section 3), laid out as tiny-cuda-nn's `HashGrid`.

    dims: 2 or 3 coordinates. levels: 1 to 32. features: 1, 2, 4 or 8 per entry. A level has at most
    2^log2_table_size entries (3 to 28). base_resolution: corners along a side of the first level; each further level
    has per_level_scale times as many. Raises ShapeError for what lies outside.
    """

    dims: int = 3
    levels: int = 16
    features: int = 2
    log2_table_size: int = 19
    base_resolution: int = 16
    per_level_scale: float = 2.0
    interpolation: Literal["linear", "smoothstep"] = "linear"

    def __post_init__(self) -> None:
        limits = {
            "dims must be 2 or 3": self.dims in (2, 3),
            f"levels must be 1 to {MAX_LEVELS}": 1 <= self.levels <= MAX_LEVELS,
            "features must be 1, 2, 4 or 8": self.features in (1, 2, 4, 8),
            "log2_table_size must be 3 to 28": 3 <= self.log2_table_size <= 28,
            "base_resolution must be at least 1": self.base_resolution >= 1,
            "per_level_scale must be a positive number": 0 < self.per_level_scale < math.inf,
            "interpolation must be linear or smoothstep": self.interpolation in ("linear", "smoothstep"),
        }
        wrong = [rule for rule, kept in limits.items() if not kept]
        if wrong:
            raise ShapeError(f"HashGridSpec: {'; '.join(wrong)}; found {self}")
        steps = np.log2(self.per_level_scale) * (self.levels - 1) + np.log2(self.base_resolution)
        if steps > math.log2(MAX_SCALE):
            raise ShapeError(
                f"HashGridSpec: the finest level would have 2^{steps:.1f} cells a side, at most 2^24 can be told "
                "apart; lower levels, base_resolution or per_level_scale"
            )

    @cached_property
    def level_table(self) -> tuple[GridLevel, ...]:
        """The levels. Scales are worked out in float32, as tiny-cuda-nn does: a last bit can add a row of corners."""
        table, offset = [], 0
        step = np.log2(np.float32(self.per_level_scale))
        for level in range(self.levels):
            scale = np.exp2(np.float32(level) * step) * np.float32(self.base_resolution) - np.float32(1)
            resolution = max(int(np.ceil(scale)), 0) + 1
            wanted = -(-(resolution**self.dims) // 8) * 8
            size = min(wanted, 2**self.log2_table_size)
            table.append(GridLevel(max(float(scale), 0.0), resolution, size, offset, resolution**self.dims > size))
            offset += size
        return tuple(table)

    @property
    def num_entries(self) -> int:
        """Rows of the table: the entries of all levels."""
        return self.level_table[-1].offset + self.level_table[-1].size

    @property
    def num_outputs(self) -> int:
        """Features of all levels."""
        return self.levels * self.features


@dataclass(frozen=True)
class MlpSpec:
    """A small fully connected network: hidden_layers of `width`, then one layer to the outputs.

    Weights are one flat vector: the matrices [outputs, inputs] of the layers, each row by row, first layer first (as
    tiny-cuda-nn, but without its padding: see `unpad_tiny_cuda_nn`). Biases are optional: one flat vector
    [hidden_layers width + outputs]. softplus_beta: softplus is ln(1 + e^(beta z)) / beta (tiny-cuda-nn's has 10).
    Raises ShapeError for sizes beyond 256 inputs, width 128, 128 outputs, 15 hidden layers.
    """

    inputs: int
    outputs: int
    width: int = 64
    hidden_layers: int = 2
    activation: Activation = "relu"
    output_activation: Activation = "none"
    softplus_beta: float = 1.0

    def __post_init__(self) -> None:
        limits = {
            f"inputs must be 1 to {MAX_INPUTS}": 1 <= self.inputs <= MAX_INPUTS,
            f"outputs must be 1 to {MAX_WIDTH}": 1 <= self.outputs <= MAX_WIDTH,
            f"width must be 1 to {MAX_WIDTH}": 1 <= self.width <= MAX_WIDTH,
            f"hidden_layers must be 0 to {MAX_HIDDEN}": 0 <= self.hidden_layers <= MAX_HIDDEN,
            f"activations must be of {', '.join(ACTIVATIONS)}": {self.activation, self.output_activation}
            <= set(ACTIVATIONS),
            "softplus_beta must be a positive number": 0 < self.softplus_beta < math.inf,
        }
        wrong = [rule for rule, kept in limits.items() if not kept]
        if wrong:
            raise ShapeError(f"MlpSpec: {'; '.join(wrong)}; found {self}")

    @property
    def layer_sizes(self) -> list[tuple[int, int]]:
        """(outputs, inputs) of every layer."""
        ends = [self.inputs, *[self.width] * self.hidden_layers, self.outputs]
        return [(after, before) for before, after in pairwise(ends)]

    @property
    def num_weights(self) -> int:
        """Length of the vector of weights."""
        return sum(rows * columns for rows, columns in self.layer_sizes)

    @property
    def num_biases(self) -> int:
        """Length of the vector of biases."""
        return sum(rows for rows, _ in self.layer_sizes)

    def matrices(self, weights: Tensor) -> list[Tensor]:
        """The layers' matrices [outputs, inputs], as views of the flat weights."""
        pieces = weights.split([rows * columns for rows, columns in self.layer_sizes])
        return [piece.view(size) for piece, size in zip(pieces, self.layer_sizes, strict=True)]

    def bias_vectors(self, biases: Tensor) -> list[Tensor]:
        """The layers' biases, as views of the flat vector."""
        return list(biases.split([rows for rows, _ in self.layer_sizes]))

    def unpad_tiny_cuda_nn(self, parameters: Tensor, multiple: int = 16) -> Tensor:
        """Weights of a network of tiny-cuda-nn, whose inputs and outputs are padded to a multiple (16; CutlassMLP: 8).

        parameters: its flat vector, of the network alone. Returns the flat vector of this layout, in its type.
        Raises ShapeError when the length does not fit.
        """
        padded = [-(-self.inputs // multiple) * multiple, *[self.width] * self.hidden_layers]
        padded.append(-(-self.outputs // multiple) * multiple)
        sizes = [(after, before) for before, after in pairwise(padded)]
        expected = sum(rows * columns for rows, columns in sizes)
        if parameters.shape != (expected,):
            raise ShapeError(
                f"unpad_tiny_cuda_nn: {self} has {expected} parameters when padded to {multiple}, "
                f"found {tuple(parameters.shape)}; check the sizes, or pass the network's part of a joint vector"
            )
        pieces = parameters.split([rows * columns for rows, columns in sizes])
        import torch

        kept = [
            piece.view(size)[:rows, :columns].reshape(-1)
            for piece, size, (rows, columns) in zip(pieces, sizes, self.layer_sizes, strict=True)
        ]
        return torch.cat(kept)
