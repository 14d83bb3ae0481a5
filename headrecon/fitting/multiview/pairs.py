"""One photo seen through the surface from another: where the pixels of a reference lie in a second photo."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headrecon.fitting.multiview.looking import GRAZING, Look

#: Depth by which a point may lie behind what another view sees there and still count as seen by it, metres.
BEHIND_M = 0.004


@dataclass(frozen=True)
class Pair:
    """A reference and another view. shared: pixels of the reference whose surface both see.

    base, slope: homogeneous pixels of the other's crop for a surface moved by d metres along the reference's line of
    sight times 1 / (n . line), so that d is measured along the normal: (x z, y z, z) = base + d slope.
    """

    other: Look
    shared: Bool[Tensor, "h w"]
    base: Float[Tensor, "h w 3"]
    slope: Float[Tensor, "h w 3"]

    def pixels(self, offsets: Float[Tensor, "D #h #w"]) -> Float[Tensor, "D h w 2"]:
        moved = self.base + offsets[..., None] * self.slope
        return moved[..., :2] / moved[..., 2:].clamp(min=1e-4)

    def sample(self, offsets: Float[Tensor, "D #h #w"]) -> Float[Tensor, "D h w"]:
        """The other photo's grey at surfaces moved by `offsets`, bilinear; 0 outside of its crop."""
        return sample_grey(self.other.grey, self.pixels(offsets))


def sample_grey(grey: Float[Tensor, "h w"], pixels: Float[Tensor, "D m n 2"]) -> Float[Tensor, "D m n"]:
    """Bilinear values at pixel positions (the centre of the first pixel is at (0.5, 0.5))."""
    height, width = grey.shape
    scale = torch.tensor([2.0 / width, 2.0 / height])
    grid = pixels * scale - 1.0
    source = grey.expand(len(grid), 1, height, width)
    return torch.nn.functional.grid_sample(source, grid, mode="bilinear", align_corners=False)[:, 0]


def pair(reference: Look, other: Look, triangles: Tensor) -> Pair:
    """Look at the reference's pixels from the other view, the head as posed in each."""
    from headrecon.ops.interpolate import interpolate

    same = reference.posed is other.posed or np.array_equal(reference.posed, other.posed)
    index, weights = reference.face[None].int(), reference.barycentrics[None]
    if same:
        position, towards, facing = reference.position, reference.towards, None
        normal = reference.normal
    else:
        both = np.concatenate([other.posed, other.vertex_normals], axis=1).astype(np.float32)
        at = interpolate(torch.from_numpy(both), triangles, index, weights)[0]
        position, normal = at[..., :3], at[..., 3:] / at[..., 3:].norm(dim=-1, keepdim=True).clamp(min=1e-9)
        turn = torch.from_numpy(_turn(reference, other).astype(np.float32))
        towards = reference.towards @ turn.T
    matrix = torch.from_numpy(other.projection.astype(np.float32))
    base = position @ matrix[:, :3].T + matrix[:, 3]
    slope = (towards / reference.facing.clamp(min=GRAZING)[..., None]) @ matrix[:, :3].T
    to_other = torch.from_numpy(other.centre.astype(np.float32)) - position
    facing = (normal * to_other).sum(-1) / to_other.norm(dim=-1).clamp(min=1e-9)
    pixels = base[..., :2] / base[..., 2:].clamp(min=1e-4)
    height, width = other.size
    cell = pixels.floor().long()
    inside = (cell >= 0).all(-1) & (cell[..., 0] < width) & (cell[..., 1] < height) & (base[..., 2] > 0.05)
    column, row = cell[..., 0].clamp(0, width - 1), cell[..., 1].clamp(0, height - 1)
    front = other.depth_z[row, column]
    seen = other.compared[row, column] & (base[..., 2] < front + BEHIND_M)
    shared = reference.compared & inside & seen & (facing > GRAZING)
    return Pair(other, shared, base, slope)


def _turn(reference: Look, other: Look) -> np.ndarray:
    """The rotation that takes the head as posed in the reference to the head as posed in the other view."""
    a, b = (p.posed - p.posed.mean(0) for p in (reference, other))
    u, _, vt = np.linalg.svd(a.T @ b)
    sign = np.sign(np.linalg.det(u @ vt))
    return (u @ np.diag([1.0, 1.0, sign]) @ vt).T


def neighbours(looks: list[Look | None], most: int, least_deg: float, most_deg: float) -> list[list[int]]:
    """For each view the views to compare it with: those whose direction differs by an angle within the limits, nearest
    first, at most so many. Directions are told in the head's own frame, as it may move between photos."""
    first = next(k for k in looks if k is not None)
    directions = []
    for k in looks:
        if k is None:
            directions.append(np.full(3, np.nan))
            continue
        d = k.centre - k.posed.mean(0)
        directions.append(_turn(k, first) @ (d / np.linalg.norm(d)))
    table = np.stack(directions)
    with np.errstate(invalid="ignore"):
        angles = np.degrees(np.arccos(np.clip(table @ table.T, -1, 1)))
    out = []
    for row in angles:
        good = np.flatnonzero((row >= least_deg) & (row <= most_deg))
        out.append([int(i) for i in good[np.argsort(row[good], kind="stable")][:most]])
    return out
