"""Batches: what counts as a photo, one folder a photo, going on past failures, picking up where a killed run was."""

from __future__ import annotations

import json
import types
from pathlib import Path
from typing import Any

import pytest

from headrecon.batch import find_photos, reconstruct_batch
from headrecon.cli import main
from headrecon.errors import InputError, NoFaceFound


class _Result:
    def save(self, folder: Path, overwrite: bool = False, progress: Any = None) -> None:
        progress("writing", 0.9)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "head.json").write_text(json.dumps({"schema": "headrecon.head/1", "overwritten": overwrite}))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A pipeline that fails on names with `bad` or `odd` in them, so that only the batch itself is tested here."""
    seen: list[str] = []

    def reconstruct(photo: Path, config: Any = None, *, engine: Any = None, progress: Any = None) -> _Result:
        assert engine == "engine"
        seen.append(Path(photo).name)
        progress("looking", 0.5)
        if "bad" in photo.name:
            raise NoFaceFound(f"{photo.name}: no face found")
        if "odd" in photo.name:
            raise RuntimeError("a bug")
        return _Result()

    fake = types.ModuleType("headrecon.pipeline")
    fake.reconstruct = reconstruct  # type: ignore[attr-defined]
    fake.load_engine = lambda config, progress: "engine"  # type: ignore[attr-defined]
    monkeypatch.setitem(__import__("sys").modules, "headrecon.pipeline", fake)
    return seen


def touch(folder: Path, *names: str) -> list[Path]:
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return paths


def test_photos_are_found_by_suffix_in_sorted_order(tmp_path: Path) -> None:
    touch(tmp_path, "b.JPG", "a.webp", "notes.txt", ".c.png", "sub/d.png")
    assert [p.name for p in find_photos([tmp_path])] == ["a.webp", "b.JPG"]


def test_a_named_file_may_have_any_suffix_and_counts_once(tmp_path: Path) -> None:
    (photo,) = touch(tmp_path, "scan.raw")
    assert find_photos([photo, photo]) == [photo]


def test_missing_paths_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file, and no folder"):
        find_photos([tmp_path / "absent" / "a.jpg"])


def test_it_goes_on_past_failures_and_writes_a_summary(tmp_path: Path, calls: list[str]) -> None:
    photos = touch(tmp_path / "in", "a.jpg", "bad.jpg", "odd.jpg", "z.jpg")
    items = reconstruct_batch(photos, tmp_path / "out")
    assert calls == ["a.jpg", "bad.jpg", "odd.jpg", "z.jpg"]
    assert [i.status for i in items] == ["done", "failed", "failed", "done"]
    assert items[1].error == "bad.jpg: no face found"
    assert items[2].error == "unexpected RuntimeError: a bug"
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["photos"], summary["done"], summary["kept"], summary["failed"]) == (4, 2, 0, 2)
    assert [i["folder"] for i in summary["items"]] == ["a", "bad", "odd", "z"]


def test_a_second_run_keeps_what_is_done_unless_told_otherwise(tmp_path: Path, calls: list[str]) -> None:
    photos = touch(tmp_path / "in", "a.jpg", "bad.jpg")
    reconstruct_batch(photos, tmp_path / "out")
    calls.clear()
    assert [i.status for i in reconstruct_batch(photos, tmp_path / "out")] == ["kept", "failed"]
    assert calls == ["bad.jpg"]
    assert [i.status for i in reconstruct_batch(photos[:1], tmp_path / "out", overwrite=True)] == ["done"]


def test_photos_of_one_name_get_folders_of_their_own(tmp_path: Path, calls: list[str]) -> None:
    photos = touch(tmp_path, "x/a.jpg", "x/a.png", "y/a.jpg", "y/b.jpg")
    folders = [i.folder for i in reconstruct_batch(photos, tmp_path / "out")]
    assert len(set(folders)) == 4
    assert folders[3] == "b"


def test_progress_never_goes_back_and_names_the_photo(tmp_path: Path, calls: list[str]) -> None:
    photos = touch(tmp_path / "in", "a.jpg", "bad.jpg", "c.jpg")
    seen: list[tuple[str, float]] = []
    reconstruct_batch(photos, tmp_path / "out", progress=lambda stage, fraction: seen.append((stage, fraction)))
    fractions = [fraction for _, fraction in seen]
    assert fractions == sorted(fractions)
    assert any(stage.startswith("2/3 bad.jpg") for stage, _ in seen)


def test_the_command_prints_a_table_and_fails_when_one_failed(
    tmp_path: Path, calls: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    touch(tmp_path / "in", "a.jpg", "bad.jpg")
    command = ["reconstruct", str(tmp_path / "in"), "--batch", "--out", str(tmp_path / "out")]
    assert main(command) == 1
    said = capsys.readouterr().out
    assert "failed" in said
    assert "bad.jpg: no face found" in said
    assert "1 done, 0 kept from before, 1 failed" in said
    (tmp_path / "in" / "bad.jpg").unlink()
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kept"] == 1


def test_an_output_that_is_a_file_is_refused(tmp_path: Path, calls: list[str]) -> None:
    (photo,) = touch(tmp_path, "a.jpg")
    (tmp_path / "out").touch()
    with pytest.raises(InputError, match="cannot write"):
        reconstruct_batch([photo], tmp_path / "out")
    assert calls == []
