"""Plain-torch twin of the compositing of splats, any float type, tile by tile so that memory stays bounded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from headrecon.ops.reference.gradients import gradients_of
from headrecon.ops.reference.splat import END_TRANSMITTANCE, MAX_ALPHA, MIN_ALPHA, SplatView, finite_or_zero


class SplatImages(NamedTuple):
    """What compositing gives: [I,H,W,D], [I,H,W], [I,H,W,3], [I,H,W]; int32 last and median (-1: T stays above 1/2)."""

    image: Tensor
    depth_sum: Tensor
    normal_sum: Tensor
    transmittance: Tensor
    last: Tensor
    median: Tensor


class SplatInputs(NamedTuple):
    """Splats [I,N,8], colours [I,N,D], normals [I,N,3], background [I,D]."""

    splats: Tensor
    colours: Tensor
    normals: Tensor
    background: Tensor


@dataclass(frozen=True)
class _Tile:
    """Part of one image: its rows and columns of pixels, and the splats that touch it, front to back."""

    image: int
    rows: slice
    columns: slice
    ids: Tensor

    def centres(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """x and y of the pixels' centres [P]."""
        ys = torch.arange(self.rows.start, self.rows.stop, device=like.device).to(like.dtype) + 0.5
        xs = torch.arange(self.columns.start, self.columns.stop, device=like.device).to(like.dtype) + 0.5
        return xs.repeat(len(ys)), ys.repeat_interleave(len(xs))

    @property
    def at(self) -> tuple[int, slice, slice]:
        return self.image, self.rows, self.columns

    @property
    def size(self) -> tuple[int, int]:
        return self.rows.stop - self.rows.start, self.columns.stop - self.columns.start


def _tiles_of(lists: tuple[Tensor, Tensor], images: int, view: SplatView) -> list[_Tile]:
    offsets, ids = lists
    bounds, size = offsets.tolist(), view.tile_size
    down, across = view.tiles
    tiles = []
    for n in range(images * down * across):
        row, column = n // across % down * size, n % across * size
        rows, columns = slice(row, min(row + size, view.height)), slice(column, min(column + size, view.width))
        tiles.append(_Tile(n // (down * across), rows, columns, ids[bounds[n] : bounds[n + 1]].long()))
    return tiles


def composite_reference(inputs: SplatInputs, lists: tuple[Tensor, Tensor], view: SplatView) -> SplatImages:
    """Pictures of splats. lists: offsets and ids of `tiles_reference`.

    Differentiable, but then memory is not bounded.
    """
    images, like = len(inputs.splats), inputs.splats
    tiles = _tiles_of(lists, images, view)
    parts: list[list[Tensor]] = []
    for tile in tiles:
        row = [t[tile.image, tile.ids] for t in (inputs.splats, inputs.colours, inputs.normals)]
        nudge = like.new_zeros(tile.size[0] * tile.size[1], len(tile.ids), 2)
        parts.append(
            [t.unflatten(0, tile.size) for t in composite_tile(row, inputs.background[tile.image], nudge, tile)]
        )
    down, across = view.tiles
    pictures = []
    for kind in zip(*parts, strict=True):
        strips = [torch.cat(kind[i * across : (i + 1) * across], 1) for i in range(images * down)]
        pictures.append(torch.stack([torch.cat(strips[i * down : (i + 1) * down], 0) for i in range(images)]))
    return SplatImages(*pictures)


def composite_tile(row: list[Tensor], background: Tensor, nudge: Tensor, tile: _Tile) -> list[Tensor]:
    """What the P pixels of one tile see of its n splats: the fields of SplatImages, each [P,...].

    row: splats [n,8], colours [n,D], normals [n,3]. nudge [P,n,2]: zeros, added to the centres, so that autograd says
    how every pixel pulls at every splat.
    """
    field, colours, normals = row
    px, py = tile.centres(field)
    dx, dy = px[:, None] - (field[:, 0] + nudge[..., 0]), py[:, None] - (field[:, 1] + nudge[..., 1])
    u = dx + field[:, 3] * dy
    raw = field[:, 5] * torch.exp(-0.5 * (field[:, 2] * u.square() + field[:, 4] * dy.square()))
    alpha = torch.where(raw >= MIN_ALPHA, raw.clamp(max=MAX_ALPHA), torch.zeros_like(raw))
    before = torch.cat([torch.ones_like(alpha[:, :1]), (1 - alpha).cumprod(-1)], 1)[:, : alpha.shape[1]]
    alpha = torch.where(before > END_TRANSMITTANCE, alpha, torch.zeros_like(alpha))
    left = (1 - alpha).prod(-1)
    weight = alpha * before
    image = weight @ finite_or_zero(colours) + left[:, None] * background
    taken = torch.arange(1, alpha.shape[1] + 1, device=alpha.device)
    last = torch.cat([taken.new_zeros(len(px), 1), (alpha > 0) * taken], 1).amax(-1)
    return [
        image, weight @ field[:, 6], weight @ finite_or_zero(normals), left, last.int(),
        _median(alpha, before, tile.ids).int(),
    ]  # fmt: skip


def _median(alpha: Tensor, before: Tensor, ids: Tensor) -> Tensor:
    """[P]: number of the splat at which the transmittance falls to 1/2 or below, -1 where it does not."""
    crosses = (alpha > 0) & (before > 0.5) & (before * (1 - alpha) <= 0.5)
    if crosses.shape[1] == 0:
        return torch.full((len(alpha),), -1, device=alpha.device)
    first = crosses.int().argmax(-1)
    return torch.where(crosses.any(-1), ids[first], -1)


class SplatGrads(NamedTuple):
    """Gradients by the fields of SplatInputs, and [I,N,4]: sums over pixels of d/dx, d/dy, |d/dx|, |d/dy| by the

    centre.
    """

    splats: Tensor
    colours: Tensor
    normals: Tensor
    background: Tensor
    centres: Tensor


def composite_gradients(
    inputs: SplatInputs, lists: tuple[Tensor, Tensor], view: SplatView, grads: tuple[Tensor | None, ...]
) -> SplatGrads:
    """Gradients from those of image, depth_sum, normal_sum and transmittance (None: zero), one tile's graph at a

    time.
    """
    centres = inputs.splats.new_zeros(*inputs.splats.shape[:2], 4)
    splats, colours, normals, background = (torch.zeros_like(t) for t in inputs)
    found = SplatGrads(splats, colours, normals, background, centres)
    for tile in _tiles_of(lists, len(inputs.splats), view):
        rows = [t[tile.image, tile.ids] for t in (inputs.splats, inputs.colours, inputs.normals)]
        nudge = inputs.splats.new_zeros(tile.size[0] * tile.size[1], len(tile.ids), 2)
        wanted = [None if g is None else g[tile.at].flatten(0, 1) for g in grads]

        def pictures(*leaves: Tensor, tile: _Tile = tile) -> tuple[Tensor, ...]:
            return tuple(composite_tile(list(leaves[:3]), leaves[3], leaves[4], tile)[:4])

        leaves = (*rows, inputs.background[tile.image], nudge)
        by = [g for g in gradients_of(pictures, leaves, (True,) * 5, wanted) if g is not None]
        for total, part in zip(found[:3], by[:3], strict=True):
            total[tile.image].index_add_(0, tile.ids, part)
        found.background[tile.image] += by[3]
        pulls = torch.cat([by[4].sum(0), by[4].abs().sum(0)], -1)
        found.centres[tile.image].index_add_(0, tile.ids, pulls)
    found.splats[..., 7] = 0
    return found
