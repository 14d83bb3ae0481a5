"""Preview cameras around a head: front, three-quarter, profile, back, and turntables.

Head space: +y up, face along +z.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from headrecon.errors import ShapeError
from headrecon.geometry.cameras import look_at
from headrecon.structures import Cameras

#: Yaw in degrees of the usual views. Positive yaw moves the camera to +x, the subject's left.
VIEW_YAWS = {"front": 0.0, "three_quarter": 35.0, "profile": 90.0, "back": 180.0, "three_quarter_right": -35.0}
#: Of a portrait lens (85 mm on 36 x 24 mm has 24 degrees over the long side): faces look natural.
PORTRAIT_FOV_DEGREES = 20.0


def orbit_cameras(
    vertices: Float[np.ndarray, "V 3"],
    yaws_degrees: Sequence[float],
    size: int | tuple[int, int] = 512,
    **options: float,
) -> Cameras:
    """`orbit_views` as float32 tensors."""
    return orbit_views(vertices, yaws_degrees, size, **options).torch()


def orbit_views(
    vertices: Float[np.ndarray, "V 3"],
    yaws_degrees: Sequence[float],
    size: int | tuple[int, int] = 512,
    *,
    pitch_degrees: float = 0.0,
    fov_degrees: float = PORTRAIT_FOV_DEGREES,
    margin: float = 1.08,
) -> Cameras:
    """Cameras on a circle that look at the centre of the vertices' bounding box, the head filling the picture (numpy).

    yaws_degrees: one camera each; 0 is in front (+z), 90 at the subject's left (+x), 180 behind.
    size: pixels, one side or (width, height). pitch_degrees > 0 looks down from above. fov_degrees: over the shorter
    side. margin: 1.08 leaves at least 4 % of the picture free on every side.
    The distance, the same for all yaws (a turntable does not pump), is the smallest at which every vertex is in every
    picture. Raises ShapeError without vertices or for a pitch of 90 degrees.
    """
    if len(vertices) == 0:
        raise ShapeError("orbit_views: needs at least one vertex to frame, found none")
    points = np.asarray(vertices, dtype=np.float64)
    centre = 0.5 * (points.min(0) + points.max(0))
    width, height = (size, size) if isinstance(size, int) else size
    focal = 0.5 * min(width, height) / math.tan(math.radians(fov_degrees) / 2.0)
    outward = np.stack([_direction(yaw, pitch_degrees) for yaw in yaws_degrees])
    distance = _framing_distance(points - centre, outward, (width / 2 / margin / focal, height / 2 / margin / focal))
    views = look_at(centre + distance * outward, np.broadcast_to(centre, outward.shape)).astype(np.float32)
    k = np.array([[focal, 0.0, width / 2.0], [0.0, focal, height / 2.0], [0.0, 0.0, 1.0]], dtype=np.float32)
    return Cameras(views, np.tile(k, (len(views), 1, 1)), width, height)


def preview_cameras(
    vertices: Float[np.ndarray, "V 3"],
    views: Sequence[str] = ("front", "three_quarter", "profile", "back"),
    size: int | tuple[int, int] = 512,
) -> Cameras:
    """One camera (numpy) per named view of `VIEW_YAWS`. Raises ShapeError for a name that is not there."""
    unknown = [name for name in views if name not in VIEW_YAWS]
    if unknown:
        raise ShapeError(f"preview_cameras: views must be among {sorted(VIEW_YAWS)}, found {unknown}")
    return orbit_views(vertices, [VIEW_YAWS[name] for name in views], size)


def turntable_cameras(
    vertices: Float[np.ndarray, "V 3"], count: int, size: int | tuple[int, int] = 512, *, pitch_degrees: float = 5.0
) -> Cameras:
    """`count` cameras (numpy) on a full circle from the front on; the last is one step short of the first: it loops."""
    return orbit_views(vertices, [360.0 * i / count for i in range(count)], size, pitch_degrees=pitch_degrees)


def _direction(yaw_degrees: float, pitch_degrees: float) -> Float[np.ndarray, "3"]:
    """Unit vector from the head to the camera."""
    yaw, pitch = math.radians(yaw_degrees), math.radians(pitch_degrees)
    xyz = [math.sin(yaw) * math.cos(pitch), math.sin(pitch), math.cos(yaw) * math.cos(pitch)]
    return np.array(xyz)


def _framing_distance(
    offsets: Float[np.ndarray, "V 3"], outward: Float[np.ndarray, "C 3"], tangents: tuple[float, float]
) -> float:
    """Distance from which all offsets (from the centre) lie within the half-angles' tangents (across, up)."""
    rotations = look_at(outward, np.zeros_like(outward))[:, :3, :3]
    local = offsets @ rotations.mT  # [C,V,3]: x right, y down, z away from the camera
    needed = np.maximum(abs(local[..., 0]) / tangents[0], abs(local[..., 1]) / tangents[1]) - local[..., 2]
    return max(float(needed.max()), 1e-3)
