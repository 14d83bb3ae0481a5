"""Timing: warm-up first, then medians of as many runs as fit a budget."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

from headrecon.benchmarks.cases import Work

WARM_UPS = 2  # the first runs fault in memory and start threads
LEAST_RUNS, MOST_RUNS = 3, 200
CAPTURED_CALLS = 10


@dataclass(frozen=True)
class Timing:
    """Milliseconds a call. processor_ms: all threads together, of the run that took least: a busy machine disturbs it
    less. On a GPU it is 0, and call_ms is one call as Python makes it, where the median is the GPU's own time."""

    median_ms: float
    best_ms: float
    runs: int
    processor_ms: float = 0.0
    call_ms: float = 0.0


def time_on_cpu(work: Work, seconds: float) -> Timing:
    """Runs the work for about so many seconds, and at least LEAST_RUNS times."""
    for _ in range(WARM_UPS):
        work()
    wall: list[float] = []
    processor: list[float] = []
    end = time.perf_counter() + seconds
    while len(wall) < LEAST_RUNS or (len(wall) < MOST_RUNS and time.perf_counter() < end):
        start, start_processor = time.perf_counter(), time.process_time()
        work()
        wall.append(1e3 * (time.perf_counter() - start))
        processor.append(1e3 * (time.process_time() - start_processor))
    return Timing(statistics.median(wall), min(wall), len(wall), min(processor))


def time_on_cuda(work: Work, seconds: float) -> Timing:
    """The GPU's time: calls captured in a CUDA graph and replayed between two events, or single calls where the work
    cannot be captured. Has to run on a stream that is not the default one, as the work's preparation did."""
    for _ in range(WARM_UPS + 1):
        work()
    calls = _between_events(work, seconds / 2, 1)
    replay = _captured(work)
    own = calls if replay is None else _between_events(replay, seconds / 2, CAPTURED_CALLS)
    return Timing(statistics.median(own), min(own), len(own), call_ms=statistics.median(calls))


def _between_events(work: Work, seconds: float, calls: int) -> list[float]:
    """ms per call of each run; the work makes so many calls."""
    import torch

    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < LEAST_RUNS or (len(times) < MOST_RUNS and time.perf_counter() < end):
        first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        first.record()
        work()
        last.record()
        last.synchronize()
        times.append(first.elapsed_time(last) / calls)
    return times


def _captured(work: Work) -> Work | None:
    """Replays CAPTURED_CALLS calls without Python between them; None when the work cannot be captured."""
    import torch

    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
            for _ in range(CAPTURED_CALLS):
                work()
    except RuntimeError:
        return None
    return graph.replay
