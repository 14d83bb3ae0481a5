"""Plain-torch twin of attribute interpolation, any float type, and its gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from headrecon.errors import ShapeError


def interpolate_reference(attributes: Tensor, faces: Tensor, face_index: Tensor, barycentrics: Tensor) -> Tensor:
    """[B,P,D] of attributes [B or 1,V,D], faces [F,3], face_index [B,P] and barycentrics [B,P,3]."""
    _check_indices(attributes.shape[1], faces, face_index)
    corners, image = _corners(attributes, faces, face_index)
    values = (barycentrics[..., None] * attributes[image, corners]).sum(dim=2)
    return torch.where(face_index[..., None] >= 0, values, torch.zeros((), dtype=values.dtype))


def interpolate_gradients(
    attributes: Tensor,
    faces: Tensor,
    face_index: Tensor,
    barycentrics: Tensor,
    grad: Tensor,
    needs: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients for attributes and barycentrics, given that of the values [B,P,D]; needs says which are wanted."""
    grad = grad * (face_index[..., None] >= 0)
    corners, image = _corners(attributes, faces, face_index)
    grad_attributes = grad_barycentrics = None
    if needs[0]:
        spread = (barycentrics[..., None] * grad[:, :, None, :]).reshape(-1, grad.shape[-1])
        flat = (image * attributes.shape[1] + corners).reshape(-1)
        grad_attributes = torch.zeros(
            attributes.shape[0] * attributes.shape[1], attributes.shape[2], dtype=grad.dtype, device=grad.device
        )
        grad_attributes = grad_attributes.index_add(0, flat, spread).reshape(attributes.shape)
    if needs[1]:
        grad_barycentrics = (attributes[image, corners] * grad[:, :, None, :]).sum(-1)
    return grad_attributes, grad_barycentrics


def screen_slopes_reference(
    points_hom: Tensor, faces: Tensor, attributes: Tensor, attribute_faces: Tensor, face_index: Tensor
) -> Tensor:
    """[B,H,W,D,2]: derivatives of interpolated attributes [N,D] by the pixel's x and y.

    Over a face both a/z and 1/z are linear in the image, say n.p and m.p with p = (x, y, 1), so the derivative of
    a = n.p / m.p follows from the quotient rule (Olano and Greer, Graphics Hardware 1997, section 4).
    """
    _check_indices(points_hom.shape[1], faces, face_index)
    _check_indices(len(attributes), attribute_faces, face_index)
    slopes = torch.zeros(*face_index.shape, attributes.shape[1], 2, dtype=torch.float64)
    b, y, x = torch.nonzero(face_index >= 0, as_tuple=True)
    seen = face_index[b, y, x].long()
    corners = points_hom.double()[b[:, None], faces.long()[seen]]  # [P,3,3]
    values = attributes.double()[attribute_faces.long()[seen]]  # [P,3,D]
    planes = torch.linalg.cross(
        corners.roll(-1, dims=1), corners.roll(-2, dims=1)
    )  # weights are planes . p, up to scale
    pixel = torch.stack([x + 0.5, y + 0.5, torch.ones_like(x)], -1).double()
    below, below_slope = (planes.sum(1) * pixel).sum(-1)[:, None, None], planes.sum(1)[:, None, :2]
    above_plane = values.mT @ planes  # [P,D,3]
    above, above_slope = (above_plane * pixel[:, None]).sum(-1, keepdim=True), above_plane[..., :2]
    found = (above_slope * below - above * below_slope) / below.square()
    slopes[b, y, x] = torch.where(below.abs() > 1e-30, found, 0.0)
    return slopes.to(points_hom.dtype)


def _corners(attributes: Tensor, faces: Tensor, face_index: Tensor) -> tuple[Tensor, Tensor]:
    """Vertex ids [B,P,3] (of face 0 where there is none) and the batch index [B,1,1] that picks their attributes."""
    if len(faces) == 0:
        faces = torch.zeros(1, 3, dtype=torch.long, device=faces.device)
    corners = faces.long()[face_index.long().clamp(min=0)]
    image = torch.arange(face_index.shape[0], device=face_index.device)[:, None, None]
    return corners, image if attributes.shape[0] > 1 else torch.zeros_like(image)


def _check_indices(vertices: int, faces: Tensor, face_index: Tensor) -> None:
    if face_index.numel() == 0 or int(face_index.max()) < 0:
        return
    if int(face_index.max()) >= len(faces) or int(faces.min()) < 0 or int(faces.max()) >= vertices:
        raise ShapeError(f"interpolate: faces must index the {vertices} vertices (0..{vertices - 1}), found others")
