"""Plain-torch twin of Gaussian splatting, any float type: projection, harmonics, tile lists, compositing.

Rows of `splats` are x, y, sharp_x, shear, sharp_y, opacity, depth, log2 opacity (HrSplatField in splat.h): with (dx,
dy) from the centre to a pixel's centre, u = dx + shear dy, alpha = opacity exp(-(sharp_x u^2 + sharp_y dy^2) / 2).
That is the inverse covariance of EWA splatting (Zwicker et al., IEEE TVCG 2002) as L D L^T.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from headrecon.geometry.harmonics import evaluate_harmonics

MIN_ALPHA = 1 / 255  # what contributes less is left out
MAX_ALPHA = 0.999  # more would hide what is behind from the gradients
END_TRANSMITTANCE = 1e-4  # a pixel that lets less through is finished
MIN_COMPENSATION2 = 1e-12  # of the ratio of determinants; below, its root has no slope
HUGE = 1e30  # numbers beyond count as infinite
RIM = 0.15  # of the picture's size: how far out the slope of the projection still changes


@dataclass(frozen=True)
class SplatView:
    """How Gaussians are projected. Sizes in pixels, depths in metres, eps2d in pixels^2; see `splat_gaussians`."""

    width: int
    height: int
    tile_size: int
    near_z: float
    far_z: float
    eps2d: float
    radius_clip: float
    antialiased: bool

    @property
    def tiles(self) -> tuple[int, int]:
        """Rows and columns of tiles."""
        return -(-self.height // self.tile_size), -(-self.width // self.tile_size)


def rotations_of(quats: Tensor) -> Tensor:
    """[...,3,3] of unit quaternions w, x, y, z [...,4]."""
    w, x, y, z = quats.unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def project_reference(
    gaussians: tuple[Tensor, Tensor, Tensor, Tensor], cameras: tuple[Tensor, Tensor], view: SplatView
) -> tuple[Tensor, Tensor, Tensor]:
    """Splats [B,C,N,8], radii [B,C,N,2] and normals [B,C,N,3] of B sets of N Gaussians and their C cameras each.

    gaussians: means, quats, scales, opacities. cameras: viewmats, Ks. What is not drawn has zeros everywhere.
    """
    means, quats, scales, opacities = gaussians
    viewmats, ks = cameras
    lengths = quats.norm(dim=-1)
    unit = quats / lengths[..., None]
    axes = rotations_of(unit) * scales[..., None, :]  # [B,N,3,3], a column for each axis
    turn, shift = viewmats[..., :3, :3], viewmats[..., :3, 3]
    at = torch.einsum("bcij,bnj->bcni", turn, means) + shift[:, :, None]
    x, y, z = at.unbind(-1)
    fx, fy, cx, cy = (ks[..., i, j, None] for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
    slope_x = _between(x / z, -(cx + RIM * view.width) / fx, (view.width * (1 + RIM) - cx) / fx)
    slope_y = _between(y / z, -(cy + RIM * view.height) / fy, (view.height * (1 + RIM) - cy) / fy)
    zero = torch.zeros_like(z)
    slope = torch.stack([fx / z, zero, -fx / z * slope_x, zero, fy / z, -fy / z * slope_y], -1).unflatten(-1, (2, 3))
    g = torch.einsum("bcnij,bcjk,bnkl->bcnil", slope, turn, axes)
    a, b, c = g[..., 0, :].square().sum(-1), (g[..., 0, :] * g[..., 1, :]).sum(-1), g[..., 1, :].square().sum(-1)
    plain = torch.linalg.cross(g[..., 0, :], g[..., 1, :]).square().sum(-1)  # a c - b^2, without cancellation
    a, c = a + view.eps2d, c + view.eps2d
    det = plain + view.eps2d * (a + c - view.eps2d)
    fade = (plain / det).clamp(min=MIN_COMPENSATION2).sqrt() if view.antialiased else torch.ones_like(det)
    opacity = opacities[:, None] * fade
    u, v = fx * x / z + cx, fy * y / z + cy
    power = opacity.detach().clamp(min=1e-30).log2()
    reach2 = 2 * math.log(2) * (power - math.log2(MIN_ALPHA))
    radii = torch.stack([(reach2 * a).clamp(min=0).sqrt(), (reach2 * c).clamp(min=0).sqrt()], -1).detach()
    drawn = (z > view.near_z) & (z < min(view.far_z, HUGE)) & (reach2 >= 0) & (opacity < HUGE)
    drawn &= (lengths > 1 / HUGE)[:, None] & (lengths < HUGE)[:, None] & (a < HUGE) & (c < HUGE)
    drawn &= (det > 1e-36) & (det < HUGE) & (radii.amax(-1) > view.radius_clip)
    rx, ry = radii.unbind(-1)
    drawn &= (u + rx > 0) & (u - rx < view.width) & (v + ry > 0) & (v - ry < view.height)
    fields = torch.stack([u, v, c / det, -b / c, 1 / c, opacity, z, power], -1)
    normals = _normals(means, rotations_of(unit), scales, viewmats)
    keep = drawn[..., None]
    return tuple(torch.where(keep, t, torch.zeros_like(t)) for t in (fields, radii, normals))  # type: ignore[return-value]


def _between(values: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return torch.maximum(torch.minimum(values, high), low)


def _normals(means: Tensor, rotations: Tensor, scales: Tensor, viewmats: Tensor) -> Tensor:
    """[B,C,N,3]: the shortest axis, turned to the camera."""
    short = scales.detach().argmin(-1)
    normal = rotations.gather(-1, short[..., None, None].expand(*short.shape, 3, 1))[..., 0]
    towards = camera_centers(viewmats)[:, :, None] - means[:, None]
    facing = (towards * normal[:, None]).sum(-1, keepdim=True).detach()
    return torch.where(facing < 0, -normal[:, None], normal[:, None])


def camera_centers(viewmats: Tensor) -> Tensor:
    """[...,3]: where the cameras [...,4,4] stand in the world."""
    return -(viewmats[..., :3, :3].mT @ viewmats[..., :3, 3:])[..., 0]


def harmonics_reference(means: Tensor, coefficients: Tensor, centers: Tensor, radii: Tensor, degree: int) -> Tensor:
    """[B,C,N,3] colours max(0, 1/2 + ...) of means [B,N,3], coefficients [B,N,K,3], centers [B,C,3]; 0 if not drawn."""
    drawn = radii[..., :1] > 0
    away = torch.where(drawn, means[:, None] - centers[:, :, None], torch.ones_like(means[:, None]))
    directions = away / away.norm(dim=-1, keepdim=True).clamp(min=1e-30)
    basis = evaluate_harmonics(directions, degree)
    used = finite_or_zero(coefficients[:, :, : basis.shape[-1]])
    colours = (torch.einsum("bcnk,bnkd->bcnd", basis, used) + 0.5).clamp(min=0)
    return torch.where(drawn, colours, torch.zeros_like(colours))


def finite_or_zero(values: Tensor) -> Tensor:
    """The values, and 0 for those that are not finite."""
    return torch.where(torch.isfinite(values), values, torch.zeros_like(values))


def tile_pairs(splats: Tensor, radii: Tensor, view: SplatView) -> tuple[Tensor, Tensor, Tensor]:
    """Every (image, splat, tile) such that the splat has alpha >= 1/255 somewhere among the tile's pixel centres.

    splats [I,N,8]. A tile is tested against the ellipse itself: the least of sharp_x u^2 + sharp_y dy^2 over the
    tile's box.
    """
    columns = view.tiles[1]
    image, splat = torch.nonzero(radii[..., 0] > 0, as_tuple=True)
    field = splats[image, splat].double()
    size = view.tile_size
    low, high = _cells(field[:, :2], radii[image, splat].double(), view)
    across, down = (high - low).clamp(min=0).unbind(-1)
    count = across * down
    pair = torch.repeat_interleave(torch.arange(len(image), device=image.device), count)
    nth = torch.arange(len(pair), device=image.device) - torch.repeat_interleave(count.cumsum(0) - count, count)
    column, row = low[pair, 0] + nth % across[pair], low[pair, 1] + nth // across[pair]
    near = torch.stack([column, row], -1) * size + 0.5
    limit = torch.tensor([view.width, view.height], device=image.device)
    far = torch.minimum(torch.stack([column, row], -1) * size + size, limit) - 0.5
    box = torch.stack([near - field[pair, :2], far - field[pair, :2]], 1)
    power = field[pair, 7] - 0.5 / math.log(2) * _least(box, *(field[pair, i] for i in (2, 3, 4)))
    kept = power >= math.log2(MIN_ALPHA) - 1e-3  # a little more than exact, as rounding goes
    return image[pair[kept]], splat[pair[kept]], (row * columns + column)[kept]


def _cells(centre: Tensor, radii: Tensor, view: SplatView) -> tuple[Tensor, Tensor]:
    """First and one past the last column and row of tiles that a box of pixel centres meets."""
    limit = torch.tensor([view.width, view.height], device=centre.device)
    first = torch.minimum((centre - radii - 0.502).ceil().clamp(min=0), limit)
    end = torch.minimum((centre + radii + 0.502).floor().clamp(min=0), limit)
    size = view.tile_size
    cells = (first / size).floor().long(), ((end - 1) / size).floor().long() + 1
    return cells[0], torch.where(end > first, cells[1], cells[0])


def _least(box: Tensor, sharp_x: Tensor, shear: Tensor, sharp_y: Tensor) -> Tensor:
    """Least of sharp_x (x + shear y)^2 + sharp_y y^2 over boxes [P,2 (low, high),2 (x, y)] about the splat's centre."""
    (x0, y0), (x1, y1) = box[:, 0].unbind(-1), box[:, 1].unbind(-1)
    candidates = []
    for y in (y0, y1):  # on a horizontal side the least is where u = 0, or at the nearer end
        x = _between(-shear * y, x0, x1)
        candidates.append(sharp_x * (x + shear * y).square() + sharp_y * y.square())
    mixed, straight = sharp_x * shear, sharp_x * shear.square() + sharp_y
    for x in (x0, x1):
        y = _between(-mixed * x / straight, y0, y1)
        candidates.append(sharp_x * (x + shear * y).square() + sharp_y * y.square())
    inside = (x0 <= 0) & (x1 >= 0) & (y0 <= 0) & (y1 >= 0)
    return torch.where(inside, torch.zeros_like(x0), torch.stack(candidates).amin(0))


def tiles_reference(splats: Tensor, radii: Tensor, view: SplatView) -> tuple[Tensor, Tensor]:
    """Offsets int32 [I*T + 1] and ids int32 [M]: the splats of every tile by depth, equal depths by number."""
    image, splat, tile = tile_pairs(splats, radii, view)
    rows, columns = view.tiles
    cell = image * (rows * columns) + tile
    order = torch.argsort(splat, stable=True)
    order = order[torch.argsort(splats[image, splat, 6][order], stable=True)]
    order = order[torch.argsort(cell[order], stable=True)]
    counts = torch.bincount(cell, minlength=len(splats) * rows * columns)
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return offsets.int(), splat[order].int()
