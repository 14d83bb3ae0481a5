"""The video that a track was made from, frame by frame, to be shown beside the head that moves like it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from headrecon.errors import InputError
from headrecon.io.video_reader import VideoReader
from headrecon.structures import Track
from headrecon.tracking.seen import ahead


@dataclass(frozen=True)
class SourcePictures:
    """The frames of `video` that `track` has."""

    video: Path
    track: Track

    def pictures(self, height: int) -> Generator[UInt8[np.ndarray, "h w 3"], None, None]:
        """One picture per frame of the track, scaled to a height, of even width. A few in memory at a time.

        A frame that cannot be read is shown as the one before. Raises InputError when the video is another one.
        """
        reader = VideoReader(self.video)
        found, wanted = (reader.info.width, reader.info.height), (self.track.cameras.width, self.track.cameras.height)
        if found != wanted:
            raise InputError(
                f"{self.video} is {found[0]} x {found[1]} and the track's video was {wanted[0]} x {wanted[1]}; name "
                "the video that was tracked"
            )
        size = max(2, 2 * round(height * found[0] / found[1] / 2)), height
        frames = self.track.frames
        shown, last = 0, np.zeros((height, size[0], 3), np.uint8)
        with closing(ahead(reader.frames(int(frames[0])))) as pictures:
            for frame in pictures:
                while shown < len(frames) and frames[shown] < frame.index:  # could not be read
                    yield last
                    shown += 1
                if shown == len(frames):
                    return
                if frames[shown] == frame.index:
                    last = _scaled(frame.image_srgb, size)
                    yield last
                    shown += 1
        if shown < len(frames):
            raise InputError(
                f"{self.video} ends at frame {int(frames[shown])} of the track's {int(frames[-1]) + 1}; name the video "
                "that was tracked"
            )


def _scaled(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if (image.shape[1], image.shape[0]) == size:
        return image
    smaller = image.shape[0] > size[1]
    return np.asarray(
        Image.fromarray(image).resize(size, Image.Resampling.BOX if smaller else Image.Resampling.BICUBIC)
    )
