"""Texture lookup, the pyramid of halved pictures, and their gradients."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from headrecon.errors import ShapeError
from headrecon.ops import _native, _native_calls, texture
from headrecon.ops.reference.gradients import gradients_of
from headrecon.ops.reference.texture import pyramid_reference, texture_level, texture_reference
from headrecon.ops.texture import sample_texture, texture_pyramid
from tests.ops.meshes import as_users_call_it

NAN, INF = float("nan"), float("inf")


def test_texel_centres_and_v_up() -> None:
    # 2 rows, 3 columns; row 0 is the top of the picture, which is v near 1.
    picture = torch.arange(6.0).reshape(2, 3, 1)
    uvs = torch.tensor([[(j + 0.5) / 3, 1 - (i + 0.5) / 2] for i in range(2) for j in range(3)])
    torch.testing.assert_close(sample_texture(picture, uvs)[:, 0], torch.arange(6.0))
    torch.testing.assert_close(sample_texture(picture, torch.tensor([0.5, 0.5])), torch.tensor([2.5]))


def test_wrap() -> None:
    picture = torch.arange(4.0).reshape(1, 4, 1)
    outside = torch.tensor([[-0.125, 0.5], [1.125, 0.5], [0.0, 0.5]])
    assert sample_texture(picture, outside)[:, 0].tolist() == [0.0, 3.0, 0.0]
    assert sample_texture(picture, outside, wrap="repeat")[:, 0].tolist() == [3.0, 0.0, 1.5]


def test_pyramid_by_hand() -> None:
    picture = torch.tensor([[0.0, 4.0, 1.0, 1.0], [8.0, 0.0, 1.0, 5.0]])[..., None].requires_grad_()
    pyramid = texture_pyramid(picture)
    assert pyramid.levels == 2  # 1 x 2 cannot be halved
    assert pyramid.level(1)[0, 0, :, 0].tolist() == [3.0, 2.0]
    # Level 0 counts once, and each texel is a quarter of one of level 1.
    (pyramid.level(0).sum() + 10 * pyramid.level(1)[0, 0, 1, 0]).backward()
    assert picture.grad is not None
    assert picture.grad[..., 0].tolist() == [[1.0, 1.0, 3.5, 3.5], [1.0, 1.0, 3.5, 3.5]]


@pytest.mark.parametrize(
    ("size", "smallest", "levels"), [((8, 8), 1, 4), ((8, 8), 4, 2), ((6, 12), 1, 2), ((5, 8), 1, 1), ((1, 1), 1, 1)]
)
def test_halving_stops_at_odd_sides_and_at_the_smallest(size: tuple[int, int], smallest: int, levels: int) -> None:
    assert texture_pyramid(torch.zeros(*size, 2), smallest).levels == levels


def test_level_by_hand() -> None:
    # 64 rows, 32 columns. u grows by 1/8 per pixel: 4 of the 32 columns, level 2. v by 1/4: 16 rows, level 4.
    picture = (64, 32)
    assert texture_level(torch.tensor([[0.125, 0.0], [0.0, 0.0]]), picture, 6).item() == 2.0
    assert texture_level(torch.tensor([[0.125, 0.0], [0.0, 0.25]]), picture, 6).item() == 4.0
    # Turned by 45 degrees a square footprint of 4 texels keeps its level, which the longest single slope would not.
    s = 4 / math.sqrt(2.0)
    turned = torch.tensor([[s / 32, -s / 32], [s / 64, s / 64]])
    assert texture_level(turned, picture, 6).item() == pytest.approx(2.0, abs=1e-5)


def test_trilinear_by_hand() -> None:
    # Stripes of 0 and 1: level 0 shows them, level 1 their mean. A footprint of sqrt(2) texels mixes the two by half.
    picture = torch.tensor([0.0, 1.0]).repeat(4)[None, :, None].expand(8, 8, 1).contiguous()
    centre = torch.tensor([[1.5 / 8, 0.5]])
    slopes = torch.tensor([[[math.sqrt(2.0) / 8, 0.0], [0.0, 0.0]]])
    pyramid = texture_pyramid(picture)
    assert sample_texture(pyramid, centre).item() == 1.0
    assert sample_texture(pyramid, centre, slopes=slopes).item() == pytest.approx(0.75, abs=1e-6)
    assert sample_texture(pyramid, centre, slopes=100 * slopes).item() == pytest.approx(0.5, abs=1e-6)


def lookups(generator: torch.Generator, batch: int, pixels: int) -> tuple[Tensor, Tensor, Tensor]:
    """UVs in and around 0..1, slopes that reach from magnified to the coarsest level, and faces."""
    uvs = torch.rand(batch, pixels, 2, generator=generator) * 1.6 - 0.3
    slopes = torch.randn(batch, pixels, 4, generator=generator) * torch.exp(
        torch.rand(batch, pixels, 1, generator=generator) * 7 - 6
    )
    return uvs, slopes, torch.randint(-1, 3, (batch, pixels), generator=generator, dtype=torch.int32)


@pytest.mark.parametrize("wrap", ["clamp", "repeat"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("textures", [1, 3])
def test_against_the_twin(wrap: texture.Wrap, channels: int, textures: int) -> None:
    generator = torch.Generator().manual_seed(channels)
    size, batch, pixels = (24, 40), 3, 500
    picture = torch.rand(textures, *size, channels, generator=generator, requires_grad=True)
    uvs, slopes, face_index = lookups(generator, batch, pixels)
    uvs.requires_grad_()
    shape = (batch, pixels) if textures > 1 else (batch * pixels,)
    pyramid = texture_pyramid(picture if textures > 1 else picture[0])
    assert pyramid.levels == 4
    values = sample_texture(
        pyramid, uvs.reshape(*shape, 2), wrap, slopes=slopes.reshape(*shape, 2, 2), face_index=face_index.reshape(shape)
    ).reshape(batch, pixels, channels)

    def twin(picture: Tensor, uvs: Tensor) -> Tensor:
        return texture_reference(pyramid_reference(picture, 4), (uvs, slopes, face_index), size, 4, wrap)

    torch.testing.assert_close(values, twin(picture, uvs), rtol=0, atol=2e-5)  # log2 and floor of rounded numbers
    grad = torch.randn(values.shape, generator=generator)
    values.backward(grad)
    expected = gradients_of(twin, (picture, uvs), (True, True), (grad,))
    for leaf, other in zip((picture, uvs), expected, strict=True):
        assert leaf.grad is not None and other is not None
        torch.testing.assert_close(leaf.grad, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))


def test_twin_by_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    picture = torch.rand(2, 4, 8, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    uvs = (torch.rand(2, 5, 2, generator=generator, dtype=torch.float64) * 0.8 + 0.1).requires_grad_()
    slopes = torch.randn(2, 5, 4, generator=generator, dtype=torch.float64) * 0.2
    for wrap in ("clamp", "repeat"):

        def twin(picture: Tensor, uvs: Tensor, wrap: str = wrap) -> Tensor:
            return texture_reference(pyramid_reference(picture, 3), (uvs, slopes, None), (4, 8), 3, wrap)

        assert torch.autograd.gradcheck(twin, (picture, uvs))


@pytest.mark.native
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_same_bits_on_every_thread_count(threads: int) -> None:
    generator = torch.Generator().manual_seed(6)
    texels = texture_pyramid(torch.rand(64, 128, 3, generator=generator))
    uvs, slopes, face_index = lookups(generator, 2, 40000)
    shape = (64, 128, texels.levels, "repeat")
    grad = torch.randn(2, 40000, 3, generator=generator)
    arguments = (texels.texels, (uvs, slopes, face_index), shape, grad, (True, True))
    before = torch.get_num_threads()
    expected = _native_calls.texture_backward(*arguments)
    try:
        torch.set_num_threads(threads)
        found = _native_calls.texture_backward(*arguments)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))  # type: ignore[arg-type]


@pytest.mark.parametrize("pixels", [0, 1, 3])
@pytest.mark.parametrize("side", [1, 2, 5])
def test_sizes(pixels: int, side: int) -> None:
    picture = torch.ones(side, side, 5, requires_grad=True)
    uvs = torch.full((pixels, 2), 0.3, requires_grad=True)
    values = sample_texture(texture_pyramid(picture), uvs, slopes=torch.ones(pixels, 2, 2))
    assert values.shape == (pixels, 5) and (values == 1).all()
    values.sum().backward()
    assert picture.grad is not None and uvs.grad is not None and uvs.grad.shape == (pixels, 2)
    assert picture.grad.sum().item() == pytest.approx(pixels * 5)


@pytest.mark.parametrize("wrap", ["clamp", "repeat"])
def test_broken_and_huge_uvs_read_something_and_get_no_gradient(wrap: texture.Wrap) -> None:
    picture = torch.arange(16.0).reshape(4, 4, 1).requires_grad_()
    uvs = torch.tensor([[NAN, 0.9], [INF, 0.9], [-INF, 0.9], [1e30, 0.9], [-1e30, 0.9]], requires_grad=True)
    slopes = torch.tensor([NAN, INF, 1e30, 0.0, 1e-30])[:, None, None].expand(5, 2, 2)
    values = sample_texture(texture_pyramid(picture), uvs, wrap, slopes=slopes)
    assert values.isfinite().all()
    assert ((values >= 0) & (values <= 15)).all()
    values.sum().backward()
    assert uvs.grad is not None and picture.grad is not None
    assert (uvs.grad[:3, 0] == 0).all() and uvs.grad.isfinite().all()
    assert picture.grad.sum().item() == pytest.approx(5.0)


def test_without_the_library_the_twins_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(7)
    picture = torch.rand(2, 8, 16, 3, generator=generator)
    uvs, slopes, face_index = lookups(generator, 2, 50)

    def run() -> list[Tensor]:
        leaves = [picture.clone().requires_grad_(), uvs.clone().requires_grad_()]
        pyramid = texture_pyramid(leaves[0], 2)
        values = sample_texture(pyramid, leaves[1], slopes=slopes.reshape(2, 50, 2, 2), face_index=face_index)
        values.square().sum().backward()
        return [values.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]

    native = run()
    monkeypatch.setattr(_native, "available", lambda: False)
    for a, b in zip(native, run(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_registered_properly() -> None:
    picture = torch.rand(2, 4, 4, 2, requires_grad=True)
    torch.library.opcheck(torch.ops.headrecon.pyramid, (picture, 2))
    torch.library.opcheck(torch.ops.headrecon.pyramid_backward, (torch.rand(2, 20, 2), 4, 4, 2))
    torch.library.opcheck(torch.ops.headrecon.pyramid_backward, (torch.rand(1, 20, 2), 4, 4, 2))
    texels = torch.rand(2, 20, 2, requires_grad=True)
    uvs = torch.rand(2, 3, 2, requires_grad=True)
    for slopes, face_index in ((None, None), (torch.rand(2, 3, 4), torch.zeros(2, 3, dtype=torch.int32))):
        inputs = (texels, uvs, slopes, face_index, 4, 4, 2, "clamp")
        torch.library.opcheck(torch.ops.headrecon.texture, inputs)
        fixed = (texels.detach(), uvs.detach(), *inputs[2:], torch.rand(2, 3, 2))
        for needs in ((True, True), (True, False), (False, True)):
            torch.library.opcheck(torch.ops.headrecon.texture_backward, (*fixed, *needs))


def test_bad_input_is_named() -> None:
    sample_texture = as_users_call_it(texture.sample_texture)
    with pytest.raises(ShapeError, match=r"\[H,W,D\]"):
        sample_texture(torch.rand(3, 4), torch.rand(2, 2))
    with pytest.raises(ShapeError, match=r"H, W, D > 0"):
        sample_texture(torch.rand(0, 4, 3), torch.rand(2, 2))
    with pytest.raises(ShapeError, match=r"float32"):
        sample_texture(torch.rand(3, 4, 3).double(), torch.rand(2, 2))
    with pytest.raises(ShapeError, match=r"uvs must be"):
        sample_texture(torch.rand(3, 4, 3), torch.rand(2, 3))
    with pytest.raises(ShapeError, match=r"2 textures need uvs \[2,...,2\]"):
        sample_texture(torch.rand(2, 3, 4, 3), torch.rand(3, 2))
    with pytest.raises(ShapeError, match=r"slopes must be \(5, 2, 2\)"):
        sample_texture(torch.rand(3, 4, 3), torch.rand(5, 2), slopes=torch.rand(5, 4))
    with pytest.raises(ShapeError, match=r"face_index must be \(5,\)"):
        sample_texture(torch.rand(3, 4, 3), torch.rand(5, 2), face_index=torch.zeros(4, dtype=torch.int32))
    with pytest.raises(ShapeError, match=r"texture_pyramid"):
        as_users_call_it(texture.texture_pyramid)(torch.rand(3, 4))
