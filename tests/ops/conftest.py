"""The CUDA kernels for tests: on a GPU, and compiled for the CPU, where each of their threads runs after the other."""

from __future__ import annotations

import hashlib
import importlib
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from headrecon.ops import _native, _native_cuda

CUDA_EXT = Path(__file__).resolve().parents[2] / "cuda_ext"


def emulation_command() -> list[str]:
    """The C++ compiler with what makes it compile kernels for the CPU."""
    command = [*(shlex.split(os.environ.get("CXX", "")) or ["c++"]), "-std=c++17", "-O1", "-fPIC"]
    command += ["-fvisibility=hidden", "-ffp-contract=off", "-DHR_EMULATE"]
    command += ["-DHR_MAX_GRID_ROWS=3", "-DHR_MAX_GRAD_BLOCKS=2"]
    return [*command, f"-I{CUDA_EXT}/include", f"-I{CUDA_EXT}/cuda"]


def build_emulated(folder: Path, *flags: str) -> Path:
    """Compile cuda_ext/cuda with the C++ compiler and host_emulation.h; returns the library.

    Objects are kept in build/emulated, by the hash of all that goes into them: most runs change few kernels or none.
    """
    command = [*emulation_command(), *flags]
    kept = CUDA_EXT.parent / "build" / "emulated"
    kept.mkdir(parents=True, exist_ok=True)
    common = hashlib.sha256(shlex.join(command).encode())
    for header in sorted([*(CUDA_EXT / "include").iterdir(), *(CUDA_EXT / "cuda").glob("*.h")]):
        common.update(header.read_bytes())

    def compile_one(source: Path) -> str:
        own = common.copy()
        own.update(source.read_bytes())
        built = kept / f"{source.stem}-{own.hexdigest()[:16]}.o"
        if not built.exists():
            partial = folder / f"{source.stem}.o"
            subprocess.run([*command, "-x", "c++", "-c", str(source), "-o", str(partial)], check=True, timeout=300)
            for old in kept.glob(f"{source.stem}-*.o"):
                old.unlink(missing_ok=True)
            shutil.move(partial, built)
        return str(built)

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        objects = list(pool.map(compile_one, sorted((CUDA_EXT / "cuda").glob("*.cu"))))
    library = folder / "libheadrecon_emulated.so"
    subprocess.run([*command, "-shared", *objects, "-o", str(library)], check=True, timeout=300)
    return library


class CudaKernels:
    """Calls functions of `_native` and `_native_calls`, or whole ops, so that the CUDA kernels do the work."""

    def __init__(self, device: str, monkeypatch: pytest.MonkeyPatch, library: Path | None) -> None:
        self.device = torch.device(device)
        self.emulated = library is not None
        self._monkeypatch, self._library = monkeypatch, library

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """While this lasts, `_native` sends what it is given to the CUDA kernels."""
        if self._library is None:
            yield
            return
        library = self._library
        with self._monkeypatch.context() as patch:
            patch.setattr(_native_cuda, "library_path", lambda: library)
            patch.setattr(_native_cuda, "_stream", lambda device: 0)
            patch.setattr(_native_cuda, "_current", lambda device: nullcontext())
            patch.setattr(_native_cuda, "synchronize", lambda device: _native_cuda.raise_faults())
            patch.setattr(_native, "_on_gpu", lambda like: True)
            _native_cuda._load.cache_clear()
            try:
                yield
            finally:
                _native_cuda._load.cache_clear()

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """function(*arguments) with tensors on the device; waits, raises what kernels report, brings results back."""
        with self.in_use():
            found = function(*_on(arguments, self.device))
            _native_cuda.synchronize(self.device)
        return _on(found, torch.device("cpu"))


def _on(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.detach().to(device).requires_grad_(value.requires_grad)
    if isinstance(value, tuple | list):
        moved = [_on(v, device) for v in value]
        return type(value)(*moved) if hasattr(value, "_fields") else tuple(moved)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: _on(getattr(value, f.name), device) for f in fields(value)})
    return value


@pytest.fixture(scope="session")
def emulated_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_emulated(tmp_path_factory.mktemp("emulated"))


@pytest.fixture(
    params=[pytest.param("emulated", marks=pytest.mark.native), pytest.param("gpu", marks=pytest.mark.cuda)]
)
def cuda(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> CudaKernels:
    """The CUDA kernels, emulated on the CPU or on the GPU itself."""
    if request.param == "gpu":
        return CudaKernels("cuda", monkeypatch, None)
    return CudaKernels("cpu", monkeypatch, request.getfixturevalue("emulated_library"))


@pytest.fixture(scope="session")
def torchmetrics() -> ModuleType:
    """A peer to compare with, where somebody has installed it."""
    try:
        return importlib.import_module("torchmetrics.functional.image") and importlib.import_module("torchmetrics")
    except ImportError as error:
        pytest.skip(f"compares with torchmetrics, which is not here ({error}): pip install torchmetrics")
