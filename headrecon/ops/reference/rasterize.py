"""Plain-torch twin of the rasterizer: face by face over every pixel of its bounding box, in exact integers and float64.

Written from the rules in `ops/rasterize.py` and from Olano and Greer, "Triangle Scan Conversion using 2D Homogeneous
Coordinates", Graphics Hardware 1997; it shares no code with the C++ one.
For tests, and for machines without a compiler.
"""

from __future__ import annotations

import torch
from torch import Tensor

from headrecon.errors import ShapeError

SUBPIXELS = 256
#: Vertices farther out than this cannot be rounded to subpixels safely; such faces take the homogeneous path.
GUARD_BAND_PX = 32768.0


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
    face_index = torch.full((batch, height, width), -1, dtype=torch.int32)
    inv_z = torch.zeros(batch, height, width, dtype=torch.float64)
    for b in range(batch):
        for f in range(len(faces) if height and width else 0):
            _draw_face(points_hom[b, faces[f]], f, clip, face_index[b], inv_z[b])
    barycentrics, depth_z = _resolve(points_hom, faces, face_index)
    return face_index, barycentrics, depth_z


def _draw_face(corners: Tensor, face: int, clip: tuple[float, float, bool], face_index: Tensor, inv_z: Tensor) -> None:
    """Write one face into face_index [H,W] and inv_z [H,W] wherever it is nearer than what is there."""
    near_z, far_z, cull = clip
    if not bool(torch.isfinite(corners).all()) or bool((corners[:, 2] < near_z).all()):
        return
    z = corners[:, 2]
    inside_view = bool(((z >= near_z) & (z <= far_z)).all()) and bool(
        (corners[:, :2].abs() <= GUARD_BAND_PX * z[:, None]).all()
    )
    height, width = face_index.shape
    if inside_view:
        snapped = torch.round(corners[:, :2] / z[:, None] * SUBPIXELS).long()
        low = (snapped.min(0).values // SUBPIXELS - 1).clamp(min=0).tolist()
        high = (snapped.max(0).values // SUBPIXELS + 2).tolist()
        x0, x1, y0, y1 = low[0], min(high[0], width), low[1], min(high[1], height)
    else:
        x0, x1, y0, y1 = 0, width, 0, height
    if x0 >= x1 or y0 >= y1:
        return
    ys, xs = torch.meshgrid(torch.arange(y0, y1), torch.arange(x0, x1), indexing="ij")
    weights = _homogeneous_weights(corners.double(), xs + 0.5, ys + 0.5)
    total = weights.sum(-1)  # 1/z times the (signed) volume, whose sign cancels below
    value = (weights @ torch.ones(3, dtype=torch.float64)) / _volume(corners.double())
    if inside_view:
        covered = _covered_exactly(snapped, xs, ys, cull)
        # A centre that rounding alone put inside takes the depth of the nearest corner's range, as everywhere else.
        value = value.clamp(float(1 / z.double().max()), float(1 / z.double().min()))
    else:
        facing = _volume(corners.double()) < 0
        same_side = ((weights >= 0) == (total[..., None] >= 0)).all(-1) | (weights == 0).all(-1)
        covered = same_side & (value >= 1.0 / far_z) & (value <= 1.0 / near_z) & bool(facing or not cull)
    region = (slice(y0, y1), slice(x0, x1))
    wins = covered & (value > inv_z[region])
    inv_z[region] = torch.where(wins, value, inv_z[region])
    face_index[region] = torch.where(wins, torch.tensor(face, dtype=torch.int32), face_index[region])


def _volume(corners: Tensor) -> Tensor:
    """Determinant of the three homogeneous vertices; < 0 for a face turned towards the camera."""
    return torch.linalg.det(corners)


def _homogeneous_weights(corners: Tensor, px: Tensor, py: Tensor) -> Tensor:
    """[..., 3]: det with vertex i replaced by the pixel's ray (px, py, 1); their ratio is that of the barycentrics."""
    ray = torch.stack([px.double(), py.double(), torch.ones_like(px, dtype=torch.float64)], dim=-1)
    normals = torch.stack([torch.linalg.cross(corners[(i + 1) % 3], corners[(i + 2) % 3]) for i in range(3)])
    return ray @ normals.T


def _covered_exactly(snapped: Tensor, xs: Tensor, ys: Tensor, cull: bool) -> Tensor:
    """Integer coverage with the top-left rule of the snapped triangle [3,2] at the pixels xs, ys."""
    (ax, ay), (bx, by), (cx, cy) = snapped.tolist()
    area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
    if area == 0 or (cull and area > 0):
        return torch.zeros_like(xs, dtype=torch.bool)
    ring = [(ax, ay), (bx, by), (cx, cy)] if area > 0 else [(ax, ay), (cx, cy), (bx, by)]
    px, py = xs * SUBPIXELS + SUBPIXELS // 2, ys * SUBPIXELS + SUBPIXELS // 2
    covered = torch.ones_like(xs, dtype=torch.bool)
    for i in range(3):
        (sx, sy), (ex, ey) = ring[i], ring[(i + 1) % 3]
        side = (ex - sx) * (py - sy) - (ey - sy) * (px - sx)
        top_left = ey < sy or (ey == sy and ex > sx)
        covered &= (side >= 0) if top_left else (side > 0)
    return covered


def _resolve(points_hom: Tensor, faces: Tensor, face_index: Tensor) -> tuple[Tensor, Tensor]:
    """Barycentrics and depth of what each pixel sees, in float64, returned in the type of points_hom."""
    barycentrics = torch.zeros(*face_index.shape, 3, dtype=torch.float64)
    depth_z = torch.zeros(face_index.shape, dtype=torch.float64)
    b, y, x = torch.nonzero(face_index >= 0, as_tuple=True)
    corners = points_hom.double()[b[:, None], faces[face_index[b, y, x].long()]]  # [P,3,3]
    offsets = corners[..., :2] - torch.stack([x + 0.5, y + 0.5], -1).double()[:, None] * corners[..., 2:]
    following, last = offsets.roll(-1, dims=1), offsets.roll(-2, dims=1)
    weights = following[..., 0] * last[..., 1] - following[..., 1] * last[..., 0]
    weights = torch.where(weights.sum(1, keepdim=True) < 0, -weights, weights).clamp(min=0)
    total = weights.sum(1, keepdim=True)
    weights = torch.where(total > 1e-30, weights / total.clamp(min=1e-30), 1.0 / 3.0)
    barycentrics[b, y, x] = weights
    depth_z[b, y, x] = (weights * corners[..., 2]).sum(1)
    return barycentrics.to(points_hom.dtype), depth_z.to(points_hom.dtype)
