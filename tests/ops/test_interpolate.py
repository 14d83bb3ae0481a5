"""Attribute interpolation."""

from __future__ import annotations

import pytest
import torch

from headrecon.errors import ShapeError
from headrecon.ops import interpolate as ops
from headrecon.ops.interpolate import interpolate
from headrecon.ops.rasterize import rasterize
from headrecon.ops.reference.interpolate import interpolate_gradients, interpolate_reference
from tests.ops.meshes import as_users_call_it, hom

INF = float("inf")


def test_by_hand() -> None:
    attributes = torch.tensor([[0.0, 10.0], [4.0, 20.0], [8.0, 40.0]])
    weights = torch.tensor([[0.5, 0.25, 0.25], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    values = interpolate(attributes, torch.tensor([[0, 1, 2]]), torch.tensor([0, 0, -1]), weights)
    assert values.tolist() == [[3.0, 20.0], [8.0, 40.0], [0.0, 0.0]]


def test_interpolating_depth_gives_the_depth() -> None:
    points = hom([[-9.0, -9.0], [30.0, -9.0], [-9.0, 30.0]], [1.0, 2.0, 5.0])
    faces = torch.tensor([[0, 1, 2]])
    raster = rasterize(points, faces, 8, 8)
    depth = interpolate(points[..., 2:], faces, raster.face_index, raster.barycentrics)
    torch.testing.assert_close(depth[..., 0], raster.depth_z)
    # ... and interpolating the homogeneous position gives the pixel back.
    position = interpolate(points, faces, raster.face_index, raster.barycentrics)
    ys, xs = torch.meshgrid(torch.arange(8) + 0.5, torch.arange(8) + 0.5, indexing="ij")
    pixel = position[..., :2] / position[..., 2:]
    torch.testing.assert_close(pixel[0], torch.stack([xs, ys], -1), rtol=0, atol=1e-4)


@pytest.mark.parametrize("pixels", [0, 1, 5])
@pytest.mark.parametrize("faces", [0, 1])
def test_sizes(pixels: int, faces: int) -> None:
    table = torch.zeros(faces, 3, dtype=torch.int64)
    index = torch.full((pixels,), -1 if faces == 0 else 0)
    values = interpolate(torch.ones(1, 4), table, index, torch.full((pixels, 3), 1 / 3))
    assert values.shape == (pixels, 4)
    assert torch.allclose(values, torch.full_like(values, float(faces)))


def test_gradients_by_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    attributes = torch.randn(2, 5, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    faces = torch.randint(0, 5, (4, 3), generator=generator)
    index = torch.tensor([[0, -1, 3], [2, 1, 1]])
    weights = torch.rand(2, 3, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, w: interpolate_reference(a, faces, index, w), (attributes, weights))
    grad = torch.randn(2, 3, 3, generator=generator, dtype=torch.float64)
    expected = torch.autograd.grad(
        interpolate_reference(attributes, faces, index, weights), (attributes, weights), grad
    )
    found = interpolate_gradients(attributes.detach(), faces, index, weights.detach(), grad, (True, True))
    for a, b in zip(expected, found, strict=True):
        torch.testing.assert_close(a, b)


def test_operator_gradients_agree_with_the_twin() -> None:
    generator = torch.Generator().manual_seed(1)
    attributes = torch.randn(5, 3, generator=generator, requires_grad=True)
    faces = torch.randint(0, 5, (4, 3), generator=generator)
    index = torch.tensor([[0, -1, 3], [2, 1, 1]])
    weights = torch.rand(2, 3, 3, generator=generator, requires_grad=True)
    interpolate(attributes, faces, index, weights).square().sum().backward()
    found = (attributes.grad, weights.grad)
    twin = interpolate_reference(attributes[None], faces, index.reshape(1, 6), weights.reshape(1, 6, 3))
    for a, b in zip(found, torch.autograd.grad(twin.square().sum(), (attributes, weights)), strict=True):
        torch.testing.assert_close(a, b)


def test_operator_is_registered_properly() -> None:
    attributes, weights = torch.rand(1, 3, 2, requires_grad=True), torch.rand(2, 4, 3, requires_grad=True)
    faces = torch.tensor([[0, 1, 2]], dtype=torch.int32)
    index = torch.tensor([[0, -1, 0, 0], [0, 0, 0, -1]], dtype=torch.int32)
    torch.library.opcheck(
        torch.ops.headrecon.interpolate, (attributes.expand(2, 3, 2).contiguous(), faces, index, weights)
    )


def test_bad_input_is_named() -> None:
    faces, index, weights = torch.tensor([[0, 1, 2]]), torch.tensor([0]), torch.rand(1, 3)
    interpolate = as_users_call_it(ops.interpolate)
    with pytest.raises(ShapeError, match="index the 2 vertices"):
        interpolate(torch.rand(2, 1), faces, index, weights)
    with pytest.raises(ShapeError, match="barycentrics must be"):
        interpolate(torch.rand(3, 1), faces, index, weights[:, :2])
    with pytest.raises(ShapeError, match=r"\[B,V,D\] with face_index \[B,...\]"):
        interpolate(torch.rand(2, 3, 1), faces, index, weights)
    with pytest.raises(ShapeError, match="float32"):
        interpolate(torch.rand(3, 1).double(), faces, index, weights)
