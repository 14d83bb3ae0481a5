"""A track and its video to `Footage`: crop, masks, steadied edges, colours of the person alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from headrecon.avatars.footage import Footage
from headrecon.avatars.footage_crop import Crop, choose_crop
from headrecon.avatars.footage_matting import Steadied, background_plate, foreground_colours
from headrecon.avatars.footage_source import FootageSource, SourceFrame
from headrecon.avatars.footage_store import FootageDraft, finish, footage_draft, stored
from headrecon.avatars.protocol import Progress
from headrecon.errors import InputError
from headrecon.geometry.cameras import project_points
from headrecon.models.moving_head import MovingHead
from headrecon.models.posed_mesh import embed
from headrecon.models.store import load_head
from headrecon.perception.face_following import look_again
from headrecon.perception.face_landmarks import Look
from headrecon.perception.networks import Networks, load_networks
from headrecon.perception.tracked_mask import tracked_mask
from headrecon.structures import HeadAssets

#: Changes when the same inputs give other footage: older caches are made again.
_VERSION = 2
#: What a mask must be to be believed: hold this share of the face's points, and be no other size than most masks are.
_FACE_HELD, _AREA = 0.85, (0.6, 1.6)
#: Frames that are compared with the track, and how far off points are in another video, in heights of the face: the
#: track's own video has 0.01, other moments of it up to 0.13.
_CHECKED, _FACE_OFF = 5, 0.06
#: Frames that tell what the room looks like, all in memory at once.
_PLATE_FRAMES = 24
#: Shares of the whole at which the stages begin, for progress.
_MATTE, _COLOUR = 0.02, 0.72


@dataclass(frozen=True)
class FootageOptions:
    """size: of the square pictures, pixels. least_confidence: of the track, for a frame to be used. least_frames: fewer
    usable ones are refused."""

    size: int = 512
    least_confidence: float = 0.5
    least_frames: int = 30


def build_footage(
    source: FootageSource,
    folder: str | Path,
    options: FootageOptions | None = None,
    progress: Progress | None = None,
    *,
    assets: HeadAssets | None = None,
    networks: Networks | None = None,
) -> Footage:
    """Cut a person out of the video of their track, and keep it in `folder`; what lies there already is used again.

    source: `footage_source.open_source`. assets, networks: where they are loaded already. A run that was killed goes on
    where it stopped. Memory does not grow with the video; the folder takes size² x 4 bytes a frame.
    Raises InputError when track and video do not match, the track is too unsure, too few frames can be used, or the
    disk is full.
    """
    folder, options = Path(folder), options or FootageOptions()
    _check(options)
    report = progress or (lambda stage, fraction: None)
    report("looking at the track", 0.0)
    track = source.track
    trusted = np.asarray(track.confidence >= options.least_confidence)
    _check_trust(trusted, track.confidence, options)
    job = {"version": _VERSION, **source.identity(), **asdict(options)}
    if (found := stored(folder, job)) is not None:
        return found
    assets = assets or load_head(track.model)
    head = MovingHead.of(assets, track)
    crop = choose_crop(head, trusted, options.size)
    with footage_draft(folder, job, len(track), options.size) as draft:
        report("cutting the person out", _MATTE)
        held = _cut_out(source, draft, _Cutter(head, crop, networks), report)
        usable = _usable(trusted, held)
        _check_count(usable, options)
        report("cleaning the edges", _COLOUR)
        _clean(draft, report)
        page = {"job": job, "crop": asdict(crop), "frames": len(track), "usable": int(usable.sum())}
        return finish(draft, folder, replace(track, cameras=crop.cameras(track.cameras)), usable, page)


def _check(options: FootageOptions) -> None:
    if not 64 <= options.size <= 2048 or options.size % 2:
        raise InputError(
            f"the size of an avatar's pictures must be an even number from 64 to 2048, found {options.size}"
        )


def _check_trust(trusted: Bool[np.ndarray, " T"], confidence: Float[np.ndarray, " T"], options: FootageOptions) -> None:
    if trusted.sum() >= options.least_frames:
        return
    if len(confidence) < options.least_frames:
        raise InputError(
            f"the track has {len(confidence)} frames, an avatar needs at least {options.least_frames} that show the "
            "person; track a longer video"
        )
    raise InputError(
        f"only {int(trusted.sum())} of the track's {len(confidence)} frames are surely followed (confidence of "
        f"{options.least_confidence} or more; its mean is {float(np.mean(confidence)):.2f}), an avatar needs at least "
        f"{options.least_frames}; look at the track's report.html and use a video with a larger or better lit face or "
        "track it again with --preset high"
    )


def _check_count(usable: Bool[np.ndarray, " T"], options: FootageOptions) -> None:
    if usable.sum() < options.least_frames:
        raise InputError(
            f"the person can be cut out in {int(usable.sum())} of {len(usable)} frames only, an avatar needs at least "
            f"{options.least_frames}; use a video in which head and shoulders stand clear of what is behind them"
        )


@dataclass(frozen=True)
class _Cutter:
    """What turns a frame of the video into a row of the footage."""

    head: MovingHead
    crop: Crop
    given: Networks | None

    @cached_property
    def networks(self) -> Networks:
        """Loaded when the first frame without a mask is cut."""
        return self.given or load_networks()

    def face(self, place: int) -> Float[np.ndarray, "478 3"]:
        """MediaPipe's points of the tracked head in the scaled square."""
        marks = embed(self.head.vertices(place).astype(np.float64), self.head.assets.landmarks["mediapipe478"])
        pixels, _ = project_points(marks, self.head.camera(place))
        return self.crop.points(np.concatenate([pixels, np.zeros((len(pixels), 1))], axis=1))

    def faces(self, frame: SourceFrame) -> tuple[Float[np.ndarray, "478 3"], Float[np.ndarray, "478 3"]]:
        """MediaPipe's points where the track has them, and as the network reads them there."""
        tracked = self.face(frame.place)
        return tracked, look_again(self.crop.picture(frame.image_srgb), tracked, self.networks, (Look(),))

    def cut(self, frame: SourceFrame) -> tuple[np.ndarray, np.ndarray, tuple[float, float]]:
        """Colours, alphas, and of the mask: share of the face's points that it holds, and its area in pixels."""
        height, width = frame.image_srgb.shape[:2]
        colours = self.crop.picture(frame.image_srgb)
        x0, y0, x1, y1 = self.crop.inside(width, height)
        alphas = np.zeros(colours.shape[:2], np.uint8)
        if self.head.track.confidence[frame.place] <= 0:
            return colours, alphas, (0.0, 0.0)
        points = self.face(frame.place)
        if frame.mask is not None:
            alphas[y0:y1, x0:x1] = self.crop.picture(frame.mask)[y0:y1, x0:x1]
        else:
            inner = np.ascontiguousarray(colours[y0:y1, x0:x1])
            alphas[y0:y1, x0:x1] = tracked_mask(inner, self.networks, points - [x0, y0, 0.0])
        at = np.clip(points[:, :2].astype(int), 0, self.crop.size - 1)
        return colours, alphas, (float((alphas[at[:, 1], at[:, 0]] > 127).mean()), float(alphas.sum() / 255))


class FaceCheck:
    """Whether a video shows the tracked face where the track has it: another one of the same size and length does not.

    A few sure frames are looked at; three whose points are far off on the median are taken for another video.
    """

    def __init__(self, confidence: Float[np.ndarray, " T"]) -> None:
        sure = np.flatnonzero(confidence >= np.median(confidence))
        self._rows = {int(sure[i]) for i in np.linspace(0, len(sure) - 1, _CHECKED).round().astype(int)}
        self._apart: list[float] = []

    def wants(self, row: int) -> bool:
        return row in self._rows

    def compare(self, tracked: Float[np.ndarray, "N 3"], read: Float[np.ndarray, "N 3"]) -> None:
        """Take in one frame. Raises InputError when enough of them are of another face or place."""
        size = float(np.ptp(tracked[:, 1]))
        self._apart.append(float(np.median(np.linalg.norm(tracked[:, :2] - read[:, :2], axis=1))) / max(size, 1e-6))
        if len(self._apart) >= 3 and float(np.median(self._apart)) > _FACE_OFF:
            raise InputError(
                "the video does not show the tracked face where the track has it; name the file that was tracked, or "
                "track this one: headrecon track"
            )


def _cut_out(
    source: FootageSource, draft: FootageDraft, cutter: _Cutter, report: Callable[[str, float], None]
) -> Float[np.ndarray, "T 2"]:
    """Write colours and raw masks of all rows; what `_Cutter.cut` says of each mask."""
    kept = draft.noted("masks")
    start = 0 if kept is None else int(kept["rows"])
    held = np.zeros((draft.count, 2)) if kept is None else np.array(kept["held"])
    check = FaceCheck(cutter.head.track.confidence)
    for frame in source.frames(start):
        row = frame.place
        if frame.mask is None and check.wants(row):
            check.compare(*cutter.faces(frame))
        draft.colours[row], draft.masks[row], held[row] = cutter.cut(frame)
        if (row + 1) % 16 == 0 or row + 1 == draft.count:
            draft.note("masks", {"rows": np.array(row + 1), "held": held})
        report("cutting the person out", _MATTE + (_COLOUR - _MATTE) * (row + 1) / draft.count)
    return held


def _usable(trusted: Bool[np.ndarray, " T"], held: Float[np.ndarray, "T 2"]) -> Bool[np.ndarray, " T"]:
    """Frames whose track is believed and whose mask looks like the others'."""
    good = trusted & (held[:, 0] >= _FACE_HELD)
    if not good.any():
        return good
    area = held[:, 1] / np.median(held[good, 1])
    return good & (area > _AREA[0]) & (area < _AREA[1])


def _clean(draft: FootageDraft, report: Callable[[str, float], None]) -> None:
    """Steady the masks, then take the room's colours out of soft edges."""
    steady = Steadied(draft.count, lambda row: (draft.colours[row], draft.masks[row]))
    for row in draft.rows("steadied"):
        draft.alphas[row] = steady(row)
        report("steadying the edges", _COLOUR + 0.6 * (1 - _COLOUR) * (row + 1) / draft.count)
    plate = _plate(draft)
    # In place: a row that is done must not be done again, so each is counted.
    for row in draft.rows("coloured", every=1):
        draft.colours[row] = foreground_colours(draft.colours[row], draft.alphas[row], plate)
        report("cleaning the edges", 1 - 0.4 * (1 - _COLOUR) * (1 - (row + 1) / draft.count))


def _plate(draft: FootageDraft) -> Float[np.ndarray, "H W 4"]:
    """The room, from frames all over the clip; kept, for later the pictures are without it."""
    kept = draft.noted("plate")
    if kept is None:
        rows = np.unique(np.linspace(0, draft.count - 1, min(draft.count, _PLATE_FRAMES)).round().astype(int))
        kept = {"plate": background_plate((draft.colours[int(i)], draft.masks[int(i)]) for i in rows)}
        draft.note("plate", kept)
    return kept["plate"]
