"""The landmark fit: solver iterations of the size that fits have, and a whole warm fit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from headrecon.benchmarks.cases import Case, Prepared
from headrecon.config import ReconstructConfig
from headrecon.datasets.synthetic import SyntheticOptions, synthetic_photo
from headrecon.fitting.blas_threads import one_blas_thread
from headrecon.fitting.least_squares import Block, LinearResidual, Problem, SolverOptions, solve
from headrecon.fitting.photo import CameraHint
from headrecon.fitting.robust import Huber
from headrecon.perception.faces import observe_faces
from headrecon.pipeline import load_engine

ITERATIONS = 8


def _solve(device: str) -> Prepared:
    """Bounded, robust iterations: with these options the solver makes as many as it may."""
    del device
    rng = np.random.default_rng(0)
    residual = LinearResidual("big", ("x",), rng.normal(size=(1500, 250)), rng.normal(size=1500), Huber(2.0), group=2)
    problem = Problem([Block.make("x", 250, sigma=1.0, bounds=(-0.02, 0.02))], [residual])
    options = SolverOptions(max_iterations=ITERATIONS, cost_floor=0.0, cost_tolerance=0.0, step_tolerance=0.0)

    def run() -> None:
        with one_blas_thread():
            solve(problem, {}, options)

    return Prepared(run)


def _fit(device: str) -> Prepared:
    """Needs the head model and the networks, in the cache or from the network."""
    del device
    engine = load_engine(ReconstructConfig())
    photo = synthetic_photo(engine.assets, 1, SyntheticOptions(size=512))
    (seen,) = observe_faces(photo.image_srgb, engine.networks, max_faces=1)
    return Prepared(lambda: engine.fitter.fit(seen, CameraHint()))


def _multiview(device: str) -> Prepared:
    """Seven photos of 512 x 512 with known cameras, of a person 1 mm outside of the model. Needs the head model."""
    from headrecon.datasets.camera_ring import RingOptions, ring_of_person
    from headrecon.fitting.multiview.refine import MultiviewFitter
    from headrecon.fitting.multiview.views import PosedView, Views

    del device
    engine = load_engine(ReconstructConfig())
    options = SyntheticOptions(size=64, hair=False, outside_mm=1.0, expressions=0.0)
    person = synthetic_photo(engine.assets, 1, options)
    ring = ring_of_person(person, engine.assets, 1, RingOptions(size=512))
    fitter = MultiviewFitter(engine.assets)
    params = fitter.surface.joints.layout.pack(person.params)
    views = [
        PosedView(image, replace(ring.cameras, viewmats=v, Ks=k), params)
        for image, v, k in zip(ring.images_srgb, ring.cameras.viewmats, ring.cameras.Ks, strict=True)
    ]
    known = Views.of(views, engine.assets.num_betas, known_cameras=True, one_moment=True)
    return Prepared(lambda: fitter.refine(known))


CASES = (
    Case("solver", "8 iterations, 1500 residuals x 250 parameters", _solve, goal_ms=5.0 * ITERATIONS, devices=("cpu",)),
    Case("landmark fit", "one photo, warm", _fit, devices=("cpu",)),
    Case("multi-view refinement", "seven photos 512 x 512, cameras known", _multiview, devices=("cpu",)),
)
