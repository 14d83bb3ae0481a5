"""Times the landmark fit: one solver iteration of the size that dense fitting will have, and a whole warm fit.

python benchmarks/bench_fit.py
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np

from headrecon.config import ReconstructConfig
from headrecon.datasets.synthetic import SyntheticOptions, synthetic_photo
from headrecon.fitting.blas_threads import one_blas_thread
from headrecon.fitting.least_squares import Block, LinearResidual, Problem, SolverOptions, solve
from headrecon.fitting.photo import CameraHint
from headrecon.fitting.robust import Huber
from headrecon.perception.faces import observe_faces
from headrecon.pipeline import load_engine


def report(name: str, run: Callable[[], float], repeat: int) -> None:
    """Print median and best of what `run` returns, in milliseconds."""
    times = [run() for _ in range(repeat)]
    print(f"{name:48s} median {statistics.median(times):7.2f}   best {min(times):7.2f} ms")


def iteration_ms() -> float:
    """One bounded, robust iteration with 1500 residuals and 250 parameters."""
    rng = np.random.default_rng(0)
    residual = LinearResidual("big", ("x",), rng.normal(size=(1500, 250)), rng.normal(size=1500), Huber(2.0), group=2)
    problem = Problem([Block.make("x", 250, sigma=1.0, bounds=(-0.02, 0.02))], [residual])
    options = SolverOptions(max_iterations=8, cost_floor=0.0, cost_tolerance=0.0, step_tolerance=0.0)
    start = time.perf_counter()
    with one_blas_thread():
        iterations = solve(problem, {}, options).iterations
    return 1e3 * (time.perf_counter() - start) / max(iterations, 1)


def main() -> None:
    iteration_ms()  # loads LAPACK
    report("one iteration, 1500 residuals x 250 parameters", iteration_ms, 15)
    engine = load_engine(ReconstructConfig())
    photo = synthetic_photo(engine.assets, 1, SyntheticOptions(size=512))
    (seen,) = observe_faces(photo.image_srgb, engine.networks, max_faces=1)

    def fit_ms() -> float:
        start = time.perf_counter()
        engine.fitter.fit(seen, CameraHint())
        return 1e3 * (time.perf_counter() - start)

    fit_ms()
    report("landmark fit, one photo, warm", fit_ms, 15)


if __name__ == "__main__":
    main()
