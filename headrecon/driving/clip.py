"""A driven clip: `headrecon.drive`, and `headrecon drive HEAD --with TRACK --out clip.mp4`.

Expression, jaw, eyes, turns of the head and how it moves about come from the track; shape, hair and skin stay the
head's.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, UInt8

from headrecon.driving.beside import SourcePictures, face_box
from headrecon.driving.cameras import resized, standing_camera, swinging_camera
from headrecon.driving.figures import Figure, MeshFigure, as_figure
from headrecon.driving.motion import Motion, eyes_of_track, motion_for
from headrecon.driving.options import DriveOptions
from headrecon.driving.sources import read_track_at
from headrecon.errors import AssetError, InputError
from headrecon.io.tracks import nominal_rate
from headrecon.io.video_writer import write_timed_mp4
from headrecon.saved_head import SavedHead
from headrecon.structures import Cameras, Track

if TYPE_CHECKING:
    from headrecon.avatars.protocol import Avatar

Progress = Callable[[str, float], None]


def drive(
    head: str | os.PathLike[str] | SavedHead | Avatar | Figure,
    track: str | os.PathLike[str] | Track,
    options: DriveOptions | None = None,
) -> DrivenHead:
    """Prepare a head to move as a track does; `frames()` of the result draws it, `save(path)` writes a clip.

    head: an avatar, an output folder of `reconstruct` or `track`, or the folder of an avatar. track: a `track.npz`, a
    folder that holds one, or a `Track`; `driving.sources.motion_source` makes one of a video.
    Heads of different models meet by the names of their expressions (`models.retargeting`).
    Raises InputError or AssetError for what cannot be used.
    """
    options = (options or DriveOptions()).check()
    if not isinstance(track, Track):
        track = read_track_at(track)
    return DrivenHead(as_figure(head), track, options)


@dataclass(frozen=True)
class DrivenHead:
    """A figure and the motion it takes. rows: its parameters per frame (flat, as its `joints.layout` has them)."""

    figure: Figure
    track: Track
    options: DriveOptions = field(default_factory=DriveOptions)

    def __len__(self) -> int:
        return len(self.track)

    @cached_property
    def _motion(self) -> Motion:
        return motion_for(self.figure, self.track, self.options.camera == "track", self.options.relative)

    @property
    def rows(self) -> Float[np.ndarray, "T P"]:
        """Flat parameters of the driven head, one row a frame."""
        return self._motion.rows

    @property
    def notes(self) -> tuple[str, ...]:
        """What of the motion this head cannot show."""
        lost = self._motion.lost
        names = ", ".join(lost[:6]) + (f" and {len(lost) - 6} more" if len(lost) > 6 else "")
        return (f"the head has no expression named {names}; this part of the motion is lost",) if lost else ()

    @cached_property
    def cameras(self) -> Cameras:
        """One camera per frame."""
        camera, size = self.options.camera, self.options.size
        if camera == "track":
            return resized(self.track.cameras, size)
        if camera == "orbit":
            return swinging_camera(self.figure, self.rows, self.track.timestamps_s, size)
        return standing_camera(self.figure, self.rows, size)

    def frame(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        """Draw one frame."""
        cameras = self.cameras
        camera = replace(cameras, viewmats=cameras.viewmats[index], Ks=cameras.Ks[index])
        return self.figure.picture(self.rows[index], camera, self.options.look)

    def frames(self) -> Iterator[tuple[float, UInt8[np.ndarray, "H W 3"]]]:
        """All frames with their times in seconds, one in memory at a time; the source is to the left where wanted."""
        times = self.track.timestamps_s
        if self.options.beside is None:
            yield from ((float(times[i]), self.frame(i)) for i in range(len(self)))
            return
        source = SourcePictures(Path(self.options.beside), self.track, self._beside_box)
        with closing(source.pictures(self.cameras.height)) as pictures:
            for i, picture in enumerate(pictures):
                yield float(times[i]), np.concatenate([picture, self.frame(i)], axis=1)

    @property
    def _beside_box(self) -> tuple[float, float, float, float] | None:
        """What of the source is shown: all of it where the camera is its own, else its head."""
        if self.options.camera == "track":
            return None
        try:
            eyes = eyes_of_track(self.figure, self.track)
        except AssetError:  # without their model nobody knows where the eyes are
            return None
        return face_box(self.track, eyes, self.cameras.width / self.cameras.height)

    def save(self, path: str | os.PathLike[str], overwrite: bool = False, progress: Progress | None = None) -> Path:
        """Write the clip (MP4), whole or not at all, each frame at the time the track has it. Raises InputError."""
        path = Path(path)
        check_target(path, ".mp4", overwrite)
        partial = path.with_name(f".{path.stem}.partial-{secrets.token_hex(4)}.mp4")
        start, rate = float(self.track.timestamps_s[0]), float(nominal_rate(self.track.timestamps_s))
        audio = None if self.options.audio is None else Path(self.options.audio)
        try:
            write_timed_mp4(partial, self._told(progress), rate, audio, start)
            os.replace(partial, path)
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror or error}") from error
        finally:
            partial.unlink(missing_ok=True)
        return path

    def _told(self, progress: Progress | None) -> Iterator[tuple[float, np.ndarray]]:
        for done, frame in enumerate(self.frames()):
            if progress is not None:
                progress("drawing the frames", 0.1 + 0.9 * done / len(self))
            yield frame

    def save_glb(self, path: str | os.PathLike[str], overwrite: bool = False) -> Path:
        """Write the rigged head with the motion as an animation, whole or not at all. Raises InputError."""
        from headrecon.io.meshes.glb import RiggedHead, write_glb
        from headrecon.io.meshes.glb_motion import HeadMotion
        from headrecon.structures import POSE_FIELDS

        path = Path(path)
        check_target(path, ".glb", overwrite)
        figure = check_animated(self.figure, path)
        head, s, rows = figure.head, figure.head.layout.slices, self.rows
        motion = HeadMotion(
            self.track.timestamps_s - self.track.timestamps_s[0],
            rows[:, s["expression"]],
            np.stack([rows[:, s[name]] for name in POSE_FIELDS], axis=1),
            rows[:, s["transl"]],
        )
        rigged = RiggedHead(
            head.assets, head.neutral, head.texture, licences=head.licences, offsets=head.offsets, motion=motion
        )
        partial = path.with_name(f".{path.stem}.partial-{secrets.token_hex(4)}.glb")
        try:
            write_glb(partial, rigged)
            os.replace(partial, path)
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror or error}") from error
        finally:
            partial.unlink(missing_ok=True)
        return path


def check_target(path: Path, suffix: str, overwrite: bool) -> None:
    """Raise InputError unless a file of that ending can be written there."""
    if path.suffix.lower() != suffix:
        raise InputError(f"cannot write {path}: expected a name ending in {suffix}")
    if path.is_dir():
        raise InputError(f"cannot write {path}: it is a folder; expected a file ending in {suffix}")
    if not path.absolute().parent.is_dir():
        raise InputError(f"cannot write {path}: the folder {path.parent} does not exist")
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists; choose another name, or replace it: --overwrite")


def check_animated(figure: Figure, path: Path) -> MeshFigure:
    """The figure, which can be written as an animated GLB; raise InputError for an avatar."""
    if isinstance(figure, MeshFigure):
        return figure
    raise InputError(
        f"cannot write {path}: an animated GLB holds a mesh head, and this is an avatar; `headrecon export` writes "
        "splats"
    )
