"""Hair as volume: the scalp is lifted until the head's outline is the person's, with typical hair where unseen.

Hair that falls beside the neck has no surface of its own on a head model. It lifts the scalp behind the ears and the
back of the neck, as one coat, and leaves the throat free; what hangs in front of the shoulders stays away.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float

from headrecon.appearance.hair_colour import HairColours, Places, find_hair
from headrecon.appearance.hair_field import MAX_LIFT_M, Coat, Lift, solve_lift
from headrecon.appearance.hair_outline import OutlineRows, read_outline
from headrecon.appearance.hair_scalp import Scalp, build_scalp, eyes_of, smooth_step, walk
from headrecon.appearance.hair_view import Drawn, HairView, draw, hair_view, project, sample
from headrecon.appearance.projection import Photo
from headrecon.errors import ShapeError
from headrecon.models.head_model import HeadModel
from headrecon.structures import HeadAssets, HeadParams, triangulate

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
#: Log odds of hair on cheeks, eyes and lips.
_NEVER = -9.0
#: Fits do not see how far ears stand out: beyond the model's, an ear is likelier than hair, up to here (metres).
_EAR_REACH_M = (0.012, 0.020)
#: Log odds of hair on an ear, and beyond it within that reach.
_ON_EAR = -3.0


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


@dataclass(frozen=True)
class _Scene:
    """The head in the photo before any lift. directions and up are as posed; earless: triangles without ears."""

    assets: HeadAssets
    scalp: Scalp
    view: HairView
    posed: Float[np.ndarray, "V 3"]
    directions: Float[np.ndarray, "N 3"]
    up: Float[np.ndarray, "3"]
    eyes: Float[np.ndarray, "3"]
    triangles: np.ndarray
    earless: np.ndarray

    def lifted(self, lift: Float[np.ndarray, " N"]) -> Float[np.ndarray, "V 3"]:
        out = self.posed.copy()
        out[self.scalp.ids] += lift[:, None] * self.directions
        return out


@torch.no_grad()
def lift_hair(model: HeadModel, params: HeadParams, photo: Photo) -> HairLift:
    """Find the hair in the photo and the lift of the scalp that makes the head's outline the mask's.

    params: one head, posed as in the photo, in the world of its camera. photo.mask: opacity of the person with hair
    and clothes; without one only colours tell whether there is hair, and the lift is what is typical.
    The same input gives the same output. Raises ShapeError for more than one head or a photo whose sizes disagree.
    """
    if params.batch != 1:
        raise ShapeError(f"lift_hair: expected the parameters of one head, found a batch of {params.batch}")
    assets = model.assets
    photo = photo.checked()
    picture = (photo.cameras.height, photo.cameras.width)
    neutral = model(params.neutral()).vertices[0].double().cpu().numpy()
    scalp = build_scalp(assets, neutral)
    if scalp is None:
        return _nothing(assets, picture, f"the model {assets.name!r} has no scalp: hair is not shaped")
    scene = _scene(model, params, photo, scalp)
    if scene is None:
        return _nothing(assets, picture, "the head is outside the picture or too small: hair is not shaped")
    everything = draw(scene.view, scene.posed, scene.triangles)
    places, above_eyes, ears = _places(scene, everything)
    colours = find_hair(scene.view, everything, places)
    if colours.long == 0.0:
        places, near_ears = _with_ears(scene, places, everything, ears)
        above_eyes = above_eyes * (1 - near_ears)
        colours = find_hair(scene.view, everything, places)
    scene = replace(scene, scalp=scalp.with_long_hair(colours.long))
    counts = np.maximum(smooth_step(colours.mask.astype(np.float64), 0.35, 0.75), above_eyes)
    return _fitted(scene, colours, counts, picture)


def _fitted(
    scene: _Scene, colours: HairColours, counts: Float[np.ndarray, "h w"], picture: tuple[int, int]
) -> HairLift:
    """Read the outline and solve for the lift, in turns."""
    scalp, amount = scene.scalp, colours.amount
    lift = hair = np.zeros(len(scalp))
    rows, solved = OutlineRows.none(), Lift(lift, lift, np.zeros(0))
    for turn in range(_ITERATIONS):
        fresh = OutlineRows.none()
        if scene.view.masked:
            lifted = scene.lifted(lift)
            drawn = draw(scene.view, lifted, scene.earless)
            fresh = read_outline(scene.view, scalp, lift, (lifted, scene.directions), (drawn, counts))
        if turn == 0:
            amount = max(amount, _standing_out(fresh, scalp, amount))
        if turn in _LOOKS_AT_HAIR:
            hair = _hair_at_vertices(scene, colours, lift, amount)
        rows = _joined(fresh, rows)
        solved = solve_lift(scalp, _coat(scalp, hair, lift, amount, colours.long), rows)
        moved = np.abs(solved.metres - lift)
        lift = solved.metres
        if not scene.view.masked or (turn >= _LOOKS_AT_HAIR[-1] and np.quantile(moved, 0.95) < _SETTLED_M):
            break
    return _result(scene, replace(colours, amount=amount), (solved, hair, rows), picture)


def _result(
    scene: _Scene,
    colours: HairColours,
    found: tuple[Lift, Float[np.ndarray, " N"], OutlineRows],
    picture: tuple[int, int],
) -> HairLift:
    solved, hair, rows = found
    count, ids = scene.assets.num_vertices, scene.scalp.ids
    offsets, vertices, sigma = (
        np.zeros((count, 3), np.float32),
        np.zeros(count, np.float32),
        np.zeros(count, np.float32),
    )
    offsets[ids] = solved.metres[:, None] * scene.scalp.directions
    vertices[ids] = hair
    sigma[ids] = solved.sigma
    warnings = []
    if not scene.view.masked:
        warnings.append("the person mask says nothing about the outline; hair has a typical thickness")
    far = rows.open_ended | (rows.lift > 0.98 * MAX_LIFT_M)
    if len(rows) and far.mean() > _HAT_SHARE:
        limit = f"{100 * MAX_LIFT_M:.0f} cm"
        warnings.append(
            f"the outline is farther than {limit} from the skull (a hat, or a wrong mask); lift stops there"
        )
    mask = _in_picture(colours.mask, scene.view, picture)
    return HairLift(offsets, vertices, mask, sigma, colours.amount, colours.long, tuple(warnings))


def _nothing(assets: HeadAssets, picture: tuple[int, int], warning: str) -> HairLift:
    v = assets.num_vertices
    zero = np.zeros(v, np.float32)
    return HairLift(np.zeros((v, 3), np.float32), zero, np.zeros(picture, np.float32), zero, 0.0, 0.0, (warning,))


def _scene(model: HeadModel, params: HeadParams, photo: Photo, scalp: Scalp) -> _Scene | None:
    assets = model.assets
    base = model(params)
    posed = base.vertices[0].double().cpu().numpy()
    view = hair_view(photo, posed)
    if view is None:
        return None
    arrows = np.zeros((assets.num_vertices, 3))
    arrows[scalp.ids] = scalp.directions
    triangles, owner = triangulate(assets.faces)
    if "ears" in assets.regions:
        ear = assets.regions["ears"][triangles].min(1) > 0.3
    else:
        ear = np.zeros(len(triangles), bool)
    skin = assets.face_part[owner] == assets.part_names.index("skin") if "skin" in assets.part_names else ~ear
    upwards = np.zeros((assets.num_vertices, 3))
    upwards[:, 1] = 1.0
    return _Scene(
        assets=assets,
        scalp=scalp,
        view=view,
        posed=posed,
        directions=_turned(model, params, arrows, posed)[scalp.ids],
        up=_turned(model, params, upwards, posed)[scalp.ids].mean(0),
        eyes=base.joints[0, 3:5].mean(0).double().cpu().numpy(),
        triangles=triangles,
        earless=triangles[skin & ~ear],
    )


def _turned(
    model: HeadModel, params: HeadParams, vectors: Float[np.ndarray, "V 3"], posed: Float[np.ndarray, "V 3"]
) -> Float[np.ndarray, "V 3"]:
    """Vectors at the neutral head's vertices as the pose turns them: skinning is linear in offsets."""
    moved = model(params, torch.as_tensor(vectors)).vertices[0].double().cpu().numpy()
    return moved - posed


def _places(scene: _Scene, drawn: Drawn) -> tuple[Places, Float[np.ndarray, "h w"], np.ndarray]:
    """What each pixel may be by where it lies; 1 above the eyes, where only a head has an outline; the model's ears."""
    assets = scene.assets
    zone = np.zeros(assets.num_vertices)
    zone[scene.scalp.ids] = scene.scalp.zone
    inland = np.zeros(assets.num_vertices)
    inland[scene.scalp.ids] = scene.scalp.inland
    ears = np.asarray(assets.regions.get("ears", np.zeros(assets.num_vertices)), dtype=np.float64)
    lips = np.asarray(assets.regions.get("lips", np.zeros(assets.num_vertices)), dtype=np.float64)
    template = assets.v_template.astype(np.float64) - eyes_of(assets)
    inner = np.zeros(assets.num_vertices)
    for part in assets.part_names:
        if part != "skin":
            faces = assets.faces[assets.faces_of(part)]
            inner[faces[faces >= 0]] = 1.0
    per_vertex = np.column_stack([template, zone, inland, ears, lips, inner])
    x, y, z, zone, inland, ear, lip, inner = np.moveaxis(drawn.of_vertices(per_vertex), -1, 0)
    covered = drawn.covered
    up, side = _axes_beyond(scene)
    # Skin below the brows is never hair, whatever its colour; foreheads and temples may be covered by some.
    bare = _NEVER + (-_NEVER - 1.5) * smooth_step(y, 0.036, 0.055)
    bare = np.maximum(bare, _NEVER + (-_NEVER - 1.0) * smooth_step(y, 0.0, 0.02) * smooth_step(np.abs(x), 0.040, 0.055))
    bare = np.where(inner > 0.2, 2 * _NEVER, np.where(y < -0.12, 0.5 * _NEVER, bare))
    on_head = np.where(ear > 0.3, _ON_EAR, bare * (1 - zone) + 2.5 * zone)
    beyond = -2.0 + 2.5 * smooth_step(up, -0.15, -0.11) + 2.5 * smooth_step(up, -0.01, 0.02)
    cheeks = (y > -0.042) & (y < -0.010) & (np.abs(x) < 0.045) & (z > -0.06) & (lip < 0.05) & (inner < 0.05)
    places = Places(
        odds=np.where(covered, on_head, beyond),
        above=np.where(covered, (zone > 0.95) & (inland > 0.015), (up > 0.03) & (np.abs(side) < 0.16)),
        skin=covered & cheeks,
        clothed=~covered & (up < -0.17),
        beside=np.where(~covered & (np.abs(side) < 0.14), np.maximum(-up, 0.0), 0.0),
    )
    above_ears = smooth_step(up, 0.012, 0.030) * ~(covered & (ear > 0.1))
    return places, np.maximum(above_ears, 0.0), np.asarray(covered & (ear > 0.3))


def _with_ears(
    scene: _Scene, places: Places, drawn: Drawn, ears: np.ndarray
) -> tuple[Places, Float[np.ndarray, "h w"]]:
    """The same places for short hair, where what stands out beside the model's ears is the person's own ear.

    The second is 1 there, and 0 farther away.
    """
    if not ears.any():
        return places, np.zeros(ears.shape)
    from scipy.ndimage import distance_transform_edt

    away = np.asarray(distance_transform_edt(~ears)) * scene.view.metres_per_px
    near = (1 - smooth_step(away, *_EAR_REACH_M)) * ~drawn.covered
    return replace(places, odds=places.odds + near * (_ON_EAR - places.odds)), near


def _axes_beyond(scene: _Scene) -> tuple[Float[np.ndarray, "h w"], Float[np.ndarray, "h w"]]:
    """Metres above the eyes and beside the middle of the skull for every pixel, on a plane at the head's distance."""
    view = scene.view
    skull = scene.posed[scene.scalp.ids].mean(0)
    pixels, _ = project(view, np.stack([scene.eyes, scene.eyes + 0.05 * scene.up, skull]))
    arrow = pixels[1] - pixels[0]
    arrow = arrow / max(float(np.linalg.norm(arrow)), 1e-9)
    width, height = view.size
    dx = np.arange(width)[None, :] + 0.5 - pixels[0, 0]
    dy = np.arange(height)[:, None] + 0.5 - pixels[0, 1]
    scale = view.metres_per_px
    beside = (pixels[2] - pixels[0]) @ (-arrow[1], arrow[0])
    return (dx * arrow[0] + dy * arrow[1]) * scale, (dx * -arrow[1] + dy * arrow[0] - beside) * scale


def _standing_out(rows: OutlineRows, scalp: Scalp, amount: float) -> float:
    """Evidence of hair, 0..1, from how far the outline stands out from the bald head."""
    high = rows.of(scalp.zone) > 0.9
    if high.sum() < 10:
        return amount
    return float(smooth_step(np.array(np.median(rows.lift[high])), *_STANDS_OUT_M))


def _hair_at_vertices(
    scene: _Scene, colours: HairColours, lift: Float[np.ndarray, " N"], amount: float
) -> Float[np.ndarray, " N"]:
    """Probability of hair at each scalp vertex: from the photo where seen, from its mirror image, else by place."""
    scalp, view = scene.scalp, scene.view
    expected = amount * smooth_step(scalp.zone, 0.35, 0.8)
    if not colours.known or colours.amount < 0.5 * amount:
        return expected
    lifted = scene.lifted(lift)
    drawn = draw(view, lifted, scene.triangles)
    points = lifted[scalp.ids]
    pixels, depth = project(view, points)
    front = sample(np.where(drawn.covered, drawn.depth_z, 1e3).astype(np.float64), pixels, outside=0.0)
    camera = -view.cameras.viewmats[:3, :3].double().numpy().T @ view.cameras.viewmats[:3, 3].double().numpy()
    to_camera = camera - points
    cosine = (to_camera * scene.directions).sum(1) / np.linalg.norm(to_camera, axis=1)
    seen = smooth_step(cosine, 0.15, 0.4) * (depth < front + 0.006)
    own = sample(colours.mask.astype(np.float64), pixels, outside=0.0)
    mirror_seen = 0.8 * seen[scalp.mirror] * (1 - seen)
    total = seen + mirror_seen
    told = (seen * own + mirror_seen * own[scalp.mirror]) / np.maximum(total, 1e-9)
    return scalp.smoothed(told * total + expected * (1 - total))


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
    aged = old.sigma * _AGEING
    kept = np.flatnonzero(old.sigma < _OLDEST_M)
    return OutlineRows(
        np.concatenate([fresh.corners, old.corners[kept]]),
        np.concatenate([fresh.weights, old.weights[kept]]),
        np.concatenate([fresh.lift, old.lift[kept]]),
        np.concatenate([fresh.sigma, aged[kept]]),
        np.concatenate([fresh.open_ended, old.open_ended[kept]]),
    )


def _in_picture(mask: Float[np.ndarray, "h w"], view: HairView, picture: tuple[int, int]) -> Float[np.ndarray, "H W"]:
    """The view's mask at the photo's own size."""
    from PIL import Image

    x0, y0, x1, y1 = view.box
    out = np.zeros(picture, np.float32)
    grown = Image.fromarray(mask.astype(np.float32)).resize((x1 - x0, y1 - y0), Image.Resampling.BILINEAR)
    out[y0:y1, x0:x1] = np.clip(np.asarray(grown), 0.0, 1.0)
    return out
