"""Pictures of a `TriGrid` by volume rendering: rays of cameras, samples in one pass or two, pixels in bounded memory.

For generators (a grid per image) and hybrid avatars (a mesh as an opaque surface among the samples).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from headrecon.errors import InputError, ShapeError
from headrecon.geometry.cameras import camera_centers, unproject_points
from headrecon.ops.composite import Behind, Composited
from headrecon.ops.occupancy import OccupancyGrid, march_rays, ray_box
from headrecon.ops.ray_samples import Absorption, AbsorptionKind, RaySamples
from headrecon.ops.ray_sampling import importance_samples, stratified_samples
from headrecon.ops.trigrid import TriGrid
from headrecon.ops.trigrid_decode import TriGridDecoder
from headrecon.ops.trigrid_render import render_trigrid
from headrecon.structures import Cameras

EG3D_ABSORPTION = Absorption(AbsorptionKind.SOFTPLUS, shift=-1.0)


@dataclass(frozen=True)
class VolumeOptions:
    """How rays are sampled.

    samples: of each ray in the first pass. importance: drawn from the weights of the first pass in a second, which sees
    both kinds, as EG3D does; 0: one pass, that stores nothing per sample. near, far: metres along the rays; None: where
    they enter and leave the grid's box. occupancy: rays visit only occupied cells, in steps of `step` metres (one pass;
    samples and importance do not matter). rays_at_once: bounds the memory.
    """

    samples: int = 48
    importance: int = 48
    near: float | None = None
    far: float | None = None
    absorption: Absorption = EG3D_ABSORPTION
    occupancy: OccupancyGrid | None = None
    step: float | None = None
    rays_at_once: int = 1 << 16

    def __post_init__(self) -> None:
        if self.samples < 2 or self.importance < 0 or self.rays_at_once < 1:
            raise InputError(
                "VolumeOptions: samples must be at least 2, importance 0 or more, rays_at_once at least 1; found "
                f"{self.samples}, {self.importance}, {self.rays_at_once}"
            )
        if (self.occupancy is None) != (self.step is None):
            raise InputError("VolumeOptions: occupancy and step go together; give both or neither")


@dataclass(frozen=True)
class Surface:
    """An opaque surface in front of which the volume lies, as a rasterized mesh: NaN or inf where a pixel sees none.

    ray_distance: metres from the camera's centre (`distance_of_depth` makes it from depth_z).
    """

    ray_distance: Float[Tensor, "C H W"]
    features: Float[Tensor, "C H W F"]


@dataclass(frozen=True)
class VolumePicture:
    """What C cameras see; ray_distance in metres from the camera's centre, 0 where nothing is seen. Differentiable."""

    features: Float[Tensor, "C H W F"]
    ray_distance: Float[Tensor, "C H W"]
    opacity: Float[Tensor, "C H W"]


def camera_rays(cameras: Cameras) -> tuple[Float[Tensor, "C P 3"], Float[Tensor, "C P 3"]]:
    """Origins and unit directions of the rays through the middle of every pixel, row by row, in world space.

    cameras: viewmats [C,4,4], Ks [C,3,3], tensors. Differentiable in them.
    """
    pixels = _pixel_centres(cameras)
    ahead = unproject_points(pixels, torch.ones_like(pixels[..., 0]), cameras)
    origins = camera_centers(cameras)[:, None].expand_as(ahead)
    directions = torch.nn.functional.normalize(ahead - origins, dim=-1)
    return origins, directions


def distance_of_depth(depth_z: Float[Tensor, "C H W"], cameras: Cameras) -> Float[Tensor, "C H W"]:
    """Distances along the rays of depths along the axis, both in metres. Differentiable."""
    pixels = _pixel_centres(cameras)
    homogeneous = torch.cat([pixels, torch.ones_like(pixels[..., :1])], -1)
    stretch = (homogeneous @ torch.linalg.inv(cameras.Ks).mT).norm(dim=-1)
    return depth_z * stretch.reshape(depth_z.shape)


def _pixel_centres(cameras: Cameras) -> Float[Tensor, "C P 2"]:
    ks = cameras.Ks
    rows, columns = (torch.arange(n, dtype=ks.dtype, device=ks.device) + 0.5 for n in (cameras.height, cameras.width))
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([x, y], -1).reshape(1, -1, 2).expand(ks.shape[0], -1, 2)


def render_volume(
    grid: TriGrid,
    decoder: TriGridDecoder,
    cameras: Cameras,
    options: VolumeOptions = VolumeOptions(),
    *,
    background: Float[Tensor, " F"] | None = None,
    surface: Surface | None = None,
    generator: torch.Generator | None = None,
) -> VolumePicture:
    """Look at a grid with C cameras.

    grid: one for all cameras (B = 1), or one for each (B = C). background: behind everything; 0 by default. generator:
    samples are drawn at random within their parts (for training), and without it taken at their middles. Differentiable
    in cells, decoder, cameras, background and the surface's features; where samples lie is a constant. Memory for the
    picture, and per ray at once for distances of samples (none with one pass), never for their features.
    Raises ShapeError for shapes that do not fit.
    Method: Chan et al., "EG3D", CVPR 2022, section 4.2; surfaces: Feng et al., SCARF, SIGGRAPH Asia 2022, section 3.2.
    """
    cameras = cameras.to(dtype=torch.float32)
    count, batch = cameras.viewmats.shape[0], len(grid.cells)
    if cameras.viewmats.ndim != 3 or batch not in (1, count):
        raise ShapeError(
            f"render_volume: viewmats must be [C,4,4] with 1 or C grids, found {tuple(cameras.viewmats.shape)} and "
            f"{batch} grids"
        )
    size = (count, cameras.height, cameras.width)
    if surface is not None and (surface.ray_distance.shape != size or surface.features.shape[:3] != size):
        raise ShapeError(f"render_volume: the surface must be {size}, found {tuple(surface.ray_distance.shape)}")
    origins, directions = (r.reshape(batch, -1, 3) for r in camera_rays(cameras))
    distance = None if surface is None else surface.ray_distance.reshape(batch, -1)
    painted = None if surface is None else surface.features.reshape(batch, origins.shape[1], -1)
    seen: list[Composited] = []
    for image in range(batch):
        one = TriGrid(grid.cells[image : image + 1], grid.box_size, grid.axes, grid.rotations)
        for begin in range(0, origins.shape[1], options.rays_at_once):
            chunk = slice(begin, begin + options.rays_at_once)
            rays = (origins[image, chunk], directions[image, chunk])
            behind = Behind(background, None if painted is None else painted[image, chunk])
            at = None if distance is None else distance[image, chunk]
            seen.append(_render_rays(one, decoder, rays, (options, behind, at), generator))
    channels = len(decoder.b2) - 1
    return VolumePicture(
        torch.cat([part.features for part in seen]).reshape(*size, channels),
        torch.cat([part.ray_distance for part in seen]).reshape(size),
        torch.cat([part.opacity for part in seen]).reshape(size),
    )


def _render_rays(
    grid: TriGrid,
    decoder: TriGridDecoder,
    rays: tuple[Tensor, Tensor],
    scene: tuple[VolumeOptions, Behind, Tensor | None],
    generator: torch.Generator | None,
) -> Composited:
    """R rays [R,3] of one grid; scene: options, what lies behind, distance of the surface."""
    options, behind, surface = scene
    together = (rays[0][None], rays[1][None])
    near_far = _near_far(grid, rays, options)

    def look(samples: RaySamples, final: bool) -> Composited:
        if surface is not None:
            samples = samples.with_surface(surface.detach())
        what = behind if final else Behind()
        return render_trigrid(grid, decoder, together, samples, options.absorption, what, weights=not final)

    if options.occupancy is not None and options.step is not None:
        shifts = None
        if generator is not None:
            shifts = torch.rand(len(near_far), generator=generator, device=near_far.device)
        return look(march_rays(options.occupancy, *rays, near_far, options.step, shifts), final=True)
    if options.importance == 0:
        shifts = None
        if generator is not None:
            shifts = torch.rand(len(near_far), generator=generator, device=near_far.device) - 0.5
        return look(RaySamples.uniform(near_far, options.samples, shifts), final=True)
    distances = stratified_samples(near_far, options.samples, generator)
    with torch.no_grad():
        weights = look(RaySamples.at(distances), final=False).weights.reshape(len(distances), -1)[:, :-1]
        more = importance_samples(distances, weights, options.importance, generator, smooth=True)
    return look(RaySamples.at(torch.cat([distances, more], 1).sort(1).values), final=True)


def _near_far(grid: TriGrid, rays: tuple[Tensor, Tensor], options: VolumeOptions) -> Float[Tensor, "R 2"]:
    if options.near is not None and options.far is not None:
        return rays[0].new_tensor([[options.near, options.far]]).expand(len(rays[0]), 2).contiguous()
    half = grid.box_size / 2
    near_far = ray_box(rays[0], rays[1], (-half, -half, -half), (half, half, half), near=options.near or 0.0)
    return near_far if options.far is None else near_far.clamp(max=options.far)
