"""The video that a track was made from, frame by frame, to be shown beside the head that moves like it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from headrecon.errors import InputError
from headrecon.io.video_reader import VideoReader
from headrecon.structures import Track
from headrecon.tracking.seen import ahead

#: What of a head is shown round the point between the eyes, in metres: to each side, above, below.
_SIDE_M, _ABOVE_M, _BELOW_M = 0.15, 0.17, 0.22


@dataclass(frozen=True)
class SourcePictures:
    """The frames of `video` that `track` has. box: left, upper, right and lower edge of what is shown, pixels."""

    video: Path
    track: Track
    box: tuple[float, float, float, float] | None = None

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
        left, upper, right, lower = box = self.box or (0.0, 0.0, float(found[0]), float(found[1]))
        size = max(2, 2 * round(height * (right - left) / (lower - upper) / 2)), height
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
                    last = _scaled(frame.image_srgb, box, size)
                    yield last
                    shown += 1
        if shown < len(frames):
            raise InputError(
                f"{self.video} ends at frame {int(frames[shown])} of the track's {int(frames[-1]) + 1}; name the video "
                "that was tracked"
            )


def face_box(track: Track, eyes: Float[np.ndarray, "T 3"], aspect: float) -> tuple[float, float, float, float]:
    """The part of a track's pictures in which its head stays, with some hair and neck, of an aspect (width / height).

    eyes: the points between the eyes, world, metres. Where that is more than there is, what there is.
    """
    cameras = track.cameras.numpy()
    local = np.einsum("tij,tj->ti", cameras.viewmats[:, :3, :3], eyes) + cameras.viewmats[:, :3, 3]
    pixels = np.einsum("tij,tj->ti", cameras.Ks, local)
    centres = pixels[:, :2] / pixels[:, 2:]
    per_metre = cameras.Ks[:, 0, 0] / local[:, 2]
    sure = track.confidence > 0
    sure = sure if sure.any() else np.ones(len(track), bool)
    low = (centres - per_metre[:, None] * [_SIDE_M, _ABOVE_M])[sure].min(0)
    high = (centres + per_metre[:, None] * [_SIDE_M, _BELOW_M])[sure].max(0)
    width, height = high - low
    width, height = max(width, height * aspect), max(height, width / aspect)
    share = min(1.0, cameras.width / width, cameras.height / height)
    half = 0.5 * share * np.array([width, height])
    limits = np.array([cameras.width, cameras.height])
    middle = np.clip(0.5 * (low + high), half, limits - half)
    (left, upper), (right, lower) = middle - half, middle + half
    return float(left), float(upper), float(right), float(lower)


def _scaled(image: np.ndarray, box: tuple[float, float, float, float], size: tuple[int, int]) -> np.ndarray:
    if box == (0, 0, *size) and image.shape[:2] == size[::-1]:
        return image
    smaller = box[3] - box[1] > size[1]
    how = Image.Resampling.BOX if smaller else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(image).resize(size, how, box=box))
