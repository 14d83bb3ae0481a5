"""Footage on disk: written row by row, gone on with after a kill, opened without being read."""

from __future__ import annotations

import errno
import os

import numpy as np
import pytest

from headrecon.avatars.footage_store import SCHEMA, finish, footage_draft, footage_page, open_footage, stored
from headrecon.errors import AssetError, InputError
from headrecon.structures import Cameras, HeadParams, Track

COUNT, SIZE = 21, 8


def a_track(count: int = COUNT, size: int = SIZE) -> Track:
    zeros = {
        name: np.zeros((count, 3)) for name in ("global_orient", "neck_pose", "jaw_pose", "leye_pose", "reye_pose")
    }
    params = HeadParams(
        betas=np.zeros((count, 2)), expression=np.zeros((count, 1)), transl=np.zeros((count, 3)), **zeros
    )
    k = np.array([[10.0, 0, size / 2], [0, 10.0, size / 2], [0, 0, 1]])
    cameras = Cameras(np.tile(np.eye(4), (count, 1, 1)), np.tile(k, (count, 1, 1)), size, size)
    return Track("anny", ("jawOpen",), params, cameras, np.arange(count), np.arange(count) / 25, np.ones(count))


def rows(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8), rng.integers(0, 256, (SIZE, SIZE), np.uint8)


def make(folder, job, stop_after=None):
    drawn = []
    with footage_draft(folder, job, COUNT, SIZE) as draft:
        for row in draft.rows("drawn"):
            if stop_after is not None and len(drawn) == stop_after:
                raise KeyboardInterrupt
            drawn.append(row)
            draft.colours[row], draft.alphas[row] = rows(row)
        footage = finish(draft, folder, a_track(), np.arange(COUNT) % 2 == 0, {"job": job})
    return footage, drawn


def test_what_was_written_is_read_back_and_mapped(tmp_path):
    folder = tmp_path / "footage"
    footage, _ = make(folder, {"seed": 1})
    for row in range(COUNT):
        colours, alphas = rows(row)
        assert (footage.colours_srgb[row] == colours).all() and (footage.alphas[row] == alphas).all()
    assert isinstance(open_footage(folder).colours_srgb, np.memmap)
    assert footage.usable.sum() == 11 and footage_page(folder)["schema"] == SCHEMA
    assert sorted(os.listdir(tmp_path)) == ["footage"]  # nothing is left of the work


def test_a_killed_run_goes_on_and_ends_the_same(tmp_path):
    folder = tmp_path / "footage"
    with pytest.raises(KeyboardInterrupt):
        make(folder, {"seed": 1}, stop_after=18)
    assert not folder.exists()
    footage, drawn = make(folder, {"seed": 1})
    assert drawn[0] == 16  # whole steps are kept
    for row in range(COUNT):
        assert (footage.colours_srgb[row] == rows(row)[0]).all()


def test_another_job_starts_anew(tmp_path):
    folder = tmp_path / "footage"
    with pytest.raises(KeyboardInterrupt):
        make(folder, {"seed": 1}, stop_after=18)
    assert make(folder, {"seed": 2})[1] == list(range(COUNT))
    assert stored(folder, {"seed": 2}) is not None and stored(folder, {"seed": 1}) is None


def test_a_full_disk_is_told(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(InputError, match="disk is full"):
        make(tmp_path / "footage", {})


def test_damaged_footage_is_made_again_and_never_trusted(tmp_path):
    folder = tmp_path / "footage"
    make(folder, {"seed": 1})
    (folder / "colours.npy").write_bytes((folder / "colours.npy").read_bytes()[:-10])
    assert stored(folder, {"seed": 1}) is None
    with pytest.raises(AssetError, match="colours"):
        open_footage(folder)


def test_a_folder_with_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("dear to somebody")
    with pytest.raises(InputError, match="something else"):
        stored(tmp_path, {})
