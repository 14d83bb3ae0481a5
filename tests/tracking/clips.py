"""Small clips for tests: a portrait that moves through the picture as before a handheld camera."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from headrecon.io.video_writer import write_timed_mp4

SIDE = 192


def views(portrait: np.ndarray, count: int, start: int = 0) -> list[np.ndarray]:
    """Squares of SIDE pixels around the astronaut's face (uint8 [512,512,3]), drifting and breathing in size."""
    out = []
    for i in range(start, start + count):
        side = 250 + 12 * np.sin(0.3 * i)
        x, y = 95 + 10 * np.sin(0.25 * i), 8 + 6 * np.sin(0.2 * i)
        box = (x, y, x + side, y + side)
        out.append(np.asarray(Image.fromarray(portrait).resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=box)))
    return out


def write_clip(path: Path, frames: Sequence[np.ndarray], times_s: Sequence[float] | None = None) -> Path:
    times = [i / 30 for i in range(len(frames))] if times_s is None else times_s
    write_timed_mp4(path, zip(times, frames, strict=True), 30.0)
    return path


def stripes(count: int) -> list[np.ndarray]:
    """Pictures without a face."""
    one = np.tile(np.array([[[40] * 3], [[200] * 3]], np.uint8), (SIDE // 2, SIDE, 1))
    return [np.roll(one, i, axis=0) for i in range(count)]
