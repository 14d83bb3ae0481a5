"""Head models from elsewhere, turned into `HeadAssets`. Each adapter is one module; this one tells which fits a file.

Importing this is cheap: adapters are loaded when a file asks for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from headrecon.errors import AssetError

if TYPE_CHECKING:
    from headrecon.structures import HeadAssets

_KNOWN = "a FLAME file (.pkl or .npz), ICT-FaceKit (its FaceXModel directory or .npz), or a headrecon model (.npz)"
_ZIP = b"PK\x03\x04"
#: Beginnings of a pickled dict: protocols 2 and up, then 0 and 1.
_PICKLES = (b"\x80", b"(d", b"}q", b"}(")


@dataclass(frozen=True)
class Adapter:
    """Converts files of one kind. Calling it gives checked `HeadAssets` or raises AssetError.

    licence declares the terms of the user's copy where the file cannot tell (FLAME); others refuse a wrong one.
    """

    name: str
    module: str
    function: str

    def __call__(self, path: str | Path, licence: str | None = None) -> HeadAssets:
        load = getattr(import_module(self.module), self.function)
        if self.name == "headrecon":
            if licence is not None:
                raise AssetError(f"{path}: a headrecon model states its own licences; leave the licence option out")
            return load(path)
        return load(path, licence=licence)


FLAME = Adapter("flame", "headrecon.models.adapters.flame", "load_flame")
ICT = Adapter("ict", "headrecon.models.adapters.ict", "load_ict")
HEADRECON = Adapter("headrecon", "headrecon.models.assets_file", "load_assets")


def adapter_for(path: str | Path) -> Adapter:
    """The adapter for a file or directory, told from its content. Raises AssetError when none fits."""
    path = Path(path)
    if path.is_dir():
        from headrecon.models.adapters.ict_files import model_directory

        if model_directory(path) is not None:
            return ICT
        raise AssetError(f"{path}: no head model in this directory; expected {_KNOWN}")
    start = _first_bytes(path)
    if start.startswith(_ZIP):
        return _adapter_for_npz(path)
    if start.startswith(_PICKLES) or path.suffix.lower() in (".pkl", ".pickle"):
        return FLAME
    raise AssetError(f"{path}: not a head model that headrecon reads; expected {_KNOWN}")


def _first_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            start = stream.read(4)
    except OSError as error:
        raise AssetError(f"{path}: cannot be read ({error.strerror}); expected {_KNOWN}") from error
    if not start:
        raise AssetError(f"{path}: empty (0 bytes); expected {_KNOWN}")
    return start


def _adapter_for_npz(path: Path) -> Adapter:
    from headrecon.io.npz import npz_names
    from headrecon.models.adapters.flame import REQUIRED
    from headrecon.models.adapters.ict_files import PACKED_NAMES
    from headrecon.models.assets_file import META

    names = npz_names(path)
    for adapter, needed in ((HEADRECON, {META}), (ICT, set(PACKED_NAMES)), (FLAME, set(REQUIRED))):
        if needed <= names:
            return adapter
    found = ", ".join(sorted(names)[:6])
    raise AssetError(f"{path}: an .npz of other arrays ({found}); expected {_KNOWN}")
