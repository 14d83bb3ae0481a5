"""Printing for people: tables, warnings, and progress that suits a terminal or a log file."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any


def table(rows: Sequence[Sequence[str]], header: Sequence[str]) -> str:
    """Aligned columns with a rule under the header; the last column is left as long as it is."""
    lines = [list(header), *[list(row) for row in rows]]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def warn(message: str) -> None:
    """A warning on stderr, where it does not mix with results."""
    print(f"warning: {message}", file=sys.stderr)


class Progress:
    """A callback `(stage, fraction)` that shows a bar with ETA on a terminal and plain lines elsewhere, on stderr.

    `first` is printed at once, before anything slow is imported.
    """

    def __init__(self, first: str) -> None:
        self._start = time.monotonic()
        self._stage: str | None = None
        self._done = 0.0
        self._bar: Any = None
        self._task: Any = None
        print(first, file=sys.stderr, flush=True)

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            self._bar, self._task = _terminal_bar()
            self._bar.start()
        return self

    def __call__(self, stage: str, fraction: float) -> None:
        """Say what is going on; `fraction` is how much of the whole is done, 0 to 1."""
        fraction = self._done = min(
            max(fraction, self._done), 1.0
        )  # a stage with steps of its own may start at 0 again
        if self._bar is not None:
            self._bar.update(self._task, completed=fraction, description=stage)
        elif stage != self._stage:
            print(f"[{100 * fraction:3.0f} %  {self.seconds:5.1f} s] {stage}", file=sys.stderr, flush=True)
        self._stage = stage

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


def _terminal_bar() -> tuple[Any, Any]:
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    bar = Bar(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    return bar, bar.add_task("starting", total=1.0)
