"""A track that is played: which frame is due. No clock of its own, so that it can be tested."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class Playback:
    """times_s: of the frames, from 0 on. place_s: where in the track it was at `since_s` of the caller's clock."""

    times_s: Float[np.ndarray, " T"]
    playing: bool = False
    speed: float = 1.0
    place_s: float = 0.0
    since_s: float = 0.0

    @property
    def length_s(self) -> float:
        """Seconds until it starts again: the last frame is shown as long as the others are."""
        if len(self.times_s) < 2:
            return 1.0
        return float(self.times_s[-1] + np.median(np.diff(self.times_s)))

    def place(self, now_s: float) -> float:
        """Seconds into the track."""
        if not self.playing:
            return self.place_s
        return (self.place_s + self.speed * (now_s - self.since_s)) % self.length_s

    def frame(self, now_s: float) -> int:
        """The frame that is shown."""
        return max(int(np.searchsorted(self.times_s, self.place(now_s) + 1e-9, side="right")) - 1, 0)

    def play(self, now_s: float) -> Playback:
        return replace(self, playing=True, place_s=self.place(now_s), since_s=now_s)

    def pause(self, now_s: float) -> Playback:
        return replace(self, playing=False, place_s=self.place(now_s), since_s=now_s)

    def at_speed(self, speed: float, now_s: float) -> Playback:
        return replace(self, speed=speed, place_s=self.place(now_s), since_s=now_s)

    def at_frame(self, frame: int, now_s: float) -> Playback:
        return replace(self, place_s=float(self.times_s[frame]), since_s=now_s)
