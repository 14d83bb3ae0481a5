"""Prior beliefs about identity, expression and gaze, as solver blocks.

Degeneracies are settled here. Opening the mouth: a model whose expressions hold ARKit's `jawOpen` keeps the jaw joint
at rest, because both move the same points; other models get the jaw joint. Turning the head: from one face the neck's
and the root's turn cannot be told apart, so the neck stays at rest. Looking: where iris landmarks hang on the eye
joints, gaze is theirs and the `eyeLook...` shapes stay at zero. Rolling of the eye about its axis is fixed (Listing).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool

from headrecon.fitting import landmark_groups as groups
from headrecon.fitting.least_squares import Block, LinearResidual
from headrecon.structures import ARKIT_NAMES, HeadAssets

#: Shapes to one side: the left one is no counterpart of the right one, it is its opposite.
SIDEWAYS = ("jawLeft", "jawRight", "mouthLeft", "mouthRight")


@dataclass(frozen=True)
class HeadPrior:
    """Deviations of the priors.

    ARKit weights: half-normal in 0..1 with deviation `expression_sigma` (most faces use few shapes weakly); expressions
    with other names are taken as standard normal, as FLAME's are. Blendshape scores, where a network gives
    them, become the mean with deviation `score_sigma`: they are of a person-independent scale.
    """

    expression_sigma: float = 0.3
    score_sigma: float = 0.25
    tongue_sigma: float = 0.05
    jaw_sigma: tuple[float, float, float] = (0.25, 0.05, 0.02)
    gaze_sigma: float = 0.25
    #: eyes converge by ipd / distance: 0.12 rad at 0.5 m, 0 far away
    vergence: float = 0.04
    vergence_sigma: float = 0.035
    #: both eyes look equally high
    dipvergence_sigma: float = 0.02


def eyes_turn_irises(assets: HeadAssets) -> bool:
    """Whether the iris landmarks move with the eye joints."""
    marks = assets.landmarks["mediapipe478"]
    right = assets.lbs_weights[marks.vertex_ids[groups.RIGHT_IRIS[0]], 4].min()
    left = assets.lbs_weights[marks.vertex_ids[groups.LEFT_IRIS[0]], 3].min()
    return bool(min(right, left) > 0.5)


def without_fixed_joints(assets: HeadAssets) -> HeadAssets:
    """The same head with the joints that never move (see above) merged into the root.

    Identical as long as these joints are at rest, and each point then hangs on one joint instead of up to three, which
    makes the point models several times quicker.
    """
    weights = assets.lbs_weights.copy()
    fixed = [1, 2] if "jawOpen" in assets.expression_names else [1]
    weights[:, 0] += weights[:, fixed].sum(1)
    weights[:, fixed] = 0.0
    return replace(assets, lbs_weights=weights)


def is_arkit(assets: HeadAssets) -> Bool[np.ndarray, " Ne"]:
    """Which expressions carry an ARKit name and so are weights in 0..1."""
    return np.array([n in ARKIT_NAMES for n in assets.expression_names], dtype=bool)


def identity_block(assets: HeadAssets, name: str = "betas") -> Block:
    """betas ~ N(0, I), the population of adults that the model's scale refers to."""
    return Block.make(name, assets.num_betas, sigma=1.0)


def expression_block(
    assets: HeadAssets, prior: HeadPrior, scores: Mapping[str, float] | None, name: str = "expression/0"
) -> Block:
    """Expression weights with bounds and, where scores are given, their weak mean."""
    arkit, names = is_arkit(assets), assets.expression_names
    sigma = np.where(arkit, prior.expression_sigma, 1.0)
    mean = np.zeros(len(names))
    free = np.ones(len(names), dtype=bool)
    turning = eyes_turn_irises(assets)
    for i, n in enumerate(names):
        if scores is not None and n in scores and arkit[i]:
            mean[i], sigma[i] = float(np.clip(scores[n], 0.0, 1.0)), prior.score_sigma
        elif n == "tongueOut":  # no landmark lies on the tongue
            sigma[i] = prior.tongue_sigma
        if turning and n.startswith("eyeLook"):
            mean[i], free[i] = 0.0, False
    lower, upper = np.where(arkit, 0.0, -np.inf), np.where(arkit, 1.0, np.inf)
    return Block(name, mean, sigma, lower, upper, free)


def pose_blocks(assets: HeadAssets, prior: HeadPrior, names: Mapping[str, str]) -> list[Block]:
    """Head, neck, jaw and eye rotations of one view."""
    has_jaw_shape = "jawOpen" in assets.expression_names
    turning = eyes_turn_irises(assets)
    gaze_free = np.array([turning, turning, False])
    gaze = {"sigma": prior.gaze_sigma, "free": gaze_free}
    return [
        # Up to profile either way and well beyond any portrait; it also keeps axis-angle away from its wrap at 2 pi.
        Block.make(names["global_orient"], 3, sigma=10.0, bounds=(-2.6, 2.6)),
        Block.make(names["neck_pose"], 3, sigma=0.3, free=False),
        Block.make(names["jaw_pose"], 3, sigma=np.array(prior.jaw_sigma), free=not has_jaw_shape),
        Block.make(names["leye_pose"], 3, **gaze),
        Block.make(names["reye_pose"], 3, **gaze),
    ]


def vergence_residual(prior: HeadPrior, names: Mapping[str, str]) -> LinearResidual:
    """Both eyes look at the same thing: right minus left yaw is the vergence (inwards is positive), pitches agree."""
    matrix = np.zeros((2, 6))
    matrix[0, 1], matrix[0, 4] = -1 / prior.vergence_sigma, 1 / prior.vergence_sigma
    matrix[1, 0], matrix[1, 3] = -1 / prior.dipvergence_sigma, 1 / prior.dipvergence_sigma
    offset = np.array([prior.vergence / prior.vergence_sigma, 0.0])
    return LinearResidual(f"vergence {names['leye_pose']}", (names["leye_pose"], names["reye_pose"]), matrix, offset)


def symmetry_residual(assets: HeadAssets, sigma: float, blink_sigma: float, name: str) -> LinearResidual:
    """Both halves of a face do much the same: left minus right weight of each pair of shapes that come in two.

    sigma: deviation of that difference; blink_sigma: of blinks, as people wink. `eyeLook...` say where eyes look.
    """
    names = list(assets.expression_names)
    rows = []
    for left, this in enumerate(names):
        other = this.removesuffix("Left") + "Right"
        if not this.endswith("Left") or other not in names or this.startswith("eyeLook") or this in SIDEWAYS:
            continue
        row = np.zeros(len(names))
        row[[left, names.index(other)]] = np.array([1.0, -1.0]) / (blink_sigma if "Blink" in this else sigma)
        rows.append(row)
    matrix = np.array(rows).reshape(-1, len(names))
    return LinearResidual(f"symmetry {name}", (name,), matrix, np.zeros(len(matrix)))
