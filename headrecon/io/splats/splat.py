"""`.splat`, as Kevin Kwok's viewer (antimatter15/splat) reads it: rows of 32 bytes, the most important first.

A row: place and scale as float32, red green blue opacity as bytes, the quaternion wxyz as bytes 128 + 128 q. Colours
are clipped to 0..1, and lose what depends on the direction of view.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from headrecon.errors import InputError
from headrecon.geometry.harmonics import C0
from headrecon.io.splats.cloud import SplatCloud, check_count, checked, cloud_from, read_whole, write_whole
from headrecon.structures import Gaussians

_ROW = np.dtype([("means", "<f4", 3), ("scales", "<f4", 3), ("rgba", "u1", 4), ("quats", "u1", 4)])


def write_splat(path: str | Path, gaussians: Gaussians, axes: str = "y-down") -> None:
    """Write Gaussians in head space, sorted by volume times opacity. axes: of the file. Raises InputError."""
    write_whole(path, splat_rows(cloud_from(gaussians).turned(axes)).tobytes())


def splat_rows(cloud: SplatCloud) -> np.ndarray:
    """The rows, in the order of the file."""
    # A viewer shows what has arrived while it loads: large, opaque Gaussians first. Stable, so that equals keep places.
    importance = cloud.scales.astype(np.float64).prod(1) * cloud.opacities
    cloud = cloud.take(np.argsort(-importance, kind="stable"))
    rows = np.empty(len(cloud), _ROW)
    rows["means"], rows["scales"] = cloud.means, cloud.scales
    rows["rgba"][:, :3] = _bytes(cloud.colours * 255)
    rows["rgba"][:, 3] = _bytes(cloud.opacities * 255)
    rows["quats"] = _bytes(cloud.quats_wxyz * 128 + 128)
    return rows


def read_splat(path: str | Path, axes: str = "y-down") -> Gaussians:
    """Read Gaussians into head space, in the order of the file. Raises InputError for anything else."""
    data = read_whole(path)
    if len(data) % _ROW.itemsize:
        raise InputError(
            f"{path}: a .splat has rows of {_ROW.itemsize} bytes, found {len(data):,} bytes; it is cut off or no .splat"
        )
    check_count(len(data) // _ROW.itemsize, path)
    rows = np.frombuffer(data, _ROW)
    rgba = rows["rgba"].astype(np.float32) / 255
    sh = ((rgba[:, :3] - np.float32(0.5)) / np.float32(C0))[:, None]
    quats = (rows["quats"].astype(np.float32) - 128) / 128
    cloud = SplatCloud(rows["means"].astype(np.float32), quats, rows["scales"].astype(np.float32), rgba[:, 3], sh)
    return checked(cloud, path).turned(axes).gaussians()


def _bytes(values: np.ndarray) -> np.ndarray:
    return np.floor(values + 0.5).clip(0, 255).astype(np.uint8)
