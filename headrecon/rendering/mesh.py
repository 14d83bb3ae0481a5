"""Renders a mesh from any number of cameras: colour, coverage, depth, normals and what each pixel sees."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headrecon.errors import ShapeError
from headrecon.geometry.cameras import camera_centers
from headrecon.geometry.mesh import face_cross
from headrecon.ops.interpolate import interpolate
from headrecon.ops.rasterize import Raster, rasterize, to_homogeneous_image
from headrecon.ops.shade import ShadeColours, ShadeGeometry, shade
from headrecon.rendering.lighting import pack_lighting
from headrecon.rendering.look import CLAY_SRGB, Appearance, RenderOptions, check_look
from headrecon.rendering.mesh_arrays import finer, mesh_geometry
from headrecon.rendering.texture_levels import TextureLevels
from headrecon.structures import Cameras, Mesh

__all__ = ["CLAY_SRGB", "Appearance", "RenderOptions", "RenderOutput", "render_mesh", "render_views"]


@dataclass(frozen=True)
class RenderOutput:
    """What C cameras see. Colour and alpha are anti-aliased; the rest is sampled at pixel centres, 0 (-1) where empty.

    depth_z is metres along the optical axis; normals are unit vectors in world space on the side that faces the camera;
    face_index counts the triangles of `structures.triangulate(mesh.faces)`.
    """

    image_srgb: Float[Tensor, "C H W 3"]
    alpha: Float[Tensor, "C H W"]
    depth_z: Float[Tensor, "C H W"]
    normals: Float[Tensor, "C H W 3"]
    face_index: Int[Tensor, "C H W"]
    barycentrics: Float[Tensor, "C H W 3"]


def render_mesh(
    mesh: Mesh,
    cameras: Cameras,
    appearance: Appearance | None = None,
    options: RenderOptions | None = None,
) -> RenderOutput:
    """Render one mesh (metres) with C cameras (viewmats [C,4,4] or [4,4], Ks likewise); output as in `RenderOutput`.

    `rendering.pictures` draws finished pictures quicker, where nothing but colour and alpha is wanted.

    Colours come in as sRGB, are shaded in linear light, clipped to 0..1 and returned as sRGB. Without an appearance the
    mesh looks like clay. All C pictures are held at once: for a long turntable iterate over `render_views`.
    Raises ShapeError when a texture comes without UVs, vertex colours do not match, or supersample is not 1, 2 or 3.
    Not differentiable: `rendering.differentiable` is.
    """
    views = list(render_views(mesh, cameras, appearance, options))
    if not views:
        raise ShapeError("render_mesh: needs at least one camera, found none")
    if len(views) == 1:
        return views[0]
    return RenderOutput(**{f.name: torch.cat([getattr(view, f.name) for view in views]) for f in fields(RenderOutput)})


def render_views(
    mesh: Mesh, cameras: Cameras, appearance: Appearance | None = None, options: RenderOptions | None = None
) -> Iterator[RenderOutput]:
    """As `render_mesh`, one camera after the other (C is 1 in each output), so that memory does not grow with C."""
    appearance, options = appearance or Appearance(), options or RenderOptions()
    check_look(mesh, appearance, options)
    cameras = cameras.torch()
    viewmats, ks = cameras.viewmats.reshape(-1, 4, 4), cameras.Ks.reshape(-1, 3, 3)
    scene = _scene(mesh, options.smooth)
    levels = None if appearance.texture_srgb is None else TextureLevels(appearance.texture_srgb.float())
    return (
        _render_view(scene, replace(cameras, viewmats=viewmat[None], Ks=k[None]), appearance, options, levels)
        for viewmat, k in zip(viewmats, ks.expand(len(viewmats), 3, 3), strict=True)
    )


@torch.no_grad()
def _render_view(
    scene: ShadeGeometry,
    camera: Cameras,
    appearance: Appearance,
    options: RenderOptions,
    levels: TextureLevels | None,
) -> RenderOutput:
    base = _rasterize(scene, camera, options)
    fine_camera = finer(camera, options.supersample)
    fine = base if options.supersample == 1 else _rasterize(scene, fine_camera, options)
    texture = None if levels is None else levels.for_view(scene, fine, fine_camera)
    lighting = None
    if options.lighting is not None:
        lighting = pack_lighting(options.lighting, appearance.surface, camera.viewmats[:, :3, :3])
    image, alpha = shade(
        fine,
        scene,
        ShadeColours(texture, appearance.vertex_srgb, torch.tensor(appearance.base_srgb)),
        camera_centers(camera),
        lighting,
        factor=options.supersample,
        background=None if options.background_srgb is None else torch.tensor(options.background_srgb),
    )
    normals = _normal_image(scene, base, camera)
    return RenderOutput(image, alpha, base.depth_z, normals, base.face_index, base.barycentrics)


def _scene(mesh: Mesh, smooth: bool) -> ShadeGeometry:
    """The mesh as tensors, with all that does not depend on the camera."""
    arrays = mesh_geometry(mesh, smooth)
    return ShadeGeometry(
        **{f.name: None if (a := getattr(arrays, f.name)) is None else torch.from_numpy(a) for f in fields(arrays)}
    )


def _rasterize(scene: ShadeGeometry, cameras: Cameras, options: RenderOptions) -> Raster:
    points = to_homogeneous_image(scene.vertices, cameras)
    return rasterize(
        points,
        scene.corners[:, :3],
        cameras.height,
        cameras.width,
        near_z=options.near_z,
        cull_backfaces=options.cull_backfaces,
    )


def _normal_image(scene: ShadeGeometry, raster: Raster, camera: Cameras) -> Float[Tensor, "1 H W 3"]:
    """Unit normals on the side that the camera sees."""
    outward = face_cross(scene.vertices, scene.corners[:, :3])
    away = ((camera_centers(camera) - scene.vertices[scene.corners[:, 0]]) * outward).sum(-1) < 0
    # Faces seen from behind take their normals from a second, turned table: no pixel has to be touched for it.
    corners = scene.corners[:, 3:6] + away[:, None].int() * len(scene.normals)
    both_sides = torch.cat([scene.normals, -scene.normals])
    normals = interpolate(both_sides, corners, raster.face_index, raster.barycentrics)
    return normals * normals.square().sum(-1, keepdim=True).clamp_(min=1e-24).rsqrt_()
