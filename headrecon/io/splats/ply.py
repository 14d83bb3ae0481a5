"""PLY as 3D Gaussian splatting writes it (Kerbl et al. 2023, the authors' implementation): every number a float.

Columns: x y z, nx ny nz (zeros), f_dc_0..2, f_rest_* (the harmonics of degree 1 and up: all of red, then green, then
blue), opacity as a logit, scale_0..2 as natural logarithms, rot_0..3 as wxyz. No precision is lost but float32's.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from headrecon.errors import InputError
from headrecon.io.splats.cloud import (
    HARMONICS,
    SplatCloud,
    check_count,
    checked,
    cloud_from,
    log_scales,
    logistic,
    logits,
    read_whole,
    write_whole,
)  # fmt: skip
from headrecon.structures import Gaussians

_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2",
    "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4",
    "double": "f8", "float64": "f8",
}  # fmt: skip
_NEEDED = ("x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1",
           "rot_2", "rot_3")  # fmt: skip
#: A header is some 2 kB; a file without an end to its header is not searched to the last byte.
_LONGEST_HEADER = 1 << 16
#: Numbers in a row; ours has at most 62.
_MOST_COLUMNS = 256


def write_splat_ply(path: str | Path, gaussians: Gaussians, axes: str = "y-down") -> None:
    """Write Gaussians in head space. axes: of the file, see `cloud.AXES`. Raises InputError, ShapeError."""
    write_whole(path, *ply_parts(cloud_from(gaussians).turned(axes)))


def ply_parts(cloud: SplatCloud) -> tuple[bytes, bytes]:
    """Header and rows of Gaussians that have the file's axes."""
    rest = 3 * (cloud.sh.shape[1] - 1)
    names = ["x", "y", "z", "nx", "ny", "nz", *(f"f_dc_{i}" for i in range(3)), *(f"f_rest_{i}" for i in range(rest)),
             "opacity", *(f"scale_{i}" for i in range(3)), *(f"rot_{i}" for i in range(4))]  # fmt: skip
    # No comments: some readers expect these lines and no others.
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(cloud)}"]
    header += [f"property float {name}" for name in names]
    rows = np.concatenate(
        [
            cloud.means,
            np.zeros_like(cloud.means),
            cloud.sh[:, 0],
            cloud.sh[:, 1:].transpose(0, 2, 1).reshape(len(cloud), rest),
            logits(cloud.opacities)[:, None],
            log_scales(cloud),
            cloud.quats_wxyz,
        ],
        axis=1,
    )
    return "\n".join([*header, "end_header", ""]).encode("ascii"), rows.astype("<f4").tobytes()


def read_splat_ply(path: str | Path, axes: str = "y-down") -> Gaussians:
    """Read Gaussians into head space. axes: of the file. Raises InputError for anything that is not such a file."""
    data = read_whole(path)
    count, row, start = _header(Path(path), data)
    expected = start + count * row.itemsize
    if len(data) != expected:
        raise InputError(
            f"{path}: its header promises {count:,} Gaussians in {expected:,} bytes, found {len(data):,}; the file is "
            "cut off or damaged"
        )
    table = np.frombuffer(data, row, count, start)
    rest = sum(name.startswith("f_rest_") for name in row.names or ())
    columns = [*_NEEDED, *(f"f_rest_{i}" for i in range(rest))]
    missing = [name for name in columns if name not in (row.names or ())]
    if missing:
        raise InputError(f"{path} holds no Gaussian splats: the columns {', '.join(missing)} are missing")
    if rest % 3 or rest // 3 + 1 not in HARMONICS:
        raise InputError(f"{path}: expected 0, 9, 24 or 45 columns f_rest_*, found {rest}")
    values = np.stack([table[name].astype(np.float32) for name in columns], axis=1)
    with np.errstate(over="ignore"):  # an infinite scale is reported below
        scales = np.exp(values[:, 7:10])
    sh = np.concatenate([values[:, None, 3:6], values[:, 14:].reshape(count, 3, -1).transpose(0, 2, 1)], axis=1)
    cloud = SplatCloud(values[:, :3], values[:, 10:14], scales, logistic(values[:, 6]), sh)
    return checked(cloud, path).turned(axes).gaussians()


def _header(path: Path, data: bytes) -> tuple[int, np.dtype, int]:
    """Count, layout of a row, where the rows start."""
    end = data.find(b"end_header\n", 0, _LONGEST_HEADER)
    line_end = len(b"end_header\n")
    if end < 0:
        end, line_end = data.find(b"end_header\r\n", 0, _LONGEST_HEADER), len(b"end_header\r\n")
    if not data.startswith(b"ply") or end < 0:
        raise InputError(f"{path} is no PLY: expected a file that starts with 'ply' and has a line 'end_header'")
    lines = [line.split() for line in data[:end].decode("ascii", "replace").splitlines()[1:]]
    lines = [words for words in lines if words and words[0] not in ("comment", "obj_info")]
    if not lines or lines[0] != ["format", "binary_little_endian", "1.0"]:
        found = " ".join(lines[0]) if lines else "nothing"
        raise InputError(f"{path}: expected 'format binary_little_endian 1.0' as splats have it, found {found!r}")
    try:
        return *_layout(path, lines[1:]), end + line_end
    except (ValueError, IndexError, KeyError, TypeError) as error:
        raise InputError(f"{path}: the header of the PLY is damaged ({type(error).__name__}: {error})") from error


def _layout(path: Path, lines: list[list[str]]) -> tuple[int, np.dtype]:
    """Of the one element that splats have. Raises ValueError and its like for a damaged header."""
    if not lines or lines[0][:2] != ["element", "vertex"]:
        raise ValueError("expected 'element vertex' first")
    if not lines[0][2].isdecimal() or len(lines[0][2]) > 12:
        raise ValueError(f"{lines[0][2]!r} vertices")
    count, columns = int(lines[0][2]), []
    check_count(count, path)
    for words in lines[1:]:
        if words[0] != "property" or len(words) != 3:
            raise ValueError(f"unexpected line {' '.join(words)!r}; splats are plain columns")
        columns.append((words[2], "<" + _TYPES[words[1]]))
    if len(columns) > _MOST_COLUMNS:
        raise ValueError(f"{len(columns)} columns")
    return count, np.dtype(columns)
