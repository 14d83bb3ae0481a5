"""The focal length in pixels from a photo's EXIF data, with how far it can be trusted.

Exif 2.32 (CIPA DC-008-2019), section 4.6.5. The focal length in pixels is the one number that decides how much
perspective a face shows; but photos are cropped, resized and edited after capture, and the tags then lie. So every hint
carries a standard deviation, and a crop that can be noticed is taken into account.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from PIL import Image

from headrecon.errors import InputError

#: Diagonal of the 36 x 24 mm frame. "35 mm equivalent" compares diagonals (Exif 2.32, FocalLengthIn35mmFilm).
FULL_FRAME_DIAGONAL_MM = math.hypot(36.0, 24.0)

#: Standard deviations of ln(focal). Equivalents are rounded to whole millimetres (26 mm: 1 %), some makers compare
#: widths instead of diagonals (4 % on a 4:3 sensor), and stabilisation and distortion correction crop a little.
SIGMA_EQUIVALENT = 0.05
SIGMA_FOCAL_PLANE = 0.04
#: An editor may have cropped and then written the new size into the tags.
SIGMA_EDITED = 0.2
#: The two ways to the focal length disagree: one of them describes another size of the picture.
SIGMA_DISAGREE = 0.2

_EXIF_IFD = 0x8769
_SOFTWARE, _FOCAL_LENGTH, _FOCAL_35MM, _ZOOM = 0x0131, 0x920A, 0xA405, 0xA404
_PIXEL_X, _PIXEL_Y = 0xA002, 0xA003
_PLANE_X, _PLANE_UNIT = 0xA20E, 0xA210
_UNIT_MM = {2: 25.4, 3: 10.0, 4: 1.0, 5: 0.001}
_ASPECT_TOLERANCE = 0.012
#: Shapes that cameras deliver. Another shape without a size in the tags means that someone cut the photo.
_CAMERA_ASPECTS = (4 / 3, 3 / 2, 16 / 9, 1.0)
_EDITORS = (
    "photoshop", "lightroom", "gimp", "snapseed", "picasa", "affinity", "capture one", "darktable", "instagram",
    "facetune", "paint", "canva", "pixelmator",
)  # fmt: skip


@dataclass(frozen=True)
class FocalHint:
    """Focal length in pixels of the picture, the standard deviation of its logarithm, and where it comes from."""

    focal_px: float
    sigma_log: float
    source: str = "exif"
    cropped: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.focal_px) and self.focal_px > 0 and self.sigma_log > 0):
            raise InputError(
                f"a focal length must be a positive number of pixels with a positive deviation, "
                f"found {self.focal_px} px and {self.sigma_log}"
            )


def focal_hint(exif: Image.Exif, file_size: tuple[int, int]) -> tuple[FocalHint | None, str | None]:
    """The hint for a picture of this size (as stored in the file), and a warning where the tags deserve one.

    Pixels are square, so the hint holds for the upright picture as well.
    """
    tags = _Tags.read(exif)
    original, cropped_spread = _original_diagonal(tags, file_size)
    found = _from_tags(tags, original)
    if found is None:
        return None, None
    if cropped_spread is not None:
        sigma = math.hypot(found.sigma_log, cropped_spread)
        found = replace(found, sigma_log=sigma, source=f"{found.source}, photo cropped", cropped=True)
    elif tags.edited:
        found = replace(found, sigma_log=max(found.sigma_log, SIGMA_EDITED), source=f"{found.source}, photo edited")
    if tags.zoom > 1.0:  # makers differ in whether the tags include the digital zoom
        sigma = math.hypot(found.sigma_log, math.log(tags.zoom) / math.sqrt(12.0))
        found = replace(found, sigma_log=sigma, source=f"{found.source}, digital zoom")
    if not 0.3 < found.focal_px / math.hypot(*file_size) < 40.0:
        return None, f"its EXIF focal length ({found.source}) is impossible and is ignored"
    note = "it was cropped after it was taken; the focal length from EXIF is uncertain" if found.cropped else None
    return found, note


@dataclass(frozen=True)
class _Tags:
    """The tags that matter, as plain numbers; 0 where absent or senseless."""

    focal_mm: float
    focal_35mm: float
    pixels: tuple[float, float]
    plane_pixels_per_mm: float
    zoom: float
    edited: bool

    @staticmethod
    def read(exif: Image.Exif) -> _Tags:
        try:
            inner = exif.get_ifd(_EXIF_IFD)
        except (OSError, ValueError, KeyError, SyntaxError):  # a damaged directory is as good as none
            inner = {}

        def number(tag: int) -> float:
            try:
                value = float(inner.get(tag, exif.get(tag, 0)))
            except (TypeError, ValueError, ZeroDivisionError):
                return 0.0
            return value if math.isfinite(value) and value > 0.0 else 0.0

        unit_mm = _UNIT_MM.get(int(number(_PLANE_UNIT)) or 2, 25.4)
        software = str(exif.get(_SOFTWARE, "")).lower()
        return _Tags(
            focal_mm=number(_FOCAL_LENGTH),
            focal_35mm=number(_FOCAL_35MM),
            pixels=(number(_PIXEL_X), number(_PIXEL_Y)),
            plane_pixels_per_mm=number(_PLANE_X) / unit_mm,
            zoom=number(_ZOOM),
            edited=any(name in software for name in _EDITORS),
        )


def _from_tags(tags: _Tags, diagonal_px: float) -> FocalHint | None:
    """The focal length for the whole captured frame, whose diagonal in pixels of the picture is given."""
    equivalent = plane = None
    if tags.focal_35mm:
        focal_px = tags.focal_35mm / FULL_FRAME_DIAGONAL_MM * diagonal_px
        equivalent = FocalHint(focal_px, SIGMA_EQUIVALENT, f"EXIF {tags.focal_35mm:g} mm (35 mm equivalent)")
    if tags.focal_mm and tags.plane_pixels_per_mm and all(tags.pixels):
        # The resolution holds for the frame as captured; the picture may have been resized since.
        resized = diagonal_px / math.hypot(*tags.pixels)
        focal_px = tags.focal_mm * tags.plane_pixels_per_mm * resized
        plane = FocalHint(focal_px, SIGMA_FOCAL_PLANE, f"EXIF {tags.focal_mm:g} mm and focal plane resolution")
    if equivalent and plane:
        if abs(math.log(plane.focal_px / equivalent.focal_px)) < 3.0 * SIGMA_EQUIVALENT:
            return plane
        return replace(equivalent, sigma_log=SIGMA_DISAGREE)
    return plane or equivalent


def _original_diagonal(tags: _Tags, size: tuple[int, int]) -> tuple[float, float | None]:
    """Diagonal of the captured frame in pixels of the picture as it is now; and, for a cropped photo, the standard
    deviation of its logarithm (else None).

    A crop of size w x h out of an original W x H that was also scaled by s needs s >= max(w/W, h/H). Photos are rarely
    enlarged, so s lies between that and 1; we take the middle (of the logarithm) of a uniform distribution.
    """
    now = math.hypot(*size)
    if not all(tags.pixels):
        shape = max(size) / min(size)
        known = any(abs(shape / aspect - 1.0) < _ASPECT_TOLERANCE for aspect in _CAMERA_ASPECTS)
        return now, None if known else 0.3
    width, height = tags.pixels
    if (width > height) != (size[0] > size[1]):  # a program turned the pixels and left the tags
        width, height = height, width
    if abs((size[0] / size[1]) / (width / height) - 1.0) < _ASPECT_TOLERANCE:
        return now, None
    least = max(size[0] / width, size[1] / height)
    span = math.log(max(1.0, 1.0 / least))
    scale = least * math.exp(span / 2.0)
    return math.hypot(width, height) * scale, max(0.05, span / math.sqrt(12.0))
