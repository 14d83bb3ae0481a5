"""Plain-torch twin of the antialiasing of outlines, any float type: all pairs of pixels at once, face by face along the
line between their centres. Autograd gives its gradients.

Written from Laine et al., "Modular Primitives for High-Performance Differentiable Rendering", SIGGRAPH Asia 2020,
section 3.5, and from the rules in `ops/antialias.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

#: HR_MAX_WALK in antialias.h.
MAX_WALK = 64


@dataclass(frozen=True)
class _Mesh:
    """One image's mesh: pixels [V,2] (NaN without a place in the image), tables [F,3], outlines [F,3], rim [V]."""

    pixels: Tensor
    faces: Tensor
    neighbours: Tensor
    outline: Tensor
    rim: Tensor


@dataclass(frozen=True)
class _Walk:
    """N walks: the face they are on, the edge they came in by (-1 at the start), where from, and which way."""

    face: Tensor
    entry: Tensor
    centre: Tensor  # [N,2]
    direction: Tensor  # [N], +1 or -1
    row: Tensor  # [N], which pair


def antialias_reference(image: Tensor, raster: tuple[Tensor, Tensor], mesh: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """The smoothed image; arguments as `_native_calls.antialias`."""
    points_hom, faces, neighbours = mesh
    faces, neighbours = faces.long(), neighbours.long()
    if image.numel() == 0 or len(faces) == 0:
        return image.clone()
    smoothed = []
    for b in range(len(image)):
        own = _outlines(_pixels(points_hom[b]), faces, neighbours)
        added = [_blend(image[b], raster[0][b].long(), raster[1][b], own, axis) for axis in (0, 1)]
        smoothed.append(image[b] + added[0] + added[1])
    return torch.stack(smoothed)


def _pixels(points_hom: Tensor) -> Tensor:
    front = points_hom[:, 2:] > 0
    pixels = points_hom[:, :2] / torch.where(front, points_hom[:, 2:], 1.0)
    sane = front & (pixels.abs() < 1e6).all(-1, keepdim=True)
    return torch.where(sane, pixels, torch.nan)


def _side(pixels: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Which side of the line a-b each point c lies on."""
    ab, ac = pixels[b] - pixels[a], pixels[c] - pixels[a]
    return ab[..., 0] * ac[..., 1] - ab[..., 1] * ac[..., 0]


def _outlines(pixels: Tensor, faces: Tensor, neighbours: Tensor) -> _Mesh:
    """Edges without a face beyond, and those whose two faces lie on the same side."""
    fixed = pixels.detach()
    a, b = faces.roll(-1, 1), faces.roll(-2, 1)
    own = _side(fixed, a, b, faces)
    opposite = faces[neighbours.clamp(min=0)]  # [F,3,3]
    corner = opposite.gather(-1, _other_corner(opposite, a, b)[..., None])[..., 0]
    other = torch.where(neighbours >= 0, _side(fixed, a, b, corner), own)
    outline = ((own > 0) & (other > 0)) | ((own < 0) & (other < 0))
    rim = torch.zeros(len(pixels), dtype=torch.bool)
    rim[a[outline]] = True
    rim[b[outline]] = True
    return _Mesh(pixels, faces, neighbours, outline, rim)


def _other_corner(corners: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Index of the first of corners [...,3] that is neither a nor b."""
    return ((corners != a[..., None]) & (corners != b[..., None])).int().argmax(-1)


def _blend(image: Tensor, face_index: Tensor, depth_z: Tensor, mesh: _Mesh, axis: int) -> Tensor:
    """What the pairs along one axis (0: side by side, 1: one above the other) add to the image [H,W,D]."""
    height, width, channels = image.shape
    index = torch.arange(height * width).reshape(height, width)
    first, second = (index[:, :-1], index[:, 1:]) if axis == 0 else (index[:-1], index[1:])
    first, second = first.flatten(), second.flatten()
    face, depth = face_index.flatten(), depth_z.flatten().detach()
    differ = (face[first] != face[second]) & ~_one_sheet(mesh, face[first], face[second])
    first, second = first[differ], second[differ]
    a, b = face[first], face[second]
    from_first = (b < 0) | ((a >= 0) & (depth[first] <= depth[second]))
    near, far = torch.where(from_first, first, second), torch.where(from_first, second, first)
    centre = torch.stack([near % width, near // width], -1) + 0.5
    walk = _Walk(
        torch.where(from_first, a, b),
        torch.full_like(near, -1),
        centre.to(image.dtype),
        torch.where(from_first, 1.0, -1.0).to(image.dtype),
        torch.arange(len(near)),
    )
    row, crossing = _walk_to_outlines(mesh, walk, axis)
    near, far = near[row], far[row]
    share = crossing - 0.5
    beyond = share > 0
    into, source = torch.where(beyond, far, near), torch.where(beyond, near, far)
    flat = image.reshape(-1, channels)
    change = torch.where(beyond, share, -share)[:, None] * (flat[source] - flat[into])
    return torch.zeros_like(flat).index_add(0, into, change).reshape(image.shape)


def _one_sheet(mesh: _Mesh, a: Tensor, b: Tensor) -> Tensor:
    """Whether two faces share a vertex that no outline touches."""
    corners_a, corners_b = mesh.faces[a.clamp(min=0)], mesh.faces[b.clamp(min=0)]
    shared = (corners_a[:, :, None] == corners_b[:, None, :]).any(-1)
    return (shared & ~mesh.rim[corners_a]).any(-1) & (a >= 0) & (b >= 0)


def _walk_to_outlines(mesh: _Mesh, walk: _Walk, axis: int) -> tuple[Tensor, Tensor]:
    """The pairs [N] between whose centres an outline passes, and where: 0 at the near centre, 1 at the other."""
    found: list[tuple[Tensor, Tensor]] = [(walk.row[:0], mesh.pixels.new_empty(0))]
    for _ in range(MAX_WALK):
        if len(walk.face) == 0:
            break
        offset = mesh.pixels[mesh.faces[walk.face]] - walk.centre[:, None]  # [N,3,2]
        along, beside = offset[..., axis] * walk.direction[:, None], offset[..., 1 - axis]
        start_a, end_a = along.roll(-1, 1), along.roll(-2, 1)
        start_b, end_b = beside.roll(-1, 1), beside.roll(-2, 1)
        crossed = ((start_b < 0) != (end_b < 0)) & (torch.arange(3) != walk.entry[:, None])
        span = torch.where(crossed, end_b - start_b, 1.0)
        at = torch.where(crossed, (start_a * end_b - end_a * start_b) / span, -torch.inf)
        edge = at.detach().argmax(-1, keepdim=True)
        crossing = at.gather(1, edge)[:, 0]
        goes_on = crossed.any(-1) & (crossing < 1) & ~torch.isnan(along).any(-1)
        is_outline = mesh.outline[walk.face].gather(1, edge)[:, 0]
        length_a = (start_a - end_a).gather(1, edge)[:, 0].abs()
        length_b = span.gather(1, edge)[:, 0].abs()
        upright = length_a <= length_b if axis == 0 else length_a < length_b
        hit = goes_on & is_outline & upright
        found.append((walk.row[hit], crossing[hit].clamp(min=0)))
        walk = _step(mesh, walk, edge[:, 0], goes_on & ~is_outline)
    return torch.cat([row for row, _ in found]), torch.cat([at for _, at in found])


def _step(mesh: _Mesh, walk: _Walk, edge: Tensor, keep: Tensor) -> _Walk:
    """The walks that go on, each on the face beyond its edge."""
    following = mesh.neighbours[walk.face, edge]
    keep = keep & (following >= 0)
    corners = mesh.faces[walk.face]
    a, b = (corners.gather(1, ((edge + k) % 3)[:, None])[:, 0] for k in (1, 2))
    entry = _other_corner(mesh.faces[following.clamp(min=0)], a, b)
    walk = replace(walk, face=following, entry=entry)
    return _Walk(walk.face[keep], walk.entry[keep], walk.centre[keep], walk.direction[keep], walk.row[keep])
