"""The licence table: complete, and clean for commercial use where the defaults draw on it."""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
import tomllib
from pathlib import Path

import pytest

import headrecon
from headrecon.cli import main
from headrecon.errors import InputError
from headrecon.licences import COMPONENTS, KINDS, component, licences_of
from headrecon.structures import Licence

ROOT = Path(headrecon.__file__).parents[1]


def test_the_default_path_is_commercially_clean() -> None:
    assert [c.key for c in COMPONENTS if c.default and not c.commercial] == []


def test_entries_are_whole_and_unique() -> None:
    keys = [c.key for c in COMPONENTS]
    assert len(keys) == len(set(keys))
    for c in COMPONENTS:
        assert c.kind in KINDS, c
        assert c.name, c
        assert c.source, c
        assert re.fullmatch(r"[A-Za-z0-9.+-]+( (AND|OR|WITH) [A-Za-z0-9.+-]+)*", c.spdx), c


def test_every_dependency_is_in_the_table() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(d for extra in project["optional-dependencies"].values() for d in extra)]
    names = {re.split(r"[<>=!~ \[]", line)[0] for line in wanted}
    assert names - {c.key for c in COMPONENTS} == set()
    core = {re.split(r"[<>=!~ \[]", line)[0] for line in project["dependencies"]}
    assert {c.key for c in COMPONENTS if c.kind == "package" and c.default} == core


def test_every_direct_dependency_is_pinned() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {line.partition("==")[0].lower() for line in lines if "==" in line and not line.startswith("#")}
    assert {c.key for c in COMPONENTS if c.kind in ("package", "development")} <= pinned


def test_licences_of_keeps_order_and_drops_repeats() -> None:
    found = licences_of(["anny", "flame", "anny"])
    assert [x.name for x in found] == [component("anny").name, component("flame").name]
    assert [x.commercial for x in found] == [True, False]


def declared_licences() -> list[Licence]:
    """Every Licence that a module of the package declares, alone or in a table."""
    found: list[Licence] = []
    for info in pkgutil.walk_packages(headrecon.__path__, "headrecon."):
        if info.name.endswith("__main__"):
            continue
        for value in vars(importlib.import_module(info.name)).values():
            values = value.values() if isinstance(value, dict) else [value]
            found.extend(v for v in values if isinstance(v, Licence))
    return found


def test_what_the_modules_declare_is_what_the_table_says() -> None:
    table = {c.name: (c.spdx, c.commercial) for c in COMPONENTS}
    declared = declared_licences()
    assert len(declared) >= 4
    for licence in declared:
        assert table.get(licence.name) == (licence.spdx, licence.commercial), licence


def test_an_unknown_key_names_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'flame'"):
        licences_of(["flam"])


def test_the_command_prints_every_entry_and_marks_the_restricted(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["licences"]) == 0
    said = capsys.readouterr().out
    for c in COMPONENTS:
        assert re.search(
            rf"^{c.kind} +{re.escape(c.key)} +{re.escape(c.spdx)} +{'yes' if c.commercial else 'NO'} ", said, re.M
        )
    assert "nothing that goes into a head forbids commercial use" in said


def test_for_machines_and_defaults_only(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["licences", "--json", "--default"]) == 0
    entries = json.loads(capsys.readouterr().out)
    assert {e["key"] for e in entries} == {c.key for c in COMPONENTS if c.default}
