"""Backward of the rasterizer and of interpolation, and the slopes of attributes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from headrecon.errors import ShapeError
from headrecon.ops import _native, _native_calls
from headrecon.ops import interpolate as interpolate_ops
from headrecon.ops.interpolate import interpolate, screen_slopes
from headrecon.ops.rasterize import Raster, rasterize, to_homogeneous_image
from headrecon.ops.reference.gradients import gradients_of
from headrecon.ops.reference.interpolate import interpolate_gradients, screen_slopes_reference
from headrecon.ops.reference.rasterize import rasterize_reference, resolve_reference
from headrecon.structures import Cameras
from tests.ops.meshes import as_users_call_it, grid, hom, random_soup, sphere

INF = float("inf")
TRIANGLE = torch.tensor([[0, 1, 2]], dtype=torch.int32)
CLIP = (0.005, INF, False)


def gradients(
    points: Tensor, faces: Tensor, size: tuple[int, int], grads: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Of points_hom, by the operator's autograd and by the twin's in float64, for the same faces per pixel."""
    points = points.clone().requires_grad_()
    raster = rasterize(points, faces, *size)
    torch.autograd.backward((raster.barycentrics, raster.depth_z), grads)
    assert points.grad is not None
    (twin,) = gradients_of(
        lambda p: resolve_reference(p, faces, raster.face_index),
        (points.detach().double(),),
        (True,),
        [g.double() for g in grads],
    )
    assert twin is not None
    return points.grad, twin.float()


def test_depth_by_hand() -> None:
    # A wall at depth 2 that covers the one pixel, centre (0.5, 0.5): the weights of its corners are 1/4, 1/4, 1/2.
    points = hom([[-1.5, -1.5], [6.5, -1.5], [-1.5, 2.5]], 2.0).requires_grad_()
    raster = rasterize(points, TRIANGLE, 1, 1)
    raster.depth_z.sum().backward()
    # d depth / d h_i = lambda_i (depth plane's normal); the plane z = 2 has the normal (0, 0, 1) in camera space, and
    # h = (X, Y, Z) here (K is the identity). So each corner's z counts with its weight, and nothing else does.
    expected = torch.tensor([[[0.0, 0.0, 0.25], [0.0, 0.0, 0.25], [0.0, 0.0, 0.5]]])
    torch.testing.assert_close(points.grad, expected)


def test_barycentrics_by_hand() -> None:
    # Legs of 4 pixels at depth 1: weight 1 at the centre (1.5, 0.5) is 1.5 / 4. Moving corner 1 by dx changes it to
    # 1.5 / (4 + dx), so by -1.5 / 16; moving corner 0 by dx, to (1.5 - dx (1 - .5/4)) / (4 - dx), by (1.5 - 3.5) / 16.
    points = hom([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]]).requires_grad_()
    raster = rasterize(points, TRIANGLE, 1, 2)
    raster.barycentrics[0, 0, 1, 1].backward()
    assert points.grad is not None
    assert points.grad[0, 1, 0].item() == pytest.approx(-1.5 / 16)
    assert points.grad[0, 0, 0].item() == pytest.approx((1.5 - 3.5) / 16)
    # Scaling a whole homogeneous point moves nothing in the image but makes it deeper: barycentrics are perspective.
    turned = points.detach() * torch.tensor([1.0, 2.0, 1.0])[:, None]
    found, twin = gradients(turned, TRIANGLE, (1, 2), (torch.ones(1, 1, 2, 3), torch.zeros(1, 1, 2)))
    torch.testing.assert_close(found, twin, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("size", [(37, 53), (1, 200), (64, 16), (130, 70)])
def test_against_the_twin(seed: int, size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(seed)
    points, faces = random_soup(generator, 60, 40, size)
    grads = (torch.randn(2, *size, 3, generator=generator), torch.randn(2, *size, generator=generator))
    found, twin = gradients(points, faces, size, grads)
    # Where weights were cut to 0 by rounding (centres within 1/256 px of an edge) float32 and float64 may cut
    # otherwise; the rest is float32's rounding of sums over up to a few thousand pixels.
    scale = twin.abs().amax()
    assert ((found - twin).abs() > 2e-4 * scale).float().mean() < 0.01
    assert (found - twin).abs().max() < 0.02 * scale


def test_twin_by_finite_differences() -> None:
    points, faces = random_soup(torch.Generator().manual_seed(1), 12, 6, (9, 11))
    face_index = rasterize_reference(points, faces, (9, 11), CLIP)[0]
    # Only pixels well inside: at an edge of the face a weight is cut to 0, which has no derivative.
    inside = resolve_reference(points.double(), faces, face_index)[0].amin(-1) > 1e-3
    face_index = torch.where(inside, face_index, -1)
    assert inside.any()
    assert torch.autograd.gradcheck(
        lambda p: resolve_reference(p, faces, face_index), (points.double().requires_grad_(),)
    )


def test_gradients_reach_vertices_and_cameras() -> None:
    """A depth picture's gradient against central differences of everything that placed the mesh, in float64."""
    vertices, triangles, _ = sphere(12, 16)
    faces = torch.from_numpy(triangles).int()
    world = torch.from_numpy(vertices).float().requires_grad_()
    view = torch.eye(4)
    view[:3, 3] = torch.tensor([0.1, -0.05, 3.0])
    view = view[None].requires_grad_()
    k = torch.tensor([[[40.0, 0.0, 16.0], [0.0, 42.0, 15.0], [0.0, 0.0, 1.0]]], requires_grad=True)
    raster = rasterize(to_homogeneous_image(world, Cameras(view, k, 32, 30)), faces, 30, 32)
    inside = raster.barycentrics.detach().amin(-1) > 1e-3
    raster.depth_z[inside].square().sum().backward()

    def loss(world: Tensor, view: Tensor, k: Tensor) -> Tensor:
        points = to_homogeneous_image(world, Cameras(view, k, 32, 30))
        return resolve_reference(points, faces, raster.face_index)[1][inside].square().sum()

    exact = [x.detach().double().requires_grad_() for x in (world, view, k)]
    for single, double in zip((world, view, k), torch.autograd.grad(loss(*exact), exact), strict=True):
        assert single.grad is not None
        torch.testing.assert_close(single.grad.double(), double, rtol=1e-4, atol=1e-4 * float(double.abs().max()))
    step = torch.zeros(3, 4, dtype=torch.float64)
    step[2, 3] = 1e-5
    moved = [loss(exact[0], exact[1] + s * torch.nn.functional.pad(step, (0, 0, 0, 1)), exact[2]) for s in (1, -1)]
    slope = (moved[0] - moved[1]).item() / 2e-5
    assert view.grad is not None and view.grad[0, 2, 3].item() == pytest.approx(slope, rel=1e-4)


@pytest.mark.native
@pytest.mark.parametrize("isa", ["base", "avx512"])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_same_bits_on_every_instruction_set_and_thread_count(isa: str, threads: int) -> None:
    size, generator = (150, 401), torch.Generator().manual_seed(3)
    points, faces = random_soup(generator, 300, 4000, size, near=-0.2)
    face_index, barycentrics, _ = _native.rasterize(points, faces, size, CLIP)
    grads = (torch.randn(2, *size, 3, generator=generator), torch.randn(2, *size, generator=generator))
    attributes = torch.randn(1, 300, 5, generator=generator)
    inputs = (attributes, faces, face_index.reshape(2, -1), barycentrics.reshape(2, -1, 3))
    grad = torch.randn(2, size[0] * size[1], 5, generator=generator)
    before = torch.get_num_threads()
    expected = _native_calls.rasterize_backward(points, faces, face_index, grads)
    expected_values = _native_calls.interpolate_backward(inputs, grad, (True, True))
    try:
        torch.set_num_threads(threads)
        assert torch.equal(expected, _native_calls.rasterize_backward(points, faces, face_index, grads, isa))
        found_values = _native_calls.interpolate_backward(inputs, grad, (True, True))
        assert all(torch.equal(a, b) for a, b in zip(expected_values, found_values, strict=True))  # type: ignore[arg-type]
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("size", [(0, 5), (1, 1), (3, 7)])
@pytest.mark.parametrize("faces", [0, 1])
def test_sizes(size: tuple[int, int], faces: int) -> None:
    points = hom([[-50.0, -50.0], [90.0, -50.0], [-50.0, 90.0]]).requires_grad_()
    raster = rasterize(points, TRIANGLE[:faces], *size)
    (raster.depth_z.sum() + raster.barycentrics.sum()).backward()
    assert points.grad is not None and points.grad.shape == points.shape
    # Depth's gradients with respect to the three z sum to 1 per covered pixel, on a wall that faces the camera.
    assert points.grad[..., 2].sum().item() == pytest.approx(size[0] * size[1] * faces, rel=1e-4)
    none = rasterize(points[:0], TRIANGLE, *size)
    none.depth_z.sum().backward()


def test_huge_and_broken_vertices_give_finite_gradients() -> None:
    wall = hom([[-1e7, -1e7], [1e7, -1e7], [1e7, 1e7], [-1e7, 1e7]], 2.0)
    broken = torch.tensor([[[float("nan"), 0.0, 1.0], [INF, 1.0, 1.0], [0.0, 0.0, 0.0]]])
    points = torch.cat([wall, broken], 1).requires_grad_()
    faces = torch.tensor([[0, 1, 2], [0, 2, 3], [0, 1, 4], [1, 2, 5], [0, 1, 6], [4, 5, 6]])
    raster = rasterize(points, faces, 20, 30)
    assert raster.covered.all()
    (raster.depth_z.sum() + raster.barycentrics[..., 0].sum()).backward()
    assert points.grad is not None and points.grad.isfinite().all()


def test_interpolation_against_the_twin_for_batches_of_meshes() -> None:
    generator = torch.Generator().manual_seed(2)
    size = (40, 50)
    points, faces = random_soup(generator, 60, 40, size)
    raster = rasterize(points, faces, *size)
    for channels, shared in ((1, False), (2, True), (3, False), (4, True), (6, False), (7, True)):
        attributes = torch.randn(1 if shared else 2, 60, channels, generator=generator)
        values = torch.randn(2, *size, channels, generator=generator)
        inputs = (attributes, faces, raster.face_index.reshape(2, -1), raster.barycentrics.reshape(2, -1, 3))
        grad = values.reshape(2, -1, channels)
        leaves = (attributes.clone().requires_grad_(), raster.barycentrics.clone().requires_grad_())
        interpolate(leaves[0][0] if shared else leaves[0], faces, raster.face_index, leaves[1]).backward(values)
        exact = (inputs[0].double(), faces, inputs[2], inputs[3].double(), grad.double(), (True, True))
        twin = interpolate_gradients(*exact)
        for leaf, expected in zip(leaves, twin, strict=True):
            assert leaf.grad is not None and expected is not None
            torch.testing.assert_close(
                leaf.grad.double(), expected.reshape(leaf.shape), rtol=1e-5, atol=2e-5 * float(expected.abs().max())
            )


def test_registered_properly() -> None:
    points = hom([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]]).requires_grad_()
    # Not the check under ahead-of-time autograd: it adds up all outputs in place, and the first are integers.
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    inputs = (points, TRIANGLE, 5, 7, 0.01, INF, False)
    torch.library.opcheck(torch.ops.headrecon.rasterize, inputs, test_utils=checks)
    raster = rasterize(points.detach(), TRIANGLE, 5, 7)
    for grads in ((torch.rand(1, 5, 7, 3), torch.rand(1, 5, 7)), (None, torch.rand(1, 5, 7))):
        inputs = (points.detach(), TRIANGLE, raster.face_index, *grads)
        torch.library.opcheck(torch.ops.headrecon.rasterize_backward, inputs)
    flat = (raster.face_index.reshape(1, -1), raster.barycentrics.reshape(1, -1, 3))
    for needs in ((True, True), (True, False), (False, True)):
        inputs = (torch.rand(1, 3, 2), TRIANGLE, *flat, torch.rand(1, 35, 2), *needs)
        torch.library.opcheck(torch.ops.headrecon.interpolate_backward, inputs)
    inputs = (points.detach(), TRIANGLE, torch.rand(3, 2), TRIANGLE, raster.face_index)
    torch.library.opcheck(torch.ops.headrecon.screen_slopes, inputs)


def test_slopes_by_hand() -> None:
    # Legs of 4 pixels facing the camera: the attribute x runs from 0 to 8 over 4 pixels, whatever the depth.
    points = hom([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]], 3.0)
    raster = rasterize(points, TRIANGLE, 3, 5)
    slopes = screen_slopes(torch.tensor([[0.0, 1.0], [8.0, 1.0], [0.0, -3.0]]), TRIANGLE, raster, points, TRIANGLE)
    assert slopes[0, 0, 0].flatten().tolist() == pytest.approx([2.0, 0.0, 0.0, -1.0], abs=1e-6)
    assert not slopes[0, 0, 4].any()


def test_slopes_against_the_twin_and_against_neighbouring_pixels() -> None:
    generator = torch.Generator().manual_seed(4)
    size = (40, 48)
    points, faces = grid(5, 5, size, generator)
    z = torch.rand(1, points.shape[1], 1, generator=generator) + 0.7
    points = points * z
    own = torch.randn(30, 3, generator=generator)
    own_faces = torch.randint(0, 30, faces.shape, generator=generator, dtype=torch.int32)
    raster = rasterize(points, faces, *size)
    found = screen_slopes(own, own_faces, raster, points, faces)
    twin = screen_slopes_reference(points, faces, own, own_faces, raster.face_index)
    torch.testing.assert_close(found, twin, rtol=1e-4, atol=1e-4)
    values = interpolate(own, own_faces, raster.face_index, raster.barycentrics)
    three = raster.face_index[:, :, 2:] == raster.face_index[:, :, :-2]
    three &= raster.face_index[:, :, 1:-1] == raster.face_index[:, :, 2:]
    central = (values[:, :, 2:] - values[:, :, :-2]) / 2
    # A central difference misses the curvature that perspective brings: a few per cent of the slope.
    error = (central - found[:, :, 1:-1, :, 0]).abs()[three]
    assert error.mean() < 0.02 * found[..., 0].abs().mean()


def test_bad_input_is_named() -> None:
    points = hom([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]])
    raster = rasterize(points, TRIANGLE, 4, 4)
    slopes = as_users_call_it(interpolate_ops.screen_slopes)
    with pytest.raises(ShapeError, match="both tables of faces"):
        slopes(torch.rand(3, 2), TRIANGLE.repeat(2, 1), raster, points, TRIANGLE)
    with pytest.raises(ShapeError, match=r"float32 \[N,D\]"):
        slopes(torch.rand(3, 2).double(), TRIANGLE, raster, points, TRIANGLE)
    with pytest.raises(ShapeError, match="must index"):
        slopes(torch.rand(2, 2), TRIANGLE, raster, points, TRIANGLE)
    wrong = Raster(raster.face_index + 1, raster.barycentrics, raster.depth_z)
    leaf = torch.rand(3, 2, requires_grad=True)
    with pytest.raises(ShapeError, match="must index"):
        interpolate(leaf, TRIANGLE, wrong.face_index, wrong.barycentrics)


def test_without_the_library_the_twins_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(5)
    points, faces = random_soup(generator, 20, 9, (12, 14))
    attributes = torch.randn(20, 3, generator=generator)

    def run() -> list[Tensor]:
        leaves = [points.clone().requires_grad_(), attributes.clone().requires_grad_()]
        raster = rasterize(leaves[0], faces, 12, 14)
        values = interpolate(leaves[1], faces, raster.face_index, raster.barycentrics)
        (values.square().sum() + raster.depth_z.sum()).backward()
        return [leaf.grad for leaf in leaves if leaf.grad is not None]

    native = run()
    monkeypatch.setattr(_native, "available", lambda: False)
    for a, b in zip(native, run(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3 * float(b.abs().max()))
