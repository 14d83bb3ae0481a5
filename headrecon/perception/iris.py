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
from headrecon.perception.iris_rim import fit_rim
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
#: Distance of the two networks' centres, in iris diameters, at which a third of the agreement is left.
_DISAGREEMENT = 0.15
_NO_AGREEMENT = 0.05
#: Width in pixels below which an iris shows no rim.
_SMALLEST_RIM_PX = 4.0
#: Centre, right, top, left, bottom, in crop coordinates.
_CIRCLE = np.array([[0.5, 0.5], [1.0, 0.5], [0.5, 0.0], [0.0, 0.5], [0.5, 1.0]])


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


def measured_iris(
    image_srgb: UInt8[np.ndarray, "H W 3"],
    points: Float[np.ndarray, "478 3"],
    which: int,
    network: Network,
) -> Float[np.ndarray, "5 3"]:
    """The iris from all there is: the mesh network's points, the close-up, and the rim in the picture itself.

    The close-up was made for eyes seen from the front and loses those of a turned head. So where the two networks
    disagree on the centre the mesh network's points are kept; where they agree the five points become a circle, whose
    diameter is the horizontal visible one (lids hide the top and bottom, and the networks differ on what to guess).
    The depth stays that of the mesh network.
    """
    mesh_iris = points[which : which + 5]
    close_up = read_eye(image_srgb, points, which, network).iris
    wide, narrow = (float(np.linalg.norm(ring[1, :2] - ring[3, :2])) for ring in (mesh_iris, close_up))
    apart = float(np.linalg.norm(mesh_iris[0, :2] - close_up[0])) / max(wide, 1e-9)
    agreement = math.exp(-((apart / _DISAGREEMENT) ** 2))
    if (wide + narrow) / 2 < _SMALLEST_RIM_PX or agreement < _NO_AGREEMENT:
        return mesh_iris.copy()
    start = mesh_iris[0, :2] + _CLOSE_UP_WEIGHT * agreement * (close_up[0] - mesh_iris[0, :2])
    dx, dy = points[EYE_CORNERS[LEFT_IRIS][1], :2] - points[EYE_CORNERS[RIGHT_IRIS][0], :2]
    level = math.atan2(dy, dx)
    rim = fit_rim(image_srgb, start, (wide + narrow) / 4, level)
    circle = Roi(float(rim.center[0]), float(rim.center[1]), 2 * rim.radius, level).to_image(_CIRCLE)
    measured = mesh_iris.copy()
    measured[:, :2] += agreement * (circle - mesh_iris[:, :2])
    return measured


def _to_image(raw: np.ndarray, roi: Roi, size: int, mirror: bool) -> Float[np.ndarray, "N 2"]:
    local = raw.reshape(-1, 3)[:, :2].astype(np.float64) / size
    if mirror:
        local[:, 0] = 1.0 - local[:, 0]
        if len(local) == 5:
            local = local[_MIRRORED_RIM]
    return roi.to_image(local)
