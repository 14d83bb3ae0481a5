"""Writes a video whose frames come at their own times, with the sound of another file beside them (PyAV)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from headrecon.errors import InputError, ShapeError
from headrecon.io.video import encoder_name

_CLOCK = Fraction(1, 90_000)
#: Sound that MP4 takes as it is; other kinds are encoded anew as AAC.
_KEPT_AUDIO = ("aac", "mp3", "ac3", "eac3", "alac", "opus")


def write_timed_mp4(
    path: str | Path,
    frames: Iterable[tuple[float, UInt8[np.ndarray, "H W 3"]]],
    rate: float,
    audio_from: str | Path | None = None,
    audio_start_s: float = 0.0,
) -> None:
    """Write frames at their times (seconds, rising, the first is shown at once), one in memory at a time.

    rate: usual frames per second, for the header. audio_from: a file whose first audio stream is put beside the
    frames, from `audio_start_s` on and no longer than they last; a file without sound or with sound that cannot be
    read gives none. Raises ShapeError for frames with odd sides, of several sizes, or none; InputError when the file
    cannot be written. Nothing half-written stays behind.
    """
    import av

    path = Path(path)
    try:
        with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
            _write(container, frames, rate, None if audio_from is None else (Path(audio_from), audio_start_s))
    except av.FFmpegError as error:
        path.unlink(missing_ok=True)
        raise InputError(f"cannot write {path}: {error.strerror}; is the disk full?") from error
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _write(container: Any, frames: Iterable[tuple[float, np.ndarray]], rate: float, sound: Any) -> None:
    import av

    stream: Any = None
    audio: _Sound | None = None
    first_s, last_pts, shape = 0.0, -1, (0, 0, 0)
    for time_s, image in frames:
        if stream is None:
            stream, shape, first_s = _video_stream(container, image, rate), image.shape, time_s
            audio = None if sound is None else _Sound.open(container, *sound)
        if image.shape != shape:
            raise ShapeError(f"video: all frames must have shape {shape}, found {image.shape}")
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        picture.time_base = _CLOCK
        picture.pts = last_pts = max(round((time_s - first_s) / _CLOCK), last_pts + 1)
        container.mux(stream.encode(picture))
        if audio is not None:
            audio.write_until(time_s - first_s)
    if stream is None:
        raise ShapeError("video: expected at least one frame, found none")
    if audio is not None:
        audio.write_until(float(last_pts * _CLOCK) + 1.0 / max(rate, 1.0))
        audio.close()
    container.mux(stream.encode())


def _video_stream(container: Any, image: np.ndarray, rate: float) -> Any:
    height, width = image.shape[:2]
    if height % 2 or width % 2 or not height or not width:
        raise ShapeError(f"video: width and height must be even, found {width} x {height}")
    encoder = encoder_name()
    stream = container.add_stream(encoder, rate=Fraction(rate).limit_denominator(1001))
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    stream.codec_context.time_base = _CLOCK
    if encoder == "libx264":
        stream.options = {"crf": "21", "preset": "veryfast"}
    else:
        stream.bit_rate = 8 * width * height
    return stream


class _Sound:
    """The sound of another file, handed on in step with the pictures."""

    def __init__(self, target: Any, source: Any, start_s: float) -> None:
        self._target, self._source, self._start_s = target, source, start_s
        self._from = source.streams.audio[0]
        self._copy = self._from.codec_context.name in _KEPT_AUDIO
        if self._copy:
            self._to = target.add_stream_from_template(self._from)
        else:
            self._to = target.add_stream("aac", rate=self._from.codec_context.sample_rate or 48_000)
        self._packets = self._parts()
        self._next: tuple[float, Any] | None = next(self._packets, None)

    @staticmethod
    def open(target: Any, path: Path, start_s: float) -> _Sound | None:
        import av

        try:
            source = av.open(str(path), metadata_errors="ignore")
        except (av.FFmpegError, OSError):
            return None
        try:
            if source.streams.audio:
                return _Sound(target, source, start_s)
        except (av.FFmpegError, ValueError):
            pass
        source.close()
        return None

    def _parts(self) -> Iterator[tuple[float, Any]]:
        """Packets (or decoded frames, where they are encoded anew) with their times from the start on."""
        import av

        try:
            demuxed = self._source.demux(self._from)
            parts = (
                (p for p in demuxed if p.dts is not None) if self._copy else (f for p in demuxed for f in p.decode())
            )
            for part in parts:
                time_s = float((part.pts or 0) * part.time_base) - self._start_s
                if time_s >= 0:
                    yield time_s, part
        except av.FFmpegError:  # sound that breaks off: what there is stays
            return

    def write_until(self, time_s: float) -> None:
        while self._next is not None and self._next[0] <= time_s:
            part = self._next[1]
            shift = round(self._start_s / part.time_base)
            part.pts = (part.pts or 0) - shift
            if self._copy:
                part.dts -= shift
                part.stream = self._to
                self._target.mux(part)
            else:
                self._target.mux(self._to.encode(part))
            self._next = next(self._packets, None)

    def close(self) -> None:
        if not self._copy:
            self._target.mux(self._to.encode())
        self._source.close()
