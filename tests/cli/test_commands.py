"""The command line itself: quick help, clear refusals, exit codes; without running a reconstruction."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import headrecon
from headrecon.cli import COMMANDS, build_parser, main
from headrecon.errors import InputError

HEAVY = ("torch", "numpy", "scipy", "PIL", "skimage", "av", "rich", "trimesh")


def headrecon_process(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "headrecon.cli", *arguments], capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize(
    "command", ["", "reconstruct", "models", "models list", "models add", "licences", "doctor", "bench"]
)
def test_help_imports_nothing_heavy(command: str) -> None:
    """Importing torch alone takes over a second; `--help` must answer within half of one."""
    code = (
        "import sys\n"
        "from headrecon.cli import main\n"
        "try:\n"
        f"    main({[*command.split(), '--help']!r})\n"
        "except SystemExit as done:\n"
        "    assert done.code == 0, done.code\n"
        f"print('HEAVY:', [m for m in {HEAVY!r} if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "usage: headrecon" in done.stdout
    assert "HEAVY: []" in done.stdout


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = f"import sys, headrecon; print([m for m in {HEAVY!r} if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_public_names_exist() -> None:
    for name in headrecon.__all__:
        assert getattr(headrecon, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'reconstuct'"):
        _ = headrecon.reconstuct


def test_version_is_the_package_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main(["--version"])
    assert done.value.code == 0
    assert capsys.readouterr().out.strip() == f"headrecon {headrecon.__version__}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required"),
        (["recontsruct"], "invalid choice"),
        (["reconstruct"], "required"),
        (["reconstruct", "a.jpg", "--out", "x", "--over"], "unrecognized arguments: --over"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as done:
        main(arguments)
    said = capsys.readouterr().err
    assert done.value.code == 2
    assert message in said
    assert said.count("\n") == 1
    assert said.startswith("headrecon: ")


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--preset", "hihg"], "unknown preset 'hihg'; the presets are draft, default, high; did you mean 'high'?"),
        (["--set", "texture.sise=3"], "did you mean 'texture.size'"),
        (["--set", "nonsense"], "expects key=value"),
        (["--face", "left"], "--face must be a whole number, found 'left'"),
        (["--face", "-1"], "--face must be at least 0, found -1"),
        (["--ipd-mm", "6.3"], "--ipd-mm must be between 35 and 90, found 6.3"),
        (["--age", "old"], "--age must be adult or child, found 'old'"),
        (["--config", "absent.yaml"], "--config absent.yaml: cannot be read (No such file or directory)"),
    ],
)
def test_wrong_settings_are_refused_before_any_work(
    extra: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["reconstruct", str(tmp_path / "never-looked-at.jpg"), "--out", str(out), *extra]) == 2
    assert_one_sentence(capsys, message)
    assert not out.exists()


def assert_one_sentence(capsys: pytest.CaptureFixture[str], message: str) -> None:
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.startswith("headrecon: ")
    assert captured.err.count("\n") == 1


def test_config_file_errors_name_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.yaml"
    for text, message in {
        "texture: {sise: 3}": "did you mean 'texture.size'",
        "texture: [": "line 1: not valid YAML",
        "- a": "expected settings as `key: value`, found list",
    }.items():
        file.write_text(text)
        assert main(["reconstruct", "x.jpg", "--out", str(tmp_path / "o"), "--config", str(file)]) == 2
        captured = capsys.readouterr().err
        assert message in captured
        assert str(file) in captured


def test_a_missing_photo_names_its_nearest_neighbour(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "holiday.jpg").touch()
    assert main(["reconstruct", str(tmp_path / "hollyday.jpg"), "--out", str(tmp_path / "o")]) == 2
    assert_one_sentence(capsys, f"no such file; did you mean {tmp_path / 'holiday.jpg'}?")


def test_several_photos_and_folders_of_empty_files_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both mean one person; here no photo can be used."""
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).touch()
    both = [str(tmp_path / "a.jpg"), str(tmp_path / "b.jpg")]
    for inputs in (both, [str(tmp_path)]):
        assert main(["reconstruct", *inputs, "--out", str(tmp_path / "o")]) == 2
        last = capsys.readouterr().err.splitlines()[-1]
        assert "a.jpg is empty (0 bytes)" in last and "b.jpg is empty (0 bytes)" in last
        assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("extra", [[], ["--batch"]])
def test_a_folder_without_photos_is_refused(
    extra: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").touch()
    (tmp_path / ".hidden.jpg").touch()
    assert main(["reconstruct", str(tmp_path), "--out", str(tmp_path / "o"), *extra]) == 2
    assert_one_sentence(capsys, "holds no picture; expected files ending in")


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        main(["reconstruct", str(tmp_path / "absent.jpg"), "--out", str(tmp_path / "o"), "--debug"])


def test_unexpected_errors_are_one_line_with_a_hint(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(args: object) -> int:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("headrecon.cli.licences.run", broken)
    assert main(["licences"]) == 1
    assert_one_sentence(capsys, "unexpected ZeroDivisionError: division by zero")


def test_an_interrupt_is_exit_code_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(args: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("headrecon.cli.licences.run", interrupted)
    assert main(["licences"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_output_into_a_closed_pipe_is_quiet() -> None:
    """As `headrecon licences | head -n 1`, with a reader that is gone before anything is written."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "headrecon.cli", "licences"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writing)
    assert done.stderr == ""
    assert done.returncode == 0


def test_every_command_takes_debug_and_has_help() -> None:
    text = build_parser().format_help()
    for command in COMMANDS:
        name = {"evaluate": "eval"}.get(module := command.__name__.rpartition(".")[2], module)
        assert re.search(rf"^ +{name}\b", text, re.MULTILINE)


def test_doctor_for_machines_is_json_and_finds_nothing_broken() -> None:
    done = headrecon_process("doctor", "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 0, report
    assert report["ok"] is True
    named = {f["name"] for f in report["findings"]}
    assert {"headrecon", "python", "torch", "CPU part", "H.264 encoder", "face networks", "model cache"} <= named


def test_doctor_works_without_torch_and_says_what_to_do() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"  # what Python does with a package that is not there
        "from headrecon.cli import main; sys.exit(main(['doctor', '--json']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    report = json.loads(done.stdout)
    assert done.returncode == 1
    torch = next(f for f in report["findings"] if f["name"] == "torch")
    assert torch["state"] == "broken"
    assert "pip install" in torch["advice"]
    assert any(f["group"] == "Disk" for f in report["findings"])


def test_doctor_knows_every_dependency() -> None:
    import tomllib

    from headrecon.cli.findings import NEEDED

    project = tomllib.loads((Path(headrecon.__file__).parents[1] / "pyproject.toml").read_text())["project"]
    declared = {re.split(r"[<>=!~ \[]", line)[0] for line in project["dependencies"]}
    assert declared == set(NEEDED)
