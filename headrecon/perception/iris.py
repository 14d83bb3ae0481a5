"""Each eye looked at again from close up: the iris and its rim.

Ablavatski et al., "Real-time Pupil Tracking from Monocular Video for Digital Puppetry", 2020. The iris network takes
64 x 64 pixels around one eye; the face mesh network sees the same eye with about 40. Whoever needs the diameter of the
iris (it is the yardstick that makes a photo metric) wants both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from headrecon.perception.attention_mesh import LEFT_IRIS, RIGHT_IRIS
from headrecon.perception.crops import Roi, Tile
from headrecon.perception.face_landmarks import Look
from headrecon.perception.networks import Network

#: Corners of the eye: outer and inner for the subject's right, inner and outer for the left; so that the line between
#: them runs to the right of the picture.
EYE_CORNERS = {RIGHT_IRIS: (33, 133), LEFT_IRIS: (362, 263)}
#: The region is this much wider than the eye (MediaPipe's iris pipeline).
EYE_MARGIN = 2.3
_CONTOUR, _IRIS = "output_eyes_contours_and_brows", "output_iris"
_LOOKS = tuple(
    Look((dx, dy), 1.0 + s, turn)
    for dx, dy, s, turn in (
        (0.02, 0.02, -0.05, 0.06),
        (-0.02, -0.02, 0.05, 0.06),
        (0.02, -0.02, 0.05, -0.06),
        (-0.02, 0.02, -0.05, -0.06),
    )
)
#: The rim runs right, top, left, bottom of the picture; in the mirror right and left change places.
_MIRRORED_RIM = [0, 3, 2, 1, 4]
_TILE_MARGIN = 0.15
_CLOSE_UP_WEIGHT = 0.6
#: Distance of the two centres, in iris diameters, at which the close-up counts for a third of its full weight.
_DISAGREEMENT = 0.1


@dataclass(frozen=True)
class EyeReading:
    """One eye in pixels of the image: the iris (centre and four rim points) and 71 points of lids and brow."""

    iris: Float[np.ndarray, "5 2"]
    contour: Float[np.ndarray, "71 2"]


def read_eye(
    image_srgb: UInt8[np.ndarray, "H W 3"], points: Float[np.ndarray, "478 3"], which: int, network: Network
) -> EyeReading:
    """The eye of the given iris (RIGHT_IRIS or LEFT_IRIS), the mean of several looks.

    The network knows one kind of eye, the one on the left of the picture (the subject's right): the other is mirrored.
    """
    start, end = (points[k, :2] for k in EYE_CORNERS[which])
    dx, dy = end - start
    center = (start + end) / 2
    roi = Roi(float(center[0]), float(center[1]), EYE_MARGIN * math.hypot(dx, dy), math.atan2(dy, dx))
    mirror = which == LEFT_IRIS
    tile = Tile(image_srgb, roi, network.input_size, _TILE_MARGIN)
    irises, contours = [], []
    for look in _LOOKS:
        region = look.of(roi)
        crop = tile.sample(region, network.input_size, mirror)
        outputs = network(crop.astype(np.float32) / 255.0)
        irises.append(_to_image(outputs[_IRIS], region, network.input_size, mirror))
        contours.append(_to_image(outputs[_CONTOUR], region, network.input_size, mirror))
    return EyeReading(np.mean(irises, axis=0), np.mean(contours, axis=0))


def combined_iris(mesh_iris: Float[np.ndarray, "5 D"], close_up: Float[np.ndarray, "5 2"]) -> Float[np.ndarray, "5 D"]:
    """The iris from both networks, x and y mixed and any depth kept.

    On portraits with a visible rim the mesh network's iris is too wide by up to a tenth, the iris network's too
    narrow by as much, and the latter's centre repeats better; but it was made for eyes seen from the front and loses
    those of a turned head. So the mean is taken where the two agree, and the mesh network believed where they do not.
    """
    diameter = float(np.linalg.norm(mesh_iris[1, :2] - mesh_iris[3, :2])) + 1e-9
    apart = float(np.linalg.norm(mesh_iris[0, :2] - close_up[0])) / diameter
    weight = _CLOSE_UP_WEIGHT * math.exp(-((apart / _DISAGREEMENT) ** 2))
    mixed = mesh_iris.copy()
    mixed[:, :2] += weight * (close_up - mesh_iris[:, :2])
    return mixed


def _to_image(raw: np.ndarray, roi: Roi, size: int, mirror: bool) -> Float[np.ndarray, "N 2"]:
    local = raw.reshape(-1, 3)[:, :2].astype(np.float64) / size
    if mirror:
        local[:, 0] = 1.0 - local[:, 0]
        if len(local) == 5:
            local = local[_MIRRORED_RIM]
    return roi.to_image(local)
