"""Where motion comes from: a track, or a video that is tracked first."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from headrecon.config import resolve_kind
from headrecon.errors import AssetError, InputError
from headrecon.io.tracks import read_track
from headrecon.io.video_reader import VideoReader
from headrecon.structures import Track
from headrecon.tracking.settings import TrackConfig

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class MotionSource:
    """A motion. video: the file that it was tracked in, where that is known. note: what the user should hear."""

    track: Track
    video: Path | None = None
    note: str = ""


def read_track_at(path: str | os.PathLike[str]) -> Track:
    """A `track.npz`, or the one in a folder. Raises AssetError."""
    path = Path(path)
    return read_track(path / "track.npz" if path.is_dir() else path)


def motion_source(
    path: str | os.PathLike[str],
    keep: str | os.PathLike[str],
    preset: str | None = None,
    progress: Progress | None = None,
) -> MotionSource:
    """A track as it is; of a video, its track, which is kept in the folder `keep`.

    A video whose track lies in `keep` already is not tracked again. preset: of tracking. Tracking that was stopped goes
    on where it was when this is called again. Raises InputError, AssetError or NoFaceFound.
    """
    path, keep = Path(path), Path(keep)
    if path.is_dir() or path.suffix.lower() == ".npz":
        return MotionSource(read_track_at(path))
    if keep.exists():
        return _kept(path, keep)
    from headrecon.tracking.run import track

    config = resolve_kind(TrackConfig, preset, {}, {"output.overlay": False})
    made = track(path, keep, config, progress=progress)
    return MotionSource(made, path, f"the track of {path} is kept in {keep}; --with {keep} uses it again")


def _kept(video: Path, folder: Path) -> MotionSource:
    """The track that an earlier run left, if it is of this video."""
    info = VideoReader(video).info
    try:
        found = json.loads((folder / "track.json").read_text(encoding="utf-8"))["video"]
        track = read_track_at(folder)
        same = (found["file"], found["width"], found["height"]) == (video.name, info.width, info.height)
        newer = (folder / "track.npz").stat().st_mtime >= video.stat().st_mtime
    except (OSError, ValueError, KeyError, TypeError, AssetError) as error:
        raise InputError(f"{folder} exists and holds no track; remove it, or name another --track-out") from error
    if not (same and newer):
        raise InputError(
            f"{folder} holds the track of another video ({found['file']}, {found['width']} x {found['height']}); "
            "remove it, or name another --track-out"
        )
    return MotionSource(track, video, f"the track in {folder} is used, which an earlier run made of {video.name}")
