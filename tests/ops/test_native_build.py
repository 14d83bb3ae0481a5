"""Building the native library: with a compiler it comes out, without one the installation says so and goes on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def build(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "setup.py", "build_ext", "--build-lib", str(folder / "lib"), "--build-temp", str(folder)]
    clean = {k: v for k, v in os.environ.items() if k not in ("CXX", "CXXFLAGS", "HEADRECON_REQUIRE_NATIVE")}
    clean["HEADRECON_CUDA"] = "0"  # takes a minute, and is looked at by `make check`
    return subprocess.run(
        command, cwd=REPOSITORY, env=clean | environment, capture_output=True, text=True, check=False, timeout=300
    )


def test_without_a_compiler_the_installation_goes_on_and_says_what_to_do(tmp_path: Path) -> None:
    done = build(tmp_path, CXX=str(tmp_path / "no-such-compiler"))
    assert done.returncode == 0, done.stderr
    assert "the native library was not built" in done.stderr
    assert "no-such-compiler" in done.stderr
    assert "install a C++ compiler" in done.stderr
    assert not list(tmp_path.rglob("*.so"))


def test_who_insists_on_the_library_gets_an_error(tmp_path: Path) -> None:
    done = build(tmp_path, CXX=str(tmp_path / "no-such-compiler"), HEADRECON_REQUIRE_NATIVE="1")
    assert done.returncode != 0
    assert "no-such-compiler" in done.stderr


@pytest.mark.native
def test_no_unit_but_its_own_is_compiled_for_avx512(tmp_path: Path) -> None:
    """A wheel must run where AVX-512 is missing: no flag may depend on the building machine."""
    wrapper = tmp_path / "compiler"
    wrapper.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/log\nexec c++ "$@"\n')
    wrapper.chmod(0o755)
    done = build(tmp_path, CXX=str(wrapper))
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.rglob("libheadrecon_cpu.so"))) == 1
    lines = (tmp_path / "log").read_text().splitlines()
    assert not any("-march=native" in line or "-mtune=native" in line for line in lines)
    with_avx512 = [line for line in lines if "-mavx512" in line and "probe" not in line]
    assert with_avx512 == [line for line in lines if "_avx512.cpp" in line and " -c " in line]
    (probe_any,) = [line for line in lines if "-c cuda_ext/cpu/cpu_info.cpp" in line]
    assert "-mavx" not in probe_any  # it runs before anyone knows what the CPU has
