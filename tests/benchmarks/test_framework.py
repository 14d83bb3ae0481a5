"""The benchmark framework: what it finds, what it skips, what it says, and that it notices wrong results."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from headrecon.benchmarks import machine as machines
from headrecon.benchmarks.cases import Case, Peer, Prepared, peer
from headrecon.benchmarks.catalogue import FAMILIES, choose, load_cases
from headrecon.benchmarks.machine import Machine, baseline_ms, merged, report, this_machine
from headrecon.benchmarks.measure import Plan, Row, _one, disagreement, measure
from headrecon.benchmarks.timing import LEAST_RUNS, time_on_cpu
from headrecon.cli import bench, main
from headrecon.cli.bench_table import lines
from headrecon.errors import AssetError, InputError

HERE = Machine("kind", "name", 2, "avx512", "2", "3.11", 0.0)


def _prepare(device: str) -> Prepared:
    return Prepared(lambda: torch.ones(3, device=device))


def _case(op: str = "op", work: str = "work", prepare: Any = _prepare, **more: Any) -> Case:
    return Case(op, work, prepare, **more)


def _measure(case: Case, **plan: Any) -> Row:
    told: list[Row] = []
    rows = measure([case], Plan(seconds=0.01, **plan), told.append)
    assert told == rows
    return rows[0]


def test_every_family_loads_and_every_case_has_a_name_of_its_own() -> None:
    cases, missing = load_cases()
    assert not missing
    assert len({(c.op, c.work) for c in cases}) == len(cases) > 20


def test_small_cases_run() -> None:
    """Every case that may be run under memory checkers, once; big ones are for `make bench`."""
    cases = choose(load_cases()[0], (), "cpu", small=True)
    assert cases
    for case in cases:
        prepared = case.prepare("cpu")
        gap = disagreement(prepared.run(), case.prepare("cpu").run())
        assert gap == 0.0, f"{case.op}: the same inputs give other results, or none that can be compared ({gap})"


def test_names_choose_and_unknown_names_are_refused() -> None:
    cases = [_case("draw", "512²"), _case("draw", "1024²"), _case("look", "512²", small=True)]
    assert [c.work for c in choose(cases, ["1024"], "cpu")] == ["1024²"]
    assert [c.op for c in choose(cases, (), "cpu", small=True)] == ["look"]
    assert choose([_case(devices=("cuda",))], (), "cpu") == []
    with pytest.raises(InputError, match=r"'drow'.*draw, look"):
        choose(cases, ["drow"], "cpu")


def test_two_cases_of_one_name_and_a_family_without_its_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "doubled_cases.py").write_text(
        "from headrecon.benchmarks.cases import Case\nCASES = (Case('a', 'b', print), Case('a', 'b', print))\n"
    )
    (tmp_path / "needy_cases.py").write_text("import a_package_that_nobody_has\n")
    (tmp_path / "broken_cases.py").write_text("from headrecon.benchmarks.cases import NoSuchName\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="two benchmarks"):
        load_cases(["doubled_cases"])
    assert load_cases(["needy_cases"]) == ([], ["needy_cases: needs a_package_that_nobody_has"])
    with pytest.raises(ImportError):  # our own mistake is not taken for a missing package
        load_cases(["broken_cases"])


def test_peers_are_timed_or_skipped_with_the_reason() -> None:
    def fails() -> None:
        raise RuntimeError("no such kernel")

    def prepare(device: str) -> Prepared:
        there = peer("maths", "math", lambda math: lambda: math.factorial(100))
        absent = peer("absent", "a_package_that_nobody_has.part", lambda module: module.run)
        return Prepared(lambda: None, (there, absent, Peer("broken", fails)))

    row = _measure(_case(prepare=prepare))
    maths, absent, broken = row.peers
    assert maths.median_ms is not None
    assert maths.median_ms > 0
    assert (absent.median_ms, absent.skipped) == (None, "not installed; pip install a_package_that_nobody_has")
    assert broken.skipped == "RuntimeError: no such kernel"
    assert _measure(_case(prepare=prepare), peers=False).peers == ()
    said = "\n".join(lines(HERE, [row], {}))
    assert "maths" in said
    assert "peer not run: absent (op): not installed" in said


def test_a_case_that_lacks_something_is_skipped_with_the_reason() -> None:
    def prepare(device: str) -> Prepared:
        raise AssetError("no head model here; run `headrecon models add`")

    row = _measure(_case(prepare=prepare))
    assert row.timing is None
    assert "not run: op, work: no head model here" in "\n".join(lines(HERE, [row], {}))


def test_an_op_that_fails_costs_only_its_own_row(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any) -> None:
    """Neither the figures before it nor those after it, and they are in the file even if something ends the run."""

    def broken(device: str) -> Prepared:
        def run() -> None:
            raise RuntimeError("an illegal memory access was encountered")

        return Prepared(run)

    def unprepared(device: str) -> Prepared:
        raise RuntimeError("no room")

    written: list[int] = []
    real = bench._write_json

    def write(where: str, document: dict[str, Any]) -> None:
        real(where, document)
        written.append(len(document["rows"]))

    monkeypatch.setattr(bench, "_write_json", write)
    cases = [_case("a"), _case("b", prepare=broken), _case("c", prepare=unprepared), _case("d")]
    monkeypatch.setattr("headrecon.benchmarks.catalogue.load_cases", lambda families: (cases, []))
    file = tmp_path / "figures.json"
    assert main(["bench", "--seconds", "0.01", "--json", str(file)]) == 1
    rows = json.loads(file.read_text())["rows"]
    assert rows["a, work"]["timing"] and rows["d, work"]["timing"] and not rows["b, work"]["timing"]
    assert "RuntimeError: an illegal memory access was encountered (" in rows["b, work"]["failed"]
    assert written == [1, 2, 3, 4, 4]
    assert "failed: c, work: RuntimeError: no room" in capsys.readouterr().out


def test_families_are_run_alone(capsys: Any) -> None:
    assert main(["bench", "--family", "ssim", "--list"]) == 0
    assert {line.split(",")[0] for line in capsys.readouterr().out.splitlines()} == {
        "ssim_map", "ssim_map forward + backward",
    }  # fmt: skip


def test_timing_measures_what_it_says() -> None:
    timing = time_on_cpu(lambda: time.sleep(0.02), 0.05)
    assert timing.runs >= LEAST_RUNS
    assert 20.0 <= timing.best_ms <= timing.median_ms < 400.0  # generous: other processes may hold the machine
    assert timing.processor_ms < 10.0, "sleeping takes no processor time"


def test_differences_between_devices_are_noticed() -> None:
    values = torch.linspace(-1, 1, 2001)
    assert disagreement(values, values) == 0.0
    assert disagreement(None, None) is None
    assert disagreement((values, [values * 1.01]), (values, [values])) == pytest.approx(0.01, rel=0.01)
    assert disagreement(values, values[:-1]) == float("inf")
    assert disagreement(values * torch.nan, values) == float("inf")
    numbers = torch.arange(100)
    assert disagreement(numbers.flip(0), numbers) == 1.0
    one = values.clone()
    one[5] = 100.0
    assert disagreement(one, values) == 0.0, "one pixel at an outline in a thousand is let off"


def test_baselines_are_merged_row_by_row_and_shown_as_ratios() -> None:
    first, other = (_measure(_case(prepare=_prepare, work=work, goal_ms=1e-9)) for work in ("a", "b"))
    committed = merged({}, report(HERE, [first, other]))
    assert first.timing is not None
    slow = replace(first, timing=replace(first.timing, median_ms=2 * first.timing.median_ms))
    assert baseline_ms(committed, slow) == first.timing.median_ms
    table = "\n".join(lines(HERE, [slow], committed))
    assert "2.00 x" in table
    assert "missed" in table
    again = merged(committed, report(HERE, [slow]))
    assert baseline_ms(again, first) == slow.timing.median_ms if slow.timing else False
    assert again["rows"]["op, b"] == committed["rows"]["op, b"]


def test_this_machine_has_a_kind() -> None:
    found = this_machine("cpu")
    assert found.kind == found.kind.lower()
    assert str(found.threads) in found.kind
    assert " " not in found.kind


def test_committed_baselines_name_cases_that_exist() -> None:
    known = {f"{c.op}, {c.work}" for c in load_cases(FAMILIES)[0]}
    for path in machines.baseline_path(HERE).parent.glob("*.json"):
        document = json.loads(path.read_text(encoding="utf-8"))
        assert path.stem == document["machine"]["kind"]
        assert set(document["rows"]) <= known, path.name


def test_command_writes_json_and_its_baseline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    committed = tmp_path / "baseline.json"
    monkeypatch.setattr(machines, "baseline_path", lambda machine: committed)
    out = tmp_path / "figures.json"
    arguments = ["bench", "interpolate", "--small", "--seconds", "0.01", "--json", str(out), "--update-baseline"]
    assert main(arguments) == 0
    rows = json.loads(out.read_text(encoding="utf-8"))["rows"]
    assert rows == json.loads(committed.read_text(encoding="utf-8"))["rows"]
    assert "interpolate, 2k faces, 128², 3 images" in rows
    assert rows["interpolate, 2k faces, 128², 3 images"]["timing"]["median_ms"] > 0
    capsys.readouterr()
    assert main(arguments[:-3]) == 0
    assert " x" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rasterise"], "no benchmark is called 'rasterise'"),
        (["--check"], "add --device cuda"),
        (["--seconds", "0"], "--seconds must be positive"),
        (["command", "--repeat", "0"], "--repeat must be at least 1"),
        (["command", "rasterize"], "takes only"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_a_gpu_that_disagrees_is_noticed() -> None:
    """Both devices are the CPU here: what is tested is that results are compared at all."""

    def prepare(device: str) -> Prepared:
        return Prepared(lambda: torch.full((3,), 1.0 if device == "cpu" else 1.01))

    plan = Plan("cuda", check_only=True)
    assert not _one(_case(prepare=prepare), plan).agrees
    row = _one(_case(prepare=prepare, tolerance=0.1), plan)
    assert row.agrees
    assert row.disagreement == pytest.approx(0.01, rel=0.01)
    said = "\n".join(lines(HERE, [_one(_case(prepare=prepare), plan)], {}))
    assert "GPU and CPU disagree: op, work" in said


def test_without_a_gpu_the_reason_is_given(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["bench", "--device", "cuda"]) == 2
    assert "sees none" in capsys.readouterr().err


def test_list_names_cases(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--list"]) == 0
    assert "rasterize + interpolate, 100k faces, 1024²" in capsys.readouterr().out
