"""The solver on problems whose answers are known: bounds, robustness, priors, and the posterior."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from headrecon.errors import ShapeError
from headrecon.fitting.box import SingularProblem, solve_in_box
from headrecon.fitting.least_squares import Block, LinearResidual, Problem, SolverOptions, solve
from headrecon.fitting.posterior import posterior_at, truncated_moments
from headrecon.fitting.robust import GemanMcClure, Huber, Kernel, Quadratic, Tukey


@dataclass(frozen=True)
class Rosenbrock:
    name: str = "rosenbrock"
    blocks: tuple[str, ...] = ("x", "y")
    kernel: Kernel = field(default_factory=Quadratic)
    group: int = 1

    def evaluate(self, values):
        x, y = values["x"][0], values["y"][0]
        return np.array([10 * (y - x * x), 1 - x])

    def linearize(self, values):
        x = values["x"][0]
        return self.evaluate(values), np.array([[-20 * x, 10.0], [-1.0, 0.0]])


def test_rosenbrock_from_the_usual_start() -> None:
    problem = Problem([Block.make("x", 1), Block.make("y", 1)], [Rosenbrock()])
    options = SolverOptions(max_iterations=100, cost_floor=1e-20, cost_tolerance=1e-15, step_tolerance=1e-9)
    found = solve(problem, {"x": np.array([-1.2]), "y": np.array([1.0])}, options)
    assert found.converged
    np.testing.assert_allclose(found.x, [1, 1], atol=1e-6)


def test_rosenbrock_with_an_active_bound() -> None:
    # On x <= 0.5 the valley's lowest point is x = 0.5, y = 0.25.
    problem = Problem([Block.make("x", 1, bounds=(-2.0, 0.5)), Block.make("y", 1)], [Rosenbrock()])
    options = SolverOptions(max_iterations=100, cost_floor=1e-20, cost_tolerance=1e-15, step_tolerance=1e-9)
    found = solve(problem, {"x": np.array([-1.2]), "y": np.array([1.0])}, options)
    np.testing.assert_allclose(found.x, [0.5, 0.25], atol=1e-6)
    assert found.on_bounds.tolist() == [True, False]


def _random_linear(rng: np.random.Generator, rows: int = 30, size: int = 8) -> tuple[np.ndarray, np.ndarray]:
    return rng.normal(size=(rows, size)), rng.normal(size=rows)


@pytest.mark.parametrize("seed", range(8))
def test_box_solution_meets_the_optimality_conditions(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = _random_linear(rng, 40, 25)
    matrix, gradient = a.T @ a, a.T @ b
    lower, upper = -rng.uniform(0, 0.1, 25), rng.uniform(0, 0.1, 25)
    lower[:5], upper[3:9] = -np.inf, np.inf
    lower[10] = 0.0
    step = solve_in_box(matrix, gradient, lower, upper)
    slope = gradient + matrix @ step
    assert (step >= lower).all()
    assert (step <= upper).all()
    inside = (step > lower) & (step < upper)
    np.testing.assert_allclose(slope[inside], 0, atol=1e-9)
    assert (slope[step == lower] >= -1e-9).all()
    assert (slope[step == upper] <= 1e-9).all()
    assert inside.any()
    assert (~inside).any()


def test_bounded_fit_agrees_with_scipy() -> None:
    from scipy.optimize import lsq_linear

    rng = np.random.default_rng(4)
    a, b = _random_linear(rng)
    problem = Problem([Block.make("x", 8, bounds=(0.0, 0.2))], [LinearResidual("line", ("x",), a, b)])
    found = solve(
        problem, {"x": np.full(8, 0.1)}, SolverOptions(cost_floor=1e-16, cost_tolerance=1e-14, step_tolerance=1e-9)
    )
    expected = lsq_linear(a, b, bounds=(0, 0.2), tol=1e-14).x
    np.testing.assert_allclose(found.x, expected, atol=1e-7)


def test_priors_and_posterior_match_the_textbook() -> None:
    rng = np.random.default_rng(1)
    a, b = _random_linear(rng)
    mean, sigma = rng.normal(size=8), rng.uniform(0.3, 2, 8)
    problem = Problem([Block("x", mean, sigma)], [LinearResidual("line", ("x",), a, b)])
    found = solve(problem, {}, SolverOptions(cost_floor=1e-18, cost_tolerance=1e-16, step_tolerance=1e-10))
    precision = a.T @ a + np.diag(sigma**-2.0)
    np.testing.assert_allclose(found.x, np.linalg.solve(precision, a.T @ b + mean / sigma**2), atol=1e-8)
    posterior = posterior_at(problem, found)
    np.testing.assert_allclose(posterior.covariance, np.linalg.inv(precision), atol=1e-10)
    np.testing.assert_allclose(posterior.mean, found.x, atol=1e-7)
    half = np.ones((1, 8)) / 2
    np.testing.assert_allclose(posterior.propagate(half), half @ np.linalg.inv(precision) @ half.T)


def test_fixed_entries_stay_and_have_no_variance() -> None:
    rng = np.random.default_rng(1)
    a, b = _random_linear(rng)
    free = np.array([True] * 6 + [False] * 2)
    problem = Problem([Block.make("x", 8, sigma=1.0, free=free)], [LinearResidual("line", ("x",), a, b)])
    found = solve(problem, {"x": np.full(8, 0.7)})
    assert found.x[6:].tolist() == [0.7, 0.7]
    covariance = posterior_at(problem, found).covariance
    assert not covariance[6:].any()
    assert (np.diag(covariance)[:6] > 0).all()


@pytest.mark.parametrize("kernel", [Huber(1.5), GemanMcClure(3.0), Tukey(6.0)])
def test_outliers_do_not_pull(kernel: Kernel) -> None:
    rng = np.random.default_rng(2)
    matrix = np.concatenate([np.eye(2)] * 40)
    truth = np.array([1.0, -2.0])
    observed = (matrix @ truth).reshape(40, 2) + 0.1 * rng.normal(size=(40, 2))
    observed[:8] += 30  # a fifth of the points, all on the same side
    errors = {}
    for k in (Quadratic(), kernel):
        residual = LinearResidual("points", ("x",), matrix / 0.1, observed.ravel() / 0.1, k, group=2)
        start = {"x": np.median(observed, axis=0)}
        errors[type(k)] = np.abs(solve(Problem([Block.make("x", 2)], [residual]), start).x - truth).max()
    assert errors[Quadratic] > 4
    assert errors[type(kernel)] < 0.12  # Huber keeps a bias of about a fifth of a deviation times its threshold


@pytest.mark.parametrize("kernel", [Quadratic(), Huber(1.5), GemanMcClure(3.0), Tukey(4.0)])
def test_kernel_weight_is_the_slope_of_rho(kernel: Kernel) -> None:
    s = np.linspace(0.01, 30, 200)
    h = 1e-6
    np.testing.assert_allclose(kernel.weight(s), (kernel.rho(s + h) - kernel.rho(s - h)) / (2 * h), atol=1e-6)
    assert kernel.weight(np.zeros(1))[0] == 1
    assert kernel.rho(np.zeros(1))[0] == 0


def test_gradient_is_the_slope_of_the_cost() -> None:
    rng = np.random.default_rng(3)
    a, b = _random_linear(rng)
    block = Block.make("x", 8, mean=0.3, sigma=0.5)
    tilted = Block(block.name, block.mean, block.sigma, tilt=rng.normal(size=8))
    problem = Problem([tilted], [LinearResidual("line", ("x",), a, b, Huber(0.5), group=2)])
    x = rng.normal(size=8)
    cost, gradient, _ = problem.normal_equations(x)
    assert cost == pytest.approx(problem.cost(x))
    for k in range(8):
        d = np.eye(8)[k] * 1e-6
        assert gradient[k] == pytest.approx((problem.cost(x + d) - problem.cost(x - d)) / 2e-6, abs=1e-6)


@pytest.mark.parametrize(
    ("mean", "sigma", "lower", "upper"),
    [
        (0, 1, 0, np.inf), (-0.5, 0.3, 0, 1), (-5, 0.3, 0, 1), (-5, 0.3, 0, 0.01), (2, 0.5, 0, 1), (0.5, 10, 0, 1),
        (40, 1, 0, 1), (-9, 1, 0, 0.1), (3, 1, -np.inf, 2),
    ],
)  # fmt: skip
def test_truncated_moments_against_sums(mean: float, sigma: float, lower: float, upper: float) -> None:
    low, high = max(lower, min(mean, upper) - 12 * sigma), min(upper, max(mean, lower) + 12 * sigma)
    t = np.linspace(low, high, 400_001)
    log = -0.5 * ((t - mean) / sigma) ** 2
    w = np.exp(log - log.max())
    w[[0, -1]] /= 2
    first = np.sum(w * t) / w.sum()
    second = np.sum(w * (t - first) ** 2) / w.sum()
    found = truncated_moments(*(np.array([float(v)]) for v in (mean, sigma, lower, upper)))
    assert found[0][0] == pytest.approx(first, rel=0.01)  # beyond 8 sigma a one-term tail expansion is used
    assert found[1][0] == pytest.approx(second, rel=0.04)


def test_posterior_of_bounded_parameters_against_sampling() -> None:
    rng = np.random.default_rng(7)
    a, b = _random_linear(rng, 12, 4)
    a *= 1.5
    block = Block.make("x", 4, sigma=0.3, bounds=(0.0, 1.0))
    other = Block.make("y", 1, sigma=1.0)
    matrix = np.concatenate([a, rng.normal(size=(12, 1))], 1)
    problem = Problem([block, other], [LinearResidual("line", ("x", "y"), matrix, b)])
    posterior = posterior_at(problem, solve(problem, {}))
    precision = matrix.T @ matrix + np.diag([0.3**-2] * 4 + [1.0])
    free_mean = np.linalg.solve(precision, matrix.T @ b)
    draws = rng.multivariate_normal(free_mean, np.linalg.inv(precision), 400_000)
    inside = draws[((draws[:, :4] >= 0) & (draws[:, :4] <= 1)).all(1)]
    assert len(inside) > 500
    # Expectation propagation is not exact; a tenth of a deviation is far below what the truncation itself changes.
    np.testing.assert_allclose(posterior.mean, inside.mean(0), atol=0.1 * inside.std(0).max())
    np.testing.assert_allclose(np.sqrt(np.diag(posterior.covariance)), inside.std(0), rtol=0.1)
    assert np.abs(posterior.mean[:4] - np.clip(free_mean[:4], 0, 1)).max() > 0.03


def test_errors_name_the_fault() -> None:
    with pytest.raises(ShapeError, match="two parameter blocks"):
        Problem([Block.make("x", 1), Block.make("x", 1)], [])
    with pytest.raises(ShapeError, match="lacks"):
        Problem([Block.make("x", 1)], [LinearResidual("r", ("x", "z"), np.eye(2), np.zeros(2))])
    with pytest.raises(ShapeError, match="sigma > 0"):
        Block.make("x", 1, sigma=0.0)
    with pytest.raises(SingularProblem, match="neither observed"):
        solve(Problem([Block.make("x", 2)], [LinearResidual("r", ("x",), np.eye(2)[:1], np.ones(1))]), {})
