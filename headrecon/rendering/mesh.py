"""Renders a mesh from any number of cameras: colour, coverage, depth, normals and what each pixel sees."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from headrecon.errors import ShapeError
from headrecon.geometry.cameras import camera_centers
from headrecon.geometry.mesh import face_cross, face_normals, vertex_normals
from headrecon.ops.interpolate import interpolate
from headrecon.ops.rasterize import DEFAULT_NEAR_Z, Raster, rasterize, to_homogeneous_image
from headrecon.ops.shade import ShadeColours, ShadeGeometry, shade
from headrecon.rendering.lighting import Lighting, Surface, pack_lighting, studio
from headrecon.rendering.texture_levels import TextureLevels
from headrecon.structures import Cameras, Mesh, triangulate

CLAY_SRGB = (0.76, 0.72, 0.69)


@dataclass(frozen=True)
class Appearance:
    """What colours a mesh: a texture over its UVs, else colours per vertex, else one colour. All sRGB in 0..1."""

    texture_srgb: Float[Tensor, "H W 3"] | None = None
    vertex_srgb: Float[Tensor, "V 3"] | None = None
    base_srgb: tuple[float, float, float] = CLAY_SRGB
    surface: Surface = field(default_factory=Surface)


@dataclass(frozen=True)
class RenderOptions:
    """How to render. Quality and light, not content."""

    #: Lights; None shows the plain colours without any shading.
    lighting: Lighting | None = field(default_factory=studio)
    #: Samples per pixel and direction for anti-aliased colour and alpha: 1 (none), 2 or 3.
    supersample: int = 2
    #: sRGB colour behind the mesh; None leaves it transparent (colours are then not multiplied by alpha).
    background_srgb: tuple[float, float, float] | None = (1.0, 1.0, 1.0)
    #: Shade with smooth vertex normals, or flat by face.
    smooth: bool = True
    #: Leave out faces that turn their back; otherwise both sides show, lit as if facing the camera.
    cull_backfaces: bool = False
    near_z: float = DEFAULT_NEAR_Z


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

    Colours come in as sRGB, are shaded in linear light, clipped to 0..1 and returned as sRGB. Without an appearance the
    mesh looks like clay. All C pictures are held at once: for a long turntable iterate over `render_views`.
    Raises ShapeError when a texture comes without UVs, vertex colours do not match, or supersample is not 1, 2 or 3.
    Not differentiable.
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
    _check(mesh, appearance, options)
    viewmats, ks = cameras.viewmats.float().reshape(-1, 4, 4), cameras.Ks.float().reshape(-1, 3, 3)
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
    fine_camera = _finer(camera, options.supersample)
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


def _check(mesh: Mesh, appearance: Appearance, options: RenderOptions) -> None:
    if options.supersample not in (1, 2, 3):
        raise ShapeError(f"render_mesh: supersample must be 1, 2 or 3, found {options.supersample}")
    if appearance.texture_srgb is not None and (mesh.uvs is None or mesh.uv_faces is None):
        raise ShapeError("render_mesh: a texture needs a mesh with uvs and uv_faces; this one has none")
    texture = appearance.texture_srgb
    if texture is not None and (texture.ndim != 3 or texture.shape[2] != 3 or not texture.is_floating_point()):
        raise ShapeError(
            f"render_mesh: texture_srgb must be float [H,W,3] in 0..1, found {texture.dtype} {tuple(texture.shape)}"
        )
    colours = appearance.vertex_srgb
    if colours is not None and tuple(colours.shape) != (len(mesh.vertices), 3):
        raise ShapeError(f"render_mesh: vertex_srgb must be [{len(mesh.vertices)},3], found {tuple(colours.shape)}")


def _finer(cameras: Cameras, factor: int) -> Cameras:
    """The same view with factor times the pixels; exact because pixel centres lie at +0.5."""
    scale = torch.tensor([factor, factor, 1.0])[:, None]
    return replace(cameras, Ks=cameras.Ks * scale, width=cameras.width * factor, height=cameras.height * factor)


def _scene(mesh: Mesh, smooth: bool) -> ShadeGeometry:
    """The mesh as tensors, with all that does not depend on the camera."""
    vertices = torch.from_numpy(np.ascontiguousarray(mesh.vertices, dtype=np.float32))
    triangles = torch.from_numpy(triangulate(mesh.faces)[0].astype(np.int32))
    if smooth:
        normals, normal_triangles = vertex_normals(vertices, triangles), triangles
    else:
        normals = face_normals(vertices, triangles)
        normal_triangles = torch.arange(len(triangles), dtype=torch.int32)[:, None].expand(-1, 3)
    uvs, uv_triangles = None, torch.zeros_like(triangles)
    if mesh.uvs is not None and mesh.uv_faces is not None:
        uvs = torch.from_numpy(np.ascontiguousarray(mesh.uvs, dtype=np.float32))
        uv_triangles = torch.from_numpy(triangulate(mesh.uv_faces)[0].astype(np.int32))
    return ShadeGeometry(torch.cat([triangles, normal_triangles, uv_triangles], dim=1), vertices, normals, uvs)


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
