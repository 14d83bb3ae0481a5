"""`headrecon eval mesh`: scores, files it writes, and what it says to input that cannot be scored."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from headrecon.cli import main
from headrecon.io.meshes.ply import write_ply
from headrecon.structures import Mesh
from tests.evaluation.shapes import relief


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A prediction in metres, a scan in centimetres, their landmarks, and a folder as `reconstruct` writes it."""
    predicted, marks = relief(nose=14.0)
    scan, scan_marks = relief(step=5.0)
    out = {name: tmp_path / name for name in ("pred.ply", "scan.obj", "scan.txt", "pred.json", "run", "scan.npy")}
    write_ply(out["pred.ply"], Mesh(predicted.vertices * 1e-3, predicted.faces))
    rows = [f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in scan.vertices * 0.1]
    rows += [f"f {' '.join(str(i + 1) for i in face)}" for face in scan.faces.tolist()]
    out["scan.obj"].write_text("\n".join(rows))
    out["scan.txt"].write_text("\n".join(" ".join(f"{v:.6f}" for v in p) for p in scan_marks * 0.1))
    np.save(out["scan.npy"], scan_marks * 0.1)
    out["pred.json"].write_text(json.dumps((marks * 1e-3).tolist()))
    out["run"].mkdir()
    write_ply(out["run"] / "head.ply", Mesh(predicted.vertices * 1e-3, predicted.faces))
    points = np.zeros((68, 3))
    points[[36, 39, 42, 45, 33, 48, 54]] = marks * 1e-3
    (out["run"] / "landmarks3d.json").write_text(json.dumps({"mediapipe478": [], "ibug68": points.tolist()}))
    return out


def run(*words: object) -> int:
    return main(["eval", "mesh", *(str(word) for word in words)])


def test_scores_a_folder_and_writes_what_was_asked_for(files: dict[str, Path], tmp_path: Path, capsys) -> None:
    wanted = [tmp_path / "heat.png", tmp_path / "score.json", tmp_path / "errors.npy"]
    code = run(
        files["run"], files["scan.obj"], "--landmarks", files["scan.txt"], "--picture", wanted[0], "--json", wanted[1],
        "--errors", wanted[2],
    )  # fmt: skip
    assert code == 0
    text = capsys.readouterr().out
    assert "metric" in text and "scale-free" in text and "one unit of the scan is 10 mm, of the prediction 1000" in text
    score = json.loads(wanted[1].read_text())
    errors = np.load(wanted[2])
    assert np.nanmedian(errors) == pytest.approx(score["metric"]["median_mm"], abs=1e-6)
    assert 0.05 < score["metric"]["mean_mm"] < 3 and score["scored_vertices"] == np.isfinite(errors).sum()
    picture = np.asarray(Image.open(wanted[0]))
    assert picture.shape[2] == 3 and len(np.unique(picture.reshape(-1, 3), axis=0)) > 500


def test_every_way_to_give_landmarks_gives_the_same_score(files: dict[str, Path], tmp_path: Path, capsys) -> None:
    """Text, NumPy, MeshLab's picked points; the prediction's own from a file or from its folder."""
    marks = np.load(files["scan.npy"])
    picked = tmp_path / "scan.pp"
    tags = "".join(f'<point y="{y}" z="{z}" active="1" name="{i}" x="{x}"/>\n' for i, (x, y, z) in enumerate(marks))
    picked.write_text(f"<!DOCTYPE PickedPoints>\n<PickedPoints>\n{tags}</PickedPoints>")
    scores = []
    for given in (files["scan.txt"], files["scan.npy"], picked):
        for source in ([files["run"]], [files["pred.ply"], "--pred-landmarks", files["pred.json"]]):
            assert run(*source, files["scan.obj"], "--landmarks", given, "--json", "-") == 0
            scores.append(json.loads(capsys.readouterr().out)["metric"]["median_mm"])
    np.testing.assert_allclose(scores, scores[0], atol=1e-5)  # six digits were written


def test_vertex_numbers_are_landmarks_too(files: dict[str, Path], capsys) -> None:
    """The nearest vertices lie up to 2.8 mm beside the points: the score hardly changes."""
    scan, marks = relief(step=5.0)
    ids = [int(np.linalg.norm(scan.vertices - m, axis=1).argmin()) for m in marks]
    assert run(files["run"], files["scan.obj"], "--landmarks", ",".join(map(str, ids)), "--json", "-") == 0
    by_vertex = json.loads(capsys.readouterr().out)["metric"]["mean_mm"]
    assert run(files["run"], files["scan.obj"], "--landmarks", files["scan.txt"], "--json", "-") == 0
    assert by_vertex == pytest.approx(json.loads(capsys.readouterr().out)["metric"]["mean_mm"], rel=0.08)


def test_scale_free_is_what_the_picture_and_the_table_then_show(files: dict[str, Path], capsys) -> None:
    assert run(files["run"], files["scan.obj"], "--landmarks", files["scan.txt"], "--scale-free") == 0
    text = capsys.readouterr().out
    assert "scale-free" in text and "metric" not in text


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["{run}", "missing.obj", "--landmarks", "{scan.txt}"], "missing.obj"),
        (["{tmp}", "{scan.obj}", "--landmarks", "{scan.txt}"], "no head.ply"),
        (["{pred.ply}", "{scan.obj}", "--landmarks", "{scan.txt}"], "--pred-landmarks"),
        (["{run}", "{scan.obj}", "--landmarks", "nothing.txt"], "cannot read landmarks"),
        (["{run}", "{scan.obj}", "--landmarks", "{scan.obj}"], "7 points"),
        (["{run}", "{scan.obj}", "--landmarks", "1,2,3"], "vertex numbers"),
        (["{run}", "{scan.obj}", "--landmarks", "1,2,3,4,5,6,9999999"], "vertex numbers"),
        (["{run}", "{scan.obj}", "--landmarks", "{pred.json}"], "scan"),
        (["{run}", "{scan.txt}", "--landmarks", "{scan.txt}"], "expected a file ending in"),
        (["{run}", "{scan.obj}", "--landmarks", "{scan.txt}", "--unit", "feet"], "mm, cm, m"),
        (["{run}", "{scan.obj}", "--landmarks", "{scan.txt}", "--radius", "-3"], "radius"),
        (["{run}", "{scan.obj}", "--landmarks", "{scan.txt}", "--picture", "x.gif"], "ending in .png"),
        (["{run}", "{scan.obj}", "--landmarks", "{scan.txt}", "--json", "no/where.json"], "does not exist"),
    ],
)
def test_bad_input_gets_one_sentence_and_code_2(
    files: dict[str, Path], tmp_path: Path, capsys, words: list[str], says: str
) -> None:
    names = {f"{{{name}}}": str(path) for name, path in files.items()} | {"{tmp}": str(tmp_path)}
    assert run(*(names.get(word, word) for word in words)) == 2
    message = capsys.readouterr().err
    assert says in message and message.startswith("headrecon: ") and message.count("\n") == 1


@pytest.mark.parametrize("content", [b"", b"{", b"[[1,2],[3]]", b'{"ibug68": "x"}', b"[" * 5000, b"[null]", b"[[[1]]]"])
def test_broken_landmark_files_are_answered(files: dict[str, Path], tmp_path: Path, capsys, content: bytes) -> None:
    broken = tmp_path / "broken.json"
    broken.write_bytes(content)
    assert run(files["run"], files["scan.obj"], "--landmarks", broken) == 2
    assert "landmarks" in capsys.readouterr().err


def test_a_pickle_is_not_read(files: dict[str, Path], tmp_path: Path, capsys) -> None:
    evil = tmp_path / "evil.npy"
    np.save(evil, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    assert run(files["run"], files["scan.obj"], "--landmarks", evil) == 2
    assert "landmarks" in capsys.readouterr().err
