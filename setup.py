"""Builds the native library (cuda_ext/) into headrecon/ops/lib/. Everything else is declared in pyproject.toml.

The library is plain C++ behind a C ABI: neither torch nor the Python headers are needed, and one build serves every
Python and torch version. Without a working C++ compiler the installation goes on: the ops then run their (slower)
reference implementations and `headrecon doctor` says so.
"""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

LIBRARY = "headrecon.ops.lib.libheadrecon_cpu"
SOURCES = sorted(Path("cuda_ext/cpu").glob("*.cpp"))
HEADERS = sorted(p for d in ("include", "cpu") for s in ("*.h", "*.inl") for p in Path("cuda_ext", d).glob(s))
# No contraction to fused multiply-add: the same numbers on every instruction set. Nobody reads errno or floating-point
# traps; promising so lets square roots and selections become vector instructions.
COMMON_FLAGS = ["-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-Icuda_ext/include"]
COMMON_FLAGS += ["-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
AVX2_FLAGS = ["-mavx2", "-mfma", "-mbmi", "-mbmi2", "-mlzcnt", "-mf16c", "-mpopcnt", "-mmovbe"]
AVX512_FLAGS = ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq"]


class NativeBuildError(Exception):
    """The compiler is missing or failed; the message is its output."""


def compiler() -> list[str]:
    """The C++ compiler to run: $CXX, else c++."""
    return shlex.split(os.environ.get("CXX", "")) or ["c++"]


def run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    except OSError as error:
        raise NativeBuildError(f"cannot run {command[0]!r}: {error}") from error
    if done.returncode != 0:
        raise NativeBuildError(f"{shlex.join(command)}\n{done.stdout}{done.stderr}")


def accepts(flags: list[str]) -> bool:
    """Whether the compiler knows these flags."""
    with tempfile.TemporaryDirectory() as folder:
        probe = Path(folder, "probe.cpp")
        probe.write_text("int probe() { return 0; }\n")
        try:
            run([*compiler(), *flags, "-c", str(probe), "-o", str(Path(folder, "probe.o"))])
        except NativeBuildError:
            return False
    return True


def target_is_x86_64() -> bool:
    if "-arch arm64" in os.environ.get("ARCHFLAGS", ""):
        return False
    return platform.machine().lower() in ("x86_64", "amd64")


def flags_by_source() -> dict[Path, list[str]]:
    """The flags of each source. Only the AVX-512 unit gets AVX-512, only cpu_info runs on any CPU at all."""
    base: list[str] = []
    defines: list[str] = []
    with_avx512 = False
    if target_is_x86_64():
        base = AVX2_FLAGS
        with_avx512 = accepts(AVX512_FLAGS)
        defines = ["-DHR_WITH_AVX512"] if with_avx512 else []
    flags = {}
    for source in SOURCES:
        own = [] if source.stem == "cpu_info" else [*base]
        if source.stem.endswith("_avx512") and with_avx512:
            own += AVX512_FLAGS
        flags[source] = [*COMMON_FLAGS, *shlex.split(os.environ.get("CXXFLAGS", "")), *defines, *own]
    return flags


def build_library(target: Path, objects: Path) -> None:
    """Compile every source (in parallel) and link them into `target`, replacing it in one step."""
    objects.mkdir(parents=True, exist_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    jobs = []
    for source, flags in flags_by_source().items():
        built = objects / f"{source.stem}.o"
        jobs.append((built, [*compiler(), *flags, "-c", str(source), "-o", str(built)]))
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        list(pool.map(run, [command for _, command in jobs]))
    partial = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    run([*compiler(), "-shared", "-pthread", *[str(obj) for obj, _ in jobs], "-o", str(partial)])
    os.replace(partial, target)  # a process that has the old library loaded keeps it


class BuildNative(build_ext):
    """Builds the one extension as a plain shared library; a failure is reported, not raised."""

    def get_ext_filename(self, fullname: str) -> str:
        return f"{fullname.replace('.', '/')}.so"  # no Python ABI in the name: ctypes loads it

    def get_export_symbols(self, ext: Extension) -> list[str]:
        return []

    def build_extension(self, ext: Extension) -> None:
        target = Path(self.get_ext_fullpath(ext.name))
        newest = max(p.stat().st_mtime for p in [*SOURCES, *HEADERS, Path(__file__)])
        if not self.force and target.exists() and target.stat().st_mtime > newest:
            return
        try:
            build_library(target, Path(self.build_temp) / "cuda_ext")
        except NativeBuildError as error:
            if os.environ.get("HEADRECON_REQUIRE_NATIVE") == "1":
                raise
            print(
                f"warning: the native library was not built, the slower reference ops will be used.\n{error}\n"
                "To build it later: install a C++ compiler and run `python setup.py build_ext --inplace` "
                "(or `pip install --force-reinstall --no-deps .`).",
                file=sys.stderr,
            )

    def copy_extensions_to_source(self) -> None:
        for ext in self.extensions:
            built, wanted = Path(self.build_lib, self.get_ext_filename(ext.name)), Path(self.get_ext_filename(ext.name))
            if built.exists():
                wanted.parent.mkdir(parents=True, exist_ok=True)
                self.copy_file(str(built), str(wanted))


class WheelForAnyPython(bdist_wheel):
    """The library does not use the Python ABI: one wheel per platform serves every Python 3."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(
    ext_modules=[
        Extension(
            LIBRARY, sources=[str(p) for p in SOURCES], depends=[str(p) for p in HEADERS], language="c++", optional=True
        )
    ],
    cmdclass={"build_ext": BuildNative, "bdist_wheel": WheelForAnyPython},
)
