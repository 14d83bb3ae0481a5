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
from headrecon.ops.texture import sample_texture
from headrecon.rendering.colour import linear_to_srgb, srgb_to_linear
from headrecon.rendering.lighting import Lighting, Surface, shade, studio
from headrecon.structures import Cameras, Mesh, triangulate

#: Samples shaded at once. Few enough that the working set stays in the second-level cache, and that torch runs each
#: step on one thread: hundreds of tiny parallel regions crawl when anything else uses the cores.
_CHUNK = 1 << 13
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


@dataclass(frozen=True)
class _Scene:
    """The mesh as tensors, with all that does not depend on the camera."""

    vertices: Float[Tensor, "V 3"]
    triangles: Int[Tensor, "F 3"]
    normals: Float[Tensor, "N 3"]
    normal_triangles: Int[Tensor, "F 3"]
    uvs: Float[Tensor, "T 2"] | None
    uv_triangles: Int[Tensor, "F 3"] | None


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
    light, alpha = _shaded_image(scene, fine, fine_cameras, appearance, options)
    return RenderOutput(
        image_srgb=_composite(light, alpha, options.background_srgb),
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


def _scene(mesh: Mesh, smooth: bool) -> _Scene:
    vertices = torch.from_numpy(np.ascontiguousarray(mesh.vertices, dtype=np.float32))
    triangles = torch.from_numpy(triangulate(mesh.faces)[0].astype(np.int32))
    if smooth:
        normals, normal_triangles = vertex_normals(vertices, triangles), triangles
    else:
        normals = face_normals(vertices, triangles)
        normal_triangles = torch.arange(len(triangles), dtype=torch.int32)[:, None].expand(-1, 3).contiguous()
    uvs = uv_triangles = None
    if mesh.uvs is not None and mesh.uv_faces is not None:
        uvs = torch.from_numpy(np.ascontiguousarray(mesh.uvs, dtype=np.float32))
        uv_triangles = torch.from_numpy(triangulate(mesh.uv_faces)[0].astype(np.int32))
    return _Scene(vertices, triangles, normals, normal_triangles, uvs, uv_triangles)


def _rasterize(scene: _Scene, cameras: Cameras, options: RenderOptions) -> Raster:
    points = to_homogeneous_image(scene.vertices, cameras)
    return rasterize(
        points,
        scene.triangles,
        cameras.height,
        cameras.width,
        near_z=options.near_z,
        cull_backfaces=options.cull_backfaces,
    )


def _towards_camera(scene: _Scene, cameras: Cameras) -> Float[Tensor, "C F"]:
    """+1 for faces whose outer side the camera sees, -1 for the others."""
    outward = face_cross(scene.vertices, scene.triangles)
    offset = (outward * scene.vertices[scene.triangles[:, 0]]).sum(-1)
    return torch.where(camera_centers(cameras) @ outward.T >= offset, 1.0, -1.0)


def _normal_image(scene: _Scene, raster: Raster, cameras: Cameras) -> Float[Tensor, "C H W 3"]:
    normals = interpolate(scene.normals, scene.normal_triangles, raster.face_index, raster.barycentrics)
    signs = torch.nn.functional.pad(_towards_camera(scene, cameras), (1, 0))  # column 0: no face
    index = raster.face_index.reshape(len(signs), -1).long() + 1
    sign = signs.gather(1, index).reshape(*raster.face_index.shape, 1)
    return torch.nn.functional.normalize(normals, dim=-1) * sign


def _shaded_image(
    scene: _Scene, raster: Raster, cameras: Cameras, appearance: Appearance, options: RenderOptions
) -> tuple[Float[Tensor, "C H W 3"], Float[Tensor, "C H W"]]:
    """Linear light times coverage, and coverage, averaged down to the output's pixels."""
    s = options.supersample
    count, height, width = len(cameras.viewmats), cameras.height, cameras.width
    covered = torch.nonzero(raster.face_index.reshape(-1) >= 0)[:, 0]
    light = torch.zeros(count * height * width, 3)
    facing = _towards_camera(scene, cameras)
    flat_faces, flat_bary = raster.face_index.reshape(-1), raster.barycentrics.reshape(-1, 3)
    for start in range(0, len(covered), _CHUNK):
        samples = covered[start : start + _CHUNK]
        camera = torch.div(samples, height * width, rounding_mode="floor")
        faces, bary = flat_faces[samples], flat_bary[samples]
        albedo = _albedo(scene, faces, bary, appearance)
        if options.lighting is not None:
            sign = facing.reshape(-1)[camera * facing.shape[1] + faces]
            albedo = _lit(scene, (faces, bary, camera, sign), cameras, albedo, (options.lighting, appearance.surface))
        light[samples] = albedo
    coverage = (raster.face_index >= 0).float()
    return _average(light.reshape(count, height, width, 3), s), _average(coverage[..., None], s)[..., 0]


def _average(image: Float[Tensor, "C H W D"], s: int) -> Float[Tensor, "C h w D"]:
    """Mean over blocks of s x s pixels."""
    if s == 1:
        return image
    total = sum((image[:, i::s, j::s] for i in range(s) for j in range(s)), start=torch.zeros(()))
    return total / (s * s)


def _albedo(scene: _Scene, faces: Tensor, bary: Tensor, appearance: Appearance) -> Float[Tensor, "P 3"]:
    """Linear surface colour. Filtering happens in sRGB and the few samples are linearised, not the whole texture."""
    if appearance.texture_srgb is not None and scene.uvs is not None and scene.uv_triangles is not None:
        uvs = interpolate(scene.uvs, scene.uv_triangles, faces, bary)
        return srgb_to_linear(sample_texture(appearance.texture_srgb, uvs))
    if appearance.vertex_srgb is not None:
        return srgb_to_linear(interpolate(appearance.vertex_srgb.float(), scene.triangles, faces, bary))
    return srgb_to_linear(torch.tensor(appearance.base_srgb)).expand(len(faces), 3)


def _lit(
    scene: _Scene,
    samples: tuple[Tensor, Tensor, Tensor, Tensor],
    cameras: Cameras,
    albedo: Tensor,
    material: tuple[Lighting, Surface],
) -> Float[Tensor, "P 3"]:
    """Shaded colours, clipped to 0..1. samples: face, barycentrics, camera, and +1 or -1 for the side, of each."""
    faces, bary, camera, sign = samples
    lighting, surface = material
    normals = interpolate(scene.normals, scene.normal_triangles, faces, bary)
    normals = torch.nn.functional.normalize(normals, dim=-1) * sign[:, None]
    points = interpolate(scene.vertices, scene.triangles, faces, bary)
    to_eye = torch.nn.functional.normalize(camera_centers(cameras)[camera] - points, dim=-1)
    if lighting.space == "view":
        # View axes are the camera's with y and z turned round: y up, z towards the viewer.
        rotations = cameras.viewmats[:, :3, :3] * torch.tensor([1.0, -1.0, -1.0])[:, None]
        if len(rotations) == 1:
            normals, to_eye = normals @ rotations[0].T, to_eye @ rotations[0].T
        else:
            rotation = rotations[camera]
            normals = (rotation @ normals[..., None])[..., 0]
            to_eye = (rotation @ to_eye[..., None])[..., 0]
    return shade(albedo, normals, to_eye, lighting, surface).clamp(0.0, 1.0)


def _composite(
    light: Float[Tensor, "C H W 3"], alpha: Float[Tensor, "C H W"], background: tuple[float, float, float] | None
) -> Float[Tensor, "C H W 3"]:
    """sRGB image over the background, or straight (not premultiplied) colours without one."""
    if background is None:
        return linear_to_srgb(light / alpha.clamp(min=1e-6)[..., None])
    behind = srgb_to_linear(torch.tensor(background))
    return linear_to_srgb(light + (1.0 - alpha)[..., None] * behind)
