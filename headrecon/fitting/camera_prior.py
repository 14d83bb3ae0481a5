"""What is believed about the focal length before looking at the face.

A full-frame camera's focal length in mm, f35, fixes the field of view: the film's diagonal is 43.27 mm, so
focal_px = f35 / 43.27 * diagonal_px. Without any hint the photo may come from a phone's main camera (24 to 28 mm), its
portrait mode (50 to 77 mm) or a portrait lens (85 to 135 mm), and it may be cropped, which lengthens the apparent
lens. A log-normal about 50 mm with deviation 0.45 puts 90 % between 24 and 105 mm.

Videos of a face come mostly from phones and webcams, whose main and front cameras are 23 to 32 mm, a little longer
while they film as stabilisation crops; less often from a camera on a tripod, or cropped around the face. A log-normal
about 36 mm with deviation 0.5 puts 90 % between 16 and 82 mm.
"""

from __future__ import annotations

import math

from headrecon.io.exif import FULL_FRAME_DIAGONAL_MM, FocalHint

DEFAULT_F35_MM = 50.0
DEFAULT_SIGMA_LOG = 0.45
VIDEO_F35_MM = 36.0
VIDEO_SIGMA_LOG = 0.5


def focal_from_f35(f35_mm: float, image_size: tuple[int, int]) -> float:
    """Focal length in pixels from the 35 mm equivalent (by diagonal, as CIPA DCG-001 defines it)."""
    return f35_mm / FULL_FRAME_DIAGONAL_MM * math.hypot(*image_size)


def f35_from_focal(focal_px: float, image_size: tuple[int, int]) -> float:
    """The 35 mm equivalent in mm of a focal length in pixels."""
    return focal_px / math.hypot(*image_size) * FULL_FRAME_DIAGONAL_MM


def focal_prior(image_size: tuple[int, int], hint: FocalHint | None) -> FocalHint:
    """The hint itself, or the broad prior described above."""
    if hint is not None:
        return hint
    return FocalHint(focal_from_f35(DEFAULT_F35_MM, image_size), DEFAULT_SIGMA_LOG, "prior")


def video_focal_prior(image_size: tuple[int, int]) -> FocalHint:
    """What is believed about the lens of a video of somebody."""
    return FocalHint(focal_from_f35(VIDEO_F35_MM, image_size), VIDEO_SIGMA_LOG, "prior")
