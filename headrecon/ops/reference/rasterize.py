"""Plain-torch twin of the rasterizer: every face against every pixel of its box, in exact integers and float64.

Written from the rules in `ops/rasterize.py` and from Olano and Greer, "Triangle Scan Conversion using 2D Homogeneous
Coordinates", Graphics Hardware 1997; it shares no code with the C++ one. For tests, and for machines without a
compiler.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from headrecon.errors import ShapeError

SUBPIXELS = 256
#: Vertices farther out than this cannot be rounded to subpixels safely; such faces take the homogeneous path.
GUARD_BAND_PX = 32768.0
#: Pairs of a face and a pixel that are worked on at once, to bound memory (about 300 bytes each).
_PAIRS = 1 << 20


@dataclass(frozen=True)
class _Faces:
    """The faces of one image that may be visible, in ascending order."""

    index: Tensor  # int64 [N], which face of the mesh
    corners: Tensor  # float64 [N,3,3], homogeneous
    in_view: Tensor  # bool [N]: all corners between near and far and within the guard band
    snapped: Tensor  # int64 [N,3,2] subpixels, meaningful where in_view
    box: Tensor  # int64 [N,4]: x0, y0, x1, y1 of the pixels to test, end exclusive

    def pick(self, rows: Tensor) -> _Faces:
        return _Faces(self.index[rows], self.corners[rows], self.in_view[rows], self.snapped[rows], self.box[rows])


def rasterize_reference(
    points_hom: Tensor, faces: Tensor, size: tuple[int, int], clip: tuple[float, float, bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """(face_index int32 [B,H,W], barycentrics [B,H,W,3], depth_z [B,H,W]) of float32 or float64 points_hom [B,V,3].

    size is (height, width), clip is (near_z, far_z, cull_backfaces).
    """
    batch, (height, width) = points_hom.shape[0], size
    faces = faces.long()
    vertices = points_hom.shape[1]
    if faces.numel() and batch and height and width and (int(faces.min()) < 0 or int(faces.max()) >= vertices):
        raise ShapeError(f"rasterize: faces must index the {vertices} vertices (0..{vertices - 1}), found others")
    face_index = torch.full((batch, height * width), -1, dtype=torch.int64)
    for b in range(batch if len(faces) and height and width else 0):
        inv_z = torch.zeros(height * width, dtype=torch.float64)
        for part in _in_portions(_prepare(points_hom[b, faces], size, clip)):
            _draw(part, width, clip, face_index[b], inv_z)
    face_index = face_index.reshape(batch, height, width)
    barycentrics, depth_z = resolve_reference(points_hom, faces, face_index)
    return face_index.to(torch.int32), barycentrics, depth_z


def _prepare(corners: Tensor, size: tuple[int, int], clip: tuple[float, float, bool]) -> _Faces:
    """Drop what cannot be seen, and find the pixels that each of the others may cover."""
    near_z, far_z, _ = clip
    height, width = size
    z = corners[..., 2]
    within_band = (corners[..., :2].abs() <= GUARD_BAND_PX * z[..., None]).flatten(1).all(1)
    in_view = ((z >= near_z) & (z <= far_z)).all(1) & within_band
    pixels = corners[..., :2] / torch.where(in_view[:, None, None], z[..., None], 1.0)
    snapped = torch.round(torch.where(in_view[:, None, None], pixels, 0.0) * SUBPIXELS).long()
    limit = torch.tensor([width, height])
    low = torch.where(in_view[:, None], (snapped.amin(1) // SUBPIXELS - 1).clamp(min=0), 0)
    high = torch.where(in_view[:, None], torch.minimum(snapped.amax(1) // SUBPIXELS + 2, limit), limit)
    may_show = torch.isfinite(corners).flatten(1).all(1) & (z >= near_z).any(1) & (low < high).all(1)
    faces = _Faces(torch.arange(len(corners)), corners.double(), in_view, snapped, torch.cat([low, high], 1))
    return faces.pick(torch.nonzero(may_show)[:, 0])


def _in_portions(faces: _Faces) -> list[_Faces]:
    """The same faces in order, in portions of about `_PAIRS` pixels to test."""
    pairs = (faces.box[:, 2] - faces.box[:, 0]) * (faces.box[:, 3] - faces.box[:, 1])
    portion = torch.cumsum(pairs, 0) // _PAIRS
    return [faces.pick(torch.nonzero(portion == p)[:, 0]) for p in portion.unique()]


def _draw(faces: _Faces, width: int, clip: tuple[float, float, bool], face_index: Tensor, inv_z: Tensor) -> None:
    """Write the faces into face_index [H*W] and inv_z [H*W] wherever they are nearer than what is there."""
    near_z, far_z, cull = clip
    across, down = faces.box[:, 2] - faces.box[:, 0], faces.box[:, 3] - faces.box[:, 1]
    pairs = across * down
    row = torch.repeat_interleave(torch.arange(len(pairs)), pairs)
    place = torch.arange(len(row)) - (torch.cumsum(pairs, 0) - pairs)[row]
    x, y = faces.box[row, 0] + place % across[row], faces.box[row, 1] + place // across[row]
    normals = torch.linalg.cross(faces.corners.roll(-1, dims=1), faces.corners.roll(-2, dims=1))
    volume = (normals[:, 0] * faces.corners[:, 0]).sum(-1)  # determinant of the corners: < 0 when facing the camera
    ray = torch.stack([x + 0.5, y + 0.5, torch.ones_like(x)], -1).double()
    weights = (normals[row] * ray[:, None]).sum(-1)  # their ratio is that of the barycentrics
    total = weights.sum(-1)
    value = total / torch.where(volume == 0, torch.inf, volume)[row]  # 1/z
    # Regular faces: a centre that rounding put inside keeps to the corners' range of depths.
    z = faces.corners[..., 2]
    clamped = torch.maximum(torch.minimum(value, 1 / z.amin(1)[row]), 1 / z.amax(1)[row])
    exact = _covered_exactly(faces.snapped, row, x, y, cull)
    # Faces that leave the view: the pixel's ray meets the face, between near and far.
    same_side = ((weights >= 0) == (total >= 0)[:, None]).all(-1) & (volume != 0)[row]
    met = same_side & (value >= 1.0 / far_z) & (value <= 1.0 / near_z) & (~torch.tensor(cull) | (volume < 0)[row])
    regular = faces.in_view[row]
    covered, value = torch.where(regular, exact, met), torch.where(regular, clamped, value)
    _keep_nearest(faces.index[row[covered]], (y * width + x)[covered], value[covered], face_index, inv_z)


def _keep_nearest(face: Tensor, pixel: Tensor, value: Tensor, face_index: Tensor, inv_z: Tensor) -> None:
    """Merge candidates into the image: the largest 1/z wins, among equals the lowest face, earlier portions first."""
    nearest = torch.zeros_like(inv_z).scatter_reduce(0, pixel, value, "amax")
    first = torch.full_like(face_index, torch.iinfo(torch.int64).max)
    is_nearest = value == nearest[pixel]
    first = first.scatter_reduce(0, pixel[is_nearest], face[is_nearest], "amin")
    wins = nearest > inv_z
    inv_z[wins] = nearest[wins]
    face_index[wins] = first[wins]


def _covered_exactly(snapped: Tensor, row: Tensor, x: Tensor, y: Tensor, cull: bool) -> Tensor:
    """Integer coverage, with the top-left rule, of snapped triangles [N,3,2] for pairs of a row and a pixel."""
    edges = snapped.roll(-1, dims=1) - snapped
    area = edges[:, 0, 0] * edges[:, 1, 1] - edges[:, 0, 1] * edges[:, 1, 0]
    # Running the other way round turns every edge and the sign of every side.
    turn = torch.where(area < 0, -1, 1)[:, None]
    dx, dy = edges[..., 0] * turn, edges[..., 1] * turn
    top_left = (dy < 0) | ((dy == 0) & (dx > 0))
    px, py = x * SUBPIXELS + SUBPIXELS // 2, y * SUBPIXELS + SUBPIXELS // 2
    start = snapped[row]
    side = dx[row] * (py[:, None] - start[..., 1]) - dy[row] * (px[:, None] - start[..., 0])
    visible = (area < 0) if cull else (area != 0)
    return ((side > 0) | ((side == 0) & top_left[row])).all(-1) & visible[row]


def resolve_reference(points_hom: Tensor, faces: Tensor, face_index: Tensor) -> tuple[Tensor, Tensor]:
    """Barycentrics and depth of what each pixel sees, in float64, returned in the type of points_hom.

    Differentiable in points_hom: the twin of the native backward pass.
    """
    barycentrics = torch.zeros(*face_index.shape, 3, dtype=torch.float64)
    depth_z = torch.zeros(face_index.shape, dtype=torch.float64)
    b, y, x = torch.nonzero(face_index >= 0, as_tuple=True)
    corners = points_hom.double()[b[:, None], faces.long()[face_index[b, y, x].long()]]  # [P,3,3]
    offsets = corners[..., :2] - torch.stack([x + 0.5, y + 0.5], -1).double()[:, None] * corners[..., 2:]
    following, last = offsets.roll(-1, dims=1), offsets.roll(-2, dims=1)
    weights = following[..., 0] * last[..., 1] - following[..., 1] * last[..., 0]
    weights = torch.where(weights.sum(1, keepdim=True) < 0, -weights, weights).clamp(min=0)
    total = weights.sum(1, keepdim=True)
    weights = torch.where(total > 1e-30, weights / total.clamp(min=1e-30), 1.0 / 3.0)
    barycentrics[b, y, x] = weights
    depth_z[b, y, x] = (weights * corners[..., 2]).sum(1)
    return barycentrics.to(points_hom.dtype), depth_z.to(points_hom.dtype)
