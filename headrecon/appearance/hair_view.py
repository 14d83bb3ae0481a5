"""The part of a photo around a head's hair, small enough to work on quickly, and what a head looks like in it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from headrecon.appearance.projection import Photo
from headrecon.geometry.cameras import crop_cameras, project_points
from headrecon.ops.rasterize import Raster, rasterize, to_homogeneous_image
from headrecon.structures import Cameras

#: The head is this many pixels high here: a pixel is then about 0.9 mm, finer than any mask's edge.
_HEAD_PX = 300
#: Room for hair around the head, in parts of its height.
_MARGIN = 0.55
#: A head seen with fewer pixels than this says nothing about hair.
_TOO_SMALL_PX = 16


@dataclass(frozen=True)
class HairView:
    """A cut of the photo. person: the mask without holes and without other people, 0..1; box: x0, y0, x1, y1 in the
    photo; metres_per_px at the head. masked: whether the mask says anything (it is neither empty nor full).
    """

    image_srgb: Float[np.ndarray, "h w 3"]
    person: Float[np.ndarray, "h w"]
    cameras: Cameras
    box: tuple[int, int, int, int]
    metres_per_px: float
    masked: bool

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.cameras.width, self.cameras.height


@dataclass(frozen=True)
class Drawn:
    """What each pixel of a view sees: corners [h,w,3] of its triangle (-1: nothing) and their weights; depth_z."""

    corners: Int[np.ndarray, "h w 3"]
    weights: Float[np.ndarray, "h w 3"]
    depth_z: Float[np.ndarray, "h w"]

    @property
    def covered(self) -> np.ndarray:
        """bool [h,w]"""
        return self.corners[..., 0] >= 0

    def of_vertices(self, values: Float[np.ndarray, "V *D"]) -> Float[np.ndarray, "h w *D"]:
        """Values of vertices as a picture, 0 where there is no surface."""
        out = np.zeros((*self.covered.shape, *values.shape[1:]))
        seen = self.covered
        corners, weights = self.corners[seen], self.weights[seen]
        weights = weights.reshape(*weights.shape, *[1] * (values.ndim - 1))
        out[seen] = sum(values[corners[:, k]] * weights[:, k] for k in range(3))
        return out


def hair_view(photo: Photo, vertices: Float[np.ndarray, "V 3"]) -> HairView | None:
    """The surroundings of the posed head. None when it lies outside the picture or is too small."""
    photo = photo.checked()
    cameras = Cameras(
        photo.cameras.viewmats.detach().float().reshape(4, 4),
        photo.cameras.Ks.detach().float().reshape(3, 3),
        photo.cameras.width,
        photo.cameras.height,
    )
    points = torch.from_numpy(np.ascontiguousarray(vertices, dtype=np.float32))
    pixels, depth = project_points(points, cameras)
    if not bool(torch.isfinite(pixels).all()) or bool((depth <= 0).any()):
        return None
    low, high = pixels.amin(0), pixels.amax(0)
    height = float(high[1] - low[1])
    room = _MARGIN * height
    x0, y0 = (max(0, int(np.floor(float(v) - room))) for v in low)
    x1 = min(cameras.width, int(np.ceil(float(high[0]) + room)))
    y1 = min(cameras.height, int(np.ceil(float(high[1]) + 0.2 * room)))
    if min(x1 - x0, y1 - y0) < _TOO_SMALL_PX or height < _TOO_SMALL_PX:
        return None
    scale = min(1.0, _HEAD_PX / height)
    size = (max(8, round((x1 - x0) * scale)), max(8, round((y1 - y0) * scale)))
    box = (x0, y0, x1, y1)
    view_cameras = crop_cameras(cameras, box, size)
    image = np.nan_to_num(_resized(photo.patch(box), size).numpy())
    person, masked = np.ones((size[1], size[0]), np.float32), False
    if photo.mask is not None:
        mask = torch.nan_to_num(photo.mask[y0:y1, x0:x1].float(), nan=0.0, posinf=0.0, neginf=0.0).clamp(0, 1)
        person = _resized(mask[..., None], size)[..., 0].numpy()
        person, masked = _cleaned(person, project_points(points, view_cameras)[0].numpy())
    metres_per_px = float(depth.median()) / float(view_cameras.Ks[0, 0])
    return HairView(image, person, view_cameras, box, metres_per_px, masked)


def draw(view: HairView, vertices: Float[np.ndarray, "V 3"], triangles: Int[np.ndarray, "F 3"]) -> Drawn:
    """Rasterize posed vertices into the view."""
    points = to_homogeneous_image(torch.from_numpy(np.ascontiguousarray(vertices, dtype=np.float32)), view.cameras)
    width, height = view.size
    raster: Raster = rasterize(points[None], torch.from_numpy(triangles.astype(np.int32)), height, width)
    face = raster.face_index[0].numpy()
    corners = np.where(face[..., None] >= 0, triangles[np.maximum(face, 0)], -1)
    return Drawn(corners, raster.barycentrics[0].numpy().astype(np.float64), raster.depth_z[0].numpy())


def project(
    view: HairView, points: Float[np.ndarray, "N 3"]
) -> tuple[Float[np.ndarray, "N 2"], Float[np.ndarray, " N"]]:
    """Pixels in the view and depth."""
    pixels, depth = project_points(
        torch.from_numpy(np.ascontiguousarray(points, dtype=np.float64)), _double(view.cameras)
    )
    return pixels.numpy(), depth.numpy()


def sample(
    image: Float[np.ndarray, "h w"], pixels: Float[np.ndarray, "*N 2"], outside: float = float("nan")
) -> Float[np.ndarray, "*N"]:
    """Bilinear values at pixel positions (first centre at 0.5); `outside` beyond the picture's edge."""
    height, width = image.shape
    x, y = pixels[..., 0] - 0.5, pixels[..., 1] - 0.5
    inside = (x >= -0.5) & (y >= -0.5) & (x <= width - 0.5) & (y <= height - 0.5)
    x, y = np.clip(np.nan_to_num(x), 0, width - 1), np.clip(np.nan_to_num(y), 0, height - 1)
    left, top = np.minimum(x.astype(int), max(width - 2, 0)), np.minimum(y.astype(int), max(height - 2, 0))
    right, below = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    fx, fy = x - left, y - top
    upper = image[top, left] * (1 - fx) + image[top, right] * fx
    lower = image[below, left] * (1 - fx) + image[below, right] * fx
    return np.where(inside, upper * (1 - fy) + lower * fy, outside)


def _double(cameras: Cameras) -> Cameras:
    return cameras.to(torch.float64)


def _resized(crop: Float[Tensor, "H W D"], size: tuple[int, int]) -> Float[Tensor, "h w D"]:
    if (crop.shape[1], crop.shape[0]) == size:
        return crop.contiguous()
    smaller = torch.nn.functional.interpolate(
        crop.permute(2, 0, 1)[None], size=(size[1], size[0]), mode="bilinear", antialias=True, align_corners=False
    )
    return smaller[0].permute(1, 2, 0).contiguous()


def _cleaned(
    person: Float[np.ndarray, "h w"], pixels: Float[np.ndarray, "V 2"]
) -> tuple[Float[np.ndarray, "h w"], bool]:
    """The mask with holes filled and only what hangs together with the head; whether it says anything there."""
    from scipy.ndimage import binary_fill_holes, label

    solid = person > 0.5
    at = np.floor(pixels).astype(int)
    inside = (at >= 0).all(1) & (at[:, 0] < person.shape[1]) & (at[:, 1] < person.shape[0])
    at = at[inside]
    if not len(at):
        return person, False
    share = solid[at[:, 1], at[:, 0]].mean()
    # A mask that misses most of a head that was found is broken; one without any background tells nothing.
    if share < 0.5 or solid.mean() > 0.995:
        return person, False
    labels = np.zeros(solid.shape, np.int32)
    label(solid, output=labels)
    votes = np.bincount(labels[at[:, 1], at[:, 0]])
    votes[0] = 0
    own_blob = np.asarray(binary_fill_holes(labels == int(votes.argmax())))
    holes = own_blob & ~solid
    others = solid & ~own_blob
    # Soft edges keep their values; only holes and other people change.
    return np.where(holes, 1.0, np.where(others, 0.0, person)).astype(np.float32), True
