"""One head's motion for another: weights by name, joints by their meaning. Identity stays that of the driven head."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from headrecon.io.arkit_curves import JAW_OPEN_RADIANS, JAW_SIDE_RADIANS, arkit_curves
from headrecon.models.point_model import ParamLayout
from headrecon.structures import ARKIT_NAMES, POSE_FIELDS, HeadAssets, Track


@dataclass(frozen=True)
class Retargeted:
    """Flat parameters (`ParamLayout` of the driven model) of T frames, at transl 0. lost: expressions that the driven
    model lacks and that move in the track."""

    rows: Float[np.ndarray, "T P"]
    lost: tuple[str, ...]


def retarget(track: Track, assets: HeadAssets, betas: Float[np.ndarray, " Nb"]) -> Retargeted:
    """A track's expressions and rotations on a head of any model.

    Expression weights go by their names. A jaw joint drives a model that has `jawOpen` through that shape, and shapes
    drive a jaw joint, with the angles of `io.arkit_curves`; between heads of the same model joints are copied. Turns of
    root, neck and eyes mean the same in every model.
    """
    layout = ParamLayout(assets.num_betas, assets.num_expressions)
    rows = np.zeros((len(track), layout.size))
    rows[:, layout.slices["betas"]][:, : len(betas)] = betas
    names, own = assets.expression_names, layout.slices["expression"]
    expression = np.zeros((len(track), len(names)))
    lost = []
    for column, name in enumerate(track.expression_names):
        if name in names:
            expression[:, names.index(name)] = track.params.expression[:, column]
        elif np.abs(track.params.expression[:, column]).max() > 0:
            lost.append(name)
    for name in POSE_FIELDS:
        rows[:, layout.slices[name]] = getattr(track.params, name)
    if track.model != assets.name:
        lost = _move_jaw(track, assets, expression, rows[:, layout.slices["jaw_pose"]], lost)
    rows[:, own] = expression
    return Retargeted(rows, tuple(lost))


def _move_jaw(track: Track, assets: HeadAssets, expression: np.ndarray, jaw: np.ndarray, lost: list[str]) -> list[str]:
    """Say the opening of the mouth in the driven model's way, in place; what is still lost."""
    curves = arkit_curves(track).weights
    shapes = ("jawOpen", "jawLeft", "jawRight")
    opening, left, right = (curves[:, ARKIT_NAMES.index(name)] for name in shapes)
    if "jawOpen" in assets.expression_names:
        for name, curve in zip(shapes, (opening, left, right), strict=True):
            if name in assets.expression_names:
                expression[:, assets.expression_names.index(name)] = curve
        jaw[:] = 0.0
        return lost
    jaw[:, 0] = opening * JAW_OPEN_RADIANS
    jaw[:, 1] = (left - right) * JAW_SIDE_RADIANS
    return [name for name in lost if name not in shapes]
