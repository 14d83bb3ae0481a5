"""Robust, bounded Levenberg-Marquardt over named parameter blocks, and the Laplace posterior at its answer.

A problem is a list of `Block`s (what may move, with a Gaussian prior and bounds) and of `Residual`s (what was seen).
Residuals name the blocks that they touch, so photometric, multi-view and temporal terms join by being appended.
The cost is 1/2 sum rho(|r_g|^2) over residual groups g plus 1/2 |(x - mean)/sigma|^2 + tilt . x over the blocks.

Bounds are kept by an active set: each step solves the damped quadratic model inside the box, so that a parameter that
wants to leave stays on its bound and the others react to that (Kanzow, Yamashita, Fukushima 2004 prove convergence of
projected Levenberg-Marquardt steps). The damping follows Nielsen 1999 ("Damping parameter in Marquardt's method").
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int

from headrecon.errors import ShapeError
from headrecon.fitting.box import solve_in_box
from headrecon.fitting.robust import Kernel, Quadratic

Values = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Block:
    """A named group of parameters.

    mean and sigma describe an independent Gaussian prior per entry (sigma = inf: none). lower and upper bound the
    entries; free = False keeps entries at their starting value. tilt is the slope of a linear term of the cost.
    """

    name: str
    mean: Float[np.ndarray, " N"]
    sigma: Float[np.ndarray, " N"]
    lower: Float[np.ndarray, " N"] | None = None
    upper: Float[np.ndarray, " N"] | None = None
    free: Bool[np.ndarray, " N"] | None = None
    tilt: Float[np.ndarray, " N"] | None = None

    @staticmethod
    def make(
        name: str,
        size: int,
        mean: float | np.ndarray = 0.0,
        sigma: float | np.ndarray = np.inf,
        bounds: tuple[float, float] | None = None,
        free: bool | np.ndarray = True,
    ) -> Block:
        """Block with scalars spread over `size` entries. Raises ShapeError for a sigma that is not positive."""
        mean_, sigma_ = (np.broadcast_to(np.asarray(v, np.float64), (size,)).copy() for v in (mean, sigma))
        if not (sigma_ > 0).all():
            raise ShapeError(f"block {name!r}: a prior needs sigma > 0 (inf for none); fix entries with free=False")
        lower, upper = (None, None) if bounds is None else (np.full(size, float(b)) for b in bounds)
        return Block(name, mean_, sigma_, lower, upper, np.broadcast_to(np.asarray(free, bool), (size,)).copy())

    @property
    def size(self) -> int:
        return len(self.mean)


@runtime_checkable
class Residual(Protocol):
    """Whitened residuals of one kind. `group` consecutive entries share one robust weight (2 for an image point)."""

    @property
    def name(self) -> str: ...

    @property
    def blocks(self) -> tuple[str, ...]: ...

    @property
    def kernel(self) -> Kernel: ...

    @property
    def group(self) -> int: ...

    def evaluate(self, values: Values) -> Float[np.ndarray, " M"]:
        """Residuals divided by their standard deviations."""
        ...

    def linearize(self, values: Values) -> tuple[Float[np.ndarray, " M"], Float[np.ndarray, "M K"]]:
        """Residuals and their derivatives; the columns are those of `blocks`, side by side."""
        ...


@dataclass(frozen=True)
class LinearResidual:
    """r = A x - b over the named blocks: priors that tie blocks together (smoothness in time, vergence of the eyes)."""

    name: str
    blocks: tuple[str, ...]
    matrix: Float[np.ndarray, "M K"]
    offset: Float[np.ndarray, " M"]
    kernel: Kernel = field(default_factory=Quadratic)
    group: int = 1

    def evaluate(self, values: Values) -> Float[np.ndarray, " M"]:
        return self.matrix @ np.concatenate([values[b] for b in self.blocks]) - self.offset

    def linearize(self, values: Values) -> tuple[Float[np.ndarray, " M"], Float[np.ndarray, "M K"]]:
        return self.evaluate(values), self.matrix


class Problem:
    """Blocks and residuals together: lays out the flat vector and assembles cost and normal equations."""

    def __init__(self, blocks: Sequence[Block], residuals: Sequence[Residual]) -> None:
        self.blocks, self.residuals = tuple(blocks), tuple(residuals)
        self.slices: dict[str, slice] = {}
        start = 0
        for b in self.blocks:
            if b.name in self.slices:
                raise ShapeError(f"two parameter blocks are named {b.name!r}; names must be unique")
            self.slices[b.name] = slice(start, start + b.size)
            start += b.size
        self.size = start
        self._columns = {}
        for r in self.residuals:
            missing = [b for b in r.blocks if b not in self.slices]
            if missing:
                raise ShapeError(f"residual {r.name!r} needs the blocks {missing}, which the problem lacks")
            self._columns[id(r)] = self.columns(r.blocks)
        self._prior_mean = self._gather("mean")
        self.prior_precision = 1.0 / self._gather("sigma") ** 2
        self.lower, self.upper = self._gather("lower", -np.inf), self._gather("upper", np.inf)
        self.free = self._gather("free", 1.0).astype(bool)
        self._tilt = self._gather("tilt", 0.0)

    def _gather(self, name: str, default: float = 0.0) -> np.ndarray:
        parts = [getattr(b, name) if getattr(b, name) is not None else np.full(b.size, default) for b in self.blocks]
        return np.concatenate(parts) if parts else np.zeros(0)

    def columns(self, names: Sequence[str]) -> Int[np.ndarray, " K"]:
        """Positions of the named blocks in the flat vector, side by side."""
        return np.concatenate([np.arange(self.slices[n].start, self.slices[n].stop) for n in names])

    def pack(self, values: Values) -> Float[np.ndarray, " P"]:
        """Flat vector; blocks without a value start at their prior mean. The result lies within the bounds."""
        parts = [np.asarray(values[b.name], np.float64) if b.name in values else b.mean for b in self.blocks]
        x = np.concatenate(parts)
        return np.where(self.free, np.clip(x, self.lower, self.upper), x)

    def unpack(self, x: Float[np.ndarray, " P"]) -> dict[str, np.ndarray]:
        return {name: x[s] for name, s in self.slices.items()}

    def cost(self, x: Float[np.ndarray, " P"]) -> float:
        """The robust cost, priors included."""
        values = self.unpack(x)
        total = 0.5 * float(self.prior_precision @ (x - self._prior_mean) ** 2) + float(self._tilt @ x)
        for r in self.residuals:
            total += 0.5 * float(r.kernel.rho(_squared_norms(r.evaluate(values), r.group)).sum())
        return total

    def normal_equations(
        self, x: Float[np.ndarray, " P"]
    ) -> tuple[float, Float[np.ndarray, " P"], Float[np.ndarray, "P P"]]:
        """Cost, gradient and Gauss-Newton matrix (robust weights applied, priors included)."""
        values = self.unpack(x)
        difference = x - self._prior_mean
        gradient = self.prior_precision * difference
        total = 0.5 * float(gradient @ difference) + float(self._tilt @ x)
        gradient = gradient + self._tilt
        hessian = np.diag(self.prior_precision)
        for r in self.residuals:
            residual, jac = r.linearize(values)
            s = _squared_norms(residual, r.group)
            total += 0.5 * float(r.kernel.rho(s).sum())
            if not isinstance(r.kernel, Quadratic):
                weight = r.kernel.weight(s)
                outliers = np.flatnonzero(np.repeat(weight != 1.0, r.group))
                root = np.sqrt(np.repeat(weight, r.group)[outliers])
                residual, jac = residual.copy(), jac.copy()  # residuals may hand out what they keep
                residual[outliers] *= root
                jac[outliers] *= root[:, None]
            columns = self._columns[id(r)]
            gradient[columns] += residual @ jac
            hessian[np.ix_(columns, columns)] += jac.T @ jac
        return total, gradient, hessian


def _squared_norms(residual: np.ndarray, group: int) -> np.ndarray:
    if group == 1:
        return residual * residual
    return np.square(residual.reshape(-1, group)).sum(1)


@dataclass(frozen=True)
class SolverOptions:
    """When to stop, and the first damping relative to the diagonal of the normal matrix."""

    max_iterations: int = 30
    #: stop when an accepted step lowers the cost by less than this fraction
    cost_tolerance: float = 1e-6
    #: stop when a step is this small against each entry's posterior scale (units of conditional standard deviation)
    step_tolerance: float = 1e-3
    #: or lowers it by less than this: a cost of 0.5 is one standard deviation, so this much cannot matter
    cost_floor: float = 1e-3
    initial_damping: float = 1e-4


@dataclass(frozen=True)
class Solution:
    """Where the solver stopped, and why. gradient and hessian are those of the normal equations at x."""

    x: Float[np.ndarray, " P"]
    values: dict[str, np.ndarray]
    cost: float
    initial_cost: float
    iterations: int
    converged: bool
    reason: str
    seconds: float
    on_bounds: Bool[np.ndarray, " P"]
    gradient: Float[np.ndarray, " P"]
    hessian: Float[np.ndarray, "P P"]


def solve(problem: Problem, start: Values, options: SolverOptions | None = None) -> Solution:
    """Minimise the problem's cost from `start` (blocks left out start at their prior mean)."""
    options = options or SolverOptions()
    began = time.perf_counter()
    x = problem.pack(start)
    cost, gradient, hessian = problem.normal_equations(x)
    initial = cost
    damping, growth = options.initial_damping, 2.0
    reason, converged, iteration = "reached max_iterations", False, 0
    for iteration in range(1, options.max_iterations + 1):  # noqa: B007 (reported below)
        scale = np.diag(hessian)
        step = bounded_step(problem, x, gradient, hessian + np.diag(damping * scale))
        candidate = np.clip(x + step, problem.lower, problem.upper)
        candidate[~problem.free] = x[~problem.free]
        predicted = -float(gradient @ step + 0.5 * step @ hessian @ step)
        if float(np.max(np.abs(step) * np.sqrt(scale), initial=0.0)) < options.step_tolerance or predicted <= 0:
            reason, converged = "the step is negligible", True
            break
        actual = cost - problem.cost(candidate)
        if actual > 0:
            x = candidate
            ratio = actual / predicted
            damping = max(damping * max(1 / 3, 1 - (2 * ratio - 1) ** 3), 1e-12)
            growth = 2.0
            done = actual < max(options.cost_tolerance * abs(cost), options.cost_floor)
            cost, gradient, hessian = problem.normal_equations(x)
            if done:
                reason, converged = "the cost no longer falls", True
                break
        else:
            damping, growth = max(damping, 1e-6) * growth, growth * 2
            if damping > 1e12:
                reason = "no step lowers the cost"
                break
    on_bounds = problem.free & ((x <= problem.lower) | (x >= problem.upper))
    return Solution(
        x=x,
        values=problem.unpack(x),
        cost=cost,
        initial_cost=initial,
        iterations=iteration,
        converged=converged,
        reason=reason,
        seconds=time.perf_counter() - began,
        on_bounds=on_bounds,
        gradient=gradient,
        hessian=hessian,
    )


def bounded_step(
    problem: Problem, x: Float[np.ndarray, " P"], gradient: Float[np.ndarray, " P"], matrix: Float[np.ndarray, "P P"]
) -> Float[np.ndarray, " P"]:
    """The step that minimises the quadratic model within the bounds; fixed entries do not move."""
    free = np.flatnonzero(problem.free)
    step = np.zeros_like(x)
    step[free] = solve_in_box(
        matrix[np.ix_(free, free)], gradient[free], (problem.lower - x)[free], (problem.upper - x)[free]
    )
    return step
