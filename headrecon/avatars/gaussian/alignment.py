"""A track made better by an avatar: pose, expression and gaze of frames are moved until the avatar meets the pictures.

What trackers of the field do with a textured mesh (Thies et al., "Face2Face", CVPR 2016), with the avatar in its place.
The avatar does not change, so frames that it never learned from stay unseen by it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Int

from headrecon.avatars.gaussian.losses import LossWeights, picture_loss
from headrecon.avatars.gaussian.nuisances import TRACK_KINDS, Nuisances
from headrecon.avatars.gaussian.training import Painter
from headrecon.structures import HeadParams

_WHITE = (1.0, 1.0, 1.0)
#: Steps for a frame; the first half of them large.
STEPS, _LARGE = 36, 2.0


def align(
    painter: Painter,
    params: HeadParams,
    ids: Int[np.ndarray, " N"],
    told: Callable[[float], None] | None = None,
    steps: int = STEPS,
) -> Nuisances:
    """Corrections for these frames of the footage (others stay zero), seen at half the size. told: share done."""
    frozen = Painter(
        painter.scene,
        painter.rig.with_tensors({k: t.detach() for k, t in painter.rig.tensors().items()}),
        painter.mix,
        painter.sheet_motion.detach(),
        painter.moves,
    )
    found = Nuisances(params, (*TRACK_KINDS, "body"))
    weights = LossWeights()
    white = torch.ones(3, device=params.transl.device)
    before: int | None = None
    for done, index in enumerate(int(i) for i in ids):
        if before is not None:  # what is wrong with one frame is mostly wrong with the next
            found.copy(before, index)
        before = index
        target, camera = painter.scene.picture(index, _WHITE, half=True)
        for step in range(steps):
            leaves = found.leaves(index)
            image, _ = frozen.draw(found.state(index, leaves), camera, white)
            loss = picture_loss(image, target, weights) + weights.frame * found.prior(leaves)
            loss.backward()
            found.step(index, leaves, _LARGE if 2 * step < steps else _LARGE / 4)
        if told is not None:
            told((done + 1) / len(ids))
    return found
