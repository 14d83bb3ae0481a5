"""Compares values or gradients of two implementations: with numbers that say how they differ, and a budget for jumps.

One tolerance for every element is either too loose for most or too tight for a few: kernels with visibility, sorting or
thresholds jump where two implementations round to different sides. So the bulk is compared as a whole (relative L1 and
L2, direction) and every element against a bound, of which a stated share may be exceeded.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Bounds:
    """What may differ. The defaults are for float32 sums of some hundred terms in another order.

    relative_l1, relative_l2: norm of the difference over that of the expected. cosine: least cosine of the angle
    between the two, as long vectors. rtol, atol: |difference| <= atol * (rms of the expected) + rtol * |expected| for
    every element, but for the share `budget` of them: those are left out of the norms too.
    """

    relative_l1: float = 1e-4
    relative_l2: float = 1e-4
    cosine: float = 0.99999
    rtol: float = 1e-3
    atol: float = 1e-3
    budget: float = 0.0


def differences(found: Tensor, expected: Tensor, bounds: Bounds = Bounds()) -> list[str]:
    """What is out of bounds, in words; empty when all is well."""
    if found.shape != expected.shape:
        return [f"shape {tuple(found.shape)}, expected {tuple(expected.shape)}"]
    got, want = found.detach().double().cpu().flatten(), expected.detach().double().cpu().flatten()
    if want.numel() == 0:
        return []
    unlike = torch.isfinite(got) != torch.isfinite(want)
    if unlike.any():
        return [f"{int(unlike.sum())} of {want.numel()} elements are finite in one and not in the other"]
    finite = torch.isfinite(want)
    got, want = got[finite], want[finite]
    if want.numel() == 0:
        return []
    gap = (got - want).abs()
    allowed = bounds.atol * want.square().mean().sqrt() + bounds.rtol * want.abs()
    outside = gap > allowed
    problems = []
    if int(outside.sum()) > bounds.budget * want.numel():
        worst = int((gap - allowed).argmax())
        problems.append(
            f"{int(outside.sum())} of {want.numel()} elements out of bounds (budget {bounds.budget:.2%}), "
            f"worst {got[worst]:.6g} for {want[worst]:.6g}"
        )
    elif bounds.budget:
        got, want = got[~outside], want[~outside]
    return problems + _as_a_whole(got, want, bounds)


def _as_a_whole(got: Tensor, want: Tensor, bounds: Bounds) -> list[str]:
    problems = []
    for name, order, most in (("L1", 1, bounds.relative_l1), ("L2", 2, bounds.relative_l2)):
        size, gap = float(want.norm(order)), float((got - want).norm(order))
        if gap > most * size:
            problems.append(f"relative {name} {gap / size if size else float('inf'):.3g}, at most {most:g}")
    both = float(got.norm() * want.norm())
    if both and (cosine := float(got @ want) / both) < bounds.cosine:
        problems.append(f"cosine {cosine:.6f}, at least {bounds.cosine}")
    return problems


def assert_alike(found: Tensor | None, expected: Tensor | None, what: str, bounds: Bounds = Bounds()) -> None:
    """Fail with everything that is out of bounds. None (no gradient) is like None only."""
    if found is None or expected is None:
        assert found is None and expected is None, f"{what}: only one of the two is None"
        return
    problems = differences(found, expected, bounds)
    assert not problems, f"{what}: " + "; ".join(problems)
