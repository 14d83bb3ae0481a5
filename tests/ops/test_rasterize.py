"""The rasterizer on cases worked by hand, and its rules: no holes, no doubles, clipping, ties, bad input."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from headrecon.errors import ShapeError
from headrecon.ops import _native
from headrecon.ops import rasterize as ops
from headrecon.ops.rasterize import Raster, rasterize, to_homogeneous_image
from headrecon.ops.reference.rasterize import rasterize_reference
from headrecon.structures import Cameras
from tests.ops.meshes import as_users_call_it, grid, hom

INF = float("inf")
TRIANGLE = torch.tensor([[0, 1, 2]])


def by_native(points: Tensor, faces: Tensor, size: tuple[int, int], **options: float) -> Raster:
    return rasterize(points, faces, *size, **options)  # type: ignore[arg-type]


def by_reference(points: Tensor, faces: Tensor, size: tuple[int, int], **options: float) -> Raster:
    clip = (options.get("near_z", 0.005), options.get("far_z", INF), bool(options.get("cull_backfaces", False)))
    return Raster(*rasterize_reference(points, faces, size, clip))


both = pytest.mark.parametrize("draw", [by_native, by_reference])


def rows(raster: Raster, image: int = 0) -> list[str]:
    """Face indices as text, '.' where there is none."""
    return ["".join("." if f < 0 else str(f) for f in row) for row in raster.face_index[image].tolist()]


@both
def test_right_triangle_by_hand(draw) -> None:
    # Corners (0,0), (4,0), (0,4): the diagonal x + y = 4 passes through centres (0.5,3.5) .. (3.5,0.5). With the inside
    # above left of it, it is a right and bottom edge: those centres stay out.
    raster = draw(hom([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]]), TRIANGLE, (5, 5))
    assert rows(raster) == ["000..", "00...", "0....", ".....", "....."]
    # At (1.5, 0.5): weights of the corners are 1 - 2/4, 1.5/4, 0.5/4.
    torch.testing.assert_close(raster.barycentrics[0, 0, 1], torch.tensor([0.5, 0.375, 0.125]))


@both
def test_the_other_half_takes_the_diagonal(draw) -> None:
    # The complementary triangle has the same diagonal as a left and top edge, so exactly the left-out centres are its.
    points = hom([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0], [4.0, 4.0]])
    raster = draw(points, torch.tensor([[0, 1, 2], [1, 3, 2]]), (4, 4))
    assert rows(raster) == ["0001", "0011", "0111", "1111"]


@both
def test_edges_through_centres_top_left(draw) -> None:
    # The square from 0.5 to 2.5: its left and top edges run through centres and take them, right and bottom do not.
    square = hom([[0.5, 0.5], [2.5, 0.5], [2.5, 2.5], [0.5, 2.5]])
    raster = draw(square, torch.tensor([[0, 1, 2], [0, 2, 3]]), (4, 4))
    assert [row.replace("1", "0") for row in rows(raster)] == ["00..", "00..", "....", "...."]


@both
def test_perspective_correct_by_hand(draw) -> None:
    # A strip between depth 1 (x = 0) and depth 3 (x = 4). In the image's middle, x = 2: 1/z is the mean of 1 and 1/3,
    # so z = 1.5, a quarter of the way in 3D.
    points = hom([[0.0, -8.0], [0.0, 8.0], [4.0, 0.0]], [1.0, 1.0, 3.0])
    raster = draw(points * torch.tensor([1.0, 1.0, 1.0]), TRIANGLE, (1, 4))
    middle = draw(points - 0.5 * points[..., 2:] * torch.tensor([1.0, 0.0, 0.0]), TRIANGLE, (1, 4))
    assert raster.covered.all()
    # The second call moves the strip half a pixel left, so that the centre 1.5 is its x = 2.
    assert middle.depth_z[0, 0, 1] == pytest.approx(1.5, rel=1e-6)
    assert middle.barycentrics[0, 0, 1, 2] == pytest.approx(0.25, rel=1e-6)


@both
def test_nearer_wins_and_ties_go_to_the_lower_index(draw) -> None:
    corners = [[-9.0, -9.0], [20.0, -9.0], [-9.0, 20.0]]
    points = torch.cat([hom(corners, z) for z in (2.0, 1.0, 1.0)], 1)
    raster = draw(points, torch.arange(9).reshape(3, 3), (2, 2))
    assert rows(raster) == ["11", "11"]
    torch.testing.assert_close(raster.depth_z, torch.ones(1, 2, 2))


@both
def test_winding(draw) -> None:
    points = hom([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]])  # clockwise to the eye (y is down): its back
    back, front = TRIANGLE, torch.tensor([[0, 2, 1]])
    assert rows(draw(points, back, (4, 4))) == rows(draw(points, front, (4, 4)))
    assert not draw(points, back, (4, 4), cull_backfaces=True).covered.any()
    assert rows(draw(points, front, (4, 4), cull_backfaces=True)) == ["000.", "00..", "0...", "...."]


@both
def test_clipped_at_near_not_dropped(draw) -> None:
    # A floor 1 m below the eye from 1 m behind the camera to 18 m ahead (y = 5.56), focal length 10 px, horizon y = 5:
    # at row centre y it lies at depth 10 / (y - 5), which near_z = 2 cuts at y = 10.
    floor = torch.tensor([[-90.0, 1.0, -1.0], [90.0, 1.0, -1.0], [90.0, 1.0, 18.0], [-90.0, 1.0, 18.0]])
    k = torch.tensor([[10.0, 0.0, 5.0], [0.0, 10.0, 5.0], [0.0, 0.0, 1.0]])
    points = (floor @ k.T)[None]
    raster = draw(points, torch.tensor([[0, 1, 2], [0, 2, 3]]), (14, 10), near_z=2.0)
    expected = torch.zeros(14)
    expected[6:10] = 10.0 / (torch.arange(6.0, 10.0) + 0.5 - 5.0)
    torch.testing.assert_close(raster.depth_z[0], expected[:, None].expand(14, 10), rtol=1e-5, atol=0)
    behind = draw(points, torch.tensor([[0, 1, 2], [0, 2, 3]]), (14, 10), near_z=2.0, far_z=10.0 / 3.0)
    torch.testing.assert_close(behind.depth_z[0, :, 4] > 0, (expected > 0) & (expected < 10.0 / 3.0))


@both
def test_a_face_behind_the_camera_is_invisible(draw) -> None:
    points = hom([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]], -1.0)
    assert not draw(points, TRIANGLE, (4, 4)).covered.any()


@both
def test_invisible_faces(draw) -> None:
    line = hom([[0.0, 0.0], [2.0, 2.0], [4.0, 4.0]])
    point = hom([[1.5, 1.5]] * 3)
    nan = hom([[0.0, 0.0], [4.0, 0.0], [0.0, float("nan")]])
    infinite = hom([[0.0, 0.0], [4.0, 0.0], [0.0, INF]])
    for points in (line, point, nan, infinite):
        raster = draw(points, TRIANGLE, (4, 4))
        assert not raster.covered.any()
        assert not raster.barycentrics.any() and not raster.depth_z.any()


@both
@pytest.mark.parametrize("size", [(0, 0), (0, 5), (3, 0), (1, 1), (1, 7), (5, 3)])
@pytest.mark.parametrize("faces", [0, 1, 3])
def test_sizes(draw, size: tuple[int, int], faces: int) -> None:
    points = torch.cat([hom([[-50.0, -50.0], [90.0, -50.0], [-50.0, 90.0]], z) for z in (3.0, 2.0, 1.0)], 1)
    raster = draw(points.expand(2, -1, -1), torch.arange(9).reshape(3, 3)[:faces], size)
    assert raster.face_index.shape == (2, *size)
    assert raster.barycentrics.shape == (2, *size, 3)
    assert (raster.face_index == faces - 1).all()
    nothing = draw(points[:0], torch.arange(9).reshape(3, 3)[:faces], size)
    assert nothing.face_index.shape == (0, *size)


def test_huge_triangles_reach_beyond_the_guard_band() -> None:
    # A wall 10 million pixels wide: clipped to the guard band first, still whole inside the image.
    wall = hom([[-1e7, -1e7], [1e7, -1e7], [1e7, 1e7], [-1e7, 1e7]], 2.0)
    raster = rasterize(wall, torch.tensor([[0, 1, 2], [0, 2, 3]]), 65, 130)
    assert raster.covered.all()
    # The weights come from numbers around 1e7 in float32: seven digits, of which one pixel is the last.
    torch.testing.assert_close(raster.depth_z, torch.full((1, 65, 130), 2.0), rtol=1e-5, atol=0)


@pytest.mark.parametrize("cells", [3, 17, 90])
def test_shared_edges_leave_no_hole_and_no_double(cells: int) -> None:
    """Every pixel of a triangulated plane is covered exactly once: peeling the first hit leaves nothing behind it."""
    size = (97, 121)
    points, faces = grid(cells, cells, size, torch.Generator().manual_seed(cells))
    raster = rasterize(points, faces, *size)
    assert raster.covered.all()
    # Shuffling the faces changes who is drawn first; were a pixel covered twice, some would change their owner.
    order = torch.randperm(len(faces), generator=torch.Generator().manual_seed(1))
    shuffled = rasterize(points, faces[order], *size)
    assert torch.equal(order[shuffled.face_index.long()], raster.face_index.long())


def test_edges_on_centres_leave_no_hole_and_no_double() -> None:
    """The hard case for the fill rule: a grid whose edges and corners all run through pixel centres."""
    size = (24, 24)
    points, faces = grid(4, 4, size, torch.Generator())
    steps = torch.arange(-3.0, 30.0, 3.0) + 0.5
    ys, xs = torch.meshgrid(steps, steps, indexing="ij")
    points = torch.stack([xs, ys, torch.ones_like(xs)], -1).reshape(1, -1, 3)
    n = len(steps)
    index = torch.arange(n * n).reshape(n, n)
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]
    faces = torch.cat([torch.stack([a, b, c], -1).reshape(-1, 3), torch.stack([a, c, d], -1).reshape(-1, 3)])
    raster = rasterize(points, faces, *size)
    assert raster.covered.all()
    order = torch.randperm(len(faces), generator=torch.Generator().manual_seed(1))
    shuffled = rasterize(points, faces[order], *size)
    assert torch.equal(order[shuffled.face_index.long()], raster.face_index.long())


def test_homogeneous_image_matches_the_camera_convention() -> None:
    # The first pixel's centre is at (0.5, 0.5): a point there projects to it.
    k = torch.tensor([[100.0, 0.0, 8.0], [0.0, 120.0, 6.0], [0.0, 0.0, 1.0]])
    view = torch.eye(4)
    view[:3, 3] = torch.tensor([0.1, -0.2, 3.0])
    world = torch.tensor([[1.0, 2.0, 1.0]])
    x, y, z = 1.1, 1.8, 4.0
    points = to_homogeneous_image(world, Cameras(view[None], k[None], 16, 12))
    torch.testing.assert_close(points, torch.tensor([[[100 * x + 8 * z, 120 * y + 6 * z, z]]]))


def test_bad_input_is_named() -> None:
    points, faces = hom([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]]), TRIANGLE
    rasterize = as_users_call_it(ops.rasterize)
    with pytest.raises(ShapeError, match=r"float32 \[B,V,3\]"):
        rasterize(points.double(), faces, 4, 4)
    with pytest.raises(ShapeError, match=r"found torch.int64 \(1, 4\)"):
        rasterize(points, torch.zeros(1, 4, dtype=torch.int64), 4, 4)
    with pytest.raises(ShapeError, match="index the 3 vertices"):
        rasterize(points, torch.tensor([[0, 1, 3]]), 4, 4)
    with pytest.raises(ShapeError, match="index the 3 vertices"):
        rasterize(points, torch.tensor([[0, 1, -1]]), 4, 4)
    with pytest.raises(ShapeError, match="16384"):
        rasterize(points, faces, 4, 20000)
    with pytest.raises(ShapeError, match="near_z"):
        rasterize(points, faces, 4, 4, near_z=0.0)


def test_operator_is_registered_properly() -> None:
    points, faces = hom([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]]), TRIANGLE
    torch.library.opcheck(torch.ops.headrecon.rasterize, (points, faces, 5, 7, 0.01, INF, False))


@pytest.mark.native
def test_description_of_what_is_built() -> None:
    report = _native.describe()
    assert report["built"] and report["hint"] == ""
    assert report["isa_in_use"] in report["isas_compiled"]
