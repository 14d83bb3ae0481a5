"""The draft's texture: the photo where it shows the head, plain colours of the same person elsewhere.

A few hundredths of a second in numpy, for a first look. `appearance.texture` is the one to keep: it completes what is
not seen and paints eyes and mouth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image

from headrecon.errors import ShapeError
from headrecon.geometry.cameras import camera_centers, crop_cameras, project_points, to_homogeneous_image
from headrecon.geometry.mesh import vertex_normals
from headrecon.geometry.sampling import sample_bilinear
from headrecon.ops.arrays import interpolate, rasterize
from headrecon.ops.samples import DEFAULT_NEAR_Z
from headrecon.rendering.plain_head import PlainColours, plain_head
from headrecon.structures import Cameras, HeadAssets, triangulate

#: A surface seen at a cosine below the first is not taken from the photo, above the second wholly.
_COSINES = (0.2, 0.5)
#: A point this far (metres) behind what the photo shows at its pixel is hidden.
_HIDDEN_M = 0.004
#: A tone is the median of at least this many vertices.
_ENOUGH = 20
#: Texels beyond the borders of the UV islands that get their neighbour's colour, so that lookups do not fetch others.
_BLEED = 3


@dataclass(frozen=True)
class _Sight:
    """The head's part of the photo, its camera, and the depth of the head there."""

    image: UInt8[np.ndarray, "h w 3"]
    cameras: Cameras
    depth_z: Float[np.ndarray, "h w"]

    def look(
        self, points: Float[np.ndarray, "N 3"], normals: Float[np.ndarray, "N 3"]
    ) -> tuple[Float[np.ndarray, "N 3"], Float[np.ndarray, " N"]]:
        """sRGB 0..1 where the points land, and how far each is to be trusted, 0..1."""
        pixels, depth = project_points(points, self.cameras)
        towards = camera_centers(self.cameras) - points
        cosine = (normals * towards).sum(1) / np.linalg.norm(towards, axis=1)
        height, width = self.depth_z.shape
        column, row = (np.nan_to_num(pixels.T) - 0.5).clip(-1e6, 1e6)
        inside = (column >= 0) & (column <= width - 1) & (row >= 0) & (row <= height - 1) & (depth > 0)
        nearest = (np.rint(at).clip(0, side - 1).astype(int) for at, side in ((row, height), (column, width)))
        front = self.depth_z[*nearest]
        seen = inside & (depth < front + _HIDDEN_M)
        t = ((cosine - _COSINES[0]) / (_COSINES[1] - _COSINES[0])).clip(0, 1)
        return sample_bilinear(self.image, column, row) / np.float32(255), (t * t * (3 - 2 * t) * seen).astype(
            np.float32
        )


def sketch_texture(
    assets: HeadAssets,
    vertices: Float[np.ndarray, "V 3"],
    photo: UInt8[np.ndarray, "H W 3"],
    cameras: Cameras,
    size: int = 512,
) -> UInt8[np.ndarray, "S S 3"]:
    """A texture in the model's UVs (row 0 is v = 1, sRGB) of the head that `photo` shows.

    vertices: posed as in the photo, metres, in the world of `cameras` (its one camera, numpy). A head outside the
    picture gets a plain skin. Raises ShapeError when sizes do not agree.
    """
    if vertices.shape != assets.v_template.shape or photo.shape[:2] != (cameras.height, cameras.width):
        raise ShapeError(
            f"texture: expected vertices {assets.v_template.shape} and a photo of the camera's size "
            f"{(cameras.height, cameras.width)}, found {vertices.shape} and {photo.shape[:2]}"
        )
    points = np.ascontiguousarray(vertices, dtype=np.float32)
    triangles = triangulate(assets.faces)[0].astype(np.int32)
    normals = vertex_normals(points, triangles)
    sight = _sight(points, triangles, photo, cameras, round(1.2 * size))
    plain = _plain_colours(assets, points, normals, sight)
    face, barycentrics = _layout(assets, size)
    inside = face >= 0
    image = np.empty((size, size, 3), dtype=np.float32)
    image[:] = plain[assets.faces_of("skin")].mean(0) if len(assets.faces_of("skin")) else plain.mean(0)
    texels = (triangles, face[inside], barycentrics[inside])
    colours = interpolate(plain, *texels)
    if sight is not None:
        own, weight = sight.look(interpolate(points, *texels), interpolate(normals, *texels))
        colours += (own - colours) * weight[:, None] * interpolate(_bare(assets)[:, None], *texels)
    image[inside] = colours
    return _bleed((image.clip(0, 1) * 255 + 0.5).astype(np.uint8), inside)


def _sight(
    points: Float[np.ndarray, "V 3"],
    triangles: Int[np.ndarray, "F 3"],
    photo: UInt8[np.ndarray, "H W 3"],
    cameras: Cameras,
    target_px: int,
) -> _Sight | None:
    """The head cut out of the photo, at most `target_px` high. None when the head is not in the picture."""
    pixels, depth = project_points(points, cameras)
    ahead = pixels[depth > DEFAULT_NEAR_Z]
    if not len(ahead):
        return None
    limit = np.array([cameras.width, cameras.height])
    low = np.clip(np.floor(ahead.min(0)) - 2, 0, limit).astype(int)
    high = np.clip(np.ceil(ahead.max(0)) + 2, 0, limit).astype(int)
    if (high - low).min() < 2:
        return None
    box = (int(low[0]), int(low[1]), int(high[0]), int(high[1]))
    scale = min(1.0, target_px / int(high[1] - low[1]))
    width, height = (max(2, round(float(side) * scale)) for side in high - low)
    crop = Image.fromarray(np.ascontiguousarray(photo[box[1] : box[3], box[0] : box[2]]))
    image = np.asarray(crop.resize((width, height), Image.Resampling.BOX))
    view = crop_cameras(cameras, box, (width, height))
    raster = rasterize(to_homogeneous_image(points, view)[None], triangles, height, width)
    return _Sight(image, view, np.where(raster.covered, raster.depth_z, np.inf)[0])


def _plain_colours(
    assets: HeadAssets, points: np.ndarray, normals: np.ndarray, sight: _Sight | None
) -> Float[np.ndarray, "V 3"]:
    """Colours per vertex without the photo's detail: the parts, and the typical tones of this skin and this hair."""
    if sight is None:
        return plain_head(assets)
    colours, weight = sight.look(points, normals)
    face = np.asarray(assets.regions.get("face", np.ones(assets.num_vertices)))
    scalp = np.asarray(assets.regions.get("scalp", np.zeros(assets.num_vertices)), dtype=np.float32)
    skin = _tone(colours[(weight > 0.5) & (face > 0.5)], np.array(PlainColours().skin))
    hair = _tone(colours[(weight > 0.5) & (scalp > 0.5)], skin)
    plain = plain_head(assets, PlainColours(skin=tuple(skin.tolist())))
    return (plain + scalp[:, None] * (hair - skin)).astype(np.float32)


def _bare(assets: HeadAssets) -> Float[np.ndarray, " V"]:
    """1 where a photo shows the head itself; 0 on ears and neck, where hair and clothes tend to be before it."""
    hidden = sum((np.asarray(assets.regions[n]) for n in ("ears", "neck") if n in assets.regions), np.zeros(1))
    return np.broadcast_to(1 - np.clip(hidden, 0, 1), assets.num_vertices).astype(np.float32)


def _tone(colours: Float[np.ndarray, "N 3"], otherwise: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3"]:
    return np.median(colours, axis=0) if len(colours) >= _ENOUGH else otherwise


def _layout(assets: HeadAssets, size: int) -> tuple[Int[np.ndarray, "S S"], Float[np.ndarray, "S S 3"]]:
    """Which triangle covers each texel, and where on it: homogeneous points with z = 1 are plain pixel positions."""
    uv = np.asarray(assets.uvs, dtype=np.float32)
    points = np.stack([uv[:, 0] * size, (1 - uv[:, 1]) * size, np.ones(len(uv), np.float32)], axis=1)
    raster = rasterize(points[None], triangulate(assets.uv_faces)[0].astype(np.int32), size, size)
    return raster.face_index[0], raster.barycentrics[0]


def _bleed(image: UInt8[np.ndarray, "S S 3"], inside: np.ndarray) -> UInt8[np.ndarray, "S S 3"]:
    """Colours carried a few texels beyond the islands."""
    known = inside.copy()
    for _ in range(_BLEED):
        for axis, step in ((0, 1), (0, -1), (1, 1), (1, -1)):
            fresh = np.roll(known, step, axis) & ~known
            image[fresh] = np.roll(image, step, axis)[fresh]
            known |= fresh
    return image
