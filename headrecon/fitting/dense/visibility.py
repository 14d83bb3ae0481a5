"""Which skin points a photo shows, and which pixels of the crop are skin, by drawing the posed head."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from headrecon.fitting.dense.face_picture import FaceCrop
from headrecon.fitting.dense.photometric import ring_normals
from headrecon.fitting.dense.skin_points import SkinPoints
from headrecon.fitting.least_squares import Values
from headrecon.fitting.parameters import CAMERA_AXES, HeadView
from headrecon.ops.rasterize import rasterize

#: Depth by which a point may lie behind the drawn surface and still count as seen (metres): drawn at pixel centres.
BEHIND_M = 0.004
#: Cosine to the camera below which skin is not compared: there a small turn moves the point far in the picture.
GRAZING = 0.22


@dataclass(frozen=True)
class Seen:
    """visible: per skin point. skin: per crop pixel, 1 where the drawn head shows skin. depth_m: of the crop.

    face and barycentrics: what each pixel sees, as `ops.rasterize` gives them (face -1 for nothing).
    """

    visible: Bool[np.ndarray, " N"]
    facing: Float[np.ndarray, " N"]
    skin: Float[np.ndarray, "h w"]
    depth_m: Float[np.ndarray, "h w"]
    face: Int[np.ndarray, "h w"]
    barycentrics: Float[np.ndarray, "h w 3"]

    def interpolate(
        self, values: Float[np.ndarray, "V D"], triangles: Int[np.ndarray, "F 3"]
    ) -> Float[np.ndarray, "P D"]:
        """Vertex values at the pixels that show skin, in the order of `np.nonzero(skin)`."""
        shown = self.skin > 0
        corners = triangles[self.face[shown]]
        return np.einsum("pk,pkd->pd", self.barycentrics[shown], values[corners])


def see(skin: SkinPoints, view: HeadView, values: Values, vertices: Float[np.ndarray, "V 3"], crop: FaceCrop) -> Seen:
    """Draw the posed head's world vertices into the crop and look up the points."""
    height, width = crop.usable.shape
    camera = vertices * CAMERA_AXES
    pixels = crop.to_crop(view.project(values, vertices))
    points = np.concatenate([pixels * camera[:, 2:], camera[:, 2:]], axis=1)
    raster = rasterize(
        torch.from_numpy(points.astype(np.float32))[None],
        torch.from_numpy(skin.triangles.astype(np.int32)),
        height,
        width,
    )
    face, depth = raster.face_index[0].numpy(), raster.depth_z[0].numpy()
    is_skin = np.where(face >= 0, skin.is_skin[face], 0.0).astype(np.float32)
    at = vertices[skin.near]
    own = at[skin.own]
    facing = -np.sum(ring_normals(skin, at).normals * own, axis=1) / np.linalg.norm(own, axis=1)
    place = pixels[skin.vertex]
    cell = np.clip(np.floor(place).astype(int), 0, [width - 1, height - 1])
    inside = (place >= 0).all(1) & (place < [width, height]).all(1)
    front = depth[cell[:, 1], cell[:, 0]]
    unhidden = (front > 0) & (camera[skin.vertex, 2] < front + BEHIND_M)
    visible = inside & unhidden & (facing > GRAZING)
    return Seen(visible, facing, is_skin, depth, face, raster.barycentrics[0].numpy())
