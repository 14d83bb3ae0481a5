"""What a frame of a video costs: following the face, fitting, smoothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from headrecon.benchmarks.cases import Case, Prepared
from headrecon.config import ReconstructConfig
from headrecon.datasets.synthetic import SyntheticOptions, synthetic_photo
from headrecon.fitting.metric_scale import MetricKnowledge
from headrecon.fitting.video.dense_fit import DenseFrameFitter
from headrecon.fitting.video.dense_points import FacePoints
from headrecon.fitting.video.dense_template import Keyframe, learn_template
from headrecon.fitting.video.frame_fit import FrameFitter
from headrecon.fitting.video.identity import fit_identity
from headrecon.fitting.video.motion import MotionModel, MotionState
from headrecon.fitting.video.openings import Openings, opening_heights
from headrecon.fitting.video.smoothing import smooth
from headrecon.perception.face_following import Follower, FollowState, follow
from headrecon.perception.faces import observe_faces
from headrecon.pipeline import load_engine
from headrecon.structures import HeadAssets

_FRAMES, _CHANNELS = 1000, 64


def _follow(device: str) -> Prepared:
    """One look at the region where the face was; no detection."""
    del device
    engine = load_engine(ReconstructConfig())
    image = synthetic_photo(engine.assets, 1, SyntheticOptions(size=512)).image_srgb
    follower = Follower(engine.networks)
    _, state = follow(image, FollowState(), follower)
    return Prepared(lambda: follow(image, state, follower))


@dataclass(frozen=True)
class _Person:
    """A person whose identity is settled, and the picture that it is from."""

    assets: HeadAssets
    image_srgb: UInt8[np.ndarray, "H W 3"]
    points: Float[np.ndarray, "478 D"]
    betas: Float[np.ndarray, " Nb"]
    fitter: FrameFitter


def _person() -> _Person:
    engine = load_engine(ReconstructConfig())
    photo = synthetic_photo(engine.assets, 1, SyntheticOptions(size=512))
    (seen,) = observe_faces(photo.image_srgb, engine.networks, max_faces=1)
    points = seen.landmarks.astype(np.float64)
    openings = Openings.of(opening_heights(points)[None])
    known = fit_identity(engine.fitter, [seen], [points], MetricKnowledge(), openings)
    fitter = FrameFitter(known.person, known.focal_px, (512, 512), openings)
    return _Person(engine.assets, photo.image_srgb, points, known.betas, fitter)


def _frame(device: str) -> Prepared:
    """Gauss-Newton from the frame before, with its outline chosen anew."""
    del device
    person = _person()
    fitter, points = person.fitter, person.points
    state = fitter.fit(points, fitter.start(points)).state
    motion = MotionModel(fitter)
    prior = motion.prior(MotionState(state, state, 0.0), 1 / 30, 100.0)
    rng = np.random.default_rng(0)
    moved = points + 0.5 * rng.normal(size=points.shape)
    return Prepared(lambda: fitter.fit(moved, prior.mean, prior))


def _skin(device: str) -> Prepared:
    """Two rounds of weighing and Gauss-Newton over landmarks and skin, from the landmarks' answer."""
    del device
    person = _person()
    fitter, points = person.fitter, person.points
    fit = fitter.fit(points, fitter.start(points))
    face = FacePoints.build(person.assets, person.betas)
    learnt = learn_template(fitter, face, [Keyframe(person.image_srgb, points, fit)] * 2)
    if learnt is None:
        raise RuntimeError("the benchmark's picture does not show its face")
    dense = DenseFrameFitter(fitter, learnt[0], learnt[1])
    rng = np.random.default_rng(0)
    moved = points + 0.5 * rng.normal(size=points.shape)
    found = fitter.fit(moved, fit.state)
    return Prepared(lambda: dense.refine(person.image_srgb, moved, found))


def _smooth(device: str) -> Prepared:
    del device
    rng = np.random.default_rng(0)
    measured = np.cumsum(0.01 * rng.normal(size=(_FRAMES, _CHANNELS)), axis=0)
    sigma = np.full_like(measured, 0.01)
    times = np.arange(_FRAMES) / 30
    return Prepared(lambda: smooth(times, measured, sigma))


CASES = (
    Case("video follow", "one look, 512 px", _follow, goal_ms=20.0, devices=("cpu",)),
    Case("video frame fit", "warm, 55 parameters, 950 residuals", _frame, goal_ms=30.0, devices=("cpu",)),
    Case("video frame skin", "800 points, 512 px, after its landmarks", _skin, goal_ms=80.0, devices=("cpu",)),
    Case("video smoothing", f"{_FRAMES} frames x {_CHANNELS} channels", _smooth, devices=("cpu",)),
)
