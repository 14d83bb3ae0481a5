"""The native library under threads and forks: calls from anywhere give the same answer and never hang."""

from __future__ import annotations

import multiprocessing
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from headrecon.errors import NativeMissing
from headrecon.ops import _native
from tests.ops.meshes import random_soup

SIZE, CLIP = (64, 80), (0.005, float("inf"), False)


def draw() -> torch.Tensor:
    points, faces = random_soup(torch.Generator().manual_seed(0), 300, 3000, SIZE)
    return _native.rasterize(points, faces, SIZE, CLIP)[0]


@pytest.mark.native
def test_calls_from_many_threads_at_once() -> None:
    expected = draw()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: draw(), range(40)))
    assert all(torch.equal(expected, one) for one in found)


def _draw_in_child(connection) -> None:
    connection.send(draw().sum().item())


@pytest.mark.native
@pytest.mark.skipif(sys.platform != "linux", reason="forking with threads around is a habit of Linux data loaders only")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_gets_its_own_threads() -> None:
    """Data loaders fork; the pool's threads do not come along, and waiting for them would hang forever."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        expected = draw().sum().item()
        ours, theirs = multiprocessing.get_context("fork").Pipe()
        child = multiprocessing.get_context("fork").Process(target=_draw_in_child, args=(theirs,))
        child.start()
        assert ours.poll(30), "the child hangs"
        assert ours.recv() == expected
        child.join(10)
    finally:
        torch.set_num_threads(before)


def test_without_the_library_everything_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setattr(_native, "library_path", lambda: tmp_path / "libabsent.so")
    _native._load.cache_clear()
    try:
        assert not _native.available()
        report = _native.describe()
        assert report["built"] is False and _native.BUILD_COMMAND in report["hint"]
        with pytest.raises(NativeMissing, match=r"libabsent\.so does not exist.*build_ext"):
            _native.library()
        (tmp_path / "libabsent.so").write_text("not a library")
        _native._load.cache_clear()
        assert "does not load" in _native.describe()["hint"]
    finally:
        _native._load.cache_clear()
