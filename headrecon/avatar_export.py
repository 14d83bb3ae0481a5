"""Avatars and mesh heads as splats for other tools: `headrecon.export`, and `headrecon export AVATAR --out FILE`.

A face, a frame of a track or a sequence of them is posed, put in place and written by a module of `io.splats`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float

from headrecon.avatar_rig import RIG_FILES, write_rig
from headrecon.avatars.protocol import SplatAvatar
from headrecon.driving.clip import check_target
from headrecon.driving.figures import AvatarFigure, Figure, MeshFigure, load_figure
from headrecon.driving.motion import motion_for
from headrecon.driving.sources import read_track_at
from headrecon.errors import AssetError, InputError
from headrecon.geometry import so3
from headrecon.io.runs import check_output_folder, output_folder, write_json
from headrecon.io.splats.cloud import AXES, SplatCloud, cloud_from
from headrecon.io.splats.glb import write_splat_glb
from headrecon.io.splats.html import SplatPage, write_splat_html
from headrecon.io.splats.ply import write_splat_ply
from headrecon.io.splats.splat import write_splat
from headrecon.io.splats.spz import write_spz
from headrecon.models.named_weights import read_weights
from headrecon.structures import Gaussians, Track

#: Format -> the ending of its files.
FORMATS = {"ply": ".ply", "splat": ".splat", "spz": ".spz", "glb-splat": ".glb", "html": ".html"}
PLACES = ("rest", "track")
SCHEMA = "headrecon.splats/1"
Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class ExportOptions:
    """What is exported, and how.

    format: one of `FORMATS`. The face: calm, or with `expression` (`jawOpen=0.6,eyeBlink=1`, or weights by name), or
    the one in `frame` of `track` (a file, a folder or a `Track`; None: the avatar's own). sequence: every `every`-th
    frame of the track; a folder of files, or one page that plays. place: "rest" puts the head at the origin, upright,
    looking (with a track: mostly) along +z, as the head model itself stands; "track" leaves it in the world of the
    track's cameras. axes: of ply and splat files (`io.splats.cloud.AXES`). rig: what others need to move the splats is
    written too. splats: how many a mesh head becomes.
    """

    format: str = "ply"
    expression: str | Mapping[str, float] = ""
    frame: int | None = None
    track: str | os.PathLike[str] | Track | None = None
    sequence: bool = False
    every: int = 1
    place: str = "rest"
    axes: str = "y-down"
    rig: bool = False
    splats: int = 100_000

    def check(self) -> ExportOptions:
        """Return self; raise InputError for the first thing that cannot be used."""
        for name, value, known in (("format", self.format, FORMATS), ("place", self.place, PLACES),
                                   ("axes", self.axes, AXES)):  # fmt: skip
            if value not in known:
                raise InputError(f"{name} must be one of {', '.join(known)}, found {value!r}")
        if self.expression and (self.sequence or self.frame is not None):
            raise InputError("an expression and frames of a track cannot be exported at once; choose one of them")
        if self.sequence and self.frame is not None:
            raise InputError("a sequence has many frames; leave out --frame, or --sequence")
        if self.every < 1:
            raise InputError(f"every must be 1 or more, found {self.every}")
        moving = self.sequence or self.frame is not None
        if not moving and (self.track is not None or self.place == "track"):
            raise InputError("a track needs --frame N or --sequence to say which of its frames are exported")
        return self


@dataclass(frozen=True)
class Exported:
    """What was written. files: the splats first. notes: what the user should hear."""

    files: tuple[Path, ...]
    gaussians: int
    frames: int
    notes: tuple[str, ...] = field(default=())


def export(
    avatar: str | os.PathLike[str] | SplatAvatar,
    out: str | os.PathLike[str],
    options: ExportOptions | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Exported:
    """Write splats of an avatar's folder, of the folder of a mesh head, or of an avatar in memory.

    out: a file with the format's ending; for a sequence in other formats than html, a folder. Everything is written
    whole or not at all. Raises InputError or AssetError for what cannot be used.
    """
    options = (options or ExportOptions()).check()
    out, single = Path(out), not options.sequence or options.format == "html"
    _check_out(out, options, single, overwrite)
    tell = progress or (lambda what, share: None)
    tell("reading the avatar", 0.0)
    subject = _subject(avatar, options)
    posed = Posed(subject, options)
    if not single:
        files = _write_folder(out, posed, _texture(avatar), overwrite, tell)
        return Exported(files, subject.count, len(posed), posed.notes)
    files = (_write_page(out, posed, tell) if options.sequence else _write_one(out, posed, tell),)
    if options.rig:
        tell("writing the rig", 0.95)
        files += write_rig(out.parent, f"{out.stem}.", subject.avatar, _texture(avatar))
    return Exported(files, subject.count, len(posed), posed.notes)


def _check_out(out: Path, options: ExportOptions, single: bool, overwrite: bool) -> None:
    if single:
        check_target(out, FORMATS[options.format], overwrite)
        for name in RIG_FILES if options.rig else ():
            check_target(out.with_name(f"{out.stem}.{name}"), Path(name).suffix, overwrite)
    elif out.suffix.lower() in FORMATS.values():
        raise InputError(f"--out {out}: a sequence of {options.format} files needs a folder; leave out {out.suffix}")
    else:
        check_output_folder(out, overwrite)


# --- whom ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Subject:
    """An avatar, with the folder that it came from."""

    avatar: SplatAvatar
    folder: Path | None = None

    @cached_property
    def figure(self) -> Figure:
        return AvatarFigure(self.avatar)

    @cached_property
    def count(self) -> int:
        return len(self.avatar.gaussians(self.avatar.rest()))

    @property
    def antialiased(self) -> bool:
        """How its Gaussians were fitted, and so must be drawn."""
        if self.avatar.kind != "gaussian":
            return False
        from headrecon.avatars.gaussian.model import SPLAT_OPTIONS

        return SPLAT_OPTIONS.antialiased


def _subject(avatar: str | os.PathLike[str] | SplatAvatar, options: ExportOptions) -> Subject:
    if not isinstance(avatar, (str, os.PathLike)):
        return Subject(avatar)
    figure = load_figure(avatar)
    if isinstance(figure, MeshFigure):
        from headrecon.mesh_splats import splats_of_mesh

        return Subject(splats_of_mesh(figure.head, options.splats), Path(avatar))
    if not isinstance(figure.avatar, SplatAvatar):
        raise InputError(f"{avatar}: an avatar of the kind {figure.avatar.kind} holds no splats to export")
    return Subject(figure.avatar, Path(avatar))


def _texture(avatar: object) -> np.ndarray | None:
    """The texture of the mesh head in the same folder, where there is one."""
    from headrecon.saved_head import load_saved_head

    if not isinstance(avatar, (str, os.PathLike)):
        return None
    try:
        return load_saved_head(Path(avatar)).texture
    except (InputError, AssetError):
        return None


# --- how -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Posed:
    """The sets of Gaussians that an export writes, one for each instant."""

    subject: Subject
    options: ExportOptions

    def __len__(self) -> int:
        return len(self._rows)

    @cached_property
    def track(self) -> Track | None:
        """The frames that are wanted, and no others."""
        o = self.options
        if not o.sequence and o.frame is None:
            return None
        track = o.track if isinstance(o.track, Track) else self._read_track(o.track)
        if o.sequence:
            return track.take(np.arange(0, len(track), o.every))
        return track

    def _read_track(self, named: str | os.PathLike[str] | None) -> Track:
        if named is not None:
            return read_track_at(named)
        folder = self.subject.folder
        if folder is None or not (folder / "track.npz").is_file():
            raise InputError(
                "the avatar's folder holds no track.npz; name the track whose frames are wanted: --track TRACK"
            )
        return read_track_at(folder)

    @cached_property
    def _motion(self) -> tuple[Float[np.ndarray, "T P"], tuple[str, ...]]:
        figure, track = self.subject.figure, self.track
        if track is None:
            row = figure.rest()
            row[figure.joints.layout.slices["expression"]] = _weights(
                self.options.expression, figure.assets.expression_names
            )
            return row[None], ()
        motion = motion_for(figure, track, in_track=self.options.place == "track")
        rows = motion.rows if self.options.frame is None else motion.rows[[self._place_of_frame(track)]]
        return rows, motion.lost

    def _place_of_frame(self, track: Track) -> int:
        found = np.flatnonzero(track.frames == self.options.frame)
        if not len(found):
            raise InputError(
                f"--frame {self.options.frame}: the track has frames {int(track.frames[0])} to {int(track.frames[-1])} "
                f"({len(track)} of them)"
            )
        return int(found[0])

    @property
    def _rows(self) -> Float[np.ndarray, "T P"]:
        return self._motion[0]

    @property
    def notes(self) -> tuple[str, ...]:
        lost = self._motion[1]
        names = ", ".join(lost[:6]) + (f" and {len(lost) - 6} more" if len(lost) > 6 else "")
        return (f"the head has no expression named {names}; this part of the motion is lost",) if lost else ()

    @property
    def times_s(self) -> list[float]:
        """From 0 on."""
        if self.track is None or not self.options.sequence:
            return [0.0]
        return [float(t) for t in self.track.timestamps_s - self.track.timestamps_s[0]]

    @property
    def frame_numbers(self) -> list[int]:
        """Of the video that was tracked."""
        return [0] if self.track is None else [int(f) for f in self.track.frames]

    def sets(self) -> Iterator[SplatCloud]:
        """The Gaussians of each instant, in place, one set in memory at a time."""
        unpack = self.subject.figure.joints.layout.unpack
        for row in self._rows:
            cloud = cloud_from(self.subject.avatar.gaussians(unpack(row)))
            yield cloud if self.options.place == "track" else cloud.moved(*self._home)

    @cached_property
    def _home(self) -> tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, "3"]]:
        """The rigid map that takes the avatar at rest to where its head model stands: at the origin, facing +z."""
        figure = self.subject.figure
        rest, slices = figure.rest(), figure.joints.layout.slices
        joint = figure.joints.joints(figure.joints.layout.zeros())[0]
        turn = so3.exp(rest[slices["global_orient"]]).T
        return turn, joint - turn @ (joint + rest[slices["transl"]])


def _weights(expression: str | Mapping[str, float], names: tuple[str, ...]) -> Float[np.ndarray, " Ne"]:
    if not isinstance(expression, str):
        expression = ",".join(f"{name}={weight}" for name, weight in expression.items())
    return read_weights(expression, names)


# --- writing ---------------------------------------------------------------------------------------------------------


def _write_one(path: Path, posed: Posed, tell: Progress) -> Path:
    cloud = next(posed.sets())
    tell(f"writing {path.name}", 0.9)
    _write(path, posed, cloud.gaussians())
    return path


def _write(path: Path, posed: Posed, gaussians: Gaussians) -> None:
    o, licences = posed.options, posed.subject.avatar.person.licences
    if o.format == "ply":
        write_splat_ply(path, gaussians, o.axes)
    elif o.format == "splat":
        write_splat(path, gaussians, o.axes)
    elif o.format == "spz":
        write_spz(path, gaussians, antialiased=posed.subject.antialiased)
    elif o.format == "glb-splat":
        write_splat_glb(path, gaussians, licences)
    else:
        write_splat_html(path, gaussians, _page(path, posed))


def _page(path: Path, posed: Posed) -> SplatPage:
    licences = posed.subject.avatar.person.licences
    notes = "; ".join(dict.fromkeys(f"{x.name}: {x.spdx}" for x in licences))
    times = posed.times_s
    usual = float(np.median(np.diff(times))) if len(times) > 1 else 1 / 25
    return SplatPage(path.stem, times, usual, posed.subject.antialiased, notes)


def _write_page(path: Path, posed: Posed, tell: Progress) -> Path:
    sets = []
    for done, cloud in enumerate(posed.sets()):
        tell("posing the frames", 0.05 + 0.7 * done / len(posed))
        sets.append(cloud.gaussians())
    tell("packing the page", 0.75)
    write_splat_html(path, sets, _page(path, posed))
    return path


def _write_folder(
    out: Path, posed: Posed, texture: np.ndarray | None, overwrite: bool, tell: Progress
) -> tuple[Path, ...]:
    """A file per frame, numbered as the video's frames are, and `splats.json` that says what they are."""
    suffix = FORMATS[posed.options.format]
    names = [f"frame_{number:06d}{suffix}" for number in posed.frame_numbers]
    with output_folder(out, overwrite) as staging:
        for done, (name, cloud) in enumerate(zip(names, posed.sets(), strict=True)):
            tell("writing the frames", 0.05 + 0.9 * done / len(posed))
            _write(staging / name, posed, cloud.gaussians())
        write_json(staging / "splats.json", _document(posed, names))
        if posed.options.rig:
            names += [path.name for path in write_rig(staging, "", posed.subject.avatar, texture)]
    return tuple(out / name for name in names)


def _document(posed: Posed, names: list[str]) -> dict[str, object]:
    licences = posed.subject.avatar.person.licences
    o = posed.options
    return {
        "schema": SCHEMA, "format": o.format, "gaussians": posed.subject.count, "place": o.place,
        "axes": o.axes if o.format in ("ply", "splat") else "y-up", "antialiased": posed.subject.antialiased,
        "licences": [{"name": x.name, "spdx": x.spdx, "source": x.source} for x in dict.fromkeys(licences)],
        "commercial_use": all(x.commercial for x in licences),
        "frames": [
            {"file": name, "frame": number, "time_s": time}
            for name, number, time in zip(names, posed.frame_numbers, posed.times_s, strict=True)
        ],
    }  # fmt: skip
