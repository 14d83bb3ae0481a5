"""What every avatar can do, whatever it is made of: be posed by `HeadParams`, drawn, saved and read back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from torch import Tensor

from headrecon.structures import Cameras, Gaussians, HeadAssets, HeadParams, Licence

#: What a long job tells of itself: what it does, and how much of it is done, 0..1.
Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Person:
    """Whose avatar it is: the head model and the place in it that the avatar's parts are bound to.

    assets: with this identity settled (`betas` already in `v_template`, no `shapedirs`); betas: what they were, in the
    model called `assets.name`. offsets: metres that hair and detail add to the neutral mesh. licences: of all that made
    the avatar.
    """

    assets: HeadAssets
    betas: Float[np.ndarray, " Nb"]
    offsets: Float[np.ndarray, "V 3"]
    licences: tuple[Licence, ...]


@dataclass(frozen=True)
class AvatarPictures:
    """What C cameras see. image_srgb has the background behind it; alpha: share of it that the avatar hides."""

    image_srgb: Float[Tensor, "C H W 3"]
    alpha: Float[Tensor, "C H W"]


@runtime_checkable
class Avatar(Protocol):
    """One learned head. Immutable: what changes it makes another.

    kind: how it is represented; the word of `--kind` and of its file. Parameters are those of `person.assets`: columns
    of `expression` as its `expression_names`; `betas` are ignored, for the identity is learned. They are of one instant
    (B = 1), as tensors; what lies beyond what the avatar has seen is held at the border of it.
    """

    @property
    def kind(self) -> str: ...

    @property
    def person(self) -> Person: ...

    def rest(self) -> HeadParams:
        """No expression, upright, where the head mostly was in its footage; facing +z."""
        ...

    def render(
        self, params: HeadParams, cameras: Cameras, background_srgb: Float[Tensor, " 3"] | None = None
    ) -> AvatarPictures:
        """Draw one instant with cameras viewmats [C,4,4]. background_srgb: black if None."""
        ...

    def save(self, folder: str | Path, overwrite: bool = False) -> None:
        """Write `avatar.json` and `avatar.safetensors`; the folder appears whole or not at all."""
        ...


@runtime_checkable
class SplatAvatar(Avatar, Protocol):
    """An avatar that is a set of Gaussians at every instant."""

    def gaussians(self, params: HeadParams) -> Gaussians:
        """World-space Gaussians of one instant: means [N,3] metres, colours [N,3] sRGB 0..1; the same N, same order."""
        ...
