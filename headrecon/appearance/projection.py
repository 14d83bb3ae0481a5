"""Looks a photo up at points of the posed head: where each lands, whether it is seen there, and how well."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from headrecon.appearance.openings import fill_polygons
from headrecon.errors import ShapeError
from headrecon.geometry.cameras import camera_centers, crop_cameras, project_points
from headrecon.ops.rasterize import Raster, rasterize, to_homogeneous_image
from headrecon.structures import Cameras

#: Neighbouring pixels whose depths differ by more (metres) lie on two surfaces: an outline, or one part before another.
_OUTLINE_STEP_M = 0.006
#: ... if the step is so many times that of the pixels beside it.
_OUTLINE_RATIO = 2.5
#: Colours fade in over this distance (metres on the head) from outlines and from the edge of the person mask.
_OUTLINE_FADE_M = 0.005
_MASK_FADE_M = 0.008
_OPENING_FADE_M = 0.001
#: A surface seen at a cosine below the first is not used, above the second fully.
COSINES = (0.12, 0.42)


@dataclass(frozen=True)
class Photo:
    """A picture (0..1, or uint8: large ones are then never held as floats) with its one camera. mask: 1 on the person.

    iris_px: centre and four rim points of the subject's right, then left iris. openings_px: outlines of what is not
    skin although the head may have skin there, as `openings.face_openings` gives them (eyes, open mouth).
    """

    image_srgb: Float[Tensor, "H W 3"] | UInt8[Tensor, "H W 3"]
    cameras: Cameras
    mask: Float[Tensor, "H W"] | None = None
    iris_px: Float[np.ndarray, "2 5 2"] | None = None
    openings_px: tuple[Float[np.ndarray, "_ 2"], ...] = ()

    def checked(self) -> Photo:
        """Return self; raise ShapeError when picture, camera and mask do not belong together."""
        size = (self.cameras.height, self.cameras.width)
        if tuple(self.image_srgb.shape) != (*size, 3):
            raise ShapeError(f"photo must have the camera's shape {(*size, 3)}, found {tuple(self.image_srgb.shape)}")
        if self.mask is not None and tuple(self.mask.shape) != size:
            raise ShapeError(f"person mask must have shape {size}, found {tuple(self.mask.shape)}")
        if self.cameras.viewmats.numel() != 16:
            raise ShapeError("a photo has one camera, found several")
        return self

    def patch(self, box: tuple[int, int, int, int]) -> Float[Tensor, "h w 3"]:
        """Colours 0..1 of the box (x0, y0, x1, y1), which must lie inside the picture."""
        cut = self.image_srgb[box[1] : box[3], box[0] : box[2]]
        return cut.float() / 255 if cut.dtype == torch.uint8 else cut.float()


@dataclass(frozen=True)
class View:
    """The part of a photo that shows the head, with the head's own depth there.

    clear: 0 at outlines and beyond the person, 1 well inside. part: index of the part that each pixel sees, -1 outside.
    seen_faces: the triangles that some pixel of `raster` sees. metres_per_px: size of a pixel at the head's distance.
    """

    image_srgb: Float[Tensor, "h w 3"]
    cameras: Cameras
    depth_z: Float[Tensor, "h w"]
    clear: Float[Tensor, "h w"]
    part: Int[Tensor, "h w"]
    person: Float[Tensor, "h w"]
    raster: Raster
    seen_faces: Int[Tensor, " M"]
    metres_per_px: float


@dataclass(frozen=True)
class Sight:
    """How a photo sees N points: pixels in the view, weight in 0..1 (0: hidden, outside, or too slanted)."""

    pixels: Float[Tensor, "N 2"]
    weight: Float[Tensor, " N"]


def look(
    photo: Photo,
    vertices: Float[Tensor, "V 3"],
    triangles: Int[Tensor, "F 3"],
    part: Int[Tensor, " F"],
    target_px: int,
    skin: int = 0,
) -> View | None:
    """Cut the head out of the photo and find its outlines. None when no vertex lies in the picture.

    part: part index of each triangle; skin: the index of the outer one. target_px: a head higher than this in the photo
    is scaled down to it, so that sampling does not skip pixels.
    """
    cameras = _single(photo.checked().cameras)
    box = _head_box(vertices, cameras)
    if box is None:
        return None
    size = _crop_size(box, target_px)
    view_cameras = crop_cameras(cameras, box, size)
    image = _resized(photo.patch(box), size)
    person = torch.ones(size[1], size[0])
    if photo.mask is not None:
        person = _resized(photo.mask[box[1] : box[3], box[0] : box[2], None].float(), size)[..., 0]
    raster = rasterize(to_homogeneous_image(vertices.float(), view_cameras)[None], triangles, size[1], size[0])
    depth = torch.where(raster.covered, raster.depth_z, torch.inf)[0]
    seen = raster.face_index[0].long()
    parts = torch.where(seen >= 0, part[seen.clamp(min=0)], -1)
    finite = depth[depth.isfinite()]
    if not len(finite):
        return None
    metres_per_px = float(finite.median() / view_cameras.Ks[0, 0])
    # Lips stand before teeth, lids before eyes. Theirs are no outlines behind which the background begins: faded as
    # far as those, lips would have no colour. The photo's features lie where the head's are (`feature_alignment`).
    inner = (parts >= 0) & (parts != skin)
    clear = _fade(_distance(~_outline(depth, inner)), _OUTLINE_FADE_M / metres_per_px)
    clear = clear * torch.maximum(_fade(_distance(~inner), _OPENING_FADE_M / metres_per_px), inner.float())
    if photo.mask is not None:
        clear = clear * _fade(_distance(person > 0.5), _MASK_FADE_M / metres_per_px)
    if photo.openings_px:
        corner, scale_xy = np.array(box[:2]), np.array(size) / (box[2] - box[0], box[3] - box[1])
        holes = fill_polygons(tuple((p - corner) * scale_xy for p in photo.openings_px), *size)
        clear = clear * _fade(_distance(holes < 0.5), _OPENING_FADE_M / metres_per_px)
    return View(image, view_cameras, depth, clear, parts, person, raster, seen[seen >= 0].unique(), metres_per_px)


def cut_photo(photo: Photo, vertices: Float[Tensor, "V 3"], target_px: int) -> Float[Tensor, "h w 3"]:
    """The same part of the photo as `look` cuts out, at another size. Raises ShapeError when no vertex lies in it."""
    box = _head_box(vertices, _single(photo.checked().cameras))
    if box is None:
        raise ShapeError("photo: no part of the head lies in the picture")
    return _resized(photo.patch(box), _crop_size(box, target_px))


def _crop_size(box: tuple[int, int, int, int], target_px: int) -> tuple[int, int]:
    scale = min(1.0, target_px / (box[3] - box[1]))
    return max(2, round((box[2] - box[0]) * scale)), max(2, round((box[3] - box[1]) * scale))


def see(
    view: View, points: Float[Tensor, "N 3"], normals: Float[Tensor, "N 3"], trust: Float[Tensor, "h w"] | None = None
) -> Sight:
    """Where the points land in the view and how well they are seen. normals point outwards, unit length.

    trust: a further weight of the view's pixels.
    """
    pixels, depth = project_points(points.float(), view.cameras)
    to_camera = torch.nn.functional.normalize(camera_centers(view.cameras) - points, dim=1)
    cosine = (normals * to_camera).sum(1)
    height, width = view.depth_z.shape
    column, row = pixels[:, 0].floor().long(), pixels[:, 1].floor().long()
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height) & (depth > 0)
    front = view.depth_z[row.clamp(0, height - 1), column.clamp(0, width - 1)]
    # The buffer holds depth at pixel centres; a slanted surface may differ by its slope over a pixel.
    slope = ((1 - cosine.square()).clamp(min=0).sqrt() / cosine.clamp(min=0.05)).clamp(max=4)
    visible = inside & (depth <= front + 1e-3 + 2 * view.metres_per_px * slope)
    clear = view.clear if trust is None else view.clear * trust
    weight = smoothstep(cosine, *COSINES) * sample(clear[..., None], pixels)[:, 0] * visible
    return Sight(pixels, weight)


def sample(image: Float[Tensor, "h w D"], pixels: Float[Tensor, "N 2"], mode: str = "bilinear") -> Float[Tensor, "N D"]:
    """Values at pixel positions (first centre at 0.5); beyond the border the border's value."""
    height, width = image.shape[:2]
    grid = pixels / pixels.new_tensor([width, height]) * 2 - 1
    got = torch.nn.functional.grid_sample(
        image.permute(2, 0, 1)[None], grid[None, None], mode=mode, padding_mode="border", align_corners=False
    )
    return got[0, :, 0].T


def smoothstep(x: Tensor, low: float, high: float) -> Tensor:
    """0 below low, 1 above high, smooth between."""
    t = ((x - low) / (high - low)).clamp(0, 1)
    return t * t * (3 - 2 * t)


def _single(cameras: Cameras) -> Cameras:
    """The one camera without leading axes, in float32."""
    viewmat, k = cameras.viewmats.detach().float().reshape(4, 4), cameras.Ks.detach().float().reshape(3, 3)
    return Cameras(viewmat, k, cameras.width, cameras.height)


def _head_box(vertices: Tensor, cameras: Cameras) -> tuple[int, int, int, int] | None:
    """Pixel box (x0, y0, x1, y1) around the head with a quarter of its height free for hair, inside the picture."""
    pixels, depth = project_points(vertices.float(), cameras)
    ahead = pixels[depth > 0]
    if not len(ahead):
        return None
    low, high = ahead.amin(0), ahead.amax(0)
    margin = 0.25 * float(high[1] - low[1])
    x0, y0 = (max(0, int(np.floor(float(v) - margin))) for v in low)
    x1 = min(cameras.width, int(np.ceil(float(high[0]) + margin)))
    y1 = min(cameras.height, int(np.ceil(float(high[1]) + margin)))
    return (x0, y0, x1, y1) if x1 - x0 >= 2 and y1 - y0 >= 2 else None


def _resized(crop: Float[Tensor, "H W D"], size: tuple[int, int]) -> Float[Tensor, "h w D"]:
    """The crop at another size (width, height), averaged where it shrinks."""
    if (crop.shape[1], crop.shape[0]) == size:
        return crop.contiguous()
    smaller = torch.nn.functional.interpolate(
        crop.permute(2, 0, 1)[None], size=(size[1], size[0]), mode="bilinear", antialias=True, align_corners=False
    )
    return smaller[0].permute(1, 2, 0).contiguous()


def _outline(depth: Float[Tensor, "h w"], inner: Tensor) -> Tensor:
    """bool [h,w]: the depth jumps between this pixel and a neighbour, or there is nothing here.

    inner: where steps are none, bool [h,w].
    A jump is a step that stands out from the steps beside it: a steep cheek or the side of a nose is no outline.
    """
    empty = ~depth.isfinite()
    filled = torch.where(empty, 1e3, depth)
    out = empty.clone()
    for axis in (0, 1):
        step = filled.diff(dim=axis).abs()
        beside = torch.nn.functional.pad(step.movedim(axis, 1)[None], (1, 1), mode="replicate")[0]
        smaller = torch.minimum(beside[:, :-2], beside[:, 2:]).movedim(1, axis)
        count = depth.shape[axis] - 1
        within = inner.narrow(axis, 0, count) | inner.narrow(axis, 1, count)
        jump = (step > _OUTLINE_STEP_M) & (step > _OUTLINE_RATIO * smaller) & ~within
        out.narrow(axis, 0, count).logical_or_(jump)
        out.narrow(axis, 1, count).logical_or_(jump)
    return out


def _distance(inside: Tensor) -> Float[Tensor, "h w"]:
    """Pixels to the nearest False; a picture's own border does not count."""
    from scipy.ndimage import distance_transform_edt

    if bool(inside.all()):
        return torch.full(inside.shape, 1e6)
    return torch.from_numpy(np.asarray(distance_transform_edt(inside.numpy()), dtype=np.float32))


def _fade(distance_px: Tensor, over_px: float) -> Tensor:
    """0 up to one pixel from the edge (interpolation reads that far), 1 from `over_px` on."""
    return smoothstep(distance_px, 1.0, 1.0 + max(over_px, 1.0))
