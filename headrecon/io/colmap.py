"""Cameras of a COLMAP model: `cameras` and `images` as text or binary (its documentation, "Output Format").

COLMAP shares our axes and our pixel centres. What comes from a file is checked against the file's own size before
anything is allocated for it; points are passed over. Lenses with distortion are refused, as nothing here models them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from headrecon.errors import InputError
from headrecon.io.cameras import KnownCamera

#: Model: parameters, of which the first are f, cx, cy or fx, fy, cx, cy, and whether the rest is distortion by a
#: polynomial, which vanishes with its coefficients. In the order of COLMAP's numbers.
_MODELS: tuple[tuple[str, int, int, bool], ...] = (
    ("SIMPLE_PINHOLE", 3, 3, True), ("PINHOLE", 4, 4, True), ("SIMPLE_RADIAL", 4, 3, True), ("RADIAL", 5, 3, True),
    ("OPENCV", 8, 4, True), ("OPENCV_FISHEYE", 8, 4, False), ("FULL_OPENCV", 12, 4, True), ("FOV", 5, 4, False),
    ("SIMPLE_RADIAL_FISHEYE", 4, 3, False), ("RADIAL_FISHEYE", 5, 3, False), ("THIN_PRISM_FISHEYE", 12, 4, False),
)  # fmt: skip
#: No model of cameras around a head comes near these.
_MOST_IMAGES, _LONGEST_NAME, _LARGEST_FILE = 100_000, 4096, 1 << 30
#: A quaternion that was printed with few digits is still of length one within this.
_UNIT_TOLERANCE = 1e-2


@dataclass(frozen=True)
class _Lens:
    k: np.ndarray
    width: int
    height: int


def colmap_files(folder: Path) -> tuple[Path, Path] | None:
    """`cameras` and `images` in a folder, or in its `sparse/0`; binary before text. None where they are not."""
    for place in (folder, folder / "sparse" / "0", folder / "sparse"):
        for suffix in (".bin", ".txt"):
            pair = place / f"cameras{suffix}", place / f"images{suffix}"
            if all(p.is_file() for p in pair):
                return pair
    return None


def read_colmap(cameras: Path, images: Path) -> tuple[KnownCamera, ...]:
    """The cameras of all images. Raises InputError for broken files, distortion, or an image without its camera."""
    for path in (cameras, images):
        if path.stat().st_size > _LARGEST_FILE:
            raise InputError(f"{path}: larger than {_LARGEST_FILE >> 20} MB; expected a model of a few photos")
    try:
        lenses = dict(_binary_lenses(cameras) if cameras.suffix == ".bin" else _text_lenses(cameras))
        poses = list(_binary_poses(images) if images.suffix == ".bin" else _text_poses(images))
    except (OSError, UnicodeDecodeError, ValueError, struct.error) as error:
        raise InputError(f"{cameras.parent}: not a readable COLMAP model ({error})") from error
    out = []
    for name, lens_id, quaternion, shift in poses:
        if lens_id not in lenses:
            raise InputError(f"{images}: {name} needs camera {lens_id}, which {cameras.name} lacks")
        lens = lenses[lens_id]
        out.append(KnownCamera(name, _viewmat(images, name, quaternion, shift), lens.k, lens.width, lens.height))
    return tuple(out)


def _viewmat(path: Path, name: str, quaternion: np.ndarray, shift: np.ndarray) -> np.ndarray:
    length = float(np.linalg.norm(quaternion))
    if not np.isfinite([*quaternion, *shift]).all() or abs(length - 1) > _UNIT_TOLERANCE:
        raise InputError(f"{path}: {name} must have a unit quaternion and a finite position (length {length:.3g})")
    w, x, y, z = quaternion / length
    out = np.eye(4)
    out[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    out[:3, 3] = shift
    return out


def _lens(path: Path, model: str, size: tuple[int, int], params: np.ndarray) -> _Lens:
    known = {name: (count, own, vanishes) for name, count, own, vanishes in _MODELS}
    if model not in known:
        raise InputError(f"{path}: unknown camera model {model!r}; expected PINHOLE or SIMPLE_PINHOLE")
    count, own, vanishes = known[model]
    if len(params) != count:
        raise InputError(f"{path}: a camera of model {model} must have {count} parameters, found {len(params)}")
    if not vanishes or np.any(params[own:] != 0):
        raise InputError(
            f"{path}: a camera of model {model} has lens distortion, which is not modelled; undistort the photos "
            "first (`colmap image_undistorter`), which gives PINHOLE cameras"
        )
    focal = params[[0, 0]] if own == 3 else params[:2]
    if not np.isfinite(params).all() or min(*focal, *size) <= 0:
        raise InputError(f"{path}: a camera must have a positive size and focal length, found {size} and {focal}")
    cx, cy = params[own - 2 : own]
    return _Lens(np.array([[focal[0], 0, cx], [0, focal[1], cy], [0, 0, 1.0]]), *size)


def _text_lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8") as stream:
        for line in stream:
            if not line.startswith("#"):
                yield line.strip()


def _text_lenses(path: Path) -> Iterator[tuple[int, _Lens]]:
    for line in _text_lines(path):
        if not line:
            continue
        fields = line.split()
        if len(fields) < 5:
            raise InputError(f"{path}: expected `id model width height parameters`, found {line[:80]!r}")
        yield int(fields[0]), _lens(path, fields[1], (int(fields[2]), int(fields[3])), np.array(fields[4:], float))


def _text_poses(path: Path) -> Iterator[tuple[str, int, np.ndarray, np.ndarray]]:
    lines = _text_lines(path)
    for line in lines:
        if not line:
            continue
        fields = line.split(maxsplit=9)
        if len(fields) < 10:
            raise InputError(f"{path}: expected `id qw qx qy qz tx ty tz camera name`, found {line[:80]!r}")
        numbers = np.array(fields[1:8], float)
        yield fields[9], int(fields[8]), numbers[:4], numbers[4:]
        next(lines, None)  # its points, a line that may be empty


def _take(stream: BinaryIO, form: str) -> tuple:
    size = struct.calcsize("<" + form)
    data = stream.read(size)
    if len(data) != size:
        raise ValueError("the file ends too early")
    return struct.unpack("<" + form, data)


def _count(stream: BinaryIO, path: Path) -> int:
    (count,) = _take(stream, "Q")
    if count > _MOST_IMAGES:
        raise InputError(f"{path}: claims {count} entries; expected at most {_MOST_IMAGES}")
    return count


def _binary_lenses(path: Path) -> Iterator[tuple[int, _Lens]]:
    with path.open("rb") as stream:
        for _ in range(_count(stream, path)):
            number, model, width, height = _take(stream, "iiQQ")
            if not 0 <= model < len(_MODELS):
                raise InputError(f"{path}: unknown camera model number {model}; expected PINHOLE (1) or below")
            name, count, *_ = _MODELS[model]
            params = np.array(_take(stream, f"{count}d"))
            yield number, _lens(path, name, (width, height), params)


def _binary_poses(path: Path) -> Iterator[tuple[str, int, np.ndarray, np.ndarray]]:
    size = path.stat().st_size
    with path.open("rb") as stream:
        for _ in range(_count(stream, path)):
            _, *numbers, lens = _take(stream, "I7dI")
            name = bytearray()
            while (byte := stream.read(1)) not in (b"\0", b""):
                name += byte
                if len(name) > _LONGEST_NAME:
                    raise InputError(f"{path}: a name of more than {_LONGEST_NAME} bytes; this is no images.bin")
            (points,) = _take(stream, "Q")
            after = stream.tell() + 24 * points  # x, y, and the number of a point
            if after > size:
                raise ValueError("the file ends too early")
            stream.seek(after)
            yield name.decode("utf-8"), lens, np.array(numbers[:4]), np.array(numbers[4:])
