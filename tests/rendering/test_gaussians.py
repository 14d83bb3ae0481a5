"""Pictures of Gaussians, a few cameras at a time."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch

from headrecon.errors import ShapeError
from headrecon.ops.splat_gaussians import splat_gaussians
from headrecon.rendering.gaussians import GaussianPictures, render_gaussians
from headrecon.structures import Gaussians
from tests.ops.splats import ALL_PICTURES, camera, learnable, random_gaussians


@pytest.mark.parametrize("at_once", [None, 1, 2, 7])
@pytest.mark.parametrize("per_camera", [False, True])
def test_chunks_of_cameras_make_the_same_pictures(at_once: int | None, per_camera: bool) -> None:
    some, cameras, back = random_gaussians(1, 40), camera(count=5), torch.tensor([0.1, 0.2, 0.3])
    if per_camera:
        some = replace(some, colours=torch.rand(5, 40, 3, generator=torch.Generator().manual_seed(0)))
    found = render_gaussians(some, cameras, ALL_PICTURES, back, cameras_at_once=at_once)
    wanted = splat_gaussians(some, cameras, ALL_PICTURES, back)
    for f in fields(GaussianPictures):
        assert torch.equal(getattr(found, f.name), getattr(wanted, f.name)), f.name


def test_gradients_flow_through_all_chunks() -> None:
    some, cameras = random_gaussians(2, 30), camera(count=3)
    one, other = learnable(some), learnable(some)
    render_gaussians(one, cameras, cameras_at_once=1).image.sum().backward()
    render_gaussians(other, cameras).image.sum().backward()
    assert one.means.grad is not None and other.means.grad is not None
    torch.testing.assert_close(one.means.grad, other.means.grad)


def test_arrays_and_no_cameras_and_wrong_shapes() -> None:
    some = random_gaussians(3, 10)
    arrays = Gaussians(*(getattr(some, f.name).numpy() for f in fields(Gaussians)[:5]))
    seen = camera(count=2)
    assert torch.equal(render_gaussians(arrays, seen.numpy()).image, render_gaussians(some, seen).image)
    assert render_gaussians(some, camera(count=0)).image.shape == (0, 39, 47, 3)
    with pytest.raises(ShapeError, match="draws batches"):
        render_gaussians(random_gaussians(3, 10, lead=(2,)), seen)
