"""The 478 face points of a detected face: which region is looked at, and reading it more than once.

The region follows MediaPipe's face mesh pipeline: a square around the face, turned so that the eyes are level, half
as large again as the face. From a detection it is only rough; from landmarks it is what the network was trained on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8

from headrecon.perception.attention_mesh import MESH_POINTS
from headrecon.perception.crops import Roi, Tile, sample_roi
from headrecon.perception.mesh_symmetry import mirror_indices
from headrecon.structures import FaceDetection

ROI_MARGIN = 1.5
#: Outer corners of the subject's right and left eye, whose line sets the tilt of the region.
RIGHT_EYE_OUTER, LEFT_EYE_OUTER = 33, 263


@runtime_checkable
class MeshNetwork(Protocol):
    """What finds 478 points in a crop: the attention mesh, or the landmark network of a user's bundle."""

    @property
    def input_size(self) -> int: ...

    def __call__(self, crop_srgb: UInt8[np.ndarray, "R R 3"]) -> tuple[Float[np.ndarray, "478 3"], float]: ...


@dataclass(frozen=True)
class FaceMesh:
    """478 points in pixels of the image (z in the same scale), the presence in 0..1 and the region they come from."""

    points: Float[np.ndarray, "478 3"]
    presence: float
    roi: Roi


def roi_from_detection(face: FaceDetection) -> Roi:
    """The region for a face of which only the box and the key points are known."""
    dx, dy = face.keypoints[1] - face.keypoints[0]
    center = (face.box[:2] + face.box[2:]) / 2
    side = ROI_MARGIN * float(max(face.box[2:] - face.box[:2]))
    return Roi(float(center[0]), float(center[1]), side, math.atan2(dy, dx))


def roi_from_landmarks(points: Float[np.ndarray, "478 3"]) -> Roi:
    """The region for a face whose points are known: the box of the mesh in the frame where the eyes are level."""
    dx, dy = points[LEFT_EYE_OUTER, :2] - points[RIGHT_EYE_OUTER, :2]
    level = Roi(0.0, 0.0, 1.0, math.atan2(dy, dx))
    upright = level.to_crop(points[:MESH_POINTS, :2])
    low, high = upright.min(0), upright.max(0)
    center = level.to_image(((low + high) / 2)[None])[0]
    return Roi(float(center[0]), float(center[1]), ROI_MARGIN * float((high - low).max()), level.angle_rad)


def _settled(image_srgb: UInt8[np.ndarray, "H W 3"], roi: Roi, network: MeshNetwork) -> FaceMesh:
    """A first reading, looked at again while the region that follows from the points is far from the one looked at.

    A face that lies on its side is detected with a tilt that is wrong by half a right angle.
    """
    mesh = read_region(image_srgb, roi, network)
    for _ in range(_MAX_SETTLING):
        before, roi = roi, roi_from_landmarks(mesh.points)
        shift = math.hypot(roi.center_x - before.center_x, roi.center_y - before.center_y) / roi.size
        turn = abs(math.remainder(roi.angle_rad - before.angle_rad, math.tau))
        growth = abs(math.log(roi.size / before.size)) / 2.0
        if max(shift, turn, growth) < _SETTLED_CHANGE or mesh.presence < _HOPELESS:
            break
        mesh = read_region(image_srgb, roi, network)
    return mesh


@dataclass(frozen=True)
class Look:
    """A small change of the region, and whether it is looked at in the mirror."""

    shift: tuple[float, float] = (0.0, 0.0)
    scale: float = 1.0
    turn_rad: float = 0.0
    mirror: bool = False

    def of(self, roi: Roi) -> Roi:
        return Roi(
            roi.center_x + self.shift[0] * roi.size,
            roi.center_y + self.shift[1] * roi.size,
            roi.size * self.scale,
            roi.angle_rad + self.turn_rad,
        )


#: How far the looks are moved, as parts of the region's side and in radians. The network's answer changes by about
#: one per cent of the eye distance under such changes; averaging the looks leaves a quarter of that
#: (docs/accuracy.md). Each look has a mirrored twin, which takes out the network's left-right bias.
_SHIFT, _SCALE, _TURN = 0.015, 0.05, 0.06
LOOKS: tuple[Look, ...] = tuple(
    Look((dx, dy), 1.0 - dx / _SHIFT * _SCALE, dx * dy / _SHIFT**2 * -_TURN, mirror)
    for mirror in (False, True)
    for dx in (_SHIFT, -_SHIFT)
    for dy in (_SHIFT, -_SHIFT)
)
_LOOK_MARGIN = 0.12
_MAX_SETTLING = 3
#: A change of the region (parts of its side, radians) that is small enough to go on from.
_SETTLED_CHANGE = 0.12
#: A presence at which no further look is spent on a detection.
_HOPELESS = 0.3


def read_region(image_srgb: UInt8[np.ndarray, "H W 3"], roi: Roi, network: MeshNetwork) -> FaceMesh:
    """One look at one region."""
    points, presence = network(sample_roi(image_srgb, roi, network.input_size))
    return FaceMesh(roi.to_image(points), presence, roi)


def read_face(
    image_srgb: UInt8[np.ndarray, "H W 3"], face: FaceDetection, network: MeshNetwork, looks: Sequence[Look] = LOOKS
) -> FaceMesh:
    """The points of a detected face: a first look finds the region, the mean of several looks gives the points.

    Where the first look sees no face (presence below 0.3) its result is returned as it is. Fewer looks are faster and
    less repeatable; `(Look(),)` is what MediaPipe does for the second frame of a video.
    """
    settled = _settled(image_srgb, roi_from_detection(face), network)
    if settled.presence < _HOPELESS:
        return settled
    roi = roi_from_landmarks(settled.points)
    tile = Tile(image_srgb, roi, network.input_size, _LOOK_MARGIN)
    swap = mirror_indices()
    points, presences = [], []
    for look in looks:
        region = look.of(roi)
        seen, presence = network(tile.sample(region, network.input_size, look.mirror))
        if look.mirror:
            seen = seen[swap]
            seen[:, 0] = 1.0 - seen[:, 0]
        points.append(region.to_image(seen))
        presences.append(presence)
    return FaceMesh(np.mean(points, axis=0), float(np.mean(presences)), roi)
