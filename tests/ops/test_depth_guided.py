"""Shading points between the least and greatest depth of a patch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from headrecon.errors import ShapeError
from headrecon.geometry.cameras import look_at, project_points
from headrecon.ops import depth_guided
from headrecon.ops.depth_guided import DepthRange, point_depth_range, shading_points
from headrecon.ops.points import query_points
from headrecon.ops.samples import DEFAULT_NEAR_Z, Raster
from headrecon.structures import Cameras
from tests.ops.meshes import as_users_call_it

INF = float("inf")


def cameras(width: int = 7, height: int = 5, count: int = 1) -> Cameras:
    """Looking along +z from the origin; the second from a metre to the right of it."""
    viewmats = torch.eye(4).repeat(count, 1, 1)
    viewmats[1:, 0, 3] = -1.0
    intrinsics = torch.tensor([[4.0, 0.0, width / 2], [0.0, 4.0, height / 2], [0.0, 0.0, 1.0]]).repeat(count, 1, 1)
    return Cameras(viewmats, intrinsics, width, height)


def test_points_by_hand() -> None:
    points = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 3.0], [0.0, 0.0, 2.0], [1.0, 0.0, 2.0], [0.0, 0.0, -1.0]])
    nowhere = torch.tensor([[float("nan"), 0.0, 1.0], [0.0, 0.0, INF], [1e30, 0.0, 1.0], [0.0, 0.0, 0.0]])
    depths = point_depth_range(torch.cat([points, nowhere]), cameras(count=2))
    assert depths.near.shape == (2, 5, 7)
    # x = 4 * 0 + 3.5 and y = 2.5 fall into row 2, column 3; x = 4 * 1 / 2 + 3.5 into column 5
    assert [depths.near[0, 2, 3], depths.far[0, 2, 3]] == [1.0, 3.0]
    assert [depths.near[0, 2, 5], depths.far[0, 2, 5]] == [2.0, 2.0]
    # of the second camera: 4 * -1 / 1 + 3.5 lies outside, 4 * -1 / 3 and 4 * -1 / 2 do not
    assert [depths.near[1, 2, 2], depths.near[1, 2, 1], depths.near[1, 2, 3]] == [3.0, 2.0, 2.0]
    assert depths.near.isfinite().sum() == 5 == depths.far.isfinite().sum()


@pytest.mark.parametrize("patch", [1, 3, 7, 15])
def test_patches_against_a_loop(patch: int) -> None:
    generator = torch.Generator().manual_seed(patch)
    near = torch.rand(2, 6, 9, generator=generator) + 1.0
    far = near + torch.rand(2, 6, 9, generator=generator)
    empty = torch.rand(2, 6, 9, generator=generator) < 0.9
    depths = DepthRange(torch.where(empty, INF, near), torch.where(empty, -INF, far))
    found = depths.dilated(patch, 0.25)
    reach = patch // 2
    for c in range(2):
        for y in range(6):
            for x in range(9):
                rows, columns = slice(max(y - reach, 0), y + reach + 1), slice(max(x - reach, 0), x + reach + 1)
                assert found.near[c, y, x] == depths.near[c, rows, columns].min() - 0.25
                assert found.far[c, y, x] == depths.far[c, rows, columns].max() + 0.25


def test_the_near_end_stays_before_the_camera() -> None:
    depths = DepthRange(torch.full((1, 2, 2), 0.1), torch.full((1, 2, 2), 0.2)).dilated(1, 1.0)
    assert (depths.near == DEFAULT_NEAR_Z).all() and (depths.far == 1.2).all()


def test_points_and_mesh_together() -> None:
    index = torch.tensor([[[0, -1, 2]]])
    depth = torch.tensor([[[2.0, 0.0, 3.0]]])
    raster = Raster(index, torch.zeros(1, 1, 3, 3), depth)
    mesh = DepthRange.of_raster(raster)
    assert mesh.near.tolist() == [[[2.0, INF, 3.0]]] and mesh.far.tolist() == [[[2.0, -INF, 3.0]]]
    points = DepthRange(torch.tensor([[[1.0, 5.0, INF]]]), torch.tensor([[[1.5, 6.0, -INF]]]))
    both = mesh.joined(points)
    assert both.near.tolist() == [[[1.0, 5.0, 3.0]]] and both.far.tolist() == [[[2.0, 6.0, 3.0]]]


def test_samples_lie_on_their_rays_and_in_their_ranges() -> None:
    eye = torch.tensor([[0.3, 0.1, -2.0], [1.0, -1.0, -2.0]], dtype=torch.float64)
    viewmats = look_at(eye, torch.zeros(2, 3, dtype=torch.float64))
    views = Cameras(viewmats, cameras().Ks.double().expand(2, 3, 3), 7, 5)
    near = torch.rand(2, 5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 1.0
    near[0, :2] = INF
    far = torch.where(near.isfinite(), near + 0.5, -INF)
    for generator in (None, torch.Generator().manual_seed(1)):
        found = shading_points(DepthRange(near, far), views, 4, generator)
        assert found.positions.shape == (2 * 35 - 14, 4, 3)
        for c in range(2):
            own = found.pixels[:, 0] == c
            one = Cameras(viewmats[c], views.Ks[c], 7, 5)
            pixels, depth_z = project_points(found.positions[own].reshape(-1, 3), one)
            centres = found.pixels[own][:, [2, 1]] + 0.5
            torch.testing.assert_close(pixels, centres.repeat_interleave(4, 0).double())
            torch.testing.assert_close(depth_z, found.depth_z[own].reshape(-1))
        first = near[tuple(found.pixels.T)]
        part = (found.depth_z - first[:, None]) / 0.125
        assert (part.floor() == torch.arange(4)).all()
        if generator is None:
            torch.testing.assert_close(part, (torch.arange(4) + 0.5).double().expand_as(part))


def test_gradients_reach_the_cameras() -> None:
    views, near = cameras(2, 2), torch.full((1, 2, 2), 1.0, dtype=torch.float64)

    def positions(viewmats: Tensor, intrinsics: Tensor) -> Tensor:
        return shading_points(DepthRange(near, near + 1.0), Cameras(viewmats, intrinsics, 2, 2), 3).positions

    leaves = [t.double().requires_grad_() for t in (views.viewmats, views.Ks)]
    assert torch.autograd.gradcheck(positions, leaves)


def test_samples_around_a_cloud_find_their_points() -> None:
    """A sphere of points: nearly every sample in the range of a patch is spent where points are near."""
    generator = torch.Generator().manual_seed(0)
    points = torch.nn.functional.normalize(torch.randn(4000, 3, generator=generator), dim=1) * 0.1
    views = Cameras(
        look_at(torch.tensor([[0.0, 0.0, 0.6]]), torch.zeros(1, 3)),
        torch.tensor([[[100.0, 0.0, 32.0], [0.0, 100.0, 32.0], [0.0, 0.0, 1.0]]]), 64, 64,
    )  # fmt: skip
    front = points[points[:, 2] > 0.02]
    found = shading_points(point_depth_range(front, views).dilated(3, 0.005), views, 8)
    near = query_points(points, found.positions.reshape(-1, 3), 0.02, 1).index >= 0
    assert near.float().mean() > 0.95
    blind = 0.5 + torch.rand(len(near), generator=generator)[:, None] * 0.2  # all of the sphere's depth
    ray = found.positions[:, 0] - torch.tensor([0.0, 0.0, 0.6])
    anywhere = torch.tensor([0.0, 0.0, 0.6]) + ray / found.depth_z[:, :1] * blind[: len(ray)]
    assert (query_points(points, anywhere, 0.02, 1).index >= 0).float().mean() < 0.7


@pytest.mark.parametrize("count", [0, 1])
def test_sizes(count: int) -> None:
    nothing = point_depth_range(torch.zeros(0, 3), cameras()).dilated(3)
    assert shading_points(nothing, cameras(), count).positions.shape == (0, count, 3)
    one = point_depth_range(torch.tensor([[0.0, 0.0, 1.0]]), cameras())
    assert shading_points(one, cameras(), count).positions.tolist() == [[[0.0, 0.0, 1.0]] * count]
    empty = Cameras(torch.zeros(0, 4, 4), torch.zeros(0, 3, 3), 7, 5)
    assert point_depth_range(torch.zeros(4, 3), empty).dilated(3).near.shape == (0, 5, 7)


def test_bad_input_is_named() -> None:
    depths = point_depth_range(torch.zeros(1, 3), cameras())
    for patch, margin in ((2, 0.0), (0, 0.0), (3, -1.0), (3, float("nan"))):
        with pytest.raises(ShapeError, match="patch must be odd and the margin 0 m or more"):
            depths.dilated(patch, margin)
    with pytest.raises(ShapeError, match=r"points must be \[N,3\]"):
        as_users_call_it(depth_guided.point_depth_range)(torch.zeros(1, 2), cameras())
    with pytest.raises(ShapeError, match=r"depths must be \(2, 5, 7\)"):
        shading_points(depths, cameras(count=2), 3)
