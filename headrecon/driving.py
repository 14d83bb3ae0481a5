"""One head moved as another: `headrecon.drive`, and `headrecon drive HEAD --with TRACK --out clip.mp4`.

Expression, jaw, eyes, turns of the head and how it moves about come from the track; shape, hair and skin stay the
head's.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from headrecon.errors import AssetError, InputError
from headrecon.geometry import so3
from headrecon.io.tracks import nominal_rate, read_track
from headrecon.io.video_writer import write_timed_mp4
from headrecon.models.point_model import PointModel
from headrecon.models.retargeting import retarget
from headrecon.models.store import load_head
from headrecon.rendering.cameras_orbit import orbit_views
from headrecon.rendering.lighting import Lighting, soft_front
from headrecon.rendering.look import Appearance, RenderOptions
from headrecon.rendering.pictures import draw
from headrecon.saved_head import SavedHead, joint_model, load_saved_head
from headrecon.structures import Cameras, HeadAssets, Mesh, Track

CAMERAS = ("front", "track")
#: The track's longest side is drawn at most so large unless a size is given.
_LARGEST = 1024
_LEYE, _REYE = 3, 4
Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class DriveOptions:
    """How a driven clip looks. camera: "front" stands still before the head; "track" is the one that filmed the track.

    size: pixels, (width, height), both even; None is 512 x 512 for "front" and the track's own for "track".
    background: sRGB 0..1. lighting: None is even and soft. supersample: 1 to 3 samples per pixel and direction.
    audio: a file whose sound goes with the clip, such as the video that was tracked.
    """

    camera: str = "front"
    size: tuple[int, int] | None = None
    background: tuple[float, float, float] = (0.93, 0.93, 0.94)
    lighting: Lighting | None = None
    supersample: int = 2
    audio: str | os.PathLike[str] | None = None


def drive(
    head: str | os.PathLike[str] | SavedHead,
    track: str | os.PathLike[str] | Track,
    options: DriveOptions | None = None,
) -> DrivenHead:
    """Prepare a head to move as a track does; `frames()` of the result draws it, `save(path)` writes a clip.

    head: an output folder of `reconstruct` or `track`. track: a `track.npz`, a folder that holds one, or a `Track`.
    Heads of different models meet by the names of their expressions (`models.retargeting`).
    Raises InputError or AssetError for what cannot be used.
    """
    options = options or DriveOptions()
    _check(options)
    if not isinstance(track, Track):
        path = Path(track)
        track = read_track(path / "track.npz" if path.is_dir() else path)
    saved = head if isinstance(head, SavedHead) else load_saved_head(Path(head))
    return DrivenHead(saved, track, options)


def _check(options: DriveOptions) -> None:
    if options.camera not in CAMERAS:
        raise InputError(f"camera must be one of {', '.join(CAMERAS)}, found {options.camera!r}")
    if options.size is not None and not all(16 <= n <= 8192 and n % 2 == 0 for n in options.size):
        raise InputError(f"the size must be two even numbers of pixels from 16 to 8192, found {options.size}")
    if not all(0 <= c <= 1 for c in options.background):
        raise InputError(f"the background must be three numbers from 0 to 1, found {options.background}")
    if options.audio is not None and not Path(options.audio).is_file():
        raise InputError(f"{options.audio} does not exist; expected a file with sound")


@dataclass(frozen=True)
class DrivenHead:
    """A head and the motion it takes. rows: its parameters per frame (flat, as `ParamLayout` has them)."""

    head: SavedHead
    track: Track
    options: DriveOptions = field(default_factory=DriveOptions)

    def __len__(self) -> int:
        return len(self.track)

    @cached_property
    def _joints(self) -> PointModel:
        return joint_model(self.head.assets)

    @cached_property
    def _motion(self) -> tuple[Float[np.ndarray, "T P"], tuple[str, ...]]:
        """Parameters placed in the world of the cameras, and the names of expressions that were lost."""
        found = retarget(self.track, self.head.assets, self.head.betas)
        rows, layout = found.rows, self.head.layout
        where = self._eyes_of_track()
        if self.options.camera == "front":
            rows, where = _faced(rows, where, layout.slices["global_orient"], self.track)
        between = np.array([self._joints.joints(row)[[_LEYE, _REYE]].mean(0) for row in rows])
        rows[:, layout.slices["transl"]] = where - between
        return rows, found.lost

    @property
    def rows(self) -> Float[np.ndarray, "T P"]:
        """Flat parameters of the driven head, one row a frame."""
        return self._motion[0]

    @property
    def notes(self) -> tuple[str, ...]:
        """What of the motion this head cannot show."""
        lost = self._motion[1]
        names = ", ".join(lost[:6]) + (f" and {len(lost) - 6} more" if len(lost) > 6 else "")
        return (f"the head has no expression named {names}; this part of the motion is lost",) if lost else ()

    def _eyes_of_track(self) -> Float[np.ndarray, "T 3"]:
        """The point between the tracked person's eyes in the world. Without their head model, how it moves about."""
        params = self.track.params
        try:
            assets = self._source_assets()
        except AssetError as error:
            if self.options.camera == "track":
                raise AssetError(
                    f"the track is of the head model {self.track.model!r}, which is not here; bring it in with "
                    "`headrecon models add PATH`, or use the camera 'front'"
                ) from error
            return np.asarray(params.transl, dtype=np.float64)
        model = self._joints if assets is self.head.assets else joint_model(assets)
        rows = retarget(self.track, assets, self.track.betas).rows
        rows[:, model.layout.slices["transl"]] = params.transl
        return np.array([model.joints(row)[[_LEYE, _REYE]].mean(0) for row in rows])

    def _source_assets(self) -> HeadAssets:
        return self.head.assets if self.track.model == self.head.assets.name else load_head(self.track.model)

    @cached_property
    def cameras(self) -> Cameras:
        """One camera per frame."""
        if self.options.camera == "track":
            return _resized(self.track.cameras, self.options.size)
        some = np.unique(np.linspace(0, len(self) - 1, min(len(self), 24)).round().astype(int))
        reach = np.concatenate([self.vertices(int(i)) for i in some])
        camera = orbit_views(reach, [0.0], self.options.size or (512, 512))
        count = len(self)
        return replace(camera, viewmats=np.tile(camera.viewmats, (count, 1, 1)), Ks=np.tile(camera.Ks, (count, 1, 1)))

    def vertices(self, index: int) -> Float[np.ndarray, "V 3"]:
        """The posed head of a frame, with its hair, in metres."""
        return self.head.posed(self._joints, self.rows[index])

    @cached_property
    def _texture(self) -> Float[np.ndarray, "S s 3"]:
        """The texture, no finer than pictures show it: halving it in every frame would take longer than drawing."""
        texture = self.head.texture.astype(np.float32) / 255
        largest = 1.5 * max(self.cameras.width, self.cameras.height) * self.options.supersample
        while max(texture.shape) > largest and texture.shape[0] % 2 == 0 and texture.shape[1] % 2 == 0:
            texture = (texture[::2, ::2] + texture[1::2, ::2] + texture[::2, 1::2] + texture[1::2, 1::2]) / 4
        return texture

    def frame(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        """Draw one frame."""
        assets, o = self.head.assets, self.options
        cameras = self.cameras
        camera = replace(cameras, viewmats=cameras.viewmats[index], Ks=cameras.Ks[index])
        look = RenderOptions(
            lighting=o.lighting or soft_front(), supersample=o.supersample, background_srgb=o.background
        )
        mesh = Mesh(self.vertices(index).astype(np.float32), assets.faces, assets.uvs, assets.uv_faces)
        picture = next(draw(mesh, camera, Appearance(texture_srgb=self._texture), look))
        return (picture.image_srgb.clip(0, 1) * 255 + 0.5).astype(np.uint8)

    def frames(self) -> Iterator[tuple[float, UInt8[np.ndarray, "H W 3"]]]:
        """All frames with their times in seconds, one in memory at a time."""
        return ((float(self.track.timestamps_s[i]), self.frame(i)) for i in range(len(self)))

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
        head, s, rows = self.head, self.head.layout.slices, self.rows
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


def _faced(
    rows: np.ndarray, where: np.ndarray, orient: slice, track: Track
) -> tuple[Float[np.ndarray, "T P"], Float[np.ndarray, "T 3"]]:
    """The same motion of a head that mostly looks along +z and is mostly at the origin."""
    head = so3.exp(np.asarray(track.params.global_orient)) @ so3.exp(np.asarray(track.params.neck_pose))
    sure = track.confidence > 0
    sure = sure if sure.any() else np.ones(len(track), bool)
    # The median: a turn to profile and back does not change where the head mostly looks.
    u, _, vt = np.linalg.svd(np.median(head[sure], axis=0))
    back = (u @ np.diag([1.0, 1.0, np.linalg.det(u @ vt)]) @ vt).T
    rows = rows.copy()
    rows[:, orient] = [so3.log(back @ r) for r in so3.exp(np.asarray(track.params.global_orient))]
    return rows, (where - np.median(where[sure], axis=0)) @ back.T


def _resized(cameras: Cameras, size: tuple[int, int] | None) -> Cameras:
    """The track's cameras for pictures of another size: all of the old picture is in the new one, in its middle."""
    width, height = cameras.width, cameras.height
    if size is None:
        scale = min(1.0, _LARGEST / max(width, height))
        size = (max(16, 2 * round(scale * width / 2)), max(16, 2 * round(scale * height / 2)))
    factor = min(size[0] / width, size[1] / height)
    ks = np.array(cameras.Ks, dtype=np.float64)
    ks[:, :2] *= factor
    ks[:, 0, 2] += (size[0] - factor * width) / 2
    ks[:, 1, 2] += (size[1] - factor * height) / 2
    return Cameras(cameras.viewmats, ks, *size)
