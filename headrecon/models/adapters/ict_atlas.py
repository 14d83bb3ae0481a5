"""One texture for all of ICT-FaceKit: its materials, which each fill a texture of their own, side by side in one.

ICT spreads its materials over UDIM tiles, and eyeballs and face lie on top of each other in the first. Here each
material keeps its layout, scaled into a box: the face gets three quarters of the width, whatever is hardly seen little.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from headrecon.models.adapters.ict_files import IctFiles

#: Material -> (u0, v0, u1, v1).
BOXES: dict[str, tuple[float, float, float, float]] = {
    "M_Face": (0.0, 0.24, 0.76, 1.0),
    "M_BackHead": (0.76, 0.24, 1.0, 1.0),
    "M_ScleraLeft": (0.0, 0.0, 0.24, 0.24),
    "M_ScleraRight": (0.24, 0.0, 0.48, 0.24),
    "M_IrisLeft": (0.48, 0.12, 0.60, 0.24),
    "M_IrisRight": (0.60, 0.12, 0.72, 0.24),
    "M_GumsTongue": (0.48, 0.0, 0.60, 0.12),
    "M_EyeLashes": (0.60, 0.0, 0.68, 0.08),
    "M_Teeth": (0.76, 0.0, 1.0, 0.24),
    "M_LacrimalFluid": (0.68, 0.0, 0.76, 0.04),
    "M_EyeBlend": (0.68, 0.04, 0.76, 0.08),
    "M_EyeOcclusion": (0.60, 0.08, 0.76, 0.12),
}
#: For materials that ICT-FaceKit does not have (a changed copy).
OTHER_BOX = (0.72, 0.12, 0.76, 0.24)
#: Left free on every side of a box: four texels of a 2048 texture, so that filtering does not mix neighbours.
GUTTER = 0.002


def atlas(files: IctFiles) -> tuple[Float[np.ndarray, "T 2"], Int[np.ndarray, "F 4"]]:
    """UVs in 0..1 and their faces; each material's UV tiles are scaled as a whole into its box."""
    uvs: list[np.ndarray] = []
    uv_faces = np.full_like(files.uv_faces, -1)
    start = 0
    for number, name in enumerate(files.material_names):
        own = np.flatnonzero(files.materials == number)
        if not len(own):
            continue
        corners = files.uv_faces[own]
        used = np.unique(corners[corners >= 0])
        uvs.append(_into_box(files.uvs[used], BOXES.get(name, OTHER_BOX)))
        uv_faces[own] = np.where(corners >= 0, start + np.searchsorted(used, corners), -1)
        start += len(used)
    return np.concatenate(uvs), uv_faces


def _into_box(uvs: Float[np.ndarray, "N 2"], box: tuple[float, float, float, float]) -> Float[np.ndarray, "N 2"]:
    tiles = np.stack([np.floor(uvs.min(0)), np.maximum(np.ceil(uvs.max(0)), np.floor(uvs.min(0)) + 1)])
    low, high = np.array(box[:2]) + GUTTER, np.array(box[2:]) - GUTTER
    return low + (uvs - tiles[0]) / (tiles[1] - tiles[0]) * (high - low)
