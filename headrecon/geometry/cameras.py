"""Pinhole cameras: projection and the one place where camera conventions are converted.

Ours is OpenCV: +x right, +y down, +z forward, `viewmats` world to camera, pixel centres at +0.5. OpenGL, nerfstudio
and Blender store camera to world with +x right, +y up and the camera looking along -z; they share one conversion.
COLMAP shares our axes and stores world to camera as quaternion and translation.

Functions take torch tensors or numpy arrays (all of one kind) and answer in kind.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from headrecon.arrays import Array, namespace
from headrecon.errors import ShapeError
from headrecon.structures import Cameras

#: Turns camera axes from OpenCV to OpenGL and back (its own inverse).
_FLIP_YZ = (1.0, -1.0, -1.0, 1.0)


def _flip(like: Array) -> Array:
    return namespace(like).asarray(_FLIP_YZ, dtype=like.dtype, device=like.device)


def _rigid(rotations: Float[Array, "*C 3 3"], translations: Float[Array, "*C 3 1"]) -> Float[Array, "*C 4 4"]:
    xp = namespace(rotations)
    top = xp.concat([rotations, translations], -1)
    bottom = xp.zeros_like(top[..., :1, :])
    bottom[..., 3] = 1
    return xp.concat([top, bottom], -2)


def _unit(vectors: Float[Array, "*C 3"]) -> Float[Array, "*C 3"]:
    return vectors / _length(vectors)[..., None].clip(1e-12)


def _length(vectors: Float[Array, "*C 3"]) -> Float[Array, "*C"]:
    return namespace(vectors).linalg.norm(vectors, None, -1)


def invert_rigid(transforms: Float[Array, "*C 4 4"]) -> Float[Array, "*C 4 4"]:
    """Inverse of rotation-and-translation matrices, exact in the rotation (transpose, not a solve)."""
    rotation = transforms[..., :3, :3].mT
    return _rigid(rotation, -(rotation @ transforms[..., :3, 3:]))


def opengl_from_viewmats(viewmats: Float[Array, "*C 4 4"]) -> Float[Array, "*C 4 4"]:
    """Camera-to-world matrices in the OpenGL / nerfstudio / Blender convention from our world-to-camera ones."""
    return invert_rigid(viewmats) * _flip(viewmats)


def viewmats_from_opengl(camera_to_world: Float[Array, "*C 4 4"]) -> Float[Array, "*C 4 4"]:
    """Our world-to-camera matrices from OpenGL / nerfstudio / Blender camera-to-world ones."""
    return invert_rigid(camera_to_world * _flip(camera_to_world))


def viewmats_from_colmap(
    quats_wxyz: Float[Array, "*C 4"], translations: Float[Array, "*C 3"]
) -> Float[Array, "*C 4 4"]:
    """Our world-to-camera matrices from COLMAP's rotation (quaternion wxyz) and translation (tensors only)."""
    from headrecon.geometry.rotations import quat_to_matrix

    return _rigid(quat_to_matrix(quats_wxyz), translations[..., None])


def colmap_from_viewmats(viewmats: Float[Array, "*C 4 4"]) -> tuple[Float[Array, "*C 4"], Float[Array, "*C 3"]]:
    """COLMAP's quaternion wxyz and translation of world-to-camera matrices (tensors only)."""
    from headrecon.geometry.rotations import matrix_to_quat

    return matrix_to_quat(viewmats[..., :3, :3]), viewmats[..., :3, 3]


def clip_from_intrinsics(
    Ks: Float[Array, "*C 3 3"], width: int, height: int, near: float, far: float
) -> Float[Array, "*C 4 4"]:
    """OpenGL clip matrix acting on OpenCV camera points: (x, y, z, 1) -> clip, +y up, depth in -1..1.

    The image's left and right edges (pixel coordinates 0 and width) map to -1 and +1, top and bottom to +1 and -1.
    """
    out = namespace(Ks).zeros((*Ks.shape[:-2], 4, 4), dtype=Ks.dtype, device=Ks.device)
    out[..., 0, 0] = 2 * Ks[..., 0, 0] / width
    out[..., 0, 1] = 2 * Ks[..., 0, 1] / width
    out[..., 0, 2] = 2 * Ks[..., 0, 2] / width - 1
    out[..., 1, 1] = -2 * Ks[..., 1, 1] / height
    out[..., 1, 2] = 1 - 2 * Ks[..., 1, 2] / height
    out[..., 2, 2] = (far + near) / (far - near)
    out[..., 2, 3] = -2 * far * near / (far - near)
    out[..., 3, 2] = 1
    return out


def intrinsics_from_focal(
    focal_px: float, width: int, height: int, principal: tuple[float, float] | None = None
) -> Float[Array, "3 3"]:
    """K with square pixels, a float64 tensor; the principal point is the image centre unless given (pixels)."""
    import torch

    cx, cy = principal if principal is not None else (width / 2, height / 2)
    return torch.tensor([[focal_px, 0.0, cx], [0.0, focal_px, cy], [0.0, 0.0, 1.0]], dtype=torch.float64)


def crop_cameras(cameras: Cameras, box: tuple[int, int, int, int], size: tuple[int, int] | None = None) -> Cameras:
    """Cameras of the crop (x0, y0, x1, y1), resized to `size` (width, height) when given."""
    x0, y0, x1, y1 = box
    if x1 <= x0 or y1 <= y0:
        raise ShapeError(f"a crop box needs x1 > x0 and y1 > y0, found {box}")
    width, height = size if size is not None else (x1 - x0, y1 - y0)
    shift = namespace(cameras.Ks).eye(3, dtype=cameras.Ks.dtype, device=cameras.Ks.device)
    shift[0, 0], shift[1, 1] = width / (x1 - x0), height / (y1 - y0)
    shift[0, 2], shift[1, 2] = -x0 * shift[0, 0], -y0 * shift[1, 1]
    return Cameras(cameras.viewmats, shift @ cameras.Ks, width, height)


def look_at(
    eye: Float[Array, "*C 3"], target: Float[Array, "*C 3"], up: tuple[float, float, float] = (0.0, 1.0, 0.0)
) -> Float[Array, "*C 4 4"]:
    """World-to-camera matrices of cameras at `eye` that look at `target` with `up` towards the top of the image."""
    xp = namespace(eye)
    forward = _unit(target - eye)
    up_vector = xp.broadcast_to(xp.asarray(up, dtype=eye.dtype, device=eye.device), eye.shape)
    right = xp.linalg.cross(forward, up_vector)
    if bool((_length(right) < 1e-6).any()):
        raise ShapeError(f"look_at needs a direction that is not parallel to up={up}; choose another up vector")
    right = _unit(right)
    down = xp.linalg.cross(forward, right)
    rotation = xp.stack([right, down, forward], -2)
    return _rigid(rotation, -(rotation @ eye[..., None]))


def world_to_camera(points: Float[Array, "*C N 3"], cameras: Cameras) -> Float[Array, "*C N 3"]:
    """Points in camera space. Leading axes of points and cameras broadcast. Differentiable."""
    viewmats = cameras.viewmats
    return points @ viewmats[..., :3, :3].mT + viewmats[..., None, :3, 3]


def project_points(
    points: Float[Array, "*C N 3"], cameras: Cameras
) -> tuple[Float[Array, "*C N 2"], Float[Array, "*C N"]]:
    """Pixels and depth_z of world points. Leading axes broadcast. Differentiable where depth_z is not zero."""
    camera_points = world_to_camera(points, cameras)
    depth_z = camera_points[..., 2]
    homogeneous = camera_points @ cameras.Ks.mT
    return homogeneous[..., :2] / depth_z[..., None], depth_z


def to_homogeneous_image(vertices: Float[Array, "*B V 3"], cameras: Cameras) -> Float[Array, "*C V 3"]:
    """World positions in metres to homogeneous image space, h = K (R X + t) = (x z, y z, z) with x, y in pixels.

    vertices [V,3] are seen by every camera, [C,V,3] one set by each. Differentiable in vertices and cameras.
    """
    projection = cameras.Ks @ cameras.viewmats[..., :3, :]
    return vertices @ projection[..., :3].mT + projection[..., None, :, 3]


def unproject_points(
    pixels: Float[Array, "*C N 2"], depth_z: Float[Array, "*C N"], cameras: Cameras
) -> Float[Array, "*C N 3"]:
    """World points seen at pixels with depth_z: the inverse of `project_points`. Differentiable."""
    xp = namespace(pixels)
    homogeneous = xp.concat([pixels, xp.ones_like(pixels[..., :1])], -1)
    camera_points = (homogeneous @ xp.linalg.inv(cameras.Ks).mT) * depth_z[..., None]
    rotation, translation = cameras.viewmats[..., :3, :3], cameras.viewmats[..., None, :3, 3]
    return (camera_points - translation) @ rotation


def camera_centers(cameras: Cameras) -> Float[Array, "*C 3"]:
    """Camera positions in world space, metres."""
    return invert_rigid(cameras.viewmats)[..., :3, 3]


def project_with_jacobian(
    camera_points: Float[np.ndarray, "N 3"],
    focal_px: float | Float[np.ndarray, "2"],
    principal: Float[np.ndarray, "2"],
) -> tuple[Float[np.ndarray, "N 2"], Float[np.ndarray, "N 2 3"], Float[np.ndarray, "N 2"]]:
    """Pixels of OpenCV camera points with derivatives for the solvers (numpy float64).

    focal_px: one focal length, or those along x and y. Returns pixels, d pixels / d point [N,2,3],
    and d pixels / d log(focal) [N,2].
    """
    inverse_z = 1.0 / camera_points[:, 2]
    normalised = camera_points[:, :2] * inverse_z[:, None]
    d_point = np.zeros((len(camera_points), 2, 3))
    offset = focal_px * normalised
    d_point[:, [0, 1], [0, 1]] = focal_px * inverse_z[:, None]
    d_point[:, :, 2] = -offset * inverse_z[:, None]
    return offset + principal, d_point, offset
