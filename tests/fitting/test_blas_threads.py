"""The solver's limit on BLAS threads holds within the block only."""

from __future__ import annotations

import pytest

from headrecon.fitting.blas_threads import _libraries, one_blas_thread


def _counts() -> list[int]:
    return [getter() for getter, _ in _libraries()]


def test_one_thread_inside_and_as_before_outside() -> None:
    if not _libraries():
        pytest.skip("this NumPy and SciPy bundle no OpenBLAS, so there is no thread count to set")
    for _, setter in _libraries():
        setter(2)
    before = _counts()
    with one_blas_thread():
        assert set(_counts()) == {1}
    assert _counts() == before
    with pytest.raises(KeyError), one_blas_thread():
        raise KeyError("the count must come back after an error, too")
    assert _counts() == before
