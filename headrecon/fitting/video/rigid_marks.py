"""The six points of a face detector on a head whose pose is asked for.

BlazeFace (Bazarevsky et al. 2019) was trained on faces in profile too: where the landmark network sees nothing it still
shows the near eye, the nose, the mouth and the near ear, to some millimetres. That is too coarse for a pose of its own,
but it does not drift, and it tells a head from a wall.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from headrecon.fitting.video.rigid_head import RigidHead, RigidPose
from headrecon.geometry.cameras import project_with_jacobian
from headrecon.models.posed_mesh import embed
from headrecon.structures import HeadAssets

#: Deviation of a detected point on the head, metres; beyond so much it counts less, and still pulls.
_SIGMA_M, _KERNEL_M = 0.006, 0.012
#: Where on the head a point is, beside the mean of the landmarks that stand for it: deviation, metres.
_PLACE_SIGMA_M = 0.010
#: Ears lie so far behind the landmarks at the face's sides, metres.
_EAR_BACK_M = 0.012
#: Landmarks of each point: subject's right eye, left eye, nose, mouth, right ear, left ear.
_LANDMARKS = ((33, 133), (263, 362), (4,), (13, 14), (234,), (454,))
_RIGHT, _LEFT = (0, 4), (1, 5)
#: Azimuth of the camera (radians off the nose) from which on the far eye and ear are not believed.
_FAR_SIDE = math.radians(30.0)
#: Frames that neighbour each other err alike: so many count as one.
_WORTH = 4.0


@dataclass(frozen=True)
class Lens:
    """A pinhole: focal length and principal point, pixels."""

    focal_px: float
    principal: Float[np.ndarray, "2"]

    def project(self, camera: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N 2"]:
        return self.focal_px * camera[:, :2] / camera[:, 2:] + self.principal


def before_lens(camera: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N 3"]:
    """Points before the camera: a wild step must not divide by zero."""
    return np.column_stack([camera[:, :2], np.maximum(camera[:, 2], 0.05)])


@dataclass(frozen=True)
class Sighting:
    """A detected face. places: where its points are on the head, metres; pixels: where they were seen; trust: by which
    its information counts."""

    places: Float[np.ndarray, "6 3"]
    pixels: Float[np.ndarray, "6 2"]
    trust: float = 1.0

    def linear(
        self, head: RigidHead, lens: Lens, pose: RigidPose
    ) -> tuple[Float[np.ndarray, "K 6"], Float[np.ndarray, " K"]]:
        """Derivatives by a step of `RigidPose.turned`, and residuals, of the points that the camera should see."""
        used = _shown(head, pose)
        camera = before_lens(pose.apply(self.places[used]))
        pixels, d_point, _ = project_with_jacobian(camera, lens.focal_px, lens.principal)
        arms = (self.places[used] - head.centre) @ pose.rotation.T
        # d point = R (w x arm), w in the head's axes.
        turning = np.cross(arms[:, None], d_point) @ pose.rotation
        sigma = _SIGMA_M * lens.focal_px / camera[:, 2]
        missed = (pixels - self.pixels[used]) / sigma[:, None]
        far = (missed**2).sum(1) * (_SIGMA_M / _KERNEL_M) ** 2
        robust = math.sqrt(self.trust) / (1.0 + far) ** 0.25
        columns = np.concatenate([turning, d_point], axis=2) * (robust / sigma)[:, None, None]
        return columns.reshape(-1, 6), (missed * robust[:, None]).reshape(-1)

    def missed_m(self, head: RigidHead, lens: Lens, pose: RigidPose) -> float:
        """Median distance of the points from where the head has them, metres."""
        used = _shown(head, pose)
        camera = before_lens(pose.apply(self.places[used]))
        apart = np.linalg.norm(lens.project(camera) - self.pixels[used], axis=1) * camera[:, 2] / lens.focal_px
        return float(np.median(apart))


def _shown(head: RigidHead, pose: RigidPose) -> list[int]:
    """Which points the camera should see."""
    azimuth = pose.azimuth(head.centre)
    hidden = _RIGHT if azimuth > _FAR_SIDE else _LEFT if azimuth < -_FAR_SIDE else ()
    return [i for i in range(len(_LANDMARKS)) if i not in hidden]


def usual_places(assets: HeadAssets, betas: Float[np.ndarray, " Nb"]) -> Float[np.ndarray, "6 3"]:
    """Where the detector's points are on a person's head at rest, before any frame is looked at."""
    vertices = assets.v_template.astype(np.float64) + assets.shapedirs.astype(np.float64) @ betas
    at = embed(vertices, assets.landmarks["mediapipe478"])
    places = np.stack([at[list(ids)].mean(0) for ids in _LANDMARKS])
    places[4:, 2] -= _EAR_BACK_M
    return places


def learned_places(
    places: Float[np.ndarray, "6 3"],
    lens: Lens,
    known: Sequence[tuple[RigidPose, Float[np.ndarray, "6 2"]]],
) -> Float[np.ndarray, "6 3"]:
    """Where this person's points are, from frames whose pose is known: ridge regression of their misses."""
    out = places.copy()
    if not known:
        return out
    normal = np.tile(np.eye(3) / _PLACE_SIGMA_M**2, (len(places), 1, 1))
    right = np.zeros((len(places), 3))
    share = min(1.0, _WORTH / len(known))
    for pose, seen in known:
        camera = pose.apply(places)
        pixels, d_point, _ = project_with_jacobian(before_lens(camera), lens.focal_px, lens.principal)
        rows = d_point @ pose.rotation
        weight = share / (_SIGMA_M * lens.focal_px / camera[:, 2]) ** 2
        normal += weight[:, None, None] * (np.swapaxes(rows, 1, 2) @ rows)
        right += weight[:, None] * np.einsum("kab,ka->kb", rows, seen - pixels)
    return out + np.linalg.solve(normal, right[..., None])[..., 0]
