"""Finding faces: BlazeFace on the whole picture, and on tiles of it where faces are small.

Bazarevsky et al., "BlazeFace: Sub-millisecond Neural Face Detection on Mobile GPUs", 2019. The short-range network sees
faces from a fifth of the frame up, the full-range one down to about a twentieth.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from headrecon.perception.networks import Network, Networks
from headrecon.structures import FaceDetection

#: Longer side of the reduced picture in which faces are looked for; a face of 20 px eye distance in a photo of
#: 4,000 px is then still found in the tiles.
SEARCH_SIZE = 1280
#: Below this part of the frame the box of the full-range network is the better one.
SHORT_RANGE_MIN_FRACTION = 0.15
MIN_SCORE = 0.5
#: Most upright faces score more; those of a picture lying on its side reach 0.83 and have misplaced eyes.
CERTAIN_SCORE = 0.85
TURNED_ADVANTAGE = 0.07
#: Sides of the tiles, as fractions of the shorter side of the reduced picture.
TILE_FRACTIONS = (2, 4, 6)
#: Boxes that overlap more than this (intersection over union) are one face.
SAME_FACE_OVERLAP = 0.3


@dataclass(frozen=True)
class AnchorLayout:
    """Where a detector's outputs sit: per layer the stride in pixels and the number of outputs per cell.

    BlazeFace's anchors all have the size of the whole input, so that an anchor is only a centre. Layers of equal stride
    follow each other cell by cell.
    """

    input_size: int
    layers: tuple[tuple[int, int], ...]

    def centers(self) -> Float[np.ndarray, "A 2"]:
        """Anchor centres (x, y) in 0..1, in the order of the network's outputs."""
        grids = []
        for stride, per_cell in self.layers:
            cells = self.input_size // stride
            y, x = np.mgrid[:cells, :cells]
            grid = (np.stack([x, y], axis=-1).reshape(-1, 2) + 0.5) / cells
            grids.append(np.repeat(grid, per_cell, axis=0))
        return np.concatenate(grids)


SHORT_RANGE = AnchorLayout(128, ((8, 2), (16, 6)))
FULL_RANGE = AnchorLayout(192, ((4, 1),))


def search_faces(image_srgb: UInt8[np.ndarray, "H W 3"], networks: Networks) -> Iterator[list[FaceDetection]]:
    """Candidates, stage after stage: the plain picture, smaller and smaller tiles of it.

    Each stage costs more than the one before; stop at the first that holds a face (a detection may be none, the mesh
    network knows better). Boxes and key points are in pixels of the image, best score first.
    """
    small, scale = _reduced(image_srgb)
    yield [_moved(face, scale, (0.0, 0.0)) for face in _detect_any_way_up(small, networks)]
    for fraction in TILE_FRACTIONS:
        tile = min(small.shape[:2]) // fraction
        if tile < FULL_RANGE.input_size // 2:  # smaller tiles would only be blown up
            return
        yield [_moved(face, scale, (0.0, 0.0)) for face in _detect_tiles(small, tile, networks)]


def detect_faces(image_srgb: UInt8[np.ndarray, "H W 3"], networks: Networks) -> list[FaceDetection]:
    """The candidates of the first stage of `search_faces` that has any."""
    return next((found for found in search_faces(image_srgb, networks) if found), [])


def _reduced(image: UInt8[np.ndarray, "H W 3"]) -> tuple[UInt8[np.ndarray, "h w 3"], float]:
    """The picture with a longer side of at most SEARCH_SIZE, and how much larger the original is."""
    height, width = image.shape[:2]
    scale = max(height, width) / SEARCH_SIZE
    if scale <= 1.0:
        return image, 1.0
    size = (max(1, round(width / scale)), max(1, round(height / scale)))
    # reducing_gap averages by an integer first, which is several times faster and looks the same at this size
    small = Image.fromarray(image).resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
    return np.asarray(small), scale


def _detect_whole(image: UInt8[np.ndarray, "H W 3"], networks: Networks) -> list[FaceDetection]:
    """Both networks on one picture; each face from the network that sees its size better."""
    near = run_detector(image, networks.face_short_range, SHORT_RANGE)
    far = run_detector(image, networks.face_full_range, FULL_RANGE)
    side = max(image.shape[:2])
    large = [f for f in near if _width(f) >= SHORT_RANGE_MIN_FRACTION * side]
    small = [f for f in near if _width(f) < SHORT_RANGE_MIN_FRACTION * side]
    return _first_of_each([*large, *far, *small])


def _detect_any_way_up(image: UInt8[np.ndarray, "H W 3"], networks: Networks) -> list[FaceDetection]:
    """The plain picture; where it shows nothing certain also its quarter turns, for photos that lost their EXIF.

    The networks find faces lying on their side, even upside down, but with a lower score and misplaced eyes.
    """
    height, width = image.shape[:2]
    best = _detect_whole(image, networks)
    score = _best_score(best)
    if score >= CERTAIN_SCORE:
        return best
    for turns in (1, 3, 2):
        found = _detect_whole(np.ascontiguousarray(np.rot90(image, turns)), networks)
        if _best_score(found) > score + TURNED_ADVANTAGE:
            best = [_turned_back(face, turns, width, height) for face in found]
            score = _best_score(found) - TURNED_ADVANTAGE
    return best


def _detect_tiles(image: UInt8[np.ndarray, "H W 3"], tile: int, networks: Networks) -> list[FaceDetection]:
    """Square tiles that overlap by a third."""
    height, width = image.shape[:2]
    found = []
    for top in _tile_starts(height, tile):
        for left in _tile_starts(width, tile):
            part = image[top : top + tile, left : left + tile]
            faces = run_detector(part, networks.face_full_range, FULL_RANGE)
            found += [_moved(face, 1.0, (float(left), float(top))) for face in faces]
    return _first_of_each(sorted(found, key=lambda f: -f.score))


def _best_score(faces: Sequence[FaceDetection]) -> float:
    return max((face.score for face in faces), default=0.0)


def _tile_starts(length: int, tile: int) -> list[int]:
    count = max(1, int(np.ceil((length - tile) / (tile * 2 / 3))) + 1)
    return [round(s) for s in np.linspace(0, length - tile, count)]


def run_detector(
    image: UInt8[np.ndarray, "H W 3"], network: Network, layout: AnchorLayout, min_score: float = MIN_SCORE
) -> list[FaceDetection]:
    """One detector on a whole picture (padded to a square with black); boxes in its pixels, best score first."""
    height, width = image.shape[:2]
    side = max(height, width)
    size = layout.input_size
    fitted = (max(1, round(width * size / side)), max(1, round(height * size / side)))
    left, top = (size - fitted[0]) // 2, (size - fitted[1]) // 2
    canvas = np.zeros((size, size, 3), np.float32)
    resized = Image.fromarray(image).resize(fitted, Image.Resampling.BILINEAR, reducing_gap=2.0)
    canvas[top : top + fitted[1], left : left + fitted[0]] = np.asarray(resized)
    outputs = network(np.where(canvas > 0, canvas / 127.5 - 1.0, -1.0))
    raw = next(v for v in outputs.values() if v.shape[-1] == 16).reshape(-1, 16).astype(np.float64)
    logits = next(v for v in outputs.values() if v.shape[-1] == 1).reshape(-1)
    scores = 1.0 / (1.0 + np.exp(-np.clip(logits.astype(np.float64), -100.0, 100.0)))
    boxes, keypoints = _decode(raw, layout)
    keep = scores >= min_score
    merged = weighted_suppression(boxes[keep], keypoints[keep], scores[keep])
    # Back through the padding; the two scales differ by the rounding of the fitted size.
    grow = np.array([width / fitted[0], height / fitted[1]])
    shift = np.array([left, top])
    return [
        FaceDetection(
            ((f.box.reshape(2, 2) * size - shift) * grow).reshape(4), (f.keypoints * size - shift) * grow, f.score
        )
        for f in merged
    ]


def _decode(raw: Float[np.ndarray, "A 16"], layout: AnchorLayout) -> tuple[np.ndarray, np.ndarray]:
    """Boxes [A,4] (x0, y0, x1, y1) and key points [A,6,2] in 0..1 of the padded square."""
    values = raw.reshape(-1, 8, 2) / layout.input_size
    centers = layout.centers()
    middle, extent = values[:, 0] + centers, values[:, 1]
    boxes = np.concatenate([middle - extent / 2, middle + extent / 2], axis=1)
    return boxes, values[:, 2:] + centers[:, None]


def weighted_suppression(
    boxes: Float[np.ndarray, "A 4"],
    keypoints: Float[np.ndarray, "A 6 2"],
    scores: Float[np.ndarray, " A"],
    overlap: float = SAME_FACE_OVERLAP,
) -> list[FaceDetection]:
    """Merge the boxes around each local best, weighted by score (BlazeFace, section 3.4), instead of dropping them."""
    left = np.argsort(-scores, kind="stable")
    faces = []
    while left.size:
        near = intersection_over_union(boxes[left[0]], boxes[left]) > overlap
        near[0] = True  # also where the box is degenerate and does not even overlap itself
        group = left[near]
        weights = scores[group] / scores[group].sum()
        box = weights @ boxes[group]
        faces.append(FaceDetection(box, np.einsum("a,akd->kd", weights, keypoints[group]), float(scores[group[0]])))
        left = left[~near]
    return faces


def intersection_over_union(box: Float[np.ndarray, "4"], others: Float[np.ndarray, "N 4"]) -> Float[np.ndarray, " N"]:
    """Overlap of one box with several, 0 where either has no area."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    shared = np.prod(np.clip(high - low, 0.0, None), axis=1)
    areas = np.prod(np.clip(others[:, 2:] - others[:, :2], 0.0, None), axis=1)
    union = np.prod(np.clip(box[2:] - box[:2], 0.0, None)) + areas - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def _first_of_each(faces: Sequence[FaceDetection]) -> list[FaceDetection]:
    """Drop every face that overlaps an earlier one; best score first."""
    kept: list[FaceDetection] = []
    for face in faces:
        others = np.array([k.box for k in kept]).reshape(-1, 4)
        if not (intersection_over_union(face.box, others) > SAME_FACE_OVERLAP).any():
            kept.append(face)
    return sorted(kept, key=lambda f: -f.score)


def _width(face: FaceDetection) -> float:
    return float(face.box[2] - face.box[0])


def _moved(face: FaceDetection, scale: float, shift: tuple[float, float]) -> FaceDetection:
    box = ((face.box.reshape(2, 2) + shift) * scale).reshape(4)
    return FaceDetection(box, (face.keypoints + shift) * scale, face.score)


def _turned_back(face: FaceDetection, turns: int, width: int, height: int) -> FaceDetection:
    """A detection in `np.rot90(image, turns)` to the image, which is width x height."""

    def back(points: np.ndarray) -> np.ndarray:
        x, y = points[:, 0], points[:, 1]
        return np.stack({1: (width - y, x), 2: (width - x, height - y), 3: (y, height - x)}[turns], axis=1)

    corners = back(face.box.reshape(2, 2))
    return FaceDetection(np.concatenate([corners.min(0), corners.max(0)]), back(face.keypoints), face.score)
