"""The solver's limit on BLAS threads holds within the block only."""

from __future__ import annotations

from typing import Any

import pytest
import scipy.linalg  # noqa: F401 - SciPy's OpenBLAS has to be loaded, or there is nothing to set

from headrecon.fitting.blas_threads import _libraries, one_blas_thread


def _all() -> list[tuple[Any, Any]]:
    return [*_libraries("numpy"), *_libraries("scipy")]


def _counts() -> list[int]:
    return [getter() for getter, _ in _all()]


def test_one_thread_inside_and_as_before_outside() -> None:
    if not _all():
        pytest.skip("this NumPy and SciPy bundle no OpenBLAS, so there is no thread count to set")
    for _, setter in _all():
        setter(2)
    before = _counts()
    with one_blas_thread():
        assert set(_counts()) == {1}
    assert _counts() == before
    with pytest.raises(KeyError), one_blas_thread():
        raise KeyError("the count must come back after an error, too")
    assert _counts() == before
