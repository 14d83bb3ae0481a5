"""Projection and the conversions between camera conventions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from headrecon.errors import ShapeError
from headrecon.geometry import cameras as cam
from headrecon.geometry.rotations import axis_angle_to_matrix
from headrecon.structures import Cameras


def _some_cameras(count: int = 4) -> Cameras:
    generator = torch.Generator().manual_seed(3)
    viewmats = torch.eye(4, dtype=torch.float64).repeat(count, 1, 1)
    viewmats[:, :3, :3] = axis_angle_to_matrix(torch.randn(count, 3, dtype=torch.float64, generator=generator))
    viewmats[:, :3, 3] = torch.randn(count, 3, dtype=torch.float64, generator=generator)
    return Cameras(viewmats, cam.intrinsics_from_focal(800.0, 640, 480, (310.0, 250.0)).expand(count, 3, 3), 640, 480)


def test_conventions_worked_by_hand() -> None:
    # A camera at the origin looking along world -z with +y up: identity in OpenGL, two flipped axes in OpenCV.
    viewmat = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))
    torch.testing.assert_close(cam.opengl_from_viewmats(viewmat), torch.eye(4))
    camera = Cameras(viewmat, cam.intrinsics_from_focal(100.0, 200, 100).float(), 200, 100)
    pixels, depth = cam.project_points(torch.tensor([[0.5, 0.25, -1.0]]), camera)
    torch.testing.assert_close(pixels, torch.tensor([[150.0, 25.0]]))  # right of and above the centre (100, 50)
    torch.testing.assert_close(depth, torch.tensor([1.0]))


def test_conversions_invert_each_other() -> None:
    viewmats = _some_cameras().viewmats
    torch.testing.assert_close(cam.viewmats_from_opengl(cam.opengl_from_viewmats(viewmats)), viewmats)
    torch.testing.assert_close(cam.viewmats_from_colmap(*cam.colmap_from_viewmats(viewmats)), viewmats)
    torch.testing.assert_close(cam.invert_rigid(viewmats), torch.linalg.inv(viewmats))
    centers = cam.opengl_from_viewmats(viewmats)[:, :3, 3]
    torch.testing.assert_close(cam.camera_centers(_some_cameras()), centers)


def test_unproject_inverts_project() -> None:
    cameras = _some_cameras()
    points = torch.randn(4, 7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    pixels, depth = cam.project_points(points, cameras)
    torch.testing.assert_close(cam.unproject_points(pixels, depth, cameras), points, atol=1e-9, rtol=1e-9)


def test_clip_matrix_agrees_with_pixels() -> None:
    cameras = _some_cameras(1)
    points = torch.tensor([[[0.1, 0.2, 2.0], [-0.3, 0.1, 3.0]]], dtype=torch.float64)
    still = Cameras(torch.eye(4, dtype=torch.float64)[None], cameras.Ks, 640, 480)
    pixels, depth = cam.project_points(points, still)
    clip = (
        torch.cat([points, torch.ones_like(points[..., :1])], -1)
        @ cam.clip_from_intrinsics(cameras.Ks, 640, 480, 0.5, 10.0).mT
    )
    ndc = clip[..., :3] / clip[..., 3:]
    torch.testing.assert_close((ndc[..., 0] + 1) / 2 * 640, pixels[..., 0])
    torch.testing.assert_close((1 - ndc[..., 1]) / 2 * 480, pixels[..., 1])
    near = torch.tensor([0.0, 0.0, 0.5, 1.0], dtype=torch.float64)
    edge = cam.clip_from_intrinsics(cameras.Ks, 640, 480, 0.5, 10.0)[0] @ near
    assert float(edge[2] / edge[3]) == pytest.approx(-1)
    assert torch.equal(depth, points[..., 2])


def test_crop_keeps_what_is_seen() -> None:
    cameras = _some_cameras(1)
    points = cam.unproject_points(
        torch.tensor([[[120.0, 80.0]]], dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64), cameras
    )
    pixels, _ = cam.project_points(points, cam.crop_cameras(cameras, (100, 60, 200, 160), (50, 200)))
    torch.testing.assert_close(pixels, torch.tensor([[[10.0, 40.0]]], dtype=torch.float64))
    with pytest.raises(ShapeError, match="crop box"):
        cam.crop_cameras(cameras, (5, 5, 5, 9))


def test_look_at_puts_the_target_on_the_axis() -> None:
    eye = torch.tensor([[0.0, 0.1, 2.0], [1.0, 0.5, -1.0]], dtype=torch.float64)
    target = torch.tensor([0.0, 0.1, 0.0], dtype=torch.float64).expand(2, 3)
    cameras = Cameras(cam.look_at(eye, target), cam.intrinsics_from_focal(500.0, 100, 100).expand(2, 3, 3), 100, 100)
    pixels, depth = cam.project_points(target[:, None], cameras)
    torch.testing.assert_close(pixels, torch.full((2, 1, 2), 50.0, dtype=torch.float64))
    torch.testing.assert_close(depth[:, 0], (eye - target).norm(dim=-1))
    above, _ = cam.project_points(target[:, None] + torch.tensor([0.0, 0.1, 0.0], dtype=torch.float64), cameras)
    assert bool((above[..., 1] < 50).all())  # world up is image up
    with pytest.raises(ShapeError, match="parallel"):
        cam.look_at(torch.zeros(1, 3), torch.tensor([[0.0, 1.0, 0.0]]))


def test_projection_jacobian_against_differences() -> None:
    rng = np.random.default_rng(2)
    points = rng.normal(size=(6, 3)) * 0.1 + [0, 0, 0.7]
    principal = np.array([320.0, 240.0])
    pixels, d_point, d_log_focal = cam.project_with_jacobian(points, 900.0, principal)
    camera = Cameras(torch.eye(4, dtype=torch.float64), cam.intrinsics_from_focal(900.0, 640, 480), 640, 480)
    expected, _ = cam.project_points(torch.from_numpy(points), camera)
    np.testing.assert_allclose(pixels, expected.numpy(), atol=1e-9)
    h = 1e-6
    for k in range(3):
        d = np.eye(3)[k] * h
        high, low = (cam.project_with_jacobian(points + s * d, 900.0, principal)[0] for s in (1, -1))
        np.testing.assert_allclose(d_point[..., k], (high - low) / (2 * h), atol=1e-3)  # values up to 1e3, h^2 error
    high, low = (cam.project_with_jacobian(points, 900.0 * np.exp(s * h), principal)[0] for s in (1, -1))
    np.testing.assert_allclose(d_log_focal, (high - low) / (2 * h), atol=1e-4)


def test_numpy_cameras_give_what_torch_cameras_give() -> None:
    ours = _some_cameras()
    arrays = Cameras(ours.viewmats.numpy(), ours.Ks.contiguous().numpy(), ours.width, ours.height)
    points = torch.randn(len(ours.viewmats), 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    box = (10, 20, 210, 120)

    def compare(got: object, expected: torch.Tensor) -> None:
        assert isinstance(got, np.ndarray)
        np.testing.assert_allclose(got, expected.numpy(), rtol=1e-12, atol=1e-12)

    for got, expected in zip(cam.project_points(points.numpy(), arrays), cam.project_points(points, ours), strict=True):
        compare(got, expected)
    compare(cam.opengl_from_viewmats(arrays.viewmats), cam.opengl_from_viewmats(ours.viewmats))
    compare(cam.camera_centers(arrays), cam.camera_centers(ours))
    compare(cam.crop_cameras(arrays, box).Ks, cam.crop_cameras(ours, box).Ks)
    compare(cam.look_at(points[:, 0].numpy(), points[:, 1].numpy()), cam.look_at(points[:, 0], points[:, 1]))
    depth = points[..., 2].abs() + 1
    pixels = 100 * points[..., :2]
    compare(cam.unproject_points(pixels.numpy(), depth.numpy(), arrays), cam.unproject_points(pixels, depth, ours))
    clip = (640, 480, 0.1, 9.0)
    compare(cam.clip_from_intrinsics(arrays.Ks, *clip), cam.clip_from_intrinsics(ours.Ks, *clip))
