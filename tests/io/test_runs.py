from __future__ import annotations

import json
import os
import stat
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headrecon.errors import InputError
from headrecon.io.runs import (
    Timings,
    check_output_folder,
    format_json,
    is_output_folder,
    output_folder,
    versions,
    write_json,
    write_text,
)


def finish(target: Path, text: str, overwrite: bool = False) -> None:
    with output_folder(target, overwrite) as staging:
        write_json(staging / "head.json", {"schema": "headrecon.head/1", "text": text})


def test_nothing_is_there_until_the_block_ends(tmp_path):
    target = tmp_path / "out"
    with output_folder(target) as staging:
        (staging / "a.txt").write_text("a")
        assert not target.exists()
        assert staging.parent == tmp_path
    assert [p.name for p in target.iterdir()] == ["a.txt"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_folder_has_ordinary_permissions(tmp_path):
    (tmp_path / "plain").mkdir()
    finish(tmp_path / "out", "x")
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, InputError])
def test_failure_leaves_nothing_not_even_the_parents_it_made(tmp_path, error):
    def fail() -> None:
        with output_folder(tmp_path / "a" / "b" / "out") as staging:
            (staging / "half.txt").write_text("half")
            raise error("stop")

    with pytest.raises(error):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_failed_overwrite_keeps_the_old_result(tmp_path):
    finish(tmp_path / "out", "first")
    with pytest.raises(RuntimeError), output_folder(tmp_path / "out", overwrite=True):
        raise RuntimeError("stop")
    assert json.loads((tmp_path / "out" / "head.json").read_text())["text"] == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_overwrite_replaces_everything(tmp_path):
    finish(tmp_path / "out", "first")
    (tmp_path / "out" / "stale.txt").write_text("old")
    finish(tmp_path / "out", "second", overwrite=True)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["head.json"]
    assert "second" in (tmp_path / "out" / "head.json").read_text()
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_failed_rename_puts_the_old_result_back(tmp_path, monkeypatch):
    finish(tmp_path / "out", "first")
    rename = Path.rename

    def broken(self: Path, target: Path) -> Path:
        if ".partial-" in self.name:
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", broken)
    with pytest.raises(InputError, match="No space left"):
        finish(tmp_path / "out", "second", overwrite=True)
    assert "first" in (tmp_path / "out" / "head.json").read_text()
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_existing_output_is_refused_before_any_work(tmp_path):
    finish(tmp_path / "out", "first")
    for attempt in (check_output_folder, lambda p: finish(p, "second")):
        with pytest.raises(InputError, match="--overwrite"):
            attempt(tmp_path / "out")


def test_overwrite_does_not_delete_a_strangers_folder(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.json").write_text('{"schema": "thesis/1"}')
    (home / "list.json").write_text("[1]")
    (home / "broken.json").write_bytes(b"\xff{")
    with pytest.raises(InputError, match="did not write"):
        finish(home, "mine", overwrite=True)
    assert len(list(home.iterdir())) == 3
    assert not is_output_folder(home)


def test_empty_existing_folder_is_welcome(tmp_path):
    (tmp_path / "out").mkdir()
    finish(tmp_path / "out", "x")
    assert (tmp_path / "out" / "head.json").exists()


def test_link_to_a_folder_stays_a_link(tmp_path):
    finish(tmp_path / "real", "first")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    finish(tmp_path / "link", "second", overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert "second" in (tmp_path / "real" / "head.json").read_text()


def test_file_in_the_way(tmp_path):
    (tmp_path / "file").write_text("x")
    for target in (tmp_path / "file", tmp_path / "file" / "out", tmp_path / "file" / "a" / "out"):
        for attempt in (check_output_folder, lambda p: finish(p, "x")):
            with pytest.raises(InputError, match=r"file|cannot write"):
                attempt(target)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_unwritable_parent(tmp_path):
    parent = Path("/proc") if os.geteuid() == 0 else tmp_path
    if parent == tmp_path:
        tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="cannot write"):
        finish(parent / "headrecon_out", "x")
    if parent == tmp_path:
        tmp_path.chmod(0o700)


def test_json_layout_is_stable():
    value = {"b": np.float32(0.1), "a": np.eye(2), "n": None, "t": (1, 2), "e": {}, "s": "Zoë <b>", "p": Path("x/y")}
    assert format_json(value, digits=6) == (
        '{\n  "b": 0.1,\n  "a": [\n    [1.0, 0.0],\n    [0.0, 1.0]\n  ],\n  "n": null,\n  "t": [1, 2],\n  "e": {},\n'
        '  "s": "Zoë <b>",\n  "p": "x/y"\n}'
    )
    assert (
        format_json({"x": torch.tensor([-0.0, 1e-12, 123456789.123])}, digits=4)
        == '{\n  "x": [0.0, 1e-12, 123500000.0]\n}'
    )


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False, allow_infinity=False),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
        max_leaves=12,
    )
)
def test_json_comes_back(value):
    assert json.loads(format_json(value, digits=17)) == value


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), np.array([1.0, np.nan])])
def test_json_refuses_what_json_lacks(bad):
    with pytest.raises(ValueError, match="JSON cannot hold"):
        format_json({"x": bad})


def test_write_text_replaces_whole(tmp_path):
    write_text(tmp_path / "a.txt", "long text")
    write_text(tmp_path / "a.txt", "é")
    assert (tmp_path / "a.txt").read_bytes() == "é".encode()
    with pytest.raises(InputError, match="cannot write"):
        write_text(tmp_path / "none" / "a.txt", "x")
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_versions_name_what_changes_results():
    found = versions()
    assert {"headrecon", "python", "numpy", "torch"} <= set(found)
    assert found["numpy"] == np.__version__


def test_timings_add_up_and_survive_errors():
    timings = Timings()
    for _ in range(2):
        with timings.stage("sleep"):
            time.sleep(0.01)
    with pytest.raises(KeyError), timings.stage("fail"):
        raise KeyError("x")
    assert list(timings.seconds) == ["sleep", "fail"]
    assert timings.seconds["sleep"] >= 0.02
    assert timings.as_dict()["total"] == pytest.approx(sum(timings.seconds.values()), abs=1e-3)


def test_stages_beside_each_other_count_once_in_the_total():
    timings = Timings()
    with timings.stage("outer"), timings.stage("inner"):
        time.sleep(0.02)
    assert timings.seconds["inner"] <= timings.seconds["outer"]
    assert timings.total() == pytest.approx(timings.seconds["outer"], abs=1e-3)
    before = timings.total()
    time.sleep(0.01)
    with timings.stage("later"):
        pass
    assert timings.total() - before < 0.01, "what lies between stages does not count"
