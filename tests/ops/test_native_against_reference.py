"""The native ops and their torch twins on random input: same rules, two implementations."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from headrecon.ops import _native
from headrecon.ops.reference.interpolate import interpolate_reference
from headrecon.ops.reference.rasterize import rasterize_reference
from headrecon.ops.reference.shade import shade_reference
from tests.ops.meshes import random_soup, sphere

pytestmark = pytest.mark.native
INF = float("inf")


def assert_same_raster(native: tuple[Tensor, ...], twin: tuple[Tensor, ...], differing: float = 0.0) -> None:
    """Equal faces but for the stated share of pixels, and equal weights and depths where the faces are equal."""
    other = native[0] != twin[0]
    assert other.float().mean() <= differing
    # Cancellation in d_i = h_i.xy - p h_i.z costs about three of float32's seven digits on small triangles.
    torch.testing.assert_close(native[1][~other], twin[1][~other], rtol=0, atol=2e-5)
    torch.testing.assert_close(native[2][~other], twin[2][~other], rtol=2e-5, atol=0)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("size", [(37, 53), (1, 200), (64, 16)])
@pytest.mark.parametrize("cull", [False, True])
def test_random_triangles(seed: int, size: tuple[int, int], cull: bool) -> None:
    points, faces = random_soup(torch.Generator().manual_seed(seed), 60, 40, size)
    clip = (0.005, INF, cull)
    # Where random triangles cut through each other the depths agree to rounding and either may win: some pixels differ.
    assert_same_raster(
        _native.rasterize(points, faces, size, clip), rasterize_reference(points, faces, size, clip), differing=0.002
    )


@pytest.mark.parametrize("size", [(200, 200), (31, 45)])
def test_a_closed_surface_agrees_in_every_pixel(size: tuple[int, int]) -> None:
    vertices, triangles, _ = sphere(60, 90)
    height, width = size
    camera = torch.from_numpy(vertices).float() + torch.tensor([0.1, -0.05, 3.0])
    k = torch.tensor([[width * 1.3, 0.0, width / 2], [0.0, width * 1.3, height / 2], [0.0, 0.0, 1.0]])
    points, faces = (camera @ k.T)[None], torch.from_numpy(triangles).int()
    clip = (0.005, INF, False)
    native, twin = _native.rasterize(points, faces, size, clip), rasterize_reference(points, faces, size, clip)
    assert torch.equal(native[0], twin[0])
    torch.testing.assert_close(native[2], twin[2], rtol=1e-5, atol=0)


@pytest.mark.parametrize("seed", range(4))
def test_clipped_triangles(seed: int) -> None:
    size = (41, 35)
    points, faces = random_soup(torch.Generator().manual_seed(seed), 60, 12, size, near=-0.7)
    clip = (0.4, 1.1, False)
    native, twin = _native.rasterize(points, faces, size, clip), rasterize_reference(points, faces, size, clip)
    # The twin clips each pixel exactly; the native code rounds the cut's corners to 1/256 pixel, so of the pixels along
    # the outlines (about 200 on 12 faces) a few may fall on the other side.
    assert_same_raster(native, twin, differing=0.005)
    assert (native[0] >= 0).float().mean() > 0.1


def test_pixel_edges_hit_exactly() -> None:
    # Corners on pixel centres: every outline is a tie, and both must decide it alike.
    generator = torch.Generator().manual_seed(5)
    points, faces = random_soup(generator, 60, 50, (37, 53))
    pixels = torch.round(points[..., :2] / points[..., 2:]) + 0.5
    points = torch.cat([pixels, torch.ones_like(pixels[..., :1])], -1)
    clip = (0.005, INF, False)
    assert_same_raster(
        _native.rasterize(points, faces, (37, 53), clip), rasterize_reference(points, faces, (37, 53), clip)
    )


@pytest.mark.parametrize("isa", ["base", "avx512"])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_same_bits_on_every_instruction_set_and_thread_count(isa: str, threads: int) -> None:
    size = (150, 401)  # large triangles too
    points, faces = random_soup(torch.Generator().manual_seed(3), 500, 5000, size, near=-0.2)
    before = torch.get_num_threads()
    expected = _native.rasterize(points, faces, size, (0.05, INF, False))
    try:
        torch.set_num_threads(threads)
        found = _native.rasterize(points, faces, size, (0.05, INF, False), isa)
    finally:
        torch.set_num_threads(before)
    for a, b in zip(expected, found, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("channels", [1, 2, 3, 5, 6])
@pytest.mark.parametrize("shared", [False, True])
def test_interpolate(channels: int, shared: bool) -> None:
    generator = torch.Generator().manual_seed(channels)
    attributes = torch.randn(1 if shared else 2, 9, channels, generator=generator)
    faces = torch.randint(0, 9, (7, 3), generator=generator, dtype=torch.int32)
    face_index = torch.randint(-1, 7, (2, 33), generator=generator, dtype=torch.int32)
    barycentrics = torch.rand(2, 33, 3, generator=generator)
    native = _native.interpolate(attributes, faces, face_index, barycentrics)
    torch.testing.assert_close(native, interpolate_reference(attributes, faces, face_index, barycentrics))


@pytest.mark.parametrize("source", [0, 1, 2])
@pytest.mark.parametrize("lit", [True, False])
@pytest.mark.parametrize("factor", [1, 2, 3])
@pytest.mark.parametrize("background", [(), (0.2, 0.5, 1.0)])
def test_shade(source: int, lit: bool, factor: int, background: tuple[float, ...]) -> None:
    generator = torch.Generator().manual_seed(source)
    size = (6 * factor, 5 * factor)
    points, triangles = random_soup(generator, 20, 9, size)
    face_index, barycentrics, _ = _native.rasterize(points, triangles, size, (0.005, INF, False))

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    uv_triangles = torch.randint(0, 11, (9, 3), generator=generator, dtype=torch.int32)
    geometry = (
        torch.cat([triangles, triangles, uv_triangles], 1),
        rand(20, 3),
        rand(20, 3) - 0.5,
        rand(11, 2) * 2 - 0.5,
    )
    colours = [rand(1, 1, 3), rand(1, 20, 3), rand(7, 4, 3)][source]
    rotations = torch.linalg.qr(torch.randn(2, 3, 3, generator=generator)).Q.reshape(2, 9)
    lights = torch.cat([torch.nn.functional.normalize(rand(2, 3) - 0.5, dim=1), rand(2, 3)], 1)
    surface = torch.tensor([0.05, 0.4, 0.3, 0.1, 0.0])
    cameras = torch.cat([rand(2, 3) * 5, rotations], 1)
    shading = (cameras, rand(9, 3) - 0.3, lights, surface) if lit else (cameras, rand(0), rand(0, 6), rand(0))
    arguments = ((face_index, barycentrics), geometry, (colours, source), shading, factor, torch.tensor(background))
    # 4096 table entries of the sRGB curve, and sums taken in another order.
    for native, twin in zip(_native.shade(*arguments), shade_reference(*arguments), strict=True):
        torch.testing.assert_close(native, twin, rtol=0, atol=2e-5)
