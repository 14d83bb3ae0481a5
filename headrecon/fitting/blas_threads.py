"""One BLAS thread while the solver runs.

The solver's products take a fraction of a millisecond. OpenBLAS splits them over its threads all the same, and its
threads wait by spinning: on a machine that is busy with anything else a fit then takes ten times as long (measured:
0.2 s against 2 to 5 s). NumPy and SciPy each bundle their own OpenBLAS, whose thread count can be set while it runs.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

#: Suffixes of the symbols in the builds that NumPy (64-bit integers) and SciPy (32-bit) ship.
_VARIANTS = ("scipy_openblas_{}64_", "scipy_openblas_{}", "openblas_{}64_", "openblas_{}")


@lru_cache
def _libraries(package: str) -> tuple[tuple[Any, Any], ...]:
    """Getter and setter of the thread count of the OpenBLAS in a loaded package; none with other BLAS libraries."""
    found = []
    folder = Path(sys.modules[package].__path__[0]).resolve()
    for place in (folder.parent / f"{folder.name}.libs", folder / ".dylibs"):
        for path in sorted(place.glob("*openblas*")):
            library = ctypes.CDLL(str(path))  # already loaded by the package: this only finds it
            for pattern in _VARIANTS:
                getter = getattr(library, pattern.format("get_num_threads"), None)
                setter = getattr(library, pattern.format("set_num_threads"), None)
                if getter is not None and setter is not None:
                    getter.restype, setter.argtypes, setter.restype = ctypes.c_int, [ctypes.c_int], None
                    found.append((getter, setter))
                    break
    return tuple(found)


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Within the block NumPy and SciPy multiply on the calling thread; afterwards their counts are as before.

    Import scipy.linalg before, if the block uses it: what is not loaded has no threads to set.
    """
    loaded = [name for name, sign in (("numpy", "numpy"), ("scipy", "scipy.linalg")) if sign in sys.modules]
    before = [(setter, getter()) for name in loaded for getter, setter in _libraries(name)]
    for setter, _ in before:
        setter(1)
    try:
        yield
    finally:
        for setter, count in before:
            setter(count)
