"""Which kind of machine this is, and the times that were committed for its kind."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from headrecon.benchmarks.measure import Row


@dataclass(frozen=True)
class Machine:
    """kind names the baseline: processor or GPU, cores in use and instruction set. load: of the last minute."""

    kind: str
    name: str
    threads: int
    isa: str
    torch: str
    python: str
    load: float


def this_machine(device: str) -> Machine:
    """Of this process on this machine."""
    import torch

    from headrecon.ops import _native

    isa, threads = _native.describe()["isa_in_use"] or "reference", _native.num_threads()
    if device == "cuda":
        name = torch.cuda.get_device_name(0)
        kind = _slug(name)
    else:
        name = _processor()
        kind = f"{_slug(name)}-{threads}-threads-{_slug(isa)}"
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return Machine(kind, name, threads, isa, torch.__version__, platform.python_version(), load)


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(errors="replace"), re.MULTILINE)
        if found:
            return found.group(1).strip()
    return platform.processor() or platform.machine()


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"\((r|tm)\)", "", name.lower())).strip("-")


def report(machine: Machine, rows: Sequence[Row]) -> dict[str, Any]:
    """What `--json` and baselines hold."""
    return {"machine": asdict(machine), "rows": {row.key: asdict(row) for row in rows}}


def baseline_path(machine: Machine) -> Path:
    """Where the baseline of this kind of machine is, or would be."""
    return Path(str(resources.files("headrecon.benchmarks"))) / "baselines" / f"{machine.kind}.json"


def baseline(machine: Machine) -> dict[str, Any]:
    """The committed report of this kind of machine; empty when there is none."""
    path = baseline_path(machine)
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def baseline_ms(committed: dict[str, Any], row: Row) -> float | None:
    """What the row took when the baseline was made."""
    timing = committed.get("rows", {}).get(row.key, {}).get("timing")
    return timing["median_ms"] if timing else None


def merged(committed: dict[str, Any], measured: dict[str, Any]) -> dict[str, Any]:
    """The new baseline: what was measured now replaces what was committed, row by row."""
    rows = {**committed.get("rows", {}), **{k: r for k, r in measured["rows"].items() if r["timing"]}}
    return {"machine": measured["machine"], "rows": rows}
