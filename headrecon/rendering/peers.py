"""The same scene through another project's renderer, for comparison: PyTorch3D or nvdiffrast for meshes, gsplat for
splats.

None of them is ever required. They are looked for when asked for, and stay what they are: their rules for coverage,
depth and gradients are their own, so pictures differ from ours at outlines. `view_mesh(..., backend="pytorch3d")` is
the usual way in; everything that a `MeshView` makes then comes from the peer's raster, with the peer's gradients.
"""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headrecon.errors import NativeMissing, ShapeError
from headrecon.ops.rasterize import DEFAULT_NEAR_Z, Raster, rasterize
from headrecon.ops.splat_gaussians import SplatOptions, splat_gaussians
from headrecon.structures import Cameras, Gaussians

MeshBackend = Literal["headrecon", "pytorch3d", "nvdiffrast"]
SplatBackend = Literal["headrecon", "gsplat"]

#: What to import, and how to get it.
_PEERS = {
    "pytorch3d": ("pytorch3d", "it is built from source, see INSTALL.md at github.com/facebookresearch/pytorch3d"),
    "nvdiffrast": ("nvdiffrast.torch", "pip install git+https://github.com/NVlabs/nvdiffrast; it needs an NVIDIA GPU"),
    "gsplat": ("gsplat", "pip install gsplat; it needs an NVIDIA GPU"),
}
#: nvdiffrast keeps depth between two planes; this far is the farther one, in metres.
_FAR_Z = 1000.0


@dataclass(frozen=True)
class SplatView:
    """What every splat renderer can make. depth_z: metres, the mean of depths as they contribute; 0 where nothing
    is."""

    image: Float[Tensor, "*BC H W D"]
    alpha: Float[Tensor, "*BC H W"]
    depth_z: Float[Tensor, "*BC H W"]


def installed_peers() -> dict[str, str]:
    """For each peer "" when it is installed, else what to do. Imports none of them."""
    return {name: "" if importlib.util.find_spec(name) else how for name, (_, how) in _PEERS.items()}


def _load(name: str) -> Any:
    package, how = _PEERS[name]
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise NativeMissing(f"the renderer {name!r} was asked for and cannot be imported ({error}); {how}") from error


def rasterize_with(
    backend: MeshBackend,
    points_hom: Float[Tensor, "B V 3"],
    triangles: Int[Tensor, "F 3"],
    size: tuple[int, int],
    near_z: float = DEFAULT_NEAR_Z,
) -> Raster:
    """As `ops.rasterize.rasterize` for (height, width), done by a peer, on the device of points_hom.

    Differentiable in points_hom as the peer is. Faces that cross near_z are cut as the peer does. Raises NativeMissing
    with what to install where the peer is absent, ShapeError for an unknown one.
    """
    if backend == "headrecon":
        return rasterize(points_hom, triangles, *size, near_z=near_z)
    if backend == "pytorch3d":
        return _pytorch3d(points_hom, triangles, size, near_z)
    if backend == "nvdiffrast":
        return _nvdiffrast(points_hom, triangles, size, near_z)
    raise ShapeError(f"rasterize_with: backend must be one of {', '.join(get_args(MeshBackend))}, found {backend!r}")


def _pytorch3d(points_hom: Tensor, triangles: Tensor, size: tuple[int, int], near_z: float) -> Raster:
    """Its x points left and its y up, in halves of the picture's shorter side; its faces count through the batch."""
    _load("pytorch3d")
    structures, mesh_renderer = (
        importlib.import_module(name) for name in ("pytorch3d.structures", "pytorch3d.renderer.mesh.rasterize_meshes")
    )
    height, width = size
    half = min(size) / 2
    z = points_hom[..., 2]
    x, y = (width / 2 - points_hom[..., 0] / z) / half, (height / 2 - points_hom[..., 1] / z) / half
    faces = triangles.long()
    meshes = structures.Meshes(verts=torch.stack([x, y, z], -1), faces=faces.expand(len(z), -1, -1))
    found, depth, weights, _ = mesh_renderer.rasterize_meshes(
        meshes, image_size=size, blur_radius=0.0, faces_per_pixel=1, perspective_correct=True, z_clip_value=near_z
    )
    index = found[..., 0]
    covered = index >= 0
    first = torch.arange(len(z), device=index.device)[:, None, None] * len(faces)
    return Raster(
        torch.where(covered, index - first, -1).to(torch.int32),
        torch.where(covered[..., None], weights[..., 0, :], 0.0),
        torch.where(covered, depth[..., 0], 0.0),
    )


def _nvdiffrast(points_hom: Tensor, triangles: Tensor, size: tuple[int, int], near_z: float) -> Raster:
    """Clip space, in which row 0 of its picture is y = -1; its faces count from 1; u and v weigh the first two
    corners."""
    peer = _load("nvdiffrast")
    height, width = size
    x, y, z = points_hom.unbind(-1)
    slope, offset = (_FAR_Z + near_z) / (_FAR_Z - near_z), -2 * _FAR_Z * near_z / (_FAR_Z - near_z)
    clip = torch.stack([2 * x / width - z, 2 * y / height - z, slope * z + offset, z], -1).contiguous()
    faces = triangles.to(torch.int32).contiguous()
    found, _ = peer.rasterize(peer.RasterizeCudaContext(device=clip.device), clip, faces, size)
    index = found[..., 3].detach().to(torch.int32) - 1
    covered = index >= 0
    weights = torch.stack([found[..., 0], found[..., 1], 1 - found[..., 0] - found[..., 1]], -1)
    weights = torch.where(covered[..., None], weights, 0.0)
    corners = faces[index.clamp(min=0).long()].long()  # [B,H,W,3]
    depths = z.gather(1, corners.flatten(1)).reshape(corners.shape)
    return Raster(index, weights, (weights * depths).sum(-1))


def splat_with(
    backend: SplatBackend,
    gaussians: Gaussians,
    cameras: Cameras,
    options: SplatOptions = SplatOptions(),
    background: Float[Tensor, "*BC D"] | None = None,
) -> SplatView:
    """Colour, alpha and depth as `splat_gaussians` makes them, by a peer; of the options those that every peer has.

    near_z, far_z, eps2d, antialiased, radius_clip and sh_degree are passed on. Differentiable as the peer is. Raises
    NativeMissing with what to install where it is absent, ShapeError for an unknown one.
    """
    if backend == "headrecon":
        ours = splat_gaussians(gaussians, cameras, _with_depth(options), background)
        assert ours.depth_z is not None
        return SplatView(ours.image, ours.alpha, ours.depth_z)
    if backend != "gsplat":
        raise ShapeError(f"splat_with: backend must be one of {', '.join(get_args(SplatBackend))}, found {backend!r}")
    peer = _load("gsplat")
    degree = options.sh_degree
    if gaussians.sh is not None and degree is None:
        degree = round(gaussians.sh.shape[-2] ** 0.5) - 1
    rendered, alpha, _ = peer.rasterization(
        gaussians.means,
        gaussians.quats_wxyz,
        gaussians.scales,
        gaussians.opacities,
        gaussians.colours if gaussians.sh is None else gaussians.sh,
        cameras.viewmats,
        cameras.Ks,
        cameras.width,
        cameras.height,
        near_plane=options.near_z,
        far_plane=min(options.far_z, 1e10),
        radius_clip=options.radius_clip,
        eps2d=options.eps2d,
        sh_degree=None if gaussians.sh is None else degree,
        packed=False,
        render_mode="RGB+ED",
        rasterize_mode="antialiased" if options.antialiased else "classic",
    )
    alpha = alpha[..., 0]
    image, depth = rendered[..., :-1], rendered[..., -1]
    if background is not None:  # added here: a peer would add it to the depth as well
        image = image + (1 - alpha)[..., None] * background[..., None, None, :]
    return SplatView(image, alpha, torch.where(alpha > 0, depth, 0.0))


def _with_depth(options: SplatOptions) -> SplatOptions:
    return replace(options, depth=True)
