"""A textured head under another light: its own shade, soft shadows of lamps, relief from a normal map.

For stills. It takes ten times as long as `rendering.mesh`, and what it adds is what makes a face look lit: the eye
sockets and the neck stay dark, and the nose throws a shadow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from headrecon.errors import ShapeError
from headrecon.geometry.cameras import camera_centers
from headrecon.geometry.mesh import vertex_normals
from headrecon.geometry.tangents import tangent_frames
from headrecon.ops.interpolate import interpolate
from headrecon.ops.rasterize import rasterize, to_homogeneous_image
from headrecon.ops.reference.shade import shade_points
from headrecon.ops.texture import sample_texture
from headrecon.rendering.colour import linear_to_srgb, srgb_to_linear
from headrecon.rendering.lighting import Lighting, Surface
from headrecon.rendering.self_shadowing import lambert_transfer, sphere_directions, transfer_vectors, visibility
from headrecon.structures import Cameras, Mesh, triangulate

#: Lamps are discs of this radius (degrees), looked at from this many places: shadows have soft edges.
_LAMP_DEGREES, _LAMP_SAMPLES = 5.0, 12
_CHUNK = 1 << 16


@dataclass(frozen=True)
class RelitLook:
    """A head's colours: albedo (sRGB) and, where there is one, its normal map, both in the mesh's UVs."""

    texture: UInt8[np.ndarray, "S S 3"]
    normal_map: UInt8[np.ndarray, "n n 3"] | None = None
    surface: Surface = field(default_factory=Surface)


@dataclass(frozen=True)
class _Scene:
    """The mesh as tensors. attributes: position, normal, tangent, bitangent, shade of the sky (RGB), of each lamp."""

    points: Tensor
    triangles: Tensor
    uv_triangles: Tensor
    uvs: Tensor
    attributes: Tensor


@torch.no_grad()
def relight(
    mesh: Mesh,
    look: RelitLook,
    lighting: Lighting,
    cameras: Cameras,
    background_srgb: tuple[float, float, float] = (0.93, 0.93, 0.94),
    supersample: int = 2,
) -> UInt8[np.ndarray, "C H W 3"]:
    """Pictures of a textured mesh (metres, with UVs) under a light, one per camera; sRGB.

    lighting may be in "view" axes (it travels with each camera) or in the mesh's "world". Raises ShapeError for a mesh
    without UVs. Not differentiable.
    """
    if mesh.uvs is None or mesh.uv_faces is None:
        raise ShapeError("relight: needs a mesh with uvs and uv_faces; this one has none")
    viewmats = torch.as_tensor(cameras.viewmats).float().reshape(-1, 4, 4)
    ks = torch.as_tensor(cameras.Ks).float().reshape(-1, 3, 3).expand(len(viewmats), 3, 3)
    pictures, scene = [], None
    for viewmat, k in zip(viewmats, ks, strict=True):
        if scene is None or lighting.space == "view":
            scene = _scene(mesh, _in_world(lighting, viewmat[:3, :3]))
        camera = Cameras(viewmat[None], k[None], cameras.width, cameras.height)
        pictures.append(
            _picture(scene, look, _in_world(lighting, viewmat[:3, :3]), camera, supersample, background_srgb)
        )
    return np.stack(pictures)


def _in_world(lighting: Lighting, rotation: Float[Tensor, "3 3"]) -> Lighting:
    """The light in the axes of the mesh, as tensors. rotation: world to camera."""
    sh = torch.as_tensor(lighting.ambient_sh).float()
    directions = torch.as_tensor(lighting.directions).float()
    turn = torch.eye(3)
    if lighting.space == "view":
        turn = rotation * torch.tensor([1.0, -1.0, -1.0])[:, None]
        sh = _turned(sh, turn)
    return Lighting(sh, directions @ turn, torch.as_tensor(lighting.intensities).float(), "world")


def _turned(sh: Float[Tensor, "9 3"], turn: Float[Tensor, "3 3"]) -> Float[Tensor, "9 3"]:
    """Harmonics of the light whose value in direction d is the old one's in `turn @ d`."""
    from headrecon.geometry.harmonics import evaluate_harmonics

    directions = sphere_directions(64).double()
    old = evaluate_harmonics(directions @ turn.double().T, 2) @ sh.double()
    return torch.linalg.lstsq(evaluate_harmonics(directions, 2), old).solution.float()


def _scene(mesh: Mesh, lighting: Lighting) -> _Scene:
    assert mesh.uvs is not None
    assert mesh.uv_faces is not None
    points = torch.from_numpy(np.ascontiguousarray(mesh.vertices, dtype=np.float32))
    triangles = torch.from_numpy(triangulate(mesh.faces)[0].astype(np.int32))
    uv_triangles = torch.from_numpy(triangulate(mesh.uv_faces)[0].astype(np.int32))
    uvs = torch.from_numpy(np.ascontiguousarray(mesh.uvs, dtype=np.float32))
    normals = vertex_normals(points, triangles.long())
    frames = tangent_frames(points, normals, triangles, uvs[uv_triangles.long()])
    sh = torch.as_tensor(lighting.ambient_sh)
    open_sky = (lambert_transfer(normals) @ sh).clamp(min=1e-3)
    sky = ((transfer_vectors(points, triangles) @ sh).clamp(min=0) / open_sky).clamp(max=1.5)
    lamps = [_lamp_visibility(points, triangles, d) for d in torch.as_tensor(lighting.directions)]
    columns = [points, normals, frames.tangent, frames.bitangent, sky, *(lamp[:, None] for lamp in lamps)]
    return _Scene(points, triangles, uv_triangles, uvs, torch.cat(columns, 1).contiguous())


def _lamp_visibility(points: Tensor, triangles: Tensor, direction: Float[Tensor, "3"]) -> Float[Tensor, " V"]:
    """Share of a lamp's disc that each vertex sees."""
    turn = math.pi * (1 + math.sqrt(5)) * torch.arange(_LAMP_SAMPLES)
    radius = math.tan(math.radians(_LAMP_DEGREES)) * ((torch.arange(_LAMP_SAMPLES) + 0.5) / _LAMP_SAMPLES).sqrt()
    side = torch.linalg.cross(direction, torch.eye(3)[int(direction.abs().argmin())])
    side = torch.nn.functional.normalize(side, dim=0)
    other = torch.linalg.cross(direction, side)
    spread = (radius * turn.cos())[:, None] * side + (radius * turn.sin())[:, None] * other
    return visibility(points, triangles, torch.nn.functional.normalize(direction + spread, dim=1)).mean(1)


def _picture(
    scene: _Scene, look: RelitLook, lighting: Lighting, camera: Cameras, factor: int, background: tuple[float, ...]
) -> UInt8[np.ndarray, "H W 3"]:
    scale = torch.tensor([factor, factor, 1.0])[:, None]
    fine = replace(camera, Ks=camera.Ks * scale, width=camera.width * factor, height=camera.height * factor)
    raster = rasterize(to_homogeneous_image(scene.points, fine), scene.triangles, fine.height, fine.width)
    face, barycentrics = raster.face_index.reshape(-1), raster.barycentrics.reshape(-1, 3)
    covered = torch.nonzero(face >= 0)[:, 0]
    texture = _level(torch.from_numpy(look.texture).float() / 255, fine)
    relief = None if look.normal_map is None else torch.from_numpy(look.normal_map).float() / 127.5 - 128 / 127.5
    image = srgb_to_linear(torch.tensor(background)).expand(len(face), 3).clone()
    eye = camera_centers(camera)[0]
    for at in covered.split(_CHUNK):
        samples = (face[at], barycentrics[at])
        image[at] = _lit(scene, samples, (texture, relief), lighting, (eye, look.surface)).clamp(0, 1)
    blocks = image.reshape(camera.height, factor, camera.width, factor, 3).mean((1, 3))
    return (linear_to_srgb(blocks).clamp(0, 1) * 255 + 0.5).to(torch.uint8).numpy()


def _lit(
    scene: _Scene,
    samples: tuple[Tensor, Tensor],
    maps: tuple[Tensor, Tensor | None],
    lighting: Lighting,
    seen: tuple[Tensor, Surface],
) -> Float[Tensor, "P 3"]:
    """Linear light from P samples. samples: face and barycentrics; seen: the eye's place and the surface's answer."""
    face, barycentrics = samples
    got = interpolate(scene.attributes, scene.triangles, face, barycentrics)
    position, normal, tangent, bitangent, sky = got[:, :15].split(3, dim=1)
    uv = interpolate(scene.uvs, scene.uv_triangles, face, barycentrics)
    albedo = srgb_to_linear(sample_texture(maps[0], uv).clamp(0, 1))
    to_eye = torch.nn.functional.normalize(seen[0] - position, dim=1)
    corner = scene.points[scene.triangles[face].long()]
    facing = (torch.linalg.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]) * to_eye).sum(
        1, keepdim=True
    )
    outward = torch.where(facing < 0, -normal, normal)
    if maps[1] is not None:
        bent = sample_texture(maps[1], uv)
        outward = outward * bent[:, 2:] + tangent * bent[:, :1] + bitangent * bent[:, 1:2]
    outward = torch.nn.functional.normalize(outward, dim=1)
    s = seen[1]
    surface = torch.tensor([s.specular, s.roughness, *s.wrap])
    transfer = torch.as_tensor(lighting.ambient_sh) * _lambert()[:, None]
    shown = sky * shade_points(albedo, outward, to_eye, transfer, torch.zeros(0, 6), surface)
    lamps = torch.cat([torch.as_tensor(lighting.directions), torch.as_tensor(lighting.intensities)], 1)
    for k in range(len(lamps)):
        alone = shade_points(albedo, outward, to_eye, torch.zeros(9, 3), lamps[k : k + 1], surface)
        shown = shown + got[:, 15 + k : 16 + k] * alone
    return shown


def _lambert() -> Float[Tensor, "9"]:
    from headrecon.geometry.harmonics import LAMBERT_FACTORS

    return torch.tensor([LAMBERT_FACTORS[degree] / math.pi for degree in (0, 1, 1, 1, 2, 2, 2, 2, 2)])


def _level(texture: Float[Tensor, "S S 3"], camera: Cameras) -> Float[Tensor, "s s 3"]:
    """The texture halved until it is no finer than the picture: a head's face takes half of both."""
    while texture.shape[0] % 2 == 0 and texture.shape[0] > 1.5 * max(camera.width, camera.height):
        texture = torch.nn.functional.avg_pool2d(texture.permute(2, 0, 1)[None], 2)[0].permute(1, 2, 0)
    return texture.contiguous()
