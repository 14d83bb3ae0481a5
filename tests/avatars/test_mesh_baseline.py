"""The textured mesh that stands beside avatars: it takes colours from its frames and moves as they do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from headrecon.avatars.files import settled
from headrecon.avatars.footage import Footage
from headrecon.avatars.held_out import Drawable, drawn_row, split
from headrecon.avatars.mesh_baseline import TexturedMesh, fit_mesh
from headrecon.avatars.protocol import Person
from headrecon.avatars.synthetic_footage import SyntheticFootageOptions, novel_views, synthetic_footage
from headrecon.datasets.head_motion import MotionOptions
from headrecon.datasets.synthetic_video import VideoOptions
from headrecon.evaluation.picture_quality import psnr
from headrecon.structures import Cameras
from tests.synthetic_assets import make_tiny_assets

OPTIONS = SyntheticFootageOptions(
    VideoOptions(
        seconds=0.8, size=128, noise=0.0, blur_px=0.0, texture_size=128, torso=True, hair=False,
        motion=MotionOptions(turn=30.0, sway=10.0, camera=0.0, light=False),
    )
)  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory):
    assets = make_tiny_assets()
    footage = synthetic_footage(assets, 3, tmp_path_factory.mktemp("mesh") / "footage", OPTIONS)
    betas = np.asarray(footage.track.betas)
    neutral = assets.v_template + assets.shapedirs @ betas
    person = Person(settled(assets, neutral), betas, np.zeros((assets.num_vertices, 3)), ())
    train, test = split(footage, 0.2)
    return footage, fit_mesh(footage, train, person, size=128), test


def error(mesh: TexturedMesh, footage: Footage, row: int) -> float:
    return psnr(drawn_row(mesh, footage.track, row), footage.matted(row))


def test_it_looks_like_frames_that_it_has_not_seen(made):
    footage, mesh, test = made
    judged: object = mesh
    assert isinstance(judged, Drawable)
    blank = replace(mesh, texture_srgb=np.full_like(mesh.texture_srgb, 0.5))
    for row in (int(i) for i in test):
        assert error(mesh, footage, row) > 20
        assert error(mesh, footage, row) > error(blank, footage, row) + 2


def test_the_billboard_is_shoulders_and_moves(made):
    footage, mesh, test = made
    row = int(test[-1])
    assert error(mesh, footage, row) > error(replace(mesh, behind=None), footage, row) + 3
    board = mesh.behind
    first = board.seen(board.at, board.pixels_per_metre, 128, 128)
    moved = board.seen(board.at + [7.0, 3.0], board.pixels_per_metre, 128, 128)
    assert np.abs(moved[3:, 7:] - first[:-3, :-7]).max() < 1e-5


def test_pictures_and_opacity_agree(made):
    footage, mesh, _ = made
    track = footage.track
    from headrecon.avatars.held_out import params_of

    camera = Cameras(track.cameras.viewmats[:1], track.cameras.Ks[:1], 128, 128).torch()
    params = params_of(track, 0, mesh.person.assets)
    black, white = (mesh.render(params, camera, torch.full((3,), v)) for v in (0.0, 1.0))
    assert torch.allclose(
        white.image_srgb - black.image_srgb, 1 - black.alpha[..., None].expand(-1, -1, -1, 3), atol=1e-5
    )
    assert float(black.alpha.max()) <= 1 + 1e-6 and float(black.alpha[0, 64, 64]) == pytest.approx(1.0)


def test_views_from_beside_are_of_the_same_instant():
    assets = make_tiny_assets()
    views = novel_views(assets, 3, (4,), ((0.0, 0.0), (30.0, 0.0), (-30.0, 0.0), (0.0, 20.0)), OPTIONS)
    own = np.asarray(views.track.cameras.viewmats[0])
    assert len(views) == 4 and len(np.unique(views.track.params.transl, axis=0)) == 1
    eyes = [-v[:3, :3].T @ v[:3, 3] for v in np.asarray(views.track.cameras.viewmats)]
    assert np.allclose(own, np.diag([1.0, -1.0, -1.0, 1.0]))
    # The camera looks along -z: at 30 degrees to the person's left it stands at +x, from above at +y.
    assert eyes[1][0] > 0.1 and eyes[2][0] < -0.1 and eyes[3][1] > 0.1
    assert np.abs(views.alphas[1].astype(int) - views.alphas[2]).mean() > 1  # and they see different things
