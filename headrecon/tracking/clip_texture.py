"""The head's colours from the keyframe that shows most of the face."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, UInt8

from headrecon import stages
from headrecon.fitting.video.keyframes import describe
from headrecon.io.images import from_array
from headrecon.io.video_reader import VideoReader
from headrecon.stages import Sitting

if TYPE_CHECKING:
    from headrecon.tracking.run import TrackResult

Painted = tuple[UInt8[np.ndarray, "S S 3"], UInt8[np.ndarray, "N N 3"] | None, Float[np.ndarray, "V 3"]]


def best_keyframe(marks: Float[np.ndarray, "K 478 3"]) -> int:
    """The one seen most from the front, with open eyes and a closed mouth."""
    features = describe(marks)
    turned, lids, lips = np.abs(features[:, 0]), features[:, 3], features[:, 4]
    return int(np.argmin(turned + 0.5 * np.maximum(np.median(lids) - lids, 0) + 0.5 * lips))


def clip_texture(result: TrackResult, reader: VideoReader) -> Painted:
    """Texture, relief and offsets of the neutral head (hair, seat of the eyes) from one keyframe, as `reconstruct`
    makes them."""
    config, engine = result.config, result.engine
    best = best_keyframe(np.stack([face.landmarks for _, face in result.keyframes]).astype(np.float64))
    index, face = result.keyframes[best]
    picture = reader.pictures_at([index])[index]
    fit = result.identity.fit
    fit = fit.of_view(best)
    image = replace(from_array(picture), path=Path(f"{result.video.path.name} frame {index}"))
    if config.texture.detail == "sketch":
        sitting = Sitting(image, face)
        offsets = stages.seated(engine, fit, None)
        neutral, posed = stages.heads(engine, fit, offsets)
        return stages.sketch(engine, fit, [sitting], (neutral, posed, None), config.texture.size).texture, None, offsets
    from headrecon.perception.person_mask import person_mask

    sitting = Sitting(image, face, person_mask(picture, engine.networks, face))
    hair = stages.lift_hair(engine, fit, [sitting])
    offsets = stages.seated(engine, fit, hair.offsets)
    neutral, posed = stages.heads(engine, fit, offsets)
    colours = stages.paint(engine, fit, [sitting], (neutral, posed, hair), config.texture.size)
    return colours.texture, colours.normal_map, offsets
