"""Antialiased outlines: by hand, against the twin, and whether their gradient says where an outline has to go."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from headrecon.errors import ShapeError
from headrecon.ops import _native, _native_calls
from headrecon.ops import antialias as ops
from headrecon.ops.antialias import antialias, face_neighbours
from headrecon.ops.rasterize import Raster, rasterize
from headrecon.ops.reference.antialias import antialias_reference
from headrecon.ops.reference.gradients import gradients_of
from tests.ops.meshes import as_users_call_it, grid, hom, random_soup, sphere

SQUARE = torch.tensor([[0, 1, 2], [0, 2, 3]], dtype=torch.int32)


def box(left: float, top: float, right: float, bottom: float, depth: float = 1.0) -> Tensor:
    return hom([[left, top], [right, top], [right, bottom], [left, bottom]], depth)


def coverage(points: Tensor, faces: Tensor, height: int, width: int) -> Tensor:
    """[H,W]: 1 inside, 0 outside, outlines smoothed."""
    raster = rasterize(points, faces, height, width)
    return antialias(raster.covered.float()[..., None], raster, points, faces)[0, ..., 0]


def closed_sphere(rings: int, segments: int) -> tuple[Tensor, Tensor]:
    """Vertices and faces of a sphere without doubled vertices: the seam's and the poles' are welded."""
    vertices, triangles, _ = sphere(rings, segments)
    places, first = torch.from_numpy(vertices.round(9)).unique(dim=0, return_inverse=True)
    faces = first[torch.from_numpy(triangles)]
    real = (faces != faces.roll(1, 1)).all(1)
    return places.float(), faces[real].int()


def seen_from_front(vertices: Tensor, size: int, focal: float = 1.2, distance: float = 3.0) -> Tensor:
    camera = vertices + torch.tensor([0.02, -0.03, distance])
    k = torch.tensor([[focal * size, 0.0, size / 2], [0.0, focal * size, size / 2], [0.0, 0.0, 1.0]])
    return (camera @ k.T)[None]


def test_upright_edge_by_hand() -> None:
    # A wall from x = 1 to x = 3.3 in a picture of 1 x 5. Its left edge runs between two pixels: nothing to smooth. The
    # right one passes 3.3 - 2.5 = 0.8 of the way from the last covered centre: pixel 3 is covered by 0.3.
    points = box(1.0, -9.0, 3.3, 9.0).requires_grad_()
    found = coverage(points, SQUARE, 1, 5)
    torch.testing.assert_close(found, torch.tensor([[0.0, 1.0, 1.0, 0.3, 0.0]]))
    found.sum().backward()
    # One pixel to the right covers one pixel more; the edge's ends share that by where the row at 0.5 crosses it.
    low, high = 9.5 / 18, 8.5 / 18
    assert points.grad is not None
    torch.testing.assert_close(points.grad[0, :, 0], torch.tensor([-high, high, low, -low]), rtol=1e-4, atol=0)
    assert not points.grad[0, :, 1].any()


def test_uncovered_side_by_hand() -> None:
    # Ending at x = 2.7 the wall covers 0.7 of pixel 2, whose centre it holds: it takes 0.3 of its neighbour.
    torch.testing.assert_close(
        coverage(box(1.0, -9.0, 2.7, 9.0), SQUARE, 1, 5), torch.tensor([[0.0, 1.0, 0.7, 0.0, 0.0]])
    )
    # The same lying down.
    torch.testing.assert_close(
        coverage(box(-9.0, 1.0, 9.0, 2.7), SQUARE, 5, 1)[:, 0], torch.tensor([0.0, 1.0, 0.7, 0.0, 0.0])
    )


def test_sloping_edge_is_smoothed_across_only() -> None:
    # The edge y = 2 + x / 4 runs along x: each column's boundary pixel holds the part of it above the edge at its
    # centre, and pairs side by side change nothing.
    points = hom([[-40.0, -50.0], [60.0, -50.0], [60.0, 17.0], [-40.0, -8.0]])
    found = coverage(points, SQUARE, 6, 8)
    edge = 2.0 + (torch.arange(8) + 0.5) / 4
    expected = (edge[None] - torch.arange(6.0)[:, None]).clamp(0.0, 1.0)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_the_nearer_wall_has_the_outline() -> None:
    # A far wall's border is hidden behind a near one: only the near one's edge at x = 2.8 smooths, in either order.
    near, far = box(-9.0, -9.0, 2.8, 9.0, 1.0), box(2.2, -9.0, 40.0, 9.0, 3.0)
    faces = torch.cat([SQUARE, SQUARE + 4])
    for points in (torch.cat([near, far], 1), torch.cat([far, near], 1)):
        raster = rasterize(points, faces, 1, 6)
        colour = torch.where(raster.depth_z == 1.0, 10.0, 20.0)[..., None]
        smooth = antialias(colour, raster, points, faces)[0, 0, :, 0]
        torch.testing.assert_close(smooth, torch.tensor([10.0, 10.0, 12.0, 20.0, 20.0, 20.0]), rtol=0, atol=1e-4)


def test_edges_inside_a_sheet_are_left_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    points, faces = grid(9, 9, (30, 40), generator)
    raster = rasterize(points, faces, 30, 40)
    image = torch.rand(1, 30, 40, 3, generator=generator)
    assert torch.equal(antialias(image, raster, points, faces), image)


def test_neighbours_by_hand() -> None:
    # Two triangles over the edge 0-2, a third on an edge of its own, and a fin: three faces on one edge see no one.
    faces = torch.tensor([[0, 1, 2], [0, 2, 3], [1, 4, 2], [5, 6, 7], [5, 6, 8], [6, 5, 9]])
    found = face_neighbours(faces)
    assert found[0].tolist() == [2, 1, -1]
    assert found[1].tolist() == [-1, -1, 0]
    assert found[2].tolist() == [-1, 0, -1]
    assert (found[3:] == -1).all()
    assert face_neighbours(faces[:0]).shape == (0, 3)
    _, closed = closed_sphere(6, 8)
    table = face_neighbours(closed)
    assert (table >= 0).all()
    assert all(f in table[g] for f in range(len(closed)) for g in table[f])


@pytest.mark.parametrize("rings", [8, 40, 160])
def test_a_disc_is_covered_as_it_should_be(rings: int) -> None:
    """Coarse to fine spheres, the finest with faces thinner than a pixel at the outline, against 16 x 16 samples."""
    size, factor = 48, 16
    vertices, faces = closed_sphere(rings, 2 * rings)
    found = coverage(seen_from_front(vertices, size), faces, size, size)
    fine = rasterize(seen_from_front(vertices, size * factor), faces, size * factor, size * factor).covered.float()
    exact = fine.reshape(size, factor, size, factor).mean(dim=(1, 3))
    partly = (exact > 0) & (exact < 1)
    jagged = (rasterize(seen_from_front(vertices, size), faces, size, size).covered[0].float() - exact).abs()
    error = (found - exact).abs()
    # One sample per pixel is wrong by a quarter on average along the outline. What is left here is the approximation of
    # a slanting edge's area by where it crosses the pixels' line, 0.03 on average, and corners.
    assert error[partly].mean() < 0.06 < 0.2 < jagged[partly].mean()
    assert abs(float(found.sum() - exact.sum())) < 0.002 * float(exact.sum())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("size", [(37, 53), (21, 90), (64, 16)])
@pytest.mark.parametrize("channels", [1, 3])
def test_against_the_twin(seed: int, size: tuple[int, int], channels: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    points, faces = random_soup(generator, 40, 40, size)  # shares vertices and edges at random
    raster = rasterize(points, faces, *size)
    image = torch.rand(2, *size, channels, generator=generator)
    compare(image, raster, points, faces, torch.randn(image.shape, generator=generator))


def test_a_fine_closed_surface_against_the_twin() -> None:
    generator = torch.Generator().manual_seed(1)
    vertices, faces = closed_sphere(60, 80)
    points = torch.cat([seen_from_front(vertices, 60), seen_from_front(0.7 * vertices, 60)])
    raster = rasterize(points, faces, 60, 60)
    image = torch.rand(2, 60, 60, 3, generator=generator)
    compare(image, raster, points, faces, torch.randn(image.shape, generator=generator))


def compare(image: Tensor, raster: Raster, points: Tensor, faces: Tensor, grad: Tensor) -> None:
    """Values and gradients against the twin, which works in float32 too: the same edges, up to their rounding."""
    neighbours = face_neighbours(faces)
    leaves = (image.clone().requires_grad_(), points.clone().requires_grad_())
    found = antialias(leaves[0], raster, leaves[1], faces, neighbours)
    assert not torch.equal(found, image)
    found.backward(grad)

    def twin(image: Tensor, points: Tensor) -> Tensor:
        return antialias_reference(image, (raster.face_index, raster.depth_z), (points, faces, neighbours))

    torch.testing.assert_close(found, twin(image, points), rtol=0, atol=1e-4)
    expected = gradients_of(twin, (image, points), (True, True), (grad,))
    for leaf, other in zip(leaves, expected, strict=True):
        assert leaf.grad is not None and other is not None
        torch.testing.assert_close(leaf.grad, other, rtol=1e-3, atol=1e-4 * float(other.abs().max()))


def test_twin_by_finite_differences() -> None:
    points, faces = random_soup(torch.Generator().manual_seed(3), 12, 6, (9, 11))
    raster = rasterize(points, faces, 9, 11)
    image = torch.rand(2, 9, 11, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    neighbours = face_neighbours(faces)

    def twin(image: Tensor, points: Tensor) -> Tensor:
        return antialias_reference(image, (raster.face_index, raster.depth_z), (points, faces, neighbours))

    assert torch.autograd.gradcheck(twin, (image.requires_grad_(), points.double().requires_grad_()))


def test_gradient_is_the_change_of_the_area() -> None:
    """Growing a disc: the coverage's derivative by its radius is its circumference, and by a shift it is nothing."""
    size = 96
    vertices, faces = closed_sphere(80, 120)
    scale = torch.ones((), requires_grad=True)
    shift = torch.zeros(3, requires_grad=True)
    covered = coverage(seen_from_front(scale * vertices + shift, size), faces, size, size)
    covered.sum().backward()

    def area(s: float) -> float:
        fine = seen_from_front(s * vertices, size * 16)
        return float(rasterize(fine, faces, size * 16, size * 16).covered.sum()) / 256

    slope = (area(1.05) - area(0.95)) / 0.1
    assert scale.grad is not None and shift.grad is not None
    # The nearest points of the outline's faces move a little differently from the true contour's: 2 %.
    assert scale.grad.item() == pytest.approx(slope, rel=0.02)
    assert shift.grad[:2].abs().max() < 0.03 * slope


@pytest.mark.native
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_same_bits_on_every_thread_count(threads: int) -> None:
    generator = torch.Generator().manual_seed(8)
    size = (90, 130)
    points, faces = random_soup(generator, 300, 900, size)
    face_index, _, depth_z = _native.rasterize(points, faces, size, (0.005, float("inf"), False))
    mesh = (points, faces, face_neighbours(faces))
    image, grad = torch.rand(2, *size, 3, generator=generator), torch.randn(2, *size, 3, generator=generator)
    before = torch.get_num_threads()
    expected = [*_native_calls.antialias(image, (face_index, depth_z), mesh, grad)]
    expected.append(_native_calls.antialias(image, (face_index, depth_z), mesh)[0])
    try:
        torch.set_num_threads(threads)
        found = [*_native_calls.antialias(image, (face_index, depth_z), mesh, grad)]
        found.append(_native_calls.antialias(image, (face_index, depth_z), mesh)[0])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [(0, 4), (1, 1), (1, 7), (5, 3)])
@pytest.mark.parametrize("faces", [0, 2])
def test_sizes(size: tuple[int, int], faces: int) -> None:
    points = box(-2.0, -2.0, 2.3, 9.0).repeat(2, 1, 1).requires_grad_()
    raster = rasterize(points.detach(), SQUARE[:faces], *size)
    image = torch.rand(2, *size, 5, requires_grad=True)
    antialias(image, raster, points, SQUARE[:faces]).sum().backward()
    assert image.grad is not None and points.grad is not None
    assert image.grad.sum().item() == pytest.approx(image.numel(), rel=1e-5)
    nothing = Raster(raster.face_index[:0], raster.barycentrics[:0], raster.depth_z[:0])
    assert antialias(image[:0], nothing, points[:0], SQUARE[:faces]).shape == (0, *size, 5)


def test_broken_vertices_blend_nothing_and_stay_finite() -> None:
    wall = box(-1e7, -1e7, 2.3, 1e7)
    broken = torch.tensor([[[float("nan"), 0.0, 1.0], [float("inf"), 1.0, 1.0], [0.0, 0.0, 0.0], [1.0, 2.0, -1.0]]])
    points = torch.cat([wall, broken, box(1.0, 1.0, 2.6, 2.6, 0.5)], 1).requires_grad_()
    faces = torch.cat([SQUARE, SQUARE + 2, SQUARE + 4, SQUARE + 8])
    found = coverage(points, faces, 5, 6)
    assert found.isfinite().all()
    found.sum().backward()
    assert points.grad is not None and points.grad.isfinite().all()
    # The wall's edge ends 10 million pixels away, beyond what float32 can place: it stays as the rasterizer left it.
    assert found[4].tolist() == [1.0, 1.0, 0.0, 0.0, 0.0, 0.0]


def test_without_the_library_the_twin_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    points = box(1.0, 0.2, 3.3, 2.6)

    def run() -> list[Tensor]:
        leaf = points.clone().requires_grad_()
        found = coverage(leaf, SQUARE, 4, 5)
        found.square().sum().backward()
        return [found.detach(), leaf.grad] if leaf.grad is not None else []

    native = run()
    monkeypatch.setattr(_native, "available", lambda: False)
    for a, b in zip(native, run(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_registered_properly() -> None:
    points = box(1.0, 0.2, 3.3, 2.6)
    raster = rasterize(points, SQUARE, 4, 5)
    inputs = (raster.face_index, raster.depth_z, points.clone().requires_grad_(), SQUARE, face_neighbours(SQUARE))
    torch.library.opcheck(torch.ops.headrecon.antialias, (torch.rand(1, 4, 5, 2, requires_grad=True), *inputs))
    fixed = (torch.rand(1, 4, 5, 2), *inputs[:2], points, *inputs[3:], torch.rand(1, 4, 5, 2))
    torch.library.opcheck(torch.ops.headrecon.antialias_backward, fixed)


def test_bad_input_is_named() -> None:
    points = box(1.0, 0.2, 3.3, 2.6)
    raster = rasterize(points, SQUARE, 4, 5)
    smooth = as_users_call_it(ops.antialias)
    with pytest.raises(ShapeError, match=r"image must be \(1, 4, 5, 'D'\)"):
        smooth(torch.rand(1, 4, 4, 2), raster, points, SQUARE)
    with pytest.raises(ShapeError, match=r"must be float32"):
        smooth(torch.rand(1, 4, 5, 2).double(), raster, points, SQUARE)
    with pytest.raises(ShapeError, match=r"neighbours must be \(2, 3\)"):
        smooth(torch.rand(1, 4, 5, 2), raster, points, SQUARE, torch.zeros(1, 3, dtype=torch.int32))
    with pytest.raises(ShapeError, match=r"must index"):
        smooth(torch.rand(1, 4, 5, 2), raster, points, SQUARE + 2)
    with pytest.raises(ShapeError, match=r"must index"):
        smooth(torch.rand(1, 4, 5, 2), raster, points, SQUARE, torch.full((2, 3), 2, dtype=torch.int32))
