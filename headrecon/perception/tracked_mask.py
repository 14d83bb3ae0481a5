"""The mask of a person whose head is tracked: the head's own points tell where to look."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, UInt8

from headrecon.perception.face_following import as_observation
from headrecon.perception.networks import Networks
from headrecon.perception.person_mask import person_mask


def tracked_mask(
    image_srgb: UInt8[np.ndarray, "H W 3"], networks: Networks, points: Float[np.ndarray, "478 3"]
) -> UInt8[np.ndarray, "H W"]:
    """Opacity of the person, 0..255. points: MediaPipe's 478 of the tracked head, in pixels of the picture."""
    opacity = person_mask(image_srgb, networks, as_observation(image_srgb, points))
    return np.round(255 * opacity).astype(np.uint8)
