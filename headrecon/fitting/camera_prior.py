"""What is believed about the focal length before looking at the face.

A full-frame camera's focal length in mm, f35, fixes the field of view: the film's diagonal is 43.27 mm, so
focal_px = f35 / 43.27 * diagonal_px. Without any hint the photo may come from a phone's main camera (24 to 28 mm), its
portrait mode (50 to 77 mm) or a portrait lens (85 to 135 mm), and it may be cropped, which lengthens the apparent
lens. A log-normal about 50 mm with deviation 0.45 puts 90 % between 24 and 105 mm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from headrecon.errors import InputError

FULL_FRAME_DIAGONAL_MM = math.hypot(36.0, 24.0)
DEFAULT_F35_MM = 50.0
DEFAULT_SIGMA_LOG = 0.45


@dataclass(frozen=True)
class FocalHint:
    """A focal length in pixels of the upright image, known up to a relative deviation (of its logarithm)."""

    focal_px: float
    sigma_log: float
    source: str = "exif"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.focal_px) and self.focal_px > 0 and self.sigma_log > 0):
            raise InputError(
                f"a focal length must be a positive number of pixels with a positive deviation, "
                f"found {self.focal_px} px and {self.sigma_log}"
            )


def focal_from_f35(f35_mm: float, image_size: tuple[int, int]) -> float:
    """Focal length in pixels from the 35 mm equivalent (by diagonal, as CIPA DCG-001 defines it)."""
    return f35_mm / FULL_FRAME_DIAGONAL_MM * math.hypot(*image_size)


def f35_from_focal(focal_px: float, image_size: tuple[int, int]) -> float:
    """The 35 mm equivalent in mm of a focal length in pixels."""
    return focal_px / math.hypot(*image_size) * FULL_FRAME_DIAGONAL_MM


def hint_from_exif_f35(f35_mm: float, image_size: tuple[int, int]) -> FocalHint:
    """EXIF gives whole millimetres and ignores what stabilisation and lens correction crop: 4 % deviation."""
    return FocalHint(focal_from_f35(f35_mm, image_size), math.hypot(0.04, 0.29 / max(f35_mm, 1.0)), "exif")


def focal_prior(image_size: tuple[int, int], hint: FocalHint | None) -> FocalHint:
    """The hint itself, or the broad prior described above."""
    if hint is not None:
        return hint
    return FocalHint(focal_from_f35(DEFAULT_F35_MM, image_size), DEFAULT_SIGMA_LOG, "prior")
