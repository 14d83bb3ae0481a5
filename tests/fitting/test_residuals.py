"""Every residual's Jacobian against central differences, and the mapping between blocks and photos."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from headrecon.errors import InputError, ShapeError
from headrecon.fitting import contour, metric_scale
from headrecon.fitting import landmark_groups as groups
from headrecon.fitting.camera_prior import f35_from_focal, focal_from_f35, focal_prior
from headrecon.fitting.head_priors import HeadPrior, vergence_residual
from headrecon.fitting.landmarks import DetectorNoise, LandmarkResidual
from headrecon.fitting.least_squares import Residual
from headrecon.fitting.lip_embedding import LOWER_RED, LOWER_RIM, with_lower_rim
from headrecon.fitting.options import FitOptions
from headrecon.fitting.parameters import CAMERA_AXES, ROLES, HeadView, ViewGeometry, view_block_names
from headrecon.fitting.view_residuals import FitModels, View, coarse_residual, view_residuals
from headrecon.geometry.cameras import project_points
from headrecon.io.exif import FocalHint
from headrecon.models.head_model import HeadModel, embed
from headrecon.perception.eye_frame import EyeFrame
from headrecon.structures import ARKIT_NAMES, LandmarkEmbedding
from tests.tiny_face import SIZE, draw_truth, photograph, tiny_face


@pytest.fixture(scope="module")
def models() -> FitModels:
    return FitModels.build(tiny_face())


def _state(models: FitModels, rng: np.random.Generator, modes: int = 0) -> dict[str, np.ndarray]:
    layout, names = models.points.layout, view_block_names(0)
    values = {names[r]: rng.normal(size=3) * 0.2 for r in ROLES if r.endswith(("pose", "orient"))}
    values[names["betas"]] = rng.normal(size=layout.num_betas)
    values[names["expression"]] = rng.uniform(0, 0.5, layout.num_expressions)
    values[names["placement"]] = np.array([35.0, -20.0, np.log(0.6 / 1800)])
    values[names["log_focal"]] = np.array([np.log(1800.0)])
    values["log_iris"] = np.array([np.log(0.0117)])
    values["detector/0"] = rng.normal(size=modes + 1)
    return values


def _view(models: FitModels) -> View:
    truth = draw_truth(models.assets, np.random.default_rng(1), 1800.0, 0.6)
    marks = photograph(models.assets, truth).landmarks
    geometry = ViewGeometry(models.anchor, models.root, np.array(SIZE) / 2)
    head = HeadView(models.points.layout, geometry, view_block_names(0))
    return View(head, marks, EyeFrame.of(marks), FocalHint(1800.0, 0.1), SIZE, None, "detector/0")


def check_jacobian(residual: Residual, values: dict[str, np.ndarray], step: float = 1e-6) -> None:
    r, jac = residual.linearize(values)
    np.testing.assert_allclose(r, residual.evaluate(values), atol=1e-9)
    numeric = []
    for block in residual.blocks:
        for k in range(len(values[block])):
            high, low = dict(values), dict(values)
            high[block], low[block] = values[block].copy(), values[block].copy()
            high[block][k] += step
            low[block][k] -= step
            numeric.append((residual.evaluate(high) - residual.evaluate(low)) / (2 * step))
    scale = np.abs(jac).max()
    np.testing.assert_allclose(jac, np.stack(numeric, 1), atol=2e-6 * scale)  # h^2 and rounding of values near 1e3


@pytest.mark.parametrize("modes", [0, 3])
def test_every_residual_of_a_view(models: FitModels, modes: int) -> None:
    rng = np.random.default_rng(2)
    noise = DetectorNoise(rng.uniform(0.005, 0.02, (478, 2)), rng.normal(size=(modes, 478, 2)) * 0.01)
    view = _view(models)
    values = _state(models, rng, modes)
    values["global_orient/0"] = np.array([0.0, 0.7, 0.0])  # turned, so that there is an outline
    residuals = view_residuals(models, FitOptions(noise=noise), view, values, "log_iris")
    kinds = [type(r).__name__ for r in residuals]
    assert kinds == ["LandmarkResidual", "LandmarkResidual", "LinearResidual", "IrisResidual"]
    moved = _state(models, rng, modes)  # elsewhere than where visibility and outline were chosen
    # The fixed joints are merged into the root (`without_fixed_joints`), so neck and jaw are taken at rest.
    for name in ("neck_pose/0", "jaw_pose/0"):
        moved[name] = np.zeros(3)
    for residual in [*residuals, coarse_residual(models, FitOptions(), view)]:
        check_jacobian(residual, moved)


def test_known_sizes(models: FitModels) -> None:
    values, view = _state(models, np.random.default_rng(3)), _view(models)
    distance = metric_scale.EyeDistance(view.head, models.irises)
    check_jacobian(metric_scale.DistanceResidual("distance", distance, np.log(0.7), 0.02), values)
    for name in models.measures.names:
        check_jacobian(metric_scale.LengthResidual(name, models.measures, name, 0.06, 0.001), values)
    check_jacobian(vergence_residual(HeadPrior(), view_block_names(0)), values)


def test_blocks_and_head_params_agree_with_the_camera(models: FitModels) -> None:
    """The solver's pixels are those of HeadModel through `Cameras`: one convention on both paths."""
    from headrecon.fitting.fit_report import _camera

    values, view = _state(models, np.random.default_rng(4)), _view(models)
    values["neck_pose/0"] = values["jaw_pose/0"] = np.zeros(3)
    x = view.head.flat(values)
    pixels = view.head.project(values, models.points.evaluate(x))
    output = HeadModel(models.assets)(models.points.layout.unpack(x))
    marks = output.landmarks["mediapipe478"][0, : groups.NUM_MESH]
    expected, depth = project_points(marks, _camera(view, values).torch())
    np.testing.assert_allclose(pixels[: groups.NUM_MESH], expected.numpy(), atol=0.02)  # float32 against float64
    assert bool((depth > 0).all())
    back = view.head.placement_of(
        x[models.points.layout.slices["transl"]], values["global_orient/0"], view.head.focal(values)
    )
    np.testing.assert_allclose(back, values["placement/0"], atol=1e-9)


def test_iris_prediction_by_hand(models: FitModels) -> None:
    """An iris of 11.7 mm seen frontally at a depth of z spans f * 11.7 mm / z."""
    view, values = _view(models), _state(models, np.random.default_rng(5))
    depth = -models.irises.evaluate(view.head.flat(values))[:, 2]
    sizes = 1800 * 0.0117 / depth
    residual = metric_scale.IrisResidual(
        "iris", view.head, models.irises, np.log(sizes), np.zeros(2), np.full(2, 0.02), "log_iris"
    )
    np.testing.assert_allclose(residual.evaluate(values), 0, atol=1e-9)
    turned = metric_scale.iris_foreshortening(np.array([[0, 0, 1.0], [0.6, 0, 0.8]]), np.array([[0, 0, -1.0]] * 2))
    np.testing.assert_allclose(np.exp(2 * turned), [1.0, 0.8])


def test_outline_points_turn_away(models: FitModels) -> None:
    """On a turned head the far cheek is matched to points whose surface is seen edge-on."""
    view, values = _view(models), _state(models, np.random.default_rng(6))
    values["global_orient/0"] = np.array([0.0, 0.7, 0.0])  # the subject's left cheek turns out of sight
    values["expression/0"][:] = 0
    from headrecon.fitting.view_residuals import surface

    vertices, normals = surface(models, view, values)
    match = contour.match_outline(models.bands, vertices, normals)
    points, n = (embed(v, models.bands.candidates)[match.candidates] for v in (vertices, normals))
    grazing = np.abs(np.sum(n * points, 1) / np.linalg.norm(points, axis=1) / np.linalg.norm(n, axis=1))
    assert grazing.max() < 0.35  # the tiny head's facets turn by up to 15 degrees from one candidate to the next
    far = {454, 323, 361, 288, 397}
    assert far & set(match.landmarks.tolist())
    assert not {234, 93, 132} & set(match.landmarks.tolist())
    across = contour.image_normals(n, points)
    np.testing.assert_allclose(np.linalg.norm(across, axis=1), 1)
    # An outline's image normal points out of the face: to the right for the far cheek of a head turned to the right.
    centre = (vertices * CAMERA_AXES)[:, :2].mean(0)
    outwards = (points * CAMERA_AXES)[:, :2] - centre
    assert (np.sum(outwards * across, 1) > 0).all()


def test_lower_rim_is_put_on_the_lower_lip() -> None:
    assets = tiny_face()
    v, marks = assets.v_template, assets.landmarks["mediapipe478"]
    opening = np.zeros_like(v)
    opening[v[:, 1] < -0.05, 1] = -0.03  # everything below the mouth drops
    exprdirs = assets.exprdirs.copy()
    exprdirs[..., ARKIT_NAMES.index("jawOpen")] = opening
    skin = np.unique(assets.faces[assets.faces_of("skin")][:, :3])
    front = skin[v[skin, 2] > 0.05]
    ids, bary = marks.vertex_ids.copy(), marks.barycentrics.copy()
    upper, lower = front[v[front, 1] >= -0.05], front[v[front, 1] < -0.05]
    ids[list(LOWER_RIM)] = upper[np.argmin(v[upper, 1])]
    ids[list(LOWER_RED)] = lower[np.argmax(v[lower, 1])]
    bad = LandmarkEmbedding(ids, bary)
    broken = replace(assets, exprdirs=exprdirs, landmarks={**assets.landmarks, "mediapipe478": bad})
    mended = with_lower_rim(broken)
    drop = embed(opening, mended.landmarks["mediapipe478"])[:, 1]
    np.testing.assert_allclose(drop[list(LOWER_RIM)], -0.03, atol=1e-6)
    others = np.setdiff1d(np.arange(478), LOWER_RIM)
    assert np.array_equal(mended.landmarks["mediapipe478"].vertex_ids[others], ids[others])
    assert with_lower_rim(mended) is mended


def test_focal_length_and_field_of_view() -> None:
    assert focal_from_f35(43.2666, (3000, 4000)) == pytest.approx(5000, rel=1e-4)  # the diagonal itself
    assert f35_from_focal(focal_from_f35(28.0, SIZE), SIZE) == pytest.approx(28)
    assert focal_prior(SIZE, None).sigma_log > 0.3
    hint = FocalHint(2600.0, 0.05)
    assert focal_prior(SIZE, hint) is hint
    with pytest.raises(InputError, match="focal"):
        FocalHint(-1.0, 0.1)


def test_knowledge_out_of_range_is_refused() -> None:
    with pytest.raises(InputError, match="ipd_mm"):
        metric_scale.MetricKnowledge(ipd_mm=6.3)
    with pytest.raises(InputError, match="distance_m"):
        metric_scale.MetricKnowledge(distance_m=0.0)
    with pytest.raises(InputError, match="greater than zero"):
        metric_scale.MetricKnowledge(ipd_mm=63.0, ipd_sigma_mm=0.0)


def test_detector_noise_is_checked() -> None:
    with pytest.raises(ShapeError, match="sigma"):
        DetectorNoise(np.zeros((478, 2)), np.zeros((0, 478, 2)))
    with pytest.raises(ShapeError, match="478"):
        groups.check_landmarks(np.zeros((468, 3)))
    with pytest.raises(ShapeError, match="NaN"):
        groups.check_landmarks(np.full((478, 3), np.nan))


def test_head_frame_follows_roll() -> None:
    marks = _view(FitModels.build(tiny_face())).marks.copy()
    upright = EyeFrame.of(marks)
    angle = 0.5
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    marks[:, :2] = marks[:, :2] @ turn.T
    rolled = EyeFrame.of(marks)
    np.testing.assert_allclose(rolled.axes, upright.axes @ turn.T, atol=1e-12)
    assert rolled.scale_px == pytest.approx(upright.scale_px)
    assert np.linalg.det(rolled.axes) == pytest.approx(1)


def test_weighted_rows_of_zero_do_not_count(models: FitModels) -> None:
    view, values = _view(models), _state(models, np.random.default_rng(8))
    weights = np.zeros((len(models.marks), 2, 2))
    residual = LandmarkResidual(
        "none", view.head, models.points, np.zeros((len(models.marks), 2)), weights, np.zeros((0, len(models.marks), 2))
    )
    assert not residual.evaluate(values).any()
    assert not residual.linearize(values)[1].any()
