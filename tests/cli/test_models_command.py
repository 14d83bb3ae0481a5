"""`headrecon models`: adding, listing and removing, in a cache of its own."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from headrecon.cli import main
from tests.models.flame_files import write_flame


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("HEADRECON_CACHE", str(folder))
    return folder


def listed(capsys: pytest.CaptureFixture[str]) -> dict[str, dict]:
    assert main(["models", "list", "--json"]) == 0
    return {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}


def files_of(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file()) if folder.exists() else []


def test_the_default_model_is_listed_before_it_is_made(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entries = listed(capsys)
    assert entries["anny"]["commercial"] is True
    assert entries["anny"]["path"] is None
    assert files_of(cache) == [], "listing must not fetch or write"


def test_add_list_and_remove(cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_flame(tmp_path / "in")
    assert main(["models", "add", str(source)]) == 0
    said = capsys.readouterr().out
    assert "added flame" in said
    assert "may not be used commercially" in said
    assert "models embed flame" in said
    entry = listed(capsys)["flame"]
    assert (entry["commercial"], entry["licence"]) == (False, "LicenseRef-FLAME")
    assert Path(entry["path"]).is_relative_to(cache)
    assert main(["models", "remove", "flame"]) == 0
    capsys.readouterr()
    assert "flame" not in listed(capsys)
    assert files_of(cache) == []


def test_a_second_model_of_one_name_is_refused_unless_told(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_flame(tmp_path / "in")
    assert main(["models", "add", str(source), "--name", "mine"]) == 0
    assert main(["models", "add", str(source), "--name", "mine"]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main(["models", "add", str(source), "--name", "mine", "--overwrite"]) == 0
    assert main(["models", "add", str(source), "--name", "other", "--licence", "cc-by-4.0"]) == 0
    capsys.readouterr()
    entries = listed(capsys)
    assert entries["mine"]["commercial"] is False
    assert entries["other"]["licence"] == "CC-BY-4.0"


class _Evil:
    def __reduce__(self):
        return (Path.touch, (Path("pwned"),))


def wrong_models(folder: Path) -> dict[str, Path]:
    """Files that are no head models, one of which would create a file if it were unpickled."""
    folder.mkdir()
    (folder / "evil.pkl").write_bytes(pickle.dumps({"v_template": _Evil()}))
    (folder / "notes.txt").write_text("hello")
    (folder / "empty.npz").touch()
    (folder / "cut.npz").write_bytes(b"PK\x03\x04 cut short")
    (folder / "nothing").mkdir()
    return {path.name: path for path in folder.iterdir()} | {"absent.pkl": folder / "absent.pkl"}


def test_wrong_files_are_refused_and_pickles_run_nothing(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, path in wrong_models(tmp_path / "in").items():
        assert main(["models", "add", str(path)]) == 2, name
        last = capsys.readouterr().err.strip().splitlines()[-1]
        assert last.startswith("headrecon: "), name
        assert name in last
    assert not (tmp_path / "pwned").exists()
    assert files_of(cache) == []


@pytest.mark.parametrize("name", ["../evil", "a/b", "anny", "."])
def test_names_cannot_leave_the_cache_or_hide_the_default(
    name: str, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_flame(tmp_path / "in")
    before = files_of(tmp_path)
    assert main(["models", "add", str(source), "--name", name]) == 2
    assert "expected letters, digits" in capsys.readouterr().err
    assert files_of(tmp_path) == before


@pytest.mark.parametrize(
    "arguments", [["remove", "nosuch"], ["remove", "../x"], ["embed", "nosuch"], ["embed", "anny"]]
)
def test_what_is_not_there_cannot_be_removed_or_embedded(
    arguments: list[str], cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", *arguments]) == 2
    assert arguments[1] in capsys.readouterr().err
