"""Tables and progress as people see them."""

from __future__ import annotations

import os
import pty
import select
import sys

import pytest

from headrecon.cli.console import Progress, table


def test_a_table_is_aligned_with_a_rule_under_its_header() -> None:
    text = table([("a", "long value", "x"), ("bbb", "v", "")], ("k", "value", "note"))
    assert text.splitlines() == [
        "k    value       note",
        "---  ----------  ----",
        "a    long value  x",
        "bbb  v",
    ]


def test_plain_progress_is_a_line_a_stage_and_never_goes_back(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("first") as progress:
        for stage, fraction in [("a", 0.1), ("a", 0.2), ("b", 0.6), ("c", 0.3), ("d", 1.5)]:
            progress(stage, fraction)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "first"
    assert [line.split("] ")[1] for line in lines[1:]] == ["a", "b", "c", "d"]
    assert [int(line[1:4]) for line in lines[1:]] == [10, 60, 60, 100]


def drained(descriptor: int) -> str:
    """All that lies in a terminal's buffer; one read returns only a part of it now and then."""
    parts = []
    while select.select([descriptor], [], [], 0.2)[0]:
        parts.append(os.read(descriptor, 65536))
    return b"".join(parts).decode()


def test_on_a_terminal_there_is_a_bar_with_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    controller, terminal = pty.openpty()
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")
    with os.fdopen(terminal, "w") as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        with Progress("first") as progress:
            progress("painting", 0.5)
        stream.flush()
        shown = drained(controller)
    os.close(controller)
    assert "first" in shown
    assert "painting" in shown
    assert "50 %" in shown
    assert "left" in shown
