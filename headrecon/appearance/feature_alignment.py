"""Bends a photo so that eyes, nose and lips lie where the fitted head has them.

A fit leaves features of the photo some per cent of the eye distance beside the head's own: its shape is held to what
the photo proves. Projected as it is, lip colour would land on the skin above a lip and nostrils on the upper lip. So
the picture is moved by a smooth field that takes each detected point to its place on the head: the mean of a Gaussian
process given the points' displacements (Rasmussen and Williams 2006, chapter 2), which is zero away from the features.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headrecon.appearance.projection import Photo
from headrecon.perception.mesh_features import BROWS, FEATURES, NOSE_BASE

#: The embedding of the nose's base was found on plain renderings, where the detector sees it lower than on people: by
#: so many eye distances below the rim of the nostrils of the mean head, while on photos it lies on that rim.
_BASE_TOO_LOW = 0.025
#: In eye distances: how far a displacement reaches, how large one may be, and how well a point is placed.
_REACH, _SIGMA, _NOISE = 0.22, 0.04, 0.006
#: The field may squeeze the picture down to this share of itself, no more.
_LEAST_STRETCH = 0.45
_OUTER_CORNERS, _NOSE_TIP, _BROW_MIDDLE = (33, 263), 4, 9
#: The field is smooth: it is worked out on a grid with so many cells to an eye distance.
_CELLS = 24
_INVERSE_STEPS = 4


@dataclass(frozen=True)
class FeatureField:
    """Where to look in the photo for what the head shows at a pixel: that pixel plus the field's value.

    centres: of the kernel (pixels). weights: pixels. reach: length of the kernel in pixels.
    """

    centres: Float[np.ndarray, "N 2"]
    weights: Float[np.ndarray, "N 2"]
    reach: float

    def __call__(self, pixels: Float[np.ndarray, "M 2"]) -> Float[np.ndarray, "M 2"]:
        """Displacement in pixels at pixel positions."""
        return _kernel(pixels, self.centres, self.reach) @ self.weights

    def source_of(self, pixels: Float[np.ndarray, "M 2"]) -> Float[np.ndarray, "M 2"]:
        """Where the bent photo shows what the photo has at these pixels (the field inverted by fixed point)."""
        found = pixels.copy()
        for _ in range(_INVERSE_STEPS):
            found = pixels - self(found)
        return found


def feature_field(
    on_head: Float[np.ndarray, "468 2"], detected: Float[np.ndarray, "468 2"], seen: Float[np.ndarray, "468"]
) -> FeatureField:
    """The field between the projected points of the head and the detected ones, both in pixels.

    seen: 0..1, how far each point of the head faces the camera; hidden ones do not count.
    """
    ids = np.array(FEATURES)
    on_head = on_head.astype(np.float64)
    unit = max(float(np.linalg.norm(np.subtract(*on_head[list(_OUTER_CORNERS)]))), 1e-6) / 1.45
    up = on_head[_BROW_MIDDLE] - on_head[_NOSE_TIP]
    on_head[list(NOSE_BASE)] += _BASE_TOO_LOW * unit * up / max(float(np.linalg.norm(up)), 1e-6)
    # Brows stay where the photo has them: they are hair, and where they grow is the person's, not the model's.
    wanted = np.where(np.isin(ids, BROWS)[:, None], 0.0, detected[ids] - on_head[ids])
    on_head[list(BROWS)] = detected[list(BROWS)]
    usable = (seen[ids] > 0.3) & np.isfinite(on_head[ids]).all(1) & np.isfinite(wanted).all(1)
    centres, wanted = on_head[ids][usable], wanted[usable]
    reach = _REACH * unit
    covariance = _kernel(centres, centres, reach)
    noise = (_NOISE / _SIGMA) ** 2 / np.clip(seen[ids][usable], 0.3, 1.0)
    weights = np.linalg.solve(covariance + np.diag(noise), wanted) if usable.any() else np.zeros((0, 2))
    return _without_folds(FeatureField(centres, weights, reach))


def align_features(photo: Photo, field: FeatureField) -> Photo:
    """The photo bent by the field: picture, eye and mouth openings and irises. The person mask stays as it is."""
    height, width = photo.image_srgb.shape[:2]
    margin = 3 * field.reach
    if not len(field.centres):
        return photo
    low, high = field.centres.min(0) - margin, field.centres.max(0) + margin
    x0, y0 = (int(v) for v in np.floor(np.clip(low, 0, (width - 1, height - 1))))
    x1, y1 = (int(v) for v in np.ceil(np.clip(high, (x0 + 2, y0 + 2), (width, height))))
    if x1 - x0 < 2 or y1 - y0 < 2:
        return photo
    image = photo.image_srgb.clone()
    image[y0:y1, x0:x1] = _bent(photo, field, (x0, y0, x1, y1)).to(image.dtype)
    openings = tuple(field.source_of(np.asarray(p, np.float64)) for p in photo.openings_px)
    irises = photo.iris_px
    if irises is not None:
        # An iris stays round: it moves with its centre.
        moved = field.source_of(irises[:, 0].astype(np.float64)) - irises[:, 0]
        irises = (irises + moved[:, None]).astype(irises.dtype)
    return replace(photo, image_srgb=image, openings_px=openings, iris_px=irises)


def _bent(photo: Photo, field: FeatureField, box: tuple[int, int, int, int]) -> Float[Tensor, "h w 3"]:
    """The box's colours looked up where the field says, in the photo's own range of values."""
    x0, y0, x1, y1 = box
    cell = max(1.0, field.reach / _REACH / _CELLS)
    columns = np.linspace(x0 + 0.5, x1 - 0.5, max(2, round((x1 - x0) / cell)))
    rows = np.linspace(y0 + 0.5, y1 - 0.5, max(2, round((y1 - y0) / cell)))
    nodes = np.stack(np.meshgrid(columns, rows), axis=-1)
    coarse = torch.from_numpy(field(nodes.reshape(-1, 2)).reshape(*nodes.shape).astype(np.float32))
    moves = torch.nn.functional.interpolate(
        coarse.permute(2, 0, 1)[None], size=(y1 - y0, x1 - x0), mode="bilinear", align_corners=True
    )[0].permute(1, 2, 0)
    height, width = photo.image_srgb.shape[:2]
    # What is looked up may lie beyond the box by as much as the field is large.
    pad = int(np.ceil(float(moves.abs().max()))) + 2
    u0, v0, u1, v1 = max(0, x0 - pad), max(0, y0 - pad), min(width, x1 + pad), min(height, y1 + pad)
    y, x = torch.meshgrid(torch.arange(y0, y1) + 0.5, torch.arange(x0, x1) + 0.5, indexing="ij")
    at = torch.stack([x, y], dim=-1) + moves - torch.tensor([u0, v0], dtype=torch.float32)
    grid = at / torch.tensor([u1 - u0, v1 - v0], dtype=torch.float32) * 2 - 1
    source = photo.image_srgb[v0:v1, u0:u1].float().permute(2, 0, 1)[None]
    found = torch.nn.functional.grid_sample(
        source, grid[None], mode="bicubic", padding_mode="border", align_corners=False
    )
    low, high = source.amin(), source.amax()  # cubics overshoot
    found = found[0].permute(1, 2, 0).clamp(low, high)
    return found.round() if photo.image_srgb.dtype == torch.uint8 else found


def _kernel(a: Float[np.ndarray, "A 2"], b: Float[np.ndarray, "B 2"], reach: float) -> Float[np.ndarray, "A B"]:
    square = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
    return np.exp(-0.5 * np.maximum(square, 0.0) / reach**2)


def _without_folds(field: FeatureField) -> FeatureField:
    """The same field, weaker where it is so uneven that the picture would be squeezed to nothing."""
    if not len(field.centres):
        return field
    step = 0.05 * field.reach
    ahead, aside = (field(field.centres + step * d) for d in np.eye(2))
    here = field(field.centres)
    slopes = np.stack([(ahead - here) / step, (aside - here) / step], axis=-1)
    squeeze = -float(np.linalg.eigvalsh(0.5 * (slopes + slopes.swapaxes(1, 2)))[:, 0].min(initial=0.0))
    most = 1.0 - _LEAST_STRETCH
    return field if squeeze <= most else replace(field, weights=field.weights * (most / squeeze))
