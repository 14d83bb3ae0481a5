"""Finished pictures of a mesh in numpy: what reports and videos show. Colour and alpha only, one camera at a time.

The same kernels and the same light as `rendering.mesh`, without the buffers that a picture does not need and without
torch, whose import takes longer than all pictures of a report.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from headrecon.geometry.cameras import camera_centers, to_homogeneous_image
from headrecon.ops.arrays import antialias, face_neighbours, rasterize, shade
from headrecon.ops.samples import ShadeColours, ShadeGeometry
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
    mesh: Mesh,
    cameras: Cameras,
    appearance: Appearance | None = None,
    options: RenderOptions | None = None,
    smooth_outlines: bool = False,
    levels: TextureLevels | None = None,
) -> Iterator[Picture]:
    """Draw one mesh from C cameras (numpy: viewmats [C,4,4] or [4,4], Ks likewise), one after the other.

    Looks as `render_mesh` does, to the last bit of rounding. Colours of `appearance` are numpy arrays.
    smooth_outlines: let the geometry tell what share of a pixel an outline leaves (`ops.antialias`). One sample per
    pixel then gives what four give without, at a third of the cost; needs a background, and alpha stays as sampled.
    levels: of the texture of `appearance`, where it is drawn with more than once.
    Raises ShapeError as `render_mesh` does, when called.
    """
    appearance, options = appearance or Appearance(), options or RenderOptions()
    check_look(mesh, appearance, options)
    viewmats, ks = (np.asarray(m, dtype=np.float32) for m in (cameras.viewmats, cameras.Ks))
    viewmats = viewmats.reshape(-1, 4, 4)
    ks = np.broadcast_to(ks.reshape(-1, 3, 3), (len(viewmats), 3, 3))
    scene = mesh_geometry(mesh, options.smooth)
    neighbours = face_neighbours(scene.corners[:, :3]) if smooth_outlines else None
    if levels is None and appearance.texture_srgb is not None:
        levels = TextureLevels(appearance.texture_srgb)
    return (
        _draw_view(
            (scene, neighbours), replace(cameras, viewmats=viewmat[None], Ks=k[None]), appearance, options, levels
        )
        for viewmat, k in zip(viewmats, ks, strict=True)
    )


def _draw_view(
    shape: tuple[ShadeGeometry, np.ndarray | None],
    camera: Cameras,
    appearance: Appearance,
    options: RenderOptions,
    levels: TextureLevels | None,
) -> Picture:
    scene, neighbours = shape
    factor = options.supersample
    fine = finer(camera, factor)
    points = to_homogeneous_image(scene.vertices, fine)
    raster = rasterize(
        points,
        scene.corners[:, :3],
        fine.height,
        fine.width,
        near_z=options.near_z,
        cull_backfaces=options.cull_backfaces,
    )
    texture = None if levels is None else levels.for_view(scene, raster, fine)
    lights = None
    if options.lighting is not None:
        lights = pack_lighting(options.lighting, appearance.surface, camera.viewmats[:, :3, :3])
    background = options.background_srgb
    image, alpha = shade(
        raster,
        scene,
        ShadeColours(texture, appearance.vertex_srgb, np.array(appearance.base_srgb, dtype=np.float32)),
        camera_centers(camera),
        lights,
        factor=factor,
        background=None if background is None else np.array(background, dtype=np.float32),
    )
    if neighbours is not None and factor == 1:
        image = antialias(image, raster, points, scene.corners[:, :3], neighbours)
    return Picture(image[0], alpha[0])
