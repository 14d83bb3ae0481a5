"""A track's motion as parameters of another head: expression, turns, gaze and place. Identity stays the head's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from headrecon.driving.figures import Figure
from headrecon.errors import AssetError
from headrecon.geometry import so3
from headrecon.models.retargeting import retarget
from headrecon.models.store import load_head
from headrecon.saved_head import joint_model
from headrecon.structures import HeadAssets, Track

_LEYE, _REYE = 3, 4
#: A face is taken to be calm in a channel where it spends its least active part of the clip.
_CALM = 0.2


@dataclass(frozen=True)
class Motion:
    """What a head does. rows: its flat parameters per frame, in the world of the cameras; lost: names of expressions
    that the track has and the head cannot show."""

    rows: Float[np.ndarray, "T P"]
    lost: tuple[str, ...]


def motion_for(figure: Figure, track: Track, in_track: bool, relative: bool = False) -> Motion:
    """A track's motion for a figure.

    Heads of different models meet by the names of their expressions (`models.retargeting`). in_track: in the world of
    the track's cameras, eyes where the tracked person's are; otherwise mostly at the figure's own place, looking
    mostly along +z. relative: expressions less those of the tracked face when calm: a tracker that reads a narrow eye
    or a mouth that stays open as an expression then no longer hands that part of a face to somebody else.
    Raises AssetError when the camera needs a head model that is not here.
    """
    found = retarget(track, figure.assets, figure.betas)
    rows, slices = found.rows, figure.joints.layout.slices
    if relative:
        sure = _sure(track)
        rows[:, slices["expression"]] = from_calm(rows[:, slices["expression"]], sure)
    where = _places(figure, track, in_track)
    home = None
    if not in_track:
        rows, where = _faced(rows, where, slices["global_orient"], track)
        home = _between_eyes(figure, figure.rest())
    between = np.array([_between_eyes(figure, row) for row in rows])
    rows[:, slices["transl"]] = where - between + (0 if home is None else home)
    return Motion(rows, found.lost)


def from_calm(weights: Float[np.ndarray, "T E"], sure: Bool[np.ndarray, " T"]) -> Float[np.ndarray, "T E"]:
    """Weights 0..1 stretched so that each is 0 where it is calm and still 1 where it is 1.

    Calm is the weight that `_CALM` of the frames stay below. What is fully shut or open stays so.
    """
    calm = np.quantile(weights[sure], _CALM, axis=0).clip(0.0, 0.9)
    return np.clip((weights - calm) / (1 - calm), 0.0, None)


def _sure(track: Track) -> Bool[np.ndarray, " T"]:
    sure = track.confidence > 0
    return sure if sure.any() else np.ones(len(track), bool)


def _between_eyes(figure: Figure, row: Float[np.ndarray, " P"]) -> Float[np.ndarray, "3"]:
    return figure.joints.joints(row)[[_LEYE, _REYE]].mean(0)


def _places(figure: Figure, track: Track, in_track: bool) -> Float[np.ndarray, "T 3"]:
    """The point between the tracked person's eyes in the world. Without their head model, how it moves about."""
    try:
        return eyes_of_track(figure, track)
    except AssetError as error:
        if in_track:
            raise AssetError(
                f"the track is of the head model {track.model!r}, which is not here; bring it in with "
                "`headrecon models add PATH`, or use the camera 'front'"
            ) from error
        return np.asarray(track.params.transl, dtype=np.float64)


def eyes_of_track(figure: Figure, track: Track) -> Float[np.ndarray, "T 3"]:
    """The point between the tracked person's eyes in the world of the track's cameras, metres.

    figure: whose head model is taken where it will do. Raises AssetError when the person's head model is not here.
    """
    assets = _source_assets(figure, track)
    model = figure.joints if assets is figure.assets else joint_model(assets)
    rows = retarget(track, assets, track.betas).rows
    rows[:, model.layout.slices["transl"]] = track.params.transl
    return np.array([model.joints(row)[[_LEYE, _REYE]].mean(0) for row in rows])


def _source_assets(figure: Figure, track: Track) -> HeadAssets:
    """The tracked person's model. A figure's own will do unless its identity is settled already."""
    own = figure.assets
    return own if track.model == own.name and own.num_betas >= len(track.betas) else load_head(track.model)


def _faced(
    rows: np.ndarray, where: np.ndarray, orient: slice, track: Track
) -> tuple[Float[np.ndarray, "T P"], Float[np.ndarray, "T 3"]]:
    """The same motion of a head that mostly looks along +z and is mostly at the origin."""
    head = so3.exp(np.asarray(track.params.global_orient)) @ so3.exp(np.asarray(track.params.neck_pose))
    sure = _sure(track)
    # The median: a turn to profile and back does not change where the head mostly looks.
    u, _, vt = np.linalg.svd(np.median(head[sure], axis=0))
    back = (u @ np.diag([1.0, 1.0, np.linalg.det(u @ vt)]) @ vt).T
    rows = rows.copy()
    rows[:, orient] = [so3.log(back @ r) for r in so3.exp(np.asarray(track.params.global_orient))]
    return rows, (where - np.median(where[sure], axis=0)) @ back.T
