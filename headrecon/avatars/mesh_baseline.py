"""What a textured mesh shows when the same track drives it: the figure that stands beside every avatar's.

It has what a mesh can have: colours fused from the frames that the avatar learns from, light and all, and behind it
a picture of hair and shoulders, as they look on average, that moves and grows with the body or with the head.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image

from headrecon.appearance.pull_push import pull_push
from headrecon.avatars.footage import Footage
from headrecon.avatars.held_out import drawn_row
from headrecon.avatars.protocol import AvatarPictures, Person, Progress
from headrecon.datasets.texel_map import TexelMap, bake_texel_map
from headrecon.evaluation.picture_quality import psnr
from headrecon.geometry.cameras import camera_centers, project_points, to_homogeneous_image
from headrecon.geometry.mesh import vertex_normals
from headrecon.models.moving_head import MovingHead
from headrecon.models.point_model import PointModel
from headrecon.models.posed_mesh import posed_vertices
from headrecon.ops.arrays import rasterize
from headrecon.rendering.look import Appearance, RenderOptions
from headrecon.rendering.pictures import Picture, draw
from headrecon.structures import Cameras, HeadParams, Mesh, triangulate

#: Frames whose colours are fused, those whose surroundings make the picture behind it, and those that decide on hair.
_FUSED, _BEHIND, _TRIED = 32, 24, 6
#: A texel is seen where it lies at most so far behind what the frame's depth shows, metres.
_DEPTH_SLACK_M = 0.004
#: Triangles that show the person in a smaller share of what is seen of them are left out.
_LEAST_SHARE = 0.6
#: The billboard goes on by this share of the picture's sides beyond them, for when the body moves.
_BEYOND = 0.25
#: Only pixels of this opacity tell colours; the cosine's power prefers frames that see a place head-on.
_SOLID, _POWER = 250, 4
#: Joints whose middle carries the billboard: the body's, or between the eyes.
_BODY, _EYES = (0,), (3, 4)


@dataclass(frozen=True)
class Billboard:
    """Hair and shoulders as a flat picture through the middle of some joints, its anchor. rgba: premultiplied, 0..1;
    at: pixel of the anchor in it; pixels_per_metre: at the anchor's depth."""

    joints: tuple[int, ...]
    rgba: Float[np.ndarray, "H W 4"]
    at: Float[np.ndarray, "2"]
    pixels_per_metre: float

    def seen(self, at: Float[np.ndarray, "2"], pixels_per_metre: float, width: int, height: int) -> np.ndarray:
        """The picture where the anchor is now, premultiplied [height,width,4]."""
        there = (np.asarray(at, np.float64), pixels_per_metre)
        return _moved(self.rgba, (self.at, self.pixels_per_metre), there, (width, height))


_Anchor = tuple[np.ndarray, float]


def _moved(
    picture: Float[np.ndarray, "H W D"], here: _Anchor, there: _Anchor, size: tuple[int, int]
) -> Float[np.ndarray, "h w D"]:
    """A picture shifted and scaled so that its anchor (pixel, pixels per metre) comes to another; 0 beyond it."""
    grow = here[1] / there[1]
    shift = here[0] - grow * there[0]
    matrix = (grow, 0.0, float(shift[0]), 0.0, grow, float(shift[1]))
    layers = [Image.fromarray(np.ascontiguousarray(c, np.float32)) for c in np.moveaxis(picture, -1, 0)]
    moved = [c.transform(size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR) for c in layers]
    return np.stack([np.asarray(c) for c in moved], axis=-1)


@dataclass(frozen=True)
class TexturedMesh:
    """A mesh that can be judged as avatars are (`held_out.Drawable`). texture_srgb: colours as lit in the footage.

    triangles, uv_triangles: those of the person's mesh that show the person; lifted hair may reach beyond the hair.
    """

    person: Person
    texture_srgb: Float[np.ndarray, "S S 3"]
    triangles: Int[np.ndarray, "F 3"]
    uv_triangles: Int[np.ndarray, "F 3"]
    behind: Billboard | None = None
    kind: str = "mesh"

    def render(
        self, params: HeadParams, cameras: Cameras, background_srgb: Float[torch.Tensor, " 3"] | None = None
    ) -> AvatarPictures:
        """As `Avatar.render`; drawn on the CPU in numpy."""
        assets, where = self.person.assets, cameras.numpy()
        joints = PointModel(assets, np.array([0]))
        flat = _flat(joints, params.numpy())
        vertices = posed_vertices(assets, joints, flat, np.asarray(self.person.offsets, np.float64)).astype(np.float32)
        at = joints.joints(flat)
        back = np.zeros(3) if background_srgb is None else background_srgb.cpu().numpy()
        images, alphas = [], []
        for viewmat, k in zip(where.viewmats, where.Ks, strict=True):
            camera = replace(where, viewmats=viewmat, Ks=k)
            image, alpha = self._over(_drawn(self, vertices, camera), at, camera)
            images.append(image + back * (1 - alpha[..., None]))
            alphas.append(alpha)
        image, alpha = (torch.from_numpy(np.stack(x).astype(np.float32)) for x in (images, alphas))
        return AvatarPictures(image, alpha)

    def _over(
        self, head: Picture, joints: Float[np.ndarray, "J 3"], camera: Cameras
    ) -> tuple[Float[np.ndarray, "H W 3"], Float[np.ndarray, "H W"]]:
        """The head before the billboard: premultiplied colours and opacity."""
        alpha = head.alpha
        colours = head.image_srgb * alpha[..., None]
        if self.behind is None:
            return colours, alpha
        at, scale = _anchor(joints, self.behind.joints, camera)
        back = self.behind.seen(at, scale, camera.width, camera.height)
        return colours + back[..., :3] * (1 - alpha[..., None]), alpha + back[..., 3] * (1 - alpha)


def fit_mesh(
    footage: Footage, train: Int[np.ndarray, " M"], person: Person, size: int = 512, progress: Progress | None = None
) -> TexturedMesh:
    """Fuse a person's colours from frames of footage. Deterministic; a few frames in memory at a time.

    person: of the footage's track. Whether lifted hair is kept, and whether the billboard follows body or head, is what
    training frames look better with. size: of the texture.
    """
    report = progress or (lambda stage, fraction: None)
    choices = [(person, _BODY), (person, _EYES)]
    if np.any(person.offsets):
        bald = replace(person, offsets=np.zeros_like(person.offsets))
        choices += [(bald, _BODY), (bald, _EYES)]
    made: list[tuple[float, TexturedMesh]] = []
    for place, (one, joints) in enumerate(choices):
        mesh = made[-1][1] if made and made[-1][1].person is one else _painted(footage, train, one, size)
        mesh = replace(mesh, behind=_billboard(footage, mesh, joints, _spread(train, _BEHIND)))
        made.append((_likeness(mesh, footage, _spread(train, _TRIED)), mesh))
        report("painting the mesh", (place + 1) / len(choices))
    return max(made, key=lambda pair: pair[0])[1]


def _head(footage: Footage, person: Person) -> MovingHead:
    track = footage.track
    known = replace(track.params, betas=np.asarray(track.params.betas)[:, : person.assets.num_betas])
    return MovingHead.of(person.assets, replace(track, params=known), np.asarray(person.offsets, np.float64))


def _painted(footage: Footage, train: Int[np.ndarray, " M"], person: Person, size: int) -> TexturedMesh:
    head = _head(footage, person)
    texels = bake_texel_map(person.assets, size)
    triangles = triangulate(person.assets.faces)[0]
    total, weight = np.zeros((len(texels.index), 3)), np.zeros(len(texels.index))
    rows = _spread(train, _FUSED)
    for row in rows:
        colours, share = _seen_texels(footage, head, texels, triangles, row)
        total += colours * share[:, None]
        weight += share
    kept = _person_share(footage, head, triangles, rows)[triangles].mean(1) >= _LEAST_SHARE
    uv_triangles = triangulate(person.assets.uv_faces)[0]
    return TexturedMesh(person, _filled(texels, total, weight), triangles[kept], uv_triangles[kept])


def _likeness(mesh: TexturedMesh, footage: Footage, rows: list[int]) -> float:
    """Mean PSNR of whole frames on white."""
    return float(np.mean([psnr(drawn_row(mesh, footage.track, row), footage.matted(row)) for row in rows]))


def _spread(ids: Int[np.ndarray, " M"], count: int) -> list[int]:
    return [int(ids[i]) for i in np.unique(np.linspace(0, len(ids) - 1, min(count, len(ids))).round().astype(int))]


def _seen_texels(
    footage: Footage, head: MovingHead, texels: TexelMap, triangles: np.ndarray, row: int
) -> tuple[Float[np.ndarray, "N 3"], Float[np.ndarray, " N"]]:
    """Colours 0..1 of all texels in one frame, and how well each is seen (0: not at all)."""
    vertices, camera = head.vertices(row), head.camera(row)
    points, normals = (texels.interpolate(x) for x in (vertices, vertex_normals(vertices, triangles)))
    eye = camera_centers(_batched(camera))[0] - points
    cosine = (eye * normals).sum(1) / np.maximum(np.linalg.norm(eye, axis=1) * np.linalg.norm(normals, axis=1), 1e-9)
    pixels, alpha = _opacity_at(points, vertices, footage, camera, triangles, row)
    share = np.where(alpha >= _SOLID, np.clip(cosine, 0, 1) ** _POWER, 0)
    return _sampled(footage.colours_srgb[row], pixels), share


def _person_share(
    footage: Footage, head: MovingHead, triangles: np.ndarray, rows: list[int]
) -> Float[np.ndarray, " V"]:
    """How often vertices lie on the person where they are seen; 1 for those that are never seen."""
    total, count = np.zeros(head.assets.num_vertices), np.zeros(head.assets.num_vertices)
    for row in rows:
        vertices = head.vertices(row)
        _, alpha = _opacity_at(vertices, vertices, footage, head.camera(row), triangles, row)
        total += np.maximum(alpha, 0) / 255
        count += alpha >= 0
    return np.where(count > 0, total / np.maximum(count, 1), 1.0)


def _opacity_at(
    points: Float[np.ndarray, "N 3"],
    vertices: Float[np.ndarray, "V 3"],
    footage: Footage,
    camera: Cameras,
    triangles: np.ndarray,
    row: int,
) -> tuple[Float[np.ndarray, "N 2"], Int[np.ndarray, " N"]]:
    """Pixels of points on the mesh, and the person's opacity 0..255 there; -1 where the mesh hides them."""
    homogeneous = to_homogeneous_image(vertices, _batched(camera))
    depth = rasterize(homogeneous, triangles, camera.height, camera.width).depth_z[0]
    pixels, far = project_points(points.astype(np.float64), camera)
    x, y = (np.clip(pixels[:, k].astype(int), 0, n - 1) for k, n in ((0, camera.width), (1, camera.height)))
    inside = (pixels >= 0).all(1) & (pixels[:, 0] < camera.width) & (pixels[:, 1] < camera.height)
    # At an outline the pixel's middle may miss the mesh: depth 0 hides nothing.
    seen = inside & ((far < depth[y, x] + _DEPTH_SLACK_M) | (depth[y, x] == 0))
    return pixels, np.where(seen, footage.alphas[row][y, x].astype(int), -1)


def _batched(camera: Cameras) -> Cameras:
    viewmats, ks = (np.asarray(m, np.float32)[None] for m in (camera.viewmats, camera.Ks))
    return replace(camera, viewmats=viewmats, Ks=ks)


def _sampled(image: np.ndarray, pixels: Float[np.ndarray, "N 2"]) -> Float[np.ndarray, "N 3"]:
    """Bilinear, 0..1."""
    high = np.array(image.shape[1::-1]) - 1
    at = np.clip(pixels - 0.5, 0, high)
    low = np.minimum(at.astype(int), np.maximum(high - 1, 0))
    fx, fy = (at - low).T[..., None]
    x, y = low.T
    rows = [(1 - fx) * image[y + k, x] + fx * image[y + k, np.minimum(x + 1, high[0])] for k in (0, 1)]
    return ((1 - fy) * rows[0] + fy * rows[1]) / 255


def _filled(texels: TexelMap, total: Float[np.ndarray, "N 3"], weight: Float[np.ndarray, " N"]) -> np.ndarray:
    """The texture; what no frame showed, and what lies between the islands, goes on with what is around."""
    colours, known = np.zeros((texels.size**2, 3), np.float32), np.zeros(texels.size**2, np.float32)
    seen = weight > 1e-3
    colours[texels.index[seen]] = total[seen] / weight[seen, None]
    known[texels.index[seen]] = 1
    square = (texels.size, texels.size)
    return pull_push(torch.from_numpy(colours.reshape(*square, 3)), torch.from_numpy(known.reshape(square))).numpy()


def _billboard(footage: Footage, mesh: TexturedMesh, joints: tuple[int, ...], rows: list[int]) -> Billboard:
    """The mean of what the frames show beside the mesh, with the anchor brought to one place."""
    head = _head(footage, mesh.person)
    places = [_anchor(head.joints.joints(head.flat(row)), joints, head.camera(row)) for row in rows]
    at, scale = np.median([p for p, _ in places], axis=0), float(np.median([s for _, s in places]))
    width, height = (round((1 + 2 * _BEYOND) * n) for n in footage.size)
    at = at + _BEYOND * np.array(footage.size)
    total, weight = np.zeros((height, width, 4)), np.zeros((height, width, 1))
    for (place, near), (rgba, free) in zip(places, _surroundings(footage, head, mesh, rows), strict=True):
        moved = _moved(np.concatenate([rgba * free, free], axis=-1), (place, near), (at, scale), (width, height))
        total += moved[..., :4]
        weight += moved[..., 4:]
    mean = torch.from_numpy((total / np.maximum(weight, 1e-6)).astype(np.float32))
    # What one frame alone shows at the rim is known less well than what is around it.
    filled = pull_push(mean, torch.from_numpy(np.clip(weight[..., 0] / 2, 0, 1).astype(np.float32)))
    return Billboard(joints, filled.numpy(), at, scale)


def _surroundings(
    footage: Footage, head: MovingHead, mesh: TexturedMesh, rows: list[int]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Premultiplied colours and opacity of the person, and where the mesh does not hide them."""
    for row in rows:
        alpha = footage.alphas[row][..., None].astype(np.float32) / 255
        rgba = np.concatenate([footage.colours_srgb[row] * (alpha / 255), alpha], axis=-1)
        yield rgba, 1 - _drawn(mesh, head.vertices(row), head.camera(row)).alpha[..., None]


def _drawn(mesh: TexturedMesh, vertices: Float[np.ndarray, "V 3"], camera: Cameras) -> Picture:
    assets = mesh.person.assets
    look = RenderOptions(lighting=None, background_srgb=None, supersample=2)
    shape = Mesh(vertices, mesh.triangles, assets.uvs, mesh.uv_triangles)
    return next(draw(shape, camera, Appearance(texture_srgb=mesh.texture_srgb), look))


def _flat(joints: PointModel, params: HeadParams) -> Float[np.ndarray, " P"]:
    x = joints.layout.zeros()
    for name, s in joints.layout.slices.items():
        if name != "betas":
            x[s] = getattr(params, name)[0]
    return x


def _anchor(
    joints: Float[np.ndarray, "J 3"], ids: tuple[int, ...], camera: Cameras
) -> tuple[Float[np.ndarray, "2"], float]:
    """Pixel of the middle of these joints, and pixels per metre at its depth."""
    pixels, depth = project_points(np.asarray(joints[list(ids)].mean(0), np.float64)[None], camera)
    return pixels[0], float(camera.Ks[0, 0]) / max(float(depth[0]), 1e-6)
