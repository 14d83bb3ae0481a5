"""Hair as volume: the scalp is lifted until the head's outline is the person's, with typical hair where unseen.

Hair that falls beside the neck has no surface of its own on a head model. It lifts the scalp behind the ears and the
back of the neck, as one coat, and leaves the throat free; what hangs in front of the shoulders stays away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float

from headrecon.appearance.hair_field import MAX_LIFT_M, Coat, Lift, solve_lift
from headrecon.appearance.hair_outline import MAX_ROWS, OutlineRows
from headrecon.appearance.hair_scalp import Scalp, build_scalp, smooth_step, walk
from headrecon.appearance.hair_sight import Sight, Skull, see
from headrecon.appearance.projection import Photo
from headrecon.errors import ShapeError
from headrecon.models.head_model import HeadModel
from headrecon.structures import HeadAssets, HeadParams

#: The outline moves as the scalp rises: it is read again, at most this often.
_ITERATIONS = 6
#: In these turns the photo is asked anew which vertices hair covers; by the last the lift has nearly settled.
_LOOKS_AT_HAIR = (0, 2)
#: No more reading once nothing moves by more than this (metres).
_SETTLED_M = 0.001
#: Earlier readings still count, with this many times their deviation.
_AGEING = 2.5
_OLDEST_M = 0.003
#: From the hairline the coat rises in a small step, then gently: width of each (metres), and the step's share.
_STEP_M, _RISE_M, _STEP_SHARE = 0.008, 0.030, 0.35
#: The skull's own correction begins this far inside the scalp and is whole at the second distance.
_SKULL_RISE_M = (0.004, 0.045)
#: Outlines that stand out so far (metres) show hair even where its colour is skin's.
_STANDS_OUT_M = (0.008, 0.016)
_HAT_SHARE = 0.2
#: How much long hair may stand off from hanging straight, in shares of what it may on top.
_HANG_VIGOUR = 0.3
#: Hair that stands off by more than these (metres) at the height where heads are widest falls from there, too.
_THICK_M, _THICK_AT_M = (0.018, 0.035), 0.025
#: Fewest places that each of several photos' outlines is read at.
_LEAST_ROWS = 40
#: Hair moves between photos: outlines of all but the first have this many times their deviation.
_OTHER_PHOTO = 2.0


@dataclass(frozen=True)
class HairLift:
    """Hair of one head. V vertices, picture of H x W.

    offsets: metres, to add to the neutral head (`HeadModel(...)(params, offsets)`); zero off the scalp.
    hair_vertices: probability that hair covers each vertex, 0..1. hair_mask: the same for each pixel of the photo.
    thickness_sigma: standard deviation of the lift in metres; 0 where nothing may be lifted.
    amount: 0 for a bald head, 1 for hair. long: 0..1, hair falls beside the neck. warnings: what a user should know.
    """

    offsets: Float[np.ndarray, "V 3"]
    hair_vertices: Float[np.ndarray, " V"]
    hair_mask: Float[np.ndarray, "H W"]
    thickness_sigma: Float[np.ndarray, " V"]
    amount: float
    long: float
    warnings: tuple[str, ...] = ()


@torch.no_grad()
def lift_hair(
    model: HeadModel,
    params: HeadParams,
    photos: Photo | Sequence[Photo],
    base: Float[np.ndarray, "V 3"] | None = None,
) -> HairLift:
    """Find the hair in the photos and the lift of the scalp that makes the head's outline the masks'.

    params: the head posed as in each photo, in the world of its camera. photos: the one that shows the face best first;
    it decides whether there is hair, and is believed most, as hair falls differently from photo to photo. Their masks:
    opacity of the person with hair and clothes; without any only colours tell whether there is hair, and the lift is
    what is typical. base: offsets (metres) that the neutral head has already.
    The same input gives the same output. Raises ShapeError for heads and photos that do not match, or a photo whose
    sizes disagree.
    """
    photos = [photos] if isinstance(photos, Photo) else list(photos)
    if params.batch != len(photos) or not photos:
        raise ShapeError(
            f"lift_hair: expected the parameters of one head per photo, found {params.batch} for {len(photos)}"
        )
    assets = model.assets
    photos = [photo.checked() for photo in photos]
    picture = (photos[0].cameras.height, photos[0].cameras.width)
    offsets = None if base is None else torch.as_tensor(base)
    neutral = model(params.take([0]).neutral(), offsets).vertices[0].double().cpu().numpy()
    scalp = build_scalp(assets, neutral)
    if scalp is None:
        return _nothing(assets, picture, f"the model {assets.name!r} has no scalp: hair is not shaped")
    skull = Skull.of(assets, scalp)
    seen = [see(model, params.take([i]), photo, skull, base) for i, photo in enumerate(photos)]
    if seen[0] is None:
        return _nothing(assets, picture, "the head is outside the picture or too small: hair is not shaped")
    return _fitted([s for s in seen if s is not None], scalp.with_long_hair(seen[0].colours.long), picture)


def _fitted(sights: Sequence[Sight], scalp: Scalp, picture: tuple[int, int]) -> HairLift:
    """Read the outlines and solve for the lift, in turns. scalp: opened to long hair where there is some."""
    colours = sights[0].colours
    amount = colours.amount
    masked = any(s.view.masked for s in sights)
    lift = hair = np.zeros(len(scalp))
    rows, solved = OutlineRows.none(), Lift(lift, lift, np.zeros(0))
    for turn in range(_ITERATIONS):
        fresh = _read(sights, scalp, lift)
        if turn == 0:
            amount = max(amount, _standing_out(fresh, scalp, amount))
        if turn in _LOOKS_AT_HAIR:
            hair = _hair_at_vertices(sights, scalp, lift, amount)
        rows = _joined(fresh, rows)
        solved = solve_lift(scalp, _coat(scalp, hair, lift, amount, colours.long), rows)
        moved = np.abs(solved.metres - lift)
        lift = solved.metres
        if not masked or (turn >= _LOOKS_AT_HAIR[-1] and np.quantile(moved, 0.95) < _SETTLED_M):
            break
    return _result(sights[0], scalp, amount, (solved, hair, rows, masked), picture)


def _read(sights: Sequence[Sight], scalp: Scalp, lift: Float[np.ndarray, " N"]) -> OutlineRows:
    """What all outlines say now. Rows make dense matrices, so several photos share their number."""
    share = MAX_ROWS if len(sights) == 1 else max(2 * MAX_ROWS // len(sights), _LEAST_ROWS)
    found = [sight.outline(scalp, lift, share) for sight in sights]
    others = [replace(rows, sigma=_OTHER_PHOTO * rows.sigma) for rows in found[1:]]
    return OutlineRows.join([found[0], *others])


def _result(
    first: Sight,
    scalp: Scalp,
    amount: float,
    found: tuple[Lift, Float[np.ndarray, " N"], OutlineRows, bool],
    picture: tuple[int, int],
) -> HairLift:
    solved, hair, rows, masked = found
    count, ids = first.skull.assets.num_vertices, scalp.ids
    offsets, (vertices, sigma) = np.zeros((count, 3), np.float32), np.zeros((2, count), np.float32)
    offsets[ids] = solved.metres[:, None] * scalp.directions
    vertices[ids] = hair
    sigma[ids] = solved.sigma
    warnings = []
    if not masked:
        warnings.append("the person mask says nothing about the outline; hair has a typical thickness")
    far = rows.open_ended | (rows.lift > 0.98 * MAX_LIFT_M)
    if len(rows) and far.mean() > _HAT_SHARE:
        limit = f"{100 * MAX_LIFT_M:.0f} cm"
        warnings.append(
            f"the outline is farther than {limit} from the skull (a hat, or a wrong mask); lift stops there"
        )
    mask = first.mask_in_picture(picture)
    return HairLift(offsets, vertices, mask, sigma, amount, first.colours.long, tuple(warnings))


def _nothing(assets: HeadAssets, picture: tuple[int, int], warning: str) -> HairLift:
    v = assets.num_vertices
    zero = np.zeros(v, np.float32)
    return HairLift(np.zeros((v, 3), np.float32), zero, np.zeros(picture, np.float32), zero, 0.0, 0.0, (warning,))


def _standing_out(rows: OutlineRows, scalp: Scalp, amount: float) -> float:
    """Evidence of hair, 0..1, from how far the outline stands out from the bald head."""
    high = rows.of(scalp.zone) > 0.9
    if high.sum() < 10:
        return amount
    return float(smooth_step(np.array(np.median(rows.lift[high])), *_STANDS_OUT_M))


def _hair_at_vertices(
    sights: Sequence[Sight], scalp: Scalp, lift: Float[np.ndarray, " N"], amount: float
) -> Float[np.ndarray, " N"]:
    """Probability of hair at each scalp vertex: from the photos where seen, from its mirror image, else by place."""
    expected = amount * smooth_step(scalp.zone, 0.35, 0.8)
    telling = [s for s in sights if s.colours.known and s.colours.amount >= 0.5 * amount]
    if not telling:
        return expected
    looks = [s.hair_seen(lift) for s in telling]
    total = np.sum([seen for seen, _ in looks], axis=0)
    own = np.sum([seen * hair for seen, hair in looks], axis=0) / np.maximum(total, 1e-9)
    seen = np.minimum(total, 1.0)
    mirror_seen = 0.8 * seen[scalp.mirror] * (1 - seen)
    known = seen + mirror_seen
    told = (seen * own + mirror_seen * own[scalp.mirror]) / np.maximum(known, 1e-9)
    return scalp.smoothed(told * known + expected * (1 - known))


def _coat(
    scalp: Scalp, hair: Float[np.ndarray, " N"], lift: Float[np.ndarray, " N"], amount: float, long: float
) -> Coat:
    """The prior of this person's hair, taken down to nothing towards the hairline. lift: as it was last found."""
    a, b = scalp.edges.T
    start = np.full(len(scalp), np.inf)
    for i, j in ((a, b), (b, a)):  # where the probability crosses one half on an edge, the hairline passes
        crossing = (hair[i] < 0.5) & (hair[j] >= 0.5)
        way = scalp.lengths * (hair[j] - 0.5) / np.maximum(hair[j] - hair[i], 1e-9)
        np.minimum.at(start, j[crossing], way[crossing])
    # The nape opens to long hair, and with it the border of the scalp there.
    border = np.where(scalp.nape * long > 0.3, np.inf, scalp.inland)
    distance = np.minimum(walk(len(scalp), scalp.edges, scalp.lengths, start), border)
    distance = np.where(hair < 0.5, 0.0, np.minimum(distance, 1.0))
    distance = scalp.smoothed(distance)
    rise = _STEP_SHARE * smooth_step(distance, 0.0, _STEP_M)
    rise = rise + (1 - _STEP_SHARE) * smooth_step(distance, 0.0, _RISE_M)
    hanging, low = scalp.hanging(np.maximum(lift, scalp.typical))
    widest = np.abs(scalp.points[:, 1] - scalp.axis[1]) < _THICK_AT_M
    thick = float(np.median(lift[widest & (hair > 0.5)])) if (widest & (hair > 0.5)).any() else 0.0
    low = max(long, float(smooth_step(np.array(thick), *_THICK_M))) * low
    typical = scalp.typical + low * (hanging - scalp.typical)
    vigour = scalp.vigour + low * (_HANG_VIGOUR - scalp.vigour)
    skull = smooth_step(scalp.inland, *_SKULL_RISE_M)
    return Coat(amount, typical, vigour, rise * np.clip(scalp.zone * 2, 0, 1), skull)


def _joined(fresh: OutlineRows, old: OutlineRows) -> OutlineRows:
    """New readings and older ones, which count less each time."""
    aged = replace(old, sigma=old.sigma * _AGEING)
    return OutlineRows.join([fresh, aged.take(np.flatnonzero(old.sigma < _OLDEST_M))])
