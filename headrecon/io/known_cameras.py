"""Cameras that a user knows, from whatever file they are in, and which of them took which photo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from headrecon.errors import InputError
from headrecon.io.cameras import KnownCamera, load_json, rotation_checked, transform_frames
from headrecon.io.colmap import colmap_files, read_colmap
from headrecon.io.images import EXTENSIONS, LoadedImage

#: Metres.
UNITS = {"m": 1.0, "cm": 0.01, "mm": 0.001}
#: What a user says where the file's unit is arbitrary: positions stay as they are.
ANY_UNIT = "any"


def read_known_cameras(path: str | Path, unit: str | None = None) -> tuple[KnownCamera, ...]:
    """Cameras in metres from nerfstudio's `transforms.json`, a COLMAP model (text or binary) or our `cameras.json`.

    path: the file, or a folder that holds it. unit: of the positions ("m", "cm", "mm"; "any": unknown, so that they
    stay as they are); None: what the file says, else metres. Raises InputError.
    """
    path = Path(path)
    cameras, own_unit = _read(path)
    if unit is not None and own_unit is not None and unit not in (own_unit, ANY_UNIT):
        raise InputError(f"{path}: the file says that its unit is {own_unit}, --camera-unit says {unit}")
    factor = 1.0 if unit == ANY_UNIT else UNITS[unit or own_unit or "m"]
    return tuple(replace(c, viewmat=_scaled(c.viewmat, factor)) for c in cameras)


def _scaled(viewmat: np.ndarray, factor: float) -> np.ndarray:
    out = viewmat.copy()
    out[:3, 3] *= factor
    return out


def _read(path: Path) -> tuple[tuple[KnownCamera, ...], str | None]:
    if path.is_dir():
        pair = colmap_files(path)
        if pair is not None:
            return read_colmap(*pair), None
        for name in ("transforms.json", "cameras.json"):
            if (path / name).is_file():
                return _read(path / name)
        raise InputError(
            f"{path}: no cameras in this folder; expected transforms.json (nerfstudio), cameras and images as .txt or "
            ".bin (COLMAP), or cameras.json (docs/formats.md)"
        )
    if not path.is_file():
        raise InputError(f"{path}: no such file or folder; expected cameras (docs/formats.md)")
    if path.suffix in (".bin", ".txt"):
        pair = path.with_name(f"cameras{path.suffix}"), path.with_name(f"images{path.suffix}")
        for p in pair:
            if not p.is_file():
                raise InputError(f"{p}: no such file; a COLMAP model needs cameras and images in one folder")
        return read_colmap(*pair), None
    content = load_json(path)
    if "frames" in content:
        return transform_frames(path), None
    if "cameras" in content:
        return _opencv(path, content)
    raise InputError(f"{path}: expected 'frames' (nerfstudio) or 'cameras' (docs/formats.md), found neither")


def _opencv(path: Path, content: Mapping[str, Any]) -> tuple[tuple[KnownCamera, ...], str | None]:
    """`{"unit": "mm", "cameras": [{"image", "width", "height", "K", "R", "t"}]}`, world to camera, OpenCV axes."""
    unit, entries = content.get("unit"), content["cameras"]
    if unit is not None and unit not in UNITS:
        raise InputError(f"{path}: unit must be one of {', '.join(UNITS)}, found {unit!r}")
    if not isinstance(entries, list) or not entries or not all(isinstance(e, dict) for e in entries):
        raise InputError(f"{path}: expected a list 'cameras' with at least one camera")
    return tuple(_opencv_camera(path, i, e) for i, e in enumerate(entries)), unit


def _opencv_camera(path: Path, index: int, entry: Mapping[str, Any]) -> KnownCamera:
    where = f"{path}: camera {index}"
    name = entry.get("image")
    if not isinstance(name, str) or not name:
        raise InputError(f"{where} must name its 'image', found {name!r}")
    size = [entry.get(key) for key in ("width", "height")]
    if not all(isinstance(x, int) and not isinstance(x, bool) and 0 < x <= 1 << 20 for x in size):
        raise InputError(f"{where} ({name}) must have a whole 'width' and 'height' in pixels, found {size}")
    k = _array(where, entry, "K", (3, 3))
    flat = k[[0, 1, 2, 2, 2], [1, 0, 0, 1, 2]]
    if not np.allclose(flat, [0, 0, 0, 0, 1], atol=1e-9) or min(k[0, 0], k[1, 1]) <= 0:
        raise InputError(f"{where} ({name}): K must be [[fx, 0, cx], [0, fy, cy], [0, 0, 1]], without skew")
    if np.any(np.asarray(entry.get("distortion", 0.0), dtype=object) != 0):
        raise InputError(f"{where} ({name}) has lens distortion; undistort the photos first")
    viewmat = np.eye(4)
    viewmat[:3, :3] = rotation_checked(f"{where} ({name}): R", _array(where, entry, "R", (3, 3)))
    viewmat[:3, 3] = _array(where, entry, "t", (3,))
    return KnownCamera(name, viewmat, k, int(size[0]), int(size[1]))  # pyright: ignore[reportArgumentType]


def _array(where: str, entry: Mapping[str, Any], key: str, shape: tuple[int, ...]) -> np.ndarray:
    try:
        out = np.array(entry.get(key), dtype=np.float64)
    except (TypeError, ValueError):
        out = np.zeros(0)
    if out.shape != shape or not np.isfinite(out).all():
        raise InputError(f"{where} must have {key!r} of shape {list(shape)} with finite numbers")
    return out


def match_cameras(cameras: Sequence[KnownCamera], images: Sequence[LoadedImage]) -> list[KnownCamera]:
    """The camera of each photo, by file name. Raises InputError for a photo without a camera, a camera without a photo,
    two that cannot be told apart, or a picture of another size than its camera's."""
    chosen: dict[int, int] = {}
    for number, image in enumerate(images):
        found = [i for i, c in enumerate(cameras) if same_file(c.image, image.path)]
        if not found:
            raise InputError(
                f"{image.path.name}: no camera is named after it; the file has cameras of {_some(cameras)}"
            )
        if len(found) > 1:
            raise InputError(f"{image.path.name}: {len(found)} cameras are named after it; names must be unique")
        if found[0] in chosen:
            raise InputError(f"{image.path}: {images[chosen[found[0]]].path} has the same name, hence the same camera")
        chosen[found[0]] = number
        _check_size(cameras[found[0]], image)
    unused = [c for i, c in enumerate(cameras) if i not in chosen]
    if unused:
        raise InputError(f"there are cameras of photos that were not given: {_some(unused)}; give them, too")
    by_photo = {number: cameras[i] for i, number in chosen.items()}
    return [by_photo[i] for i in range(len(images))]


def same_file(name: str, path: Path) -> bool:
    """Whether a camera's image is that file: the same last part; names without an extension match any."""
    own = PurePosixPath(name.replace("\\", "/"))
    if own.suffix.lower() in EXTENSIONS:
        return own.name == path.name
    return own.name == path.stem


def _check_size(camera: KnownCamera, image: LoadedImage) -> None:
    expected, found = (camera.width, camera.height), image.size
    if expected == found:
        return
    turned = expected == image.file_size and image.file_size != found
    why = (
        "the picture is turned by its EXIF orientation, its camera is not: save the picture upright and calibrate that"
        if turned
        else "give the very pictures that were calibrated"
    )
    raise InputError(
        f"{image.path.name}: its camera is of {expected[0]} x {expected[1]} pixels, the picture has "
        f"{found[0]} x {found[1]}; {why}"
    )


def _some(cameras: Sequence[KnownCamera]) -> str:
    names = [c.image for c in cameras]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
