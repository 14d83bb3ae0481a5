"""Around the CUDA kernels: what is said when they are missing or refused, streams, graphs, and late reports."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from ctypes import byref
from pathlib import Path

import pytest
import torch

from headrecon.errors import HeadReconError, NativeMissing, ShapeError
from headrecon.ops import _native, _native_cuda
from headrecon.ops._native_params import RasterizeParams
from headrecon.ops._register import on_one_device
from headrecon.ops.interpolate import interpolate
from headrecon.ops.rasterize import rasterize
from tests.ops.conftest import CudaKernels
from tests.ops.meshes import hom, random_soup

REPOSITORY = Path(__file__).resolve().parents[2]
CLIP = (0.005, float("inf"), False)
TRIANGLE = torch.tensor([[0, 1, 2]], dtype=torch.int32)


def points() -> torch.Tensor:
    return hom([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]])


def test_without_the_library_nothing_falls_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(_native_cuda, "library_path", lambda: tmp_path / "libabsent.so")
    monkeypatch.setattr(_native, "_on_gpu", lambda like: True)
    _native_cuda._load.cache_clear()
    try:
        with pytest.raises(NativeMissing, match=r"libabsent\.so does not exist.*build_ext --inplace.*nvcc"):
            rasterize(points(), TRIANGLE, 4, 4)
        assert _native_cuda.describe() == ([], "")  # not having it is no fault
        (tmp_path / "libabsent.so").write_text("not a library")
        _native_cuda._load.cache_clear()
        archs, hint = _native_cuda.describe()
        assert archs == [] and "does not load" in hint
    finally:
        _native_cuda._load.cache_clear()


def test_tensors_on_two_devices_are_refused() -> None:
    kernel = on_one_device("shade", lambda *tensors: len(tensors))
    here, there = torch.zeros(3), torch.zeros(3, device="meta")
    assert kernel(here, None, torch.zeros(0, device="meta"), 5) == 4
    with pytest.raises(ShapeError, match="shade: all tensors must be on one device, found cpu and meta"):
        kernel(here, there)


@pytest.mark.cuda
def test_an_operator_refuses_tensors_on_two_devices() -> None:
    seen = rasterize(points().cuda(), TRIANGLE.cuda(), 4, 4)
    with pytest.raises(ShapeError, match="interpolate: all tensors must be on one device"):
        interpolate(torch.rand(3, 2), TRIANGLE.cuda(), seen.face_index, seen.barycentrics)


@pytest.mark.native
def test_interfaces_agree(emulated_library: Path) -> None:
    """The library exports every op of the table, and its version is that of the CPU part."""
    lib = ctypes.CDLL(str(emulated_library))
    assert lib.hr_cuda_abi_version() == _native.ABI_VERSION
    for op in _native.OPS:
        assert hasattr(lib, f"hr_{op}_cuda") and hasattr(lib, f"hr_{op}_cuda_workspace"), op


@pytest.mark.native
def test_scratch_that_is_too_small_and_a_device_that_is_not_there(emulated_library: Path) -> None:
    lib = ctypes.CDLL(str(emulated_library))
    lib.hr_cuda_last_error.restype = ctypes.c_char_p
    lib.hr_rasterize_cuda_workspace.restype = ctypes.c_int64
    mesh, face_index, weights, depth = points(), torch.zeros(16, dtype=torch.int32), torch.zeros(48), torch.zeros(16)
    pointers = [t.data_ptr() for t in (mesh, TRIANGLE, face_index, weights, depth)]
    params = RasterizeParams(*pointers, 1, 3, 1, 4, 4, 0.01, 10.0, 0, 1, 0)
    fault = torch.zeros(1, dtype=torch.int32)
    launch = _native_cuda.Launch(None, None, fault.data_ptr(), 0, 0, 0)
    needed = lib.hr_rasterize_cuda_workspace(byref(params), byref(launch))
    scratch = torch.zeros(needed, dtype=torch.uint8)
    launch.workspace, launch.workspace_bytes = scratch.data_ptr(), needed - 1
    assert lib.hr_rasterize_cuda(byref(params), byref(launch)) == 3  # HR_ERROR_MEMORY
    launch.workspace_bytes, launch.device = needed, 7
    assert lib.hr_rasterize_cuda(byref(params), byref(launch)) == 4  # HR_ERROR_CUDA
    assert b"invalid device ordinal" in lib.hr_cuda_last_error()
    params.height = 20000
    assert lib.hr_rasterize_cuda(byref(params), byref(launch)) == 2  # HR_ERROR_ARGUMENT


@pytest.mark.native
def test_what_cuda_refuses_is_told(emulated_library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = CudaKernels("cpu", monkeypatch, emulated_library)
    with kernels.in_use():
        lib = _native_cuda.library()
        monkeypatch.setattr(lib, "hr_rasterize_cuda", lambda params, launch: 4)
        with pytest.raises(HeadReconError, match="rasterize: CUDA reports"):
            _native.rasterize(points(), TRIANGLE, (4, 4), CLIP)


def test_a_late_report_reaches_the_next_call(cuda: CudaKernels) -> None:
    """Nobody waits for the GPU to look at indices, so the call that follows brings the news."""
    bad, good = torch.tensor([[0, 1, 9]], dtype=torch.int32), TRIANGLE
    with cuda.in_use():
        device_points = points().to(cuda.device)
        _native.rasterize(device_points, bad.to(cuda.device), (4, 4), CLIP)
        if not cuda.emulated:
            torch.cuda.synchronize()
        with pytest.raises(ShapeError, match=r"rasterize: an index was out of range.*CUDA_LAUNCH_BLOCKING"):
            _native.rasterize(device_points, good.to(cuda.device), (4, 4), CLIP)
        _native.rasterize(device_points, good.to(cuda.device), (4, 4), CLIP)


def test_blocking_calls_report_their_own(cuda: CudaKernels, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_LAUNCH_BLOCKING", "1")
    mesh, bad = points().to(cuda.device), torch.tensor([[0, 1, 9]], dtype=torch.int32, device=cuda.device)
    with cuda.in_use(), pytest.raises(ShapeError, match="rasterize: an index was out of range"):
        _native.rasterize(mesh, bad, (4, 4), CLIP)


@pytest.mark.cuda
def test_streams_and_graphs() -> None:
    """Ops go to the current stream, and a captured graph draws whatever its inputs hold when it is replayed."""
    drawn, faces = random_soup(torch.Generator().manual_seed(0), 60, 300, (40, 50))
    moved = drawn + torch.tensor([3.0, -2.0, 0.1])
    held, table = drawn.cuda(), faces.cuda()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            found = _native.rasterize(held, table, (40, 50), CLIP)
    side.synchronize()
    assert torch.equal(found[0].cpu(), _native.rasterize(drawn, faces, (40, 50), CLIP)[0])
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = _native.rasterize(held, table, (40, 50), CLIP)
    for mesh in (moved, drawn):
        held.copy_(mesh)
        graph.replay()
        expected = _native.rasterize(mesh, faces, (40, 50), CLIP)
        assert torch.equal(captured[0].cpu(), expected[0]) and torch.equal(captured[2].cpu(), expected[2])


@pytest.mark.cuda
def test_the_current_device_is_left_alone() -> None:
    before = torch.cuda.current_device()
    for device in range(torch.cuda.device_count()):
        _native.rasterize(points().to(f"cuda:{device}"), TRIANGLE.to(f"cuda:{device}"), (4, 4), CLIP)
        assert torch.cuda.current_device() == before


def test_checking_the_sources_says_why_it_does_not() -> None:
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "check_cuda"],
        cwd=REPOSITORY, env={"HEADRECON_CUDA": "0", "PATH": ""}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0 and "not compiled here, because" in done.stdout, done.stderr
