"""The mesh ops on egg-shaped meshes that fill the picture as a head does: forward, backward and together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headrecon.benchmarks.cases import Case, Peer, Prepared, Work
from headrecon.ops.antialias import antialias, face_neighbours
from headrecon.ops.interpolate import interpolate, screen_slopes
from headrecon.ops.rasterize import Raster, rasterize
from headrecon.ops.samples import ShadeColours, ShadeGeometry, ShadeLights
from headrecon.ops.shade import shade
from headrecon.ops.texture import sample_texture, texture_pyramid


@dataclass(frozen=True)
class Scene:
    """What is drawn, all on one device."""

    size: int
    points: Tensor  # [B,V,3] homogeneous
    faces: Tensor
    neighbours: Tensor
    vertices: Tensor
    uvs: Tensor
    texture: Tensor


@dataclass(frozen=True)
class SceneSize:
    rings: int
    pixels: int
    batch: int


SIZES = {
    "2k faces, 128², 3 images": SceneSize(32, 128, 3),
    "9.7k faces, 512²": SceneSize(70, 512, 1),
    "100k faces, 1024²": SceneSize(224, 1024, 1),
    "9.7k faces, 512², 8 images": SceneSize(70, 512, 8),
}


def egg(rings: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices in metres, faces and UVs of a closed surface with 2 rings (rings - 1) triangles, 16 x 24 x 20 cm."""
    t, p = np.meshgrid(np.linspace(0, np.pi, rings + 1), np.linspace(-np.pi, np.pi, rings + 1), indexing="ij")
    xyz = np.stack([0.08 * np.sin(t) * np.sin(p), 0.12 * np.cos(t), 0.10 * np.sin(t) * np.cos(p)], -1).reshape(-1, 3)
    uvs = np.stack([p / (2 * np.pi) + 0.5, 1 - t / np.pi], -1).reshape(-1, 2)
    index = np.arange(len(xyz)).reshape(rings + 1, rings + 1)
    a, b, c, d = index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]
    lower, upper = np.stack([a, b, c], -1)[:-1].reshape(-1, 3), np.stack([a, c, d], -1)[1:].reshape(-1, 3)
    return xyz, np.concatenate([lower, upper]), uvs


def scene(size: SceneSize, device: str) -> Scene:
    """Eggs seen from 60 cm, each turned a little further."""
    xyz, faces, uvs = egg(size.rings)
    points = []
    for i in range(size.batch):
        turn = 0.35 + 0.2 * i
        rotation = np.array([[np.cos(turn), 0, np.sin(turn)], [0, 1, 0], [-np.sin(turn), 0, np.cos(turn)]])
        camera = xyz @ rotation.T * [1, -1, -1] + [0, 0, 0.6]  # y down, z forward
        focal, centre = 2.2 * size.pixels, size.pixels / 2
        points.append(camera @ np.array([[focal, 0, centre], [0, focal, centre], [0, 0, 1]]).T)
    corners = torch.from_numpy(faces).int()
    tensors = [torch.from_numpy(np.asarray(a, np.float32)).to(device) for a in (np.stack(points), xyz, uvs)]
    texture = torch.rand(1024, 1024, 3, generator=torch.Generator().manual_seed(0)).to(device)
    neighbours = face_neighbours(corners).to(device)
    return Scene(size.pixels, tensors[0], corners.to(device), neighbours, tensors[1], tensors[2], texture)


def _look(s: Scene) -> tuple[ShadeGeometry, ShadeColours, Tensor, ShadeLights]:
    """What `shade` wants to know."""
    device, count = s.points.device, len(s.points)
    corners = torch.cat([s.faces, s.faces, s.faces], 1)
    normals = torch.nn.functional.normalize(s.vertices, dim=1)
    lights = torch.tensor([[0.3, 0.5, 0.81, 1.0, 0.9, 0.8], [-0.6, 0.0, 0.8, 0.3, 0.3, 0.4]], device=device)
    ambient = torch.full((9, 3), 0.1, device=device)
    surface = torch.tensor([0.04, 0.5, 0.2, 0.1, 0.05], device=device)
    rotations = torch.eye(3, device=device).repeat(count, 1, 1)
    centers = torch.tensor([[0.0, 0.0, 0.6]], device=device).repeat(count, 1)
    geometry = ShadeGeometry(corners, s.vertices, normals, s.uvs)
    return geometry, ShadeColours(texture=s.texture), centers, ShadeLights(rotations, ambient, lights, surface)


@lru_cache(maxsize=2)  # the cases of one scene come one after another; on a GPU the CPU's scene is wanted too
def _works(label: str, device: str) -> dict[str, Work]:
    """Every op of one scene, forward and backward, each returning what can be compared."""
    s = scene(SIZES[label], device)
    points, texture = s.points.clone().requires_grad_(), s.texture.clone().requires_grad_()
    raster = rasterize(points, s.faces, s.size, s.size)
    seen = Raster(raster.face_index, raster.barycentrics.detach(), raster.depth_z.detach())
    slopes = screen_slopes(s.uvs, s.faces, seen, s.points, s.faces)
    attributes, weights = s.vertices.clone().requires_grad_(), seen.barycentrics.clone().requires_grad_()
    positions = interpolate(attributes, s.faces, seen.face_index, weights)
    drawn = interpolate(attributes, s.faces, raster.face_index, raster.barycentrics)
    at = interpolate(s.uvs, s.faces, seen.face_index, seen.barycentrics).requires_grad_()
    pyramid = texture_pyramid(texture)
    colours = sample_texture(pyramid, at, slopes=slopes, face_index=seen.face_index)
    image = colours.detach().clone().requires_grad_()
    smooth = antialias(image, seen, points, s.faces, s.neighbours)
    generator = torch.Generator().manual_seed(1)
    grad_depth, grad_weights, grad_image = (
        torch.randn(t.shape, generator=generator).to(device) for t in (seen.depth_z, seen.barycentrics, image)
    )
    geometry, look_colours, centers, lights = _look(s)

    def gradient(outputs: tuple[Tensor, ...], inputs: tuple[Tensor, ...], grads: tuple[Tensor, ...]) -> Work:
        return lambda: torch.autograd.grad(outputs, inputs, grads, retain_graph=True)

    def draw() -> Any:
        found = rasterize(s.points, s.faces, s.size, s.size)
        return interpolate(s.vertices, s.faces, found.face_index, found.barycentrics), found.face_index

    return {
        "rasterize + interpolate": draw,
        "rasterize + interpolate backward": gradient((drawn,), (points, attributes), (grad_image,)),
        "rasterize": lambda: list(vars(rasterize(s.points, s.faces, s.size, s.size)).values()),
        "rasterize backward": gradient((raster.barycentrics, raster.depth_z), (points,), (grad_weights, grad_depth)),
        "interpolate": lambda: interpolate(s.vertices, s.faces, seen.face_index, seen.barycentrics),
        "interpolate backward": gradient((positions,), (attributes, weights), (grad_image,)),
        "screen_slopes": lambda: screen_slopes(s.uvs, s.faces, seen, s.points, s.faces),
        "texture_pyramid": lambda: texture_pyramid(s.texture).texels,
        "sample_texture": lambda: sample_texture(pyramid, at, slopes=slopes, face_index=seen.face_index).detach(),
        "sample_texture backward": gradient((colours,), (texture, at), (grad_image,)),
        "antialias": lambda: antialias(image.detach(), seen, s.points, s.faces, s.neighbours),
        "antialias backward": gradient((smooth,), (image, points), (grad_image,)),
        "shade": lambda: shade(seen, geometry, look_colours, centers, lights),
        "torch: gather and sum": lambda: _gather(s, seen),
        "torch: grid_sample, no mipmaps": lambda: _grid_sample(s.texture, at.detach()),
    }


def _gather(s: Scene, seen: Raster) -> Tensor:
    corners = s.vertices[s.faces.long()[seen.face_index.clamp(min=0).long()]]
    return (corners * seen.barycentrics[..., None]).sum(-2)


def _grid_sample(texture: Tensor, at: Tensor) -> Tensor:
    texels = texture.permute(2, 0, 1).expand(len(at), -1, -1, -1)
    return torch.nn.functional.grid_sample(texels, 2 * at - 1, align_corners=False)


#: Torch's own functions that come near an op.
_PEERS = {"interpolate": "torch: gather and sum", "sample_texture": "torch: grid_sample, no mipmaps"}


def _prepare(device: str, op: str, label: str) -> Prepared:
    works = _works(label, device)
    return Prepared(works[op], tuple(Peer(name, works[name]) for o, name in _PEERS.items() if o == op))


_GOALS = {
    ("rasterize + interpolate", "9.7k faces, 512²"): 3.0,
    ("rasterize + interpolate", "100k faces, 1024²"): 10.0,
    ("rasterize + interpolate backward", "9.7k faces, 512²"): 6.0,
    ("rasterize + interpolate backward", "100k faces, 1024²"): 20.0,
}
_OPS = (
    "rasterize + interpolate", "rasterize + interpolate backward", "rasterize", "rasterize backward", "interpolate",
    "interpolate backward", "screen_slopes", "texture_pyramid", "sample_texture", "sample_texture backward",
    "antialias", "antialias backward", "shade",
)  # fmt: skip


def _case(op: str, label: str) -> Case:
    small, many = label.startswith("2k"), label.endswith("8 images")
    prepare: Callable[[str], Prepared] = partial(_prepare, op=op, label=label)
    devices = ("cuda",) if many else ("cpu", "cuda")  # batches matter to a GPU; a CPU only takes as many times longer
    return Case(op, label, prepare, _GOALS.get((op, label)), devices=devices, small=small)


CASES = tuple(_case(op, label) for label in SIZES for op in _OPS)
