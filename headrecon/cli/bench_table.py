"""The table of `headrecon bench`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from headrecon.benchmarks.machine import Machine, baseline_ms
from headrecon.benchmarks.measure import Row
from headrecon.cli.console import table

_BUSY = 0.5  # load above which other work disturbs the figures


def print_row(row: Row) -> None:
    """Progress, on stderr: one line as soon as a case is done."""
    said = (
        row.failed
        or row.skipped
        or (f"{row.timing.median_ms:.3g} ms" if row.timing else f"differs by {row.disagreement:.2g}")
    )
    print(f"{row.key}: {said}", file=sys.stderr, flush=True)


def lines(machine: Machine, rows: Sequence[Row], committed: dict[str, Any]) -> list[str]:
    """The table and what has to be said with it."""
    said = [f"\n{machine.name}: {machine.threads} threads, {machine.isa}, torch {machine.torch}"]
    if machine.load > machine.threads + _BUSY:
        said.append(f"The machine is busy (load {machine.load:.1f}): these times are too long.")
    timed = [row for row in rows if row.timing]
    on_gpu = any(row.cpu_ms is not None for row in rows)
    header = ["op", "work", "median ms", "best", *(["call", "CPU", "differs by"] if on_gpu else ["cores"])]
    if timed:
        said.append(table([_cells(row, committed, on_gpu) for row in timed], [*header, "goal", "baseline", "peers"]))
    checked = [
        (r.op, r.work, f"{r.disagreement or 0:.2g}") for r in rows if not r.timing and not r.skipped and not r.failed
    ]
    if checked:
        said.append(table(checked, ("op", "work", "differs by")))
    said += [f"failed: {row.key}: {row.failed}" for row in rows if row.failed]
    said += [f"GPU and CPU disagree: {row.key}" for row in rows if not row.agrees and not row.failed]
    said += [f"not run: {row.key}: {row.skipped}" for row in rows if row.skipped]
    said += sorted({f"peer not run: {p.name} ({row.op}): {p.skipped}" for row in rows for p in row.peers if p.skipped})
    if timed:
        kind = f"this kind of machine ({machine.kind})"
        said.append(
            "baseline: this run's median over the committed one's. peers: theirs, and theirs over ours."
            if committed
            else f"No baseline is committed for {kind}; --update-baseline writes one."
        )
    return said


def _cells(row: Row, committed: dict[str, Any], on_gpu: bool) -> list[str]:
    assert row.timing is not None
    t = row.timing
    cells = [row.op, row.work, _ms(t.median_ms), _ms(t.best_ms)]
    if on_gpu:
        gap = "" if row.disagreement is None else f"{row.disagreement:.1g}"
        cells += [_ms(t.call_ms), _ms(row.cpu_ms), gap]
    else:
        cells.append(f"{t.processor_ms / t.best_ms:.1f}" if t.best_ms else "")
    before = baseline_ms(committed, row)
    peers = ", ".join(
        f"{p.name} {_ms(p.median_ms)} ({p.median_ms / t.median_ms:.3g} x)" for p in row.peers if p.median_ms is not None
    )
    goal = "" if row.goal_ms is None or on_gpu else f"{row.goal_ms:g}{'' if t.median_ms <= row.goal_ms else ' missed'}"
    return [*cells, goal, "" if before is None else f"{t.median_ms / before:.2f} x", peers]


def _ms(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 10 else f"{value:.1f}"
