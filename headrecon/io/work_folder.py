"""The folder in which a long job keeps what it has finished, beside its output, so that a killed run goes on there.

`job.json` says which job it is: another input or other settings start anew. Results come in numbered chunks of arrays,
each written whole or not at all; what is there counts, what is not is computed again. The folder is removed when the
job's output stands.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from headrecon.errors import AssetError, InputError
from headrecon.io.npz import read_npz, write_npz
from headrecon.io.runs import write_json

_JOB = "job.json"
_LOCK = "in-use"


class WorkFolder:
    """Finished parts of one job. Make one with `work_folder`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def save(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Write arrays under a name, whole or not at all. Raises InputError when the disk is full or refuses."""
        with disk_errors(self.path):
            write_npz(self.path / f"{name}.npz", dict(arrays))

    def load(self, name: str) -> dict[str, np.ndarray] | None:
        """Arrays saved under a name; None when there are none, or when they cannot be read (they are made again)."""
        path = self.path / f"{name}.npz"
        if not path.exists():
            return None
        try:
            return read_npz(path)
        except AssetError:
            path.unlink(missing_ok=True)
            return None

    def chunks(self, stage: str) -> Iterator[dict[str, np.ndarray]]:
        """The chunks of a stage from the first on, up to the first that is missing; one in memory at a time."""
        index = 0
        while (chunk := self.load(chunk_name(stage, index))) is not None:
            yield chunk
            index += 1

    def count(self, stage: str) -> int:
        """How many chunks of a stage stand in a row."""
        index = 0
        while (self.path / f"{chunk_name(stage, index)}.npz").exists():
            index += 1
        return index

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


def chunk_name(stage: str, index: int) -> str:
    return f"{stage}-{index:05d}"


def fingerprint(path: Path) -> tuple[int, str]:
    """Size and SHA-256 of both ends (1 MiB each) of a file: enough to tell videos apart; all of it may be gigabytes."""
    size, digest = path.stat().st_size, hashlib.sha256()
    with path.open("rb") as stream:
        digest.update(stream.read(1 << 20))
        stream.seek(max(0, size - (1 << 20)))
        digest.update(stream.read(1 << 20))
    return size, digest.hexdigest()


def work_path(target: str | os.PathLike[str]) -> Path:
    """Where a job with that output folder works: a hidden folder beside it."""
    target = Path(target).expanduser().resolve()
    return target.parent / f".{target.name}.working"


@contextmanager
def work_folder(target: str | os.PathLike[str], job: Mapping[str, Any]) -> Iterator[WorkFolder]:
    """The working folder of a job: as it was left if it is the same job, else empty. It stays until `remove`.

    Raises InputError when it cannot be written, or while another process works in it.
    """
    path = work_path(target)
    with disk_errors(path):
        path.mkdir(parents=True, exist_ok=True)
        lock = open(path / _LOCK, "a")  # noqa: SIM115 (held for as long as the block runs)
    held = False
    try:
        held = _locked(lock)
        if not held:
            raise InputError(f"another run is writing {target} right now ({path}); wait for it or choose another --out")
        if _job_of(path) != json.loads(json.dumps(job)):
            for old in path.iterdir():
                if old.name != _LOCK and old.is_file():
                    old.unlink()
            with disk_errors(path):
                write_json(path / _JOB, job, digits=17)
        for half in path.glob(".*.partial-*"):  # of a run that was killed while writing
            half.unlink(missing_ok=True)
        yield WorkFolder(path)
    finally:
        lock.close()
        # An empty job leaves nothing behind: a video that cannot be used has no work worth keeping. A job of others
        # that has not finished anything yet stays.
        if held and path.is_dir() and not any(p.suffix == ".npz" for p in path.iterdir()):
            shutil.rmtree(path, ignore_errors=True)


def _locked(lock: Any) -> bool:
    """Take the lock, if this system has such locks. It goes with the process, however that ends."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EACCES)
    return True


def _job_of(path: Path) -> Any:
    with suppress(OSError, ValueError):
        return json.loads((path / _JOB).read_text(encoding="utf-8"))
    return None


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Within the block a full disk and other refusals become an InputError that says what to do."""
    try:
        yield
    except InputError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _full(path) from error
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _full(path) from error
        raise InputError(f"cannot write {path}: {error.strerror or error}; choose a folder you may write to") from error


def _full(path: Path) -> InputError:
    where = path if path.is_dir() else path.parent
    free = shutil.disk_usage(where).free // 2**20
    return InputError(
        f"the disk is full ({free} MB left at {os.fspath(where)}); what is finished is kept: free some space and "
        "run the same command again, it goes on where it stopped"
    )
