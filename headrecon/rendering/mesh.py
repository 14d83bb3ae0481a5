"""Renders a mesh from any number of cameras: colour, coverage, depth, normals and what each pixel sees."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

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


@torch.no_grad()
def render_mesh(
    mesh: Mesh,
    cameras: Cameras,
    appearance: Appearance = Appearance(),
    options: RenderOptions | None = None,
) -> RenderOutput:
    """Render one mesh (metres) with C cameras (viewmats [C,4,4] or [4,4], Ks likewise); output as in `RenderOutput`.

    Colours come in as sRGB, are shaded in linear light, clipped to 0..1 and returned as sRGB.
    Raises ShapeError when a texture comes without UVs, vertex colours do not match, or supersample is not 1, 2 or 3.
    Not differentiable.
    """
    options = options or RenderOptions()
    _check(mesh, appearance, options)
    cameras = _one_axis(cameras)
    scene = _scene(mesh, options.smooth)
    base = _rasterize(scene, cameras, options)
    fine_cameras = _finer(cameras, options.supersample)
    fine = base if options.supersample == 1 else _rasterize(scene, fine_cameras, options)
    image, alpha = shade(
        fine,
        scene,
        _colours(appearance),
        camera_centers(cameras),
        None
        if options.lighting is None
        else pack_lighting(options.lighting, appearance.surface, cameras.viewmats[:, :3, :3]),
        factor=options.supersample,
        background=None if options.background_srgb is None else torch.tensor(options.background_srgb),
    )
    return RenderOutput(
        image_srgb=image,
        alpha=alpha,
        depth_z=base.depth_z,
        normals=_normal_image(scene, base, cameras),
        face_index=base.face_index,
        barycentrics=base.barycentrics,
    )


def _check(mesh: Mesh, appearance: Appearance, options: RenderOptions) -> None:
    if options.supersample not in (1, 2, 3):
        raise ShapeError(f"render_mesh: supersample must be 1, 2 or 3, found {options.supersample}")
    if appearance.texture_srgb is not None and (mesh.uvs is None or mesh.uv_faces is None):
        raise ShapeError("render_mesh: a texture needs a mesh with uvs and uv_faces; this one has none")
    colours = appearance.vertex_srgb
    if colours is not None and tuple(colours.shape) != (len(mesh.vertices), 3):
        raise ShapeError(f"render_mesh: vertex_srgb must be [{len(mesh.vertices)},3], found {tuple(colours.shape)}")


def _one_axis(cameras: Cameras) -> Cameras:
    views, ks = torch.broadcast_tensors(cameras.viewmats.float(), cameras.viewmats.new_zeros(()))[0], cameras.Ks.float()
    views = views.reshape(-1, 4, 4)
    return replace(cameras, viewmats=views, Ks=ks.reshape(-1, 3, 3).expand(len(views), 3, 3))


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


def _colours(appearance: Appearance) -> ShadeColours:
    return ShadeColours(appearance.texture_srgb, appearance.vertex_srgb, torch.tensor(appearance.base_srgb))


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


def _towards_camera(scene: ShadeGeometry, cameras: Cameras) -> Float[Tensor, "C F"]:
    """+1 for faces whose outer side the camera sees, -1 for the others."""
    outward = face_cross(scene.vertices, scene.corners[:, :3])
    offset = (outward * scene.vertices[scene.corners[:, :3][:, 0]]).sum(-1)
    return torch.where(camera_centers(cameras) @ outward.T >= offset, 1.0, -1.0)


def _normal_image(scene: ShadeGeometry, raster: Raster, cameras: Cameras) -> Float[Tensor, "C H W 3"]:
    normals = interpolate(scene.normals, scene.corners[:, 3:6], raster.face_index, raster.barycentrics)
    signs = torch.nn.functional.pad(_towards_camera(scene, cameras), (1, 0))  # column 0: no face
    index = raster.face_index.reshape(len(signs), -1).long() + 1
    sign = signs.gather(1, index).reshape(*raster.face_index.shape, 1)
    return torch.nn.functional.normalize(normals, dim=-1) * sign
