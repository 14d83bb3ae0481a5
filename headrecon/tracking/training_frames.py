"""Frames, masks and cameras for trainers of avatars: `frames/`, `masks/`, `transforms.json`, `transforms_head.json`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Float

from headrecon.geometry.cameras import project_points
from headrecon.io.cameras import write_transforms
from headrecon.io.images import save_png
from headrecon.io.video_reader import VideoReader
from headrecon.models.moving_head import MovingHead
from headrecon.models.posed_mesh import embed
from headrecon.structures import LandmarkEmbedding
from headrecon.tracking.run import TrackResult
from headrecon.tracking.seen import ahead


def write_training_frames(folder: Path, result: TrackResult, reader: VideoReader) -> None:
    """Write every tracked frame, the opacity of its person (8 bits), and the cameras, one picture in memory at a time.

    A frame in which nobody is seen has an empty mask. Entries of `transforms.json` are in the order of `track.npz` and
    name time and place there, as trainers that move a head model want it. `transforms_head.json` is for those that know
    of nothing that moves: the head rests, the cameras go around it, and frames without a face are left out.
    """
    from headrecon.perception.tracked_mask import tracked_mask  # imports SciPy, which drafts do without

    track = result.track
    for name in ("frames", "masks"):
        (folder / name).mkdir()
    head = MovingHead.of(result.engine.assets, track)
    marks = _face_points(head, result.engine.assets.landmarks["mediapipe478"])
    wide = 2 * float(np.arctan(0.5 * track.cameras.width / track.cameras.Ks[0, 0, 0]))
    place, names, further = 0, [], []
    for frame in ahead(reader.frames(int(track.frames[0]))):
        if place < len(track) and frame.index == track.frames[place]:
            file = f"{frame.index:06d}.png"
            picture = frame.image_srgb
            save_png(folder / "frames" / file, picture)
            mask = np.zeros(picture.shape[:2], np.uint8)
            if track.confidence[place] > 0:
                mask = tracked_mask(picture, result.engine.networks, marks(place))
            save_png(folder / "masks" / file, mask)
            names.append(f"frames/{file}")
            further.append(
                {
                    "mask_path": f"masks/{file}",
                    "fg_mask_path": f"masks/{file}",
                    "camera_angle_x": wide,
                    "time": float(track.timestamps_s[place]),
                    "timestep_index": place,
                    "camera_index": 0,
                }
            )
            place += 1
        if place >= len(track):
            break
    write_transforms(folder / "transforms.json", track.cameras, names, further)
    shown = [i for i in range(len(names)) if track.confidence[i] > 0]
    cameras = replace(
        track.cameras,
        viewmats=np.stack([track.cameras.viewmats[i] @ head.skull(i) for i in shown]),
        Ks=track.cameras.Ks[shown],
    )
    picked = ([column[i] for i in shown] for column in (names, further))
    write_transforms(folder / "transforms_head.json", cameras, *picked)


def _face_points(head: MovingHead, marks: LandmarkEmbedding) -> Callable[[int], Float[np.ndarray, "478 3"]]:
    """The head's own points in the picture, by place in the track."""

    def at(place: int) -> np.ndarray:
        pixels, _ = project_points(embed(head.vertices(place), marks), head.camera(place))
        return np.concatenate([pixels, np.zeros((len(pixels), 1))], axis=1)

    return at
