"""Where footage comes from: the folder of a track, and the video that was tracked or the frames written beside it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from headrecon.errors import InputError
from headrecon.io.images import load_image
from headrecon.io.tracks import read_track
from headrecon.io.video_reader import VideoReader
from headrecon.io.work_folder import fingerprint
from headrecon.structures import Track

#: Timestamps of a track and its video may differ by this share of the time between two frames.
_TIME_SLACK = 0.25
#: A header's count of frames may be so much smaller than what the file holds.
_COUNT_SLACK = 0.97


@dataclass(frozen=True)
class SourceFrame:
    """One picture of the video. place: its row in the track. mask: the person's opacity, where there is one already."""

    place: int
    image_srgb: UInt8[np.ndarray, "H W 3"]
    mask: UInt8[np.ndarray, "H W"] | None = None


@runtime_checkable
class FootageSource(Protocol):
    """A track with its pictures."""

    @property
    def track(self) -> Track: ...

    def frames(self, start: int = 0) -> Iterator[SourceFrame]:
        """The pictures of all rows of the track from row `start` on, in their order, one in memory at a time."""
        ...

    def identity(self) -> dict[str, Any]:
        """What tells this source from others, for a cache's key."""
        ...


def open_source(folder: str | Path, video: str | Path | None = None) -> FootageSource:
    """The source in a folder that `headrecon track` wrote.

    video: the file that was tracked. Without one, `frames/` and `masks/` of `headrecon track --frames` are used, else
    a file of the name that the track remembers, in that folder, beside it, or where the program runs.
    Raises InputError when there are no pictures or they are not those of the track, AssetError for a broken track.
    """
    folder = Path(folder)
    page = _track_page(folder)
    track = read_track(folder / "track.npz")
    if video is None and (folder / "frames").is_dir():
        return FramesSource(track, folder)
    return VideoSource(track, _video_file(folder, page) if video is None else Path(video))


def _track_page(folder: Path) -> dict[str, Any]:
    if not (folder / "track.npz").is_file():
        what = "is a file" if folder.is_file() else "holds no track.npz" if folder.is_dir() else "does not exist"
        raise InputError(f"{folder} {what}; expected a folder that `headrecon track` wrote")
    try:
        page = json.loads((folder / "track.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        page = {}  # track.npz alone will do when the video is named
    return page if isinstance(page, dict) else {}


def _video_file(folder: Path, page: dict[str, Any]) -> Path:
    video = page.get("video")
    name = video.get("file") if isinstance(video, dict) else None
    if not isinstance(name, str) or not name or Path(name).name != name:
        raise InputError(f"{folder} does not say which video it was made from; name it: --video FILE")
    for place in (folder, folder.parent, Path()):
        if (place / name).is_file():
            return place / name
    raise InputError(
        f"{folder} was made from {name}, which is neither there nor beside it; say where the video is: --video FILE"
    )


@dataclass(frozen=True)
class VideoSource:
    """Pictures from the video itself. What does not match the track is found while reading, frame by frame."""

    track: Track
    path: Path

    def __post_init__(self) -> None:
        info, camera = VideoReader(self.path).info, self.track.cameras
        if (info.width, info.height) != (camera.width, camera.height):
            raise self._mismatch(f"the track is of {camera.width} x {camera.height} pixels, the video of "
                                 f"{info.width} x {info.height}")  # fmt: skip
        last = int(self.track.frames[-1])
        if info.frames is not None and info.frames < _COUNT_SLACK * (last + 1):
            raise self._mismatch(f"the track goes to frame {last}, the video holds {info.frames} frames")

    def frames(self, start: int = 0) -> Iterator[SourceFrame]:
        track, place = self.track, start
        if place >= len(track):
            return
        step = float(np.median(np.diff(track.timestamps_s))) if len(track) > 1 else 1.0
        for frame in VideoReader(self.path).frames(int(track.frames[place])):
            if frame.index < track.frames[place]:
                continue
            if frame.index > track.frames[place]:
                raise self._mismatch(f"frame {track.frames[place]} cannot be read")
            if abs(frame.time_s - float(track.timestamps_s[place])) > _TIME_SLACK * step:
                raise self._mismatch(
                    f"frame {frame.index} is at {track.timestamps_s[place]:.3f} s in the track and at "
                    f"{frame.time_s:.3f} s in the video"
                )
            yield SourceFrame(place, frame.image_srgb)
            place += 1
            if place == len(track):
                return
        raise self._mismatch(f"the track goes to frame {track.frames[-1]}, the video ends before it")

    def identity(self) -> dict[str, Any]:
        size, digest = fingerprint(self.path)
        return {"video_bytes": size, "video_sha256": digest, "track_sha256": track_digest(self.track)}

    def _mismatch(self, why: str) -> InputError:
        return InputError(
            f"{self.path} is not the video of this track: {why}; name the file that was tracked, or track this one: "
            "headrecon track"
        )


@dataclass(frozen=True)
class FramesSource:
    """Pictures and masks that `headrecon track --frames` wrote."""

    track: Track
    folder: Path

    def frames(self, start: int = 0) -> Iterator[SourceFrame]:
        camera = self.track.cameras
        for place in range(start, len(self.track)):
            name = f"{int(self.track.frames[place]):06d}.png"
            image = load_image(self.folder / "frames" / name).image_srgb
            mask_path = self.folder / "masks" / name
            mask = load_image(mask_path).image_srgb[..., 0] if mask_path.is_file() else None
            for path, found in ((self.folder / "frames" / name, image), (mask_path, mask)):
                if found is not None and found.shape[:2] != (camera.height, camera.width):
                    raise InputError(
                        f"{path} is {found.shape[1]} x {found.shape[0]} pixels, the track is of {camera.width} x "
                        f"{camera.height}; write the frames again: headrecon track --frames"
                    )
            yield SourceFrame(place, image, mask)

    def identity(self) -> dict[str, Any]:
        digest = hashlib.sha256()
        for path in sorted((self.folder / "frames").glob("*.png")) + sorted((self.folder / "masks").glob("*.png")):
            found = path.stat()
            digest.update(f"{path.name} {found.st_size} {found.st_mtime_ns}\n".encode())
        return {"frames_sha256": digest.hexdigest(), "track_sha256": track_digest(self.track)}


def track_digest(track: Track) -> str:
    """A fingerprint of everything in a track."""
    params, cameras = track.params, track.cameras
    digest = hashlib.sha256(json.dumps([track.model, track.expression_names, cameras.width, cameras.height]).encode())
    arrays = [np.asarray(a) for a in vars(params).values()]
    for array in (*arrays, cameras.viewmats, cameras.Ks, track.frames, track.timestamps_s, track.confidence):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
