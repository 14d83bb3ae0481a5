"""Where a photo shows no skin although the model may have some: between the lids and between the lips."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

#: Contours of MediaPipe's face mesh, as point indices in order: the subject's right eye, left eye, inner lips.
EYES_AND_MOUTH: tuple[tuple[int, ...], ...] = (
    (33, 246, 161, 160, 159, 158, 157, 173, 133, 155, 154, 153, 145, 144, 163, 7),
    (263, 466, 388, 387, 386, 385, 384, 398, 362, 382, 381, 380, 374, 373, 390, 249),
    (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308, 324, 318, 402, 317, 14, 87, 178, 88, 95),
)


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
