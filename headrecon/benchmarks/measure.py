"""Runs cases: each becomes a row with its times, its peers' times, and how far a GPU's results are from the CPU's."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from headrecon.benchmarks.cases import Case, Prepared, Work
from headrecon.benchmarks.timing import Timing, time_on_cpu, time_on_cuda
from headrecon.errors import HeadReconError, NativeMissing


@dataclass(frozen=True)
class PeerRow:
    """A peer's time in the same session, or why there is none."""

    name: str
    median_ms: float | None
    skipped: str = ""


@dataclass(frozen=True)
class Row:
    """One line of the table. What was not measured is None; skipped says why nothing was.

    cpu_ms and disagreement: of a GPU's row, the CPU's time and the difference of the results. failed: what the op
    raised, and where; the cases after it are run all the same.
    """

    op: str
    work: str
    timing: Timing | None = None
    peers: tuple[PeerRow, ...] = ()
    goal_ms: float | None = None
    cpu_ms: float | None = None
    disagreement: float | None = None
    agrees: bool = True
    skipped: str = ""
    failed: str = ""

    @property
    def key(self) -> str:
        """What baselines know it by."""
        return f"{self.op}, {self.work}"


@dataclass(frozen=True)
class Plan:
    """How to measure. seconds: spent on each figure. check_only: compare a GPU with the CPU and time nothing."""

    device: str = "cpu"
    seconds: float = 1.0
    peers: bool = True
    check_only: bool = False


def measure(cases: Sequence[Case], plan: Plan, tell: Callable[[Row], None]) -> list[Row]:
    """A row for each case, told as soon as it is there. Raises NativeMissing where the device cannot be used."""
    need_device(plan.device)
    rows = []
    with _own_stream(plan.device):
        for case in cases:
            row = _one(case, plan)
            rows.append(row)
            tell(row)
    return rows


def _one(case: Case, plan: Plan) -> Row:
    try:
        prepared = case.prepare(plan.device)
        on_cpu = case.prepare("cpu") if plan.device == "cuda" else None
    except HeadReconError as error:
        return Row(case.op, case.work, goal_ms=case.goal_ms, skipped=str(error))
    except Exception as error:  # noqa: BLE001 - one op's failure must not cost the figures of the others
        return Row(case.op, case.work, goal_ms=case.goal_ms, agrees=False, failed=_told(error))
    try:
        return _run(case, plan, prepared, on_cpu)
    except Exception as error:  # noqa: BLE001 - the same
        return Row(case.op, case.work, goal_ms=case.goal_ms, agrees=False, failed=_told(error))


def _told(error: Exception) -> str:
    """What went wrong and the last place in this package where it did."""
    ours = [f for f in traceback.extract_tb(error.__traceback__) if "headrecon" in f.filename]
    where = f" ({ours[-1].filename}:{ours[-1].lineno})" if ours else ""
    return f"{type(error).__name__}: {error}{where}"


def _run(case: Case, plan: Plan, prepared: Prepared, on_cpu: Prepared | None) -> Row:
    gap = None if on_cpu is None else disagreement(prepared.run(), on_cpu.run())
    agrees = gap is None or gap <= case.tolerance
    if plan.check_only:
        return Row(case.op, case.work, disagreement=gap, agrees=agrees)
    time = time_on_cuda if plan.device == "cuda" else time_on_cpu
    timing = time(prepared.run, plan.seconds)
    peers = tuple(_peers(prepared, time, plan))
    cpu_ms = None if on_cpu is None else time_on_cpu(on_cpu.run, plan.seconds / 4).median_ms
    return Row(case.op, case.work, timing, peers, case.goal_ms, cpu_ms, gap, agrees)


def _peers(prepared: Prepared, time: Callable[[Work, float], Timing], plan: Plan) -> Iterator[PeerRow]:
    for peer in prepared.peers if plan.peers else ():
        if peer.run is None:
            yield PeerRow(peer.name, None, peer.absent)
            continue
        try:
            yield PeerRow(peer.name, time(peer.run, plan.seconds).median_ms)
        except Exception as error:  # noqa: BLE001 - another project's failure must not end ours
            yield PeerRow(peer.name, None, f"{type(error).__name__}: {error}")


def disagreement(found: Any, expected: Any) -> float | None:
    """Largest difference of any tensor, relative to its largest value; of integers, the share that differs. None when
    there is nothing to compare.

    A thousandth of the values is let off: a pixel at an outline may see another face, and a median would hide the rest.
    """
    pairs = list(zip(_tensors(found), _tensors(expected), strict=True))
    worst = 0.0
    for a, b in pairs:
        a, b = a.detach().cpu(), b.detach().cpu()
        if a.shape != b.shape:
            return float("inf")
        if not a.dtype.is_floating_point:
            worst = max(worst, float((a != b).float().mean()) if a.numel() else 0.0)
        elif a.numel():
            error = (a - b).abs().flatten()
            largest = float(error.kthvalue(max(1, int(0.999 * error.numel()))).values / b.abs().max().clamp(min=1e-12))
            worst = max(worst, largest if largest == largest else float("inf"))  # NaN agrees with nothing
    return worst if pairs else None


def _tensors(value: Any) -> list[Any]:
    from torch import Tensor

    if isinstance(value, Tensor):
        return [value]
    return [t for v in value for t in _tensors(v)] if isinstance(value, tuple | list) else []


def need_device(device: str) -> None:
    """Raises NativeMissing where ops cannot run on this kind of device."""
    if device != "cuda":
        return
    import torch

    from headrecon.ops import _native

    if not torch.cuda.is_available():
        raise NativeMissing(f"CUDA needs an NVIDIA GPU and a CUDA build of torch; torch {torch.__version__} sees none")
    about = _native.describe()
    if not about["cuda_archs"]:
        hint = about["cuda_hint"] or f"build it with `HEADRECON_CUDA=1 {_native.BUILD_COMMAND}`"
        raise NativeMissing(f"the CUDA part of the native library is missing: {hint}")


@contextmanager
def _own_stream(device: str) -> Iterator[None]:
    """Backward passes run on the stream of their forward pass, and the default stream cannot be captured."""
    if device != "cuda":
        yield
        return
    import torch

    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        yield
        # After a kernel that crashed nothing works on the device any more, and this says so again.
        with suppress(RuntimeError):
            torch.cuda.synchronize()
