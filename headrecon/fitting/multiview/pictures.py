"""Photos as multi-view stereo compares them: grey, at a stated size on the face, without what changes slowly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from headrecon.fitting.multiview.views import PosedView

#: Green shows skin's pattern best (blood and pigment both absorb it), blue is noisy.
GREY_WEIGHTS = np.array([0.25, 0.6, 0.15], np.float32)
#: 8-bit values from which on a channel counts as burnt out.
BURNT = 251
#: Deviation in working pixels of the blur that is taken off. Wider than any window: it only keeps sums precise.
SLOW_PX = 12.0


@dataclass(frozen=True)
class WorkingPicture:
    """A photo scaled by `scale`. grey: without its slow changes. usable: 1 where it shows the person, not burnt.

    K: intrinsics in working pixels. mask: the person's opacity, where known.
    """

    grey: Float[Tensor, "h w"]
    usable: Float[Tensor, "h w"]
    K: Float[np.ndarray, "3 3"]
    scale: float
    mask: Float[Tensor, "h w"] | None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.grey.shape[0], self.grey.shape[1]


def working_picture(view: PosedView, pixels_per_m: float, wanted_per_m: float) -> WorkingPicture:
    """The photo with about `wanted_per_m` pixels per metre on the face, never enlarged (pixels_per_m: of the photo)."""
    from scipy.ndimage import gaussian_filter

    height, width = view.image_srgb.shape[:2]
    factor = min(1.0, wanted_per_m / pixels_per_m)
    size = (max(8, round(width * factor)), max(8, round(height * factor)))
    image, mask = view.image_srgb, view.mask
    burnt = (image >= BURNT).any(2)
    bad = np.asarray(burnt if mask is None else burnt | (mask < 0.5))
    grey = np.asarray(image.astype(np.float32) @ (GREY_WEIGHTS / 255))
    if factor < 1:
        grey, bad_share = (_resized(a.astype(np.float32), size) for a in (grey, bad))
    else:
        bad_share = bad.astype(np.float32)
    slow = gaussian_filter(grey, SLOW_PX, mode="nearest", truncate=3.0)
    intrinsics = np.array(view.camera.Ks, np.float64)
    intrinsics[0] *= size[0] / width
    intrinsics[1] *= size[1] / height
    opacity = None
    if mask is not None:
        soft = mask.astype(np.float32)
        opacity = torch.from_numpy(soft if factor == 1 else _resized(soft, size).copy())
    usable = torch.from_numpy((bad_share < 0.05).astype(np.float32))
    return WorkingPicture(torch.from_numpy(grey - slow), usable, intrinsics, size[0] / width, opacity)


def _resized(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(array).resize(size, Image.Resampling.BOX))


def box_sums(values: Float[Tensor, "*B h w"], width: int) -> Float[Tensor, "*B h w"]:
    """Sums over width x width squares (odd width) around each pixel; what lies outside counts as 0."""
    half = width // 2
    padded = torch.nn.functional.pad(values, (half + 1, half))
    rows = torch.cumsum(padded, -1)
    rows = rows[..., width:] - rows[..., :-width]
    padded = torch.nn.functional.pad(rows, (0, 0, half + 1, half))
    columns = torch.cumsum(padded, -2)
    return columns[..., width:, :] - columns[..., :-width, :]
