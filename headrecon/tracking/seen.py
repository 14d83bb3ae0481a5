"""First pass over a video: the face is followed through all frames, and what was seen is kept in chunks on disk."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from queue import Empty, Full, Queue
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Bool, Float, Int

from headrecon.io.video_reader import VideoReader
from headrecon.io.work_folder import WorkFolder, chunk_name
from headrecon.perception.face_following import Follower, FollowState, SeenFrame, follow

#: Frames per chunk: what a kill may cost is a few seconds.
CHUNK = 240
_STAGE = "seen"
#: Points are kept as 16-bit shares of the face's extent: a hundredth of a pixel for a face of 600 pixels.
_STEPS = 32_000
_NONE = np.zeros((0, 478, 3))
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class SeenChunk:
    """Consecutive frames. points are zero where nobody was seen (`held` is false)."""

    frames: Int[np.ndarray, " N"]
    times_s: Float[np.ndarray, " N"]
    presence: Float[np.ndarray, " N"]
    shots: Int[np.ndarray, " N"]
    held: Bool[np.ndarray, " N"]
    mine: Bool[np.ndarray, " N"]
    points: Float[np.ndarray, "N 478 3"]


def look_at_all(
    reader: VideoReader, follower: Follower, work: WorkFolder, progress: Callable[[int], None]
) -> list[str]:
    """Follow the face through the whole video, from where an earlier run stopped; what was wrong with the file.

    progress is told how many frames are done. Constant memory. Raises InputError when the disk is full.
    """
    finished = work.load(f"{_STAGE}-end")
    if finished is not None:
        return [str(n) for n in finished["notes"]]
    index = work.count(_STAGE)
    last = work.load(chunk_name(_STAGE, index - 1)) if index else None
    state, start = (FollowState(), 0) if last is None else (_state_of(last), int(last["frames"][-1]) + 1)
    rows: list[tuple[int, float, SeenFrame]] = []
    # A generator in a thread of its own: the next frame is decoded while the network looks at this one.
    with closing(ahead(reader.frames(start))) as frames:
        for frame in frames:
            seen, state = follow(frame.image_srgb, state, follower)
            rows.append((frame.index, frame.time_s, seen))
            if len(rows) == CHUNK:
                work.save(chunk_name(_STAGE, index), _pack(rows, state))
                index, rows = index + 1, []
            progress(frame.index + 1)
    if rows:
        work.save(chunk_name(_STAGE, index), _pack(rows, state))
    notes = reader.notes
    work.save(f"{_STAGE}-end", {"notes": np.array(notes, dtype=np.str_)})
    return notes


def seen_chunks(work: WorkFolder) -> Iterator[SeenChunk]:
    """What `look_at_all` kept, in order, one chunk in memory at a time."""
    for arrays in work.chunks(_STAGE):
        yield _unpack(arrays)


def ahead(items: Iterable[_Item], depth: int = 3) -> Generator[_Item, None, None]:
    """The same items, made in a second thread up to `depth` in advance. Closing it stops the thread."""
    queue: Queue[Any] = Queue(depth)
    stop = threading.Event()
    thread = threading.Thread(target=_fill, args=(items, queue, stop), name="frames ahead", daemon=True)
    thread.start()
    try:
        while True:
            item, error = queue.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item
    finally:
        stop.set()
        while True:
            try:
                queue.get_nowait()
            except Empty:
                break
        thread.join()


_END = object()


def _fill(items: Iterable[Any], queue: Queue[Any], stop: threading.Event) -> None:
    """Put (item, None) for each, then (_END, None), or (_END, error) when making them fails."""
    last: BaseException | None = None
    try:
        for item in items:
            if not _put(queue, (item, None), stop):
                return
    except BaseException as error:  # noqa: BLE001 - raised again where the items are used
        last = error
    _put(queue, (_END, last), stop)


def _put(queue: Queue[Any], value: Any, stop: threading.Event) -> bool:
    while not stop.is_set():
        try:
            queue.put(value, timeout=0.2)
        except Full:
            continue
        return True
    return False


def _pack(rows: list[tuple[int, float, SeenFrame]], state: FollowState) -> dict[str, np.ndarray]:
    held = np.array([seen.points is not None for _, _, seen in rows])
    points = np.stack([seen.points for _, _, seen in rows if seen.points is not None]) if held.any() else _NONE
    centres = points.mean(1) if len(points) else np.zeros((0, 3))
    extents = np.abs(points - centres[:, None]).max((1, 2)) if len(points) else np.zeros(0)
    steps = (points - centres[:, None]) * (_STEPS / np.maximum(extents, 1e-9))[:, None, None]
    return {
        "frames": np.array([i for i, _, _ in rows]),
        "times_s": np.array([t for _, t, _ in rows]),
        "presence": np.array([seen.presence for _, _, seen in rows]),
        "shots": np.array([seen.shot for _, _, seen in rows]),
        "mine": np.array([seen.mine for _, _, seen in rows]),
        "held": held,
        "steps": np.round(steps).astype(np.int16),
        "centres": centres,
        "extents": extents,
        **_pack_state(state),
    }


def _unpack(arrays: dict[str, np.ndarray]) -> SeenChunk:
    held = arrays["held"]
    points = np.zeros((len(held), 478, 3))
    scale = arrays["extents"][:, None, None] / _STEPS
    points[held] = arrays["steps"] * scale + arrays["centres"][:, None]
    names = ("frames", "times_s", "presence", "shots", "held", "mine")
    return SeenChunk(**{name: arrays[name] for name in names}, points=points)


def _pack_state(state: FollowState) -> dict[str, np.ndarray]:
    return {
        "state_points": _NONE if state.points is None else state.points[None],
        "state_chip": np.zeros((0, 150, 150, 3), np.uint8) if state.chip is None else state.chip[None],
        "state_histogram": state.histogram,
        "state_numbers": np.array([state.missed, state.shot, int(state.mine)]),
        "state_yaw": np.array([state.chip_yaw]),
    }


def _state_of(arrays: dict[str, np.ndarray]) -> FollowState:
    missed, shot, mine = (int(n) for n in arrays["state_numbers"])
    points, chip = arrays["state_points"], arrays["state_chip"]
    state = FollowState(missed=missed, shot=shot, mine=bool(mine), histogram=arrays["state_histogram"])
    return replace(
        state,
        points=points[0] if len(points) else None,
        chip=chip[0] if len(chip) else None,
        chip_yaw=float(arrays["state_yaw"][0]),
    )
