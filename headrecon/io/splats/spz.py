"""`.spz`, Niantic's compressed splats (github.com/nianticlabs/spz, README "File Format"): versions 2 and 3.

A gzip stream: a header of 16 bytes, then each attribute of all Gaussians in turn: places as 24-bit fixed point,
opacities, colours, scales (logarithms in steps of 1/16) as bytes, rotations, harmonics as bytes. The axes are fixed: x
right, y up, z backwards, which are ours. Version 4 (several Zstandard streams) is refused with a message: Python reads
no Zstandard before 3.14.
"""

from __future__ import annotations

import struct
import zlib
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
    read_whole,
    write_whole,
)  # fmt: skip
from headrecon.io.splats.smallest_three import pack_smallest_three, unpack_smallest_three
from headrecon.structures import Gaussians

_HEADER = struct.Struct("<IIIBBBB")
_MAGIC = 0x5053474E
_ANTIALIASED, _EXTENSIONS = 0x1, 0x2
#: A micrometre; Niantic's own writer uses 12 bits, 0.24 mm, which would show on a face.
_FINEST_BITS = 20
#: Colours are stored as 1/2 + 0.15 of the first harmonic's coefficient, so that some beyond 0..1 fit too.
_COLOUR_SCALE = 0.15


def write_spz(path: str | Path, gaussians: Gaussians, version: int = 3, antialiased: bool = False) -> None:
    """Write Gaussians in head space, in their order. version: 2 or 3 (truer rotations). Raises InputError.

    antialiased: a flag for viewers: the Gaussians were fitted so (`ops.splat_gaussians.SplatOptions.antialiased`).
    """
    if version not in (2, 3):
        raise InputError(f"spz: versions 2 and 3 are written, found {version}")
    compressor = zlib.compressobj(9, wbits=31)  # 31: a gzip header without file name or time, so equal in, equal out
    packed = spz_bytes(cloud_from(gaussians), version, antialiased)
    write_whole(path, compressor.compress(packed), compressor.flush())


def spz_bytes(cloud: SplatCloud, version: int, antialiased: bool = False) -> bytes:
    """The file before compression."""
    largest = float(np.abs(cloud.means).max())
    bits = int(np.clip(np.floor(np.log2((2**23 - 1) / max(largest, 1e-9))), 0, _FINEST_BITS))
    fixed = np.rint(cloud.means.astype(np.float64) * 2**bits)
    if np.abs(fixed).max() > 2**23 - 1:
        raise InputError(f"spz: places up to {2**23 - 1:,} m can be written, found {largest:,.0f}")
    places = np.ascontiguousarray(fixed.astype("<i4")).view(np.uint8).reshape(-1, 4)[:, :3]
    parts = [
        places,
        _bytes(cloud.opacities * 255),
        _bytes(cloud.sh[:, 0] * (_COLOUR_SCALE * 255) + 127.5),
        _bytes((log_scales(cloud) + 10) * 16),
        pack_smallest_three(cloud.quats_wxyz) if version == 3 else _pack_first_three(cloud.quats_wxyz),
        _bytes(cloud.sh[:, 1:] * 128 + 128),
    ]
    header = _HEADER.pack(_MAGIC, version, len(cloud), cloud.degree, bits, _ANTIALIASED if antialiased else 0, 0)
    return header + b"".join(np.ascontiguousarray(part).tobytes() for part in parts)


def read_spz(path: str | Path) -> Gaussians:
    """Read Gaussians into head space, in the order of the file. Raises InputError for anything else."""
    data = read_whole(path)
    if data[:4] == struct.pack("<I", _MAGIC):
        found = struct.unpack("<I", data[4:8])[0] if len(data) >= 8 else "?"
        raise InputError(f"{path} is spz version {found}, compressed with Zstandard; convert it to version 3 or to PLY")
    unpacker = zlib.decompressobj(wbits=31)
    head = _inflate(path, unpacker, data, _HEADER.size)
    magic, version, count, degree, bits, flags, _ = _HEADER.unpack(head)
    if magic != _MAGIC or version not in (2, 3) or degree > 3 or bits > 24:
        raise InputError(
            f"{path}: expected spz version 2 or 3 with harmonics of degree 0 to 3, found magic {magic:08x}, version "
            f"{version}, degree {degree} and {bits} bits of fraction"
        )
    if flags & _EXTENSIONS:
        raise InputError(f"{path}: spz with vendor extensions is not read; save it without them, or as PLY")
    check_count(count, path)
    widths = [9, 1, 3, 3, 4 if version == 3 else 3, 3 * (HARMONICS[degree] - 1)]
    body = _inflate(path, unpacker, unpacker.unconsumed_tail, count * sum(widths))
    if unpacker.decompress(unpacker.unconsumed_tail, 1) or not unpacker.eof or unpacker.unused_data:
        raise InputError(f"{path}: {count:,} Gaussians end before the file does; it is damaged")
    flat = np.frombuffer(body, np.uint8)
    ends = np.cumsum([count * width for width in widths])
    places, opacities, colours, scales, quats, sh = (
        part.reshape(count, -1) if count else part.reshape(0, width)
        for part, width in zip(np.split(flat, ends[:-1]), widths, strict=True)
    )
    unpack = unpack_smallest_three if version == 3 else _unpack_first_three
    first = ((colours.astype(np.float32) / 255 - np.float32(0.5)) / np.float32(_COLOUR_SCALE))[:, None]
    rest = ((sh.astype(np.float32) - 128) / 128).reshape(count, HARMONICS[degree] - 1, 3)
    cloud = SplatCloud(
        _unpack_places(places, bits),
        unpack(quats),
        np.exp(scales.astype(np.float32) / 16 - 10),
        opacities[:, 0].astype(np.float32) / 255,
        np.concatenate([first, rest], axis=1),
    )
    return checked(cloud, path).gaussians()


def _inflate(path: str | Path, unpacker: zlib._Decompress, data: bytes, size: int) -> bytes:
    """Exactly `size` bytes, never more: what a small file unpacks to is known before it is unpacked."""
    parts, left = [], size
    try:
        while left and (part := unpacker.decompress(data, left)):
            parts.append(part)
            left -= len(part)
            data = unpacker.unconsumed_tail
    except zlib.error as error:
        raise InputError(f"{path} is no spz: expected a whole gzip stream ({error})") from error
    if left:
        raise InputError(f"{path} ends early: expected {size:,} bytes, found {size - left:,}; the file is cut off")
    return b"".join(parts)


def _unpack_places(places: np.ndarray, bits: int) -> np.ndarray:
    wide = np.zeros((places.size // 3, 4), np.uint8)
    wide[:, 1:] = places.reshape(-1, 3)  # in the upper three bytes, so that the shift below carries the sign
    fixed = wide.view("<i4").reshape(-1, 3) >> 8
    return (fixed / 2.0**bits).astype(np.float32)


def _pack_first_three(quats_wxyz: np.ndarray) -> np.ndarray:
    signed = np.where(quats_wxyz[:, :1] < 0, -quats_wxyz, quats_wxyz)
    return _bytes(signed[:, 1:] * 127.5 + 127.5)


def _unpack_first_three(packed: np.ndarray) -> np.ndarray:
    xyz = packed.astype(np.float32) / np.float32(127.5) - 1
    w = np.sqrt(np.maximum(0, 1 - (xyz * xyz).sum(1, keepdims=True)))
    return np.concatenate([w, xyz], axis=1)


def _bytes(values: np.ndarray) -> np.ndarray:
    return np.floor(values + 0.5).clip(0, 255).astype(np.uint8)
