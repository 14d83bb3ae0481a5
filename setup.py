"""Builds the native library (cuda_ext/) into headrecon/ops/lib/. Everything else is declared in pyproject.toml.

The library is plain C++ behind a C ABI: neither torch nor the Python headers are needed, and one build serves every
Python and torch version. Without a working C++ compiler the installation goes on: the ops then run their (slower)
reference implementations and `headrecon doctor` says so.

Where CUDA's compiler nvcc and a GPU are, a second library is built from cuda_ext/cuda. In the environment:

HEADRECON_REQUIRE_NATIVE=1  fail when a part that can be tried does not build
HEADRECON_CUDA              0: leave the CUDA part out; 1: build it also without a GPU, and fail without nvcc
HEADRECON_CUDA_ARCHS        for which GPUs, such as "90" or "80 90" (default: all that the list below and nvcc share)
CXX, CXXFLAGS, NVCC, CUDA_HOME, NVCC_CCBIN (the C++ compiler that nvcc uses) say what to run and with what

`python setup.py check_cuda` compiles the CUDA sources for one GPU and shows what each kernel needs.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from setuptools import Command, Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

CPU_LIBRARY = "headrecon.ops.lib.libheadrecon_cpu"
CUDA_LIBRARY = "headrecon.ops.lib.libheadrecon_cuda"
CPU_SOURCES = sorted(Path("cuda_ext/cpu").glob("*.cpp"))
CUDA_SOURCES = sorted(Path("cuda_ext/cuda").glob("*.cu"))
# No contraction to fused multiply-add: the same numbers on every instruction set. Nobody reads errno or floating-point
# traps; promising so lets square roots and selections become vector instructions.
COMMON_FLAGS = ["-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-Icuda_ext/include"]
COMMON_FLAGS += ["-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
AVX2_FLAGS = ["-mavx2", "-mfma", "-mbmi", "-mbmi2", "-mlzcnt", "-mf16c", "-mpopcnt", "-mmovbe"]
AVX512_FLAGS = ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq"]
# The same on the GPU: face numbers and weights come out as on the CPU.
CUDA_FLAGS = ["-std=c++17", "-O3", "-fmad=false", "-Xcompiler", "-fPIC,-fvisibility=hidden"]
CUDA_FLAGS += ["-Icuda_ext/include", "-Icuda_ext/cuda"]
# Machine code for the kinds of GPU that people have, from Turing to Blackwell; of the newest also PTX, for later ones.
CUDA_ARCHS = ["75", "80", "86", "89", "90", "100", "120"]
#: Bytes that a kernel may keep in memory for want of registers. Arrays that it indexes at run time are not counted.
MOST_SPILLED_BYTES = 64


def headers(*folders: str) -> list[Path]:
    return sorted(p for d in folders for s in ("*.h", "*.inl") for p in Path("cuda_ext", d).glob(s))


class NativeBuildError(Exception):
    """The compiler is missing or failed; the message is its output."""


def compiler() -> list[str]:
    """The C++ compiler to run: $CXX, else c++."""
    return shlex.split(os.environ.get("CXX", "")) or ["c++"]


def run(command: list[str]) -> str:
    """Run it; returns what it printed. Raises NativeBuildError with that if it fails."""
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    except OSError as error:
        raise NativeBuildError(f"cannot run {command[0]!r}: {error}") from error
    if done.returncode != 0:
        raise NativeBuildError(f"{shlex.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


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
    for source in CPU_SOURCES:
        own = [] if source.stem == "cpu_info" else [*base]
        if source.stem.endswith("_avx512") and with_avx512:
            own += AVX512_FLAGS
        flags[source] = [*COMMON_FLAGS, *shlex.split(os.environ.get("CXXFLAGS", "")), *defines, *own]
    return flags


@dataclass(frozen=True)
class Build:
    """How one shared library comes about: a command per source, and the one that links the objects."""

    compile: dict[Path, list[str]]
    link: list[str]


def cpu_build() -> Build:
    commands = {source: [*compiler(), *flags] for source, flags in flags_by_source().items()}
    return Build(commands, [*compiler(), "-shared", "-pthread"])


def find_nvcc() -> str | None:
    """CUDA's compiler, or None."""
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    candidates = [os.environ.get("NVCC"), *(f"{h}/bin/nvcc" for h in homes[:2] if h), "nvcc", f"{homes[2]}/bin/nvcc"]
    return next((found for c in candidates if c and (found := shutil.which(c))), None)


def has_gpu() -> bool:
    """Whether NVIDIA's driver shows itself; nothing is started to find out."""
    return shutil.which("nvidia-smi") is not None or Path("/dev/nvidiactl").exists()


def cuda_archs(nvcc: str) -> list[str]:
    """The architectures to build for, oldest first."""
    asked = os.environ.get("HEADRECON_CUDA_ARCHS", "").replace(",", " ").split()
    if asked:
        return sorted(asked, key=int)
    known = subprocess.run([nvcc, "--list-gpu-arch"], check=False, capture_output=True, text=True).stdout.split()
    return [arch for arch in CUDA_ARCHS if f"compute_{arch}" in known]


def cuda_build() -> Build | None:
    """None where there is no nvcc or no GPU, or the CUDA part is not wanted."""
    # Without a GPU a minute of compiling for seven architectures would serve nobody.
    wish = os.environ.get("HEADRECON_CUDA") or ("1" if has_gpu() and find_nvcc() else "0")
    nvcc = None if wish == "0" else find_nvcc()
    if nvcc is None:
        if wish == "1":
            raise NativeBuildError("HEADRECON_CUDA=1, but nvcc was not found on the PATH or in $CUDA_HOME/bin")
        return None
    archs = cuda_archs(nvcc)
    if not archs:
        known = " ".join(CUDA_ARCHS)
        raise NativeBuildError(f"{nvcc} knows none of the architectures {known}: name one in HEADRECON_CUDA_ARCHS")
    targets = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in archs[:-1]]
    targets.append(f"-gencode=arch=compute_{archs[-1]},code=[sm_{archs[-1]},compute_{archs[-1]}]")
    names = " ".join(f"{arch[:-1]}.{arch[-1]}" for arch in archs)
    command = [nvcc, *CUDA_FLAGS, *targets, f'-DHR_CUDA_ARCHS="{names}"']
    # The runtime goes into the library: it then loads beside whatever torch brings along.
    return Build(dict.fromkeys(CUDA_SOURCES, command), [nvcc, "-shared", "-cudart", "static"])


def is_current(built: Path, command: list[str]) -> bool:
    """Whether an object is newer than every file that it was made of, and was made by this command."""
    recipe, made_of = built.with_suffix(".cmd"), built.with_suffix(".d")
    if not (built.exists() and recipe.exists() and made_of.exists()) or recipe.read_text() != shlex.join(command):
        return False
    rule = made_of.read_text().replace("\\\n", " ").partition(":")[2]
    files = [Path(name) for name in rule.split()]
    return all(f.exists() and f.stat().st_mtime < built.stat().st_mtime for f in files)


def compile_source(command: list[str], built: Path, force: bool) -> None:
    """Compile unless that was done already: an edit costs the sources that it touches, not the whole library."""
    if not force and is_current(built, command):
        return
    run([*command, "-MMD", "-MF", str(built.with_suffix(".d")), "-o", str(built)])
    built.with_suffix(".cmd").write_text(shlex.join(command))


def build_library(build: Build, target: Path, objects: Path, force: bool) -> None:
    """Compile what changed (in parallel) and link it into `target`, replacing it in one step."""
    objects.mkdir(parents=True, exist_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    jobs = [(objects / f"{source.name}.o", [*command, "-c", str(source)]) for source, command in build.compile.items()]
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        list(pool.map(lambda job: compile_source(job[1], job[0], force), jobs))
    partial = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    run([*build.link, *[str(obj) for obj, _ in jobs], "-o", str(partial)])
    os.replace(partial, target)  # a process that has the old library loaded keeps it


class BuildNative(build_ext):
    """Builds the extensions as plain shared libraries; a failure is reported, not raised."""

    def get_ext_filename(self, fullname: str) -> str:
        return f"{fullname.replace('.', '/')}.so"  # no Python ABI in the name: ctypes loads it

    def get_export_symbols(self, ext: Extension) -> list[str]:
        return []

    def build_extension(self, ext: Extension) -> None:
        target = Path(self.get_ext_fullpath(ext.name))
        newest = max(Path(p).stat().st_mtime for p in [*ext.sources, *ext.depends, __file__])
        if not self.force and target.exists() and target.stat().st_mtime > newest:
            return
        is_cuda = ext.name == CUDA_LIBRARY
        try:
            build = cuda_build() if is_cuda else cpu_build()
            if build is not None:
                build_library(build, target, Path(self.build_temp) / "cuda_ext", bool(self.force))
        except NativeBuildError as error:
            insisted = ["HEADRECON_REQUIRE_NATIVE", "HEADRECON_CUDA"] if is_cuda else ["HEADRECON_REQUIRE_NATIVE"]
            if any(os.environ.get(name) == "1" for name in insisted):
                raise
            print(f"{CUDA_WARNING if is_cuda else CPU_WARNING}\n{error}\n{ADVICE}", file=sys.stderr)

    def copy_extensions_to_source(self) -> None:
        for ext in self.extensions:
            built, wanted = Path(self.build_lib, self.get_ext_filename(ext.name)), Path(self.get_ext_filename(ext.name))
            if built.exists():
                wanted.parent.mkdir(parents=True, exist_ok=True)
                self.copy_file(str(built), str(wanted))


CPU_WARNING = "warning: the native library was not built, the slower reference ops will be used."
CUDA_WARNING = "warning: the CUDA part of the native library was not built; tensors on a GPU will be refused."
ADVICE = (
    "To build it later: install a C++ compiler and run `python setup.py build_ext --inplace` "
    "(or `pip install --force-reinstall --no-deps .`)."
)


class CheckCuda(Command):
    """Compiles the CUDA sources for one GPU, without linking, and shows registers, spills and shared memory."""

    description = "compile the CUDA sources for one architecture and show what each kernel needs"
    user_options: ClassVar = [("arch=", None, "architecture (default: 90)")]

    def initialize_options(self) -> None:
        self.arch = "90"

    def finalize_options(self) -> None:
        pass

    def run(self) -> None:
        nvcc = find_nvcc()
        if nvcc is None or os.environ.get("HEADRECON_CUDA") == "0":
            reason = "HEADRECON_CUDA is 0" if nvcc else "nvcc is neither on the PATH nor in $CUDA_HOME/bin"
            print(f"CUDA sources: not compiled here, because {reason}")
            return
        with tempfile.TemporaryDirectory() as folder:
            commands = [
                [nvcc, *CUDA_FLAGS, f"-arch=sm_{self.arch}", "-Werror", "all-warnings", "--resource-usage", "-cubin"]
                + ["-o", str(Path(folder, f"{source.stem}.cubin")), str(source)]
                for source in CUDA_SOURCES
            ]
            with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
                reports = list(pool.map(run, commands))
        worst = 0
        print(f"CUDA sources for sm_{self.arch}: registers, spilled, stack and shared bytes of each kernel")
        for source, report in zip(CUDA_SOURCES, reports, strict=True):
            for kernel, figures in sorted(kernel_usage(report).items()):
                registers, spilled, stack, shared = figures
                worst = max(worst, spilled)
                print(f"  {registers:4d} {spilled:4d} {stack:5d} {shared:6d}  {source.stem}: {kernel}")
        if worst > MOST_SPILLED_BYTES:
            raise SystemExit(f"a kernel spills {worst} bytes; at most {MOST_SPILLED_BYTES} are allowed in setup.py")


def kernel_usage(report: str) -> dict[str, tuple[int, int, int, int]]:
    """Registers, spilled, stack and shared bytes of each kernel in what nvcc --resource-usage prints."""
    wanted = (r"Used (\d+) registers", r"(\d+) bytes spill stores", r"(\d+) bytes stack frame", r"(\d+) bytes smem")
    usage = {}
    for block in report.split("Compiling entry function ")[1:]:
        registers, spilled, stack, shared = (int(n[1]) if (n := re.search(p, block)) else 0 for p in wanted)
        usage[plain_name(block.split("'")[1])] = (registers, spilled, stack, shared)
    return usage


def plain_name(mangled: str) -> str:
    """A kernel's name as in the source: the mangled one has its length before it and its template argument after."""
    found = re.search(r"_cu_[0-9a-f]{8}(\d+)(\w+)", mangled)
    if not found:
        return mangled
    name, rest = found[2][: int(found[1])], found[2][int(found[1]) :]
    argument = re.match(r"INS_\d+(\w+?)EEE", rest)
    return f"{name}<{argument[1]}>" if argument else name


class WheelForAnyPython(bdist_wheel):
    """The library does not use the Python ABI: one wheel per platform serves every Python 3."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


def extension(name: str, sources: list[Path], depends: list[Path]) -> Extension:
    return Extension(name, [str(p) for p in sources], depends=[str(p) for p in depends], language="c++", optional=True)


setup(
    ext_modules=[
        extension(CPU_LIBRARY, CPU_SOURCES, headers("include", "cpu")),
        extension(CUDA_LIBRARY, CUDA_SOURCES, headers("include", "cuda")),
    ],
    cmdclass={"build_ext": BuildNative, "bdist_wheel": WheelForAnyPython, "check_cuda": CheckCuda},
)
