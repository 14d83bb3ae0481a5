"""Which of MediaPipe's 478 points is what (indices of the published Face Mesh topology). Right and left are the
subject's."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from headrecon.errors import ShapeError

NUM_MESH = 468
NUM_ALL = 478
#: The face oval, clockwise in the image of a frontal face, from the middle of the forehead.
FACE_OVAL: tuple[int, ...] = (
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377,
    152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
)  # fmt: skip
#: The part of the oval across the forehead. No contour of the head passes there (hair or scalp goes on above), so
#: these points do not slide; a detector places them least well.
FOREHEAD: tuple[int, ...] = (10, 338, 297, 332, 284, 251, 21, 54, 103, 67, 109)
SLIDING: tuple[int, ...] = tuple(i for i in FACE_OVAL if i not in FOREHEAD)
LIPS: tuple[int, ...] = (
    61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185,
)  # fmt: skip
RIGHT_EYE: tuple[int, ...] = (33, 7, 163, 144, 145, 153, 154, 155, 133, 173, 157, 158, 159, 160, 161, 246)
LEFT_EYE: tuple[int, ...] = (263, 249, 390, 373, 374, 380, 381, 382, 362, 398, 384, 385, 386, 387, 388, 466)
RIGHT_BROW: tuple[int, ...] = (70, 63, 105, 66, 107, 55, 65, 52, 53, 46)
LEFT_BROW: tuple[int, ...] = (300, 293, 334, 296, 336, 285, 295, 282, 283, 276)
RIGHT_EYE_CORNERS, LEFT_EYE_CORNERS = (33, 133), (263, 362)
#: Centre, then the ends of the horizontal and of the vertical diameter.
RIGHT_IRIS: tuple[int, ...] = (468, 469, 470, 471, 472)
LEFT_IRIS: tuple[int, ...] = (473, 474, 475, 476, 477)
#: The deepest point of the nose bridge between the eyes.
SELLION = 168
#: Outermost points of the cheeks, in front of the ears: a stand-in for the zygions.
CHEEKS = (234, 454)


def check_landmarks(landmarks: Float[np.ndarray, "L D"]) -> Float[np.ndarray, "478 D"]:
    """The same array in float64; raises ShapeError unless it holds 478 finite points in two or three dimensions."""
    out = np.asarray(landmarks, np.float64)
    if out.ndim != 2 or out.shape[0] != NUM_ALL or out.shape[1] not in (2, 3):
        raise ShapeError(f"expected 478 MediaPipe points with x, y (and z), found an array of shape {out.shape}")
    if not np.isfinite(out).all():
        raise ShapeError("the landmarks hold NaN or infinity; the detector's output cannot be used")
    return out


def eye_centers(landmarks: Float[np.ndarray, "478 D"]) -> tuple[Float[np.ndarray, " D"], Float[np.ndarray, " D"]]:
    """Midpoints of the eye corners: right, left."""
    return landmarks[list(RIGHT_EYE_CORNERS)].mean(0), landmarks[list(LEFT_EYE_CORNERS)].mean(0)


def interocular_px(landmarks: Float[np.ndarray, "478 D"]) -> float:
    """Distance between the eye centres in pixels. With z given it is measured in 3D, so that turning the head does
    not shrink it."""
    right, left = eye_centers(landmarks)
    return float(np.linalg.norm(left - right))


def iris_sizes_px(landmarks: Float[np.ndarray, "478 D"]) -> Float[np.ndarray, "2"]:
    """Geometric mean of the horizontal and vertical iris diameter in pixels: right, left."""
    sizes = []
    for ids in (RIGHT_IRIS, LEFT_IRIS):
        ring = landmarks[list(ids)][1:, :2]
        sizes.append(np.sqrt(np.linalg.norm(ring[0] - ring[2]) * np.linalg.norm(ring[1] - ring[3])))
    return np.array(sizes)


def iris_centers_px(landmarks: Float[np.ndarray, "478 D"]) -> Float[np.ndarray, "2 2"]:
    """Mean of the five iris points in pixels: right, left."""
    return np.stack([landmarks[list(ids), :2].mean(0) for ids in (RIGHT_IRIS, LEFT_IRIS)])
