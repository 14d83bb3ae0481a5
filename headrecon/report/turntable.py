"""The head turning once: the frames of `turntable.mp4` (written by `headrecon.io.video`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from jaxtyping import UInt8

from headrecon.rendering.cameras_orbit import turntable_cameras
from headrecon.rendering.lighting import Lighting
from headrecon.rendering.pictures import draw
from headrecon.report.scene import HeadScene, textured_look, to_uint8


def turntable_frames(
    scene: HeadScene, count: int = 72, size: int = 512, lighting: Lighting | None = None
) -> Iterator[UInt8[np.ndarray, "S S 3"]]:
    """`count` pictures of the neutral textured head on a full circle, one at a time, so that memory stays small.

    lighting: instead of the even light that shows the texture best.
    """
    cameras = turntable_cameras(scene.neutral, count, size)
    look = replace(textured_look(lighting), supersample=1)
    mesh = scene.neutral_mesh
    for picture in draw(mesh, cameras, scene.textured, look, smooth_outlines=True, levels=scene.levels):
        yield to_uint8(picture.image_srgb)
