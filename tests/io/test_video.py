from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from headrecon.errors import InputError, ShapeError
from headrecon.io.video import write_mp4


def frames(count: int, size: tuple[int, int] = (48, 64)) -> list[np.ndarray]:
    ramp = np.linspace(0, 255, size[1]).astype(np.uint8)
    base = np.stack(np.broadcast_arrays(ramp[None], 80, ramp[::-1][None]), -1) * np.ones((size[0], 1, 1))
    return [np.roll(base, i, axis=1).astype(np.uint8) for i in range(count)]


def test_video_comes_back(tmp_path):
    given = frames(30)
    write_mp4(tmp_path / "a.mp4", iter(given), fps=10)
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height, stream.pix_fmt) == (64, 48, "yuv420p")
        assert stream.average_rate == 10
        got = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    assert len(got) == 30
    # Lossy and with chroma at half the resolution; the wrapped-round edge of the ramp is where it hurts.
    assert np.abs(got[7].astype(int) - given[7]).mean() < 12


def test_index_comes_first_so_that_it_plays_while_loading(tmp_path):
    write_mp4(tmp_path / "a.mp4", frames(5))
    data = (tmp_path / "a.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([], "at least one frame"),
        (frames(1, (47, 64)), "must be even"),
        (frames(2) + frames(1, (32, 64)), "same|must have shape"),
    ],
)
def test_bad_frames_leave_no_file(tmp_path, bad, message):
    with pytest.raises(ShapeError, match=message):
        write_mp4(tmp_path / "a.mp4", bad)
    assert list(tmp_path.iterdir()) == []


def test_failure_in_the_frames_leaves_no_file(tmp_path):
    def broken():
        yield from frames(3)
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        write_mp4(tmp_path / "a.mp4", broken())
    assert list(tmp_path.iterdir()) == []


def test_unwritable(tmp_path):
    with pytest.raises(InputError, match="cannot write"):
        write_mp4(tmp_path / "none" / "a.mp4", frames(2))


def test_frames_are_made_beside_the_encoding_one_at_a_time(tmp_path: Path) -> None:
    """They come from another thread, in order, and what goes wrong there is raised here."""
    threads, made = set(), []

    def drawn(count: int, fails_at: int = -1) -> Iterator[np.ndarray]:
        for i in range(count):
            threads.add(threading.current_thread())
            made.append(i)
            if i == fails_at:
                raise RuntimeError("no third frame")
            yield np.full((16, 16, 3), 20 * i, dtype=np.uint8)

    write_mp4(tmp_path / "a.mp4", drawn(5))
    assert made == [0, 1, 2, 3, 4] and threading.main_thread() not in threads
    with pytest.raises(RuntimeError, match="no third frame"):
        write_mp4(tmp_path / "b.mp4", drawn(5, fails_at=2))
    assert not (tmp_path / "b.mp4").exists()
