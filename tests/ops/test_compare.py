"""The comparer fails when it should: a comparer that cannot fail would hide every wrong kernel."""

from __future__ import annotations

import pytest
import torch

from tests.ops.compare import Bounds, assert_alike, differences

WANT = torch.linspace(-2, 3, 1000)


def test_equal_and_nearly_equal_tensors_pass() -> None:
    assert differences(WANT, WANT) == []
    assert differences(WANT * (1 + 1e-6), WANT) == []
    assert differences(torch.zeros(0, 3), torch.zeros(0, 3)) == []
    assert differences(torch.zeros(5), torch.zeros(5)) == []


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (-WANT, "cosine"),
        (WANT * 1.001, "relative L1"),
        (WANT + 0.01, "relative L2"),
        (WANT[:-1], "shape"),
        (torch.where(torch.arange(1000) == 7, torch.nan, WANT), "finite in one"),
        (torch.where(torch.arange(1000) == 7, torch.inf, WANT), "finite in one"),
        (torch.where(torch.arange(1000) == 7, WANT + 1, WANT), "1 of 1000 elements"),
        (torch.zeros_like(WANT), "relative L1"),
    ],
)
def test_what_differs_is_said(found: torch.Tensor, said: str) -> None:
    assert any(said in problem for problem in differences(found, WANT))
    with pytest.raises(AssertionError, match="gradient of x: .*" + said):
        assert_alike(found, WANT, "gradient of x")


def test_something_where_nothing_should_be_is_noticed() -> None:
    assert differences(torch.full((5,), 1e-3), torch.zeros(5))


def test_one_wrong_sign_in_a_long_vector_is_noticed() -> None:
    flipped = WANT.clone()
    flipped[500] *= -1
    assert abs(float(WANT[500])) > 0.5
    assert differences(flipped, WANT)


def test_the_budget_forgives_as_many_jumps_as_it_says_and_no_more() -> None:
    jumped = WANT.clone()
    jumped[:10] += 100
    assert differences(jumped, WANT, Bounds(budget=0.01)) == []
    jumped[10] += 100
    assert any("11 of 1000" in problem for problem in differences(jumped, WANT, Bounds(budget=0.01)))
    assert any("relative L1" in p for p in differences(jumped + 0.01, WANT, Bounds(budget=0.02))), (
        "the bulk still counts"
    )


def test_none_is_like_none_only() -> None:
    assert_alike(None, None, "gradient")
    with pytest.raises(AssertionError, match="only one of the two"):
        assert_alike(None, WANT, "gradient")
    with pytest.raises(AssertionError, match="only one of the two"):
        assert_alike(WANT, None, "gradient")
