"""Finished pictures of a mesh in numpy: what reports and videos show. Colour and alpha only, one camera at a time.

The same kernels and the same light as `rendering.mesh`, without the buffers that a picture does not need and without
torch, whose import takes longer than all pictures of a report.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from headrecon.arrays import Array
from headrecon.geometry.cameras import camera_centers, to_homogeneous_image
from headrecon.ops import _native
from headrecon.ops.samples import ColourSource, Raster, ShadeGeometry
from headrecon.rendering.lighting import pack_lighting
from headrecon.rendering.look import Appearance, RenderOptions, check_look
from headrecon.rendering.mesh_arrays import finer, mesh_geometry
from headrecon.rendering.texture_levels import TextureLevels
from headrecon.structures import Cameras, Mesh


@dataclass(frozen=True)
class Picture:
    """sRGB colours 0..1 and the share of each pixel that the mesh covers. Colours are straight without background."""

    image_srgb: Float[np.ndarray, "H W 3"]
    alpha: Float[np.ndarray, "H W"]


def draw(
    mesh: Mesh, cameras: Cameras, appearance: Appearance | None = None, options: RenderOptions | None = None
) -> Iterator[Picture]:
    """Draw one mesh from C cameras (numpy: viewmats [C,4,4] or [4,4], Ks likewise), one after the other.

    Looks as `render_mesh` does, to the last bit of rounding. Colours of `appearance` are numpy arrays.
    Raises ShapeError as `render_mesh` does, when called.
    """
    appearance, options = appearance or Appearance(), options or RenderOptions()
    check_look(mesh, appearance, options)
    if not _native.available():
        return _draw_with_torch(mesh, cameras, appearance, options)
    viewmats, ks = (np.asarray(m, dtype=np.float32) for m in (cameras.viewmats, cameras.Ks))
    viewmats = viewmats.reshape(-1, 4, 4)
    ks = np.broadcast_to(ks.reshape(-1, 3, 3), (len(viewmats), 3, 3))
    scene = mesh_geometry(mesh, options.smooth)
    levels = None if appearance.texture_srgb is None else TextureLevels(_contiguous(appearance.texture_srgb))
    return (
        _draw_view(scene, replace(cameras, viewmats=viewmat[None], Ks=k[None]), appearance, options, levels)
        for viewmat, k in zip(viewmats, ks, strict=True)
    )


def _draw_view(
    scene: ShadeGeometry,
    camera: Cameras,
    appearance: Appearance,
    options: RenderOptions,
    levels: TextureLevels | None,
) -> Picture:
    factor = options.supersample
    fine = finer(camera, factor)
    points = _contiguous(to_homogeneous_image(scene.vertices, fine))
    clip = (options.near_z, float("inf"), options.cull_backfaces)
    faces = np.ascontiguousarray(scene.corners[:, :3])
    raster = Raster(*_native.rasterize(points, faces, (fine.height, fine.width), clip))
    colours = _colours(appearance, None if levels is None else levels.for_view(scene, raster, fine))
    none = np.zeros(0, dtype=np.float32)
    rotation, ambient, lamps, surface = np.eye(3, dtype=np.float32), none, none.reshape(0, 6), none
    if options.lighting is not None:
        lights = pack_lighting(options.lighting, appearance.surface, camera.viewmats[:, :3, :3])
        rotation, ambient, lamps, surface = lights.rotations, lights.ambient, lights.lights, lights.surface
    cameras = np.concatenate([camera_centers(camera), rotation.reshape(1, 9)], axis=1)
    background = none if options.background_srgb is None else np.array(options.background_srgb, dtype=np.float32)
    uvs = none.reshape(0, 2) if scene.uvs is None else scene.uvs
    image, alpha = _native.shade(
        (raster.face_index, raster.barycentrics),
        (scene.corners, scene.vertices, scene.normals, uvs),
        colours,
        (_contiguous(cameras), ambient, lamps, surface),
        factor,
        background,
    )
    return Picture(image[0], alpha[0])


def _colours(appearance: Appearance, texture: Array | None) -> tuple[Float[np.ndarray, "A B 3"], int]:
    if texture is not None:
        return _contiguous(texture), ColourSource.TEXTURE
    if appearance.vertex_srgb is not None:
        return _contiguous(appearance.vertex_srgb)[None], ColourSource.VERTEX
    return np.array(appearance.base_srgb, dtype=np.float32).reshape(1, 1, 3), ColourSource.UNIFORM


def _contiguous(values: Array) -> np.ndarray:
    return np.ascontiguousarray(values, dtype=np.float32)


def _draw_with_torch(mesh: Mesh, cameras: Cameras, appearance: Appearance, options: RenderOptions) -> Iterator[Picture]:
    """The slow way, where the native library is not built (`headrecon doctor` says so)."""
    import torch

    from headrecon.rendering.mesh import render_views

    def tensor(values: Array | None) -> torch.Tensor | None:
        return None if values is None else torch.from_numpy(_contiguous(values))

    appearance = replace(
        appearance, texture_srgb=tensor(appearance.texture_srgb), vertex_srgb=tensor(appearance.vertex_srgb)
    )
    for view in render_views(mesh, cameras, appearance, options):
        yield Picture(view.image_srgb[0].numpy(), view.alpha[0].numpy())
