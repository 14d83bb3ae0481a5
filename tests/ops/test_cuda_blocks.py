"""What the CUDA ops are built from: prefix sums, sorts, sums over a warp; and the emulation itself."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from ctypes import byref, c_int32, c_int64
from dataclasses import dataclass
from os import environ
from pathlib import Path
from shutil import which

import pytest
import torch
from torch import Tensor

from headrecon.ops._native_cuda import Launch
from tests.ops.conftest import CUDA_EXT, emulation_command

SOURCE = Path(__file__).with_name("cuda_blocks.cu")
SIZES = [0, 1, 31, 257, 2048, 2049, 20_011]


def compile_emulated(source: Path, built: Path) -> ctypes.CDLL:
    command = [*emulation_command(), "-x", "c++", "-shared", str(source), "-o", str(built)]
    subprocess.run(command, check=True, timeout=300)
    return ctypes.CDLL(str(built))


def compile_for_gpu(source: Path, built: Path) -> ctypes.CDLL:
    nvcc = which(environ.get("NVCC", "")) or which("nvcc") or "/usr/local/cuda/bin/nvcc"
    major, minor = torch.cuda.get_device_capability()
    command = [nvcc, "-std=c++17", "-O3", f"-arch=sm_{major}{minor}", "-shared", "-cudart", "static"]
    command += ["-Xcompiler", "-fPIC", f"-I{CUDA_EXT}/include", f"-I{CUDA_EXT}/cuda", str(source), "-o", str(built)]
    subprocess.run(command, check=True, timeout=300)
    return ctypes.CDLL(str(built))


@dataclass(frozen=True)
class Blocks:
    """The test library, and where its tensors have to be."""

    lib: ctypes.CDLL
    device: torch.device

    def launch(self, bytes_needed: int) -> tuple[Launch, Tensor]:
        scratch = torch.full((max(bytes_needed, 1),), 255, dtype=torch.uint8, device=self.device)
        stream = 0 if self.device.type == "cpu" else torch.cuda.current_stream().cuda_stream
        return Launch(stream, scratch.data_ptr(), None, bytes_needed, 0, 0), scratch

    def scan(self, counts: Tensor) -> Tensor:
        offsets = torch.full((len(counts) + 1,), -1, dtype=torch.int64, device=self.device)
        self.lib.test_scan_workspace.restype = c_int64
        launch, _held = self.launch(self.lib.test_scan_workspace(c_int64(len(counts))))
        on_device = counts.to(self.device)
        pointers = (ctypes.c_void_p(on_device.data_ptr()), c_int64(len(counts)), ctypes.c_void_p(offsets.data_ptr()))
        assert self.lib.test_scan(*pointers, byref(launch)) == 0
        return offsets.cpu()

    def sort(self, keys: Tensor, values: Tensor, bits: int, count: int | None = None) -> tuple[Tensor, Tensor]:
        keys, values = keys.to(self.device, copy=True), values.to(self.device, copy=True)
        known = None if count is None else torch.tensor([count], device=self.device)
        self.lib.test_sort_workspace.restype = c_int64
        launch, scratch = self.launch(self.lib.test_sort_workspace(c_int64(len(keys))))
        swapped = c_int32(-1)
        pointers = [ctypes.c_void_p(None if t is None else t.data_ptr()) for t in (keys, values, known)]
        status = self.lib.test_sort(
            *pointers[:2], c_int64(len(keys)), pointers[2], c_int32(bits), byref(swapped), byref(launch)
        )
        assert status == 0
        if swapped.value:
            piece = -(-4 * len(keys) // 256) * 256  # as Workspace::take rounds it
            keys = scratch[: 4 * len(keys)].view(torch.int32)
            values = scratch[piece : piece + 4 * len(values)].view(torch.int32)
        return keys.cpu(), values.cpu()


@pytest.fixture(
    scope="module",
    params=[pytest.param("emulated", marks=pytest.mark.native), pytest.param("gpu", marks=pytest.mark.cuda)],
)
def blocks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Blocks:
    built = tmp_path_factory.mktemp("blocks") / f"{request.param}.so"
    if request.param == "gpu":
        return Blocks(compile_for_gpu(SOURCE, built), torch.device("cuda"))
    return Blocks(compile_emulated(SOURCE, built), torch.device("cpu"))


@pytest.mark.parametrize("size", SIZES)
def test_prefix_sums(blocks: Blocks, size: int) -> None:
    counts = torch.randint(0, 1000, (size,), dtype=torch.int32, generator=torch.Generator().manual_seed(size))
    expected = torch.cat([torch.zeros(1, dtype=torch.int64), counts.long().cumsum(0)])
    assert torch.equal(blocks.scan(counts), expected)


def test_prefix_sums_beyond_32_bits(blocks: Blocks) -> None:
    counts = torch.full((5000,), 2**31 - 1, dtype=torch.int32)
    assert torch.equal(blocks.scan(counts)[1:], counts.long().cumsum(0))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("bits", [8, 11, 32])
def test_sort(blocks: Blocks, size: int, bits: int) -> None:
    """As a stable sort: few distinct keys, so that equal ones show whether their order is kept."""
    generator = torch.Generator().manual_seed(size + bits)
    keys = torch.randint(0, 2**31 - 1, (size,), dtype=torch.int32, generator=generator)
    keys = keys & torch.tensor(0x7F00_0507, dtype=torch.int32)
    keys = torch.where(torch.rand(size, generator=generator) < 0.2, -1, keys)  # as 32 bits all set, the largest
    by = (keys.long() & 0xFFFF_FFFF) & ((1 << -(-bits // 8) * 8) - 1)
    order = by.sort(stable=True).indices
    found = blocks.sort(keys, torch.arange(size, dtype=torch.int32), bits)
    assert torch.equal(found[1], order.int()) and torch.equal(found[0], keys[order])


@pytest.mark.parametrize("count", [0, 1, 300, 5000, 9000])
def test_sort_of_as_many_as_the_device_says(blocks: Blocks, count: int) -> None:
    """More than there is room for counts as all of the room; what lies beyond the count is not looked at."""
    keys = torch.randint(0, 2**20, (6000,), dtype=torch.int32, generator=torch.Generator().manual_seed(1))
    there = min(count, 6000)
    order = keys[:there].sort(stable=True).indices
    found = blocks.sort(keys, torch.arange(6000, dtype=torch.int32), 24, count)
    assert torch.equal(found[1][:there], order.int()) and torch.equal(found[0][:there], keys[order])


def test_sums_over_warps(blocks: Blocks) -> None:
    values = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    sums, largest = (torch.empty(1000, device=blocks.device) for _ in range(2))
    given, (launch, _held) = values.to(blocks.device), blocks.launch(0)
    pointers = [ctypes.c_void_p(t.data_ptr()) for t in (given, sums, largest)]
    assert blocks.lib.test_warps(pointers[0], c_int64(1000), *pointers[1:], byref(launch)) == 0
    padded = torch.cat([values, torch.zeros(24)]).reshape(-1, 32)
    expected = padded.double().sum(1).repeat_interleave(32)[:1000].float()
    torch.testing.assert_close(sums.cpu(), expected, rtol=0, atol=1e-5)
    assert torch.equal(largest.cpu(), padded.amax(1).repeat_interleave(32)[:1000])


STRAYS = """
#include "device.h"
using namespace hr;
__global__ void reads_what_nobody_wrote(float* out) {
  __shared__ float space[kThreads];
  if (threadIdx.x > 0) space[threadIdx.x] = 1.0f;
  __syncthreads();
  out[blockIdx.x * kThreads + threadIdx.x] = space[threadIdx.x];
  __syncthreads();
  space[0] = 2.0f;
}
__global__ void leaves_early(float* out) {
  if (threadIdx.x == 3) return;
  __syncthreads();
  out[threadIdx.x] = 1.0f;
}
HR_API void stray(int which, float* out, const HrCudaLaunch* launch) {
  if (which == 0) launch_blocks(*launch, dim3(2), reads_what_nobody_wrote, out);
  else launch_blocks(*launch, dim3(1), leaves_early, out);
}
"""


@pytest.mark.native
def test_the_emulation_notices_mistakes(tmp_path: Path) -> None:
    """Shared memory starts as NaN for every block; a thread that misses a barrier stops the run."""
    source, out = tmp_path / "stray.cu", torch.zeros(512)
    source.write_text(STRAYS)
    lib = compile_emulated(source, tmp_path / "stray.so")
    lib.stray(0, ctypes.c_void_p(out.data_ptr()), byref(Launch()))
    assert out.isnan().nonzero().flatten().tolist() == [0, 256] and float(out.nansum()) == 510
    script = f"import ctypes; l = ctypes.CDLL({str(tmp_path / 'stray.so')!r}); b = ctypes.create_string_buffer(4096)\n"
    script += "l.stray(1, b, ctypes.create_string_buffer(64))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0 and "a thread ended while others of its group wait" in done.stderr
