"""What each photo shows of the posed head: which place of the surface every pixel sees, how deep, from which side."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headrecon.fitting.multiview.pictures import WorkingPicture
from headrecon.fitting.multiview.surface import Surface
from headrecon.fitting.multiview.views import PosedView
from headrecon.ops.interpolate import interpolate
from headrecon.ops.rasterize import rasterize

#: Cosine between normal and line of sight below which skin is not compared.
GRAZING = 0.25
#: Room around the head in the working picture, pixels.
_MARGIN = 8


@dataclass(frozen=True)
class Look:
    """A view's crop of its working picture, rows and columns from `corner` (row, column) on.

    grey, mask: of the picture. face: -1 for nothing. skin: bare skin of the head; compared: where it is well seen and
    the photo shows the person. position, normal: of
    the surface in the view's world; towards: unit, from the surface to the camera. depth_z: 0 for nothing.
    projection: 3x4, world to homogeneous crop pixels. posed, vertex_normals: all vertices of the model.
    """

    grey: Float[Tensor, "h w"]
    face: Int[Tensor, "h w"]
    barycentrics: Float[Tensor, "h w 3"]
    skin: Bool[Tensor, "h w"]
    compared: Bool[Tensor, "h w"]
    position: Float[Tensor, "h w 3"]
    normal: Float[Tensor, "h w 3"]
    towards: Float[Tensor, "h w 3"]
    facing: Float[Tensor, "h w"]
    depth_z: Float[Tensor, "h w"]
    projection: Float[np.ndarray, "3 4"]
    posed: Float[np.ndarray, "V 3"]
    vertex_normals: Float[np.ndarray, "V 3"]
    centre: Float[np.ndarray, "3"]
    mask: Float[Tensor, "h w"] | None = None

    @property
    def size(self) -> tuple[int, int]:
        return self.grey.shape[0], self.grey.shape[1]


def look(surface: Surface, view: PosedView, picture: WorkingPicture, posed: Float[np.ndarray, "V 3"]) -> Look | None:
    """Draw the head into the crop around it. None where the head is not in the picture."""
    rotation, shift = view.camera.viewmats[:3, :3].astype(np.float64), view.camera.viewmats[:3, 3].astype(np.float64)
    skin = np.unique(surface.triangles[surface.compared])
    box = _crop(posed[skin], picture, rotation, shift)
    if box is None:
        return None
    top, left, bottom, right = box
    K = picture.K.copy()
    K[0, 2] -= left
    K[1, 2] -= top
    projection = K @ np.concatenate([rotation, shift[:, None]], axis=1)
    hom = posed @ projection[:, :3].T + projection[:, 3]
    triangles = torch.from_numpy(surface.triangles.astype(np.int32))
    raster = rasterize(torch.from_numpy(hom.astype(np.float32))[None], triangles, bottom - top, right - left)
    normals = surface.normals(posed)
    both = torch.from_numpy(np.concatenate([posed, normals], axis=1).astype(np.float32))
    at = interpolate(both, triangles, raster.face_index, raster.barycentrics)[0]
    centre = -rotation.T @ shift
    towards = torch.from_numpy(centre.astype(np.float32)) - at[..., :3]
    towards = towards / towards.norm(dim=-1, keepdim=True).clamp(min=1e-9)
    normal = at[..., 3:] / at[..., 3:].norm(dim=-1, keepdim=True).clamp(min=1e-9)
    facing = (normal * towards).sum(-1)
    face = raster.face_index[0].long()
    usable = picture.usable[top:bottom, left:right]
    kind = torch.from_numpy(surface.compared)[face.clamp(min=0)]
    return Look(
        grey=picture.grey[top:bottom, left:right].contiguous(),
        face=face,
        barycentrics=raster.barycentrics[0],
        skin=(face >= 0) & kind,
        compared=(face >= 0) & kind & (facing > GRAZING) & (usable > 0.5),
        position=at[..., :3],
        normal=normal,
        towards=towards,
        facing=facing,
        depth_z=raster.depth_z[0],
        projection=projection,
        posed=posed,
        vertex_normals=normals,
        centre=centre,
        mask=None if picture.mask is None else picture.mask[top:bottom, left:right],
    )


def _crop(
    points: Float[np.ndarray, "N 3"], picture: WorkingPicture, rotation: np.ndarray, shift: np.ndarray
) -> tuple[int, int, int, int] | None:
    """Rows and columns (top, left, bottom, right) of the picture that hold the points."""
    camera = points @ rotation.T + shift
    if (camera[:, 2] < 0.05).any():
        return None
    pixels = camera @ picture.K.T
    pixels = pixels[:, :2] / pixels[:, 2:]
    height, width = picture.size
    left, top = np.clip(np.floor(pixels.min(0)) - _MARGIN, 0, [width, height]).astype(int)
    right, bottom = np.clip(np.ceil(pixels.max(0)) + _MARGIN, 0, [width, height]).astype(int)
    if right - left < 2 * _MARGIN or bottom - top < 2 * _MARGIN:
        return None
    return int(top), int(left), int(bottom), int(right)
