"""Footage on disk: a folder whose pictures are raw `.npy` files, written row by row and mapped when read.

The folder appears whole or not at all. While it is made, rows lie in the working folder beside it (`io.work_folder`),
so that a run that was killed goes on where it stopped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from headrecon.avatars.footage import Footage
from headrecon.errors import AssetError, InputError
from headrecon.io.npz import read_npz, write_npz
from headrecon.io.runs import output_folder, write_json
from headrecon.io.tracks import read_track, write_track
from headrecon.io.work_folder import WorkFolder, disk_errors, work_folder
from headrecon.structures import Track

SCHEMA = "headrecon.footage/1"
_COLOURS, _ALPHAS, _TRACK, _USABLE, _PAGE = "colours.npy", "alphas.npy", "track.npz", "usable.npz", "footage.json"
#: Masks of single frames, while footage is being made.
_MASKS = "masks.npy"
#: Rows are counted as finished in steps of so many: what a kill may cost.
_STEP = 16


class RowFile:
    """An array [T, ...] of bytes in a `.npy` file, written and read a row at a time.

    Written with plain writes: a full disk is an error there, where a mapped file would end the process.
    """

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        self.path, self.shape = path, shape
        self._bytes = int(np.prod(shape[1:]))
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        self._start = self._header()

    def _header(self) -> int:
        """Write the header of the format and make room for all rows."""
        fields = {"descr": "|u1", "fortran_order": False, "shape": self.shape}
        with os.fdopen(os.dup(self._fd), "r+b") as stream:
            stream.seek(0)
            np.lib.format.write_array_header_1_0(stream, fields)
            start = stream.tell()
        whole = start + self.shape[0] * self._bytes
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(self._fd, 0, whole)
        os.ftruncate(self._fd, whole)
        return start

    def __setitem__(self, row: int, values: np.ndarray) -> None:
        if values.dtype != np.uint8 or values.shape != self.shape[1:]:
            raise ValueError(f"a row must be uint8 {self.shape[1:]}, found {values.dtype} {values.shape}")
        data, at = memoryview(np.ascontiguousarray(values).data).cast("B"), self._start + row * self._bytes
        while len(data):  # a write may take only a part
            written = os.pwrite(self._fd, data, at)
            data, at = data[written:], at + written

    def __getitem__(self, row: int) -> np.ndarray:
        data = os.pread(self._fd, self._bytes, self._start + row * self._bytes)
        return np.frombuffer(data, np.uint8).reshape(self.shape[1:])

    def __enter__(self) -> RowFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        os.close(self._fd)


class FootageDraft:
    """Footage in the making: rows of colours, raw masks and alphas, and how far each stage has come."""

    def __init__(self, work: WorkFolder, count: int, size: int) -> None:
        self._work = work
        self.path = work.path
        self.count, self.size = count, size
        with disk_errors(self.path):
            self.colours = RowFile(self.path / _COLOURS, (count, size, size, 3))
            self.alphas = RowFile(self.path / _ALPHAS, (count, size, size))
            self.masks = RowFile(self.path / _MASKS, (count, size, size))

    def rows(self, stage: str, every: int = _STEP) -> Iterator[int]:
        """The rows that a stage has still to do; every so many are counted as done, once the next one is asked for."""
        first = self.done(stage)
        for row in range(first, self.count):
            yield row
            if (row + 1) % every == 0 or row + 1 == self.count:
                self.note(stage, {"rows": np.array(row + 1)})

    def done(self, stage: str) -> int:
        found = self.noted(stage)
        return 0 if found is None else int(found["rows"])

    def remove(self) -> None:
        """Forget what was kept for another run."""
        self._work.remove()

    def note(self, stage: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Keep something small that a stage found."""
        self._work.save(stage, arrays)

    def noted(self, stage: str) -> dict[str, np.ndarray] | None:
        return self._work.load(stage)


@contextmanager
def footage_draft(folder: Path, job: Mapping[str, Any], count: int, size: int) -> Iterator[FootageDraft]:
    """Work on footage that is to lie in `folder`, from where an earlier run with the same job stopped.

    Raises InputError when there is no room, or when another process works there.
    """
    with work_folder(folder, job) as work, disk_errors(work.path):
        draft = FootageDraft(work, count, size)
        with draft.colours, draft.alphas, draft.masks:
            yield draft


def finish(draft: FootageDraft, folder: Path, track: Track, usable: np.ndarray, page: Mapping[str, Any]) -> Footage:
    """Put the finished rows in their place and open them. `page` goes to `footage.json`."""
    with disk_errors(folder.parent), output_folder(folder, overwrite=True) as staging:
        write_track(staging / _TRACK, track)
        write_npz(staging / _USABLE, {"usable": usable})
        for rows in (draft.colours, draft.alphas):
            rows.path.replace(staging / rows.path.name)
        write_json(staging / _PAGE, {"schema": SCHEMA, **page}, digits=17)
    draft.remove()
    return open_footage(folder)


def open_footage(folder: str | Path) -> Footage:
    """Footage that was written before; its pictures are mapped, not read. Raises AssetError for anything else."""
    folder = Path(folder)
    footage_page(folder)
    track = read_track(folder / _TRACK)
    usable = read_npz(folder / _USABLE).get("usable")
    width, height = track.cameras.width, track.cameras.height
    colours = _mapped(folder / _COLOURS, (len(track), height, width, 3))
    alphas = _mapped(folder / _ALPHAS, (len(track), height, width))
    if usable is None or usable.dtype != np.bool_ or usable.shape != (len(track),):
        raise AssetError(f"{folder / _USABLE} is damaged; delete {folder}, it is made again")
    return Footage(track, colours, alphas, usable).validate()


def footage_page(folder: Path) -> dict[str, Any]:
    """What `footage.json` says. Raises AssetError for a folder that holds no footage."""
    try:
        page = json.loads((folder / _PAGE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise AssetError(f"{folder} holds no footage ({error}); expected footage.json") from error
    if not isinstance(page, dict) or page.get("schema") != SCHEMA:
        raise AssetError(f"{folder}: footage of another version; delete the folder, it is made again")
    return page


def _mapped(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise AssetError(f"{path} cannot be read ({error}); delete its folder, it is made again") from error
    if array.dtype != np.uint8 or array.shape != shape:
        raise AssetError(f"{path} must be uint8 {list(shape)}, found {array.dtype} {list(array.shape)}")
    return array


def stored(folder: Path, job: Mapping[str, Any]) -> Footage | None:
    """Footage of this very job if it lies there already. Raises InputError when the folder holds something else."""
    if not (folder / _PAGE).exists():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(f"{folder} holds something else than footage; choose another folder")
        return None
    try:
        page = footage_page(folder)
        return open_footage(folder) if page.get("job") == json.loads(json.dumps(job)) else None
    except AssetError:
        return None  # damaged or of another version: made again
