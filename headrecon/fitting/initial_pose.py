"""First guess of pose and placement from landmarks alone: weak perspective, no iteration."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from headrecon.fitting import landmark_groups as groups
from headrecon.geometry import so3
from headrecon.geometry.alignment import umeyama


@dataclass(frozen=True)
class InitialPose:
    """Axis-angle of the head and its placement (u, v, s); see `parameters`."""

    global_orient: Float[np.ndarray, "3"]
    placement: Float[np.ndarray, "3"]


def weak_perspective_pose(
    template: Float[np.ndarray, "468 3"],
    landmarks: Float[np.ndarray, "478 D"],
    anchor: Float[np.ndarray, "3"],
    principal: Float[np.ndarray, "2"],
) -> InitialPose:
    """Similarity between the template's landmarks and the detected ones, MediaPipe's relative depth included.

    The depth is rough, yet it tells the sign of every turn, which image positions alone do not. Without depth
    (landmarks [478,2]) it is taken as zero first and then from the template turned by the first answer.
    """
    observed = np.zeros((groups.NUM_MESH, 3))
    observed[:, : landmarks.shape[1]] = landmarks[: groups.NUM_MESH]
    observed *= [1.0, -1.0, -1.0]
    rounds = 1 if landmarks.shape[1] == 3 else 20
    found = umeyama(template, observed)
    for _ in range(rounds - 1):
        observed[:, 2] = found.apply(template)[:, 2]
        found = umeyama(template, observed)
    at = found.apply(anchor)
    placement = np.array([at[0] - principal[0], -at[1] - principal[1], -np.log(found.scale)])
    return InitialPose(so3.log(found.rotation), placement)
