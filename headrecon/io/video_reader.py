"""Reads a video frame by frame: upright, with its timestamps, one frame in memory at a time (PyAV).

What strangers send is met here: rotation flags, high dynamic range, pixels that are not square, interlaced and damaged
frames, files that end too early, headers that claim absurd sizes. What was mended or left out is counted and told
(`VideoReader.notes`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from headrecon.errors import InputError
from headrecon.io.video_colour import high_range, to_srgb
from headrecon.io.video_orientation import Orientation

#: Larger frames are refused: 8K has 33 megapixels, and a header may claim anything.
MAX_PIXELS = 40_000_000
_MAX_SIDE = 16_384
#: Frame rates outside of this are what broken headers say.
_RATES = (0.5, 1000.0)
_FALLBACK_RATE = 30.0
#: Least distance of two timestamps, seconds: files repeat them, and time must rise.
_LEAST_STEP_S = 1e-4
#: Differences of the header's count of frames that are no sign of a file that ends too early.
_COUNT_SLACK = 0.97


@dataclass(frozen=True)
class VideoInfo:
    """What the header says. width, height: of the upright picture with square pixels. rate: frames per second on
    average; frames: how many the file should hold, None where it does not say; audio: name of the codec or None."""

    path: Path
    width: int
    height: int
    rate: float
    frames: int | None
    audio: str | None


@dataclass(frozen=True)
class VideoFrame:
    """One upright picture. index: place among the video's frames, damaged ones counted; time_s: when it is shown."""

    index: int
    time_s: float
    image_srgb: UInt8[np.ndarray, "H W 3"]


@dataclass
class _Counts:
    read: int = 0
    damaged: int = 0
    interlaced: int = 0
    high_range: int = 0
    ended_early: bool = False
    finished: bool = False


class VideoReader:
    """A video file to read. Each iteration over `frames()` opens it anew, so a reader can be used many times.

    Making one raises InputError for what cannot be read: missing, a folder, empty, no picture stream, too large.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._counts = _Counts()
        container, stream = _open(self.path)
        with container:
            self._orientation, (width, height) = _peek(self.path)
            if self._orientation.across:
                width, height = height, width
            rate = next((float(r) for r in (stream.average_rate, stream.guessed_rate) if r), _FALLBACK_RATE)
            rate = rate if _RATES[0] <= rate <= _RATES[1] else _FALLBACK_RATE
            audio = next((s.codec_context.name for s in container.streams.audio), None)
            self.info = VideoInfo(self.path, width, height, rate, _frame_count(container, stream, rate), audio)

    def frames(self, start: int = 0) -> Iterator[VideoFrame]:
        """The frames from index `start` on, in the order in which they are shown.

        Earlier frames are decoded and passed over, so that every frame has the same index and time however it is
        reached. Constant memory. Frames of another size than the first are scaled to it.
        """
        yield from self._walk(lambda index: index >= start)

    def _walk(self, wanted: Callable[[int], bool]) -> Iterator[VideoFrame]:
        """All frames are decoded, in order; those that are wanted are turned into pictures."""
        import av

        self._counts = counts = _Counts()
        clock = _Clock(1.0 / self.info.rate)
        container, stream = _open(self.path)
        with container:
            for index, decoded in enumerate(_decoded(container, stream, counts)):
                time_s = clock.tick(None if decoded is None else decoded.time)
                if decoded is None:
                    continue
                counts.read += 1
                if not wanted(index):
                    continue
                try:
                    image = self._upright(decoded)
                except (av.FFmpegError, ValueError):
                    counts.read, counts.damaged = counts.read - 1, counts.damaged + 1
                    continue
                yield VideoFrame(index, time_s, image)
            counts.finished = True

    def pictures_at(self, indices: Iterable[int]) -> dict[int, UInt8[np.ndarray, "H W 3"]]:
        """Some frames by index, in one pass up to the last of them. All are held in memory.

        Raises InputError when the video does not hold them (any more).
        """
        wanted = set(indices)
        found = {frame.index: frame.image_srgb for frame in self.some(wanted)}
        missing = sorted(wanted - found.keys())
        if missing:
            raise InputError(f"{self.path}: frame {missing[0]} cannot be read again; was the file changed meanwhile?")
        return found

    def some(self, indices: Iterable[int]) -> Iterator[VideoFrame]:
        """Those of some frames that can be read, in order, in one pass up to the last; one in memory at a time."""
        left = set(indices)
        if not left:
            return
        last = max(left)
        for frame in self._walk(left.__contains__):
            yield frame
            if frame.index >= last:
                return

    def _upright(self, decoded: Any) -> UInt8[np.ndarray, "H W 3"]:
        _check_size(self.path, decoded.width, decoded.height)
        wide, high = self.info.width, self.info.height
        if self._orientation.across:
            wide, high = high, wide
        if (decoded.width, decoded.height) != (wide, high):
            image = decoded.reformat(width=wide, height=high, format="rgb24").to_ndarray()
        else:
            image = decoded.to_ndarray(format="rgb24")
        if decoded.interlaced_frame:
            image = _one_field(image)
            self._counts.interlaced += 1
        kind = high_range(decoded)
        if kind is not None:
            image = to_srgb(image, kind)
            self._counts.high_range += 1
        return self._orientation.apply(image)

    @property
    def notes(self) -> list[str]:
        """What was mended or left out in what was read last, as sentences."""
        counts, expected = self._counts, self.info.frames
        out = []
        if counts.damaged:
            out.append(f"{counts.damaged} damaged frame{'s were' if counts.damaged > 1 else ' was'} left out")
        if counts.interlaced:
            out.append(
                f"{counts.interlaced} interlaced frames: one field of each is used, with half the lines; "
                "a deinterlaced copy of the video would show more"
            )
        if counts.high_range:
            out.append("the video has high dynamic range (PQ or HLG); its colours were brought to sRGB")
        short = counts.finished and expected is not None and counts.read + counts.damaged < _COUNT_SLACK * expected
        if counts.ended_early or short:
            of = f" of about {expected}" if expected else ""
            out.append(f"the file ends too early: {counts.read}{of} frames could be read, and these are used")
        return out


@dataclass
class _Clock:
    """Timestamps that start at zero and rise, whatever the file says."""

    step_s: float
    last_s: float | None = None
    origin_s: float = 0.0

    def tick(self, stamp_s: float | None) -> float:
        if self.last_s is None:
            self.origin_s = 0.0 if stamp_s is None else stamp_s
            self.last_s = 0.0
            return 0.0
        shown = self.last_s + self.step_s if stamp_s is None else stamp_s - self.origin_s
        self.last_s = max(float(shown), self.last_s + _LEAST_STEP_S)
        return self.last_s


def _decoded(container: Any, stream: Any, counts: _Counts) -> Iterator[Any]:
    """Decoded frames; None stands for one that is damaged."""
    import av

    packets = container.demux(stream)
    last = False
    while not last:
        try:
            packet = next(packets, None)
        except av.FFmpegError:  # the container breaks off
            counts.ended_early = True
            packet = None
        last = packet is None
        try:
            pictures = stream.codec_context.decode(packet)
        except av.EOFError:
            return
        except av.FFmpegError:
            counts.damaged += 1
            yield None
            continue
        for picture in pictures:
            damaged = bool(getattr(picture, "is_corrupt", False))
            counts.damaged += damaged
            yield None if damaged else picture


def _frame_count(container: Any, stream: Any, rate: float) -> int | None:
    """How many frames will be shown. A file may hold more than it shows: its edit list counts, through the duration."""
    duration = stream.duration * stream.time_base if stream.duration and stream.time_base else None
    if duration is None and container.duration:
        duration = container.duration / 1e6
    shown = None if duration is None else max(1, round(float(duration) * rate))
    counts = [n for n in (shown, stream.frames or None) if n is not None]
    return min(counts, default=None)


def _open(path: Path) -> tuple[Any, Any]:
    import av

    if not path.exists():
        raise InputError(f"{path}: no such file")
    if path.is_dir():
        raise InputError(f"{path} is a folder; expected a video file (photos are for `headrecon reconstruct`)")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty (0 bytes); expected a video file")
    try:
        container: Any = av.open(str(path), metadata_errors="ignore")
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"{path} is not a video that can be read ({reason}); expected MP4, MOV, MKV, WebM, AVI or the like"
        ) from error
    try:
        stream = next((s for s in container.streams.video if not _is_cover(s)), None)
        if stream is None:
            raise InputError(f"{path} has no picture stream; expected a video file")
        _check_size(path, stream.codec_context.width, stream.codec_context.height)
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = 2
    except BaseException:
        container.close()
        raise
    return container, stream


def _is_cover(stream: Any) -> bool:
    """Whether a stream is the picture on an album's sleeve."""
    with suppress(Exception):
        return "attached_pic" in str(stream.disposition).lower()
    return False


def _check_size(path: Path, width: int, height: int) -> None:
    if width <= 0 or height <= 0:
        raise InputError(f"{path}: the picture stream has no size ({width} x {height}); is it a video?")
    if width * height > MAX_PIXELS or max(width, height) > _MAX_SIDE:
        raise InputError(
            f"{path}: frames of {width} x {height} pixels are too large; at most {MAX_PIXELS // 10**6} megapixels "
            "are taken: scale the video down first"
        )


def _peek(path: Path) -> tuple[Orientation, tuple[int, int]]:
    """Which way up the first frame is to be shown, and its stored size with square pixels."""
    import av

    container, stream = _open(path)
    with container:
        tried = 0
        try:
            for packet in container.demux(stream):
                tried += 1
                with suppress(av.FFmpegError):
                    for frame in stream.codec_context.decode(packet):
                        _check_size(path, frame.width, frame.height)
                        return Orientation.of_frame(frame), (_square_width(stream, frame), frame.height)
        except av.FFmpegError as error:
            raise InputError(f"{path}: no frame can be read ({error.strerror}); the file is damaged") from error
    why = "its picture stream is empty" if tried <= 1 else "all of it is damaged"
    raise InputError(f"{path} holds no frame that can be read: {why}")


def _square_width(stream: Any, frame: Any) -> int:
    """Width with square pixels; absurd aspect ratios are not believed."""
    ratio = stream.sample_aspect_ratio
    ratio = float(ratio) if ratio else 1.0
    wide = round(frame.width * ratio)
    return wide if 0.25 <= ratio <= 4.0 and wide * frame.height <= MAX_PIXELS else frame.width


def _one_field(image: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
    """The picture from its even lines alone, those between averaged: the two fields were taken at different times."""
    out = image.copy()
    even = image[0::2].astype(np.uint16)
    below = np.concatenate([even[1:], even[-1:]])
    out[1::2] = ((even + below + 1) // 2)[: len(out[1::2])].astype(np.uint8)
    return out
