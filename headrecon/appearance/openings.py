"""Where a photo shows no skin although the model may have some: between the lids and between the lips."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headrecon.perception.mesh_features import EYES_AND_MOUTH


def face_openings(landmarks: Float[np.ndarray, "L D"]) -> tuple[Float[np.ndarray, "_ 2"], ...]:
    """Outlines in pixels of both eyes and the mouth from MediaPipe's 468 or 478 points."""
    return tuple(np.ascontiguousarray(landmarks[list(contour), :2], dtype=np.float64) for contour in EYES_AND_MOUTH)


def fill_polygons(polygons: tuple[Float[np.ndarray, "_ 2"], ...], width: int, height: int) -> Float[Tensor, "h w"]:
    """1 inside any of the polygons (pixel coordinates, first centre at 0.5), 0 outside."""
    from PIL import Image, ImageDraw

    picture = Image.new("L", (width, height), 0)
    draw = ImageDraw.Draw(picture)
    for polygon in polygons:
        if len(polygon) >= 3 and np.isfinite(polygon).all():
            # PIL counts from pixel centres.
            draw.polygon([(float(x) - 0.5, float(y) - 0.5) for x, y in polygon], fill=1)
    return torch.from_numpy(np.array(picture, dtype=np.float32))
