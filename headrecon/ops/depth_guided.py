"""Where along a pixel's ray there is anything: shading points between the least and greatest depth of its patch.

A field around points or a mesh is empty but near them. So depths are drawn first, each pixel's range is widened to that
of the patch around it (the points beside it may hide behind or stand out before it), and samples are spent only there.
Method: the patch-wise depth-guided sampling of Wang et al., "Neural Point-based Volumetric Avatar", SIGGRAPH Asia 2023.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headrecon.errors import ShapeError
from headrecon.geometry.cameras import project_points
from headrecon.ops.ray_sampling import stratified_samples
from headrecon.ops.samples import DEFAULT_NEAR_Z, Raster
from headrecon.structures import Cameras


@dataclass(frozen=True)
class DepthRange:
    """Least and greatest depth_z of each pixel, metres; where there is nothing, near is infinite and far minus that."""

    near: Float[Tensor, "C H W"]
    far: Float[Tensor, "C H W"]

    @staticmethod
    def of_raster(raster: Raster) -> DepthRange:
        """The surface that a rasterized mesh shows."""
        depth = raster.depth_z.detach()
        return DepthRange(torch.where(raster.covered, depth, torch.inf), torch.where(raster.covered, depth, -torch.inf))

    def joined(self, other: DepthRange) -> DepthRange:
        """Of what both show, a mesh and points for instance."""
        return DepthRange(torch.minimum(self.near, other.near), torch.maximum(self.far, other.far))

    def dilated(self, patch: int, margin_m: float = 0.0) -> DepthRange:
        """Each pixel's range joined with those of the patch x patch around it, and longer by the margin at both ends.

        patch: odd. A pixel that shows nothing stays empty only if its whole patch does. The near end stays before the
        camera. Raises ShapeError for a patch that is even or a margin below 0. Cost: linear in pixels and in patch.
        """
        if patch < 1 or patch % 2 == 0 or not margin_m >= 0:
            raise ShapeError(
                f"DepthRange.dilated: patch must be odd and the margin 0 m or more, found {patch}, {margin_m}"
            )
        if self.near.numel() == 0:
            return self
        near, far = -_window_maximum(-self.near, patch) - margin_m, _window_maximum(self.far, patch) + margin_m
        return DepthRange(near.clamp(min=DEFAULT_NEAR_Z), far)


def _window_maximum(image: Tensor, patch: int) -> Tensor:
    """Greatest number among the patch x patch around each, first along the rows and then along the columns."""
    reach = patch // 2
    rows = torch.nn.functional.max_pool2d(image[:, None], (1, patch), 1, (0, reach))
    return torch.nn.functional.max_pool2d(rows, (patch, 1), 1, (reach, 0))[:, 0]


def point_depth_range(points: Float[Tensor, "N 3"], cameras: Cameras) -> DepthRange:
    """The depths of world points [N,3], metres, in the pixels that their centres fall into, for C cameras [C,...].

    Points at or behind the camera, outside the picture or not finite are left out. Cut off from autograd.
    """
    if cameras.viewmats.ndim != 3 or points.ndim != 2 or points.shape[-1] != 3:
        raise ShapeError(
            "point_depth_range: points must be [N,3] and cameras have viewmats [C,4,4], "
            f"found {tuple(points.shape)} and {tuple(cameras.viewmats.shape)}"
        )
    pixels, depth_z = project_points(points.detach().expand(len(cameras.viewmats), -1, -1), cameras)
    column, row = pixels.detach().floor().unbind(-1)
    inside = (column >= 0) & (column < cameras.width) & (row >= 0) & (row < cameras.height)
    seen = inside & (depth_z >= DEFAULT_NEAR_Z) & depth_z.isfinite()  # what is NaN fails every comparison
    camera = torch.arange(len(depth_z), device=points.device)[:, None].expand_as(depth_z)[seen]
    place = (camera * cameras.height + row[seen].long()) * cameras.width + column[seen].long()
    shape = (len(depth_z), cameras.height, cameras.width)
    near, far = depth_z.new_full(shape, torch.inf).flatten(), depth_z.new_full(shape, -torch.inf).flatten()
    near.scatter_reduce_(0, place, depth_z[seen].detach(), "amin")
    far.scatter_reduce_(0, place, depth_z[seen].detach(), "amax")
    return DepthRange(near.reshape(shape), far.reshape(shape))


@dataclass(frozen=True)
class ShadingPoints:
    """S samples on each of R rays, nearest first. pixels: camera, row and column of each ray."""

    positions: Float[Tensor, "R S 3"]
    depth_z: Float[Tensor, "R S"]
    pixels: Int[Tensor, "R 3"]


def shading_points(
    depths: DepthRange, cameras: Cameras, count: int, generator: torch.Generator | None = None
) -> ShadingPoints:
    """`count` world points on the ray of each pixel that shows something, one in each equal part of its depth range.

    At random within the part, or in its middle without a generator (which must live where the depths do). Through the
    centres of the pixels. Gradients flow to the cameras; depths are constants. Raises ShapeError when the cameras do
    not match the depths.
    """
    expected = (len(cameras.viewmats), cameras.height, cameras.width)
    if depths.near.shape != expected or depths.far.shape != expected or cameras.viewmats.ndim != 3:
        raise ShapeError(
            f"shading_points: depths must be {expected}, as the cameras are, found {tuple(depths.near.shape)} and "
            f"{tuple(depths.far.shape)}"
        )
    pixels = torch.nonzero(depths.near <= depths.far)
    camera, row, column = pixels.unbind(-1)
    near_far = torch.stack([depths.near[camera, row, column], depths.far[camera, row, column]], -1)
    depth_z = stratified_samples(near_far, count, generator)
    centre = torch.stack([column + 0.5, row + 0.5, torch.ones_like(row)], -1).to(depth_z.dtype)
    rotation, translation = cameras.viewmats[:, :3, :3], cameras.viewmats[:, :3, 3]
    to_world = rotation.mT @ torch.linalg.inv(cameras.Ks)  # of (x z, y z, z)
    ray = (to_world[camera] @ centre[..., None])[..., 0]
    origin = -(rotation.mT @ translation[..., None])[..., 0]
    return ShadingPoints(origin[camera][:, None] + depth_z[..., None] * ray[:, None], depth_z, pixels)
