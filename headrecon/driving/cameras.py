"""Where a driven clip is seen from."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from headrecon.driving.figures import Figure
from headrecon.geometry.cameras import camera_centers, look_at
from headrecon.rendering.cameras_orbit import orbit_views
from headrecon.structures import Cameras

#: The track's longest side is drawn at most so large unless a size is given.
_LARGEST = 1024
_SIZE = (512, 512)
#: How far the swinging camera goes to each side, up and down, and how long a swing to both sides takes.
_SWING_DEGREES, _NODS, _SWING_S = 60.0, (-12.0, 0.0, 12.0), 8.0


def standing_camera(figure: Figure, rows: Float[np.ndarray, "T P"], size: tuple[int, int] | None) -> Cameras:
    """One camera before the figure, T times, that sees all of it in every frame."""
    camera = orbit_views(_reach(figure, rows), [0.0], size or _SIZE)
    count = len(rows)
    return replace(camera, viewmats=np.tile(camera.viewmats, (count, 1, 1)), Ks=np.tile(camera.Ks, (count, 1, 1)))


def swinging_camera(
    figure: Figure, rows: Float[np.ndarray, "T P"], times_s: Float[np.ndarray, " T"], size: tuple[int, int] | None
) -> Cameras:
    """A camera per frame that swings round the figure, from side to side and a little up and down.

    It starts in front. Up and down goes at another pace, so that it sees more than one line of views.
    """
    reach = _reach(figure, rows)
    size = size or _SIZE
    # One distance for all frames, from which all of it is seen from everywhere: the head must not seem to breathe.
    edges = [orbit_views(reach, [-_SWING_DEGREES, 0.0, _SWING_DEGREES], size, pitch_degrees=p) for p in _NODS]
    middle = 0.5 * (reach.min(0) + reach.max(0))
    far = max(float(np.linalg.norm(camera_centers(edge)[0] - middle)) for edge in edges)
    phase = 2 * math.pi * (times_s - times_s[0]) / _SWING_S
    yaws, pitches = np.radians(_SWING_DEGREES * np.sin(phase)), np.radians(_NODS[-1] * np.sin(0.6 * phase))
    outward = np.stack([np.sin(yaws) * np.cos(pitches), np.sin(pitches), np.cos(yaws) * np.cos(pitches)], axis=1)
    views = look_at(middle + far * outward, np.broadcast_to(middle, outward.shape)).astype(np.float32)
    return Cameras(views, np.tile(edges[0].Ks[:1], (len(views), 1, 1)), *size)


def _reach(figure: Figure, rows: Float[np.ndarray, "T P"]) -> Float[np.ndarray, "N 3"]:
    """What the figure takes up in some of the frames."""
    some = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), 24)).round().astype(int))
    return np.concatenate([figure.reach(rows[i]) for i in some])


def resized(cameras: Cameras, size: tuple[int, int] | None) -> Cameras:
    """The track's cameras for pictures of another size: all of the old picture is in the new one, in its middle."""
    width, height = cameras.width, cameras.height
    if size is None:
        scale = min(1.0, _LARGEST / max(width, height))
        size = (max(16, 2 * round(scale * width / 2)), max(16, 2 * round(scale * height / 2)))
    factor = min(size[0] / width, size[1] / height)
    ks = np.array(cameras.Ks, dtype=np.float64)
    ks[:, :2] *= factor
    ks[:, 0, 2] += (size[0] - factor * width) / 2
    ks[:, 1, 2] += (size[1] - factor * height) / 2
    return Cameras(cameras.viewmats, ks, *size)
