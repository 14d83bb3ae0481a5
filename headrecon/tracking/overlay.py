"""The head over the video, frame by frame: what `overlay.mp4` and the pictures of the report show."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from headrecon.geometry.cameras import crop_cameras, project_points
from headrecon.io.video_reader import VideoReader
from headrecon.models.moving_head import MovingHead
from headrecon.ops.samples import DEFAULT_NEAR_Z
from headrecon.rendering.look import Appearance, RenderOptions
from headrecon.rendering.pictures import draw
from headrecon.structures import Cameras, Mesh, Track
from headrecon.tracking.seen import ahead

#: How much of the head shows over the picture: of one that is followed surely, and of one that is only carried on.
_OPACITY = (0.7, 0.25)
_TOGETHER = 2
#: A close-up's side, in shares of the head's longer one; below so many pixels it shows nothing.
_AROUND, _LEAST_CUT = 1.35, 16


def overlay_size(width: int, height: int, shorter: int) -> tuple[int, int]:
    """Width and height, even, with the shorter side at most so long."""
    factor = min(1.0, shorter / min(width, height))
    return max(2, round(width * factor / 2) * 2), max(2, round(height * factor / 2) * 2)


def overlay_frames(
    reader: VideoReader, head: MovingHead, shorter: int, progress: Callable[[int], None]
) -> Iterator[tuple[float, UInt8[np.ndarray, "H W 3"]]]:
    """Times and pictures of a track's frames, the head drawn over each. A few pictures in memory at a time."""
    size = overlay_size(head.track.cameras.width, head.track.cameras.height, shorter)
    waiting: deque[tuple[int, Future[UInt8[np.ndarray, "H W 3"]]]] = deque()

    def ready() -> tuple[float, UInt8[np.ndarray, "H W 3"]]:
        place, picture = waiting.popleft()
        progress(place + 1)
        return float(head.track.timestamps_s[place]), picture.result()

    # Two pictures at once: half of the time goes to numpy, which uses one core.
    with ThreadPoolExecutor(_TOGETHER) as workers:
        for place, image in _tracked(reader, head.track):
            waiting.append((place, workers.submit(overlaid, image, head, place, size)))
            if len(waiting) > _TOGETHER:
                yield ready()
        while waiting:
            yield ready()


def _tracked(reader: VideoReader, track: Track) -> Iterator[tuple[int, UInt8[np.ndarray, "H W 3"]]]:
    """The frames that the track has, each with its place in it."""
    place, last = 0, int(track.frames[-1])
    for frame in ahead(reader.frames(int(track.frames[0]))):
        while place < len(track) and track.frames[place] < frame.index:
            place += 1
        if place < len(track) and track.frames[place] == frame.index:
            yield place, frame.image_srgb
        if frame.index >= last:
            return


def overlaid(
    image_srgb: UInt8[np.ndarray, "H W 3"], head: MovingHead, place: int, size: tuple[int, int]
) -> UInt8[np.ndarray, "h w 3"]:
    """One picture of the video, scaled to (width, height), with its head drawn over it."""
    height, width = image_srgb.shape[:2]
    small = image_srgb if size == (width, height) else _scaled(image_srgb, size)
    camera = crop_cameras(head.camera(place), (0, 0, width, height), size)
    return drawn_over(small, head.vertices(place), head, camera, _opacity(head, place))


def close_up(
    image_srgb: UInt8[np.ndarray, "H W 3"], head: MovingHead, place: int, shorter: int
) -> UInt8[np.ndarray, "h w 3"]:
    """As `overlaid`, cut to the head and what is around it, so that a small face in a large picture can be judged."""
    height, width = image_srgb.shape[:2]
    camera = head.camera(place)
    pixels, _ = project_points(head.vertices(place).astype(np.float64), camera)
    middle, reach = (pixels.min(0) + pixels.max(0)) / 2, _AROUND * np.ptp(pixels, axis=0).max() / 2
    left, top = np.clip(np.floor(middle - reach), 0, [width, height]).astype(int).tolist()
    right, bottom = np.clip(np.ceil(middle + reach), 0, [width, height]).astype(int).tolist()
    if min(right - left, bottom - top) < _LEAST_CUT:  # carried on to outside of the picture
        left, top, right, bottom = 0, 0, width, height
    size = overlay_size(right - left, bottom - top, shorter)
    small = _scaled(np.ascontiguousarray(image_srgb[top:bottom, left:right]), size)
    cut = crop_cameras(camera, (left, top, right, bottom), size)
    return drawn_over(small, head.vertices(place), head, cut, _opacity(head, place))


def _opacity(head: MovingHead, place: int) -> float:
    sure, carried = _OPACITY
    return carried + (sure - carried) * float(head.track.confidence[place])


def drawn_over(
    image_srgb: UInt8[np.ndarray, "H W 3"],
    vertices: Float[np.ndarray, "V 3"],
    head: MovingHead,
    camera: Cameras,
    opacity: float,
) -> UInt8[np.ndarray, "H W 3"]:
    """Plain geometry blended over a picture. Only the part of it that the head may cover is drawn."""
    left, top, right, bottom = _reach(vertices, camera)
    if left >= right or top >= bottom:
        return image_srgb
    cut = crop_cameras(camera, (left, top, right, bottom), (right - left, bottom - top))
    look = RenderOptions(background_srgb=None, supersample=1)
    picture = next(draw(Mesh(vertices, head.assets.faces), cut, Appearance(), look))
    box = slice(top, bottom), slice(left, right)
    out = image_srgb.copy()
    share = picture.alpha[..., None] * np.float32(opacity)
    drawn = picture.image_srgb * np.float32(255)
    below = out[box].astype(np.float32)
    drawn -= below
    drawn *= share
    below += drawn
    below += np.float32(0.5)
    out[box] = below.astype(np.uint8)
    return out


def _reach(vertices: Float[np.ndarray, "V 3"], camera: Cameras) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of what the head may cover of the picture."""
    pixels, depth = project_points(vertices.astype(np.float64), camera)
    if depth.min() < DEFAULT_NEAR_Z:
        return 0, 0, camera.width, camera.height
    size = [camera.width, camera.height]
    left, top = np.clip(np.floor(pixels.min(0)), 0, size).astype(int).tolist()
    right, bottom = np.clip(np.ceil(pixels.max(0)), 0, size).astype(int).tolist()
    return left, top, right, bottom


def _scaled(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX, reducing_gap=2.0))
