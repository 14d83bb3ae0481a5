"""The CUDA half of the native library: loads it and launches its ops on torch's current stream.

It is a second shared library beside the CPU's, built where nvcc is (`setup.py`), with the CUDA runtime linked in: it
works beside any CUDA build of torch, and nothing needs it. Ops are asynchronous, as torch's are. An index out of range
is noticed on the GPU, where it contributes nothing; the error is raised by the next call that goes to the GPU, or by
`synchronize`, or at once with CUDA_LAUNCH_BLOCKING=1 in the environment.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import AbstractContextManager
from ctypes import POINTER, Structure, byref, c_char_p, c_int32, c_int64, c_void_p
from functools import cache
from pathlib import Path
from typing import Any

from headrecon.errors import HeadReconError, NativeMissing, ShapeError
from headrecon.ops import _native

LIBRARY = "libheadrecon_cuda.so"
_STATUS_CUDA = 4  # HR_ERROR_CUDA in hr_common.h
_MESH_FAULT = "faces must index the vertices, pixels the faces"
_RAY_FAULT = "offsets must rise from 0 to the number of samples"
_LIST_FAULT = "the lists of splats must number the splats, and be those of the pictures"
_POINT_FAULT = "neighbours must be -1 or number the points"
#: What an op means when its kernels find an index out of range.
FAULTS = {
    "composite": _RAY_FAULT,
    "composite_backward": _RAY_FAULT,
    "trigrid_render": _RAY_FAULT,
    "trigrid_render_backward": _RAY_FAULT,
    "splat_tiles": "more pairs of splats and tiles than max_pairs gave room for; the farthest were left out",
    "splat_composite": _LIST_FAULT,
    "splat_composite_backward": _LIST_FAULT,
    "blend_points": _POINT_FAULT,
    "blend_points_backward": _POINT_FAULT,
    "isosurface_count": "blocks must number the blocks of values, or be -1 where there is none",
}


class Launch(Structure):
    """HrCudaLaunch in cuda_ext/cuda/c_api_cuda.h, field by field."""

    _fields_ = [
        ("stream", c_void_p),
        ("workspace", c_void_p),
        ("fault", c_void_p),
        ("workspace_bytes", c_int64),
        ("device", c_int32),
        ("deterministic", c_int32),
    ]


def library_path() -> Path:
    """Where the CUDA library is, or would be."""
    return Path(__file__).parent / "lib" / LIBRARY


@cache
def _load() -> ctypes.CDLL | str:
    """The library, or one sentence that says why it cannot be used."""
    path = library_path()
    if not path.exists():
        return f"the CUDA part of the native library is not built ({path} does not exist)"
    try:
        lib = ctypes.CDLL(str(path))
    except OSError as error:
        return f"the CUDA part of the native library, {path}, does not load ({error})"
    lib.hr_cuda_abi_version.restype = c_int32
    version = lib.hr_cuda_abi_version()
    if version != _native.ABI_VERSION:
        return f"{path} has interface version {version}, this package needs {_native.ABI_VERSION}"
    for name in ("hr_cuda_archs", "hr_cuda_last_error"):
        getattr(lib, name).restype = c_char_p
    for op, params in _native.OPS.items():
        if not hasattr(lib, f"hr_{op}_cuda"):
            continue  # `run` says so when it is asked for
        getattr(lib, f"hr_{op}_cuda").argtypes = [POINTER(params), POINTER(Launch)]
        getattr(lib, f"hr_{op}_cuda").restype = c_int32
        getattr(lib, f"hr_{op}_cuda_workspace").argtypes = [POINTER(params), POINTER(Launch)]
        getattr(lib, f"hr_{op}_cuda_workspace").restype = c_int64
    return lib


def library() -> ctypes.CDLL:
    """The loaded CUDA library. Raises NativeMissing with the reason and the build command."""
    lib = _load()
    if isinstance(lib, str):
        raise NativeMissing(
            f"{lib}; build it with `{_native.BUILD_COMMAND}` where CUDA's compiler nvcc is, or move the tensors to the "
            "CPU with .cpu()"
        )
    return lib


def describe() -> tuple[list[str], str]:
    """(architectures that are built in, "" or what is wrong with a library that is there)."""
    lib = _load()
    if isinstance(lib, str):
        return [], lib if library_path().exists() else ""
    return lib.hr_cuda_archs().decode().split(), ""


@cache
def _faults() -> tuple[Any, ctypes.Array[c_int32]]:
    """One word per op in memory that the GPU writes and the CPU reads without waiting, and a view of it."""
    import torch

    words = torch.zeros(len(_native.OPS), dtype=torch.int32, pin_memory=torch.cuda.is_available())
    return words, (c_int32 * len(_native.OPS)).from_address(words.data_ptr())


def raise_faults() -> None:
    """Raise what finished kernels have found wrong with their input since the last call."""
    _, words = _faults()
    for slot, op in enumerate(_native.OPS):
        if words[slot] == 0:
            continue
        words[slot] = 0
        raise ShapeError(
            f"{op}: an index was out of range on the GPU ({FAULTS.get(op, _MESH_FAULT)}). An earlier "
            "call may be to blame: with CUDA_LAUNCH_BLOCKING=1 in the environment each call reports its own"
        )


def synchronize(device: Any) -> None:
    """Wait for the device's current stream, then raise what its kernels found."""
    import torch

    torch.cuda.current_stream(device).synchronize()
    raise_faults()


def _stream(device: Any) -> int:
    import torch

    return torch.cuda.current_stream(device).cuda_stream


def _current(device: Any) -> AbstractContextManager[Any]:
    """Makes a device current for torch, as the library does for itself; torch puts back what was there before."""
    import torch

    return torch.cuda.device(device)


def run(op: str, params: Structure, like: Any) -> int:
    """Launch an op on the device and current stream of the tensor `like`; returns its HrStatus.

    Scratch memory comes from torch's allocator, which knows the stream: nothing is allocated or waited for in a launch.
    Sums over pixels are taken in any order, and differ in their last bits from run to run, unless
    torch.use_deterministic_algorithms(True).
    """
    import torch

    lib = library()
    if not hasattr(lib, f"hr_{op}_cuda"):
        raise NativeMissing(f"{op} has no CUDA kernel in {library_path()}; rebuild it with `{_native.BUILD_COMMAND}`")
    raise_faults()
    words, _ = _faults()
    fault = words.data_ptr() + 4 * list(_native.OPS).index(op)
    deterministic = int(torch.are_deterministic_algorithms_enabled())
    launch = Launch(_stream(like.device), None, fault, 0, like.device.index or 0, deterministic)
    needed = getattr(lib, f"hr_{op}_cuda_workspace")(byref(params), byref(launch))
    workspace = like.new_empty(max(needed, 1), dtype=torch.uint8)
    launch.workspace, launch.workspace_bytes = workspace.data_ptr(), needed
    with _current(like.device):
        status = getattr(lib, f"hr_{op}_cuda")(byref(params), byref(launch))
    if status == _STATUS_CUDA:
        raise HeadReconError(f"{op}: CUDA reports: {lib.hr_cuda_last_error().decode()}")
    if os.environ.get("CUDA_LAUNCH_BLOCKING") == "1":
        synchronize(like.device)
    return status
