"""Every setting of `headrecon avatar --kind gaussian`; presets are `configs/avatar_*.yaml`.

Importing this costs no more than the standard library.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from headrecon.config import setting


@dataclass(frozen=True)
class FootageConfig:
    """The pictures that the avatar is learned from."""

    size: int = setting(512, "pixels along the side of the training pictures", low=64, high=2048)
    test_fraction: float = setting(
        0.0, "keep this share of the frames, the last ones, out of training and measure on them", low=0.0, high=0.5
    )
    least_confidence: float = setting(0.5, "frames whose track is less sure than this are left out", low=0.0, high=1.0)


@dataclass(frozen=True)
class TrainConfig:
    """How the avatar is learned."""

    iterations: int = setting(6000, "pictures that are drawn and compared", low=50, high=1_000_000)
    gaussians: int = setting(30000, "at most this many Gaussians", low=1000, high=1_000_000)
    torso_share: float = setting(0.2, "share of them on shoulders and chest to begin with", low=0.0, high=0.8)
    refine_track: bool = setting(True, "let training correct pose, expression and gaze of each frame")
    choose_lens: bool = setting(
        True,
        "try shorter focal lengths than the track's, unless it was told one, and take what meets the pictures best",
    )
    exposure: bool = setting(True, "let each frame have its own exposure while training")
    preview_every: int = setting(
        500, "write a preview picture after so many iterations (0: none)", low=0, high=1_000_000
    )
    checkpoint_every: int = setting(500, "keep the state for a restart after so many iterations", low=1, high=1_000_000)


@dataclass(frozen=True)
class GaussianAvatarConfig:
    """All settings of a Gaussian avatar."""

    PRESET_PREFIX: ClassVar[str] = "avatar_"

    preset: str = setting("default", "the preset that this started from: draft, default or high")
    track_preset: str = setting(
        "default", "how a video is tracked that has no track yet", choices=("draft", "default", "high")
    )
    footage: FootageConfig = field(default_factory=FootageConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    seed: int = setting(0, "seed of all random choices; the same seed gives the same avatar", low=0, high=2**31 - 1)
    device: str = setting("auto", "where to train", choices=("auto", "cpu", "cuda"))
