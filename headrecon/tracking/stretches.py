"""Stretches of a clip in which the head is turned too far for its landmarks, or nobody was seen."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

#: The landmark network reads turns too small, and the more the further a head is turned: from this turn (as it reads
#: it, radians) on its pose is worth less than what the picture says; up to the second its pose is taken for known.
TOO_FAR, KNOWN = math.radians(35.0), math.radians(15.0)
#: How far before and after, in seconds, a frame with a known pose is looked for.
_REACH_S = 2.0
#: Known frames on either side that the head is compared with, frames apart, outward from the stretch.
_APART = (0, 4, 8, 14)


@dataclass(frozen=True)
class Stretch:
    """Places in the track, not frame numbers. first, last: its ends, both with known poses unless the clip begins or
    ends with it; before, after: known frames on both sides, the nearest first."""

    first: int
    last: int
    before: tuple[int, ...]
    after: tuple[int, ...]

    def places(self, half: int) -> tuple[list[int], list[int]]:
        """What is followed forward and backward: all of it both ways, or the ends of a stretch of more than 2 half."""
        inner = list(range(self.first + bool(self.before), self.last + 1 - bool(self.after)))
        if len(inner) <= 2 * half:
            return (inner if self.before else []), (inner[::-1] if self.after else [])
        return (inner[:half] if self.before else []), (inner[: -half - 1 : -1] if self.after else [])


def find_stretches(
    times_s: Float[np.ndarray, " T"], azimuth: Float[np.ndarray, " T"], good: Bool[np.ndarray, " T"]
) -> list[Stretch]:
    """Where to follow the head by its picture, in order, without overlap. O(T).

    azimuth: of the camera off the nose in radians, by landmarks; good: whether somebody was seen well.
    """
    turned = np.abs(np.where(good, azimuth, np.pi))
    core = turned > TOO_FAR
    known = turned < KNOWN
    out: list[Stretch] = []
    place = 0
    while place < len(core):
        if not core[place]:
            place += 1
            continue
        first = _outward(place, -1, times_s, turned, known)
        last = _end(place, times_s, turned, core, known)
        found = _stretch(first, last, turned)
        if found is not None:
            out.append(found)
        place = last + 1
    return out


def _outward(place: int, step: int, times_s: np.ndarray, turned: np.ndarray, known: np.ndarray) -> int:
    """The nearest known frame in a direction; else the least turned within reach."""
    best, at = place, place
    while 0 <= at + step < len(turned) and abs(times_s[at + step] - times_s[place]) <= _REACH_S:
        at += step
        if turned[at] < turned[best]:
            best = at
        if known[at]:
            return at
    return best


def _end(place: int, times_s: np.ndarray, turned: np.ndarray, core: np.ndarray, known: np.ndarray) -> int:
    """The stretch's last frame: the known one after the core, past cores that begin before it is reached."""
    while True:
        while place + 1 < len(core) and core[place + 1]:
            place += 1
        last = _outward(place, 1, times_s, turned, known)
        further = np.flatnonzero(core[place + 1 : last + 1])
        if not len(further):
            return last
        place += 1 + int(further[0])


def _stretch(first: int, last: int, turned: np.ndarray) -> Stretch | None:
    usable = turned < TOO_FAR
    before = tuple(first - a for a in _APART if first - a >= 0 and usable[first - a])
    after = tuple(last + a for a in _APART if last + a < len(turned) and usable[last + a])
    if not usable[first]:
        before = ()
    if not usable[last]:
        after = ()
    return Stretch(first, last, before, after) if before or after else None
