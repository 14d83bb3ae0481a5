"""Cameras and poses from matched patches: bundle adjustment on the head.

A matched patch is a point of the surface that may lie off it (along the normal a little, along the skin more, as the
texture is nobody's landmark) and that two photos show at known pixels. Its own three coordinates are integrated out, so
that a match is four whitened numbers in the parameters of two views (Triggs et al., "Bundle Adjustment", 1999, section
6, with a prior on the points). Where the fit's landmarks lie in each photo, and the priors of identity, expression and
focal length, hold what matches cannot see.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from headrecon.fitting.multiview.matching import Matches
from headrecon.fitting.multiview.surface import Surface
from headrecon.models.point_model import PointModel
from headrecon.structures import POSE_FIELDS, Cameras, LandmarkEmbedding


@dataclass(frozen=True)
class CalibrationOptions:
    """along_m, across_m: by which a patch may lie off the surface, along the normal (along_measured_m: once stereo has
    measured it) and along the skin. pixel: least deviation of a match, photo pixels. together: matches that say one
    thing (their windows overlap). mark_share: by which the face's points may move, in shares of the face's extent in
    the picture. expression, jaw_rad, log_focal: deviations from where the joint fit has them; size: of the log of the
    face's size. cut: misfit at which a match keeps a quarter of its weight. steps: of Gauss-Newton. per_pair: at most
    so many matches of two views.
    """

    along_m: float = 0.0015
    along_measured_m: float = 0.0005
    across_m: float = 0.004
    pixel: float = 0.15
    together: float = 6.0
    mark_share: float = 0.03
    expression: float = 0.08
    jaw_rad: float = 0.04
    size: float = 0.005
    log_focal: float = 0.4
    cut: float = 3.0
    steps: int = 3
    per_pair: int = 250


@dataclass(frozen=True)
class Stand:
    """What bundle adjustment moves: per view the head and the camera."""

    params: Float[np.ndarray, "C P"]
    cameras: tuple[Cameras, ...]


class Layout:
    """Columns: betas, then for each view expression, turn, jaw, place (u, v, s) and log focal.

    As in `fitting.parameters`: (u, v) is the pixel of the face's anchor and s the log of its depth over the focal
    length, so that given these the focal length changes perspective alone.
    """

    def __init__(self, surface: Surface, count: int) -> None:
        self.head = surface.joints.layout
        names = ("expression", "global_orient", "jaw_pose")
        own = [np.arange(self.head.size)[self.head.slices[n]] for n in names]
        self.own: Int[np.ndarray, " K"] = np.concatenate(own)
        self.shared = np.arange(self.head.size)[self.head.slices["betas"]]
        self.count, self.per_view = count, len(self.own) + 4
        self.size = len(self.shared) + count * self.per_view
        self.anchor = PointModel(surface.assets, _anchor(surface))

    def view(self, index: int) -> slice:
        start = len(self.shared) + index * self.per_view
        return slice(start, start + self.per_view)

    def tie(self) -> Float[np.ndarray, "N M"]:
        """From all columns but the focal lengths', and one focal length behind them, to all columns."""
        focal = [self.view(i).stop - 1 for i in range(self.count)]
        out = np.delete(np.eye(self.size), focal, axis=1)
        return np.concatenate([out, np.isin(np.arange(self.size), focal)[:, None].astype(float)], axis=1)

    def anchor_at(self, params: Float[np.ndarray, " P"], camera: Cameras) -> Float[np.ndarray, "3"]:
        """The face's middle in camera coordinates."""
        return camera.viewmats[:3, :3] @ self.anchor.evaluate(params).mean(0) + camera.viewmats[:3, 3]


def _anchor(surface: Surface) -> LandmarkEmbedding:
    """Points whose mean stands for the face: landmarks where there are any, else some of what is compared."""
    found = surface.assets.landmarks.get("ibug68")
    if found is not None:
        return found
    corners = surface.triangles[surface.compared][:: max(1, int(surface.compared.sum()) // 50)]
    return LandmarkEmbedding(corners, np.full(corners.shape, 1 / 3))


def calibrate(
    surface: Surface,
    stand: Stand,
    start: Stand,
    offsets: Float[np.ndarray, "V 3"],
    matches: Sequence[Matches],
    options: CalibrationOptions,
) -> Stand:
    """Move heads and focal lengths so that matches meet. stand: where the heads were when they were matched.

    start: the joint fit, about which the priors are. Without matches the priors alone keep `stand` near `start`.
    """
    layout = Layout(surface, len(stand.params))
    measured = bool(offsets.any())
    if measured:  # the surface has been measured: it is not for matches to move it any more
        options = replace(options, along_m=options.along_measured_m)
    points = [MatchedPoints.of(surface, stand, offsets, m, options) for m in matches]
    for _ in range(options.steps):
        normal, right = priors(surface, layout, stand, start, options)
        if measured:
            _hold_identity(layout, normal, right)
        add_matches(surface, layout, stand, offsets, points, options, (normal, right))
        stand = moved(layout, stand, np.linalg.solve(normal, right))
    return stand


def add_matches(
    surface: Surface,
    layout: Layout,
    stand: Stand,
    offsets: Float[np.ndarray, "V 3"],
    points: Sequence[MatchedPoints],
    options: CalibrationOptions,
    equations: tuple[np.ndarray, np.ndarray],
) -> None:
    """Add what the matches say to a normal matrix and its right side."""
    normal, right = equations
    for columns, own, pull in equations_of_pairs(surface, layout, stand, offsets, points, options):
        normal[np.ix_(columns, columns)] += own
        right[columns] += pull


def equations_of_pairs(
    surface: Surface,
    layout: Layout,
    stand: Stand,
    offsets: Float[np.ndarray, "V 3"],
    points: Sequence[MatchedPoints],
    options: CalibrationOptions,
) -> Iterator[tuple[Int[np.ndarray, " K"], Float[np.ndarray, "K K"], Float[np.ndarray, " K"]]]:
    """What each pair's matches say: columns, normal matrix and right side."""
    posed = [surface.posed(x, offsets) for x in stand.params]
    shown = [(vertices, surface.normals(vertices)) for vertices in posed]
    for p in points:
        columns, jac, error = _linear(surface, layout, stand, shown, p, options)
        weight = (1.0 / (1.0 + (error**2).sum(1) / 4 / options.cut**2)) ** 2 / options.together
        flat = (jac * weight[:, None, None]).reshape(-1, jac.shape[2])
        yield columns, flat.T @ jac.reshape(flat.shape), -flat.T @ error.reshape(-1)


def _hold_identity(layout: Layout, normal: Float[np.ndarray, "K K"], right: Float[np.ndarray, " K"]) -> None:
    shared = np.arange(len(layout.shared))
    normal[shared, shared] += 1e8
    right[shared] = 0.0


def moved(layout: Layout, stand: Stand, step: Float[np.ndarray, " K"]) -> Stand:
    params = stand.params.copy()
    params[:, layout.shared] += step[: len(layout.shared)]
    cameras = []
    for i, camera in enumerate(stand.cameras):
        own = step[layout.view(i)]
        params[i, layout.own] += own[:-4]
        focal, K = camera.Ks[0, 0], np.array(camera.Ks, np.float64)
        u, v, s, grown = own[-4:-1].tolist() + [float(np.clip(own[-1], -0.3, 0.3))]
        at = layout.anchor_at(stand.params[i], camera)
        depth = at[2] * np.exp(np.clip(s, -0.3, 0.3) + grown)
        pixel = focal * at[:2] / at[2] + [u, v]
        wanted = np.append(pixel * depth / (focal * np.exp(grown)), depth)
        params[i, layout.head.slices["transl"]] += camera.viewmats[:3, :3].T @ (wanted - at)
        K[:2, :2] *= np.exp(grown)
        cameras.append(replace(camera, Ks=K))
    return Stand(params, tuple(cameras))


def priors(
    surface: Surface, layout: Layout, stand: Stand, start: Stand, o: CalibrationOptions
) -> tuple[np.ndarray, np.ndarray]:
    """Normal matrix and right side of what does not come from matches."""
    head = layout.head
    sigma = np.full(head.size, 10.0)
    sigma[head.slices["expression"]] = o.expression
    for name in POSE_FIELDS[1:]:
        sigma[head.slices[name]] = o.jaw_rad
    precision, pull = np.zeros(layout.size), np.zeros(layout.size)
    precision[: len(layout.shared)] = 1.0
    pull[: len(layout.shared)] = -stand.params[0, layout.shared]
    normal = np.zeros((layout.size, layout.size))
    slope, grew = _size(layout, stand.params[0], start.params[0])
    shared = slice(0, len(layout.shared))
    normal[shared, shared] += np.outer(slope, slope) / o.size**2
    pull[shared] -= slope * grew / o.size**2
    for i in range(layout.count):
        own = layout.view(i)
        grown = np.log(stand.cameras[i].Ks[0, 0] / start.cameras[i].Ks[0, 0])
        gone = stand.params[i, layout.own] - start.params[i, layout.own]
        precision[own] = np.concatenate([1 / sigma[layout.own] ** 2, [1e-8, 1e-8, 1e-4], [1 / o.log_focal**2]])
        pull[own] = -precision[own] * np.concatenate([gone, [0.0, 0.0, 0.0, grown]])
        columns, jac, away = _marks(surface, layout, stand, start, i, o)
        normal[np.ix_(columns, columns)] += jac.T @ jac
        pull[columns] -= jac.T @ away
    normal[np.diag_indices(layout.size)] += precision
    return normal, pull


def _size(
    layout: Layout, params: Float[np.ndarray, " P"], start: Float[np.ndarray, " P"]
) -> tuple[Float[np.ndarray, " Nb"], float]:
    """How the log of the face's size follows identity, and by how much it is larger than at the start.

    Matches say nothing about size: a head twice as large and as far away looks the same. The joint fit's stays.
    """
    still = np.zeros((2, layout.head.size))
    still[:, layout.shared] = np.stack([params, start])[:, layout.shared]
    points, jac = layout.anchor.jacobian(still[0])
    before = layout.anchor.evaluate(still[1])
    from_middle = points - points.mean(0)
    square = float((from_middle**2).sum())
    slope = np.einsum("nd,ndk->k", from_middle, jac[:, :, layout.shared]) / square
    return slope, 0.5 * float(np.log(square / ((before - before.mean(0)) ** 2).sum()))


def _marks(
    surface: Surface, layout: Layout, stand: Stand, start: Stand, index: int, o: CalibrationOptions
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The face's points against where the joint fit shows them."""
    columns, model = _columns(layout, index), layout.anchor
    before = _by_point(model.evaluate(start.params[index]), start.cameras[index])[1]
    points, jac = model.jacobian(stand.params[index])
    now, rows = _projected(layout, points, jac, stand, index)
    sigma = max(o.mark_share * float(np.ptp(before, axis=0).max()), 1e-3)
    return columns, rows.reshape(-1, len(columns)) / sigma, (now - before).reshape(-1) / sigma


def _columns(layout: Layout, index: int) -> Int[np.ndarray, " K"]:
    view = layout.view(index)
    return np.concatenate([np.arange(len(layout.shared)), np.arange(view.start, view.stop)])


def _projected(
    layout: Layout, points: np.ndarray, jac: np.ndarray, stand: Stand, index: int
) -> tuple[Float[np.ndarray, "N 2"], Float[np.ndarray, "N 2 K"]]:
    """Pixels and their derivatives by `_columns`."""
    camera = stand.cameras[index]
    by_point, pixels = _by_point(points, camera)
    out = np.empty((len(points), 2, len(layout.shared) + layout.per_view))
    out[:, :, : len(layout.shared)] = by_point @ jac[:, :, layout.shared]
    out[:, :, len(layout.shared) : -4] = by_point @ jac[:, :, layout.own]
    at, focal = layout.anchor_at(stand.params[index], camera), camera.Ks[0, 0]
    place = np.array([[at[2] / focal, 0.0, at[0], 0.0], [0.0, at[2] / focal, at[1], 0.0], [0.0, 0.0, at[2], at[2]]])
    out[:, :, -4:] = by_point @ (camera.viewmats[:3, :3].T @ place)
    out[:, :, -1] += pixels - camera.Ks[:2, 2]
    return pixels, out


def _by_point(points: np.ndarray, camera: Cameras) -> tuple[Float[np.ndarray, "N 2 3"], Float[np.ndarray, "N 2"]]:
    rotation = np.asarray(camera.viewmats[:3, :3], np.float64)
    at = points @ rotation.T + camera.viewmats[:3, 3]
    focal = np.diag(camera.Ks)[:2]
    pixels = focal * at[:, :2] / at[:, 2:] + camera.Ks[:2, 2]
    local = np.zeros((len(points), 2, 3))
    local[:, 0, 0], local[:, 1, 1] = focal[0] / at[:, 2], focal[1] / at[:, 2]
    local[:, :, 2] = -focal * at[:, :2] / at[:, 2:] ** 2
    return local @ rotation, pixels


@dataclass(frozen=True)
class MatchedPoints:
    """Matches of a pair with the model of their points, and the pixels at which both photos show them."""

    views: tuple[int, int]
    corners: Int[np.ndarray, "N 3"]
    barycentrics: Float[np.ndarray, "N 3"]
    model: PointModel
    pixels: tuple[Float[np.ndarray, "N 2"], Float[np.ndarray, "N 2"]]
    covariance: Float[np.ndarray, "N 2 2"]

    @staticmethod
    def of(
        surface: Surface, stand: Stand, offsets: Float[np.ndarray, "V 3"], m: Matches, o: CalibrationOptions
    ) -> MatchedPoints:
        some = np.arange(len(m))
        if len(m) > o.per_pair:
            some = np.linspace(0, len(m) - 1, o.per_pair).round().astype(int)
        corners, weights = surface.triangles[m.face[some]], m.barycentrics[some]
        pixels = []
        for index in (m.first, m.second):
            posed = surface.posed(stand.params[index], offsets)
            points = np.einsum("nk,nkd->nd", weights, posed[corners])
            pixels.append(_by_point(points, stand.cameras[index])[1])
        model = PointModel(surface.assets, LandmarkEmbedding(corners, weights))
        covariance = np.linalg.inv(m.precision[some] + 1e-6 * np.eye(2))
        views = (m.first, m.second)
        return MatchedPoints(views, corners, weights, model, (pixels[0], pixels[1] + m.shift_px[some]), covariance)


def _linear(
    surface: Surface,
    layout: Layout,
    stand: Stand,
    shown: list[tuple[np.ndarray, np.ndarray]],
    p: MatchedPoints,
    o: CalibrationOptions,
) -> tuple[Int[np.ndarray, " K"], Float[np.ndarray, "N 4 K"], Float[np.ndarray, "N 4"]]:
    """Whitened rows of one pair's matches, two for each photo. shown: vertices and normals of each view's head."""
    count, shared, each = len(p.corners), len(layout.shared), layout.per_view
    jac, error = np.zeros((count, 4, shared + 2 * each)), np.zeros((count, 4))
    places, normals = [], []
    for k, index in enumerate(p.views):
        x = stand.params[index]
        vertices, vertex_normals = shown[index]
        points = np.einsum("nk,nkd->nd", p.barycentrics, vertices[p.corners])
        # Offsets turn with the head; that they turn by a step more is of second order.
        pixels, rows = _projected(layout, points, p.model.jacobian(x)[1], stand, index)
        mine = slice(2 * k, 2 * k + 2)
        jac[:, mine, :shared] = rows[:, :, :shared]
        jac[:, mine, shared + k * each : shared + (k + 1) * each] = rows[:, :, shared:]
        error[:, mine] = pixels - p.pixels[k]
        places.append(_by_point(points, stand.cameras[index])[0])
        n = np.einsum("nk,nkd->nd", p.barycentrics, vertex_normals[p.corners])
        normals.append(n / np.maximum(np.linalg.norm(n, axis=1, keepdims=True), 1e-9))
    covariance = _slack(places, normals[0], (stand.params[p.views[0]], stand.params[p.views[1]]), surface, o)
    covariance[:, 2:, 2:] += p.covariance
    covariance[:, range(4), range(4)] += o.pixel**2
    white = np.linalg.inv(np.linalg.cholesky(covariance))
    second = layout.view(p.views[1])
    columns = np.concatenate([_columns(layout, p.views[0]), np.arange(second.start, second.stop)])
    return columns, white @ jac, np.einsum("nab,nb->na", white, error)


def _slack(
    places: list[np.ndarray],
    normal: np.ndarray,
    params: tuple[np.ndarray, np.ndarray],
    surface: Surface,
    o: CalibrationOptions,
) -> Float[np.ndarray, "N 4 4"]:
    """What a patch's own place, off the head by N(0, along, across), does to its four pixel coordinates."""
    first, second = (surface.joints.pose(x)[2][1] for x in params)  # the neck carries the face
    turn = second @ first.T
    both = np.concatenate([places[0], places[1] @ turn], axis=1)  # [N,4,3], by a place in the first's world
    outer = normal[:, :, None] * normal[:, None, :]
    spread = o.across_m**2 * np.eye(3) + (o.along_m**2 - o.across_m**2) * outer
    return both @ spread @ both.transpose(0, 2, 1)
