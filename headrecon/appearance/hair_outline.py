"""What the edge of the person mask says about the hair: for each point of the head's outline, how far it should rise.

The outline of the lifted head is drawn, and from each of its pixels the mask's edge is looked for along the outline's
own normal (the search of active contours: Kass, Witkin and Terzopoulos 1988; contours of a model as in Drummond and
Cipolla 2002). Ears are left out of the drawing, because hair passes behind them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Float, Int

from headrecon.appearance.hair_scalp import Scalp
from headrecon.appearance.hair_view import Drawn, HairView, project, sample

#: The mask's edge is looked for this far outside and inside the outline (metres).
_OUTWARD_M, _INWARD_M = 0.11, 0.03
#: Outlines are read at this many places at most.
MAX_ROWS = 140
#: Lift that moves the outline by less than this share of itself says nothing.
_LEAST_LEVER = 0.35
#: How well a mask's edge is placed (pixels of the network's mask are about 4 mm on a head; edges are refined).
EDGE_SIGMA_M = 0.0015
#: The person just inside the edge must be hair, over this distance, where an ear or neck lies in the way.
_RIM_M = 0.004


@dataclass(frozen=True)
class OutlineRows:
    """M observations: at a place of the scalp (three scalp vertices and weights) the lift in metres, and its sigma.

    open_ended: the person goes on beyond the reach, so that the lift is a lower bound.
    """

    corners: Int[np.ndarray, "M 3"]
    weights: Float[np.ndarray, "M 3"]
    lift: Float[np.ndarray, " M"]
    sigma: Float[np.ndarray, " M"]
    open_ended: np.ndarray

    def __len__(self) -> int:
        return len(self.lift)

    @staticmethod
    def none() -> OutlineRows:
        """No observation."""
        return OutlineRows(np.zeros((0, 3), int), np.zeros((0, 3)), np.zeros(0), np.zeros(0), np.zeros(0, bool))

    @staticmethod
    def join(parts: Sequence[OutlineRows]) -> OutlineRows:
        """All observations of all parts, in their order."""
        names = [f.name for f in fields(OutlineRows)]
        return OutlineRows(*(np.concatenate([getattr(p, name) for p in parts]) for name in names))

    def take(self, chosen: Int[np.ndarray, " K"]) -> OutlineRows:
        """Some of the observations."""
        return OutlineRows(*(getattr(self, f.name)[chosen] for f in fields(self)))

    def of(self, values: Float[np.ndarray, "N *D"]) -> Float[np.ndarray, "M *D"]:
        """Values of scalp vertices at the rows' places."""
        weights = self.weights.reshape(*self.weights.shape, *[1] * (values.ndim - 1))
        return (values[self.corners] * weights).sum(1)


def read_outline(
    view: HairView,
    scalp: Scalp,
    lift: Float[np.ndarray, " N"],
    posed: tuple[Float[np.ndarray, "V 3"], Float[np.ndarray, "N 3"]],
    drawn: tuple[Drawn, Float[np.ndarray, "h w"]],
    most_rows: int = MAX_ROWS,
) -> OutlineRows:
    """Compare the outline of the lifted head with the mask.

    lift: present lift of the scalp. posed: posed vertices as lifted, and the posed directions of lift. drawn: the
    lifted head without its ears, and a picture that is 1 where the edge of the person counts as hair.
    """
    picture, hair = drawn
    rows, cols, normals = _outline_pixels(picture.covered)
    place = np.full(len(posed[0]), -1)
    place[scalp.ids] = np.arange(len(scalp))
    corners = place[picture.corners[rows, cols]]
    weights = picture.weights[rows, cols]
    zone = (np.where(corners >= 0, scalp.zone[np.maximum(corners, 0)], 0.0) * weights).sum(1)
    kept = np.flatnonzero((corners >= 0).all(1) & (zone > 0.2))
    kept = _thinned(kept, rows, cols, most_rows)
    if not len(kept):
        return OutlineRows.none()
    corners, weights, normals = corners[kept], weights[kept], normals[kept]
    start = np.column_stack([cols[kept], rows[kept]]) + 0.5
    distance, rim, state = _to_the_edge(view, start, normals, hair)
    lever = _levers(view, posed, scalp, (corners, weights), normals)
    # The drawn edge lies half a pixel beyond the centre of its last pixel.
    change = (distance - 0.5) / np.maximum(lever, 1e-9)
    now = (lift[corners] * weights).sum(1)
    usable = (state != _LOST) & (lever > _LEAST_LEVER / view.metres_per_px) & (rim > 0.05)
    sigma = EDGE_SIGMA_M * np.maximum(1.0 / (lever * view.metres_per_px + 1e-9), 1.0) / np.maximum(rim, 0.05)
    chosen = np.flatnonzero(usable)
    return OutlineRows(
        corners[chosen], weights[chosen], (now + change)[chosen], sigma[chosen], (state == _OPEN)[chosen]
    )


_FOUND, _OPEN, _LOST = 0, 1, 2


def _outline_pixels(covered: np.ndarray) -> tuple[np.ndarray, np.ndarray, Float[np.ndarray, "M 2"]]:
    """Covered pixels beside the background, and the outward normals (x, y) of the outline there."""
    from scipy.ndimage import gaussian_filter

    padded = np.pad(covered, 1, mode="edge")  # the picture's own edge is no outline
    around = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    rows, cols = np.nonzero(covered & ~around)
    soft = gaussian_filter(covered.astype(np.float64), 2.5, mode="nearest")
    slope_y, slope_x = np.asarray(np.gradient(soft))
    normals = -np.column_stack([slope_x[rows, cols], slope_y[rows, cols]])
    return rows, cols, normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)


def _thinned(kept: Int[np.ndarray, " K"], rows: np.ndarray, cols: np.ndarray, most: int) -> Int[np.ndarray, " M"]:
    """At most so many of the pixels, evenly spread round the head."""
    if len(kept) <= most:
        return kept
    around = np.arctan2(rows[kept] - rows[kept].mean(), cols[kept] - cols[kept].mean())
    order = kept[np.argsort(around, kind="stable")]
    return order[np.linspace(0, len(order) - 1, most).round().astype(int)]


def _to_the_edge(
    view: HairView, start: Float[np.ndarray, "M 2"], normals: Float[np.ndarray, "M 2"], hair: Float[np.ndarray, "h w"]
) -> tuple[Float[np.ndarray, " M"], Float[np.ndarray, " M"], Int[np.ndarray, " M"]]:
    """Signed distance in pixels along the normals to the mask's edge, how far it is hair's edge, and what was found."""
    step = 0.5
    out, back = (int(np.ceil(reach / view.metres_per_px / step)) for reach in (_OUTWARD_M, _INWARD_M))
    along = np.arange(-back, out + 1) * step
    points = start[:, None] + along[None, :, None] * normals[:, None]
    person = sample(view.person.astype(np.float64), points)
    known = ~np.isnan(person)
    inside = np.where(known, person, 1.0) > 0.5
    from_here = inside[:, back:]
    starts_inside = from_here[:, 0]
    # Outwards the first pixel that is not the person, inwards the first that is.
    exits = np.argmin(from_here, axis=1)
    never_exits = from_here.all(1)
    inwards = inside[:, back::-1]
    enters = np.argmax(inwards, axis=1)
    never_enters = ~inwards.any(1)
    after = np.where(starts_inside, back + exits, back - enters + 1)
    state = np.where(np.where(starts_inside, never_exits, never_enters), _LOST, _FOUND)
    cut = ~known.all(1)
    state[starts_inside & never_exits & ~cut] = _OPEN
    after = np.clip(np.where(starts_inside & never_exits, len(along) - 1, after), 1, len(along) - 1)
    rows = np.arange(len(start))
    p0, p1 = np.nan_to_num(person[rows, after - 1], nan=1.0), np.nan_to_num(person[rows, after], nan=1.0)
    gap = np.where(np.abs(p0 - p1) > 1e-6, (p0 - 0.5) / np.where(np.abs(p0 - p1) > 1e-6, p0 - p1, 1.0), 1.0)
    distance = along[after - 1] + np.clip(gap, 0.0, 1.0) * step
    width = max(1, round(_RIM_M / view.metres_per_px))
    inner = distance[:, None] - np.linspace(0.5, width, 6)[None]
    rim = sample(hair.astype(np.float64), start[:, None] + inner[..., None] * normals[:, None], outside=0.0).mean(1)
    # Where the edge was crossed at the border of the picture nothing was seen.
    state[~known[rows, after]] = _LOST
    return distance, rim, state


def _levers(
    view: HairView,
    posed: tuple[Float[np.ndarray, "V 3"], Float[np.ndarray, "N 3"]],
    scalp: Scalp,
    place: tuple[Int[np.ndarray, "M 3"], Float[np.ndarray, "M 3"]],
    normals: Float[np.ndarray, "M 2"],
) -> Float[np.ndarray, " M"]:
    """Pixels by which the outline moves outwards for each metre of lift."""
    corners, weights = place
    points = (posed[0][scalp.ids[corners]] * weights[..., None]).sum(1)
    directions = (posed[1][corners] * weights[..., None]).sum(1)
    tiny = 1e-4
    moved = project(view, points + tiny * directions)[0] - project(view, points)[0]
    return (moved * normals).sum(1) / tiny
