"""The landmark stage on synthetic photos whose truth is exact: recovery, honest uncertainty, and what moves it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from headrecon.errors import InputError, ShapeError
from headrecon.fitting.camera_prior import DEFAULT_F35_MM, DEFAULT_SIGMA_LOG, focal_from_f35
from headrecon.fitting.fit_report import LandmarkFit, yaw_deg
from headrecon.fitting.landmarks import DetectorNoise
from headrecon.fitting.metric_scale import MetricKnowledge
from headrecon.fitting.options import FitOptions
from headrecon.fitting.photo import CameraHint, LandmarkFitter, fit_landmarks
from headrecon.geometry.cameras import project_points
from headrecon.io.exif import FocalHint
from headrecon.models.head_model import HeadModel
from headrecon.perception.eye_frame import EyeFrame
from headrecon.structures import FaceObservation
from tests.tiny_face import SIZE, Truth, draw_truth, photograph, tiny_face

SIGMA = 0.012
EXACT_HINT = CameraHint(FocalHint(1800.0, 1e-4))
#: The tiny head is its own model: its blendshapes are exact.
OPTIONS = FitOptions(noise=DetectorNoise.isotropic(SIGMA)).exact()


@pytest.fixture(scope="module")
def fitter() -> LandmarkFitter:
    return LandmarkFitter(tiny_face(), OPTIONS)


@pytest.fixture(scope="module")
def sharp() -> LandmarkFitter:
    """For photos with next to no noise."""
    return LandmarkFitter(tiny_face(), replace(OPTIONS, noise=DetectorNoise.isotropic(3e-4)))


def _truth(fitter: LandmarkFitter, seed: int, yaw: float | None = None) -> Truth:
    truth = draw_truth(fitter.assets, np.random.default_rng(seed), 1800.0, 0.7)
    if yaw is not None:
        truth.x[fitter.models.points.layout.slices["global_orient"]] = [0.0, yaw, 0.0]
    return truth


def _lengths(fitter: LandmarkFitter, truth: Truth) -> dict[str, float]:
    betas = truth.x[fitter.models.points.layout.slices["betas"]]
    lengths, _ = fitter.models.measures.evaluate(betas)
    return {f"{n}_mm": 1e3 * float(v) for n, v in zip(fitter.models.measures.names, lengths, strict=True)}


def _shape_error_mm(fitter: LandmarkFitter, fit: LandmarkFit, truth: Truth) -> float:
    """RMS distance of the neutral heads' landmarks after taking out the size, which one photo knows poorly."""
    points, layout = fitter.models.points, fitter.models.points.layout
    heads = []
    for betas in (fit.values["betas"], truth.x[layout.slices["betas"]]):
        x = layout.zeros()
        x[layout.slices["betas"]] = betas
        at = points.evaluate(x)
        at = at - at.mean(0)
        heads.append(at / np.sqrt((at**2).sum()) * np.sqrt((fitter.models.template_marks.var(0).sum()) * len(at)))
    return 1e3 * float(np.sqrt(((heads[0] - heads[1]) ** 2).sum(1).mean()))


@pytest.mark.parametrize("seed", range(4))
def test_exact_landmarks_give_back_the_head(sharp: LandmarkFitter, seed: int) -> None:
    truth = _truth(sharp, seed)
    known = MetricKnowledge(ipd_mm=_lengths(sharp, truth)["ipd_mm"], ipd_sigma_mm=0.01)
    fit = sharp.fit(photograph(sharp.assets, truth), EXACT_HINT, known)
    assert fit.residuals[0].median_percent < 0.1  # outline points slide, so not exactly zero
    assert _shape_error_mm(sharp, fit, truth) < 0.5
    s = sharp.models.points.layout.slices
    np.testing.assert_allclose(fit.params.global_orient[0].numpy(), truth.x[s["global_orient"]], atol=0.01)
    np.testing.assert_allclose(fit.params.transl[0].numpy(), truth.x[s["transl"]], atol=0.006)
    np.testing.assert_allclose(fit.params.leye_pose[0, :2].numpy(), truth.x[s["leye_pose"]][:2], atol=0.02)
    assert fit.figures["ipd_mm"].value == pytest.approx(known.ipd_mm, abs=0.05)
    assert fit.warnings == ()


@pytest.mark.parametrize("yaw", [-1.2, -0.6, 0.6, 1.2])
def test_turned_heads_up_to_profile(fitter: LandmarkFitter, yaw: float) -> None:
    truth = _truth(fitter, 11, yaw)
    fit = fitter.fit(photograph(fitter.assets, truth, np.random.default_rng(0), 0.005), EXACT_HINT)
    # The far half is given little weight, and the tiny head is smooth: within 3 degrees.
    assert yaw_deg(fit.values["global_orient/0"]) == pytest.approx(np.degrees(yaw), abs=3)
    assert any("guessed" in w for w in fit.warnings) == (abs(yaw) > 1)


def test_noise_is_averaged_out(fitter: LandmarkFitter) -> None:
    errors, mean_head = [], []
    for seed in range(6):
        truth = _truth(fitter, seed)
        fit = fitter.fit(photograph(fitter.assets, truth, np.random.default_rng(seed), SIGMA), EXACT_HINT)
        errors.append(_shape_error_mm(fitter, fit, truth))
        still = replace(fit, values={**fit.values, "betas": np.zeros(fitter.assets.num_betas)})
        mean_head.append(_shape_error_mm(fitter, still, truth))
    assert np.mean(errors) < 0.6 * np.mean(mean_head)
    assert np.mean(errors) < 2.0


def test_fitted_camera_and_params_reproduce_the_photo(fitter: LandmarkFitter) -> None:
    truth = _truth(fitter, 3)
    seen = photograph(fitter.assets, truth)
    fit = fitter.fit(seen)
    marks = HeadModel(fitter.assets)(fit.params).landmarks["mediapipe478"][0]
    pixels, _ = project_points(marks, fit.camera)
    errors = np.linalg.norm(pixels.numpy() - seen.landmarks[:, :2], axis=1)
    assert np.median(errors[:468]) == pytest.approx(np.median(fit.residuals[0].points_px), rel=0.05)
    assert np.median(errors[:468]) < 0.01 * fit.residuals[0].interocular_px
    assert errors[[468, 473]].max() < 0.02 * fit.residuals[0].interocular_px


def _coverage(fitter: LandmarkFitter, count: int, hinted: bool) -> tuple[dict[str, float], np.ndarray]:
    """Share of truths inside the 90 % intervals over photos drawn from the fitter's own priors and noise."""
    rng = np.random.default_rng(2024)
    irises = fitter.models.irises
    inside: dict[str, list[bool]] = {}
    scores = []
    for _ in range(count):
        focal = focal_from_f35(DEFAULT_F35_MM * np.exp(DEFAULT_SIGMA_LOG * rng.normal()), SIZE)
        distance = OPTIONS.distance_m * np.exp(OPTIONS.distance_sigma_log * np.clip(rng.normal(), -1.5, 2.0))
        truth = draw_truth(fitter.assets, rng, focal, distance + 0.085)
        seen_as = (1 + OPTIONS.iris.detector_bias) * np.exp(OPTIONS.iris.common_sigma * rng.normal())
        truth = replace(truth, iris_m=truth.iris_m * seen_as)
        hint = CameraHint(FocalHint(focal * np.exp(0.04 * rng.normal()), 0.04)) if hinted else None
        fit = fitter.fit(photograph(fitter.assets, truth, rng, SIGMA, OPTIONS.iris.sigma), hint)
        truths = _lengths(fitter, truth)
        truths["distance_m"] = float(np.linalg.norm(irises.evaluate(truth.x).mean(0)))
        figures = {**fit.figures, **fit.view_figures[0]}
        for name, value in truths.items():
            inside.setdefault(name, []).append(figures[name].low90 <= value <= figures[name].high90)
        ipd = figures["ipd_mm"]
        scores.append((np.log(truths["ipd_mm"] / ipd.value)) / (ipd.sigma / ipd.value))
    return {k: float(np.mean(v)) for k, v in inside.items()}, np.array(scores)


@pytest.mark.slow
@pytest.mark.parametrize("hinted", [False, True], ids=["no focal length", "focal length from EXIF"])
def test_nine_of_ten_truths_lie_in_the_intervals(fitter: LandmarkFitter, hinted: bool) -> None:
    """With 60 photos and an honest 90 %, fewer than 46 (77 %) happen once in 400 tries, and mean scores stay small."""
    shares, scores = _coverage(fitter, 60, hinted)
    assert {"ipd_mm", "pd_right_mm", "pd_left_mm", "face_width_mm", "distance_m"} <= set(shares)
    for name, share in shares.items():
        assert share >= 46 / 60, f"{name}: {share:.0%} of truths inside"
    assert abs(scores.mean()) < 0.45  # 3.5 standard errors: sizes are not biased
    assert 0.7 < scores.std() < 1.35  # nor are the deviations too wide or too narrow


def test_knowledge_narrows_the_result(fitter: LandmarkFitter) -> None:
    truth = _truth(fitter, 5)
    seen = photograph(fitter.assets, truth, np.random.default_rng(5), SIGMA, 0.02)
    plain = fitter.fit(seen)
    ipd = fitter.fit(seen, knowledge=MetricKnowledge(ipd_mm=_lengths(fitter, truth)["ipd_mm"]))
    assert plain.figures["ipd_mm"].sigma > 1.0
    assert ipd.figures["ipd_mm"].sigma < 0.55
    assert ipd.figures["face_width_mm"].sigma < 0.7 * plain.figures["face_width_mm"].sigma
    focal = fitter.fit(seen, knowledge=MetricKnowledge(focal_px=1800.0))
    assert focal.view_figures[0]["focal_px"].sigma < 0.015 * 1800
    assert focal.view_figures[0]["distance_m"].sigma < plain.view_figures[0]["distance_m"].sigma
    at = float(np.linalg.norm(fitter.models.irises.evaluate(truth.x).mean(0)))
    both = fitter.fit(seen, knowledge=MetricKnowledge(focal_px=1800.0, distance_m=at))
    assert both.figures["ipd_mm"].sigma < 0.75 * focal.figures["ipd_mm"].sigma  # distance and focal fix the scale
    assert both.figures["ipd_mm"].low90 < _lengths(fitter, truth)["ipd_mm"] < both.figures["ipd_mm"].high90
    assert replace(plain.figures["ipd_mm"]).unit == "mm"


def test_monocular_distances_add_up(fitter: LandmarkFitter) -> None:
    fit = fitter.fit(photograph(fitter.assets, _truth(fitter, 6)))
    figures = fit.figures
    assert figures["pd_right_mm"].value + figures["pd_left_mm"].value == pytest.approx(figures["ipd_mm"].value)
    assert figures["ipd_mm"].low90 < figures["ipd_mm"].value < figures["ipd_mm"].high90


def test_several_photos_share_one_person(fitter: LandmarkFitter) -> None:
    truth = _truth(fitter, 7)
    rng = np.random.default_rng(7)
    seen, s = [], fitter.models.points.layout.slices
    for yaw in (-0.6, 0.0, 0.6):
        turned = replace(truth, x=truth.x.copy())
        turned.x[s["global_orient"]] = [0.0, yaw, 0.0]
        turned.x[s["expression"]] = 0.5 * draw_truth(fitter.assets, rng, 1800.0, 0.7).x[s["expression"]]
        seen.append(photograph(fitter.assets, turned, rng, SIGMA, 0.02))
    one, many = fitter.fit(seen[1], EXACT_HINT), fitter.fit(seen, EXACT_HINT)
    assert many.params.batch == 3
    assert len(many.cameras) == len(many.residuals) == len(many.view_figures) == 3
    assert torch.equal(many.params.betas[0], many.params.betas[2])
    assert _shape_error_mm(fitter, many, truth) < _shape_error_mm(fitter, one, truth)
    assert many.betas_sigma.mean() < one.betas_sigma.mean()
    yaws = [yaw_deg(many.values[f"global_orient/{i}"]) for i in range(3)]
    np.testing.assert_allclose(yaws, np.degrees([-0.6, 0.0, 0.6]), atol=3)


def test_correlated_noise_widens_identity(fitter: LandmarkFitter) -> None:
    """A detector that errs in common modes tells less about shape; saying so must show in the deviations."""
    rng = np.random.default_rng(8)
    x = np.linspace(-1, 1, 478)
    modes = np.stack([np.outer(np.sin(3 * k * x), rng.normal(size=2)) for k in range(1, 6)]) * 0.02
    correlated = LandmarkFitter(fitter.assets, replace(OPTIONS, noise=DetectorNoise(OPTIONS.noise.sigma, modes)))
    seen = photograph(fitter.assets, _truth(fitter, 8), rng, SIGMA, 0.02)
    white, honest = fitter.fit(seen, EXACT_HINT), correlated.fit(seen, EXACT_HINT)
    assert "detector/0" in honest.values
    assert honest.betas_sigma.mean() > white.betas_sigma.mean()


def test_blendshape_scores_pull_where_landmarks_say_nothing(fitter: LandmarkFitter) -> None:
    seen = photograph(fitter.assets, _truth(fitter, 9))
    tongue = fitter.assets.expression_names.index("tongueOut")
    assert fitter.fit(seen).values["expression/0"][tongue] < 0.05
    scored = replace(seen, blendshapes=dict.fromkeys(fitter.assets.expression_names, 0.0) | {"tongueOut": 0.8})
    assert fitter.fit(scored).values["expression/0"][tongue] > 0.4


def test_same_input_same_output(fitter: LandmarkFitter) -> None:
    seen = photograph(fitter.assets, _truth(fitter, 10), np.random.default_rng(1), SIGMA)
    first, second = fitter.fit(seen), fit_landmarks(seen, fitter.assets, OPTIONS)
    for name, value in first.values.items():
        assert np.array_equal(value, second.values[name]), name
    assert first.figures == second.figures


def test_outliers_do_not_spoil_the_fit(fitter: LandmarkFitter) -> None:
    truth = _truth(fitter, 12)
    seen = photograph(fitter.assets, truth, np.random.default_rng(2), SIGMA)
    marks = seen.landmarks.copy()
    marks[40:60, :2] += 0.5 * fitter.fit(seen).residuals[0].interocular_px  # a hand before the mouth
    clean, spoilt = fitter.fit(seen, EXACT_HINT), fitter.fit(replace(seen, landmarks=marks), EXACT_HINT)
    # Twenty points off by forty deviations, all one way: the head may move by a millimetre, not by ten.
    assert _shape_error_mm(fitter, spoilt, truth) < _shape_error_mm(fitter, clean, truth) + 1.5


def test_bad_input_is_named(fitter: LandmarkFitter) -> None:
    seen = photograph(fitter.assets, _truth(fitter, 13))
    with pytest.raises(InputError, match="at least one"):
        fitter.fit([])
    with pytest.raises(InputError, match="one camera hint per photo"):
        fitter.fit([seen], [CameraHint(), CameraHint()])
    tiny: FaceObservation = replace(seen, landmarks=seen.landmarks * 0.01)
    with pytest.raises(InputError, match="pixels apart"):
        fitter.fit(tiny)
    with pytest.raises(InputError, match="models embed"):
        LandmarkFitter(replace(fitter.assets, landmarks={}))


def test_small_faces_get_a_warning(fitter: LandmarkFitter) -> None:
    seen = photograph(fitter.assets, _truth(fitter, 14))
    small = replace(seen, landmarks=seen.landmarks * 0.15, image_size=(180, 240))
    assert any("pixels apart" in w for w in fitter.fit(small).warnings)


def test_stated_noise_widens_intervals_and_nothing_else(fitter: LandmarkFitter) -> None:
    seen = photograph(fitter.assets, _truth(fitter, 15), np.random.default_rng(3), SIGMA, 0.02)
    wide = LandmarkFitter(fitter.assets, replace(OPTIONS, stated_noise=OPTIONS.noise.scaled(3.0, 1.0))).fit(seen)
    plain = fitter.fit(seen)
    assert np.array_equal(wide.values["betas"], plain.values["betas"])
    assert wide.figures["face_width_mm"].sigma > plain.figures["face_width_mm"].sigma
    assert wide.betas_sigma.mean() > 1.2 * plain.betas_sigma.mean()
    assert wide.betas_sigma.max() <= 1.0 + 1e-6  # never wider than the population


def test_a_bias_of_the_detector_is_taken_off(fitter: LandmarkFitter) -> None:
    truth = _truth(fitter, 16)
    seen = photograph(fitter.assets, truth, np.random.default_rng(4), SIGMA / 4)
    frame = EyeFrame.of(seen.landmarks.astype(np.float64))
    bias = np.random.default_rng(5).normal(0, 0.03, (478, 2))
    bias[468:] = 0
    marks = seen.landmarks.astype(np.float64)
    marks[:, :2] += bias @ frame.axes * frame.scale_px
    biased = replace(seen, landmarks=marks.astype(seen.landmarks.dtype))
    known = LandmarkFitter(fitter.assets, replace(OPTIONS, noise=replace(OPTIONS.noise, bias=bias)))
    plain, with_bias, corrected = fitter.fit(seen), fitter.fit(biased), known.fit(biased)
    away = [np.abs(f.values["betas"] - plain.values["betas"]).max() for f in (with_bias, corrected)]
    # The frame is that of the biased points, a per mille off.
    assert away[1] < 0.1 and away[0] > 3 * away[1]


def test_noises_with_different_modes_are_refused() -> None:
    modes = np.zeros((2, 478, 2))
    with pytest.raises(ShapeError, match="as many modes, found 0 and 2"):
        FitOptions(noise=OPTIONS.noise, stated_noise=replace(OPTIONS.noise, modes=modes))
