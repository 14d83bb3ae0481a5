"""What the figures of `head.json` are called in words, and how precisely each is worth printing."""

from __future__ import annotations

#: Names of figures (without their unit) that read badly as they are.
_LABELS = {
    "ipd": "interpupillary distance",
    "pd_right": "right pupil to nose bridge",
    "pd_left": "left pupil to nose bridge",
    "iris": "iris diameter",
    "bigonial_breadth": "jaw breadth",
    "menton_sellion_length": "face length, chin to nose bridge",
    "subnasale_sellion_length": "nose length",
    "tragion_top_of_head": "ear to top of head",
    "lip_length": "mouth width",
    "distance": "camera to face",
    "camera_unit": "one unit of the cameras",
    "focal": "focal length",
    "focal_f35": "focal length, 35 mm equivalent",
}
_DIGITS = {"mm": 1, "m": 2, "px": 0, "deg": 1}


def figure_name(key: str) -> tuple[str, str, int]:
    """Words, unit and digits after the point of a figure such as `face_width_mm`; no unit when the key names none."""
    stem, _, unit = key.rpartition("_")
    if unit not in _DIGITS:
        stem, unit = key, ""
    return _LABELS.get(stem, stem.replace("_", " ")), unit, _DIGITS.get(unit, 3)
