"""Where something is: a grid of densities that remembers, and rays that visit only its occupied cells.

Frozen data and functions: an update gives a new grid. Method: Müller et al., "Instant Neural Graphics Primitives", ACM
TOG 2022, appendix C; packed samples as in nerfacc (Li et al., ICCV 2023).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headrecon.errors import ShapeError
from headrecon.ops import _native, _native_calls_volume
from headrecon.ops.ray_samples import RaySamples
from headrecon.ops.reference.ray_samples import march_reference


@dataclass(frozen=True)
class OccupancyGrid:
    """densities [Nz,Ny,Nx]: the largest density lately seen in each cell; occupied: where it is above the threshold.

    lower and upper: corners of the box, metres. All on one device.
    """

    densities: Float[Tensor, "Nz Ny Nx"]
    occupied: Bool[Tensor, "Nz Ny Nx"]
    lower: tuple[float, float, float]
    upper: tuple[float, float, float]

    @property
    def resolution(self) -> tuple[int, int, int]:
        """Cells along x, y and z."""
        nz, ny, nx = self.densities.shape
        return nx, ny, nz

    @staticmethod
    def full(
        resolution: int | tuple[int, int, int],
        lower: tuple[float, float, float],
        upper: tuple[float, float, float],
        device: torch.device | None = None,
    ) -> OccupancyGrid:
        """A grid that knows nothing yet: every cell counts as occupied."""
        nx, ny, nz = (resolution,) * 3 if isinstance(resolution, int) else resolution
        if min(nx, ny, nz) < 1 or any(not a < b for a, b in zip(lower, upper, strict=True)):
            raise ShapeError(
                f"OccupancyGrid: needs at least one cell a side and lower below upper, found {(nx, ny, nz)}, "
                f"{lower} and {upper}"
            )
        densities = torch.zeros(nz, ny, nx, device=device)
        return OccupancyGrid(densities, torch.ones_like(densities, dtype=torch.bool), lower, upper)


def cell_points(grid: OccupancyGrid, generator: torch.Generator | None = None) -> Float[Tensor, "N 3"]:
    """A point in every cell, in the order of `densities`: at random, or the middle without a generator."""
    size, device = grid.resolution, grid.densities.device
    ranges = [torch.arange(n, device=device, dtype=torch.float32) for n in reversed(size)]
    z, y, x = torch.meshgrid(*ranges, indexing="ij")
    cells = torch.stack([x, y, z], -1).reshape(-1, 3)
    within = 0.5 if generator is None else torch.rand(cells.shape, generator=generator, device=device)
    lower, upper = (torch.tensor(corner, device=device) for corner in (grid.lower, grid.upper))
    return lower + (cells + within) * ((upper - lower) / torch.tensor(size, device=device))


def update_occupancy(
    grid: OccupancyGrid,
    density_at: Callable[[Float[Tensor, "N 3"]], Float[Tensor, " N"]],
    threshold: float,
    *,
    decay: float = 0.95,
    generator: torch.Generator | None = None,
) -> OccupancyGrid:
    """Look at one point in every cell: what was seen decays, what is seen now counts if it is more.

    threshold: density from which a cell is occupied, per unit of distance (0.01 over the step length, say). With a
    generator points are drawn anew each time, so that repeated updates see all of a cell. NaN counts as 0. The call of
    density_at is cut off from autograd. O(cells).
    """
    with torch.no_grad():
        found = density_at(cell_points(grid, generator)).reshape(grid.densities.shape)
        found = torch.where(torch.isnan(found), 0.0, found).to(grid.densities.dtype)
        densities = torch.maximum(grid.densities * decay, found)
    return replace(grid, densities=densities, occupied=densities > threshold)


def dilate_occupancy(grid: OccupancyGrid, cells: int = 1) -> OccupancyGrid:
    """Also the cells around occupied ones, for surfaces that a coarse look may just have missed."""
    around = grid.occupied[None, None].float()
    around = torch.nn.functional.max_pool3d(around, 2 * cells + 1, stride=1, padding=cells)[0, 0]
    return replace(grid, occupied=around > 0)


def ray_box(
    origins: Float[Tensor, "R 3"],
    directions: Float[Tensor, "R 3"],
    lower: tuple[float, float, float],
    upper: tuple[float, float, float],
    near: float = 0.0,
) -> Float[Tensor, "R 2"]:
    """Distances [R,2] at which rays enter (not before near) and leave a box; a ray that misses has both at near.

    Distances are in units of the directions. Rays along a face count as inside. No gradient.
    Method: slabs, Kay and Kajiya, SIGGRAPH 1986.
    """
    origins, directions = origins.detach(), directions.detach()
    corners = [torch.tensor(corner, dtype=origins.dtype, device=origins.device) for corner in (lower, upper)]
    still = directions == 0
    safe = torch.where(still, 1.0, directions)
    walls = [(corner - origins) / safe for corner in corners]
    first, last = torch.minimum(*walls), torch.maximum(*walls)
    within = (origins >= corners[0]) & (origins <= corners[1])
    infinity = torch.full_like(first, torch.inf)
    first = torch.where(still, torch.where(within, -infinity, infinity), first).amax(1).clamp(min=near)
    last = torch.where(still, torch.where(within, infinity, -infinity), last).amin(1)
    hit = last > first  # NaN: no
    return torch.stack([torch.where(hit, first, near), torch.where(hit, last, near)], 1)


def march_rays(
    grid: OccupancyGrid,
    origins: Float[Tensor, "R 3"],
    directions: Float[Tensor, "R 3"],
    near_far: Float[Tensor, "R 2"],
    step: float,
    shifts: Float[Tensor, " R"] | None = None,
) -> RaySamples:
    """Packed samples: the steps (of equal length, from near on) whose middle lies in an occupied cell.

    shifts [R]: where each ray's first step begins, in steps after near (0..1 against bands). near_far: from `ray_box`;
    a ray whose far is not above its near has no samples. At most 2^20 steps are tried per ray. Empty cells are skipped
    whole, but the samples are the same as if every step were tried. No gradient. Waits for the GPU to know how many
    there are. Raises ShapeError for wrong shapes or types; NativeMissing on a device without a built back end.
    """
    shapes: dict[str, tuple[Tensor, tuple[int, ...]]]
    shapes = {"origins": (origins, (len(origins), 3)), "directions": (directions, (len(origins), 3))}
    shapes["near_far"] = (near_far, (len(origins), 2))
    if shifts is not None:
        shapes["shifts"] = (shifts, (len(origins),))
    for name, (tensor, shape) in shapes.items():
        if tensor.shape != shape or tensor.dtype != torch.float32:
            raise ShapeError(f"march_rays: {name} must be float32 {shape}, found {tensor.dtype} {tuple(tensor.shape)}")
    if not step > 0:
        raise ShapeError(f"march_rays: step must be above 0, found {step}")
    rays = [None if t is None else t.detach().contiguous() for t in (origins, directions, near_far, shifts)]
    if _native.use_reference(origins):
        corners = tuple(torch.tensor(corner, device=origins.device) for corner in (grid.lower, grid.upper))
        starts, ends, ray = march_reference(grid.occupied, corners, tuple(rays), step)  # pyright: ignore[reportArgumentType]
        counts = torch.bincount(ray, minlength=len(origins))
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    else:
        occupied = grid.occupied.contiguous().view(torch.uint8)
        starts, ends, _, offsets = _native_calls_volume.march(occupied, (grid.lower, grid.upper), rays, step)
    return RaySamples(starts, ends, offsets, None, None, None, len(origins), 0)
