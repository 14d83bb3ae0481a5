"""Sparse mixes are the dense products that they stand for, forwards and backwards."""

from __future__ import annotations

import numpy as np
import torch

from headrecon.avatars.gaussian.sparse import mix_of_faces, mix_of_rows


def test_rows_are_weighted_sums_and_gradients_are_the_transpose():
    rng = np.random.default_rng(0)
    columns, weights = rng.integers(0, 7, (5, 3)), rng.random((5, 3))
    dense = np.zeros((5, 7), np.float32)
    np.add.at(dense, (np.arange(5)[:, None], columns), weights)
    values = torch.randn(7, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
    found = mix_of_rows(columns, weights, 7)(values)
    torch.testing.assert_close(found, torch.from_numpy(dense) @ values)
    grad = torch.randn(5, 4, generator=torch.Generator().manual_seed(2))
    found.backward(grad)
    torch.testing.assert_close(values.grad, torch.from_numpy(dense).T @ grad)


def test_vertices_average_their_triangles_by_area():
    triangles = np.array([[0, 1, 2], [1, 3, 2]])
    mix = mix_of_faces(triangles, np.array([1.0, 3.0]), 5)
    found = mix(torch.tensor([[10.0], [20.0]]))
    # By hand: vertices 1 and 2 touch both, (1 * 10 + 3 * 20) / 4; vertex 4 touches none.
    torch.testing.assert_close(found[:, 0], torch.tensor([10.0, 17.5, 17.5, 20.0, 0.0]))
