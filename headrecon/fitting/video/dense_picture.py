"""A frame as skin is compared in it: the face alone, at one size on the skin, as log light and balance of colours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from headrecon.fitting.dense.face_picture import catmull_rom, linear_light
from headrecon.fitting.least_squares import Values
from headrecon.fitting.parameters import CAMERA_AXES, HeadView
from headrecon.fitting.video.dense_points import FacePoints
from headrecon.geometry import so3
from headrecon.models.posed_mesh import posed_vertices

#: Pixels per metre on the face at most: finer detail is below what a frame's compression leaves.
FINEST_PER_M = 1200.0
#: Blur in working pixels: of the lightness, and of the colours, which files store at half the size.
_BLUR, _COLOUR_BLUR = 1.0, 1.6
#: Room around the points, as a share of their extent and at least so many working pixels: states move a little.
_MARGIN, _LEAST_MARGIN = 0.04, 6
#: Added to linear light before taking logarithms: keeps dark hair from being all noise.
_DARKEST = 0.012
_GREY = np.array([0.25, 0.6, 0.15], np.float32)
CHANNELS = 2
#: Depth by which a point may lie behind what is drawn and still count as seen (metres); working pixels per drawn one.
_BEHIND_M, _DRAWN = 0.004, 2
#: Cosine to the camera from which on skin is compared, and at which it counts fully.
_GRAZING, _FACING = 0.18, 0.45


@dataclass(frozen=True)
class FacePicture:
    """Channels [h,w,C]: log light, log of red over green. A pixel of the frame lies at ((x, y) - origin) * scale."""

    channels: Float[np.ndarray, "h w C"]
    origin: Float[np.ndarray, "2"]
    scale: Float[np.ndarray, "2"]

    def sample(
        self, pixels: Float[np.ndarray, "N 2"]
    ) -> tuple[Float[np.ndarray, "N C"], Float[np.ndarray, "N C 2"], Bool[np.ndarray, " N"]]:
        """Values at pixels of the frame, their derivatives by these, and which lie inside."""
        at = (pixels - self.origin) * self.scale
        values, slopes = catmull_rom(self.channels, at)
        height, width = self.channels.shape[:2]
        inside = np.asarray(((at > 1.0) & (at < [width - 1.0, height - 1.0])).all(1))
        return values, slopes * self.scale, inside


def face_picture(
    image_srgb: UInt8[np.ndarray, "H W 3"], pixels: Float[np.ndarray, "N 2"], factor: float
) -> FacePicture | None:
    """Cut out the surroundings of `pixels` and scale them by `factor`. None where they are not in the frame."""
    from scipy.ndimage import gaussian_filter

    height, width = image_srgb.shape[:2]
    low, high = pixels.min(0), pixels.max(0)
    margin = max(_MARGIN * float((high - low).max()), _LEAST_MARGIN / factor)
    x0, y0 = (int(v) for v in np.floor(np.clip(low - margin, 0, [width, height])))
    x1, y1 = (int(v) for v in np.ceil(np.clip(high + margin, 0, [width, height])))
    size = (round((x1 - x0) * factor), round((y1 - y0) * factor))
    if min(size) < 2 * _LEAST_MARGIN:
        return None
    cut = Image.fromarray(np.ascontiguousarray(image_srgb[y0:y1, x0:x1]))
    small = cut.resize(size, Image.Resampling.BOX if factor < 1 else Image.Resampling.BICUBIC)
    linear = linear_light(np.asarray(small))
    light = np.log(linear @ _GREY + _DARKEST)
    colour = np.log((linear[..., 0] + _DARKEST) / (linear[..., 1] + _DARKEST))
    blurred = [
        gaussian_filter(channel, (sigma, sigma), mode="nearest", truncate=3.0)
        for channel, sigma in ((light, _BLUR), (colour, _COLOUR_BLUR))
    ]
    scale = np.array([size[0] / (x1 - x0), size[1] / (y1 - y0)])
    return FacePicture(np.stack(blurred, axis=2), np.array([x0, y0], float), scale)


def shown(face: FacePoints, view: HeadView, values: Values, picture: FacePicture) -> Float[np.ndarray, " N"]:
    """0..1: how far each point faces the camera, 0 where something of the head hides it. O(vertices + pixels)."""
    import torch

    from headrecon.ops.rasterize import rasterize

    flat = view.flat(values)
    vertices = posed_vertices(face.surface, face.joints, flat)
    camera = vertices * CAMERA_AXES
    pixels = (view.project(values, vertices) - picture.origin) * picture.scale / _DRAWN
    height, width = (-(-n // _DRAWN) for n in picture.channels.shape[:2])
    homogeneous = np.concatenate([pixels * camera[:, 2:], camera[:, 2:]], axis=1)
    raster = rasterize(
        torch.from_numpy(homogeneous.astype(np.float32))[None],
        torch.from_numpy(face.triangles.astype(np.int32)), height, width,
    )  # fmt: skip
    depth = raster.depth_z[0].numpy()
    points = face.model.evaluate(flat)
    at = (view.project(values, points) - picture.origin) * picture.scale / _DRAWN
    column, row = np.clip(np.floor(at).astype(int), 0, [width - 1, height - 1]).T
    front = depth[row, column]
    hidden = (front > 0) & (-points[:, 2] > front + _BEHIND_M)
    # Normals at rest, turned: what an expression bends them is small beside the ramp.
    normals = face.normals @ so3.exp(values[view.names["global_orient"]]).T
    facing = -np.sum(normals * points, axis=1) / np.linalg.norm(points, axis=1)
    return np.where(hidden, 0.0, np.clip((facing - _GRAZING) / (_FACING - _GRAZING), 0.0, 1.0))
