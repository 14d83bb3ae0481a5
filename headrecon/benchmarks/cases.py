"""What there is to time: cases, prepared on a device, and the peers to compare with."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

#: One call of what is timed. What it returns (tensors, or tuples or lists of them) is compared between devices.
Work = Callable[[], Any]


@dataclass(frozen=True)
class Peer:
    """Another implementation of the same work. run is None where it is not installed; absent then says why."""

    name: str
    run: Work | None
    absent: str = ""


@dataclass(frozen=True)
class Prepared:
    """A case with its inputs made, ready to run again and again."""

    run: Work
    peers: tuple[Peer, ...] = ()


@dataclass(frozen=True)
class Case:
    """One line of the table.

    op: what `headrecon bench OP` finds it by. work: how much of what. prepare: from a device ("cpu", "cuda") to work;
    raises HeadReconError when something that it needs is not here. goal_ms: on two AVX-512 cores. tolerance: most that
    a GPU's results may differ from the CPU's (`measure.disagreement`): sums in another order, and another log2 and pow,
    account for 1e-4. small: quick enough to run under memory checkers, and timed only when asked for.
    """

    op: str
    work: str
    prepare: Callable[[str], Prepared]
    goal_ms: float | None = None
    devices: tuple[str, ...] = ("cpu", "cuda")
    tolerance: float = 1e-3
    small: bool = False


def peer(name: str, package: str, make: Callable[[Any], Work], install: str = "") -> Peer:
    """A peer that lives in another package: `make` gets the imported package and returns the work.

    install: what to run to get it; by default `pip install <package>`.
    """
    try:
        module = importlib.import_module(package)
    except ImportError as error:
        # A package that is there and does not load says why; one that is absent has nothing to add.
        top = package.split(".", maxsplit=1)[0]
        why = "not installed" if (error.name or "").split(".")[0] == top else str(error)
        return Peer(name, None, f"{why}; {install or 'pip install ' + top}")
    return Peer(name, make(module))
