"""Which cases there are, and choosing among them."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence

from headrecon.benchmarks.cases import Case
from headrecon.errors import InputError

#: Modules with `CASES`, in the order in which they are run.
FAMILIES = (
    "headrecon.benchmarks.mesh_cases",
    "headrecon.benchmarks.splat_cases",
    "headrecon.benchmarks.isosurface_cases",
    "headrecon.benchmarks.field_cases",
    "headrecon.benchmarks.ssim_cases",
    "headrecon.benchmarks.volume_cases",
    "headrecon.benchmarks.rendering_cases",
    "headrecon.benchmarks.fitting_cases",
    "headrecon.benchmarks.video_cases",
    "headrecon.benchmarks.avatar_cases",
)


def load_cases(families: Iterable[str] = FAMILIES) -> tuple[list[Case], list[str]]:
    """Every case, and a sentence for each family that could not be imported for want of another package."""
    cases: list[Case] = []
    missing: list[str] = []
    for family in families:
        try:
            cases.extend(importlib.import_module(family).CASES)
        except ImportError as error:
            if (error.name or "headrecon").split(".")[0] == "headrecon":
                raise
            missing.append(f"{family.rsplit('.', 1)[-1]}: needs {error.name}")
    seen: set[tuple[str, str]] = set()
    for case in cases:
        if (case.op, case.work) in seen:
            raise ValueError(f"two benchmarks are called {case.op!r}, {case.work!r}; baselines need to tell them apart")
        seen.add((case.op, case.work))
    return cases, missing


def choose(cases: Sequence[Case], names: Sequence[str], device: str, small: bool = False) -> list[Case]:
    """The cases for a device whose op or work contains one of the names (all when there are none).

    small: only small cases; otherwise only the others. Raises InputError for a name that nothing goes by.
    """
    for name in names:
        if not any(name in f"{c.op}, {c.work}" for c in cases):
            known = ", ".join(sorted({c.op for c in cases}))
            raise InputError(f"no benchmark is called {name!r}; there are: {known}")
    return [
        c
        for c in cases
        if device in c.devices and c.small == small and (not names or any(n in f"{c.op}, {c.work}" for n in names))
    ]
