"""What avatars learn from: pictures of one person, cut out of what is behind them, each with its place in a track."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from headrecon.errors import ShapeError
from headrecon.structures import Track


@dataclass(frozen=True)
class Footage:
    """T pictures of one size, usually mapped from a file. Row t of every array belongs to frame t of the track.

    track: its cameras are those of these pictures, which may be a part of the video's, at another size.
    colours_srgb: of the person alone: where a pixel shows hair and room at once, the hair's. alphas: the person's
    opacity, 0..255. usable: frames to learn from or to be judged by; the rest show nobody, or a track nobody believes.
    """

    track: Track
    colours_srgb: UInt8[np.ndarray, "T H W 3"]
    alphas: UInt8[np.ndarray, "T H W"]
    usable: Bool[np.ndarray, " T"]

    def __len__(self) -> int:
        return len(self.track)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.colours_srgb.shape[2], self.colours_srgb.shape[1]

    def matted(
        self, index: int, background_srgb: tuple[float, float, float] = (1.0, 1.0, 1.0)
    ) -> Float[np.ndarray, "H W 3"]:
        """One picture with a plain colour behind the person, float32."""
        alpha = self.alphas[index][..., None].astype(np.float32) / 255
        return self.colours_srgb[index] * (alpha / 255) + np.asarray(background_srgb, np.float32) * (1 - alpha)

    def take(self, ids: Int[np.ndarray, " N"]) -> Footage:
        """Some of the frames, copied into memory."""
        return replace(
            self,
            track=self.track.take(ids),
            colours_srgb=self.colours_srgb[ids],
            alphas=self.alphas[ids],
            usable=self.usable[ids],
        )

    def validate(self) -> Footage:
        """Return self when everything fits together; raise ShapeError naming the first thing that does not."""
        count, camera = len(self.track), self.track.cameras
        for name in ("colours_srgb", "alphas", "usable"):
            if len(getattr(self, name)) != count:
                raise ShapeError(
                    f"footage: {name} must have one row for each of the {count} frames, found "
                    f"{len(getattr(self, name))}"
                )
        if self.size != (camera.width, camera.height) or self.alphas.shape[1:] != self.colours_srgb.shape[1:3]:
            raise ShapeError(
                f"footage: pictures must be {camera.width} x {camera.height} as the cameras are, found {self.size}"
            )
        return self
