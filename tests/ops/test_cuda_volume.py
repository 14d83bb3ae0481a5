"""The CUDA kernels of volume rendering against the CPU's: emulated everywhere, and on the GPU where there is one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from headrecon.errors import ShapeError
from headrecon.ops import _native_calls_volume as calls
from headrecon.ops.ray_samples import Absorption, AbsorptionKind, RaySamples
from tests.ops.compare import Bounds, assert_alike
from tests.ops.conftest import CudaKernels
from tests.ops.test_cuda_ops import determinism

NAN, INF = float("nan"), float("inf")
#: Products over 32 samples are taken as a tree, the CPU's one after another.
CLOSE = Bounds(relative_l1=1e-5, relative_l2=1e-5, rtol=1e-4, atol=1e-4)
KINDS = ("dense", "neighbours", "packed", "uniform")


def increasing(generator: torch.Generator, *shape: int) -> Tensor:
    return (torch.rand(*shape, generator=generator) * 0.1 + 0.01).cumsum(-1)


def samples_of(kind: str, generator: torch.Generator, rays: int = 11, surface: bool = False) -> RaySamples:
    """Dense intervals with gaps, neighbours, packed ones (the first ray empty, one long), or uniform ones."""
    if kind == "uniform":
        near_far = torch.tensor([0.2, 3.0]).repeat(rays, 1) + torch.rand(rays, 2, generator=generator)
        made = RaySamples.uniform(near_far, 37, torch.rand(rays, generator=generator) - 0.5)
    elif kind == "neighbours":
        made = RaySamples.at(increasing(generator, rays, 45))
    elif kind == "dense":
        edges = increasing(generator, rays, 41)
        made = RaySamples.dense(edges[:, :-1].contiguous(), edges[:, 1:] - 0.005)
    else:
        counts = torch.randint(0, 50, (rays,), generator=generator)
        counts[rays // 2], counts[0] = 200, 0
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
        starts = torch.rand(int(offsets[-1]), generator=generator) * 3.0
        made = RaySamples.packed(starts, starts + 0.05, offsets)
    if not surface:
        return made
    at = torch.rand(rays, generator=generator) * 2.0
    at[0], at[-1] = NAN, INF
    return made.with_surface(at)


def composite_inputs(samples: RaySamples, channels: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    values = torch.randn(samples.num_samples, generator=generator) * 2.0 + 1.0
    if len(values) > 8:
        values[3], values[5], values[7] = NAN, INF, -INF
    return values, torch.randn(samples.num_samples, channels, generator=generator)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [0, 3, 9, 130])
@pytest.mark.parametrize(("absorbs", "stop"), [("DENSITY", 0.0), ("SOFTPLUS", 0.02), ("ALPHA", 1e-3)])
@pytest.mark.parametrize("surface", [False, True])
def test_composite(cuda: CudaKernels, kind: str, channels: int, absorbs: str, stop: float, surface: bool) -> None:
    if absorbs == "ALPHA" and kind == "neighbours":
        pytest.skip("opacities of neighbours have no mean: refused")
    generator = torch.Generator().manual_seed(channels)
    samples = samples_of(kind, generator, surface=surface)
    absorption = Absorption(AbsorptionKind[absorbs], -0.5, stop)
    values, features = composite_inputs(samples, channels, generator)
    arguments = (values, features, (samples, absorption))
    found, expected = cuda.run(calls.composite, *arguments), calls.composite(*arguments)
    for name, one, other in zip(found._fields, found, expected, strict=True):
        assert_alike(one, other, name, CLOSE)
    grads = [torch.randn(t.shape, generator=generator) for t in expected]
    needs = (channels > 0, kind != "uniform")
    got = cuda.run(calls.composite_backward, *arguments, grads, needs)
    wanted = calls.composite_backward(*arguments, grads, needs)
    for name, one, other in zip(("values", "features", "starts", "ends"), got, wanted, strict=True):
        assert_alike(one, other, name, CLOSE)
    assert wanted[0].abs().nansum() > 0


@pytest.mark.parametrize("rays", [0, 1, 9])
@pytest.mark.parametrize("count", [0, 1, 2, 32, 33])
def test_composite_sizes(cuda: CudaKernels, rays: int, count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    distances = increasing(generator, rays, count)
    samples = RaySamples.at(distances) if distances.numel() else RaySamples.dense(distances, distances)
    values, features = composite_inputs(samples, 2, generator)
    arguments = (values, features, (samples, Absorption(stop=0.1)))
    found, expected = cuda.run(calls.composite, *arguments), calls.composite(*arguments)
    for one, other in zip(found, expected, strict=True):
        assert_alike(one, other, "composite", CLOSE)
    grads = [torch.ones_like(t) for t in expected]
    got = cuda.run(calls.composite_backward, *arguments, grads, (True, True))
    for one, other in zip(got, calls.composite_backward(*arguments, grads, (True, True)), strict=True):
        assert_alike(one, other, "gradient", CLOSE)


@pytest.mark.parametrize("offsets", [[0, 5, 3, 8], [0, 4, 9, 8], [1, 4, 6, 8], [0, 2, 4, 7], [0, -1, 4, 8]])
def test_offsets_that_lead_nowhere_are_reported(cuda: CudaKernels, offsets: list[int]) -> None:
    starts = torch.arange(8) * 0.1
    sane = RaySamples.packed(starts, starts + 0.1, torch.tensor([0, 2, 4, 8]))
    bad = replace(sane, offsets=torch.tensor(offsets))
    with pytest.raises(ShapeError, match="composite: an index was out of range"):
        cuda.run(calls.composite, torch.ones(8), torch.ones(8, 1), (bad, Absorption()))
    grads = (torch.ones(3, 1), torch.ones(3), torch.ones(3), torch.ones(8))
    with pytest.raises(ShapeError, match="composite_backward: an index was out of range"):
        cuda.run(calls.composite_backward, torch.ones(8), torch.ones(8, 1), (bad, Absorption()), grads, (True, True))
    cuda.run(calls.composite, torch.ones(8), torch.ones(8, 1), (sane, Absorption()))


def test_importance(cuda: CudaKernels) -> None:
    """Bit for bit: sums are taken in the CPU's order."""
    generator = torch.Generator().manual_seed(0)
    for rays, intervals, draws in ((300, 47, 48), (1, 1, 5), (5, 3, 0), (0, 4, 2), (33, 100, 1)):
        edges = increasing(generator, rays, intervals + 1)
        weights = torch.rand(rays, intervals, generator=generator) - 0.3
        if rays > 2:
            weights[0], edges[1], weights[1, 0], weights[2, -1] = 0.0, 0.5, -1.0, NAN
            weights[1], weights[2, 0] = 0.0, INF
        uniforms = torch.rand(rays, draws, generator=generator).sort(-1).values
        if uniforms.numel() > 3:
            uniforms[0, 0], uniforms[0, -1], uniforms[-1, -1] = NAN, 1.0, 1.0
        found = cuda.run(calls.importance, edges, weights, uniforms)
        assert torch.equal(found, calls.importance(edges, weights, uniforms))


@pytest.mark.parametrize("shifted", [False, True])
def test_march(cuda: CudaKernels, shifted: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    occupied = (torch.rand(5, 7, 6, generator=generator) < 0.3).to(torch.uint8)
    box = ((-1.0, -0.8, -0.9), (1.0, 0.7, 1.1))
    rays = 65
    directions = torch.nn.functional.normalize(torch.randn(rays, 3, generator=generator), dim=-1)
    origins = -2.0 * directions + torch.randn(rays, 3, generator=generator) * 0.4
    directions[0], origins[1], directions[2] = torch.tensor([0.0, 0.0, 1.0]), NAN, torch.tensor([INF, 0.0, 0.0])
    near_far = torch.tensor([0.1, 4.0]).repeat(rays, 1)
    near_far[3] = torch.tensor([2.0, 1.0])
    shifts = torch.rand(rays, generator=generator) if shifted else None
    arguments = (occupied, box, (origins, directions, near_far, shifts), 0.01)
    found, expected = cuda.run(calls.march, *arguments), calls.march(*arguments)
    assert len(expected[0]) > 1000
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


def field_of(batch: int, charts: int, depth: int, channels: int, generator: torch.Generator) -> calls.Field:
    """Planes with sides of 7 x 5: a box, or one or two spheres turned at random."""
    grid = torch.randn(batch, charts, 3, depth, 7, 5, channels, generator=generator)
    turned = torch.linalg.qr(torch.randn(charts, 3, 3, generator=generator)).Q.contiguous()
    return calls.Field(grid, turned if charts > 1 else None, (0, 1, 2, 0, 2, 1, 2, 1, 0), 1.7)


def decoder_of(shape: tuple[int, int, int], kind: int, generator: torch.Generator) -> calls.DecoderWeights:
    """shape: channels, hidden units, features."""
    channels, hidden, features = shape
    w1, b1, w2, b2 = (
        torch.randn(size, generator=generator) * 0.3
        for size in ((hidden, channels), (hidden,), (features + 1, hidden), (features + 1,))
    )
    return calls.DecoderWeights(w1, b1, w2, b2, kind)


def points_of(batch: int, count: int, generator: torch.Generator) -> Tensor:
    points = torch.rand(batch, count, 3, generator=generator) * 1.6 - 0.8
    for row, value in enumerate((0.0, NAN, INF, 30.0)[:count]):
        points[0, row] = value
    return points


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize(("charts", "depth"), [(1, 1), (1, 3), (2, 1), (2, 3)])
@pytest.mark.parametrize("channels", [1, 3, 32, 37])
def test_trigrid_sample(cuda: CudaKernels, charts: int, depth: int, channels: int, deterministic: bool) -> None:
    generator = torch.Generator().manual_seed(channels)
    field = field_of(2, charts, depth, channels, generator)
    for count in (0, 1, 75):
        points = points_of(2, count, generator)
        found, expected = cuda.run(calls.trigrid_sample, field, points), calls.trigrid_sample(field, points)
        assert_alike(found, expected, "values", CLOSE)
        grad = torch.randn(expected.shape, generator=generator)
        with determinism(deterministic):
            for needs in ((True, True), (True, False), (False, True)):
                got = cuda.run(calls.trigrid_sample_backward, field, points, grad, needs)
                wanted = calls.trigrid_sample_backward(field, points, grad, needs)
                for name, one, other in zip(("grid", "points"), got, wanted, strict=True):
                    assert_alike(one, other, name, CLOSE)


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize(
    ("charts", "depth", "shape", "kind"),
    [(1, 1, (32, 64, 32), 1), (1, 3, (20, 16, 3), 0), (2, 1, (70, 128, 127), 2), (2, 3, (5, 33, 1), 1)],
)
def test_trigrid_decode(
    cuda: CudaKernels, charts: int, depth: int, shape: tuple[int, int, int], kind: int, deterministic: bool
) -> None:
    generator = torch.Generator().manual_seed(kind)
    field = field_of(2, charts, depth, shape[0], generator)
    decoder = decoder_of(shape, kind, generator)
    for count in (1, 90):
        points = points_of(2, count, generator)
        found, expected = (
            cuda.run(calls.trigrid_decode, field, decoder, points),
            calls.trigrid_decode(field, decoder, points),
        )
        for name, one, other in zip(("densities", "features"), found, expected, strict=True):
            assert_alike(one, other, name, CLOSE)
        grads = tuple(torch.randn(t.shape, generator=generator) for t in expected)
        with determinism(deterministic):
            for needs in ((True, True, True), (False, True, False), (True, False, False), (False, False, True)):
                got = cuda.run(calls.trigrid_decode_backward, field, decoder, points, grads, needs)
                wanted = calls.trigrid_decode_backward(field, decoder, points, grads, needs)
                for name, one, other in zip(
                    ("grid", "w1", "b1", "w2", "b2", "points"),
                    (got[0], *got[1], got[2]),
                    (wanted[0], *wanted[1], wanted[2]),
                    strict=True,
                ):
                    assert_alike(one, other, name, CLOSE)


@pytest.mark.parametrize("kind", ["neighbours", "packed", "uniform"])
@pytest.mark.parametrize(("stop", "surface"), [(0.0, False), (0.02, False), (0.0, True), (0.05, True)])
@pytest.mark.parametrize(("charts", "depth", "shape"), [(1, 1, (32, 64, 32)), (2, 3, (6, 17, 40))])
def test_trigrid_render(
    cuda: CudaKernels, kind: str, stop: float, surface: bool, charts: int, depth: int, shape: tuple[int, int, int]
) -> None:
    generator = torch.Generator().manual_seed(3)
    field = field_of(2, charts, depth, shape[0], generator)
    decoder = decoder_of(shape, 1, generator)
    samples = (samples_of(kind, generator, 22, surface), Absorption(AbsorptionKind.SOFTPLUS, 0.5, stop))
    directions = torch.nn.functional.normalize(torch.randn(22, 3, generator=generator), dim=-1)
    rays = (-0.7 * directions + torch.randn(22, 3, generator=generator) * 0.1, directions)
    found = cuda.run(calls.trigrid_render, field, decoder, rays, samples, True)
    expected = calls.trigrid_render(field, decoder, rays, samples, True)
    for name, one, other in zip(expected._fields, found, expected, strict=True):
        assert_alike(one, other, name, CLOSE)
    assert expected[2].max() > 0.3
    grads = tuple(torch.randn(t.shape, generator=generator) for t in expected[:3])
    for needs, deterministic in (
        ((True, True, True), False),
        ((True, False, False), True),
        ((False, True, True), False),
    ):
        with determinism(deterministic):
            got = cuda.run(calls.trigrid_render_backward, field, decoder, rays, samples, grads, needs)
        wanted = calls.trigrid_render_backward(field, decoder, rays, samples, grads, needs)
        for name, one, other in zip(
            ("grid", "w1", "b1", "w2", "b2", "origins", "directions"),
            (got[0], *got[1], *got[2:]),
            (wanted[0], *wanted[1], *wanted[2:]),
            strict=True,
        ):
            assert_alike(one, other, name, Bounds(relative_l1=2e-5, relative_l2=2e-5, rtol=1e-3, atol=1e-3))
