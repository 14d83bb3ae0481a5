"""Photos by known cameras: the head's pose belongs to the world, its size is the cameras', and they stay as given."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from headrecon.errors import InputError
from headrecon.fitting.landmarks import DetectorNoise
from headrecon.fitting.metric_scale import MetricKnowledge
from headrecon.fitting.options import FitOptions
from headrecon.fitting.parameters import CAMERA_AXES
from headrecon.fitting.photo import CameraHint, LandmarkFitter, _Fit
from headrecon.fitting.rig import Rig
from headrecon.fitting.view_residuals import view_residuals
from headrecon.geometry import so3
from headrecon.geometry.cameras import invert_rigid, project_points
from headrecon.models.head_model import HeadModel
from headrecon.structures import FaceObservation
from tests.fitting.test_residuals import check_jacobian
from tests.tiny_face import SIZE, Truth, draw_truth, photograph, tiny_face

SIGMA, FOCAL = 3e-4, 1800.0
FLIP = np.diag([*CAMERA_AXES, 1.0])
OPTIONS = FitOptions(noise=DetectorNoise.isotropic(SIGMA)).exact()


@pytest.fixture(scope="module")
def fitter() -> LandmarkFitter:
    return LandmarkFitter(tiny_face(), OPTIONS)


def _orbit(yaw: float, distance: float = 0.8) -> np.ndarray:
    """From the first camera's own world (y up, looking along -z) to that of a camera which went round the head."""
    centre = np.array([0.0, 0.0, -distance])
    out = np.eye(4)
    out[:3, :3] = so3.exp(np.array([0.1 * yaw, yaw, 0.0]))
    out[:3, 3] = centre - out[:3, :3] @ centre
    return out


def _moved(fitter: LandmarkFitter, truth: Truth, motion: np.ndarray) -> Truth:
    """The same head as it stands before a camera elsewhere."""
    points, s = fitter.models.points, fitter.models.points.layout.slices
    still = points.layout.zeros()
    still[s["betas"]] = truth.x[s["betas"]]
    root = points.joints(still)[0]
    x = truth.x.copy()
    x[s["global_orient"]] = so3.log(motion[:3, :3] @ so3.exp(x[s["global_orient"]]))
    x[s["transl"]] = motion[:3, :3] @ (root + x[s["transl"]]) + motion[:3, 3] - root
    return replace(truth, x=x)


def _scene(
    fitter: LandmarkFitter, seed: int, yaws: tuple[float, ...] = (0.0, -0.5, 0.6)
) -> tuple[Truth, list[FaceObservation], Rig]:
    """A head, how the cameras see it, and where they stand in a world that lies anyhow."""
    truth = draw_truth(fitter.assets, np.random.default_rng(seed), FOCAL, 0.8)
    motions = [_orbit(yaw) for yaw in yaws]
    seen = [photograph(fitter.assets, _moved(fitter, truth, m)) for m in motions]
    world = np.eye(4)
    world[:3, :3] = Rotation.random(rng=np.random.default_rng(seed)).as_matrix()
    world[:3, 3] = [3.0, -1.0, 2.0]
    viewmats = np.stack([FLIP @ m @ world for m in motions])
    k = np.array([[FOCAL, 0, SIZE[0] / 2], [0, FOCAL, SIZE[1] / 2], [0, 0, 1]])
    return truth, seen, Rig(viewmats, np.stack([k] * len(yaws)))


def _ipd(fitter: LandmarkFitter, betas: np.ndarray) -> float:
    lengths, _ = fitter.models.measures.evaluate(betas)
    return 1e3 * float(lengths[fitter.models.measures.names.index("ipd")])


@pytest.mark.parametrize("seed", range(3))
def test_cameras_give_the_size_and_stay_as_they_are(fitter: LandmarkFitter, seed: int) -> None:
    truth, seen, rig = _scene(fitter, seed)
    fit = fitter.fit(seen, rig=rig)
    betas = truth.x[fitter.models.points.layout.slices["betas"]]
    assert fit.figures["ipd_mm"].value == pytest.approx(_ipd(fitter, betas), abs=0.25)
    assert fit.figures["ipd_mm"].sigma < 0.3
    for index, camera in enumerate(fit.pinholes):
        np.testing.assert_array_equal(camera.viewmats, rig.viewmats[index].astype(np.float32))
        np.testing.assert_array_equal(camera.Ks, rig.Ks[index].astype(np.float32))
    assert (fit.flat == fit.flat[0]).all(), "one head, one pose, one expression"


def test_the_head_stands_in_the_cameras_world(fitter: LandmarkFitter) -> None:
    _, seen, rig = _scene(fitter, 4)
    fit = fitter.fit(seen, rig=rig)
    marks = HeadModel(fitter.assets)(fit.params).landmarks["mediapipe478"]
    for index, camera in enumerate(fit.cameras):
        pixels, depth = project_points(marks[index], camera)
        misses = np.linalg.norm(pixels.numpy() - seen[index].landmarks[:, :2], axis=1)
        # Float32, a world of metres away, and outline points that slide.
        assert np.median(misses[:468]) < 0.01 * fit.residuals[index].interocular_px
        assert bool((depth > 0.5).all())


def test_an_iris_of_unusual_size_is_measured_and_not_believed(fitter: LandmarkFitter) -> None:
    truth, _, rig = _scene(fitter, 5)
    odd = replace(truth, iris_m=1.15 * truth.iris_m)
    seen = [photograph(fitter.assets, _moved(fitter, odd, _orbit(yaw))) for yaw in (0.0, -0.5, 0.6)]
    fit = fitter.fit(seen, rig=rig)
    betas = truth.x[fitter.models.points.layout.slices["betas"]]
    assert fit.figures["ipd_mm"].value == pytest.approx(_ipd(fitter, betas), abs=0.3)
    true_mm = 1e3 * odd.iris_m / (1 + OPTIONS.iris.detector_bias)
    assert fit.figures["iris_mm"].value == pytest.approx(true_mm, rel=0.02)


def test_pixels_that_are_not_square(fitter: LandmarkFitter) -> None:
    truth, seen, rig = _scene(fitter, 6)
    stretched = []
    for face in seen:
        marks = face.landmarks.copy()
        marks[:, 1] *= 1.1
        stretched.append(replace(face, landmarks=marks, image_size=(SIZE[0], round(1.1 * SIZE[1]))))
    ks = rig.Ks * np.array([1.0, 1.1, 1.0])[:, None]
    fit = fitter.fit(stretched, rig=replace(rig, Ks=ks))
    betas = truth.x[fitter.models.points.layout.slices["betas"]]
    # The detector's own frame is that of square pixels, so its outline and iris are a little off.
    assert fit.figures["ipd_mm"].value == pytest.approx(_ipd(fitter, betas), abs=0.6)
    np.testing.assert_allclose(fit.pinholes[1].Ks, ks[1], rtol=1e-6)


def _turned(viewmat: np.ndarray, degrees: float) -> np.ndarray:
    turn = np.eye(4)
    turn[:3, :3] = so3.exp(np.radians([0.0, degrees, 0.0]))
    return turn @ viewmat


def test_cameras_move_only_when_they_may(fitter: LandmarkFitter) -> None:
    _, seen, rig = _scene(fitter, 7)
    off = rig.viewmats.copy()
    off[1] = _turned(off[1], 0.4)
    held, freed = (fitter.fit(seen, rig=replace(rig, viewmats=off, refine=r)) for r in (False, True))
    np.testing.assert_array_equal(held.pinholes[1].viewmats, off[1].astype(np.float32))
    assert freed.residuals[1].median_px < 0.5 * held.residuals[1].median_px
    back = freed.pinholes[1].viewmats @ invert_rigid(rig.viewmats[1])
    assert np.degrees(np.linalg.norm(so3.log(back[:3, :3]))) < 0.25


def test_a_moving_head_has_a_pose_in_each_photo(fitter: LandmarkFitter) -> None:
    truth, seen, rig = _scene(fitter, 8)
    nodding = replace(truth, x=truth.x.copy())
    nodding.x[fitter.models.points.layout.slices["global_orient"]] += [0.3, 0.0, 0.0]
    seen[1] = photograph(fitter.assets, _moved(fitter, nodding, _orbit(-0.5)))
    fit = fitter.fit(seen, rig=replace(rig, moving=True))
    marks = HeadModel(fitter.assets)(fit.params).landmarks["mediapipe478"]
    for index, camera in enumerate(fit.cameras):
        pixels, _ = project_points(marks[index], camera)
        misses = np.linalg.norm(pixels.numpy() - seen[index].landmarks[:, :2], axis=1)
        assert np.median(misses[:468]) < 0.01 * fit.residuals[index].interocular_px
        np.testing.assert_array_equal(camera.Ks, rig.Ks[index].astype(np.float32))


@pytest.mark.parametrize("metric", [True, False])
def test_derivatives(fitter: LandmarkFitter, metric: bool) -> None:
    _, seen, rig = _scene(fitter, 9)
    rig = replace(rig, refine=True, metric=metric)
    stage = _Fit(fitter, seen, [CameraHint() for _ in seen], MetricKnowledge(), rig=rig)
    rng = np.random.default_rng(9)
    values = stage._start()
    values |= {b.name: b.mean + 0.02 * rng.normal(size=b.size) for b in stage.blocks() if b.name not in values}
    for name in ("neck_pose", "jaw_pose"):
        values[name] = np.zeros(3)
    values["camera/1"] = 0.01 * rng.normal(size=6)
    for residual in view_residuals(stage.models, OPTIONS, stage.views[1], values, "log_iris"):
        check_jacobian(residual, values)


@pytest.mark.parametrize("order", [[1, 2, 0], [2, 1, 0], [1, 0, 2], [0, 2, 1]])
def test_cameras_of_other_photos_are_refused(fitter: LandmarkFitter, order: list[int]) -> None:
    _, seen, rig = _scene(fitter, 10)
    # Mirrored cameras agree about where points are; only the face that these make is inside out.
    with pytest.raises(InputError, match=r"disagree about where the face is|makes no face"):
        fitter.fit(seen, rig=replace(rig, viewmats=rig.viewmats[order]))


def test_a_wrong_unit_is_told(fitter: LandmarkFitter) -> None:
    _, seen, rig = _scene(fitter, 11)
    large = rig.viewmats.copy()
    large[:, :3, 3] *= 1000
    with pytest.raises(InputError, match=r"unit were mm \(--camera-unit\)"):
        fitter.fit(seen, rig=replace(rig, viewmats=large))


def _in_units(rig: Rig, metres: float) -> Rig:
    """The same cameras in a unit of so many metres that is not told."""
    viewmats = rig.viewmats.copy()
    viewmats[:, :3, 3] /= metres
    return replace(rig, viewmats=viewmats, metric=False)


@pytest.mark.parametrize("metres", [0.137, 2400.0])
def test_an_unknown_unit_is_found_with_the_head(fitter: LandmarkFitter, metres: float) -> None:
    _, seen, rig = _scene(fitter, 13)
    fit = fitter.fit(seen, rig=_in_units(rig, metres))
    unit, ipd = fit.figures["camera_unit_mm"], fit.figures["ipd_mm"]
    # Irises and the population know sizes to some per cent, and that is what is said.
    assert abs(unit.value - 1e3 * metres) < 3 * unit.sigma
    assert 0.01 < unit.sigma / unit.value < 0.06
    assert ipd.sigma / ipd.value == pytest.approx(unit.sigma / unit.value, rel=0.5)
    for camera, view in zip(fit.pinholes, rig.viewmats, strict=True):
        np.testing.assert_allclose(camera.viewmats[:3, :3], view[:3, :3], atol=1e-6)
        np.testing.assert_allclose(camera.viewmats[:3, 3], view[:3, 3] * unit.value / (1e3 * metres), rtol=1e-4)
    marks = HeadModel(fitter.assets)(fit.params).landmarks["mediapipe478"]
    for index, camera in enumerate(fit.cameras):
        pixels, _ = project_points(marks[index], camera)
        misses = np.linalg.norm(pixels.numpy() - seen[index].landmarks[:, :2], axis=1)
        assert np.median(misses[:468]) < 0.01 * fit.residuals[index].interocular_px


def test_what_is_known_of_the_head_tells_the_unit(fitter: LandmarkFitter) -> None:
    truth, seen, rig = _scene(fitter, 14)
    true_ipd = _ipd(fitter, truth.x[fitter.models.points.layout.slices["betas"]])
    known = MetricKnowledge(ipd_mm=true_ipd, ipd_sigma_mm=0.2)
    unit = fitter.fit(seen, knowledge=known, rig=_in_units(rig, 0.5)).figures["camera_unit_mm"]
    assert unit.value == pytest.approx(500.0, rel=0.008)
    assert unit.sigma < 0.008 * unit.value


def test_a_moving_head_tells_no_unit(fitter: LandmarkFitter) -> None:
    _, _, rig = _scene(fitter, 15)
    with pytest.raises(InputError, match="keeps still"):
        replace(_in_units(rig, 0.5), moving=True)


def test_cameras_at_one_place_tell_no_distance(fitter: LandmarkFitter) -> None:
    _, seen, rig = _scene(fitter, 12)
    same = np.stack([rig.viewmats[0]] * 3)
    with pytest.raises(InputError, match="one place"):
        fitter.fit([seen[0]] * 3, rig=replace(rig, viewmats=same))
