"""The folder a command writes: whole or not at all; with JSON that diffs well, versions and stage timings."""

from __future__ import annotations

import glob
import json
import math
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from headrecon.errors import InputError

#: Every JSON that this project writes at the top of an output folder names its schema with this prefix.
SCHEMA_PREFIX = "headrecon."


@contextmanager
def output_folder(path: str | os.PathLike[str], overwrite: bool = False) -> Iterator[Path]:
    """Yield a staging folder beside `path`; it becomes `path` when the block ends, and vanishes when it raises.

    An existing, non-empty `path` is refused unless `overwrite`; then it is replaced only after success, and only when
    it is a folder of ours (some *.json in it names a `headrecon.` schema), so that `--out ~ --overwrite` cannot delete
    a home. Raises InputError.
    """
    target = Path(path).expanduser().resolve()
    _check_target(target, overwrite)
    made = _make_parents(target)
    staging = target.parent / f".{target.name}.partial-{secrets.token_hex(4)}"
    try:
        staging.mkdir()
    except OSError as error:
        _remove_empty(made)
        raise _unwritable(target, error) from error
    try:
        yield staging
        _swap(staging, target)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        _remove_empty(made)
        raise


def remove_half_written(path: str | os.PathLike[str], first: str) -> None:
    """Remove what killed runs left of `output_folder` beside `path`: staging folders, empty or with the file `first`.

    For callers who know that no other run writes there now, as those who hold its working folder do.
    """
    target = Path(path).expanduser().resolve()
    for staging in target.parent.glob(f".{glob.escape(target.name)}.partial-*"):
        if staging.is_dir() and ((staging / first).exists() or not any(staging.iterdir())):
            shutil.rmtree(staging, ignore_errors=True)


def check_output_folder(path: str | os.PathLike[str], overwrite: bool = False) -> None:
    """Raise the InputError that `output_folder` would raise, before any work is done; leaves nothing behind."""
    target = Path(path).expanduser().resolve()
    _check_target(target, overwrite)
    nearest = next(p for p in (target.parent, *target.parent.parents) if p.exists())
    if not nearest.is_dir():
        raise InputError(f"cannot write {target}: {nearest} is a file, not a folder; choose another --out")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise InputError(f"cannot write {target}: no permission in {nearest}; choose a folder you may write to")


def _check_target(target: Path, overwrite: bool) -> None:
    try:
        if not target.exists():
            return
        if not target.is_dir():
            raise InputError(f"output {target} is a file; expected a folder: choose another --out")
        if not any(target.iterdir()):
            return
    except OSError as error:
        raise _unwritable(target, error) from error
    if not overwrite:
        raise InputError(f"output {target} exists and is not empty; choose another --out, or replace it: --overwrite")
    if not is_output_folder(target):
        raise InputError(
            f"output {target} holds files that headrecon did not write, so --overwrite does not replace it; "
            "choose another --out or empty the folder yourself"
        )


def is_output_folder(path: Path) -> bool:
    """True when some JSON at the top of the folder says that this project wrote it."""
    for file in sorted(path.glob("*.json")):
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(content, dict) and str(content.get("schema", "")).startswith(SCHEMA_PREFIX):
            return True
    return False


def _make_parents(target: Path) -> list[Path]:
    """Create missing parents; those created, innermost first."""
    missing = [p for p in target.parents if not p.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _remove_empty(missing)
        raise _unwritable(target, error) from error
    return missing


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return


def _swap(staging: Path, target: Path) -> None:
    """Two renames: between them, for microseconds, `target` is absent; the old content is never lost."""
    old = target.parent / f".{target.name}.replaced-{secrets.token_hex(4)}"
    try:
        if target.exists():
            target.rename(old)
        try:
            staging.rename(target)
        except OSError:
            if old.exists():
                old.rename(target)
            raise
    except OSError as error:
        raise _unwritable(target, error) from error
    shutil.rmtree(old, ignore_errors=True)


def _unwritable(target: Path, error: OSError) -> InputError:
    return InputError(f"cannot write {target}: {error.strerror or error}; choose a folder you may write to")


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 through a temporary file in the same folder, so that a reader never sees half of it."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.partial-{secrets.token_hex(4)}")
    try:
        temporary.write_text(text, encoding="utf-8", newline="\n")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise _unwritable(path, error) from error


def write_json(path: str | Path, value: Any, digits: int = 9) -> None:
    """Write `format_json(value)`. Raises InputError when the file cannot be written."""
    write_text(path, format_json(value, digits) + "\n")


def format_json(value: Any, digits: int = 9) -> str:
    """JSON in a stable form: keys as given, two spaces, lists of numbers on one line, `digits` significant digits.

    Takes numpy and torch values, paths, tuples and dataclass-free mappings. Raises ValueError for NaN and infinity,
    which JSON does not have.
    """
    return _format(_plain(value), digits, "")


def _plain(value: Any) -> Any:
    if hasattr(value, "detach"):  # a torch tensor, without importing torch
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Path):
        return value.as_posix()
    return value


def _format(value: Any, digits: int, indent: str) -> str:
    deeper = indent + "  "
    value = _plain(value)
    if isinstance(value, Mapping):
        if not value:
            return "{}"
        items = [f"{deeper}{json.dumps(str(k))}: {_format(v, digits, deeper)}" for k, v in value.items()]
        return "{\n" + ",\n".join(items) + f"\n{indent}}}"
    if isinstance(value, list | tuple):
        values = [_plain(v) for v in value]
        if all(isinstance(v, int | float) or v is None for v in values):
            return "[" + ", ".join(_scalar(v, digits) for v in values) + "]"
        return "[\n" + ",\n".join(deeper + _format(v, digits, deeper) for v in values) + f"\n{indent}]"
    return _scalar(value, digits)


def _scalar(value: Any, digits: int) -> str:
    if isinstance(value, bool) or not isinstance(value, float):
        return json.dumps(value, ensure_ascii=False)
    if not math.isfinite(value):
        raise ValueError(f"JSON cannot hold {value}; write null or leave the entry out")
    rounded = float(f"{value:.{digits}g}") + 0.0  # + 0.0 turns -0.0 into 0.0
    return json.dumps(rounded)


def versions() -> dict[str, str]:
    """Versions of what can change a result, read from package metadata without importing anything."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import headrecon

    found = {"headrecon": str(getattr(headrecon, "__version__", "0")), "python": platform.python_version()}
    for package in ("numpy", "scipy", "torch", "ai-edge-litert", "pillow", "pygltflib", "av"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    found["platform"] = f"{platform.system()} {platform.machine()}"
    return found


@dataclass
class Timings:
    """Wall-clock seconds by stage, in the order in which the stages first ran. Stages may run beside each other."""

    seconds: dict[str, float] = field(default_factory=dict)
    _spans: list[tuple[float, float]] = field(default_factory=list)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a block; a stage that runs twice adds up. Counts also when the block raises."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, start)

    def add(self, name: str, start: float) -> None:
        """Count the time from `start` (`time.perf_counter`) until now."""
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - start
        self._spans.append((start, now))

    def total(self) -> float:
        """Seconds in which at least one stage ran."""
        total, until = 0.0, -math.inf
        for start, end in sorted(self._spans):
            total += max(0.0, end - max(start, until))
            until = max(until, end)
        return total

    def as_dict(self) -> dict[str, float]:
        """Seconds by stage, milliseconds kept, with their `total`."""
        rounded = {name: round(value, 3) for name, value in self.seconds.items()}
        return {**rounded, "total": round(self.total(), 3)}
