"""Parts of a clip between cuts, and which of them to track."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from headrecon.errors import InputError, NoFaceFound
from headrecon.fitting.video.keyframes import SCALES, describe
from headrecon.fitting.video.openings import opening_heights
from headrecon.tracking.seen import SeenChunk

#: Shots shorter than this are not offered when there are longer ones: flashes and broken frames make such.
_NUM_HEIGHTS = 11


@dataclass(frozen=True)
class Segment:
    """A shot. frames: how many; held: in how many somebody was seen; mine: the person who was seen first."""

    index: int
    start_s: float
    end_s: float
    frames: int
    held: int
    mine: bool


@dataclass(frozen=True)
class ClipFeatures:
    """What every frame of a clip is like, a few numbers each (see `keyframes.describe`; NaN where nobody is seen)."""

    frames: Int[np.ndarray, " T"]
    times_s: Float[np.ndarray, " T"]
    presence: Float[np.ndarray, " T"]
    shots: Int[np.ndarray, " T"]
    mine: Int[np.ndarray, " T"]
    features: Float[np.ndarray, "T D"]
    heights: Float[np.ndarray, "T H"]

    @staticmethod
    def of(chunks: Iterable[SeenChunk]) -> ClipFeatures:
        """Read what was seen once through. O(T) memory, about 200 bytes a frame."""
        parts: list[tuple[np.ndarray, ...]] = []
        for chunk in chunks:
            features = np.full((len(chunk.frames), len(SCALES)), np.nan)
            heights = np.full((len(chunk.frames), _NUM_HEIGHTS), np.nan)
            if chunk.held.any():
                features[chunk.held] = describe(chunk.points[chunk.held])
                heights[chunk.held] = [opening_heights(p) for p in chunk.points[chunk.held]]
            presence = np.where(chunk.held, chunk.presence, 0.0)
            own = (chunk.mine & chunk.held).astype(np.int64)
            parts.append((chunk.frames, chunk.times_s, presence, chunk.shots, own, features, heights))
        if not parts:
            raise InputError("the video holds no frame that can be read")
        return ClipFeatures(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def of_shot(self, shot: int) -> ClipFeatures:
        at = self.shots == shot
        columns = (self.frames, self.times_s, self.presence, self.shots, self.mine, self.features, self.heights)
        return ClipFeatures(*(column[at] for column in columns))

    def segments(self) -> list[Segment]:
        """All shots in their order."""
        out = []
        for shot in np.unique(self.shots):
            at = self.shots == shot
            held = int((self.presence[at] > 0).sum())
            mine = bool(self.mine[at].sum() * 2 > held)
            times = self.times_s[at]
            out.append(Segment(int(shot), float(times[0]), float(times[-1]), int(at.sum()), held, mine))
        return out


def choose_segment(segments: list[Segment], wanted: int | None, face: int | None) -> tuple[Segment, str | None]:
    """The shot to track, and a warning where there are several and none was asked for.

    Raises NoFaceFound when nobody is seen in it (or anywhere), InputError for a segment that does not exist.
    """
    if not any(s.held for s in segments):
        asked = "" if face is None else f" number {face}, counted from 0, the largest first,"
        raise NoFaceFound(
            f"no face{asked} was found in any of the {sum(s.frames for s in segments)} frames; expected a person "
            "turned at most about 60 degrees away in some frame, with 20 pixels or more between the eyes"
        )
    if wanted is not None:
        chosen = next((s for s in segments if s.index == wanted), None)
        if chosen is None:
            raise InputError(f"segment {wanted} does not exist: the clip has {len(segments)}, counted from 0")
        if not chosen.held:
            raise NoFaceFound(f"nobody is seen in segment {wanted} ({_span(chosen)}); choose another with --segment")
        return chosen, None
    chosen = max(segments, key=lambda s: s.held)
    if len(segments) == 1:
        return chosen, None
    others = "; ".join(
        f"{s.index}: {_span(s)}, {'the same person' if s.mine == chosen.mine else 'somebody else'}"
        if s.held
        else f"{s.index}: {_span(s)}, nobody"
        for s in segments[:20]
        if s is not chosen
    )
    return chosen, (
        f"the clip has cuts; segment {chosen.index} ({_span(chosen)}) is tracked. The others ({others}) can be chosen "
        "with --segment N"
    )


def _span(segment: Segment) -> str:
    return f"{segment.start_s:.1f} to {segment.end_s:.1f} s"
