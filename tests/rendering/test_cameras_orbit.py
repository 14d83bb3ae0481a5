"""Preview cameras look where they say, upright, with the whole head in the picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from headrecon.errors import ShapeError
from headrecon.geometry.cameras import camera_centers, project_points
from headrecon.rendering.cameras_orbit import VIEW_YAWS, orbit_cameras, preview_cameras, turntable_cameras

HEAD = np.random.default_rng(0).uniform([-0.08, 0.02, -0.11], [0.08, 0.27, 0.10], size=(500, 3))


def test_named_views_stand_where_they_should() -> None:
    front, left, back = camera_centers(preview_cameras(HEAD, ["front", "profile", "back"]))
    assert front[2] > 0.3 and abs(front[0]) < 0.01
    assert left[0] > 0.3 and abs(left[2]) < 0.02
    assert back[2] < -0.3


def test_front_view_is_upright_and_shows_the_subjects_left_on_the_right() -> None:
    cameras = preview_cameras(HEAD, ["front"]).torch()
    centre = torch.tensor([0.0, 0.145, 0.0])
    points = torch.stack([centre, centre + torch.tensor([0.01, 0, 0]), centre + torch.tensor([0, 0.01, 0])])
    pixels, _ = project_points(points[None], cameras)
    middle, left, up = pixels[0]
    assert left[0] > middle[0] + 5
    assert up[1] < middle[1] - 5


@pytest.mark.parametrize("size", [(400, 400), (640, 300), (300, 640)])
@pytest.mark.parametrize("pitch", [0.0, 25.0])
def test_everything_is_in_the_picture_and_fills_it(size: tuple[int, int], pitch: float) -> None:
    cameras = orbit_cameras(HEAD, [40.0 * i for i in range(9)], size, pitch_degrees=pitch)
    pixels, depth = project_points(torch.as_tensor(HEAD).float().expand(9, -1, -1), cameras)
    assert (depth > 0).all()
    share = pixels / torch.tensor(size)
    assert share.min() > 0.03 and share.max() < 0.97
    # The tightest side leaves what the margin of 1.08 says: (1 - 1/1.08) / 2 = 3.7 %.
    tightest = min(float(share.min()), 1.0 - float(share.max()))
    assert tightest == pytest.approx(0.037, abs=0.002)


def test_turntable_is_a_closed_circle() -> None:
    cameras = turntable_cameras(HEAD, 8, 64).torch()
    centers = camera_centers(cameras)
    centre = torch.as_tensor(0.5 * (HEAD.min(0) + HEAD.max(0))).float()
    distances = torch.linalg.vector_norm(centers - centre, dim=1)
    torch.testing.assert_close(distances, distances[:1].expand(8), rtol=1e-5, atol=0)
    torch.testing.assert_close(centers.mean(0)[[0, 2]], centre[[0, 2]], rtol=0, atol=1e-5)


def test_bad_input_is_named() -> None:
    with pytest.raises(ShapeError, match=r"three_quarter.*found \['top'\]"):
        preview_cameras(HEAD, ["front", "top"])
    with pytest.raises(ShapeError, match="at least one vertex"):
        orbit_cameras(HEAD[:0], [0.0])
    assert set(VIEW_YAWS) >= {"front", "three_quarter", "profile", "back"}
