"""Plain-torch twins of neighbour search and blending, any float type: every point against every query."""

from __future__ import annotations

import torch
from torch import Tensor

from headrecon.errors import ShapeError

_MOST_PAIRS = 1 << 24  # compared at once


def query_points_reference(points: Tensor, queries: Tensor, radius: float, count: int) -> tuple[Tensor, Tensor]:
    """Numbers (int32, -1 for none) and distances (infinite for none) [B,Q,K] of the nearest points within the radius.

    points [B,N,3], queries [B,Q,3]. Sorted by distance, then by number. Not differentiable.
    """
    batch, num_queries = queries.shape[:2]
    neighbours = torch.full((batch, num_queries, count), -1, dtype=torch.int32, device=queries.device)
    distances = torch.full((batch, num_queries, count), torch.inf, dtype=queries.dtype, device=queries.device)
    kept = min(count, points.shape[1])
    if kept == 0:
        return neighbours, distances
    rows = max(1, _MOST_PAIRS // points.shape[1])
    limit = torch.tensor(radius, dtype=points.dtype, device=points.device).square()
    for b in range(batch):
        usable = points[b].detach().isfinite().all(-1)
        for begin in range(0, num_queries, rows):
            asked = queries[b, begin : begin + rows].detach()
            x, y, z = (asked[:, None] - points[b].detach()).unbind(-1)
            square = x * x + y * y + z * z
            near = usable & asked.isfinite().all(-1)[:, None] & (square <= limit)
            square = torch.where(near, square, torch.inf)
            # Squares that overflowed are infinite too, and yet near when the radius is: sort those before the others.
            by_nearness = torch.argsort((~near).to(torch.uint8), dim=1, stable=True)
            by_square = torch.argsort(square.gather(1, by_nearness), dim=1, stable=True)
            number = by_nearness.gather(1, by_square)[:, :kept]
            found = near.gather(1, number)
            end = begin + len(asked)
            neighbours[b, begin:end, :kept] = torch.where(found, number, -1).int()
            # By way of double, so that it is rounded correctly: torch's own is off by a last bit now and then.
            distance = square.gather(1, number).double().sqrt().to(square.dtype)
            distances[b, begin:end, :kept] = torch.where(found, distance, torch.inf)
    return neighbours, distances


def blend_points_reference(
    points: Tensor, features: Tensor, queries: Tensor, neighbours: Tensor, softening: float
) -> tuple[Tensor, Tensor]:
    """Features [B,Q,C] and offsets [B,Q,3] of the neighbours, weighted by 1 / (distance + softening). Autograd.

    points [B,N,3], features [B or 1,N,C], queries [B,Q,3], neighbours [B,Q,K].
    """
    check_neighbours(neighbours, points.shape[1])
    present = neighbours >= 0
    if points.shape[1] == 0:
        return points.new_zeros(*queries.shape[:2], features.shape[2]) + 0.0 * features.sum(), queries * 0.0
    which = neighbours.long().clamp(min=0)
    batch = torch.arange(len(points), device=points.device)[:, None, None]
    away = queries[:, :, None] - points[batch, which]
    square = torch.where(present, away.square().sum(-1), 1.0)
    # The square root has no derivative at 0: a query upon a point does not move it.
    distance = torch.where(square > 0, torch.where(square > 0, square, 1.0).sqrt(), 0.0)
    weight = torch.where(present, 1.0 / (distance + softening), 0.0)
    total = weight.sum(-1, keepdim=True)
    share = (weight / torch.where(total > 0, total, 1.0))[..., None]
    gathered = features[batch if len(features) > 1 else torch.zeros_like(batch), which]
    kept = present[..., None]
    return (share * torch.where(kept, gathered, 0.0)).sum(2), (share * torch.where(kept, away, 0.0)).sum(2)


def check_neighbours(neighbours: Tensor, count: int) -> None:
    """Raise ShapeError when a number is neither -1 nor that of a point."""
    if neighbours.numel() and (int(neighbours.max()) >= count or int(neighbours.min()) < -1):
        raise ShapeError(
            f"blend_points: neighbours must be -1 or number the {count} points (0..{count - 1}), found others"
        )
