"""Arrays as NumPy files."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np

from headrecon.errors import InputError


def write_npy(path: str | Path, array: np.ndarray) -> None:
    """Write one array, whole or not at all. Raises InputError when the file cannot be written."""
    path, stream = Path(path), io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        partial.write_bytes(stream.getvalue())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
