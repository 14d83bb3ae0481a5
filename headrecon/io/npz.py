"""`.npz` archives: written whole or not at all; read as plain numbers and text only, and never more bytes than a file,
which may come from a stranger, really holds.

`numpy.load` allocates whatever an array's header claims before it looks at the data, so a 100-byte file can ask for
terabytes. Here the claimed size of every member is compared with its size in the archive first.
"""

from __future__ import annotations

import os
import secrets
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from headrecon.errors import AssetError, InputError

#: More than any head model needs (ICT-FaceKit in float64 is 100 MB, FLAME 54 MB), less than would hurt a laptop.
MAX_BYTES = 1 << 30
_KINDS = "fiubU"
_Result = TypeVar("_Result")
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError, ValueError)


def write_npz(path: str | Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays, deflated, through a temporary file in the same folder, so that a reader never sees half of it.

    Raises InputError when the file cannot be written (no such folder, no permission, disk full).
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.partial-{secrets.token_hex(4)}")
    try:
        with temporary.open("wb") as stream:
            np.savez_compressed(stream, allow_pickle=False, **dict(arrays))
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise InputError(
                f"cannot write {path}: {error.strerror or error}; choose a folder you may write to"
            ) from error
        raise


def read_npz(path: str | Path, names: Iterable[str] | None = None, max_bytes: int = MAX_BYTES) -> dict[str, np.ndarray]:
    """The arrays of an `.npz` file by name; with `names`, only those of them that are present.

    Numbers, booleans and unicode text are allowed; object arrays (which hold pickles) are refused.
    Raises AssetError when the file is missing, not an archive, damaged, or larger than `max_bytes` when unpacked.
    """
    path = Path(path)
    wanted = None if names is None else set(names)

    def read_all(archive: zipfile.ZipFile) -> dict[str, np.ndarray]:
        members = _members(archive, path, max_bytes)
        return {
            name: _read_member(archive, info, path)
            for name, info in members.items()
            if wanted is None or name in wanted
        }

    return _with_archive(path, read_all)


def npz_names(path: str | Path) -> frozenset[str]:
    """The names of the arrays in an `.npz` file, without reading them. Raises AssetError as `read_npz`."""
    path = Path(path)
    return _with_archive(path, lambda archive: frozenset(_members(archive, path, max_bytes=1 << 62)))


def _with_archive(path: Path, use: Callable[[zipfile.ZipFile], _Result]) -> _Result:
    if not path.exists():
        raise AssetError(f"{path}: no such file; expected an .npz archive")
    if not path.is_file():
        raise AssetError(f"{path}: expected an .npz archive, found a directory")
    try:
        with zipfile.ZipFile(path) as archive:
            return use(archive)
    except AssetError:
        raise
    except PermissionError as error:
        raise AssetError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    except _BROKEN as error:
        raise AssetError(f"{path}: not a readable .npz archive, or a truncated one ({error})") from error


def _members(archive: zipfile.ZipFile, path: Path, max_bytes: int) -> dict[str, zipfile.ZipInfo]:
    infos = archive.infolist()
    total = sum(info.file_size for info in infos)
    if total > max_bytes:
        raise AssetError(f"{path}: unpacks to {total:,} bytes, more than the {max_bytes:,} allowed")
    members = {info.filename.removesuffix(".npy"): info for info in infos if info.filename.endswith(".npy")}
    if not members or len(members) != len(infos):
        raise AssetError(f"{path}: expected an .npz archive of distinct arrays, found other files in the archive")
    return members


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> np.ndarray:
    with archive.open(info) as stream:
        shape, fortran, dtype, header_bytes = _header(stream, info, path)
        count = 1
        for n in shape:
            count *= n  # python integers: no overflow, whatever the header claims
        expected = count * dtype.itemsize
        if any(n < 0 for n in shape) or expected != info.file_size - header_bytes:
            raise AssetError(
                f"{path}: array {info.filename!r} claims {expected:,} bytes, "
                f"the archive holds {info.file_size - header_bytes:,}; the file is damaged"
            )
        data = stream.read(expected)
    if len(data) != expected:
        raise AssetError(f"{path}: array {info.filename!r} ends early; the file is truncated")
    array = np.frombuffer(bytearray(data), dtype=dtype).reshape(shape, order="F" if fortran else "C")
    return np.ascontiguousarray(array.astype(dtype.newbyteorder("="), copy=False)).reshape(shape)


def _header(stream: Any, info: zipfile.ZipInfo, path: Path) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    # Any: zipfile's stream is typed IO[bytes] and yet lacks a part of that protocol, so run-time checks refuse it
    try:
        version = np.lib.format.read_magic(stream)
        if version == (1, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
        elif version == (2, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_2_0(stream)
        else:
            raise ValueError(f"unsupported .npy version {version}")
    except Exception as error:  # numpy's parser lets tokenizer, syntax and recursion errors through
        raise AssetError(f"{path}: {info.filename!r} is not a numpy array ({type(error).__name__})") from error
    if dtype.hasobject or dtype.kind not in _KINDS or dtype.subdtype is not None or dtype.itemsize == 0:
        raise AssetError(f"{path}: array {info.filename!r} has type {dtype}; expected plain numbers or text")
    return shape, fortran, dtype, stream.tell()
