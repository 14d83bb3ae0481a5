"""`relit.png`: the head in another light, from three sides, with its own shadows and the relief of its normal map."""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt8

from headrecon.rendering.cameras_orbit import preview_cameras
from headrecon.rendering.lighting import Lighting
from headrecon.report.scene import BACKDROP_SRGB, HeadScene

_VIEWS = ("front", "three_quarter", "profile")


def relit_sheet(
    scene: HeadScene, lighting: Lighting, normal_map: UInt8[np.ndarray, "N N 3"] | None, cell: int = 512
) -> UInt8[np.ndarray, "H W 3"]:
    """The neutral head in that light, side by side, each picture cell x cell."""
    from headrecon.rendering.relight import RelitLook, relight  # needs torch

    scene = scene.checked()
    cameras = preview_cameras(scene.neutral, _VIEWS, cell)
    look = RelitLook(scene.texture, normal_map)
    pictures = relight(scene.neutral_mesh, look, lighting, cameras, BACKDROP_SRGB)
    return np.concatenate(list(pictures), axis=1)
