"""What the multi-view stage hands back."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float

from headrecon.structures import Cameras


@dataclass(frozen=True)
class MultiviewFit:
    """The head as several photos show it, or the joint fit itself where `accepted` is False (offsets 0).

    params: per view, the same betas in each. cameras: per view; those given unless they were not known. offsets: metres
    on the neutral head, in the model's topology: blendshapes and rig work on top. sigma_m: deviation of each vertex
    along its normal. observed: measured by photos; elsewhere a vertex follows its surroundings and the prior.
    agreement_before, agreement_after: mean correlation of what the photos show on the head, -1..1, NaN without overlap.
    warnings: why it was not accepted, in words.
    """

    params: Float[np.ndarray, "C P"]
    cameras: tuple[Cameras, ...]
    offsets: Float[np.ndarray, "V 3"]
    sigma_m: Float[np.ndarray, " V"]
    observed: Bool[np.ndarray, " V"]
    accepted: bool
    agreement_before: float
    agreement_after: float
    samples: int
    warnings: tuple[str, ...] = ()
    timings_ms: dict[str, float] = field(default_factory=dict)
