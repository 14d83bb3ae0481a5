"""Video files through PyAV."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from headrecon.errors import AssetError, InputError, ShapeError

FRAMES_PER_SECOND = 20
#: H.264 plays everywhere; MPEG-4 part 2 is for builds of FFmpeg without it.
_ENCODERS = ("libx264", "h264", "libopenh264", "mpeg4")


def write_mp4(path: str | Path, frames: Iterable[UInt8[np.ndarray, "H W 3"]], fps: int = FRAMES_PER_SECOND) -> None:
    """Write one video stream (H.264 where the build has it, yuv420p, playable while it loads), frame by frame.

    A frame is made while the one before is encoded: `frames` is asked for the next one on another thread.
    Sides must be even and the same in all frames. Raises ShapeError for frames that are not, or when there is none;
    InputError when the file cannot be written; AssetError when this build of PyAV has no encoder. Nothing half-written
    stays behind.
    """
    import av

    path = Path(path)
    encoder = encoder_name()
    try:
        with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
            _encode(container, encoder, frames, fps)
    except av.FFmpegError as error:
        path.unlink(missing_ok=True)
        raise InputError(f"cannot write {path}: {error.strerror}; choose a folder you may write to") from error
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _encode(container: Any, encoder: str, frames: Iterable[np.ndarray], fps: int) -> None:
    import av

    stream: Any = None
    shape = (0, 0, 0)
    for frame in _ahead(frames):
        if stream is None:
            stream, shape = _stream(container, encoder, frame, fps), frame.shape
        if frame.shape != shape:
            raise ShapeError(f"video: all frames must have shape {shape}, found {frame.shape}")
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        container.mux(stream.encode(picture))
    if stream is None:
        raise ShapeError("video: expected at least one frame, found none")
    container.mux(stream.encode())


def _ahead(frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The frames, each already being made while the caller is busy with the one before."""
    source = iter(frames)
    with ThreadPoolExecutor(1, "frames") as beside:
        coming = beside.submit(next, source, None)
        while (frame := coming.result()) is not None:
            coming = beside.submit(next, source, None)
            yield frame


def _stream(container: Any, encoder: str, frame: np.ndarray, fps: int) -> Any:
    height, width = frame.shape[:2]
    if height % 2 or width % 2 or not height or not width:
        raise ShapeError(f"video: width and height must be even, found {width} x {height}")
    stream = container.add_stream(encoder, rate=fps)
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    if encoder == "libx264":
        stream.options = {"crf": "20", "preset": "veryfast"}
    else:
        stream.bit_rate = 8 * width * height
    return stream


def encoder_name() -> str:
    """The best encoder that this build of PyAV has. Raises AssetError when it has none."""
    import av

    for name in _ENCODERS:
        if name not in av.codecs_available:
            continue
        try:
            if av.Codec(name, "w").is_encoder:
                return name
        except av.FFmpegError:
            continue
    raise AssetError(f"this build of PyAV can encode none of {', '.join(_ENCODERS)}; install `av` from PyPI")
