"""Faces of a picture as the rest of the engine takes them: detected, measured, sorted, and one of them chosen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from headrecon.errors import InputError, NoFaceFound, ShapeError
from headrecon.perception.attention_mesh import LEFT_IRIS, MESH_POINTS, RIGHT_IRIS
from headrecon.perception.face_detection import intersection_over_union, search_faces
from headrecon.perception.face_landmarks import LOOKS, FaceMesh, Look, read_face
from headrecon.perception.iris import measured_iris
from headrecon.perception.networks import Networks
from headrecon.structures import FaceDetection, FaceObservation

#: Least distance between the pupils in pixels. The mesh network takes the face at about 40 px between the pupils.
#: Portraits reduced to 20 px still give points within 1.0 % of that distance of those of the full photo, 0.6 mm on a
#: head; at 10 px it is 2.9 % (docs/accuracy.md), and the diameter of the iris, our yardstick, is two pixels.
MIN_EYE_DISTANCE_PX = 20.0
#: What the mesh network says of real faces is above 0.98, of a helmet or a nebula taken for one below 0.9.
MIN_PRESENCE = 0.95
#: Smaller patterns look like a face now and then by chance.
_SMALLEST_EYE_DISTANCE_PX = 7.0


def observe_faces(
    image_srgb: np.ndarray,
    networks: Networks,
    max_faces: int = 8,
    looks: Sequence[Look] = LOOKS,
) -> list[FaceObservation]:
    """The faces of an upright picture (uint8 [H,W,3]), largest first by the distance between the pupils.

    Landmarks are in pixels of the picture, centre of the first pixel at (0.5, 0.5). Empty where there is no face. Faces
    of any size are returned; `choose_face` refuses those too small to measure.
    """
    if image_srgb.dtype != np.uint8 or image_srgb.ndim != 3 or image_srgb.shape[2] != 3:
        raise ShapeError(f"image_srgb must be uint8 [H,W,3], found {image_srgb.dtype} {list(image_srgb.shape)}")
    for candidates in search_faces(image_srgb, networks):
        found: list[FaceObservation] = []
        for face in sorted(candidates, key=_box_width, reverse=True)[: 2 * max_faces]:
            if np.linalg.norm(face.keypoints[0] - face.keypoints[1]) < _SMALLEST_EYE_DISTANCE_PX / 2:
                continue
            mesh = read_face(image_srgb, face, networks.mesh, looks)
            if mesh.presence < MIN_PRESENCE or any(_same_face(mesh, other) for other in found):
                continue
            observation = _observation(image_srgb, face, mesh, networks)
            if eye_distance_px(observation) >= _SMALLEST_EYE_DISTANCE_PX:
                found.append(observation)
        if found:
            return sorted(found, key=eye_distance_px, reverse=True)[:max_faces]
    return []


def choose_face(
    observations: Sequence[FaceObservation], index: int | None = None
) -> tuple[FaceObservation, str | None]:
    """The face to reconstruct, and a warning where several were seen and none was asked for.

    index counts from 0, the largest face first.

    Raises:
        NoFaceFound: there is no face, or the chosen one is too small to measure.
        InputError: there is no face of that index.
    """
    if not observations:
        raise NoFaceFound(
            "no face was found in the picture; expected a face turned at most about 60 degrees away from the camera, "
            "with both eyes inside the frame: try another photo"
        )
    count = len(observations)
    if index is not None and not 0 <= index < count:
        raise InputError(f"face {index} does not exist: the picture shows {count}, counted from 0, the largest first")
    chosen = observations[index or 0]
    distance = eye_distance_px(chosen)
    if distance < MIN_EYE_DISTANCE_PX:
        raise NoFaceFound(
            f"the face is too small to measure: {distance:.0f} px between the pupils, at least "
            f"{MIN_EYE_DISTANCE_PX:.0f} px are needed; use a larger version of the photo or one taken closer"
        )
    warning = None
    if index is None and count > 1:
        others = ", ".join(f"{eye_distance_px(o):.0f}" for o in observations[1:])
        warning = (
            f"{count} faces were found; the largest is used ({distance:.0f} px between the pupils, the others "
            f"{others}): choose another with --face N, counted from 0"
        )
    return chosen, warning


def eye_distance_px(observation: FaceObservation) -> float:
    """Distance between the iris centres in pixels, with their depth, so that a turned head does not count as small."""
    points = observation.landmarks
    return float(np.linalg.norm(points[LEFT_IRIS] - points[RIGHT_IRIS]))


def _observation(
    image: UInt8[np.ndarray, "H W 3"], face: FaceDetection, mesh: FaceMesh, networks: Networks
) -> FaceObservation:
    height, width = image.shape[:2]
    points = mesh.points.copy()
    for which in (RIGHT_IRIS, LEFT_IRIS):
        points[which : which + 5] = measured_iris(image, mesh.points, which, networks.iris)
    return FaceObservation(
        detection=face,
        landmarks=points.astype(np.float32),
        presence=mesh.presence,
        image_size=(width, height),
        blendshapes=networks.blendshapes(mesh.points),
    )


def _same_face(mesh: FaceMesh, other: FaceObservation) -> bool:
    boxes = [
        np.concatenate([p[:MESH_POINTS, :2].min(0), p[:MESH_POINTS, :2].max(0)]) for p in (mesh.points, other.landmarks)
    ]
    return bool(intersection_over_union(boxes[0], boxes[1][None])[0] > 0.5)


def _box_width(face: FaceDetection) -> float:
    return float(face.box[2] - face.box[0])
