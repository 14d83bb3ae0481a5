"""Pictures by volume rendering: a ball in a tri-plane, whose outline and depth are known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from headrecon.errors import InputError, ShapeError
from headrecon.geometry.cameras import look_at, project_points
from headrecon.ops.occupancy import OccupancyGrid, dilate_occupancy, update_occupancy
from headrecon.ops.trigrid import TriGrid, pack_trigrid
from headrecon.ops.trigrid_decode import TriGridDecoder, decode_trigrid
from headrecon.rendering import volume
from headrecon.rendering.volume import Surface, VolumeOptions, camera_rays, distance_of_depth, render_volume
from headrecon.structures import Cameras
from tests.ops.meshes import as_users_call_it

BOX, RADIUS, FAR = 0.4, 0.1, 0.8
STEEP = 4000.0  # density per metre, times 1 - |p|² / RADIUS²
ONE_PASS = VolumeOptions(samples=96, importance=0)


def ball() -> tuple[TriGrid, TriGridDecoder]:
    """Density falls steeply at RADIUS; the features are x, y, z in metres.

    The mean of three planes holds |p|² as a sum of what xy (x² + y²) and xz (z²) say. The decoder is linear:
    softplus(s) - softplus(-s) = s.
    """
    cells = 64
    at = (torch.arange(cells) + 0.5) / cells * BOX - BOX / 2
    raw = torch.zeros(1, 3, 4, cells, cells)
    raw[0, 0, 0] = 3 * (at[None, :] ** 2 + at[:, None] ** 2)
    raw[0, 1, 0] = (3 * at[:, None] ** 2).expand(cells, cells)
    raw[0, 0, 1], raw[0, 0, 2] = (3 * at[None, :]).expand(cells, cells), (3 * at[:, None]).expand(cells, cells)
    raw[0, 1, 3] = (3 * at[:, None]).expand(cells, cells)
    pick = torch.zeros(4, 4)
    pick[0, 0], pick[1, 1], pick[2, 2], pick[3, 3] = -STEEP / RADIUS**2, 1.0, 1.0, 1.0
    decoder = TriGridDecoder(
        torch.cat([torch.eye(4), -torch.eye(4)]), torch.zeros(8), torch.cat([pick, -pick], 1),
        torch.tensor([STEEP, 0.0, 0.0, 0.0]),
    )  # fmt: skip
    return pack_trigrid(raw, BOX), decoder


def cameras(size: int = 33) -> Cameras:
    """From +z and from +x."""
    eyes = torch.tensor([[0.0, 0.0, FAR], [FAR, 0.0, 0.0]])
    k = torch.tensor([[size * 2.0, 0.0, size / 2], [0.0, size * 2.0, size / 2], [0.0, 0.0, 1.0]])
    return Cameras(look_at(eyes, torch.zeros(2, 3)), k.expand(2, 3, 3).clone(), size, size)


def test_rays_go_through_their_pixels() -> None:
    seen = cameras(5)
    origins, directions = camera_rays(seen)
    pixels, depth_z = project_points(origins + 0.7 * directions, seen)
    y, x = torch.meshgrid(torch.arange(5) + 0.5, torch.arange(5) + 0.5, indexing="ij")
    torch.testing.assert_close(pixels[0], torch.stack([x, y], -1).reshape(-1, 2), rtol=0, atol=1e-5)
    torch.testing.assert_close(
        distance_of_depth(depth_z.reshape(2, 5, 5), seen), torch.full((2, 5, 5), 0.7), rtol=1e-5, atol=0
    )


def occupied(grid: TriGrid, decoder: TriGridDecoder) -> OccupancyGrid:
    half = BOX / 2
    empty = OccupancyGrid.full(24, (-half,) * 3, (half,) * 3)

    def density(points: Tensor) -> Tensor:
        return torch.nn.functional.softplus(decode_trigrid(grid, decoder, points[None])[0][0] - 1)

    return dilate_occupancy(update_occupancy(empty, density, 1.0))


@pytest.mark.parametrize("how", ["two passes", "one pass", "occupied cells"])
@pytest.mark.parametrize("random", [False, True])
def test_a_ball_looks_like_a_ball(how: str, random: bool) -> None:
    grid, decoder = ball()
    options = VolumeOptions() if how == "two passes" else ONE_PASS
    if how == "occupied cells":
        options = VolumeOptions(occupancy=occupied(grid, decoder), step=0.004)
    generator = torch.Generator().manual_seed(0) if random else None
    picture = render_volume(grid, decoder, cameras(), options, background=torch.ones(3), generator=generator)
    origins, directions = camera_rays(cameras())
    along = -(origins * directions).sum(-1)
    beside = (origins + along[..., None] * directions).norm(dim=-1).reshape(2, 33, 33)
    assert picture.opacity[beside < 0.95 * RADIUS].min() > 0.98
    assert picture.opacity[beside > 1.05 * RADIUS].max() < 0.02
    inside = beside < 0.9 * RADIUS
    surface = (along.reshape(2, 33, 33) - (RADIUS**2 - beside**2).clamp(min=0).sqrt())[inside]
    # At a depth of d behind a surface that is met at an angle a, the density is 2 STEEP d cos(a) / RADIUS: what gets
    # through is exp(-STEEP d² cos(a) / RADIUS), whose integral is the mean depth.
    slanted = (1 - (beside[inside] / RADIUS) ** 2).sqrt()
    depth = 0.5 * (torch.pi * RADIUS / (STEEP * slanted)).sqrt()
    # Samples are 4 mm apart, 2 in the second pass; at random places they may miss by half of that.
    assert (picture.ray_distance[inside] - surface - depth).abs().max() < (0.002 if random else 0.001)
    middle = picture.features[:, 16, 16]
    front = RADIUS - 0.5 * (torch.pi * RADIUS / STEEP) ** 0.5
    torch.testing.assert_close(middle[0], torch.tensor([0.0, 0.0, front]), rtol=0, atol=2e-3)
    torch.testing.assert_close(middle[1], torch.tensor([front, 0.0, 0.0]), rtol=0, atol=2e-3)
    torch.testing.assert_close(picture.features[:, 0, 0], torch.ones(2, 3))


def test_pieces_make_the_same_picture() -> None:
    grid, decoder = ball()
    whole = render_volume(grid, decoder, cameras(), VolumeOptions(samples=16, importance=8))
    pieces = render_volume(grid, decoder, cameras(), VolumeOptions(samples=16, importance=8, rays_at_once=100))
    assert torch.equal(whole.features, pieces.features)
    both = TriGrid(grid.cells.repeat(2, 1, 1, 1, 1, 1, 1), grid.box_size)
    each = render_volume(both, decoder, cameras(), VolumeOptions(samples=16, importance=8))
    assert torch.equal(whole.features, each.features)


def test_a_mesh_in_the_volume_hides_what_is_behind() -> None:
    """A plane through the middle, as seen from +z: the ball before it is seen, and round it the plane."""
    grid, decoder = ball()
    view = cameras()
    depth = torch.full((2, 33, 33), FAR)
    depth[1] = torch.inf
    plane = Surface(distance_of_depth(depth, view), torch.full((2, 33, 33, 3), 9.0))
    picture = render_volume(grid, decoder, view, ONE_PASS, surface=plane)
    assert picture.opacity[0].min() == 1.0
    assert picture.features[0, 0, 0].tolist() == pytest.approx([9.0] * 3)
    assert picture.ray_distance[0, 0, 0].item() == pytest.approx(plane.ray_distance[0, 0, 0].item())
    assert picture.features[0, 16, 16, 2].item() == pytest.approx(RADIUS, abs=5e-3)
    assert picture.opacity[1, 0, 0].item() < 1e-3


def test_gradients_reach_cells_decoder_and_cameras() -> None:
    grid, decoder = ball()
    view, cells = cameras(9), grid.cells.clone().requires_grad_()
    moved = Cameras(view.viewmats.clone().requires_grad_(), view.Ks.clone().requires_grad_(), 9, 9)
    w1 = decoder.w1.clone().requires_grad_()
    picture = render_volume(
        TriGrid(cells, BOX), TriGridDecoder(w1, *decoder.tensors[1:]), moved, VolumeOptions(samples=32, importance=16)
    )
    picture.features.square().sum().backward()
    for tensor in (cells, w1, moved.viewmats, moved.Ks):
        assert tensor.grad is not None
        assert torch.isfinite(tensor.grad).all()
        assert tensor.grad.abs().max() > 0


def test_memory_does_not_grow_with_samples() -> None:
    """What autograd keeps for the way back is the same for 8 and for 800 samples a ray."""
    grid, decoder = ball()
    grid.cells.requires_grad_()
    kept = []
    for samples in (8, 800):
        sizes: dict[int, int] = {}

        def keep(tensor: Tensor, sizes: dict[int, int] = sizes) -> Tensor:
            sizes[tensor.data_ptr()] = tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            render_volume(grid, decoder, cameras(), VolumeOptions(samples=samples, importance=0))
        kept.append(sum(sizes.values()))
    assert kept[0] == kept[1]


def test_bad_input_is_named() -> None:
    grid, decoder = ball()
    three = TriGrid(grid.cells.repeat(3, 1, 1, 1, 1, 1, 1), BOX)
    with pytest.raises(ShapeError, match="with 1 or C grids"):
        as_users_call_it(volume.render_volume)(three, decoder, cameras())
    flat = Surface(torch.ones(2, 4, 4), torch.ones(2, 4, 4, 3))
    with pytest.raises(ShapeError, match="the surface must be"):
        as_users_call_it(volume.render_volume)(grid, decoder, cameras(), surface=flat)
    with pytest.raises(InputError, match="samples must be at least 2"):
        VolumeOptions(samples=1)
    with pytest.raises(InputError, match="occupancy and step go together"):
        VolumeOptions(step=0.1)
