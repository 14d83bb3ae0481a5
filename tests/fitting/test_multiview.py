"""Multi-view refinement on photos of a tiny head whose displacement, cameras and texture are known."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import pytest
import torch

from headrecon.errors import InputError, ShapeError
from headrecon.fitting.measures import MeasureSet
from headrecon.fitting.multiview.calibration import CalibrationOptions, Stand, calibrate
from headrecon.fitting.multiview.displacement import SolveOptions, rows_of, solve_displacement
from headrecon.fitting.multiview.from_fit import applied, views_of
from headrecon.fitting.multiview.guard import objection
from headrecon.fitting.multiview.looking import look
from headrecon.fitting.multiview.matching import Matches, MatchOptions, match
from headrecon.fitting.multiview.membrane import Membrane, MembraneOptions
from headrecon.fitting.multiview.options import GuardOptions
from headrecon.fitting.multiview.outline import OutlineOptions, outline_samples
from headrecon.fitting.multiview.pictures import box_sums, working_picture
from headrecon.fitting.multiview.refine import MultiviewFitter
from headrecon.fitting.multiview.result import MultiviewFit
from headrecon.fitting.multiview.sweep import Samples
from headrecon.fitting.multiview.views import PosedView, Views
from headrecon.fitting.photo import LandmarkFitter
from headrecon.geometry.cameras import look_at, project_points
from headrecon.models.eye_sockets import LID_RIM_M, eye_sockets
from headrecon.ops.interpolate import interpolate
from headrecon.ops.rasterize import rasterize, to_homogeneous_image
from headrecon.structures import Cameras
from tests.tiny_face import draw_truth, tiny_face
from tests.tiny_face import photograph as photograph_marks

SIZE, DISTANCE, FIELD = 256, 0.9, 0.27
YAWS = (-40.0, -20.0, 0.0, 20.0, 40.0)
#: Where the bump lies on the left cheek of the tiny head, how far it reaches, and how high it is (metres).
CHEEK, REACH, HEIGHT = np.array([0.030, -0.015, 0.085]), 0.022, 0.003


@dataclass(frozen=True)
class Scene:
    """Photos of the displaced head, and the joint fit that knows nothing of the displacement."""

    views: Views
    truth: np.ndarray
    posed: np.ndarray


@lru_cache(maxsize=1)
def fitter() -> MultiviewFitter:
    return MultiviewFitter(tiny_face())


def bump() -> np.ndarray:
    """A smooth displacement along the normal of the cheek."""
    surface = fitter().surface
    at = surface.assets.v_template.astype(np.float64)
    share = np.exp(-0.5 * (np.linalg.norm(at - CHEEK, axis=1) / REACH) ** 2)
    return HEIGHT * share[:, None] * surface.normals(at)


def cameras(yaws: tuple[float, ...] = YAWS) -> list[Cameras]:
    yaw = np.radians(np.array(yaws))
    outward = np.stack([np.sin(yaw), 0.1 * np.cos(2 * yaw), np.cos(yaw)], axis=1)
    views = look_at(DISTANCE * outward, np.zeros_like(outward))
    focal = SIZE * DISTANCE / FIELD
    k = np.array([[focal, 0.0, SIZE / 2], [0.0, focal, SIZE / 2], [0.0, 0.0, 1.0]])
    return [Cameras(v, k, SIZE, SIZE) for v in views]


def photograph(vertices: np.ndarray, camera: Cameras, gain: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """A photo with a pattern that sticks to the skin (sums of waves in head space), and the opacity."""
    surface, rng = fitter().surface, np.random.default_rng(0)
    triangles = torch.from_numpy(surface.triangles.astype(np.int32))
    double = Cameras(camera.viewmats[None], camera.Ks[None] * [[[2.0], [2.0], [1.0]]], 2 * SIZE, 2 * SIZE).torch()
    hom = to_homogeneous_image(torch.from_numpy(vertices.astype(np.float32)), double)
    raster = rasterize(hom, triangles, 2 * SIZE, 2 * SIZE)
    template = torch.from_numpy(surface.assets.v_template.astype(np.float32))
    at = interpolate(template, triangles, raster.face_index, raster.barycentrics)[0].numpy()
    grey = np.full(at.shape[:2], 0.45)
    for _ in range(24):
        direction = rng.normal(size=3)
        wave = 2 * np.pi / rng.uniform(0.005, 0.018) * direction / np.linalg.norm(direction)
        grey += 0.035 * np.sin(at @ wave + rng.uniform(0, 2 * np.pi))
    covered = (raster.face_index[0] >= 0).numpy()
    grey = np.where(covered, gain * grey, 0.2)

    def halved(a: np.ndarray) -> np.ndarray:
        return a.reshape(SIZE, 2, SIZE, 2).mean((1, 3))

    noise = 0.004 * rng.standard_normal((SIZE, SIZE))
    image = np.clip(halved(grey) + noise, 0, 1)
    return (255 * image[..., None] * [1.0, 0.9, 0.8]).round().astype(np.uint8), halved(covered.astype(float))


def scene(offsets: np.ndarray, yaws: tuple[float, ...] = YAWS, **known: bool) -> Scene:
    surface = fitter().surface
    x = surface.joints.layout.zeros()
    x[surface.joints.layout.slices["global_orient"]] = [0.03, -0.05, 0.02]
    posed, views = surface.posed(x, offsets), []
    for i, camera in enumerate(cameras(yaws)):
        # One photo is darker than the others: correlation must not mind.
        image, alpha = photograph(posed, camera, 0.7 if i == 1 else 1.0)
        views.append(PosedView(image, camera, x, alpha))
    settings = {"known_cameras": True, "one_moment": True} | known
    return Scene(Views.of(views, surface.assets.num_betas, **settings), offsets, posed)


@lru_cache(maxsize=1)
def refined() -> tuple[Scene, MultiviewFit]:
    made = scene(bump())
    return made, fitter().refine(made.views)


def height_errors(made: Scene, found: MultiviewFit) -> tuple[np.ndarray, np.ndarray]:
    """Along the normal in metres: what the refined head misses, and what the joint fit missed, by skin vertex."""
    surface = fitter().surface
    normals = surface.normals(made.posed)
    after = surface.posed(found.params[0], found.offsets)
    before = surface.posed(made.views.views[0].params, None)
    return ((after - made.posed) * normals).sum(1), ((before - made.posed) * normals).sum(1)


def test_a_known_displacement_is_found() -> None:
    made, found = refined()
    assert found.accepted, found.warnings
    assert found.agreement_after > found.agreement_before + 0.03
    after, before = height_errors(made, found)
    cheek = np.linalg.norm(fitter().surface.assets.v_template - CHEEK, axis=1) < 0.03
    seen = cheek & found.observed
    assert seen.sum() > 10
    assert np.abs(before[seen]).max() > 0.002
    # A pixel is 1.05 mm on this head and views are 20 degrees apart: a tenth of a pixel is 0.3 mm in depth.
    assert np.median(np.abs(after[seen])) < 0.0003
    assert np.abs(after[seen]).max() < 0.0012


def test_what_no_photo_shows_is_prior_and_stays() -> None:
    _, found = refined()
    at = fitter().surface.assets.v_template
    behind = at[:, 2] < -0.05
    assert not found.observed[behind].any()
    assert found.observed[(at[:, 2] > 0.07) & (np.abs(at[:, 0]) < 0.03)].mean() > 0.5
    # 6 cm from what was measured nothing is left of it: the membrane's range is 4 cm.
    assert np.abs(found.offsets[behind]).max() < 0.0005
    skin = fitter().membrane.vertex
    seen, hidden = skin[found.observed[skin]], skin[behind[skin]]
    assert np.median(found.sigma_m[seen]) < 0.3 * np.median(found.sigma_m[hidden])


def test_a_head_that_is_right_stays_where_it_is() -> None:
    made = scene(np.zeros_like(bump()))
    found = fitter().refine(made.views)
    after, _ = height_errors(made, found)
    assert np.median(np.abs(after)) < 0.0002


def test_an_occluder_outside_of_the_mask_is_not_compared() -> None:
    made = scene(bump())
    spoilt = made.views.views[2]
    image, mask = spoilt.image_srgb.copy(), np.array(spoilt.mask)
    image[:, 128:], mask[:, 128:] = 90, 0.0  # something grey before the half of the middle photo
    views = [v if i != 2 else replace(v, image_srgb=image, mask=mask) for i, v in enumerate(made.views.views)]
    found = fitter().refine(replace(made.views, views=tuple(views)))
    after, before = height_errors(made, found)
    cheek = (np.linalg.norm(fitter().surface.assets.v_template - CHEEK, axis=1) < 0.02) & found.observed
    assert found.accepted
    assert np.median(np.abs(after[cheek])) < 0.35 * np.median(np.abs(before[cheek]))


@pytest.mark.parametrize("yaws", [(0.0,), (0.0, 180.0), (0.0, 90.0)])
def test_without_overlap_everything_is_prior(yaws: tuple[float, ...]) -> None:
    made = scene(bump(), yaws)
    found = fitter().refine(made.views)
    assert not found.accepted
    assert not found.offsets.any()
    assert not found.observed.any()
    assert np.array_equal(found.params[0], made.views.views[0].params)
    assert "did not refine" in found.warnings[0]


def test_empty_masks_leave_the_fit_as_it_is() -> None:
    made = scene(bump())
    blind = tuple(replace(v, mask=np.zeros((SIZE, SIZE))) for v in made.views.views)
    found = fitter().refine(replace(made.views, views=blind))
    assert not found.accepted
    assert not found.offsets.any()


def test_photos_of_something_else_are_rejected() -> None:
    made = scene(bump())
    rng = np.random.default_rng(1)
    noise = tuple(
        replace(v, image_srgb=rng.integers(0, 200, v.image_srgb.shape, dtype=np.uint8)) for v in made.views.views
    )
    found = fitter().refine(replace(made.views, views=noise))
    # Noise agrees with nothing: whatever was found, what is handed back is the fit or no further than the prior allows.
    assert not found.accepted or np.abs(found.offsets).max() < 0.006


def test_wrong_input_is_named() -> None:
    made = scene(bump())
    view = made.views.views[0]
    with pytest.raises(InputError, match="not finite"):
        Views.of([view, replace(view, params=np.full_like(view.params, np.nan))], 12)
    with pytest.raises(ShapeError, match="mask must be"):
        replace(view, mask=np.ones((4, 4)))
    with pytest.raises(ShapeError, match="the camera is of a picture"):
        replace(view, camera=replace(view.camera, width=100))
    other = view.params.copy()
    other[0] += 1.0
    with pytest.raises(InputError, match="another identity"):
        Views.of([view, replace(view, params=other)], 12)
    turned = view.params.copy()
    turned[-1] += 0.1
    with pytest.raises(InputError, match="one moment"):
        Views.of([view, replace(view, params=turned)], 12, one_moment=True)


def test_the_membrane_has_the_deviation_that_it_says() -> None:
    options = MembraneOptions(sigma_m=0.002, range_m=0.03)
    membrane = Membrane.build(fitter().surface, options)
    # A closed surface is no plane, and triangles of a centimetre are coarse for this range: within a quarter.
    dense = np.linalg.inv(membrane.precision.toarray())
    assert np.sqrt(np.median(np.diag(dense))) == pytest.approx(0.002, rel=0.25)
    near = np.abs(dense) / np.sqrt(np.outer(np.diag(dense), np.diag(dense)))
    near = near[: len(membrane.vertex), : len(membrane.vertex)]
    at = fitter().surface.assets.v_template[membrane.vertex]
    apart = np.linalg.norm(at[:, None] - at, axis=2)
    assert np.median(near[(apart > 0) & (apart < 0.006)]) > 0.8
    assert np.median(near[apart > 0.05]) < 0.1


def test_loose_parts_go_with_the_skin_around_them() -> None:
    surface, membrane = fitter().surface, fitter().membrane
    moved = membrane.carry @ np.tile([0.0, 0.001, 0.0], (membrane.carry.shape[1], 1))
    used = np.unique(surface.triangles)
    np.testing.assert_allclose(moved[used], np.tile([0.0, 0.001, 0.0], (len(used), 1)), atol=1e-9)


def test_rims_of_lids_go_with_their_eyeball() -> None:
    surface, membrane = fitter().surface, fitter().membrane
    sockets = eye_sockets(surface.assets)
    assert sockets and len(sockets) == membrane.carry.shape[1] - len(membrane.vertex)
    shift = np.array([0.0, 0.002, 0.001])
    for number, socket in enumerate(sockets):
        only = np.zeros((membrane.carry.shape[1], 3))
        only[len(membrane.vertex) + number] = shift
        moved = membrane.carry @ only
        rim = np.intersect1d(socket.near[socket.distance < LID_RIM_M], membrane.vertex)
        assert len(rim)
        with_it = np.concatenate([socket.eyeball, rim])
        np.testing.assert_allclose(moved[with_it], np.tile(shift, (len(with_it), 1)), atol=1e-12)
        away = np.setdiff1d(membrane.vertex, socket.near)
        np.testing.assert_allclose(moved[away], 0.0, atol=1e-12)


def test_an_eyeball_goes_with_the_skin_around_it() -> None:
    membrane = fitter().membrane
    # The most probable eyeball under a shift of all skin is the shift itself.
    precision, skin = membrane.precision.toarray(), len(membrane.vertex)
    shift = np.tile([0.001, 0.0, 0.0], (skin, 1))
    eyes = np.linalg.solve(precision[skin:, skin:], -precision[skin:, :skin] @ shift)
    np.testing.assert_allclose(eyes, np.tile([0.001, 0.0, 0.0], (len(eyes), 1)), atol=1e-9)


def test_exact_measurements_give_the_offsets_back() -> None:
    surface, membrane = fitter().surface, fitter().membrane
    rng = np.random.default_rng(2)
    face = rng.choice(np.flatnonzero(surface.compared), 6000)
    weights = rng.dirichlet([1.0, 1.0, 1.0], len(face))
    x = surface.joints.layout.zeros()
    normals = surface.normals(surface.posed(x, None))
    normal = np.einsum("nk,nkd->nd", weights, normals[surface.triangles[face]])
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    one = np.ones(len(face))
    samples = Samples(np.zeros(len(face), int), face, weights, 0 * one, 1e-4 * one, normal, one, one)
    rows = rows_of(surface, samples, x[None])
    truth = bump()
    wanted = rows @ truth.reshape(-1)
    wanted[:300] += 0.02  # gross errors are to be left out
    found = solve_displacement(surface, membrane, samples, rows, wanted, SolveOptions(together=1.0))
    assert found.weight[:300].max() < 0.01
    error = rows @ (found.offsets - truth).reshape(-1)
    assert np.sqrt(np.mean(error**2)) < 5e-5
    none = samples.take(np.zeros(0, int))
    nothing = solve_displacement(surface, membrane, none, rows[:0], wanted[:0], SolveOptions())
    assert np.abs(nothing.offsets).max() < 1e-12
    np.testing.assert_allclose(nothing.sigma, nothing.prior_sigma, rtol=1e-6)


def test_bundle_adjustment_brings_matches_together() -> None:
    """Heads and focal lengths a little off in each view; matches are exact."""
    surface, layout = fitter().surface, fitter().surface.joints.layout
    rng = np.random.default_rng(3)
    true = [view.params for view in scene(np.zeros_like(bump())).views.views]
    right = cameras()
    wrong, off = [], []
    for x, camera in zip(true, right, strict=True):
        y = x.copy()
        y[layout.slices["global_orient"]] += 0.02 * rng.normal(size=3)
        y[layout.slices["transl"]] += 0.004 * rng.normal(size=3)
        wrong.append(y)
        k = camera.Ks.copy()
        k[:2, :2] *= np.exp(0.05 * rng.normal())
        off.append(replace(camera, Ks=k))
    face = rng.choice(np.flatnonzero(surface.compared), 300)
    weights = rng.dirichlet([1.0, 1.0, 1.0], len(face))

    def seen(x: np.ndarray, camera: Cameras) -> np.ndarray:
        points = np.einsum("nk,nkd->nd", weights, surface.posed(x, None)[surface.triangles[face]])
        return project_points(points, camera)[0]

    def apart(stand: Stand, i: int, j: int) -> np.ndarray:
        """By how much a point that view i shows at its place is missed in view j: the head's own place taken out."""
        first = seen(stand.params[i], stand.cameras[i]) - seen(true[i], right[i])
        return seen(stand.params[j], stand.cameras[j]) - seen(true[j], right[j]) - first

    stand = Stand(np.stack(wrong), tuple(off))
    matches = []
    for i in range(4):
        first = seen(wrong[i], off[i]) - seen(true[i], right[i])
        shift = seen(true[i + 1], right[i + 1]) + first - seen(wrong[i + 1], off[i + 1])
        matches.append(Matches(i, i + 1, face, weights, shift, np.tile(400.0 * np.eye(2), (len(face), 1, 1))))
    none = np.zeros((surface.assets.num_vertices, 3))
    options = CalibrationOptions(together=1.0, pixel=0.05, steps=6)
    found = calibrate(surface, stand, stand, none, matches, options)
    before = np.concatenate([apart(stand, i, i + 1) for i in range(4)])
    after = np.concatenate([apart(found, i, i + 1) for i in range(4)])
    # Not to zero: that a patch may lie off the head explains a part of it.
    assert np.sqrt(np.mean(after**2)) < 0.15 * np.sqrt(np.mean(before**2))
    alone = calibrate(surface, stand, stand, none, [], options)
    np.testing.assert_allclose(alone.params[0, layout.slices["transl"]], wrong[0][layout.slices["transl"]], atol=1e-3)


def test_matching_measures_a_known_shift() -> None:
    made = scene(np.zeros_like(bump()))
    surface = fitter().surface
    triangles = torch.from_numpy(surface.triangles.astype(np.int32))
    looks, scales = [], []
    for i, view in enumerate(made.views.views[1:3]):
        k = view.camera.Ks.copy()
        k[0, 2] -= 1.4 * i  # the second camera is believed to look 1.4 pixels to the side
        believed = replace(view, camera=replace(view.camera, Ks=k))
        picture = working_picture(believed, 1.0, 1.0)
        looks.append(look(surface, believed, picture, made.posed))
        scales.append(picture.scale)
    found = match(looks, scales, triangles, MatchOptions(window=13, stride=4))
    shift = np.concatenate([m.shift_px for m in found if (m.first, m.second) == (0, 1)])
    assert len(shift) > 50
    np.testing.assert_allclose(np.median(shift, axis=0), [1.4, 0.0], atol=0.08)


def test_the_rim_is_measured_against_the_mask() -> None:
    """The head in the photo is 2 mm thicker than the drawn one; the mask says so wherever skin ends."""
    surface = fitter().surface
    normals = surface.normals(surface.assets.v_template.astype(np.float64))
    made = scene(0.002 * normals)
    looks = []
    for view in made.views.views:
        drawn = surface.posed(view.params, None)
        looks.append(look(surface, view, working_picture(view, 1.0, 1.0), drawn))
    matrices = np.stack([v.camera.viewmats for v in made.views.views])
    found = outline_samples(looks, matrices, [float(v.camera.Ks[0, 0]) for v in made.views.views], OutlineOptions())
    assert len(found) > 50
    # A pixel is 1.05 mm; the mask's edge is known to a fraction of one.
    assert np.median(found.distance) == pytest.approx(0.002, abs=0.0005)
    assert (found.sigma == OutlineOptions().outward_m).mean() > 0.9
    np.testing.assert_allclose(np.linalg.norm(found.normal, axis=1), 1.0, atol=1e-6)
    assert len(outline_samples(looks, matrices, [1.0] * 5, OutlineOptions(use=False))) == 0


def test_box_sums_are_sums_over_squares() -> None:
    values = torch.rand(2, 9, 11)
    found = box_sums(values, 5)
    padded = torch.nn.functional.pad(values, (2, 2, 2, 2))
    expected = padded.unfold(1, 5, 1).unfold(2, 5, 1).sum((-1, -2))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_the_guard_objects_to_what_is_worse() -> None:
    still = np.zeros((3, 3))
    assert objection(0.5, 0.6, still, GuardOptions()) is None
    assert "no better" in (objection(0.5, 0.5, still, GuardOptions()) or "")
    assert "would move" in (objection(0.5, 0.6, still + 0.05, GuardOptions()) or "")
    assert "cannot be compared" in (objection(0.5, 0.6, still * np.nan, GuardOptions()) or "")


def test_a_joint_fit_goes_in_and_comes_out() -> None:
    assets = tiny_face()
    truth = draw_truth(assets, np.random.default_rng(5), 1500.0, 0.8)
    fit = LandmarkFitter(assets).fit([photograph_marks(assets, truth)] * 2)
    images = [np.zeros((c.height, c.width, 3), np.uint8) for c in fit.pinholes]
    views = views_of(fit, images, [None, None])
    assert not views.known_cameras
    np.testing.assert_array_equal(views.views[1].params, fit.flat[1])
    with pytest.raises(ShapeError, match="fit of 2 photos"):
        views_of(fit, images[:1], [None])
    kept = fitter().refine(views)
    assert not kept.accepted  # two photos from the same side, and black
    measures, neutral = MeasureSet(assets), assets.v_template.astype(np.float64)
    assert applied(fit, kept, measures, neutral).flat is fit.flat
    assert applied(fit, kept, measures, neutral).warnings[-1] == kept.warnings[0]
    taken = replace(kept, accepted=True, params=kept.params + 0.01, warnings=())
    moved = applied(fit, taken, measures, neutral)
    np.testing.assert_allclose(moved.flat, fit.flat + 0.01)
    # Lengths are the refined head's where photos saw both ends: nowhere here, but for the pupils.
    lengths = dict(zip(measures.names, 1e3 * measures.of_head(neutral), strict=True))
    assert moved.figures["ipd_mm"].value == pytest.approx(lengths["ipd"])
    assert moved.figures["face_width_mm"] == fit.figures["face_width_mm"]
    seen = applied(fit, replace(taken, observed=~taken.observed), measures, neutral).figures["face_width_mm"]
    assert seen.value == pytest.approx(lengths["face_width"])
    before = fit.figures["face_width_mm"]
    assert seen.sigma / seen.value == pytest.approx(before.sigma / before.value)
    np.testing.assert_allclose(moved.values["betas"], fit.values["betas"] + 0.01)
