"""Fits by gradient descent through the differentiable renderer, and its gradients against differences of pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from headrecon.errors import ShapeError
from headrecon.ops.antialias import face_neighbours
from headrecon.ops.texture import texture_pyramid
from headrecon.rendering.differentiable import MeshTopology, MeshView, view_mesh
from headrecon.structures import Cameras, Mesh
from tests.ops.meshes import sphere


def ball(rings: int = 24, segments: int = 32) -> tuple[Tensor, MeshTopology]:
    """An egg-shaped closed mesh of about 10 cm, whose seam's vertices are welded while its UVs keep the seam."""
    vertices, triangles, uvs = sphere(rings, segments)
    _, first, which = _weld(torch.from_numpy(vertices.round(9)))
    welded = torch.from_numpy(vertices).float()[first] * torch.tensor([0.08, 0.12, 0.10])
    faces = which[torch.from_numpy(triangles)]
    real = (faces != faces.roll(1, 1)).all(1)
    faces, uv_faces = faces[real].int(), torch.from_numpy(triangles)[real].int()
    return welded, MeshTopology(faces, face_neighbours(faces), torch.from_numpy(uvs).float(), uv_faces)


def _weld(places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Different places, the first row of each, and the place of every row."""
    unique, which = places.unique(dim=0, return_inverse=True)
    first = torch.full((len(unique),), len(places)).scatter_reduce(0, which, torch.arange(len(places)), "amin")
    return unique, first, which


def cameras(angles: list[float], size: int, distance: float = 0.6) -> Cameras:
    """Cameras on a circle round the origin, which they look at; the mesh's +y is up."""
    views = []
    for angle in torch.tensor(angles).deg2rad():
        c, s = torch.cos(angle), torch.sin(angle)
        turn = torch.tensor([[c, 0.0, -s], [0.0, -1.0, 0.0], [-s, 0.0, -c]])
        view = torch.eye(4)
        view[:3, :3] = turn
        view[2, 3] = distance
        views.append(view)
    k = torch.tensor([[1.9 * size, 0.0, size / 2], [0.0, 1.9 * size, size / 2], [0.0, 0.0, 1.0]])
    return Cameras(torch.stack(views), k.expand(len(angles), 3, 3), size, size)


def waves(height: int, width: int) -> Tensor:
    """A smooth coloured texture [H,W,3] that is the same at both ends of u."""
    v, u = torch.meshgrid(torch.linspace(0, 1, height), torch.arange(width) / width, indexing="ij")
    turns = 2 * torch.pi * u
    return 0.5 + 0.4 * torch.stack([torch.sin(2 * turns + 3 * v), torch.sin(3 * turns - 6 * v), torch.cos(9 * v)], -1)


def test_silhouettes_alone_recover_place_and_size() -> None:
    """Two outlines, no colour: only the antialiased edges carry gradients. 9 mm off and 15 % too small at first."""
    vertices, topology = ball(14, 20)
    eyes = cameras([0.0, 75.0], 48)
    true_shift, true_scale = torch.tensor([0.006, -0.004, 0.005]), 1.15
    with torch.no_grad():
        wanted = view_mesh(true_scale * vertices + true_shift, topology, eyes).coverage()
    shift = torch.zeros(3, requires_grad=True)
    log_scale = torch.zeros((), requires_grad=True)
    optimiser = torch.optim.Adam([{"params": [shift], "lr": 1e-3}, {"params": [log_scale], "lr": 1e-2}])
    losses = []
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, 0.97)
    for _ in range(90):
        seen = view_mesh(log_scale.exp() * vertices + shift, topology, eyes).coverage()
        loss = (seen - wanted).square().sum()
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    # A pixel is 6.6 mm wide on the mesh.
    assert (shift - true_shift).abs().max() < 3e-4
    assert log_scale.exp().item() == pytest.approx(true_scale, rel=3e-3)
    assert losses[-1] < 0.001 * losses[0]


def test_pictures_recover_a_texture() -> None:
    """Four pictures of a known egg: gradient descent on the texels until the pictures agree gives the texture back."""
    vertices, topology = ball(14, 20)
    truth = waves(32, 64)
    eyes = cameras([0.0, 90.0, 180.0, 270.0], 64)
    view = view_mesh(vertices, topology, eyes)
    wanted = view.picture(view.texture(truth, wrap="repeat", smallest_side=8))
    texture = torch.full_like(truth, 0.5).requires_grad_()
    optimiser = torch.optim.Adam([texture], lr=0.05)
    for _ in range(60):
        seen = view.picture(view.texture(texture, wrap="repeat", smallest_side=8))
        loss = (seen - wanted).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    # The poles are seen edge on, from far above and below the middle: only what the pictures show can be recovered.
    error = (texture - truth).abs()[6:-6]
    assert error.mean() < 0.01 and error.max() < 0.1
    assert (0.5 - truth).abs().mean() > 0.2


def move(vertices: Tensor, how: str, amount: Tensor) -> Tensor:
    """The whole mesh shifted, turned about its long axis or grown; a step of 0.1 moves it about half a pixel."""
    if how == "shift":
        return vertices + amount * torch.tensor([0.01, 0.007, 0.004])
    if how == "grow":
        return vertices * (1 + 0.1 * amount)
    zero, c, s = torch.zeros(()), torch.cos(0.1 * amount), torch.sin(0.1 * amount)
    return vertices @ torch.stack([c, -s, zero, s, c, zero, zero, zero, zero + 1]).reshape(3, 3).T


@pytest.mark.parametrize("how", ["shift", "turn", "grow"])
@pytest.mark.parametrize("part", ["outline", "texture"])
def test_gradients_against_differences_of_pictures(part: str, how: str) -> None:
    """How a weighted sum of pixels changes as the mesh moves: its outline in one colour, or the texture inside it.

    (Both at once agree less well: at the very rim the texture runs faster over the pixels than they can show.)
    """
    vertices, topology = ball()
    pyramid = texture_pyramid(waves(64, 128), 16)
    colour, background = torch.tensor([0.5, 0.2, 0.9]), torch.tensor([0.1, 0.9, 0.3])
    eyes = cameras([20.0, 150.0], 160)
    generator = torch.Generator().manual_seed(0)
    # Smooth weights: outlines jump from one pixel to the next.
    weights = torch.nn.functional.interpolate(torch.randn(2, 3, 6, 6, generator=generator), size=160, mode="bicubic")
    weights = weights.permute(0, 2, 3, 1)
    covered = view_mesh(vertices, topology, eyes).raster.covered.float()
    inside = (torch.nn.functional.avg_pool2d(covered, 15, stride=1, padding=7) > 0.999)[..., None]

    def total(amount: Tensor) -> Tensor:
        view = view_mesh(move(vertices, how, amount), topology, eyes)
        if part == "outline":
            return (view.picture(colour.expand(2, 160, 160, 3), background) * weights).sum()
        return (view.texture(pyramid, wrap="repeat") * weights * inside).sum()

    amount = torch.zeros((), requires_grad=True)
    total(amount).backward()
    with torch.no_grad():
        difference = (total(torch.tensor(0.1)) - total(torch.tensor(-0.1))).item() / 0.2
    assert amount.grad is not None and abs(difference) > 5.0
    assert amount.grad.item() == pytest.approx(difference, rel=0.02, abs=1.0)


def test_a_small_picture_does_not_shimmer() -> None:
    """From far away mipmaps show the mean of fine stripes, wherever pixels fall; the finest level alone does not."""
    vertices, topology = ball()
    stripes = (torch.arange(512) % 2).float()[None, :, None].expand(256, 512, 1).contiguous()
    eyes = cameras([0.0], 40)
    view = view_mesh(vertices, topology, eyes)
    middle = (slice(None), slice(12, 28), slice(14, 26))
    filtered = view.texture(stripes, smallest_side=4)[middle]
    raw = view.texture(stripes, smallest_side=512)[middle]
    assert (filtered - 0.5).abs().max() < 0.01
    assert raw.std() > 0.2


def test_one_mesh_for_each_camera() -> None:
    vertices, topology = ball(8, 12)
    eyes = cameras([0.0, 40.0], 24)
    both = torch.stack([vertices, 0.5 * vertices]).requires_grad_()
    view = view_mesh(both, topology, eyes)
    view.coverage().sum().backward()
    colour = torch.rand(2, len(vertices), 3, generator=torch.Generator().manual_seed(0))
    assert view.attributes(colour).shape == (2, 24, 24, 3)
    assert both.grad is not None and (both.grad.abs().sum((1, 2)) > 0).all()
    alone = view_mesh(0.5 * vertices, topology, Cameras(eyes.viewmats[1:], eyes.Ks[1:], 24, 24))
    assert torch.equal(alone.coverage()[0], view.coverage()[1])
    textures = torch.stack([waves(8, 16), 1 - waves(8, 16)])
    assert torch.equal(view.texture(textures)[1], alone.texture(textures[1])[0])


def test_topology_of_a_mesh_with_quads() -> None:
    vertices, triangles, uvs = sphere(4, 6)
    mesh = Mesh(vertices, triangles, uvs, triangles)
    topology = MeshTopology.of(mesh)
    assert topology.triangles.dtype == torch.int32 and len(topology.triangles) == len(triangles)
    quads = MeshTopology.of(Mesh(vertices, np.array([[0, 1, 8, 7], [1, 2, 9, -1]])))
    assert quads.triangles.tolist() == [[0, 1, 8], [0, 8, 7], [1, 2, 9]] and quads.uvs is None
    assert quads.neighbours.tolist() == [[-1, 1, -1], [-1, -1, 0], [-1, -1, -1]]


def test_bad_input_is_named() -> None:
    vertices, topology = ball(4, 6)
    eyes = cameras([0.0], 8)
    with pytest.raises(ShapeError, match=r"viewmats \[C,4,4\]"):
        view_mesh(vertices, topology, Cameras(eyes.viewmats[0], eyes.Ks[0], 8, 8))
    bare = MeshTopology(topology.triangles, topology.neighbours)
    view: MeshView = view_mesh(vertices, bare, eyes)
    with pytest.raises(ShapeError, match="uvs and uv_triangles"):
        view.texture(torch.rand(4, 4, 3))
