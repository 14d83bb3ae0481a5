"""Named arrays in one `.safetensors` file: no code, mapped when read, opened by other tools and languages.

Files from strangers: the library checks the header against the file's length; names, shapes and types are checked here
before anything is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from headrecon.errors import InputError

#: Largest file that is read, bytes.
MAX_BYTES = 4 << 30


def write_tensors(path: str | Path, arrays: Mapping[str, np.ndarray], about: Mapping[str, str] | None = None) -> None:
    """Write arrays by name. about: short texts for the file's header. Raises InputError when the disk refuses."""
    from safetensors.numpy import save_file

    plain = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    try:
        save_file(plain, str(path), metadata=dict(about or {}))
    except OSError as error:
        raise InputError(f"cannot write {path}: {error}") from error


def read_tensors(path: str | Path) -> dict[str, np.ndarray]:
    """All arrays of a file. Raises InputError for one that is missing, damaged, or larger than 4 GiB."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = Path(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path} has {path.stat().st_size} bytes; expected at most {MAX_BYTES}")
        return load_file(path)
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist") from error
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise InputError(f"{path} is damaged or no safetensors file ({error}); make it again") from error
