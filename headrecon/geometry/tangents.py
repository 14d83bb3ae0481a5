"""Directions of a texture's axes on a surface: what tangent-space normal maps refer to."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

_TINY = 1e-12


@dataclass(frozen=True)
class TangentFrames:
    """Frames of V vertices and the sizes of their texture axes.

    tangent: unit, along growing u and perpendicular to the normal; bitangent completes it on the side of growing v
    (as MikkTSpace and glTF have it, with v up). A function of u and v with slopes (a, b) per unit of texture has, in
    metres along tangent and bitangent, the slopes (per_u * a, per_v * (b - shear * a)).
    """

    tangent: Float[Tensor, "V 3"]
    bitangent: Float[Tensor, "V 3"]
    per_u: Float[Tensor, " V"]
    per_v: Float[Tensor, " V"]
    shear: Float[Tensor, " V"]


def tangent_frames(
    vertices: Float[Tensor, "V 3"],
    normals: Float[Tensor, "V 3"],
    triangles: Int[Tensor, "F 3"],
    uv_corners: Float[Tensor, "F 3 2"],
) -> TangentFrames:
    """Area-weighted means over the triangles around each vertex. uv_corners: texture coordinates, v up.

    At a seam of the texture the sides are averaged: a frame there is good only where both run alike. Vertices without
    texture get some frame perpendicular to their normal and sizes of 0.
    """
    corners = vertices[triangles.long()]
    edges = corners[:, 1:] - corners[:, :1]  # [F,2,3]
    steps = uv_corners[:, 1:] - uv_corners[:, :1]  # [F,2,2]
    area = steps[:, 0, 0] * steps[:, 1, 1] - steps[:, 0, 1] * steps[:, 1, 0]
    safe = torch.where(area.abs() > _TINY, area, torch.ones_like(area))
    along_u = (edges[:, 0] * steps[:, 1, 1:] - edges[:, 1] * steps[:, 0, 1:]) / safe[:, None]
    along_v = (edges[:, 1] * steps[:, 0, :1] - edges[:, 0] * steps[:, 1, :1]) / safe[:, None]
    weight = torch.linalg.cross(edges[:, 0], edges[:, 1]).norm(dim=1) * (area.abs() > _TINY)
    both = torch.cat([along_u, along_v, torch.ones_like(area)[:, None]], 1) * weight[:, None]
    total = torch.zeros(len(vertices), 7)
    for k in range(3):
        total.index_add_(0, triangles[:, k].long(), both)
    mean = total[:, :6] / total[:, 6:].clamp(min=_TINY)
    known = total[:, 6] > 0
    u = _in_plane(mean[:, :3], normals)
    v = _in_plane(mean[:, 3:], normals)
    helper = _in_plane(torch.eye(3)[normals.abs().argmin(1)], normals)
    length_u = u.norm(dim=1)
    tangent = torch.nn.functional.normalize(torch.where((known & (length_u > _TINY))[:, None], u, helper), dim=1)
    across = torch.linalg.cross(normals, tangent)
    rise = (v * across).sum(1)
    bitangent = across * torch.where(rise < 0, -1.0, 1.0)[:, None]
    scale = known.float()
    per_u, per_v = scale / length_u.clamp(min=_TINY), scale / rise.abs().clamp(min=_TINY)
    return TangentFrames(tangent, bitangent, per_u, per_v, (v * tangent).sum(1) * per_u)


def _in_plane(vectors: Float[Tensor, "V 3"], normals: Float[Tensor, "V 3"]) -> Float[Tensor, "V 3"]:
    return vectors - (vectors * normals).sum(1, keepdim=True) * normals
