"""Constant sparse matrices as differentiable functions: mixes of vertices for triangles and Gaussians.

Both directions are kept as rows, so that the backward pass is a product too: no scattered additions, whose order (and
so whose last bits) would depend on the number of threads.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import scipy.sparse
import torch
from jaxtyping import Float, Int
from torch import Tensor


class SparseMix:
    """Rows of the result are weighted sums of rows of the argument: [V,D] -> [N,D], differentiable in the argument."""

    def __init__(self, matrix: scipy.sparse.csr_matrix, device: str | torch.device = "cpu") -> None:
        self.shape = matrix.shape
        self._forward = _tensor(matrix, device)
        self._backward = _tensor(matrix.T.tocsr(), device)

    def __call__(self, values: Float[Tensor, "V D"]) -> Float[Tensor, "N D"]:
        return _Mix.apply(values, self._forward, self._backward)  # type: ignore[return-value]


class _Mix(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, forward: Tensor, backward: Tensor) -> Tensor:
        ctx.matrix = backward
        return forward @ values

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None, None]:
        return ctx.matrix @ grads[0].contiguous(), None, None


def _tensor(matrix: scipy.sparse.csr_matrix, device: str | torch.device) -> Tensor:
    matrix = scipy.sparse.csr_matrix(matrix)
    with warnings.catch_warnings():  # torch says once that this layout is young; products with it are all we ask
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta", category=UserWarning)
        return torch.sparse_csr_tensor(
            torch.from_numpy(matrix.indptr.astype(np.int64)),
            torch.from_numpy(matrix.indices.astype(np.int64)),
            torch.from_numpy(matrix.data.astype(np.float32)),
            matrix.shape,
            device=device,
            check_invariants=False,
        )


def mix_of_rows(
    columns: Int[np.ndarray, "N K"], weights: Float[np.ndarray, "N K"], count: int, device: str | torch.device = "cpu"
) -> SparseMix:
    """Row n is the sum of weights[n,k] times row columns[n,k] of `count`."""
    n, k = columns.shape
    rows = np.repeat(np.arange(n), k)
    matrix = scipy.sparse.csr_matrix((weights.ravel(), (rows, columns.ravel())), (n, count))
    return SparseMix(matrix, device)


def mix_of_faces(
    triangles: Int[np.ndarray, "T 3"], areas: Float[np.ndarray, " T"], count: int, device: str | torch.device = "cpu"
) -> SparseMix:
    """For each of `count` vertices the mean of a value of the triangles around it, weighted by these areas."""
    columns = np.repeat(np.arange(len(triangles)), 3)
    total = np.bincount(triangles.ravel(), np.repeat(areas, 3), count)
    weights = np.repeat(areas, 3) / np.maximum(total, 1e-30)[triangles.ravel()]
    matrix = scipy.sparse.csr_matrix((weights, (triangles.ravel(), columns)), (count, len(triangles)))
    return SparseMix(matrix, device)
