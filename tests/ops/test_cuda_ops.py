"""The CUDA kernels against the CPU's and the twins: emulated on every machine, and on the GPU where there is one.

The maths of one element is shared with the CPU kernels and compiled without contraction, so most results must agree
bit for bit. What is looked for here is the rest: which thread does what, where it writes, how sums come together, and
the edges of grids. Emulated runs change the order of blocks and threads from launch to launch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from headrecon.errors import ShapeError
from headrecon.ops import _native, _native_calls
from headrecon.ops.antialias import antialias, face_neighbours
from headrecon.ops.interpolate import interpolate
from headrecon.ops.rasterize import rasterize
from headrecon.ops.reference.interpolate import interpolate_gradients
from headrecon.ops.reference.rasterize import rasterize_reference
from headrecon.ops.reference.shade import shade_reference
from headrecon.ops.texture import sample_texture, texture_pyramid
from tests.ops.conftest import CudaKernels
from tests.ops.meshes import grid, hom, random_soup, sphere

INF = float("inf")
CLIP = (0.005, INF, False)
TRIANGLE = torch.tensor([[0, 1, 2]], dtype=torch.int32)


@contextmanager
def determinism(wanted: bool) -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(wanted)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def assert_same_raster(cuda: CudaKernels, points: Tensor, faces: Tensor, size: Any, clip: Any = CLIP) -> Tensor:
    """Equal to the CPU's in every bit, but for pixels where two faces are equally deep up to rounding."""
    found = cuda.run(_native.rasterize, points, faces, size, clip)
    expected = _native.rasterize(points, faces, size, clip)
    other = found[0] != expected[0]
    assert other.float().mean() <= 1e-4, f"{int(other.sum())} pixels see another face"
    assert torch.equal(found[1][~other], expected[1][~other])
    assert torch.equal(found[2][~other], expected[2][~other])
    return found[0]


def assert_close_sums(found: Tensor, expected: Tensor) -> None:
    """Sums of many terms in float32, taken in another order: an error relative to the largest."""
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("size", [(37, 53), (1, 200), (64, 16), (110, 201)])
@pytest.mark.parametrize("cull", [False, True])
def test_random_triangles(cuda: CudaKernels, seed: int, size: tuple[int, int], cull: bool) -> None:
    points, faces = random_soup(torch.Generator().manual_seed(seed), 60, 300, size)
    face_index = assert_same_raster(cuda, points, faces, size, (0.005, INF, cull))
    assert (face_index >= 0).float().mean() > 0.5


@pytest.mark.parametrize("clip", [(0.4, 1.1, False), (0.05, INF, False), (0.3, INF, True)])
def test_clipped_triangles(cuda: CudaKernels, clip: tuple[float, float, bool]) -> None:
    size = (141, 135)
    points, faces = random_soup(torch.Generator().manual_seed(1), 60, 40, size, near=-0.7)
    assert (assert_same_raster(cuda, points, faces, size, clip) >= 0).any()


@pytest.mark.parametrize("size", [(200, 200), (31, 45)])
def test_a_closed_surface(cuda: CudaKernels, size: tuple[int, int]) -> None:
    vertices, triangles, _ = sphere(60, 90)
    height, width = size
    camera = torch.from_numpy(vertices).float() + torch.tensor([0.1, -0.05, 3.0])
    k = torch.tensor([[width * 1.3, 0.0, width / 2], [0.0, width * 1.3, height / 2], [0.0, 0.0, 1.0]])
    points, faces = (camera @ k.T)[None], torch.from_numpy(triangles).int()
    found = cuda.run(_native.rasterize, points, faces, size, CLIP)
    assert torch.equal(found[0], _native.rasterize(points, faces, size, CLIP)[0])
    assert torch.equal(found[0], rasterize_reference(points, faces, size, CLIP)[0])


def test_edges_on_centres(cuda: CudaKernels) -> None:
    points, faces = random_soup(torch.Generator().manual_seed(5), 60, 50, (37, 53))
    pixels = torch.round(points[..., :2] / points[..., 2:]) + 0.5
    points = torch.cat([pixels, torch.ones_like(pixels[..., :1])], -1)
    found = cuda.run(_native.rasterize, points, faces, (37, 53), CLIP)
    assert torch.equal(found[0], _native.rasterize(points, faces, (37, 53), CLIP)[0])


def test_more_big_triangles_than_are_recorded(cuda: CudaKernels) -> None:
    """Boxes over 64 x 64 pixels are recorded for all warps to draw, up to 4096 of them; warps draw the rest alone."""
    size, count = (65, 67), 4300
    z = torch.rand(count, 1, generator=torch.Generator().manual_seed(0)) + 1.0
    corners = torch.tensor([[-9.0, -9.0, 1.0], [150.0, -9.0, 1.0], [-9.0, 150.0, 1.0]])
    points = (corners[None] * z[..., None]).reshape(1, -1, 3)
    faces = torch.arange(3 * count, dtype=torch.int32).reshape(count, 3)
    found = cuda.run(_native.rasterize, points, faces, size, CLIP)
    assert (found[0] == int(z.argmin())).all()


def test_equal_depths_go_to_the_lower_face_in_any_order(cuda: CudaKernels) -> None:
    for side in (6.0, 40.0, 200.0):  # drawn by a thread, a warp, all warps
        points = hom([[-1.0, -1.0], [side, -1.0], [-1.0, side]])
        faces = TRIANGLE.repeat(300, 1)
        for _ in range(3):
            found = cuda.run(_native.rasterize, points, faces, (90, 90), CLIP)[0]
            assert set(found.unique().tolist()) <= {-1, 0} and (found == 0).any()


@pytest.mark.parametrize("size", [(0, 0), (0, 5), (3, 0), (1, 1), (1, 7), (5, 3), (16, 16), (257, 1)])
@pytest.mark.parametrize("faces", [0, 1, 3])
@pytest.mark.parametrize("batch", [0, 1, 7])
def test_raster_sizes(cuda: CudaKernels, size: tuple[int, int], faces: int, batch: int) -> None:
    points = torch.cat([hom([[-500.0, -500.0], [900.0, -500.0], [-500.0, 900.0]], z) for z in (3.0, 2.0, 1.0)], 1)
    table = torch.arange(9, dtype=torch.int32).reshape(3, 3)[:faces]
    face_index, barycentrics, depth_z = cuda.run(
        _native.rasterize, points.expand(batch, -1, -1).contiguous(), table, size, CLIP
    )
    assert face_index.shape == (batch, *size) and (face_index == faces - 1).all()
    if faces == 0:
        assert not barycentrics.any() and not depth_z.any()


def test_broken_and_huge_vertices(cuda: CudaKernels) -> None:
    wall = hom([[-1e7, -1e7], [1e7, -1e7], [1e7, 1e7], [-1e7, 1e7]], 2.0)
    broken = torch.tensor([[[float("nan"), 0.0, 1.0], [INF, 1.0, 1.0], [0.0, 0.0, 0.0], [1.0, 1.0, INF]]])
    points = torch.cat([wall, broken], 1)
    faces = torch.tensor(
        [[0, 1, 2], [0, 2, 3], [0, 1, 4], [1, 2, 5], [0, 1, 6], [4, 5, 6], [0, 1, 7]], dtype=torch.int32
    )
    face_index = assert_same_raster(cuda, points, faces, (65, 130))
    assert set(face_index.unique().tolist()) <= {0, 1}


def test_indices_out_of_range_are_reported_and_harmless(cuda: CudaKernels) -> None:
    points = hom([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]])
    for bad in ([0, 1, 3], [0, 1, -1], [2**30, 0, 1]):
        with pytest.raises(ShapeError, match="rasterize: an index was out of range"):
            cuda.run(_native.rasterize, points, torch.tensor([bad], dtype=torch.int32), (4, 4), CLIP)
    weights, pixels = torch.rand(1, 2, 3), torch.tensor([[0, 1]], dtype=torch.int32)
    with pytest.raises(ShapeError, match="interpolate: an index was out of range"):
        cuda.run(_native.interpolate, torch.rand(1, 3, 2), TRIANGLE, pixels, weights)
    inputs = (torch.rand(1, 3, 2), TRIANGLE, pixels, weights)
    with pytest.raises(ShapeError, match="interpolate_backward: an index was out of range"):
        cuda.run(_native_calls.interpolate_backward, inputs, torch.rand(1, 2, 2), (True, True))
    mesh = (points, TRIANGLE, torch.tensor([[-1, -1, 5]], dtype=torch.int32))
    raster = (torch.zeros(1, 4, 4, dtype=torch.int32), torch.ones(1, 4, 4))
    with pytest.raises(ShapeError, match="antialias: an index was out of range"):
        cuda.run(_native_calls.antialias, torch.rand(1, 4, 4, 1), raster, mesh)
    # The report was taken away with the error.
    assert_same_raster(cuda, points, TRIANGLE, (4, 4))


def gradient_inputs(size: tuple[int, int], vertices: int = 60, faces: int = 300) -> tuple[Any, ...]:
    generator = torch.Generator().manual_seed(3)
    points, table = random_soup(generator, vertices, faces, size)
    raster = _native.rasterize(points, table, size, CLIP)
    grads = (torch.randn(2, *size, 3, generator=generator), torch.randn(2, *size, generator=generator))
    return points, table, raster, grads, generator


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("size", [(37, 53), (1, 31), (80, 96)])
def test_rasterize_backward(cuda: CudaKernels, size: tuple[int, int], deterministic: bool) -> None:
    points, faces, raster, grads, _ = gradient_inputs(size)
    with determinism(deterministic):
        for wanted in (grads, (grads[0], None), (None, grads[1])):
            found = cuda.run(_native_calls.rasterize_backward, points, faces, raster[0], wanted)
            assert_close_sums(found, _native_calls.rasterize_backward(points, faces, raster[0], wanted))


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("channels", [1, 3, 4, 5, 9])
@pytest.mark.parametrize("shared", [False, True])
def test_interpolate(cuda: CudaKernels, channels: int, shared: bool, deterministic: bool) -> None:
    _, faces, (face_index, barycentrics, _), _, generator = gradient_inputs((23, 29))
    attributes = torch.randn(1 if shared else 2, 60, channels, generator=generator)
    inputs = (attributes, faces, face_index.reshape(2, -1), barycentrics.reshape(2, -1, 3))
    found = cuda.run(_native.interpolate, *inputs)
    assert torch.equal(found, _native.interpolate(*inputs))
    grad = torch.randn(found.shape, generator=generator)
    with determinism(deterministic):
        for needs in ((True, True), (True, False), (False, True)):
            found = cuda.run(_native_calls.interpolate_backward, inputs, grad, needs)
            for one, twin in zip(found, interpolate_gradients(*inputs, grad, needs), strict=True):
                assert (one is None) == (twin is None)
                if twin is not None:
                    assert_close_sums(one, twin)


def test_screen_slopes(cuda: CudaKernels) -> None:
    points, faces, raster, _, generator = gradient_inputs((23, 29))
    own = torch.randn(30, 3, generator=generator)
    own_faces = torch.randint(0, 30, faces.shape, generator=generator, dtype=torch.int32)
    inputs = (points, faces, own, own_faces, raster[0])
    assert torch.equal(cuda.run(_native_calls.screen_slopes, *inputs), _native_calls.screen_slopes(*inputs))


@pytest.mark.parametrize(("size", "levels"), [((8, 12), 3), ((16, 16), 5), ((5, 7), 1), ((64, 96), 6)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("backward", [False, True])
def test_pyramid(cuda: CudaKernels, size: tuple[int, int], levels: int, channels: int, backward: bool) -> None:
    texels = sum((size[0] >> k) * (size[1] >> k) for k in range(levels))
    values = torch.randn(5, texels, channels, generator=torch.Generator().manual_seed(0))

    def run(texels: Tensor) -> Tensor:
        changed = texels.clone()
        _native_calls.pyramid(changed, size, levels, backward)
        return changed

    assert torch.equal(cuda.run(run, values), run(values))


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("wrap", ["clamp", "repeat"])
@pytest.mark.parametrize("levels", [1, 4])
@pytest.mark.parametrize("shared", [False, True])
def test_texture(cuda: CudaKernels, wrap: str, levels: int, shared: bool, deterministic: bool) -> None:
    generator, (height, width), pixels = torch.Generator().manual_seed(levels), (16, 24), 301
    count = sum((height >> k) * (width >> k) for k in range(levels))
    texels = torch.randn(1 if shared else 2, count, 3, generator=generator)
    uvs = torch.rand(2, pixels, 2, generator=generator) * 3 - 1
    uvs[0, :4] = torch.tensor([[float("nan"), 0.5], [INF, -INF], [1e20, -1e20], [0.0, 1.0]])
    slopes = torch.randn(2, pixels, 4, generator=generator) * 0.2 if levels > 1 else None
    face_index = torch.randint(-1, 3, (2, pixels), generator=generator, dtype=torch.int32)
    for visible in (face_index, None):
        lookups = (uvs, slopes, visible)
        found = cuda.run(_native_calls.texture, texels, lookups, (height, width), levels, wrap)
        expected = _native_calls.texture(texels, lookups, (height, width), levels, wrap)
        torch.testing.assert_close(found, expected, rtol=0, atol=0 if cuda.emulated else 1e-5)  # the GPU's log2
        grad = torch.randn(found.shape, generator=generator)
        backward = (texels, lookups, (height, width, levels, wrap), grad)
        with determinism(deterministic):
            for needs in ((True, True), (True, False), (False, True)):
                gradients = cuda.run(_native_calls.texture_backward, *backward, needs)
                for one, other in zip(gradients, _native_calls.texture_backward(*backward, needs), strict=True):
                    assert (one is None) == (other is None)
                    if other is not None:
                        assert_close_sums(one, other)


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("size", [(40, 48), (1, 33), (33, 1)])
@pytest.mark.parametrize("channels", [1, 3])
def test_antialias(cuda: CudaKernels, size: tuple[int, int], channels: int, deterministic: bool) -> None:
    generator = torch.Generator().manual_seed(2)
    vertices, triangles, _ = sphere(12, 16)
    faces = torch.from_numpy(triangles).int()
    camera = torch.from_numpy(vertices).float() + torch.tensor([[[0.1, -0.05, 3.0]], [[0.4, 0.1, 2.5]]])
    k = torch.tensor([[size[1] * 1.3, 0.0, size[1] / 2], [0.0, size[1] * 1.3, size[0] / 2], [0.0, 0.0, 1.0]])
    points = camera @ k.T
    face_index, _, depth_z = _native.rasterize(points, faces, size, CLIP)
    image = torch.rand(2, *size, channels, generator=generator)
    arguments = (image, (face_index, depth_z), (points, faces, face_neighbours(faces)))
    found = cuda.run(_native_calls.antialias, *arguments)[0]
    expected = _native_calls.antialias(*arguments)[0]
    assert torch.equal(found, expected) and not torch.equal(found, image)
    grad = torch.randn(image.shape, generator=generator)
    with determinism(deterministic):
        found = cuda.run(_native_calls.antialias, *arguments, grad)
    expected = _native_calls.antialias(*arguments, grad)
    assert torch.equal(found[0], expected[0])
    assert expected[1] is not None
    assert_close_sums(found[1], expected[1])


@pytest.mark.parametrize("source", [0, 1, 2])
@pytest.mark.parametrize("lit", [True, False])
@pytest.mark.parametrize("factor", [1, 3])
@pytest.mark.parametrize("background", [(), (0.2, 0.5, 1.0)])
def test_shade(cuda: CudaKernels, source: int, lit: bool, factor: int, background: tuple[float, ...]) -> None:
    generator = torch.Generator().manual_seed(source)
    size = (6 * factor, 5 * factor)
    points, triangles = random_soup(generator, 20, 9, size)
    face_index, barycentrics, _ = _native.rasterize(points, triangles, size, CLIP)

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    uv_triangles = torch.randint(0, 11, (9, 3), generator=generator, dtype=torch.int32)
    corners = torch.cat([triangles, triangles, uv_triangles], 1)
    geometry = (corners, rand(20, 3), rand(20, 3) - 0.5, rand(11, 2) * 2 - 0.5)
    colours = [rand(1, 1, 3), rand(1, 20, 3), rand(7, 4, 3)][source]
    rotations = torch.linalg.qr(torch.randn(2, 3, 3, generator=generator)).Q.reshape(2, 9)
    lights = torch.cat([torch.nn.functional.normalize(rand(2, 3) - 0.5, dim=1), rand(2, 3)], 1)
    cameras = torch.cat([rand(2, 3) * 5, rotations], 1)
    surface = torch.tensor([0.05, 0.4, 0.3, 0.1, 0.0])
    shading = (cameras, rand(9, 3) - 0.3, lights, surface) if lit else (cameras, rand(0), rand(0, 6), rand(0))
    arguments = ((face_index, barycentrics), geometry, (colours, source), shading, factor, torch.tensor(background))
    found = cuda.run(_native.shade, *arguments)
    for one, native, twin in zip(found, _native.shade(*arguments), shade_reference(*arguments), strict=True):
        torch.testing.assert_close(one, twin, rtol=0, atol=2e-5)
        torch.testing.assert_close(one, native, rtol=0, atol=2e-5)  # the CPU's sRGB curve is a table


def test_deterministic_sums_are_the_same_in_every_order(cuda: CudaKernels) -> None:
    points, faces, (face_index, barycentrics, _), grads, generator = gradient_inputs((37, 53), 20, 30)
    attributes = torch.randn(1, 20, 3, generator=generator)
    inputs = (attributes, faces, face_index.reshape(2, -1), barycentrics.reshape(2, -1, 3))
    values = torch.randn(2, 37 * 53, 3, generator=generator)
    with determinism(True):
        runs = [
            (
                cuda.run(_native_calls.rasterize_backward, points, faces, face_index, grads),
                cuda.run(_native_calls.interpolate_backward, inputs, values, (True, False))[0],
            )
            for _ in range(4)
        ]
    for other in runs[1:]:
        assert torch.equal(other[0], runs[0][0]) and torch.equal(other[1], runs[0][1])


@pytest.mark.parametrize("deterministic", [False, True])
def test_infinite_and_huge_gradients(cuda: CudaKernels, deterministic: bool) -> None:
    """Infinities reach exactly the vertices they belong to; huge and tiny terms side by side do not overflow."""
    attributes = torch.zeros(1, 6, 1)
    faces = torch.tensor([[0, 1, 2], [3, 4, 5]], dtype=torch.int32)
    pixels = torch.zeros(1, 70, dtype=torch.int32)
    pixels[0, 64:] = 1
    weights = torch.full((1, 70, 3), 0.25)
    grad = torch.full((1, 70, 1), 1e30)
    grad[0, 64:] = 1.0
    grad[0, 69] = INF
    with determinism(deterministic):
        inputs = (attributes, faces, pixels, weights)
        found, _ = cuda.run(_native_calls.interpolate_backward, inputs, grad, (True, False))
    torch.testing.assert_close(found[0, :3, 0], torch.full((3,), 64 * 0.25e30))
    assert (found[0, 3:, 0] == INF).all()


def test_gradients_of_a_whole_picture(cuda: CudaKernels) -> None:
    """Through autograd: raster, interpolation, mipmapped texture and antialiasing, back to vertices and texels."""
    size, generator = (24, 30), torch.Generator().manual_seed(7)
    points, faces = grid(6, 6, size, generator)
    points = points * (torch.rand(1, points.shape[1], 1, generator=generator) * 0.2 + 1.0)
    points = points - torch.tensor([12.0, 0.0, 0.0])  # an outline inside the picture
    uvs, texture = torch.rand(points.shape[1], 2, generator=generator), torch.rand(8, 8, 3, generator=generator)

    def gradients(points: Tensor, texture: Tensor, faces: Tensor, uvs: Tensor) -> tuple[Tensor, ...]:
        points, texture = points.detach().requires_grad_(), texture.detach().requires_grad_()
        raster = rasterize(points, faces, *size)
        at = interpolate(uvs, faces, raster.face_index, raster.barycentrics)
        colour = sample_texture(texture_pyramid(texture), at, face_index=raster.face_index)
        picture = antialias(colour, raster, points, faces)
        picture.square().sum().backward()
        assert points.grad is not None and texture.grad is not None
        return picture.detach(), points.grad, texture.grad

    found = cuda.run(gradients, points, texture, faces, uvs)
    for one, expected in zip(found, gradients(points, texture, faces, uvs), strict=True):
        assert expected.abs().max() > 0
        assert_close_sums(one, expected)
