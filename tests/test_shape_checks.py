"""Annotated array shapes are checked while the tests run. If these pass wrongly shaped arrays, the check is dead."""

from __future__ import annotations

import jaxtyping
import numpy as np
import pytest
import torch

from headrecon.structures import HeadParams, triangulate


def test_wrong_rank_is_caught_by_the_annotation() -> None:
    with pytest.raises(jaxtyping.TypeCheckError):
        triangulate(np.zeros((4, 3, 2), dtype=np.int64))


def test_wrong_dtype_is_caught_by_the_annotation() -> None:
    with pytest.raises(jaxtyping.TypeCheckError):
        triangulate(np.zeros((4, 3), dtype=np.float32))


def test_disagreeing_batch_sizes_are_caught_by_the_annotation() -> None:
    with pytest.raises(jaxtyping.TypeCheckError):
        HeadParams(torch.zeros(2, 5), torch.zeros(3, 7), *(torch.zeros(2, 3) for _ in range(6)))


def test_right_shapes_pass() -> None:
    assert HeadParams.zeros(5, 7, batch=2).full_pose.shape == (2, 5, 3)
