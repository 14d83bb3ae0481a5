"""How a driven clip looks and how motion is taken over."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from headrecon.driving.figures import Look
from headrecon.errors import InputError
from headrecon.rendering.lighting import Lighting

CAMERAS = ("front", "track", "orbit")


@dataclass(frozen=True)
class DriveOptions:
    """How a driven clip looks. camera: "front" stands still before the head; "track" is the one that filmed the track;
    "orbit" swings round the head, from side to side.

    size: pixels, (width, height), both even; None is 512 x 512, for "track" the track's own. background: sRGB 0..1.
    lighting: of mesh heads; None is even and soft. supersample: of mesh heads, 1 to 3 samples per pixel and direction.
    audio: a file whose sound goes with the clip, such as the video that was tracked. beside: the video that was
    tracked, shown to the left. relative: take over how the tracked face differs from its own calm face, instead of its
    expression as it is (`driving.motion`).
    """

    camera: str = "front"
    size: tuple[int, int] | None = None
    background: tuple[float, float, float] = (0.93, 0.93, 0.94)
    lighting: Lighting | None = None
    supersample: int = 2
    audio: str | os.PathLike[str] | None = None
    beside: str | os.PathLike[str] | None = None
    relative: bool = False

    @property
    def look(self) -> Look:
        return Look(self.background, self.lighting, self.supersample)

    def check(self) -> DriveOptions:
        """Return self; raise InputError for the first thing that cannot be used."""
        if self.camera not in CAMERAS:
            raise InputError(f"camera must be one of {', '.join(CAMERAS)}, found {self.camera!r}")
        check_size(self.size, even=True)
        if not all(0 <= c <= 1 for c in self.background):
            raise InputError(f"the background must be three numbers from 0 to 1, found {self.background}")
        for name, what in (("audio", "a file with sound"), ("beside", "the video that was tracked")):
            path = getattr(self, name)
            if path is not None and not Path(path).is_file():
                raise InputError(f"{path} does not exist; expected {what}")
        return self


def check_size(size: tuple[int, int] | None, even: bool) -> None:
    """Raise InputError unless pictures of that size (width, height) can be drawn; videos need even sides."""
    if size is not None and not all(16 <= n <= 8192 and not (even and n % 2) for n in size):
        kind = "two even numbers" if even else "two numbers"
        raise InputError(f"the size must be {kind} of pixels from 16 to 8192, found {size}")
