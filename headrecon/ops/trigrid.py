"""Feature grids on three planes: EG3D's tri-plane, PanoHead's tri-grid, SphereHead's spherical planes.

A point's feature is the mean of three lookups, one in each plane. Where a point falls follows torch's `grid_sample`
with align_corners off and zeros outside: the box of side `box_size` around the origin maps to -1..1, a coordinate c
lies at (c + 1) size / 2 - 1/2 cells. With one layer (D = 1) lookups are bilinear and the third axis does not matter, as
in EG3D; with more they are trilinear, as in PanoHead.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from headrecon.errors import ShapeError
from headrecon.ops import _native, _native_calls_volume
from headrecon.ops._native_calls_volume import Field
from headrecon.ops._register import register_op
from headrecon.ops.reference.gradients import gradients_of
from headrecon.ops.reference.trigrid import sample_reference

#: Which coordinate (0 x, 1 y, 2 z) runs along W, H and D of the three planes.
PlaneAxes = tuple[tuple[int, int, int], tuple[int, int, int], tuple[int, int, int]]
#: PanoHead and SphereHead: xy, xz, yz.
PANOHEAD_AXES: PlaneAxes = ((0, 1, 2), (0, 2, 1), (1, 2, 0))
#: EG3D as first published: xy, xz, zx (its third plane repeats the second, mirrored); its checkpoints need this.
EG3D_AXES: PlaneAxes = ((0, 1, 2), (0, 2, 1), (2, 0, 1))
#: EG3D after its correction: xy, xz, zy.
EG3D_FIXED_AXES: PlaneAxes = ((0, 1, 2), (0, 2, 1), (2, 1, 0))
#: HR_TRIGRID_MAX_SIDE and HR_TRIGRID_MAX_CHANNELS in trigrid.h.
_MAX_SIDE, _MAX_CHANNELS = 16384, 256


@dataclass(frozen=True)
class TriGrid:
    """A grid ready for lookups: channels side by side. Make one with `pack_trigrid` or `pack_spherical_trigrid`.

    cells: float32 [B,K,3,D,H,W,C], K charts: 1 for a box; 1 or 2 for spheres. box_size: side of the box, metres, around
    the origin. axes: see PlaneAxes. rotations: world to each sphere [K,3,3]; None for a box.
    """

    cells: Float[Tensor, "B K 3 D H W C"]
    box_size: float
    axes: PlaneAxes = PANOHEAD_AXES
    rotations: Float[Tensor, "K 3 3"] | None = None

    @property
    def field(self) -> Field:
        """As the operators take it."""
        return Field(self.cells, self.rotations, [a for plane in self.axes for a in plane], 2.0 / self.box_size)

    def detach(self) -> TriGrid:
        """The same without a gradient."""
        return replace(self, cells=self.cells.detach())


def pack_trigrid(
    grid: Float[Tensor, "B 3 C D H W"] | Float[Tensor, "B 3 C H W"], box_size: float, axes: PlaneAxes = PANOHEAD_AXES
) -> TriGrid:
    """A tri-grid from planes as networks make them: [B,3,C,D,H,W], or [B,3,C,H,W] for a tri-plane.

    Lookups want all channels of a cell in one place, so this copies the grid once (25 MB at 256² x 32: about 20 ms on
    two cores, as long as 300k lookups): pack once, look up often. Differentiable. box_size in metres.
    EG3D's planes [B,96,H,W] are grid.reshape(B, 3, 32, H, W), PanoHead's [B,96 D,H,W] grid.reshape(B, 3, 32, D, H, W).
    Raises ShapeError for other shapes or types.
    """
    if grid.ndim == 5:
        grid = grid[:, :, :, None]
    if grid.ndim != 6 or grid.shape[1] != 3:
        raise ShapeError(f"pack_trigrid: grid must be [B,3,C,D,H,W] or [B,3,C,H,W], found {tuple(grid.shape)}")
    return _checked(TriGrid(grid.permute(0, 1, 3, 4, 5, 2).unsqueeze(1).contiguous(), box_size, axes), "pack_trigrid")


def dual_sphere_rotations(device: torch.device | None = None) -> Float[Tensor, "2 3 3"]:
    """World to the two spheres of SphereHead's published code: their poles and seams lie in different places."""
    first = [[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]]  # about y by 90 degrees
    second = [[0.0, 0.0, -1.0], [-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]  # about z by -90, then about y by -90
    return torch.tensor([first, second], device=device)


def pack_spherical_trigrid(
    grid: Float[Tensor, "B K 3 C D H W"], box_size: float, rotations: Float[Tensor, "K 3 3"] | None = None
) -> TriGrid:
    """A grid over (theta, phi, r): planes (theta, phi), (theta, r), (phi, r), of one sphere or of two that are blended.

    A point p in world units is scaled by 2 / box_size and rotated into each sphere; theta is its angle to +z, phi that
    around z from +x, r its distance over sqrt(3), all mapped to -1..1. A sphere counts with sin^2(theta) (1 + cos(phi))
    / 2, 0 at its poles and its seam, divided by the sum over the spheres (plus 1e-8). Two spheres whose poles and seams
    lie elsewhere hide each other's: the dual representation of Li et al., "SphereHead: Stable 3D Full-head Synthesis
    with Spherical Tri-plane Representation", ECCV 2024, as its published code computes it. rotations: world to sphere;
    by default `dual_sphere_rotations` (the first of them when K = 1). SphereHead itself has D = 1.
    """
    if grid.ndim != 7 or grid.shape[2] != 3 or grid.shape[1] not in (1, 2):
        raise ShapeError(f"pack_spherical_trigrid: grid must be [B,1 or 2,3,C,D,H,W], found {tuple(grid.shape)}")
    charts = grid.shape[1]
    if rotations is None:
        rotations = dual_sphere_rotations(grid.device)[:charts]
    if rotations.shape != (charts, 3, 3) or rotations.dtype != torch.float32:
        raise ShapeError(
            f"pack_spherical_trigrid: rotations must be float32 [{charts},3,3], found {rotations.dtype} "
            f"{tuple(rotations.shape)}"
        )
    cells = grid.permute(0, 1, 2, 4, 5, 6, 3).contiguous()
    return _checked(TriGrid(cells, box_size, PANOHEAD_AXES, rotations.contiguous()), "pack_spherical_trigrid")


def _checked(grid: TriGrid, what: str) -> TriGrid:
    cells = grid.cells
    if cells.dtype != torch.float32 or 0 in cells.shape[3:] or max(cells.shape[3:6]) > _MAX_SIDE:
        raise ShapeError(
            f"{what}: the grid must be float32 with sides and channels of 1 to {_MAX_SIDE}, found {cells.dtype} with "
            f"D, H, W, C = {tuple(cells.shape[3:])}"
        )
    if cells.shape[-1] > _MAX_CHANNELS:
        raise ShapeError(f"{what}: at most {_MAX_CHANNELS} channels, found {cells.shape[-1]}; split the grid")
    if not grid.box_size > 0 or any(sorted(plane) != [0, 1, 2] for plane in grid.axes):
        raise ShapeError(
            f"{what}: box_size must be positive and every plane a permutation of (0, 1, 2), found {grid.box_size} and "
            f"{grid.axes}"
        )
    return grid


def sample_trigrid(grid: TriGrid, points: Float[Tensor, "B N 3"]) -> Float[Tensor, "B N C"]:
    """Features of points (metres): the mean of the lookups in the three planes; 0 outside the box and for NaN.

    Differentiable in the grid's cells and in the points (piecewise, as interpolation is). O(N C): 12 cells a point with
    D = 1, 24 with more. Points in the order of rays or scanlines are faster than shuffled ones. On the CPU the gradient
    of the grid is the same, bit for bit, for any number of threads.
    Raises ShapeError for wrong shapes or types; NativeMissing on a device without a built back end.
    Method: Chan et al., "EG3D", CVPR 2022, section 4; An et al., "PanoHead", CVPR 2023, section 3.2.
    """
    check_points(grid, points, "sample_trigrid")
    cells, rotations, axes, scale = grid.field
    return _sample(cells, rotations, points, axes, scale)


def sample_spherical_trigrid(grid: TriGrid, points: Float[Tensor, "B N 3"]) -> Float[Tensor, "B N C"]:
    """As `sample_trigrid`, for a grid from `pack_spherical_trigrid`, which tells where points fall.

    On the axis of a sphere the angles have no derivative: there they contribute none to the gradient of points.
    """
    if grid.rotations is None:
        raise ShapeError("sample_spherical_trigrid: the grid is a box; make one with pack_spherical_trigrid")
    return sample_trigrid(grid, points)


def check_points(grid: TriGrid, points: Tensor, what: str) -> None:
    """Raises ShapeError unless points are float32 [B,N,3] with the grid's B."""
    if points.ndim != 3 or points.shape[0] != len(grid.cells) or points.shape[2] != 3 or points.dtype != torch.float32:
        raise ShapeError(
            f"{what}: points must be float32 [{len(grid.cells)},N,3], found {points.dtype} {tuple(points.shape)}"
        )


_SCHEMA = "(Tensor grid, Tensor? rotations, Tensor points, int[] axes, float scale) -> Tensor"


def _sample_kernel(grid: Tensor, rotations: Tensor | None, points: Tensor, axes: list[int], scale: float) -> Tensor:
    if _native.use_reference(points):
        return sample_reference(grid, rotations, points, axes, scale)
    return _native_calls_volume.trigrid_sample(Field(grid.contiguous(), rotations, axes, scale), points.contiguous())


def _sample_fake(grid: Tensor, rotations: Tensor | None, points: Tensor, axes: list[int], scale: float) -> Tensor:
    return points.new_empty(*points.shape[:2], grid.shape[-1])


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.axes, ctx.scale = inputs[3:]


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    grid, rotations, points = ctx.saved_tensors
    needs = (ctx.needs_input_grad[0], ctx.needs_input_grad[2])
    # Below autograd nothing is recorded, so the twin's gradients are taken here.
    run = _backward_kernel if _native.use_reference(points) else _sample_backward
    found = run(grid, rotations, points, ctx.axes, ctx.scale, grad, *needs)
    grad_grid, grad_points = (g if need else None for g, need in zip(found, needs, strict=True))
    return grad_grid, None, grad_points, None, None


def _backward_kernel(
    grid: Tensor, rotations: Tensor | None, points: Tensor, axes: list[int], scale: float, grad: Tensor, *needs: bool
) -> tuple[Tensor, Tensor]:
    if _native.use_reference(points):
        found = gradients_of(
            lambda g, p: sample_reference(g, rotations, p, axes, scale), (grid, points), needs, (grad,)
        )
    else:
        field = Field(grid.contiguous(), rotations, axes, scale)
        found = _native_calls_volume.trigrid_sample_backward(
            field, points.contiguous(), grad.contiguous(), (needs[0], needs[1])
        )
    grad_grid, grad_points = (points.new_empty(0) if g is None else g for g in found)
    return grad_grid, grad_points


def _backward_fake(grid: Tensor, rotations: Tensor | None, points: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    need_grid, need_points = args[-2:]
    return (
        points.new_empty(grid.shape if need_grid else (0,)),
        points.new_empty(points.shape if need_points else (0,)),
    )


_sample = register_op("trigrid_sample", _SCHEMA, _sample_kernel, _sample_fake, _backward, _setup_context)
_sample_backward = register_op(
    "trigrid_sample_backward",
    _SCHEMA.replace(") ->", ", Tensor grad, bool need_grid, bool need_points) ->").replace(
        "-> Tensor", "-> (Tensor, Tensor)"
    ),
    _backward_kernel,
    _backward_fake,
)
