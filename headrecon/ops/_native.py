"""The only code that touches the native library: finds it, loads it with ctypes, and calls its plain C functions.

The library is looked for in `headrecon/ops/lib/`, where `setup.py` puts it. Nothing is loaded before the first call.
CPU functions take torch tensors and numpy arrays alike and answer in kind: what needs no gradient can do without torch,
whose import costs more than a second.
"""

from __future__ import annotations

import ctypes
import os
import sys
from ctypes import POINTER, Structure, byref, c_char_p, c_int32
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from headrecon.errors import HeadReconError, NativeMissing, ShapeError
from headrecon.ops._native_params import MESH_OPS, InterpolateParams, RasterizeParams, ShadeParams
from headrecon.ops._native_params_fields import FIELD_OPS
from headrecon.ops._native_params_isosurface import ISOSURFACE_OPS
from headrecon.ops._native_params_splat import SPLAT_OPS
from headrecon.ops._native_params_ssim import SSIM_OPS
from headrecon.ops._native_params_volume import VOLUME_OPS

ABI_VERSION = 11  # HR_ABI_VERSION in cuda_ext/include/c_api.h
CPU_LIBRARY = "libheadrecon_cpu.so"
BUILD_COMMAND = "python setup.py build_ext --inplace"

#: HrIsa in hr_common.h: which instruction set runs. Everything but "auto" is for tests and benchmarks.
ISA = {"auto": 0, "base": 1, "avx512": 2}

#: Every op, and the struct that it takes: one table for each family of ops.
OPS: dict[str, type[Structure]] = {**MESH_OPS, **VOLUME_OPS, **FIELD_OPS, **SPLAT_OPS, **ISOSURFACE_OPS, **SSIM_OPS}
#: A torch tensor, or a numpy array. Not both in one call.
Array = Any

_STATUS_INDEX, _STATUS_ARGUMENT, _STATUS_MEMORY = 1, 2, 3  # HrStatus
_IMAGE_SIZES = "images up to 16384 pixels a side, 0 < near_z < far_z, at least one channel"


def library_path() -> Path:
    """Where the CPU library is, or would be."""
    return Path(__file__).parent / "lib" / CPU_LIBRARY


@cache
def _load() -> ctypes.CDLL | str:
    """The library, or one sentence that says why it cannot be used."""
    path = library_path()
    if not path.exists():
        return f"the native library is not built ({path} does not exist)"
    try:
        lib = ctypes.CDLL(str(path))
    except OSError as error:
        return f"the native library {path} does not load ({error})"
    lib.hr_abi_version.restype = c_int32
    version = lib.hr_abi_version()
    if version != ABI_VERSION:
        return f"the native library {path} has interface version {version}, this package needs {ABI_VERSION}"
    for name in ("hr_compiled_isas", "hr_isa_in_use"):
        getattr(lib, name).restype = c_char_p
    if not lib.hr_isa_in_use():
        return f"this CPU lacks the instructions that {path} was built for ({lib.hr_compiled_isas().decode()})"
    for op, params in OPS.items():
        function = getattr(lib, f"hr_{op}_cpu")
        function.argtypes = [POINTER(params)]
        function.restype = c_int32
    return lib


def available() -> bool:
    """Whether the CPU library can be used; if not, the CPU runs the (slower) reference ops."""
    return not isinstance(_load(), str)


def library() -> ctypes.CDLL:
    """The loaded CPU library. Raises NativeMissing with the reason and the build command."""
    lib = _load()
    if isinstance(lib, str):
        raise NativeMissing(f"{lib}; build it with `{BUILD_COMMAND}` in the source tree, or reinstall the package")
    return lib


def describe() -> dict[str, Any]:
    """What is built and in use, for `headrecon doctor`.

    Keys: built (bool), path (str), isas_compiled (list of str), isa_in_use (str, "" if none), cuda_archs (list of str),
    cuda_hint (str: "" unless a CUDA library is there and does not work), hint (str: "" when all is well, else what is
    wrong and what to do).
    """
    lib = _load()
    report: dict[str, Any] = {"built": False, "path": str(library_path()), "isas_compiled": [], "isa_in_use": ""}
    from headrecon.ops import _native_cuda

    report["cuda_archs"], report["cuda_hint"] = _native_cuda.describe()
    if isinstance(lib, str):
        report["hint"] = f"{lib}; ops run their slower reference on the CPU. Build it with `{BUILD_COMMAND}`."
        return report
    report["built"] = True
    report["isas_compiled"] = lib.hr_compiled_isas().decode().split()
    report["isa_in_use"] = lib.hr_isa_in_use().decode()
    report["hint"] = ""
    return report


def use_reference(like: Array) -> bool:
    """Whether an op has to run its reference on this: on the CPU without the library. On a GPU nothing falls back."""
    return not _on_gpu(like) and not available()


def _on_gpu(like: Array) -> bool:
    return not isinstance(like, np.ndarray) and like.is_cuda


def _run(op: str, params: Structure, like: Array, indices: int | str, sizes: str = _IMAGE_SIZES) -> None:
    """Run an op where `like`, one of its inputs, lives. Raises for what it reports.

    indices: what its indices have to be, for the message when they are not; a number stands for a mesh's vertices.
    sizes: which sizes it takes, for the same purpose.
    """
    if _on_gpu(like):
        from headrecon.ops import _native_cuda

        status = _native_cuda.run(op, params, like)
    else:
        status = getattr(library(), f"hr_{op}_cpu")(byref(params))
    if isinstance(indices, int):
        indices = f"faces must index the {indices} vertices (0..{indices - 1}), found others"
    _check(status, op, indices, sizes)


def num_threads() -> int:
    """Threads that a kernel may use: as torch is set where torch is in use, else OMP_NUM_THREADS, else all cores."""
    asked = getattr(sys.modules.get("torch"), "get_num_threads", None)  # absent while torch is being imported
    if asked is not None:
        return asked()
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return int(wanted) if wanted.isdecimal() and int(wanted) > 0 else (os.cpu_count() or 1)


def _pointer(array: Array) -> int:
    """Address of the first element of contiguous data."""
    return array.ctypes.data if isinstance(array, np.ndarray) else array.data_ptr()


def _empty(like: Array, shape: tuple[int, ...], dtype: str = "float32") -> Array:
    """Room for a result, of the same kind (torch or numpy) as an input."""
    if isinstance(like, np.ndarray):
        return np.empty(shape, dtype)
    return like.new_empty(shape, dtype=getattr(sys.modules["torch"], dtype))


def rasterize(
    points_hom: Array, faces: Array, size: tuple[int, int], clip: tuple[float, float, bool], isa: str = "auto"
) -> tuple[Array, Array, Array]:
    """hr_rasterize on contiguous float32 [B,V,3] and int32 [F,3]; clip is (near_z, far_z, cull_backfaces)."""
    batch, (height, width) = points_hom.shape[0], size
    face_index = _empty(points_hom, (batch, height, width), "int32")
    barycentrics = _empty(points_hom, (batch, height, width, 3))
    depth_z = _empty(points_hom, (batch, height, width))
    near_z, far_z, cull = clip
    params = RasterizeParams(
        *map(_pointer, (points_hom, faces, face_index, barycentrics, depth_z)),
        batch, points_hom.shape[1], faces.shape[0], height, width, near_z, far_z, int(cull),
        num_threads(), ISA[isa],
    )  # fmt: skip
    _run("rasterize", params, points_hom, points_hom.shape[1])
    return face_index, barycentrics, depth_z


def interpolate(attributes: Array, faces: Array, face_index: Array, barycentrics: Array) -> Array:
    """hr_interpolate on checked, contiguous float32 [A,V,D], int32 [F,3], int32 [B,P], float32 [B,P,3]."""
    batch, pixels = face_index.shape
    attribute_batch, vertices, channels = attributes.shape
    values = _empty(attributes, (batch, pixels, channels))
    params = InterpolateParams(
        *map(_pointer, (attributes, faces, face_index, barycentrics, values)),
        batch, attribute_batch, vertices, faces.shape[0], pixels, channels, num_threads(),
    )  # fmt: skip
    _run("interpolate", params, attributes, vertices)
    return values


def shade(
    samples: tuple[Array, Array],
    geometry: tuple[Array, Array, Array, Array],
    colours: tuple[Array, int],
    lit: tuple[Array, Array, Array, Array],
    factor: int,
    background: Array,
) -> tuple[Array, Array]:
    """hr_shade on checked, contiguous tensors; an empty ambient means unlit, an empty background transparent.

    samples: face_index, barycentrics. geometry: corners, vertices, normals, uvs. colours: values and their source.
    lit: cameras, ambient, lights, surface.
    """
    face_index, barycentrics = samples
    corners, vertices, normals, uvs = geometry
    values, source = colours
    cameras, ambient, lights, surface = lit
    count, height, width = face_index.shape[0], face_index.shape[1] // factor, face_index.shape[2] // factor
    image, alpha = _empty(vertices, (count, height, width, 3)), _empty(vertices, (count, height, width))
    pointers = (face_index, barycentrics, corners, vertices, normals, uvs, values, cameras, ambient, lights, surface)
    params = ShadeParams(
        *(None if 0 in t.shape else _pointer(t) for t in (*pointers, background, image, alpha)),
        len(vertices), len(normals), len(uvs), len(corners), count, height, width, factor,
        source, values.shape[0], values.shape[1], len(lights), num_threads(),
    )  # fmt: skip
    _run("shade", params, vertices, len(vertices))
    return image, alpha


def _check(status: int, op: str, indices: str, sizes: str) -> None:
    if status == 0:
        return
    if status == _STATUS_INDEX:
        raise ShapeError(f"{op}: {indices}")
    if status == _STATUS_ARGUMENT:
        raise ShapeError(f"{op}: a size is out of range ({sizes})")
    if status == _STATUS_MEMORY:
        raise HeadReconError(f"{op}: out of memory for scratch space; work on less at once")
    raise HeadReconError(f"{op}: the native library returned the unknown status {status}; rebuild it ({BUILD_COMMAND})")
