from __future__ import annotations

import numpy as np
import pytest
import torch

from headrecon.appearance.diffusion import Guide, Prior, SeenColors, diffuse_colors, mirror_vertices
from headrecon.appearance.projection import Photo, look, see
from headrecon.appearance.pull_push import pull_push
from headrecon.structures import Cameras
from tests.synthetic_assets import make_tiny_assets


def strip(count: int) -> tuple[np.ndarray, np.ndarray]:
    """A flat ribbon of 2 x count vertices, 1 cm apart; the first `count` along y = 0."""
    x = np.arange(count) * 0.01
    vertices = np.concatenate([np.stack([x, 0 * x, 0 * x], 1), np.stack([x, 0 * x + 0.01, 0 * x], 1)])
    i = np.arange(count - 1)
    faces = np.concatenate([np.stack([i, i + 1, i + count], 1), np.stack([i + 1, i + 1 + count, i + count], 1)])
    return vertices, faces


def solve(
    count: int, known: dict[int, float], guide: np.ndarray | None = None, prior: float = 0.5, strength: float = 1.0
):
    vertices, faces = strip(count)
    colors, weight = np.zeros((2 * count, 3)), np.zeros(2 * count)
    for i, value in known.items():
        colors[[i, i + count]], weight[[i, i + count]] = value, 1.0
    guided = Guide(np.zeros((2 * count, 3)), np.zeros(2 * count, dtype=bool))
    if guide is not None:
        guided = Guide(np.tile(guide[:, None], (2, 3)), np.ones(2 * count, dtype=bool))
    expected = Prior(np.full((2 * count, 3), prior), np.full(2 * count, strength))
    done = diffuse_colors(vertices, faces, SeenColors(colors, weight), guided, expected)
    return done[:count, 0]


def test_seen_colours_are_kept_and_the_gap_is_bridged():
    got = solve(7, {0: 0.2, 1: 0.2, 5: 0.8, 6: 0.8}, prior=0.5)
    np.testing.assert_allclose(got[[0, 6]], [0.2, 0.8], atol=0.01)
    assert (np.diff(got) > -1e-9).all()
    assert got[3] == pytest.approx(0.5, abs=0.01)


def test_far_from_everything_the_prior_rules():
    got = solve(80, {0: 0.9}, prior=0.3)
    assert got[0] == pytest.approx(0.9, abs=0.05)
    assert got[-1] == pytest.approx(0.3, abs=1e-3)


def test_a_firm_prior_begins_sooner():
    hint, firm = (solve(40, {0: 0.9}, prior=0.3, strength=s) for s in (1.0, 12.0))
    assert (firm[1:12] < hint[1:12]).all()
    assert firm[8] < 0.35 < hint[8]


def test_the_guide_gives_differences_not_values():
    """Unseen vertices follow the guide's ups and downs although its level is another."""
    ripple = 0.05 * np.sin(np.arange(9) * 1.5)
    got = solve(9, {0: 0.4, 8: 0.4}, guide=0.8 + ripple - np.linspace(ripple[0], ripple[8], 9), prior=0.4)
    expected = 0.4 + ripple - np.linspace(ripple[0], ripple[8], 9)
    np.testing.assert_allclose(got, expected, atol=0.012)


def test_mirror_of_a_symmetric_head():
    template = make_tiny_assets().v_template.astype(np.float64)
    index, symmetric = mirror_vertices(template)
    assert symmetric.mean() > 0.95
    np.testing.assert_allclose(template[index[symmetric]] * [-1, 1, 1], template[symmetric], atol=4e-3)
    index, symmetric = mirror_vertices(template + [0.1, 0, 0])
    assert symmetric.mean() < 0.1


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (16, 16), (33, 2)])
def test_pull_push_keeps_the_known_and_fills_the_rest(shape):
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.uniform(0.2, 0.8, (*shape, 3))).float()
    known = torch.zeros(shape)
    known[0, 0] = 1
    known[-1, -1] = 1
    got = pull_push(image, known)
    torch.testing.assert_close(got[known > 0], image[known > 0])
    low, high = image[known > 0].amin(0), image[known > 0].amax(0)
    assert (got >= low - 1e-5).all()
    assert (got <= high + 1e-5).all()


def test_pull_push_of_one_colour_is_that_colour():
    image = torch.full((32, 24, 3), 0.37)
    known = (torch.rand(32, 24, generator=torch.Generator().manual_seed(0)) > 0.8).float()
    torch.testing.assert_close(pull_push(image, known), image, atol=1e-5, rtol=0)


def two_planes() -> tuple[torch.Tensor, torch.Tensor]:
    """A plate of 10 cm at z = 0 that faces +z and one of 40 cm, 5 cm behind it."""
    corners = torch.tensor([[-1.0, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]])
    vertices = torch.cat([corners * 0.05, corners * 0.2 - torch.tensor([0, 0, 0.05])])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]], dtype=torch.int32)
    return vertices, faces


def camera_in_front(distance: float = 1.0) -> Cameras:
    viewmat = torch.diag(torch.tensor([1.0, -1, -1, 1]))
    viewmat[2, 3] = distance
    return Cameras(viewmat, torch.tensor([[500.0, 0, 100], [0, 500, 100], [0, 0, 1]]), 200, 200)


def test_hidden_points_and_points_at_outlines_are_not_seen():
    vertices, faces = two_planes()
    view = look(Photo(torch.rand(200, 200, 3), camera_in_front()), vertices, faces, torch.zeros(4).long(), 1000)
    points = torch.tensor(
        [
            [0.0, 0, 0],  # front plate, middle: seen
            [0.0, 0, -0.05],  # behind it: hidden
            [0.12, 0, -0.05],  # beside it on the large plate: seen
            [0.0495, 0, 0],  # at the front plate's rim: faded
            [9.0, 0, 0],  # outside the picture
        ]
    )
    normals = torch.tensor([[0.0, 0, 1]]).expand(5, 3)
    weight = see(view, points, normals).weight
    assert weight[[0, 2]].tolist() == [1, 1]
    assert weight[[1, 4]].tolist() == [0, 0]
    assert weight[3] < 0.2


def test_slanted_surfaces_count_less():
    vertices, faces = two_planes()
    view = look(Photo(torch.rand(200, 200, 3), camera_in_front()), vertices, faces, torch.zeros(4).long(), 1000)
    angles = torch.deg2rad(torch.tensor([0.0, 40, 70, 85, 120]))
    normals = torch.stack([angles.sin(), 0 * angles, angles.cos()], 1)
    weight = see(view, torch.zeros(5, 3), normals).weight
    assert (weight.diff() <= 1e-6).all()
    assert weight[0] == 1
    assert weight[3:].tolist() == [0, 0]


def test_colours_are_found_where_the_camera_says():
    """A photo whose red is its column and green its row, cropped and scaled inside, still gives those numbers."""
    from headrecon.appearance.projection import sample

    ramp = (torch.arange(200) + 0.5) / 200
    image = torch.stack(torch.broadcast_tensors(ramp[None], ramp[:, None], torch.zeros(1)), -1).contiguous()
    vertices, faces = two_planes()
    for target in (1000, 80):
        view = look(Photo(image, camera_in_front()), vertices, faces, torch.zeros(4).long(), target)
        points = torch.tensor([[0.02, 0.03, 0.0], [-0.04, 0.01, 0.0]])
        got = sample(view.image_srgb, see(view, points, torch.tensor([[0.0, 0, 1]]).expand(2, 3)).pixels)
        expected = torch.tensor([[110.0, 85], [80, 95]]) / 200  # by hand: 100 + 500 x, 100 - 500 y
        torch.testing.assert_close(got[:, :2], expected, atol=2e-3, rtol=0)
