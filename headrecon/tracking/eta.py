"""Progress by frames: said twenty times a stage, with the time that is left at the rate so far."""

from __future__ import annotations

import time
from collections.abc import Callable

#: How often a stage says where it is, by share of its frames; by frames where their number is not known.
_PARTS, _EVERY = 20, 500


def frame_progress(
    stage: str, span: tuple[float, float], total: int | None, report: Callable[[str, float], None]
) -> Callable[[int], None]:
    """A function to tell how many frames are done; `span` is the share of the whole where the stage begins and ends.

    Work that an earlier run did is not counted in the rate.
    """
    began: list[float] = []
    said = [-1]
    low, high = span

    def tell(done: int) -> None:
        now = time.monotonic()
        if not began:
            began.extend((now, done))
        part = done * _PARTS // total if total else done // _EVERY
        if part == said[0]:
            return
        said[0] = part
        share = min(done / total, 1.0) if total else 0.5
        text = f"{stage}: frame {done}" + (f" of {total}" if total else "")
        rate = (done - began[1]) / max(now - began[0], 1e-9)
        if total and rate > 0:
            text += f", {_duration(max(total - done, 0) / rate)} left at {rate:.0f} a second"
        report(text, low + share * (high - low))

    return tell


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
