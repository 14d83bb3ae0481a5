"""Footage with exact truth: a synthetic person, their exact track and mattes, and views from beside the camera."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from headrecon.avatars.footage import Footage
from headrecon.avatars.footage_store import finish, footage_draft, stored
from headrecon.avatars.protocol import Progress
from headrecon.datasets.head_motion import MotionOptions
from headrecon.datasets.synthetic_video import SyntheticVideo, VideoOptions
from headrecon.geometry import so3
from headrecon.models.posed_mesh import embed
from headrecon.structures import Cameras, HeadAssets

#: Degrees to the person's left, then up, of the cameras that judge novel views.
VIEWS: tuple[tuple[float, float], ...] = (
    *((float(yaw), 0.0) for yaw in (-60, -45, -30, -15, 15, 30, 45, 60)),
    *((float(yaw), float(pitch)) for yaw, pitch in ((0, 20), (0, -20), (30, 20), (-30, 20))),
)
_VERSION = 1


def avatar_motion() -> MotionOptions:
    """How people move who film themselves for an avatar: on a tripod, in one light, turning to one side and nodding."""
    return MotionOptions(turn=40.0, sway=12.0, camera=0.0, light=False, moods=0.5)


@dataclass(frozen=True)
class SyntheticFootageOptions:
    """video: the clip, of which noise is left out by default."""

    video: VideoOptions = field(
        default_factory=lambda: VideoOptions(seconds=10.0, noise=0.0, motion=avatar_motion(), torso=True)
    )


def synthetic_footage(
    assets: HeadAssets,
    seed: int,
    folder: str | Path,
    options: SyntheticFootageOptions | None = None,
    progress: Progress | None = None,
) -> Footage:
    """Draw the footage of a seed's person into `folder`, or open it if it lies there. All frames are usable.

    Tracks are exact: what an avatar then misses is its own. Resumable as `build_footage`. Raises InputError.
    """
    folder, options = Path(folder), options or SyntheticFootageOptions()
    video = SyntheticVideo(assets, seed, options.video)
    job = {"version": _VERSION, "seed": seed, "model": [assets.name, assets.version], **asdict(options)}
    if (found := stored(folder, job)) is not None:
        return found
    report = progress or (lambda stage, fraction: None)
    with footage_draft(folder, job, len(video), options.video.size) as draft:
        for row in draft.rows("drawn"):
            draft.colours[row], draft.alphas[row] = video.cut_out(row)
            report("drawing the person", (row + 1) / len(video))
        page = {"job": job, "frames": len(video), "usable": len(video)}
        return finish(draft, folder, video.track, np.ones(len(video), bool), page)


def novel_views(
    assets: HeadAssets,
    seed: int,
    instants: tuple[int, ...],
    views: tuple[tuple[float, float], ...] = VIEWS,
    options: SyntheticFootageOptions | None = None,
) -> Footage:
    """Chosen frames of the same clip from other cameras, all views of the first instant, then all of the next.

    views: degrees to the person's left and up from the clip's own camera, about the middle between the ears. Row k of
    the result shows instant k // len(views); `track.frames` is a running number there.
    """
    options = options or SyntheticFootageOptions()
    video = SyntheticVideo(assets, seed, options.video)
    rows = np.repeat(np.asarray(instants), len(views))
    cameras = [_beside(video, int(i), view) for i in instants for view in views]
    pictures = [video.cut_out(int(i), camera) for i, camera in zip(rows, cameras, strict=True)]
    shown = replace(video.track, frames=np.arange(len(video)))
    taken = shown.take(rows)
    track = replace(
        taken,
        cameras=replace(taken.cameras, viewmats=np.stack([c.viewmats for c in cameras])),
        frames=np.arange(len(rows)),
        timestamps_s=np.arange(len(rows)) / options.video.fps,
    )
    colours, alphas = (np.stack(part) for part in zip(*pictures, strict=True))
    return Footage(track.validate(), colours, alphas, np.ones(len(rows), bool)).validate()


def _beside(video: SyntheticVideo, index: int, view: tuple[float, float]) -> Cameras:
    """The clip's camera of a frame, turned about the middle of the face's outline."""
    cameras = video.track.cameras
    viewmat = np.asarray(cameras.viewmats[index], dtype=np.float64)
    marks = embed(video.vertices(index, hair=False), video.assets.landmarks["ibug68"])
    centre = viewmat[:3, :3] @ marks[[0, 16]].mean(0) + viewmat[:3, 3]
    yaw, pitch = np.radians(view)
    # Camera axes: +y down. Turning the world one way is walking round it the other way.
    turn = so3.exp(np.array([pitch, 0.0, 0.0])) @ so3.exp(np.array([0.0, yaw, 0.0]))
    moved = np.eye(4)
    moved[:3, :3] = turn
    moved[:3, 3] = centre - turn @ centre
    return replace(cameras, viewmats=moved @ viewmat, Ks=cameras.Ks[index])
