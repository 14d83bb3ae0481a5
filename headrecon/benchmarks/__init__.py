"""How fast the ops are on this machine: `headrecon bench`, `make bench` and scripts/gpu_check.sh run these.

To add an op, write `headrecon/benchmarks/<family>_cases.py` and name it in `catalogue.FAMILIES`:

    def _splat(device: str, count: int) -> Prepared:
        scene = random_scene(count).to(device)                   # made once, not timed
        return Prepared(
            run=lambda: splat_gaussians(scene),                  # timed; its result is compared between CPU and GPU
            peers=(peer("gsplat", "gsplat", lambda gsplat: lambda: gsplat.rasterization(...)),),
        )

    CASES = (Case("splat_gaussians", "50k, 512²", partial(_splat, count=50_000), goal_ms=8.0),)

`goal_ms` is for two AVX-512 cores. A case that is `small` also runs under memory checkers. Inputs come from seeded
generators, the same on every device. A peer that is not installed is skipped with the reason; none is ever required.

| module | |
|---|---|
| `cases` | what a case is; peers |
| `catalogue` | which cases there are |
| `timing` | warm-up, medians; a GPU's own time |
| `measure` | runs cases: rows, and how far a GPU's results are from the CPU's |
| `machine` | which kind of machine this is, and its committed baseline |
| `*_cases` | the cases themselves |
"""

from __future__ import annotations
