"""Where hair grows on a head model and which way it is lifted: geometry of the scalp, the same for every photo.

Every vertex moves along its own ray from a half-line inside the head: from a point amid the skull above it, from the
line straight down from there below. Rays of this family never meet, so no amount of lift folds the scalp.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from headrecon.appearance.diffusion import mirror_vertices
from headrecon.geometry.mesh import unique_edges
from headrecon.structures import HeadAssets, triangulate

#: Typical thickness of the coat of hair (metres): on top, at the sides and back, at the lower edge.
_TYPICAL_M = (0.017, 0.011, 0.006)
#: Necks end so far below the scalp, and are no wider (metres).
_NECK_BELOW_M, _NECK_RADIUS_M = (0.085, 0.110), (0.085, 0.100)
#: Long hair closes in by this share of the way down; what it falls from is a mean over this angle around (radians).
_HANG_TAPER, _HANG_WIDTH = 0.15, 0.35
#: Heads are widest within this distance above and below the point amid the skull (metres).
_WIDEST_M = 0.025
#: Hair stays this far below an ear that leans over it.
_EAR_GAP_M = 0.002
#: Hairlines at the temples lie up to this far in front of the scalp that models name, above the eyes (metres).
_TEMPLE_M = 0.028
_TEMPLE_ABOVE_EYES_M = (0.004, 0.016)
_TEMPLE_BESIDE_M = (0.045, 0.058)
#: Long hair covers the back of the neck; its sides, up to here before the axis (metres), share in it less and less.
_NECK_FADE_M = (-0.035, 0.0)


@dataclass(frozen=True)
class Scalp:
    """The N vertices that hair may lift, in the neutral head of one person (metres).

    ids: their vertices. points, directions: position and unit direction of lift. zone: 1 on the scalp, 0 at its border,
    in between on the temples, where only the photo can say.
    nape: 1 on the back of the neck, which only long hair lifts. typical: prior thickness of short hair; vigour: how
    much that varies, in shares of the top's. axis: upper end of the half-line. ceiling: most lift before an
    ear is in the way. inland: distance from the border of the zone along the surface. mirror: index of each one's
    mirror image. edges: pairs of neighbours among them, with lengths.
    """

    ids: Int[np.ndarray, " N"]
    points: Float[np.ndarray, "N 3"]
    directions: Float[np.ndarray, "N 3"]
    zone: Float[np.ndarray, " N"]
    nape: Float[np.ndarray, " N"]
    typical: Float[np.ndarray, " N"]
    vigour: Float[np.ndarray, " N"]
    axis: Float[np.ndarray, "3"]
    ceiling: Float[np.ndarray, " N"]
    inland: Float[np.ndarray, " N"]
    mirror: Int[np.ndarray, " N"]
    edges: Int[np.ndarray, "E 2"]
    lengths: Float[np.ndarray, " E"]

    def __len__(self) -> int:
        return len(self.ids)

    def smoothed(self, values: Float[np.ndarray, " N"], steps: int = 1) -> Float[np.ndarray, " N"]:
        """Means of each value and those around it."""
        a, b = self.edges.T
        for _ in range(steps):
            total, count = values.astype(np.float64), np.ones(len(values))
            for i, j in ((a, b), (b, a)):
                total = total + np.bincount(i, values[j], minlength=len(values))
                count = count + np.bincount(i, minlength=len(values))
            values = total / count
        return values

    def with_long_hair(self, amount: float) -> Scalp:
        """The same with the back of the neck opened to hair, 0 (closed) to 1."""
        return replace(self, zone=np.maximum(self.zone, amount * self.nape))

    def hanging(self, thickness: Float[np.ndarray, " N"]) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, " N"]]:
        """Thickness of hair that falls straight down from where the head with its hair is widest, and where it does.

        It closes in a little towards the neck. The second is 1 below the widest place and 0 above.
        """
        arm = self.points - self.axis
        radius, azimuth = np.hypot(arm[:, 0], arm[:, 2]), np.arctan2(arm[:, 0], -arm[:, 2])
        widest = (self.zone > 0.5) & (np.abs(arm[:, 1]) < _WIDEST_M)
        if not widest.any():
            return thickness, np.zeros(len(self))
        turn = np.abs(np.angle(np.exp(1j * (azimuth[:, None] - azimuth[widest][None]))))
        close = np.exp(-0.5 * (turn / _HANG_WIDTH) ** 2) + 1e-9
        rim = (close * (radius + thickness)[widest]).sum(1) / close.sum(1)
        fallen = np.maximum(rim - _HANG_TAPER * np.maximum(-arm[:, 1], 0.0) - radius, 0.0)
        return fallen, smooth_step(-arm[:, 1], 0.5 * _WIDEST_M, 2 * _WIDEST_M)


def scalp_zone(assets: HeadAssets, edges: Int[np.ndarray, "E 2"]) -> Float[np.ndarray, " V"]:
    """Where hair may lift the surface, 0..1: the model's own region "scalp", or a guess; never face, ears, parts."""
    if "scalp" in assets.regions:
        zone = np.clip(assets.regions["scalp"].astype(np.float64), 0, 1)
    else:
        zone = _guess(assets)
    zone = np.maximum(zone, _temples(assets, zone, edges))
    for other in ("ears", "neck", "brows", "lips"):
        if other in assets.regions:
            zone = zone * (1 - np.clip(assets.regions[other].astype(np.float64), 0, 1))
    keep = np.zeros(assets.num_vertices, bool)
    keep[_skin_vertices(assets)] = True
    for part in assets.part_names:  # a vertex shared with a part keeps its place
        if part != "skin":
            faces = assets.faces[assets.faces_of(part)]
            keep[faces[faces >= 0]] = False
    return np.where(keep & (zone > 1e-3), zone, 0.0)


def eyes_of(assets: HeadAssets) -> Float[np.ndarray, "3"]:
    """The point between the eyes in the model's template."""
    return (assets.J_regressor[3:5].astype(np.float64) @ assets.v_template.astype(np.float64)).mean(0)


def build_scalp(assets: HeadAssets, neutral: Float[np.ndarray, "V 3"]) -> Scalp | None:
    """The scalp of a person whose neutral head is given (metres). None for a model without one."""
    edges = unique_edges(triangulate(assets.faces)[0])
    zone = scalp_zone(assets, edges)
    nape = _nape(assets, zone)
    ids = np.flatnonzero((zone > 0) | (nape > 0))
    if not (zone > 0.5).any():
        return None
    vertices = neutral.astype(np.float64)
    axis = _middle(vertices, zone, assets)
    points = vertices[ids]
    outward = points - axis
    outward[:, 1] = np.maximum(outward[:, 1], 0.0)
    directions = outward / np.maximum(np.linalg.norm(outward, axis=1, keepdims=True), 1e-6)
    lengths = _lengths(vertices, edges)
    inland = walk(len(vertices), edges, lengths, np.where(zone > 0, np.inf, 0.0))[ids]
    edges, lengths = _edges_within(edges, lengths, ids, len(vertices))
    template = assets.v_template.astype(np.float64)[ids]
    height = (points[:, 1] - axis[1]) / max(float(points[:, 1].max() - axis[1]), 1e-6)
    top, side, low = _TYPICAL_M
    typical = np.interp(height, [-0.9, -0.3, 0.3, 0.9], [low, side, side, top])
    return Scalp(
        ids=ids,
        points=points,
        directions=directions,
        zone=zone[ids],
        nape=nape[ids],
        typical=typical,
        vigour=np.interp(height, [-0.9, -0.3, 0.1], [0.3, 0.75, 1.0]),
        axis=axis,
        ceiling=_below_ears(assets, vertices, points, directions),
        inland=np.minimum(inland, 1.0),
        mirror=np.asarray(mirror_vertices(template)[0]),
        edges=edges,
        lengths=lengths,
    )


def walk(
    count: int, edges: Int[np.ndarray, "E 2"], lengths: Float[np.ndarray, " E"], start: Float[np.ndarray, " N"]
) -> Float[np.ndarray, " N"]:
    """Shortest way along edges to the nearest vertex with a finite `start`, plus its start. Inf where none is."""
    import scipy.sparse as sp
    from scipy.sparse.csgraph import dijkstra

    seeds = np.flatnonzero(np.isfinite(start))
    if not len(seeds):
        return np.full(count, np.inf)
    # One more node is joined to every seed: its distances are what is asked for. Zero would mean "no edge".
    rows = np.concatenate([edges[:, 0], np.full(len(seeds), count)])
    cols = np.concatenate([edges[:, 1], seeds])
    values = np.concatenate([np.maximum(lengths, 1e-9), np.maximum(start[seeds], 1e-9)])
    graph = sp.csr_matrix((values, (rows, cols)), shape=(count + 1, count + 1))
    return np.asarray(dijkstra(graph, directed=False, indices=count))[:count]


def _skin_vertices(assets: HeadAssets) -> np.ndarray:
    faces = assets.faces[assets.faces_of("skin")] if "skin" in assets.part_names else assets.faces
    return np.unique(faces[faces >= 0])


def _guess(assets: HeadAssets) -> Float[np.ndarray, " V"]:
    """A scalp for models that name none: above a line that falls from the forehead over the ears to the nape."""
    p, eyes = assets.v_template.astype(np.float64), eyes_of(assets)
    skin = _skin_vertices(assets)
    crown = p[skin, 1].max() - eyes[1]
    behind = np.clip((eyes[2] - p[:, 2]) / max(float(eyes[2] - p[skin, 2].min()), 1e-6), 0, 1)
    line = eyes[1] + crown * (0.58 - 1.25 * behind)
    return smooth_step((p[:, 1] - line) / crown, 0.0, 0.12)


def _temples(
    assets: HeadAssets, zone: Float[np.ndarray, " V"], edges: Int[np.ndarray, "E 2"]
) -> Float[np.ndarray, " V"]:
    """Half a scalp: the skin between the corner of the forehead and the ear."""
    p, eyes = assets.v_template.astype(np.float64), eyes_of(assets)
    far = walk(len(p), edges, _lengths(p, edges), np.where(zone > 0.5, 0.0, np.inf))
    near = 1 - smooth_step(far, 0.4 * _TEMPLE_M, _TEMPLE_M)
    above = smooth_step(p[:, 1] - eyes[1], *_TEMPLE_ABOVE_EYES_M)
    return 0.5 * near * above * smooth_step(np.abs(p[:, 0] - eyes[0]), *_TEMPLE_BESIDE_M)


def smooth_step(values: Float[np.ndarray, "*N"], low: float, high: float) -> Float[np.ndarray, "*N"]:
    """0 below low, 1 above high, smooth between."""
    t = np.clip((values - low) / (high - low), 0.0, 1.0)
    return np.asarray(t * t * (3 - 2 * t))


def _lengths(vertices: Float[np.ndarray, "V 3"], edges: Int[np.ndarray, "E 2"]) -> Float[np.ndarray, " E"]:
    return np.linalg.norm(vertices[edges[:, 0]] - vertices[edges[:, 1]], axis=1)


def _nape(assets: HeadAssets, zone: Float[np.ndarray, " V"]) -> Float[np.ndarray, " V"]:
    """The back of the neck, 0..1: skin below the scalp and behind the middle of the neck."""
    p = assets.v_template.astype(np.float64)
    skin = _skin_vertices(assets)
    inside = zone > 0.5
    low = float(p[inside, 1].min()) if inside.any() else 0.0
    eyes = eyes_of(assets)
    middle = 0.5 * (float(p[inside, 2].min()) + eyes[2]) if inside.any() else 0.0
    nape = smooth_step(middle - p[:, 2], -_NECK_FADE_M[1], -_NECK_FADE_M[0]) * (p[:, 1] < low + 0.02)
    # Busts go on to the shoulders, on which hair lies as it likes.
    beside = np.hypot(p[:, 0] - eyes[0], p[:, 2] - middle)
    nape = nape * (1 - smooth_step(low - p[:, 1], *_NECK_BELOW_M)) * (1 - smooth_step(beside, *_NECK_RADIUS_M))
    out = np.zeros(len(p))
    out[skin] = nape[skin]
    if "ears" in assets.regions:
        out *= 1 - np.clip(assets.regions["ears"], 0, 1)
    return np.where(out > 1e-3, out, 0.0)


def _middle(
    vertices: Float[np.ndarray, "V 3"], zone: Float[np.ndarray, " V"], assets: HeadAssets
) -> Float[np.ndarray, "3"]:
    """The upper end of the half-line: amid the skull, a little above the eyes."""
    own_eyes = (assets.J_regressor[3:5].astype(np.float64) @ vertices).mean(0)
    inside = vertices[zone > 0.5]
    crown = inside[:, 1].max() - own_eyes[1]
    back = inside[:, 2].min()
    return np.array([own_eyes[0], own_eyes[1] + 0.2 * crown, 0.5 * (back + own_eyes[2])])


def _edges_within(
    edges: Int[np.ndarray, "E 2"], lengths: Float[np.ndarray, " E"], ids: Int[np.ndarray, " N"], count: int
) -> tuple[Int[np.ndarray, "M 2"], Float[np.ndarray, " M"]]:
    """The edges whose both ends are among `ids`, renumbered."""
    place = np.full(count, -1)
    place[ids] = np.arange(len(ids))
    kept = (place[edges] >= 0).all(1)
    return place[edges[kept]], lengths[kept]


def _below_ears(
    assets: HeadAssets,
    vertices: Float[np.ndarray, "V 3"],
    points: Float[np.ndarray, "N 3"],
    directions: Float[np.ndarray, "N 3"],
) -> Float[np.ndarray, " N"]:
    """How far each point may rise before it meets an ear (Möller and Trumbore 1997); infinite where no ear is."""
    if "ears" not in assets.regions:
        return np.full(len(points), np.inf)
    triangles = triangulate(assets.faces)[0]
    ear = assets.regions["ears"][triangles].min(1) > 0.5
    a, b, c = (vertices[triangles[ear, i]] for i in range(3))
    if not len(a):
        return np.full(len(points), np.inf)
    out = np.full(len(points), np.inf)
    close = np.flatnonzero(_near_any(points, (a + b + c) / 3, 0.06))
    u, v = b - a, c - a
    way = directions[close][:, None]
    cross = np.cross(way, v[None])
    determinant = (u * cross).sum(2)
    determinant[np.abs(determinant) < 1e-14] = np.inf
    arm = points[close][:, None] - a
    s = (arm * cross).sum(2) / determinant
    q = np.cross(arm, u[None])
    t = (q * way).sum(2) / determinant
    far = (v * q).sum(2) / determinant
    hit = (s >= 0) & (t >= 0) & (s + t <= 1) & (far > 1e-4)
    out[close] = np.maximum(np.where(hit, far, np.inf).min(1) - _EAR_GAP_M, 0.0)
    return out


def _near_any(points: Float[np.ndarray, "N 3"], others: Float[np.ndarray, "M 3"], reach: float) -> np.ndarray:
    from scipy.spatial import KDTree

    return np.isfinite(KDTree(others).query(points, distance_upper_bound=reach)[0])
