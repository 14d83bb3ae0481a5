"""Pieces of many texels, worked on by several threads."""

from __future__ import annotations

import threading

import pytest
import torch

from headrecon.appearance.chunks import CHUNK, map_chunks, one_torch_thread


def test_pieces_come_in_order_and_do_not_depend_on_threads() -> None:
    rows = torch.arange(3 * CHUNK + 7)
    with one_torch_thread():
        alone, shared = (map_chunks(lambda r: r * 2, rows, threads) for threads in (1, 2))
    assert [len(r) for r in alone] == [CHUNK, CHUNK, CHUNK, 7]
    assert all(torch.equal(a, b) for a, b in zip(alone, shared, strict=True))
    assert torch.equal(torch.cat(shared), 2 * rows)


def test_pieces_are_worked_on_at_the_same_time() -> None:
    """Two pieces that wait for each other only finish on two threads."""
    meeting = threading.Barrier(2, timeout=20)
    with one_torch_thread():
        assert len(map_chunks(lambda r: meeting.wait(), torch.arange(2 * CHUNK), 2)) == 2


def test_pieces_keep_no_gradients_and_raise_what_happens() -> None:
    value = torch.ones(1, requires_grad=True)

    def fail(rows: torch.Tensor) -> None:
        raise ValueError(f"{len(rows)} rows")

    with one_torch_thread(), torch.no_grad():
        assert not any(made.requires_grad for made in map_chunks(lambda r: value * 2, torch.arange(2 * CHUNK), 2))
        with pytest.raises(ValueError, match=f"{CHUNK} rows"):
            map_chunks(fail, torch.arange(2 * CHUNK), 2)
    assert map_chunks(fail, torch.arange(0), 2) == []


def test_torch_gets_its_threads_back() -> None:
    before = torch.get_num_threads()
    inside = []

    def fail() -> None:
        with one_torch_thread() as count:
            inside.extend([count, torch.get_num_threads()])
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert inside == [before, 1]
    assert torch.get_num_threads() == before
