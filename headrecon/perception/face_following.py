"""One face followed from frame to frame: where it was tells where to look, so that no detection runs while it is held.

Kartynnik et al., "Real-time Facial Surface Geometry from Monocular Video on Mobile GPUs", 2019, section 3: the region
of the next look comes from the last frame's landmarks; the detector runs when the mesh network no longer sees a face.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float, UInt8

from headrecon.perception.attention_mesh import LEFT_IRIS, MESH_POINTS, RIGHT_IRIS
from headrecon.perception.face_detection import intersection_over_union
from headrecon.perception.face_identity import face_chip
from headrecon.perception.face_landmarks import FaceMesh, Look, MeshNetwork, read_region, roi_from_landmarks
from headrecon.perception.face_refiner import yaw_of
from headrecon.perception.faces import MIN_EYE_DISTANCE_PX, eye_distance_px, observe_faces
from headrecon.perception.iris import measured_iris
from headrecon.perception.mesh_symmetry import mirror_indices
from headrecon.perception.networks import Networks
from headrecon.structures import FaceDetection, FaceObservation

#: Below this presence a held face is lost; the network's answer is near 1 or near 0.
_HELD_PRESENCE = 0.5
#: A face that grows or shrinks by more than this factor within one frame is another one, or none.
_LARGEST_GROWTH = 1.35
#: While nobody is held, the detector looks at one frame in this many after the first few.
_SEARCH_EVERY = 4
_SEARCH_AT_ONCE = 3
#: Histogram intersection below which two frames in a row are from different shots. Talking heads keep 0.95 and more.
_SAME_SHOT = 0.72
_BINS = 8
#: A face at the same place (overlap of boxes) after a jump of the histogram is the same shot in another light.
_SAME_PLACE = 0.5
#: A crop that tells who it is comes from a face turned by at most this, and is replaced by one less turned by so much.
_CHIP_YAW, _CHIP_GAIN = 0.5, 0.15


@dataclass(frozen=True)
class SeenFrame:
    """What one frame showed. points: 478 in pixels (z in the same scale), or None where nobody was seen.

    shot: counts cuts from 0. mine: it is the person who was followed first, not somebody else after a cut.
    """

    presence: float
    shot: int
    points: Float[np.ndarray, "478 3"] | None = None
    mine: bool = True


@dataclass(frozen=True)
class Follower:
    """How a face is followed.

    looks: changes of the region, of which each is one run of the network; their mean is the answer. irises: look at
    each eye from close up as well. face: which face to take first when there are several, 0 the largest. same: tells
    whether two crops (`face_identity.face_chip`) show one person; None: whoever is found near the old place is.
    """

    networks: Networks
    looks: Sequence[Look] = (Look(),)
    irises: bool = False
    face: int | None = None
    same: Callable[[UInt8[np.ndarray, "150 150 3"], UInt8[np.ndarray, "150 150 3"]], bool] | None = None


@dataclass(frozen=True)
class FollowState:
    """All that following hands from frame to frame, as arrays and numbers, so that it can be written and read again.

    points: where the face was last; missed: frames since then (0: it is held). chip: the person's face as
    `face_identity` takes it, the most frontal so far, turned by chip_yaw (radians). mine: see `SeenFrame`.
    histogram: colours of the last frame in which it was held.
    """

    points: Float[np.ndarray, "478 3"] | None = None
    missed: int = 0
    shot: int = 0
    mine: bool = True
    chip: UInt8[np.ndarray, "150 150 3"] | None = None
    chip_yaw: float = math.pi
    histogram: Float[np.ndarray, " B"] = field(default_factory=lambda: np.zeros(0))


def follow(
    image_srgb: UInt8[np.ndarray, "H W 3"], state: FollowState, follower: Follower
) -> tuple[SeenFrame, FollowState]:
    """Look at the next frame. Deterministic in the picture and the state."""
    histogram = colour_histogram(image_srgb)
    # Only frames with a face are compared: a hand before the lens, or a flash, is no cut.
    jump = len(state.histogram) > 0 and float(np.minimum(histogram, state.histogram).sum()) < _SAME_SHOT
    mesh, mine, cut = None, state.mine, False
    if state.points is not None and state.missed == 0:
        mesh = _held(image_srgb, state.points, follower)
        if mesh is not None and jump and not _at_same_place(mesh.points, state.points):
            mesh = None
    if mesh is None and (state.missed < _SEARCH_AT_ONCE or state.missed % _SEARCH_EVERY == 0):
        mesh, mine = _searched(image_srgb, state, follower, jump)
        cut = mesh is not None and jump
    if mesh is None:
        return SeenFrame(0.0, state.shot), replace(state, missed=state.missed + 1)
    shot = state.shot + int(cut)
    points = mesh.points
    if follower.irises:
        points = points.copy()
        for which in (RIGHT_IRIS, LEFT_IRIS):
            points[which : which + 5] = measured_iris(image_srgb, mesh.points, which, follower.networks.iris)
    state = replace(state, points=mesh.points, missed=0, mine=mine, shot=shot, histogram=histogram)
    return SeenFrame(mesh.presence, shot, points, mine), _with_chip(image_srgb, state) if mine else state


def colour_histogram(image_srgb: UInt8[np.ndarray, "H W 3"]) -> Float[np.ndarray, " B"]:
    """Shares of colours on a coarse grid of pixels: the same for two frames of one shot, another after a cut."""
    step = max(1, max(image_srgb.shape[:2]) // 96)
    small = image_srgb[::step, ::step].reshape(-1, 3) // (256 // _BINS)
    bins = (small[:, 0].astype(np.int64) * _BINS + small[:, 1]) * _BINS + small[:, 2]
    counts = np.bincount(bins, minlength=_BINS**3).astype(np.float64)
    # Spread to neighbouring bins, so that a colour at a bin's edge does not flicker between two.
    cube = counts.reshape(_BINS, _BINS, _BINS)
    for axis in range(3):
        padded = np.pad(cube, [(1, 1) if a == axis else (0, 0) for a in range(3)], mode="edge")
        low, high = (np.take(padded, np.arange(k, k + _BINS), axis=axis) for k in (0, 2))
        cube = 0.5 * cube + 0.25 * (low + high)
    return (cube / cube.sum()).reshape(-1)


def _with_chip(image: np.ndarray, state: FollowState) -> FollowState:
    """The state with the face's crop, if it is seen more from the front than before."""
    assert state.points is not None
    yaw = abs(float(yaw_of(state.points[None])[0]))
    if (yaw > _CHIP_YAW and state.chip is not None) or yaw > state.chip_yaw - _CHIP_GAIN:
        return state
    return replace(state, chip=face_chip(image, as_observation(image, state.points)), chip_yaw=yaw)


def as_observation(
    image_srgb: UInt8[np.ndarray, "H W 3"], points: Float[np.ndarray, "478 3"], presence: float = 1.0
) -> FaceObservation:
    """Followed points as the rest of the engine takes a face; the detection is made up from them."""
    mesh = points[:MESH_POINTS, :2]
    box = np.concatenate([mesh.min(0), mesh.max(0)])
    # right eye, left eye, nose tip, mouth, right ear, left ear
    keys = np.stack([points[[33, 133], :2].mean(0), points[[263, 362], :2].mean(0), *points[[4, 13, 234, 454], :2]])
    height, width = image_srgb.shape[:2]
    detection = FaceDetection(box.astype(np.float32), keys.astype(np.float32), presence)
    return FaceObservation(detection, points.astype(np.float32), presence, (width, height))


def _held(image: np.ndarray, points: np.ndarray, follower: Follower) -> FaceMesh | None:
    """The face near where it was, or None when it is not there any more."""
    mesh = _looked_at(image, points, follower)
    if mesh.presence < _HELD_PRESENCE or not _inside(mesh.points, image.shape):
        return None
    growth = abs(math.log(_size(mesh.points) / _size(points)))
    return mesh if growth < math.log(_LARGEST_GROWTH) else None


def _looked_at(image: np.ndarray, points: np.ndarray, follower: Follower) -> FaceMesh:
    """The mean of the follower's looks at the region around these points."""
    roi, network = roi_from_landmarks(points), follower.networks.mesh
    read = [_one_look(image, look, roi, network) for look in follower.looks]
    return FaceMesh(np.mean([m.points for m in read], axis=0), float(np.mean([m.presence for m in read])), roi)


def _one_look(image: np.ndarray, look: Look, roi, network: MeshNetwork) -> FaceMesh:
    region = look.of(roi)
    if not look.mirror:
        return read_region(image, region, network)
    from headrecon.perception.crops import Tile

    seen, presence = network(Tile(image, region, network.input_size).sample(region, network.input_size, True))
    seen = seen[mirror_indices()]
    seen[:, 0] = 1.0 - seen[:, 0]
    return FaceMesh(region.to_image(seen), presence, region)


def _searched(image: np.ndarray, state: FollowState, follower: Follower, cut: bool) -> tuple[FaceMesh | None, bool]:
    """A face found by the detector, and whether it is the person who was followed first."""
    seen = observe_faces(image, follower.networks, looks=(Look(),))
    seen = [o for o in seen if eye_distance_px(o) >= MIN_EYE_DISTANCE_PX]
    if not seen:
        return None, state.mine
    if state.chip is None:
        index = follower.face or 0
        chosen, mine = (seen[index] if index < len(seen) else None), True
    else:
        chosen, mine = _again(image, seen, state, follower, cut)
    if chosen is None:
        return None, state.mine
    mesh = _looked_at(image, chosen.landmarks.astype(np.float64), follower)
    return (mesh if mesh.presence >= _HELD_PRESENCE else None), mine


def _again(
    image: np.ndarray, seen: list[FaceObservation], state: FollowState, follower: Follower, cut: bool
) -> tuple[FaceObservation | None, bool]:
    """The person who was lost. After a cut somebody else will do, and is then followed to the next cut."""
    if state.points is not None and not cut:
        last = _centre(state.points)
        seen = sorted(seen, key=lambda o: float(np.linalg.norm(_centre(o.landmarks) - last)))
    if follower.same is None or state.chip is None:
        return seen[0], state.mine
    chip = state.chip
    own = [o for o in seen if follower.same(chip, face_chip(image, o))]
    if own:
        return own[0], True
    anybody = cut or not state.mine or state.points is None
    return (seen[0], False) if anybody else (None, state.mine)


def _inside(points: np.ndarray, shape: tuple[int, ...]) -> bool:
    x, y = _centre(points)
    return bool(np.isfinite(points).all() and 0 <= x < shape[1] and 0 <= y < shape[0])


def _centre(points: np.ndarray) -> np.ndarray:
    return points[:MESH_POINTS, :2].mean(0)


def _size(points: np.ndarray) -> float:
    mesh = points[:MESH_POINTS]
    return float(np.linalg.norm(mesh.std(0))) + 1e-9


def _at_same_place(points: np.ndarray, before: np.ndarray) -> bool:
    boxes = [np.concatenate([p[:MESH_POINTS, :2].min(0), p[:MESH_POINTS, :2].max(0)]) for p in (points, before)]
    return bool(intersection_over_union(boxes[0], boxes[1][None])[0] > _SAME_PLACE)


def look_again(
    image_srgb: UInt8[np.ndarray, "H W 3"],
    points: Float[np.ndarray, "478 3"],
    networks: Networks,
    looks: Sequence[Look],
) -> Float[np.ndarray, "478 3"]:
    """The points of a face that is at about `points`, read as carefully as in a photo: several looks, both irises."""
    read = _looked_at(image_srgb, points, Follower(networks, looks)).points
    out = read.copy()
    for which in (RIGHT_IRIS, LEFT_IRIS):
        out[which : which + 5] = measured_iris(image_srgb, read, which, networks.iris)
    return out
