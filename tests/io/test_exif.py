"""Focal length from EXIF, against cameras worked out by hand."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import pytest
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

from headrecon.io.exif import FULL_FRAME_DIAGONAL_MM, SIGMA_DISAGREE, SIGMA_EDITED, SIGMA_EQUIVALENT, focal_hint
from headrecon.io.images import load_image

FOCAL, FOCAL_35, PIXEL_X, PIXEL_Y, PLANE_X, PLANE_UNIT, ZOOM = 0x920A, 0xA405, 0xA002, 0xA003, 0xA20E, 0xA210, 0xA404


def tags(software: str = "", **numbers: float) -> Image.Exif:
    exif = Image.Exif()
    if software:
        exif[0x0131] = software
    inner = exif.get_ifd(0x8769)
    for name, value in numbers.items():
        inner[globals()[name]] = (
            value if isinstance(value, int) else IFDRational(Fraction(value).limit_denominator(10**6))
        )
    return exif


def test_35mm_equivalent_compares_diagonals() -> None:
    # A full-frame camera with a 50 mm lens and 6000 x 4000 pixels: 6000 px / 36 mm * 50 mm.
    hint, note = focal_hint(tags(FOCAL_35=50), (6000, 4000))
    assert hint is not None
    assert hint.focal_px == pytest.approx(6000 / 36 * 50)
    assert hint.sigma_log == SIGMA_EQUIVALENT
    assert not hint.cropped
    assert note is None
    # A phone: 26 mm on 4:3; its field of view along the diagonal is that of 26 mm on film.
    hint, _ = focal_hint(tags(FOCAL_35=26), (4032, 3024))
    assert hint is not None
    assert hint.focal_px == pytest.approx(26 / 43.2666 * 5040, rel=1e-4)


@pytest.mark.parametrize(("unit", "per_mm"), [(2, 25.4), (3, 10.0), (4, 1.0)])
def test_focal_plane_resolution(unit: int, per_mm: float) -> None:
    # Canon EOS 5D: 35.8 mm sensor, 4368 px; 85 mm lens.
    exif = tags(FOCAL=85.0, PLANE_X=4368 / 35.8 * per_mm, PLANE_UNIT=unit, PIXEL_X=4368, PIXEL_Y=2912)
    hint, _ = focal_hint(exif, (4368, 2912))
    assert hint is not None
    assert hint.focal_px == pytest.approx(85 / 35.8 * 4368, rel=1e-4)


def test_resized_photo_scales_the_focal_length() -> None:
    exif = tags(FOCAL=85.0, PLANE_X=4368 / 35.8 * 10, PLANE_UNIT=3, PIXEL_X=4368, PIXEL_Y=2912)
    hint, _ = focal_hint(exif, (1092, 728))
    assert hint is not None
    assert hint.focal_px == pytest.approx(85 / 35.8 * 1092, rel=1e-4)
    assert not hint.cropped


def test_rotated_pixels_with_tags_left_as_they_were_are_no_crop() -> None:
    hint, note = focal_hint(tags(FOCAL_35=50, PIXEL_X=6000, PIXEL_Y=4000), (2000, 3000))
    assert hint is not None
    assert not hint.cropped
    assert note is None
    assert hint.focal_px == pytest.approx(3000 / 36 * 50)


@pytest.mark.parametrize("scale", [1.0, 0.7, 0.4])
def test_cropped_photo_covers_the_truth(scale: float) -> None:
    """A square cut of a third of a full-frame photo, then resized: the truth lies within two deviations."""
    side = round(2000 * scale)
    hint, note = focal_hint(tags(FOCAL_35=50, PIXEL_X=6000, PIXEL_Y=4000), (side, side))
    truth = scale * 6000 / 36 * 50
    assert hint is not None
    assert hint.cropped
    assert abs(math.log(hint.focal_px / truth)) < 2 * hint.sigma_log
    assert note is not None
    assert "cropped" in note


def test_odd_shape_without_original_size_is_a_crop() -> None:
    hint, _ = focal_hint(tags(FOCAL_35=50), (1000, 730))
    assert hint is not None
    assert hint.cropped
    assert hint.sigma_log >= 0.3


def test_editor_and_digital_zoom_and_disagreement_widen_the_spread() -> None:
    edited, _ = focal_hint(tags("Adobe Photoshop 24", FOCAL_35=50), (6000, 4000))
    assert edited is not None
    assert edited.sigma_log == SIGMA_EDITED
    zoomed, _ = focal_hint(tags(FOCAL_35=50, ZOOM=2.0), (6000, 4000))
    assert zoomed is not None
    assert zoomed.sigma_log > SIGMA_EDITED
    both = tags(FOCAL_35=50, FOCAL=50.0, PLANE_X=100.0, PLANE_UNIT=3, PIXEL_X=6000, PIXEL_Y=4000)
    hint, _ = focal_hint(both, (6000, 4000))
    assert hint is not None
    assert hint.sigma_log == SIGMA_DISAGREE
    assert hint.focal_px == pytest.approx(50 / FULL_FRAME_DIAGONAL_MM * math.hypot(6000, 4000))


@pytest.mark.parametrize(
    "numbers", [{}, {"FOCAL_35": 0}, {"FOCAL": 4.2}, {"PLANE_X": 3000.0}, {"FOCAL": 0.0, "PLANE_X": 9.0}]
)
def test_too_little_is_no_hint(numbers: dict[str, float]) -> None:
    assert focal_hint(tags(**numbers), (4000, 3000)) == (None, None)


def test_impossible_value_is_ignored_with_a_note() -> None:
    hint, note = focal_hint(tags(FOCAL_35=60000), (6000, 4000))
    assert hint is None
    assert note is not None
    assert "impossible" in note


def test_through_a_file_turned_by_orientation(tmp_path: Path) -> None:
    exif = tags(FOCAL_35=50, PIXEL_X=600, PIXEL_Y=400)
    exif[0x0112] = 6
    Image.new("RGB", (600, 400), (90, 80, 70)).save(tmp_path / "p.jpg", exif=exif)
    loaded = load_image(tmp_path / "p.jpg")
    assert loaded.size == (400, 600)
    assert loaded.file_size == (600, 400)
    assert loaded.focal is not None
    assert loaded.focal.focal_px == pytest.approx(600 / 36 * 50)


def test_damaged_exif_does_not_stop_the_photo(tmp_path: Path) -> None:
    Image.new("RGB", (90, 60)).save(tmp_path / "p.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x09garbage")
    assert load_image(tmp_path / "p.jpg").focal is None
