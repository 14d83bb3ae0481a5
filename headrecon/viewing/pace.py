"""How large pictures may be while something moves: as large as can be drawn in time."""

from __future__ import annotations

from dataclasses import dataclass, replace

#: A moving picture should be drawn in so many seconds.
_GOAL_S = 0.035
_SMALLEST, _LARGEST = 448, 1280


@dataclass(frozen=True)
class Pace:
    """longest: side of a moving picture in pixels."""

    longest: int = 640

    def after(self, seconds: float, side: int) -> Pace:
        """With what a picture of that longest side took. Time goes with the number of pixels, at most; a single slow
        picture must not make the next ones tiny, and growth is slower than shrinking so that sizes do not swing."""
        factor = (_GOAL_S / max(seconds, 1e-4)) ** 0.5
        wanted = side * min(max(factor, 0.8), 1.15)
        if abs(wanted - self.longest) < 0.06 * self.longest:
            return self
        return replace(self, longest=int(min(max(wanted, _SMALLEST), _LARGEST)))
