"""The head's colours and hair from the keyframes that show most of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, UInt8

from headrecon import stages
from headrecon.fitting.video.keyframes import SCALES, describe
from headrecon.io.images import from_array
from headrecon.io.video_reader import VideoReader
from headrecon.stages import Sitting

if TYPE_CHECKING:
    from headrecon.tracking.run import TrackResult

#: A keyframe shows more of a side from this turn on, radians.
_NEW_SIDE = np.radians(8.0)
Painted = tuple[UInt8[np.ndarray, "S S 3"], UInt8[np.ndarray, "N N 3"] | None, Float[np.ndarray, "V 3"]]


def painting_keyframes(marks: Float[np.ndarray, "K 478 3"]) -> list[int]:
    """The keyframe seen most from the front, with open eyes and a closed mouth; then those that turn farthest to each
    side of it, if they show noticeably more of that side."""
    features = describe(marks)
    yaw, lids, lips = features[:, 0], features[:, 3], features[:, 4]
    best = int(np.argmin(np.abs(yaw) + 0.5 * np.maximum(np.median(lids) - lids, 0) + 0.5 * lips))
    turned = (yaw - yaw[best]) * SCALES[0]
    sides = [int(np.argmin(turned)), int(np.argmax(turned))]
    return [best, *(i for i in sides if abs(turned[i]) > _NEW_SIDE)]


def clip_texture(result: TrackResult, reader: VideoReader) -> Painted:
    """Texture, relief and offsets of the neutral head (hair, seat of the eyes) from up to three keyframes, as
    `reconstruct` makes them from photos; a sketch is of the first alone."""
    config, engine = result.config, result.engine
    chosen = painting_keyframes(np.stack([face.landmarks for _, face in result.keyframes]).astype(np.float64))
    sketched = config.texture.detail == "sketch"
    chosen = chosen[:1] if sketched else chosen
    pictures = reader.pictures_at(sorted({result.keyframes[i][0] for i in chosen}))
    fit = result.identity.fit.of_views(chosen)
    sittings = []
    for index, face in (result.keyframes[i] for i in chosen):
        image = replace(from_array(pictures[index]), path=Path(f"{result.video.path.name} frame {index}"))
        sittings.append(Sitting(image, face))
    if sketched:
        offsets = stages.seated(engine, fit, None)
        neutral, posed = stages.heads(engine, fit, offsets)
        return stages.sketch(engine, fit, sittings, (neutral, posed, None), config.texture.size).texture, None, offsets
    from headrecon.perception.person_mask import person_mask

    networks = engine.networks
    sittings = [replace(s, mask=person_mask(s.image.image_srgb, networks, s.observation)) for s in sittings]
    hair = stages.lift_hair(engine, fit, sittings)
    offsets = stages.seated(engine, fit, hair.offsets)
    neutral, posed = stages.heads(engine, fit, offsets)
    colours = stages.paint(engine, fit, sittings, (neutral, posed, hair), config.texture.size)
    return colours.texture, colours.normal_map, offsets
