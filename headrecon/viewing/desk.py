"""What is shown and how it moves, whoever looks: changed by panels, read by the canvas. Knows nothing of browsers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from headrecon.driving.motion import Motion
from headrecon.viewing.playback import Playback
from headrecon.viewing.puppet import Puppet
from headrecon.viewing.subject import Subject


@dataclass(frozen=True)
class Show:
    """layer: one of the subject's. in_browser: let the browser draw splats itself. background: sRGB 0..1."""

    layer: str
    in_browser: bool = False
    background: tuple[float, float, float] = (0.93, 0.93, 0.94)


class Desk:
    """The subject's state. `changed` is set whenever there is something new to draw; `moved` counts what was not done
    by a slider, which sliders have to be told of."""

    def __init__(self, subject: Subject, motion: Motion | None, times_s: Float[np.ndarray, " T"] | None) -> None:
        self.subject = subject
        self.puppet = Puppet(subject.figure)
        self.motion = motion
        self.playback = None if times_s is None else Playback(times_s)
        self.show = Show(subject.layers[0])
        self.changed = threading.Event()
        self.moved = 0
        self._shown_frame: int | None = None
        #: Whether sliders have moved the face since the track last did.
        self._by_hand = True
        self._lock = threading.Lock()

    @property
    def stamp(self) -> tuple[int, Show]:
        """Differs whenever a picture of it would."""
        return self.puppet.version, self.show

    @property
    def frame(self) -> int | None:
        """The frame of the track that is shown; None where sliders have moved it away from the track."""
        return self._shown_frame

    def set_show(self, **changes: object) -> None:
        """Change fields of `show`."""
        with self._lock:
            self.show = replace(self.show, **changes)  # pyright: ignore[reportArgumentType]
        self.changed.set()

    def set_weight(self, name: str, weight: float, now_s: float) -> None:
        """One expression; a track that is played stops."""
        self._take_over(now_s)
        self.puppet.set_weight(name, weight)
        self.changed.set()

    def set_turn(self, title: str, degrees: tuple[float, float, float], now_s: float) -> None:
        """One of `driving.stills.TURNS`; a track that is played stops."""
        self._take_over(now_s)
        self.puppet.set_turn(title, *degrees)
        self.changed.set()

    def rest(self, now_s: float) -> None:
        """Back to the calm face."""
        self._take_over(now_s)
        self.puppet.rest()
        self.moved += 1
        self.changed.set()

    def play(self, on: bool, now_s: float) -> None:
        """Start or stop the track, from where it is."""
        self._replay(lambda p: p.play(now_s) if on else p.pause(now_s))

    def set_speed(self, speed: float, now_s: float) -> None:
        """1 is the track's own."""
        self._replay(lambda p: p.at_speed(speed, now_s))

    def seek(self, frame: int, now_s: float) -> None:
        """Show a frame of the track."""
        self._shown_frame = None
        self._replay(lambda p: p.at_frame(frame, now_s))
        self.advance(now_s)

    def advance(self, now_s: float) -> float | None:
        """Show the frame that is due; seconds until the next one is, None while nothing is played."""
        with self._lock:
            playback, motion = self.playback, self.motion
            if playback is None or motion is None:
                return None
            frame = playback.frame(now_s)
            due = playback.playing or (self._shown_frame is None and not self._by_hand)
            if due and frame != self._shown_frame:
                self._shown_frame, self._by_hand = frame, False
                self.puppet.set_row(motion.rows[frame])
                self.moved += 1
            if not playback.playing or playback.speed <= 0:
                return None
            place, times = playback.place(now_s), playback.times_s
            following = float(times[frame + 1]) if frame + 1 < len(times) else playback.length_s
            return max(following - place, 0.001) / playback.speed

    def _take_over(self, now_s: float) -> None:
        with self._lock:
            self._by_hand, self._shown_frame = True, None
            if self.playback is not None and self.playback.playing:
                self.playback = self.playback.pause(now_s)

    def _replay(self, change: Callable[[Playback], Playback]) -> None:
        with self._lock:
            if self.playback is not None:
                self.playback = change(self.playback)
                self._by_hand = False
        self.changed.set()
