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
#: The edge of a larger picture is found at this size; a hair is then still thinner than a pixel of the texture.
_MAX_SIDE = 2400
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
    close = _in_box(_close_up(image_srgb, roi, networks.person), roi, box)
    refined = refine_edges(close, image_srgb[y0:y1, x0:x1], _RADIUS_IN_FACES * face)
    _fade_in(whole[y0:y1, x0:x1], refined, roi, box, (width, height))
    return whole


def refine_edges(
    mask: Float[np.ndarray, "h w"], image_srgb: UInt8[np.ndarray, "H W 3"], radius_px: float
) -> Float[np.ndarray, "H W"]:
    """Guided filter: the mask as a locally linear function of the picture's colour, over squares of this radius.

    The mask covers the picture and may have another resolution; the linear coefficients are found on a reduced picture
    and enlarged. The result is float32 in 0..1 at the picture's resolution.
    """
    height, width = image_srgb.shape[:2]
    scale = max(1.0, max(height, width) / _SOLVE_SIZE)
    size = (max(2, round(width / scale)), max(2, round(height / scale)))
    picture = Image.fromarray(np.ascontiguousarray(image_srgb))
    guide = np.asarray(picture.resize(size, Image.Resampling.BOX, reducing_gap=2.0), np.float32) / np.float32(255.0)
    target = np.asarray(Image.fromarray(mask.astype(np.float32)).resize(size, Image.Resampling.BILINEAR))
    coefficients = _linear_fit(guide, target, 2 * max(1, round(radius_px / scale)) + 1)
    excess = max(height, width) / _MAX_SIDE
    if excess <= 1.0:
        return _apply(coefficients, guide, image_srgb)
    reduced = picture.resize((round(width / excess), round(height / excess)), Image.Resampling.BOX, reducing_gap=2.0)
    return _enlarged(_apply(coefficients, guide, np.asarray(reduced)), (width, height))


def _apply(
    coefficients: Float[np.ndarray, "h w 4"], guide: Float[np.ndarray, "h w 3"], image_srgb: UInt8[np.ndarray, "H W 3"]
) -> Float[np.ndarray, "H W"]:
    """The linear functions of the guide, enlarged and applied to the picture; only blocks with an edge take time."""
    height, width = image_srgb.shape[:2]
    low_height, low_width = guide.shape[:2]
    coarse = np.clip((coefficients[..., :3] * guide).sum(-1) + coefficients[..., 3], 0.0, 1.0)
    maps = [Image.fromarray(np.ascontiguousarray(m)) for m in np.moveaxis(coefficients, -1, 0)]
    refined = np.empty((height, width), np.float32)
    for y0 in range(0, height, _BLOCK):
        for x0 in range(0, width, _BLOCK):
            y1, x1 = min(y0 + _BLOCK, height), min(x0 + _BLOCK, width)
            box = (x0 * low_width / width, y0 * low_height / height, x1 * low_width / width, y1 * low_height / height)
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
) -> Float[np.ndarray, "h w 4"]:
    """Ridge regression of the target on the colour in every window (equations 19 to 21), averaged over windows.

    Three slopes and an offset for every pixel.
    """

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
    return np.concatenate([slope, (mean(offset) - slope @ middle)[..., None]], axis=-1)


def _enlarged(values: Float[np.ndarray, "h w"], size: tuple[int, int]) -> Float[np.ndarray, "H W"]:
    """Bilinear enlargement to (width, height)."""
    x0, x1, fx = _neighbours(values.shape[1], size[0])
    y0, y1, fy = _neighbours(values.shape[0], size[1])
    wide = (values[:, x0] * (1.0 - fx) + values[:, x1] * fx).astype(np.float32)
    result = np.empty((size[1], size[0]), np.float32)
    for start in range(0, size[1], _BLOCK):  # a large picture would not fit the cache
        rows = slice(start, start + _BLOCK)
        above = wide[y0[rows]]
        result[rows] = above + (wide[y1[rows]] - above) * fy[rows, None]
    return result


def _neighbours(count: int, wanted: int) -> tuple[np.ndarray, np.ndarray, Float[np.ndarray, " N"]]:
    """For each of the wanted pixel centres the two of `count` around it and the weight of the second."""
    at = np.clip((np.arange(wanted) + 0.5) * count / wanted - 0.5, 0.0, count - 1.0)
    low = np.minimum(at.astype(int), count - 1)
    return low, np.minimum(low + 1, count - 1), (at - low).astype(np.float32)


def _segment(crop_srgb: UInt8[np.ndarray, "R R 3"], network: Network) -> Float[np.ndarray, "R R"]:
    output = network(crop_srgb.astype(np.float32) / 255.0)
    return next(iter(output.values()))[0, :, :, 0]


def _whole_picture(image: UInt8[np.ndarray, "H W 3"], network: Network) -> Float[np.ndarray, "H W"]:
    """The picture squeezed into the network's square, as it was trained, and the mask stretched back."""
    size = network.input_size
    squeezed = Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR, reducing_gap=2.0)
    mask = _segment(np.asarray(squeezed), network)
    return _enlarged(np.clip(mask, 0.0, 1.0), (image.shape[1], image.shape[0]))


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


def _in_box(mask: Float[np.ndarray, "R R"], roi: Roi, box: tuple[int, int, int, int]) -> Float[np.ndarray, "h w"]:
    """The part of the region's mask that lies in the box, at about the mask's own resolution."""
    x0, y0, x1, y1 = box
    step = mask.shape[0] / roi.size
    size = (max(1, round((x1 - x0) * step)), max(1, round((y1 - y0) * step)))
    left = (x0 - roi.center_x) * step + mask.shape[0] / 2
    top = (y0 - roi.center_y) * step + mask.shape[0] / 2
    across, down = (x1 - x0) * step / size[0], (y1 - y0) * step / size[1]
    # Padded, so that samples at the rim of the region are not taken for lying outside.
    picture = Image.fromarray(np.pad(mask, 2, mode="edge"))
    matrix = (across, 0.0, left + 2, 0.0, down, top + 2)
    return np.asarray(picture.transform(size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR))


def _fade_in(
    mask: Float[np.ndarray, "h w"],
    close: Float[np.ndarray, "h w"],
    roi: Roi,
    box: tuple[int, int, int, int],
    picture: tuple[int, int],
) -> None:
    """Write the close-up over the mask, faded out towards the region's sides except where they are the picture's.

    Both arrays are changed: they are large.
    """
    x0, y0, x1, y1 = box
    ramp = _FADE * roi.size

    def weight(low: int, high: int, limit: int) -> Float[np.ndarray, " N"]:
        at = np.arange(low, high, dtype=np.float32) + np.float32(0.5)
        rising = (at - low) / ramp if low > 0 else np.ones_like(at)
        falling = (high - at) / ramp if high < limit else np.ones_like(at)
        return np.clip(np.minimum(rising, falling), 0.0, 1.0).astype(np.float32)

    close -= mask
    close *= weight(y0, y1, picture[1])[:, None]
    close *= weight(x0, x1, picture[0])
    mask += close
