"""The mesh renderer against what is known analytically of a sphere, and against plain expectations of a picture."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from headrecon.errors import ShapeError
from headrecon.io.meshes.loaded import read_mesh
from headrecon.rendering.cameras_orbit import orbit_cameras, preview_cameras
from headrecon.rendering.colour import linear_to_srgb, srgb_to_linear
from headrecon.rendering.lighting import Lighting, Surface, ambient
from headrecon.rendering.mesh import Appearance, RenderOptions, render_mesh, render_views
from headrecon.structures import Cameras, Mesh
from tests.ops.meshes import sphere

RADIUS, DISTANCE, FOCAL, SIZE = 0.1, 0.6, 400.0, 192
FLAT = RenderOptions(lighting=None)


def ball(rings: int = 120, segments: int = 240) -> Mesh:
    vertices, triangles, uvs = sphere(rings, segments, RADIUS)
    return Mesh(vertices, triangles, uvs, triangles)


def front_camera(size: int = SIZE) -> Cameras:
    """Looks from +z at the origin, DISTANCE away."""
    view = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))
    view[2, 3] = DISTANCE
    k = torch.tensor([[FOCAL, 0.0, size / 2], [0.0, FOCAL, size / 2], [0.0, 0.0, 1.0]])
    return Cameras(view[None], k[None], size, size)


def rays() -> torch.Tensor:
    """World directions of the pixel centres [H,W,3], z component -1."""
    ys, xs = torch.meshgrid(torch.arange(SIZE) + 0.5, torch.arange(SIZE) + 0.5, indexing="ij")
    return torch.stack([(xs - SIZE / 2) / FOCAL, -(ys - SIZE / 2) / FOCAL, -torch.ones_like(xs)], -1)


def exact_hit() -> tuple[torch.Tensor, torch.Tensor]:
    """depth_z of the ray through each pixel to the exact sphere (NaN where it misses), and the normals there."""
    direction, origin = rays().double(), torch.tensor([0.0, 0.0, DISTANCE]).double()
    a, b = (direction**2).sum(-1), (direction * origin).sum(-1)
    depth = (-b - (b * b - a * ((origin**2).sum() - RADIUS**2)).sqrt()) / a
    return depth, (origin + depth[..., None] * direction) / RADIUS


def test_sphere_silhouette_depth_and_normals() -> None:
    output = render_mesh(ball(), front_camera(), options=replace(FLAT, supersample=3))
    # The outline of a sphere is a circle of this radius in pixels; the polyhedron lies inside by a factor cos(pi/240).
    outline = FOCAL * RADIUS / math.sqrt(DISTANCE**2 - RADIUS**2)
    area = float(output.alpha.sum())
    assert area == pytest.approx(math.pi * outline**2, rel=1e-3)
    depth, normals = exact_hit()
    inner = torch.nan_to_num(normals[..., 2]) > 0.4  # away from the outline, where depth rises without bound
    # The facets' sagitta: R (1 - cos(pi/120)) = 0.034 mm over the largest edge, divided by the cosine towards the eye.
    assert (output.depth_z[0] - depth)[inner].abs().max() < 1e-4
    assert torch.linalg.vector_norm(output.normals[0] - normals, dim=-1)[inner].max() < 2e-3
    empty = torch.isnan(depth)
    assert not output.depth_z[0][empty].any() and (output.face_index[0][empty] == -1).all()
    assert not output.normals[0][empty].any() and not output.barycentrics[0][empty].any()


def test_lambert_shading_of_a_sphere() -> None:
    """One light along +z on a white matt ball: linear light equals n.z."""
    light = Lighting(torch.zeros(9, 3), torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[1.0, 0.5, 0.25]]))
    matt = Appearance(base_srgb=(1.0, 1.0, 1.0), surface=Surface(specular=0.0, wrap=(0.0, 0.0, 0.0)))
    output = render_mesh(ball(), front_camera(), matt, RenderOptions(lighting=light, supersample=1))
    _, normals = exact_hit()
    inner = torch.nan_to_num(normals[..., 2]) > 0.2
    expected = normals[..., 2:].float() * torch.tensor([1.0, 0.5, 0.25])
    # At n.z = 0.2 the facets' sagitta (0.034 mm) moves the point by 0.17 mm along the ball, which turns n by 0.0017.
    torch.testing.assert_close(srgb_to_linear(output.image_srgb[0])[inner], expected[inner], rtol=0, atol=5e-3)


def test_ambient_light_runs_from_bottom_to_top() -> None:
    light = Lighting(ambient((0.8, 0.6, 0.4), (0.2, 0.2, 0.0)), torch.zeros(0, 3), torch.zeros(0, 3))
    white = Appearance(base_srgb=(1.0, 1.0, 1.0))
    output = render_mesh(ball(), front_camera(), white, RenderOptions(lighting=light, supersample=1))
    _, normals = exact_hit()
    inner = torch.nan_to_num(normals[..., 2]) > 0.2
    up = (0.5 + 0.5 * normals[..., 1:2]).float()
    expected = up * torch.tensor([0.8, 0.6, 0.4]) + (1 - up) * torch.tensor([0.2, 0.2, 0.0])
    torch.testing.assert_close(srgb_to_linear(output.image_srgb[0])[inner], expected[inner], rtol=0, atol=3e-3)


def test_view_light_stays_with_the_camera_and_world_light_with_the_head() -> None:
    cameras = orbit_cameras(ball().vertices, [0.0, 120.0], 96)
    lamp = Lighting(torch.zeros(9, 3), torch.tensor([[0.0, 0.0, 1.0]]), torch.ones(1, 3), space="view")
    view = render_mesh(ball(), cameras, options=RenderOptions(lighting=lamp)).image_srgb
    torch.testing.assert_close(view[0], view[1], rtol=0, atol=0.02)
    world = render_mesh(ball(), cameras, options=RenderOptions(lighting=replace(lamp, space="world"))).image_srgb
    torch.testing.assert_close(world[0], view[0], rtol=0, atol=1e-5)
    assert world[1][48, 48].max() < 0.02


def test_unlit_colours_come_through_exactly() -> None:
    colour = (0.1, 0.5, 0.9)
    output = render_mesh(ball(20, 40), front_camera(), Appearance(base_srgb=colour), FLAT)
    solid = output.alpha == 1
    # The sRGB curve is tabulated with 4096 entries.
    torch.testing.assert_close(
        output.image_srgb[solid], torch.tensor(colour).expand(int(solid.sum()), 3), rtol=0, atol=1e-5
    )
    vertex = torch.tensor(np.linspace(0, 1, len(ball(20, 40).vertices))[:, None].repeat(3, 1)).float()
    by_vertex = render_mesh(ball(20, 40), front_camera(), Appearance(vertex_srgb=vertex), FLAT)
    assert by_vertex.image_srgb[0, SIZE // 2, SIZE // 2, 0] == pytest.approx(0.5, abs=0.02)
    top, bottom = by_vertex.image_srgb[0, [60, 130], SIZE // 2, 0]
    assert top < 0.4 < 0.6 < bottom


def test_texture_stands_upright_and_is_not_mirrored() -> None:
    """Quadrants of the front: upper left of the texture's front half must appear upper left in the picture."""
    texture = torch.zeros(64, 128, 3)
    texture[:32, 32:64] = torch.tensor([1.0, 0.0, 0.0])  # u 0.25..0.5, v 0.5..1: image left (-x), up
    texture[:32, 64:96] = torch.tensor([0.0, 1.0, 0.0])  # right (+x), up
    texture[32:, 32:64] = torch.tensor([0.0, 0.0, 1.0])  # left, down
    output = render_mesh(ball(), front_camera(), Appearance(texture_srgb=texture), FLAT)
    image, half, off = output.image_srgb[0], SIZE // 2, 30
    torch.testing.assert_close(image[half - off, half - off], torch.tensor([1.0, 0.0, 0.0]), rtol=0, atol=1e-5)
    torch.testing.assert_close(image[half - off, half + off], torch.tensor([0.0, 1.0, 0.0]), rtol=0, atol=1e-5)
    torch.testing.assert_close(image[half + off, half - off], torch.tensor([0.0, 0.0, 1.0]), rtol=0, atol=1e-5)


def test_a_fine_texture_turns_grey_in_a_small_picture_instead_of_shimmering() -> None:
    # A checkerboard of single texels, 16 texels to a pixel: every pixel must show the mean of black and white.
    ys, xs = torch.meshgrid(torch.arange(2048), torch.arange(4096), indexing="ij")
    checkers = ((xs + ys) % 2).float()[..., None].expand(-1, -1, 3).contiguous()
    mesh = ball(40, 80)
    small = render_mesh(mesh, orbit_cameras(mesh.vertices, [10.0], 64), Appearance(texture_srgb=checkers), FLAT)
    found = small.image_srgb[small.alpha == 1]
    torch.testing.assert_close(found, torch.full_like(found, 0.5), rtol=0, atol=0.02)
    # A texture that fits the picture is left alone.
    plain = checkers[:16, :32].contiguous()
    large = render_mesh(mesh, front_camera(), Appearance(texture_srgb=plain), FLAT).image_srgb
    assert large.min() < 0.05


def test_background_and_alpha() -> None:
    colour = (0.8, 0.2, 0.4)
    over = render_mesh(
        ball(20, 40), front_camera(), Appearance(base_srgb=colour), replace(FLAT, background_srgb=(0.1, 0.3, 0.5))
    )
    straight = render_mesh(
        ball(20, 40), front_camera(), Appearance(base_srgb=colour), replace(FLAT, background_srgb=None)
    )
    torch.testing.assert_close(over.image_srgb[0, 0, 0], torch.tensor([0.1, 0.3, 0.5]))
    assert not straight.image_srgb[0, 0, 0].any()
    edge = (straight.alpha > 0) & (straight.alpha < 1)
    assert edge.sum() > 100
    # Straight colours do not darken towards the outline.
    torch.testing.assert_close(
        straight.image_srgb[edge], torch.tensor(colour).expand(int(edge.sum()), 3), rtol=0, atol=1e-5
    )
    mixed = srgb_to_linear(torch.tensor(colour)) * straight.alpha[edge][:, None]
    mixed = mixed + srgb_to_linear(torch.tensor([0.1, 0.3, 0.5])) * (1 - straight.alpha[edge][:, None])
    torch.testing.assert_close(over.image_srgb[edge], linear_to_srgb(mixed), rtol=0, atol=1e-5)


def test_inside_faces_show_unless_culled() -> None:
    vertices, triangles, _ = sphere(40, 80, RADIUS)
    inside_out = Mesh(vertices, triangles[:, ::-1])
    camera = front_camera()
    shown = render_mesh(inside_out, camera)
    facing = (shown.normals[0] * rays()).sum(-1)[shown.face_index[0] >= 0]
    # The far half of an inside-out ball is hidden by its near half, which is lit as if it faced the camera.
    assert (facing < 0.1).all()
    torch.testing.assert_close(
        shown.image_srgb, render_mesh(Mesh(vertices, triangles), camera).image_srgb, rtol=0, atol=1e-3
    )
    culled = render_mesh(inside_out, camera, options=RenderOptions(cull_backfaces=True))
    assert culled.depth_z.max() > DISTANCE > shown.depth_z.max()


def test_flat_shading_has_one_normal_per_face() -> None:
    output = render_mesh(ball(8, 16), front_camera(), options=RenderOptions(smooth=False))
    for face in output.face_index.unique()[1:6]:
        normals = output.normals[output.face_index == face]
        torch.testing.assert_close(normals, normals[:1].expand_as(normals))


def test_quads_render_as_their_triangles() -> None:
    square = np.array([[-0.1, -0.1, 0.0], [0.1, -0.1, 0.0], [0.1, 0.1, 0.0], [-0.1, 0.1, 0.0]])
    quad = render_mesh(Mesh(square, np.array([[0, 1, 2, 3]])), front_camera())
    triangles = render_mesh(Mesh(square, np.array([[0, 1, 2], [0, 2, 3]])), front_camera())
    assert torch.equal(quad.image_srgb, triangles.image_srgb) and torch.equal(quad.face_index, triangles.face_index)


def test_views_one_by_one_are_the_same() -> None:
    mesh = ball(10, 20)
    cameras = orbit_cameras(mesh.vertices, [0.0, 50.0], (40, 32))
    together = render_mesh(mesh, cameras)
    assert together.image_srgb.shape == (2, 32, 40, 3)
    for i, view in enumerate(render_views(mesh, cameras)):
        assert torch.equal(view.image_srgb[0], together.image_srgb[i])
        assert torch.equal(view.normals[0], together.normals[i])


@pytest.mark.parametrize("size", [1, 5])
def test_small_pictures_and_empty_meshes(size: int) -> None:
    nothing = Mesh(np.zeros((0, 3)), np.zeros((0, 3), dtype=np.int64))
    output = render_mesh(nothing, front_camera(size))
    assert output.image_srgb.shape == (1, size, size, 3) and not output.alpha.any()
    torch.testing.assert_close(output.image_srgb, torch.ones_like(output.image_srgb))
    assert render_mesh(ball(4, 8), front_camera(size)).alpha[0, size // 2, size // 2] == 1


def test_bad_input_is_named() -> None:
    mesh, camera = ball(4, 8), front_camera(8)
    bytes_texture = torch.zeros(4, 4, 3, dtype=torch.uint8)
    with pytest.raises(ShapeError, match="uvs"):
        render_mesh(Mesh(mesh.vertices, mesh.faces), camera, Appearance(texture_srgb=torch.rand(4, 4, 3)))
    with pytest.raises(ShapeError, match="vertex_srgb"):
        render_mesh(mesh, camera, Appearance(vertex_srgb=torch.rand(5, 3)))
    # Built as a user without shape checks would: they refuse the bytes before the renderer can.
    unchecked = Appearance()
    object.__setattr__(unchecked, "texture_srgb", bytes_texture)
    with pytest.raises(ShapeError, match=r"float \[H,W,3\] in 0..1, found torch.uint8"):
        render_mesh(mesh, camera, unchecked)
    with pytest.raises(ShapeError, match="supersample"):
        render_mesh(mesh, camera, options=RenderOptions(supersample=4))


def test_real_scan_is_whole_and_its_colours_sit_right(shared_data) -> None:
    """A scanned head with its colour map: no cracks inside the outline, lips below the nose and skin above it."""
    folder = shared_data / "scans" / "lee_perry_smith"
    scan = read_mesh(folder / "LeePerrySmith.obj").mesh
    with Image.open(folder / "Map-COL.jpg") as picture:
        texture = torch.from_numpy(np.array(picture.convert("RGB"))).float() / 255
    cameras = preview_cameras(scan.vertices, ["front", "profile"], 400)
    output = render_mesh(scan, cameras, Appearance(texture_srgb=texture), FLAT)
    for alpha in output.alpha:
        marks = np.zeros(alpha.shape, np.int32)
        ndimage.label((alpha == 0).numpy(), structure=np.ones((3, 3)), output=marks)
        assert marks.max() == 1  # the background around the bust; a crack would be another piece
    depth = output.depth_z[0].clone()
    depth[depth == 0] = torch.inf
    top = int(torch.nonzero(output.alpha[0].amax(1) > 0)[0, 0])
    nose = top + int(depth[top : top + 200, 190:210].amin(1).argmin())  # the tip: what comes nearest
    redness = (output.image_srgb[0, :, 190:210, 0] - output.image_srgb[0, :, 190:210, 1]).mean(1)
    assert redness[nose : nose + 30].max() > redness[nose - 60 : nose - 5].max() + 0.03
