"""Which pixels belong to the person: a soft mask whose edge follows the hair.

The segmentation network sees 256 x 256 pixels, so it is shown the head and shoulders alone, and its coarse edge is
moved onto the picture's own with a guided filter (He, Sun, Tang: "Guided Image Filtering", PAMI 2013; solved at low
resolution as in He, Sun: "Fast Guided Filter", 2015).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from scipy.ndimage import uniform_filter

from headrecon.perception.attention_mesh import MESH_POINTS
from headrecon.perception.crops import Roi, sample_roi
from headrecon.perception.networks import Network, Networks
from headrecon.structures import FaceObservation

#: Side of the region shown to the network, in lengths of the face (forehead to chin); it holds hair and shoulders.
REGION_IN_FACES = 3.0
#: How far above the middle of the face the region's centre lies: chin and shoulders need less room than hair does.
_RAISE_IN_FACES = 0.05
_SOLVE_SIZE = 288
_RADIUS_IN_FACES = 0.03
_SMOOTHNESS = 1e-4
_VEIL = 0.06
#: The full resolution is worked on in blocks of this side, of which only those with an edge take time.
_BLOCK = 96
#: Width of the ramp with which the close-up is faded into the mask of the whole picture, in parts of its side.
_FADE = 0.12


def person_mask(
    image_srgb: UInt8[np.ndarray, "H W 3"], networks: Networks, observation: FaceObservation | None = None
) -> Float[np.ndarray, "H W"]:
    """Opacity of the person in 0..1 (float32), at the picture's resolution.

    With an observation the region around that face is looked at closely; elsewhere, and without one, the mask is that
    of the whole picture and its edges are soft by a hundredth of the picture.
    """
    height, width = image_srgb.shape[:2]
    whole = _whole_picture(image_srgb, networks.person)
    if observation is None:
        return refine_edges(whole, image_srgb, max(height, width) / 60.0)
    points = observation.landmarks[:MESH_POINTS, :2]
    face = float(np.linalg.norm(observation.landmarks[10, :2] - observation.landmarks[152, :2]))
    face = max(face, float(np.ptp(points, axis=0).max()) * 0.8)
    center = (points.min(0) + points.max(0)) / 2
    roi = Roi(float(center[0]), float(center[1]) - _RAISE_IN_FACES * face, REGION_IN_FACES * face)
    box = _inside(roi, width, height)
    x0, y0, x1, y1 = box
    close = _sampled(_close_up(image_srgb, roi, networks.person), roi, box)
    refined = refine_edges(close, image_srgb[y0:y1, x0:x1], _RADIUS_IN_FACES * face)
    mask = whole
    weight = _fade_weight(roi, box, width, height)
    mask[y0:y1, x0:x1] += weight * (refined - mask[y0:y1, x0:x1])
    return mask


def refine_edges(
    mask: Float[np.ndarray, "H W"], image_srgb: UInt8[np.ndarray, "H W 3"], radius_px: float
) -> Float[np.ndarray, "H W"]:
    """Guided filter: the mask as a locally linear function of the picture's colour, over squares of this radius.

    The linear coefficients are found on a reduced picture and enlarged; float32 in 0..1.
    """
    height, width = mask.shape
    scale = max(1.0, max(height, width) / _SOLVE_SIZE)
    size = (max(2, round(width / scale)), max(2, round(height / scale)))
    small = Image.fromarray(np.ascontiguousarray(image_srgb)).resize(size, Image.Resampling.BOX, reducing_gap=2.0)
    guide = np.asarray(small, np.float32) / np.float32(255.0)
    target = np.asarray(Image.fromarray(mask.astype(np.float32)).resize(size, Image.Resampling.BOX))
    slope, offset = _linear_fit(guide, target, 2 * max(1, round(radius_px / scale)) + 1)
    coarse = np.clip((slope * guide).sum(-1) + offset, 0.0, 1.0)
    maps = [Image.fromarray(np.ascontiguousarray(m)) for m in (*np.moveaxis(slope, -1, 0), offset)]
    refined = np.empty((height, width), np.float32)
    for y0 in range(0, height, _BLOCK):
        for x0 in range(0, width, _BLOCK):
            y1, x1 = min(y0 + _BLOCK, height), min(x0 + _BLOCK, width)
            box = (x0 * size[0] / width, y0 * size[1] / height, x1 * size[0] / width, y1 * size[1] / height)
            around = coarse[max(0, int(box[1]) - 1) : int(box[3]) + 2, max(0, int(box[0]) - 1) : int(box[2]) + 2]
            if around.max() < _VEIL or around.min() > 1.0 - _VEIL:  # no edge here: most of the picture
                refined[y0:y1, x0:x1] = around.min() > 0.5
                continue
            r, g, b, rest = (m.resize((x1 - x0, y1 - y0), Image.Resampling.BILINEAR, box=box) for m in maps)
            colour = image_srgb[y0:y1, x0:x1] * np.float32(1 / 255)
            block = np.asarray(r) * colour[..., 0] + np.asarray(g) * colour[..., 1] + np.asarray(b) * colour[..., 2]
            refined[y0:y1, x0:x1] = block + np.asarray(rest)
    # The linear model leaves faint veils where the background changes; they carry no hair.
    refined -= _VEIL
    refined /= 1.0 - 2.0 * _VEIL
    return np.clip(refined, 0.0, 1.0, out=refined)


def _linear_fit(
    guide: Float[np.ndarray, "h w 3"], target: Float[np.ndarray, "h w"], side: int
) -> tuple[Float[np.ndarray, "h w 3"], Float[np.ndarray, "h w"]]:
    """Ridge regression of the target on the colour in every window (equations 19 to 21), averaged over windows."""

    def mean(values: np.ndarray) -> np.ndarray:
        return uniform_filter(values, side, mode="nearest")

    # Centred first: the covariances are small differences, and float32 is twice as fast.
    middle = guide.mean(axis=(0, 1))
    r, g, b = (np.ascontiguousarray(channel) for channel in np.moveaxis(guide - middle, -1, 0))
    mean_r, mean_g, mean_b, mean_target = mean(r), mean(g), mean(b), mean(target)
    rr, gg, bb = (mean(c * c) - m * m + _SMOOTHNESS for c, m in ((r, mean_r), (g, mean_g), (b, mean_b)))
    rg, rb, gb = mean(r * g) - mean_r * mean_g, mean(r * b) - mean_r * mean_b, mean(g * b) - mean_g * mean_b
    cross = [mean(c * target) - m * mean_target for c, m in ((r, mean_r), (g, mean_g), (b, mean_b))]
    # The inverse of a symmetric 3 x 3 matrix by its cofactors.
    c_rr, c_rg, c_rb = gg * bb - gb * gb, rb * gb - rg * bb, rg * gb - rb * gg
    c_gg, c_gb, c_bb = rr * bb - rb * rb, rg * rb - rr * gb, rr * gg - rg * rg
    determinant = rr * c_rr + rg * c_rg + rb * c_rb
    rows = ((c_rr, c_rg, c_rb), (c_rg, c_gg, c_gb), (c_rb, c_gb, c_bb))
    slopes = [sum(c * x for c, x in zip(row, cross, strict=True)) / determinant for row in rows]
    offset = mean_target - slopes[0] * mean_r - slopes[1] * mean_g - slopes[2] * mean_b
    slope = np.stack([mean(k) for k in slopes], axis=-1)
    return slope, mean(offset) - slope @ middle


def _enlarged(values: np.ndarray, size: tuple[int, int]) -> Float[np.ndarray, "H W"]:
    return np.array(Image.fromarray(values.astype(np.float32)).resize(size, Image.Resampling.BILINEAR))


def _segment(crop_srgb: UInt8[np.ndarray, "R R 3"], network: Network) -> Float[np.ndarray, "R R"]:
    output = network(crop_srgb.astype(np.float32) / 255.0)
    return next(iter(output.values()))[0, :, :, 0]


def _whole_picture(image: UInt8[np.ndarray, "H W 3"], network: Network) -> Float[np.ndarray, "H W"]:
    """The picture squeezed into the network's square, as it was trained, and the mask stretched back."""
    size = network.input_size
    squeezed = Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR, reducing_gap=2.0)
    mask = _segment(np.asarray(squeezed), network)
    return np.clip(_enlarged(mask, (image.shape[1], image.shape[0])), 0.0, 1.0)


def _close_up(image: UInt8[np.ndarray, "H W 3"], roi: Roi, network: Network) -> Float[np.ndarray, "R R"]:
    """The mask of an upright region, the mean of the picture and its mirror image."""
    crop = sample_roi(image, roi, network.input_size)
    return (_segment(crop, network) + _segment(crop[:, ::-1], network)[:, ::-1]) / 2


def _inside(roi: Roi, width: int, height: int) -> tuple[int, int, int, int]:
    """The part of an upright region that lies in the picture: x0, y0, x1, y1 in whole pixels."""
    half = roi.size / 2
    x0, x1 = (int(np.clip(round(roi.center_x + s * half), 0, width)) for s in (-1, 1))
    y0, y1 = (int(np.clip(round(roi.center_y + s * half), 0, height)) for s in (-1, 1))
    return x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)


def _sampled(mask: Float[np.ndarray, "R R"], roi: Roi, box: tuple[int, int, int, int]) -> Float[np.ndarray, "h w"]:
    """The region's mask at every pixel of the box."""
    x0, y0, x1, y1 = box
    step = mask.shape[0] / roi.size
    left = (x0 - roi.center_x) * step + mask.shape[0] / 2
    top = (y0 - roi.center_y) * step + mask.shape[0] / 2
    matrix = (step, 0.0, left, 0.0, step, top)
    picture = Image.fromarray(np.pad(mask, 2, mode="edge"))  # so that bilinear samples at the rim are not cut off
    shifted = (matrix[0], 0.0, matrix[2] + 2, 0.0, matrix[4], matrix[5] + 2)
    return np.array(picture.transform((x1 - x0, y1 - y0), Image.Transform.AFFINE, shifted, Image.Resampling.BILINEAR))


def _fade_weight(roi: Roi, box: tuple[int, int, int, int], width: int, height: int) -> Float[np.ndarray, "h w"]:
    """1 inside the region and a ramp to 0 at its sides, except where the side is also the picture's."""
    x0, y0, x1, y1 = box
    ramp = _FADE * roi.size

    def along(low: int, high: int, limit: int) -> np.ndarray:
        at = np.arange(low, high) + 0.5
        rising = (at - low) / ramp if low > 0 else np.ones_like(at)
        falling = (high - at) / ramp if high < limit else np.ones_like(at)
        return np.clip(np.minimum(rising, falling), 0.0, 1.0)

    return np.outer(along(y0, y1, height), along(x0, x1, width)).astype(np.float32)
