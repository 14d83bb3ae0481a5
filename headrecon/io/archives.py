"""Reading zip archives that someone else made: nothing is written outside the target, nothing grows without bound."""

from __future__ import annotations

import fnmatch
import hashlib
import stat
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from headrecon.errors import AssetError

_CHUNK = 1 << 20


def file_sha256(path: Path) -> str:
    """The sha256 of a file, in hex."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def unpack_members(archive: Path, patterns: Sequence[str], into: Path, max_bytes: int) -> dict[str, str]:
    """Unpack the members whose path matches a shell pattern (`*` crosses directories) below `into`.

    Returns the sha256 of each unpacked file by its path inside the archive.

    Raises:
        AssetError: not a zip, a pattern without any match, an unsafe or damaged member, or more than max_bytes in all.
    """
    hashes: dict[str, str] = {}
    left = max_bytes
    try:
        with zipfile.ZipFile(archive) as source:
            for info in _matching(source, patterns, archive.name):
                target = into / _safe_path(info, archive.name)
                target.parent.mkdir(parents=True, exist_ok=True)
                digest = hashlib.sha256()
                with source.open(info) as reader, target.open("xb") as writer:
                    while chunk := reader.read(_CHUNK):
                        left -= len(chunk)
                        if left < 0:  # counted as it comes: the sizes in the directory of a zip can lie
                            raise AssetError(f"{archive.name} unpacks to more than the allowed {max_bytes} bytes")
                        digest.update(chunk)
                        writer.write(chunk)
                hashes[info.filename] = digest.hexdigest()
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, FileExistsError) as error:
        raise AssetError(f"{archive} is a damaged archive ({error}); fetch it again") from error
    return hashes


def read_members(archive: Path, names: Sequence[str], max_bytes: int) -> dict[str, bytes]:
    """The content of the named members, which are not written anywhere.

    Raises:
        AssetError: not a zip, a member is missing or damaged, or they hold more than max_bytes together.
    """
    found: dict[str, bytes] = {}
    try:
        with zipfile.ZipFile(archive) as source:
            for info in _matching(source, names, archive.name):
                with source.open(info) as reader:
                    found[info.filename] = reader.read(max_bytes + 1)
                if sum(map(len, found.values())) > max_bytes:
                    raise AssetError(f"{archive} unpacks to more than the allowed {max_bytes} bytes")
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, OSError) as error:
        raise AssetError(f"{archive} is not a whole zip archive ({error}); fetch it again") from error
    return found


def _matching(source: zipfile.ZipFile, patterns: Sequence[str], archive: str) -> list[zipfile.ZipInfo]:
    infos = [info for info in source.infolist() if not info.is_dir()]
    matched: dict[str, zipfile.ZipInfo] = {}
    for pattern in patterns:
        hits = [info for info in infos if fnmatch.fnmatchcase(info.filename, pattern)]
        if not hits:
            raise AssetError(f"{archive} holds no file that matches {pattern!r}; it is not the archive expected here")
        matched.update((info.filename, info) for info in hits)
    return list(matched.values())


def _safe_path(info: zipfile.ZipInfo, archive: str) -> PurePosixPath:
    """The member's path, proven to stay inside the directory it is unpacked into and to be a plain file."""
    path = PurePosixPath(info.filename)
    mode = info.external_attr >> 16
    unsafe_name = path.is_absolute() or ".." in path.parts or "\\" in info.filename or ":" in info.filename
    if unsafe_name or not path.parts or (mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG)):
        raise AssetError(f"{archive} holds the unsafe member {info.filename!r}; do not trust where it came from")
    return path
