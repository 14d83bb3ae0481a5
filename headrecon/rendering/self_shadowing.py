"""How much light reaches each vertex of a head that shades itself: sockets, under the nose, chin and ears.

Precomputed radiance transfer for a matt surface (Sloan, Kautz and Snyder, "Precomputed radiance transfer for real-time
rendering in dynamic, low-frequency lighting environments", SIGGRAPH 2002, section 4): nine numbers per vertex whose
product with the harmonics of the incoming light is what a white vertex shows. Nothing here is differentiable.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headrecon.geometry.harmonics import LAMBERT_FACTORS, evaluate_harmonics
from headrecon.geometry.mesh import vertex_normals
from headrecon.ops.rasterize import rasterize

#: Directions that the sphere is sampled with, and pixels a side of the depth picture drawn from each (2.3 mm each).
DIRECTIONS, _PICTURE = 64, 144
#: Vertices are lifted off the surface by this much (metres) before they are tested, and may lie this much behind it.
_LIFT_M, _BIAS_M = 0.0015, 0.0025
#: Skin next to skin: where the sky is blocked there is skin instead, which returns about this share of the light.
_BOUNCE = 0.35
#: Depth pictures are drawn from afar, so that perspective does not matter.
_FAR_M = 20.0


def sphere_directions(count: int) -> Float[Tensor, "K 3"]:
    """Unit vectors spread evenly over the sphere (a Fibonacci lattice)."""
    i = torch.arange(count, dtype=torch.float64) + 0.5
    z = 1 - 2 * i / count
    turn = math.pi * (1 + math.sqrt(5)) * i
    ring = (1 - z * z).clamp(min=0).sqrt()
    return torch.stack([ring * turn.cos(), z, ring * turn.sin()], 1).float()


def lambert_transfer(normals: Float[Tensor, "*N 3"]) -> Float[Tensor, "*N 9"]:
    """Transfer of a matt white surface that nothing shades. Differentiable.

    Its product with the harmonics of the incoming radiance is what the surface shows; 1 under a radiance of 1.
    """
    factors = [LAMBERT_FACTORS[degree] / math.pi for degree in (0, 1, 1, 1, 2, 2, 2, 2, 2)]
    return evaluate_harmonics(normals, 2) * normals.new_tensor(factors)


@torch.no_grad()
def visibility(
    vertices: Float[Tensor, "V 3"], triangles: Int[Tensor, "F 3"], directions: Float[Tensor, "K 3"]
) -> Float[Tensor, "V K"]:
    """1 where a vertex sees out in a direction, 0 where the mesh is in the way; between at the borders of shadows."""
    points = vertices + _LIFT_M * vertex_normals(vertices, triangles.long())
    centre = 0.5 * (vertices.amin(0) + vertices.amax(0))
    reach = float((vertices - centre).norm(dim=1).max()) * 1.02 + 1e-6
    frames = _frames(directions)
    depth = _depth_pictures((vertices - centre) @ frames.mT, triangles, reach)
    return _compare(depth, (points - centre) @ frames.mT, reach).T


def transfer_vectors(
    vertices: Float[Tensor, "V 3"], triangles: Int[Tensor, "F 3"], count: int = DIRECTIONS
) -> Float[Tensor, "V 9"]:
    """Transfer of every vertex with the shade and the bounced light of the mesh itself, in the axes of `vertices`.

    count: directions that the sphere is sampled with. Light that the mesh blocks is replaced by what skin there would
    send back, a third of it. Exactly `lambert_transfer` where nothing is in the way.
    """
    normals = vertex_normals(vertices, triangles.long())
    directions = sphere_directions(count)
    blocked = 1 - visibility(vertices, triangles, directions)
    arriving = (normals @ directions.T).clamp(min=0) * blocked
    taken = arriving @ evaluate_harmonics(directions, 2) * (4.0 / count)  # 4 pi / K over pi
    return lambert_transfer(normals) - (1 - _BOUNCE) * taken


def openness(transfer: Float[Tensor, "V 9"]) -> Float[Tensor, " V"]:
    """Share of an even sky's light that reaches each vertex, 0..1 (ambient occlusion)."""
    return (transfer[:, 0] * math.sqrt(4 * math.pi)).clamp(0, 1)


def _frames(directions: Float[Tensor, "K 3"]) -> Float[Tensor, "K 3 3"]:
    """Rows right, up, ahead per direction; ahead points from the light to the head."""
    ahead = -torch.nn.functional.normalize(directions, dim=1)
    helper = torch.where(ahead[:, 1:2].abs() < 0.9, torch.tensor([0.0, 1.0, 0.0]), torch.tensor([1.0, 0.0, 0.0]))
    right = torch.nn.functional.normalize(torch.linalg.cross(helper, ahead), dim=1)
    return torch.stack([right, torch.linalg.cross(ahead, right), ahead], 1)


def _depth_pictures(
    local: Float[Tensor, "K V 3"], triangles: Int[Tensor, "F 3"], reach: float
) -> Float[Tensor, "K S S"]:
    """Depth along the third axis relative to the centre; infinite where nothing is."""
    pixel = (local[..., :2] / reach + 1) * (_PICTURE / 2)
    away = local[..., 2:] + _FAR_M
    raster = rasterize(torch.cat([pixel * away, away], -1), triangles, _PICTURE, _PICTURE)
    return torch.where(raster.covered, raster.depth_z - _FAR_M, torch.inf)


def _compare(depth: Float[Tensor, "K S S"], local: Float[Tensor, "K V 3"], reach: float) -> Float[Tensor, "K V"]:
    """Share of the four pixels around each point whose surface does not lie before it, weighted as in bilinear."""
    pixel = (local[..., :2] / reach + 1) * (_PICTURE / 2) - 0.5
    corner = pixel.floor()
    across, down = (pixel - corner).unbind(-1)
    column, row = corner.to(torch.int64).clamp(0, _PICTURE - 2).unbind(-1)
    first, flat, limit = row * _PICTURE + column, depth.flatten(1), local[..., 2] - _BIAS_M
    free = [(flat.gather(1, first + step) >= limit).float() for step in (0, 1, _PICTURE, _PICTURE + 1)]
    return torch.lerp(torch.lerp(free[0], free[1], across), torch.lerp(free[2], free[3], across), down)
