"""The CUDA kernels of Gaussian splatting against the CPU's: emulated everywhere, and on the GPU where there is one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from headrecon.errors import ShapeError
from headrecon.ops import _native_calls_splat as calls
from headrecon.ops.reference.splat import SplatView
from headrecon.ops.reference.splat_composite import SplatInputs
from headrecon.ops.splat_gaussians import SplatOptions, splat_gaussians
from headrecon.structures import Cameras, Gaussians
from tests.ops.compare import Bounds, assert_alike
from tests.ops.conftest import CudaKernels
from tests.ops.test_cuda_ops import determinism

NAN, INF = float("nan"), float("inf")
#: Sums in another order; logarithms that differ in the last place may move a pixel across 1/255.
CLOSE = Bounds(relative_l1=2e-5, relative_l2=2e-5, rtol=2e-4, atol=2e-4, budget=1e-3)


@dataclass(frozen=True)
class Scene:
    """Gaussians around the origin, seen from 3 units away; a few behind the camera, huge, broken or needles."""

    gaussians: tuple[Tensor, Tensor, Tensor, Tensor]
    cameras: tuple[Tensor, Tensor]
    view: SplatView

    @property
    def images(self) -> int:
        return self.cameras[0].shape[0] * self.cameras[0].shape[1]


def scene_of(
    count: int, size: tuple[int, int], seed: int = 0, sets: int = 1, cameras: int = 1, **options: Any
) -> Scene:
    generator = torch.Generator().manual_seed(seed)
    height, width = size
    means = torch.randn(sets, count, 3, generator=generator) * 0.6
    quats = torch.randn(sets, count, 4, generator=generator)
    scales = torch.exp(torch.randn(sets, count, 3, generator=generator) * 0.7 - 2.5)
    opacities = torch.rand(sets, count, generator=generator)
    if count > 20:
        means[:, 0, 2], means[:, 1], scales[:, 2], quats[:, 3] = -4.0, NAN, 30.0, 0.0
        scales[:, 4, 0], scales[:, 5], opacities[:, 6], opacities[:, 7] = 3.0, 1e-7, 0.003, 1.0
        opacities[:, 2], means[:, 9] = 0.05, means[:, 8]  # thin haze; equally deep
        opacities[:, 10], means[:, 11, 0], scales[:, 12] = NAN, 1e20, INF
    viewmats = torch.eye(4).repeat(sets, cameras, 1, 1)
    viewmats[..., 2, 3] = 3.0
    viewmats[..., 0, 3] = torch.arange(cameras) * 0.2
    ks = torch.tensor([[width * 1.2, 0.0, width / 2], [0.0, width * 1.2, height / 2], [0.0, 0.0, 1.0]])
    view = {"tile_size": 16, "near_z": 0.01, "far_z": INF, "eps2d": 0.3, "radius_clip": 0.0, "antialiased": False}
    whole = SplatView(width=width, height=height, **{**view, **options})
    return Scene((means, quats, scales, opacities), (viewmats, ks.repeat(sets, cameras, 1, 1)), whole)


def lists_of(scene: Scene) -> tuple[Any, Any]:
    """What the CPU projects, and its lists."""
    projected = calls.project(scene.gaussians, scene.cameras, scene.view, True)
    splats, radii, _, tiles, totals = (t.flatten(0, 1) for t in projected)
    return projected, calls.tiles((splats, radii, tiles), totals, scene.view, True)


@pytest.mark.parametrize("antialiased", [False, True])
@pytest.mark.parametrize(("count", "sets", "cameras"), [(300, 1, 1), (257, 2, 2), (1, 1, 3), (0, 1, 1)])
def test_project(cuda: CudaKernels, count: int, sets: int, cameras: int, antialiased: bool) -> None:
    scene = scene_of(count, (40, 55), count, sets, cameras, antialiased=antialiased)
    arguments = (scene.gaussians, scene.cameras, scene.view, True)
    found, expected = cuda.run(calls.project, *arguments), calls.project(*arguments)
    for name, one, other in zip(("splats", "radii", "normals"), found, expected, strict=False):
        assert_alike(one, other, name, Bounds(budget=1e-3))
    assert (found[3] != expected[3]).float().mean() <= 0.01 if count else found[3].numel() == 0
    assert torch.equal(found[4], found[3].sum(-1))
    if count > 20:
        drawn = expected[1][..., 0] > 0
        assert drawn.any() and not drawn[..., [0, 1, 3, 10, 11, 12]].any()
    generator = torch.Generator().manual_seed(1)
    grads = (torch.randn(expected[0].shape, generator=generator), torch.randn(expected[2].shape, generator=generator))
    for deterministic in (False, True):
        with determinism(deterministic):
            for seen in ((expected[1], *grads), (expected[1], grads[0], None)):
                backward = (scene.gaussians, scene.cameras, scene.view, seen, (True,) * 5)
                got = cuda.run(calls.project_backward, *backward)
                for name, one, other in zip(
                    ("means", "quats", "scales", "opacities", "viewmats"),
                    got,
                    calls.project_backward(*backward),
                    strict=True,
                ):
                    assert_alike(one, other, name, CLOSE)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize("deterministic", [False, True])
def test_harmonics(cuda: CudaKernels, degree: int, deterministic: bool) -> None:
    scene = scene_of(100, (40, 55), degree, 2, 3)
    radii = calls.project(scene.gaussians, scene.cameras, scene.view, False)[1]
    generator = torch.Generator().manual_seed(degree)
    coefficients = torch.randn(2, 100, 16, 3, generator=generator)
    coefficients[0, 20, 0, 1], coefficients[1, 30] = NAN, INF
    centers = torch.randn(2, 3, 3, generator=generator)
    centers[0, 0] = scene.gaussians[0][0, 40]  # no direction at all
    inputs = (scene.gaussians[0], coefficients, centers, radii)
    found, expected = cuda.run(calls.harmonics, inputs, degree), calls.harmonics(inputs, degree)
    assert_alike(found, expected, "colours", Bounds())
    grad = torch.randn(expected.shape, generator=generator)
    backward = (inputs, degree, (expected, grad), (True, True, True))
    with determinism(deterministic):
        got = cuda.run(calls.harmonics_backward, *backward)
    for name, one, other in zip(
        ("means", "coefficients", "centers"), got, calls.harmonics_backward(*backward), strict=True
    ):
        assert_alike(one, other, name, CLOSE)


@pytest.mark.parametrize("tile_size", [4, 8, 16, 20, 32])
@pytest.mark.parametrize(("count", "sets", "cameras"), [(300, 1, 1), (150, 2, 2), (1, 1, 1)])
def test_tiles(cuda: CudaKernels, tile_size: int, count: int, sets: int, cameras: int) -> None:
    """The same lists as the CPU's, number by number, from the same splats."""
    scene = scene_of(count, (75, 140), count, sets, cameras, tile_size=tile_size)
    projected, expected = lists_of(scene)
    splats, radii, _, tiles, totals = (t.flatten(0, 1) for t in projected)
    found = cuda.run(calls.tiles, (splats, radii, tiles), totals, scene.view, False)
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])
    roomy = cuda.run(calls.tiles, (splats, radii, tiles), totals, scene.view, False, len(expected[1]) + 1000)
    assert torch.equal(roomy[0], expected[0]) and torch.equal(roomy[1][: len(expected[1])], expected[1])


def test_too_many_pairs_are_reported_and_the_nearest_kept(cuda: CudaKernels) -> None:
    scene = scene_of(300, (75, 140))
    projected, expected = lists_of(scene)
    splats, radii, _, tiles, totals = (t.flatten(0, 1) for t in projected)
    room = len(expected[1]) // 2
    with cuda.in_use():
        on_device = tuple(t.to(cuda.device) for t in (splats, radii, tiles))
        offsets, ids, _ = calls.tiles(on_device, totals.to(cuda.device), scene.view, False, room)  # type: ignore[arg-type]
        if not cuda.emulated:
            torch.cuda.synchronize()
        with pytest.raises(ShapeError, match=r"splat_tiles: .*more pairs of splats and tiles than max_pairs"):
            calls.tiles(on_device, totals.to(cuda.device), scene.view, False, room)  # type: ignore[arg-type]
    assert int(offsets[-1]) == room
    kept, depths = ids.cpu().long(), splats[0, :, 6]
    assert depths[kept].max() <= depths[expected[1].long()].quantile(0.6)
    with pytest.raises(ShapeError, match="splat_tiles"):  # what the second call found
        cuda.run(calls.tiles, (splats, radii, tiles), totals, scene.view, False, room)


@pytest.mark.parametrize(
    ("channels", "tile_size", "sets", "cameras"),
    [(3, 16, 1, 1), (1, 4, 1, 2), (4, 20, 2, 1), (6, 32, 1, 1), (16, 16, 1, 1), (19, 16, 2, 2)],
)
@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("deterministic", [False, True])
def test_composite(
    cuda: CudaKernels, channels: int, tile_size: int, sets: int, cameras: int, per_image: bool, deterministic: bool
) -> None:
    scene = scene_of(260, (43, 57), channels, sets, cameras, tile_size=tile_size)
    generator = torch.Generator().manual_seed(channels)
    (splats, _, normals, tiles, _), lists = lists_of(scene)
    images = scene.images
    colours = torch.rand(images if per_image else sets, 260, channels, generator=generator)
    colours[0, 30, 0], colours[0, 31] = NAN, INF
    background = torch.rand(images if per_image else 1, channels, generator=generator)
    inputs = SplatInputs(splats.flatten(0, 1), colours, normals.flatten(0, 1), background)
    arguments = (inputs, lists[:2], scene.view, cameras)
    found = cuda.run(calls.composite, *arguments, (True, True, True))
    expected = calls.composite(*arguments, (True, True, True))
    for name, one, other in zip(expected._fields, found, expected, strict=True):
        if other.dtype.is_floating_point:
            assert_alike(one, other, name, CLOSE)
        else:
            assert (one != other).float().mean() < 1e-3, name
    assert expected.transmittance.min() < 0.01 and expected.transmittance.max() > 0.5
    grads = tuple(torch.randn(t.shape, generator=generator) for t in expected[:4])
    lists = (*lists[:2], tiles.flatten(0, 1), lists[2])
    for given, needs in ((grads, (True,) * 4), ((grads[0], None, None, None), (True, False, True, False))):
        seen = (expected.transmittance, expected.last, *given)
        with determinism(deterministic):
            got = cuda.run(calls.composite_backward, inputs, lists, scene.view, cameras, seen, needs)
        wanted = calls.composite_backward(inputs, lists, scene.view, cameras, seen, needs)
        assert not got.colours[~colours.isfinite()].any()
        for name, one, other in zip(wanted._fields, got, wanted, strict=True):
            assert_alike(one, other, name, CLOSE)


def test_long_lists(cuda: CudaKernels) -> None:
    """More splats on a tile than a block holds at a time, faint ones, so that none is left out."""
    scene = scene_of(900, (16, 16))
    means, quats, scales, opacities = scene.gaussians
    scene = Scene((means * 0.1, quats, scales * 0 + 0.3, opacities * 0.02 + 0.004), scene.cameras, scene.view)
    (splats, _, normals, tiles, _), lists = lists_of(scene)
    assert len(lists[1]) > 700
    generator = torch.Generator().manual_seed(0)
    inputs = SplatInputs(splats[0], torch.rand(1, 900, 3, generator=generator), normals[0], torch.rand(1, 3))
    expected = calls.composite(inputs, lists[:2], scene.view, 1, (True, True, True))
    found = cuda.run(calls.composite, inputs, lists[:2], scene.view, 1, (True, True, True))
    assert_alike(found.image, expected.image, "image", CLOSE)
    assert int(expected.last.max()) > 600
    seen = (expected.transmittance, expected.last, torch.randn(expected.image.shape), None, None, None)
    arguments = (inputs, (*lists[:2], tiles[0], lists[2]), scene.view, 1, seen, (True, True, True, True))
    got = cuda.run(calls.composite_backward, *arguments)
    for name, one, other in zip(got._fields, got, calls.composite_backward(*arguments), strict=True):
        assert_alike(one, other, name, Bounds(relative_l1=1e-4, relative_l2=1e-4, rtol=1e-3, atol=1e-3))


def test_deterministic_sums_are_the_same_in_every_order(cuda: CudaKernels) -> None:
    scene = scene_of(200, (40, 40), cameras=2)
    (splats, _, normals, tiles, _), lists = lists_of(scene)
    generator = torch.Generator().manual_seed(0)
    inputs = SplatInputs(splats[0], torch.rand(1, 200, 3, generator=generator), normals[0], torch.rand(1, 3))
    expected = calls.composite(inputs, lists[:2], scene.view, 2, (True, True, True))
    seen = (expected.transmittance, expected.last, *(torch.randn(t.shape, generator=generator) for t in expected[:4]))
    arguments = (inputs, (*lists[:2], tiles[0], lists[2]), scene.view, 2, seen, (True, True, True, True))
    with determinism(True):
        runs = [cuda.run(calls.composite_backward, *arguments) for _ in range(4)]
    for other in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(other, runs[0], strict=True))


def test_lists_that_lead_nowhere_are_reported(cuda: CudaKernels) -> None:
    scene = scene_of(30, (20, 20))
    (splats, _, normals, _, _), (offsets, ids, _) = lists_of(scene)
    inputs = SplatInputs(splats[0], torch.rand(1, 30, 3), normals[0], torch.rand(1, 3))
    high, low, far = ids.clone(), ids.clone(), offsets.clone()
    high[3], low[0], far[-1] = 30, -1, len(ids) + 5
    for lists in ((offsets, high), (offsets, low), (far, ids), (offsets.flip(0).contiguous(), ids)):
        with pytest.raises(ShapeError, match=r"splat_composite: an index was out of range .*lists of splats"):
            cuda.run(calls.composite, inputs, lists, scene.view, 1, (True, True, True))
    cuda.run(calls.composite, inputs, (offsets, ids), scene.view, 1, (True, True, True))


def test_whole_pictures(cuda: CudaKernels) -> None:
    """Through autograd, from Gaussians with harmonics to pictures and back to everything."""
    scene = scene_of(150, (33, 47), cameras=2)
    (means, quats, scales, opacities), (viewmats, ks) = scene.gaussians, scene.cameras
    sane = torch.arange(150) > 12
    generator = torch.Generator().manual_seed(3)
    sh = torch.randn(1, 150, 9, 3, generator=generator) * 0.3
    leaves = [t[0, sane] for t in (means, quats, scales, opacities, sh)] + [viewmats[0], torch.rand(3)]
    options = SplatOptions(depth=True, median_depth=True, normals=True, centre_gradients=True, antialiased=True)

    def gradients(*leaves: Tensor) -> tuple[Tensor, ...]:
        learned = [t.detach().requires_grad_() for t in leaves]
        gaussians = Gaussians(*learned[:4], sh=learned[4])
        cameras = Cameras(learned[5], ks[0].to(leaves[0].device), 47, 33)
        seen = splat_gaussians(gaussians, cameras, options, learned[6])
        assert seen.depth_z is not None and seen.normals is not None and seen.median_depth_z is not None
        loss = seen.image.square().sum() + seen.depth_z.sin().sum() + seen.normals.cos().sum() + seen.alpha.sum()
        (loss + seen.median_depth_z.sum()).backward()
        return seen.image.detach(), seen.alpha.detach(), *seen.info.centre_gradients(), *(t.grad for t in learned)  # type: ignore[misc]

    found = cuda.run(gradients, *leaves)
    for place, (one, other) in enumerate(zip(found, gradients(*leaves), strict=True)):
        assert other.abs().max() > 0
        assert_alike(one, other, f"output {place}", CLOSE)
