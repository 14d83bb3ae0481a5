"""Run the command line as a user does, in processes of its own, and measure what it costs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from headrecon.errors import HeadReconError

HELP_OF = ("", "reconstruct", "eval", "models", "licences", "doctor", "bench")


@dataclass(frozen=True)
class TimedRuns:
    """wall_s, cpu_s (all cores together) and first_progress_s: one entry a run, in order; peak_mib: the highest of all.

    stages_s: of the last run. On a busy machine cpu_s says more than wall_s.
    """

    wall_s: list[float]
    cpu_s: list[float]
    first_progress_s: list[float]
    peak_mib: float
    stages_s: dict[str, float]


def sample_portrait(folder: Path) -> Path:
    """scikit-image's public-domain portrait, written as a PNG."""
    import skimage.data
    from PIL import Image

    path = folder / "astronaut.png"
    Image.fromarray(skimage.data.astronaut()).save(path)
    return path


def time_help(repeat: int) -> dict[str, float]:
    """Seconds until `--help` of each command has answered, the best of `repeat`, by command."""
    return {f"headrecon {name}".strip(): min(_one_help(name) for _ in range(repeat)) for name in HELP_OF}


def _one_help(name: str) -> float:
    command = [sys.executable, "-m", "headrecon.cli", *([name] if name else []), "--help"]
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def time_reconstruct(photo: Path, scratch: Path, preset: str, repeat: int, warn: Callable[[str], None]) -> TimedRuns:
    """Run `headrecon reconstruct` `repeat` times. Raises HeadReconError when a run fails, with what it said."""
    import json

    out = scratch / f"out-{preset}"
    command = [sys.executable, "-m", "headrecon.cli", "reconstruct", str(photo), "--out", str(out), "--overwrite"]
    command += ["--preset", preset]
    runs = [_timed_process(command) for _ in range(repeat)]
    head = json.loads((out / "head.json").read_text(encoding="utf-8"))
    for message in head["warnings"]:
        warn(message)
    walls, cpus, firsts, peaks = (list(column) for column in zip(*runs, strict=True))
    return TimedRuns(walls, cpus, firsts, max(peaks), dict(head["timings_s"]))


def _timed_process(command: list[str]) -> tuple[float, float, float, float]:
    """Wall seconds, processor seconds, seconds to the first byte on stderr, and peak resident MiB of one process."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    said = process.stderr.read(1)
    first = time.perf_counter() - start
    said += process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - start
    if process.returncode != 0:
        raise HeadReconError(f"the timed command failed and said: {said.decode(errors='replace').strip()}")
    scale = 1024 if sys.platform != "darwin" else 1024 * 1024  # ru_maxrss is KiB on Linux, bytes on macOS
    return wall, usage.ru_utime + usage.ru_stime, first, usage.ru_maxrss / scale
