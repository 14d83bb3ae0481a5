"""`headrecon avatar` from end to end on a small clip, and what it says when it cannot."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from headrecon.avatars.plan import AvatarPlan, check_room, plan_avatar
from headrecon.cli import main
from headrecon.config import resolve_kind
from headrecon.errors import InputError
from headrecon.io.tracks import read_track
from headrecon.tracking.run import track
from headrecon.tracking.settings import TrackConfig
from tests.avatars.moving_subject import moving_footage
from tests.tracking.clips import views, write_clip

QUICK = ["--size", "64", "--gaussians", "1000", "--iterations", "150", "--set", "train.preview_every=0"]


@pytest.fixture(scope="module")
def clip(astronaut_image: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", views(astronaut_image, 40))


@pytest.mark.slow
@pytest.mark.native
def test_a_video_becomes_an_avatar(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "avatar"
    code = main(
        ["avatar", str(clip), "--out", str(out), "--test-fraction", "0.1", "--set", "track_preset=draft", *QUICK]
    )
    assert code == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    assert "held out" in printed
    assert [p.name for p in tmp_path.iterdir()] == ["avatar"]  # the working folder is gone
    assert sorted(p.name for p in out.iterdir()) == [
        "avatar.json", "avatar.safetensors", "config.yaml", "head.glb", "metrics.json", "run.json", "test",
        "track.json", "track.npz",
    ]  # fmt: skip
    run = json.loads((out / "run.json").read_text())
    assert run["frames"] == {"learned": 36, "held_out": 4, "all": 40}
    assert len(list((out / "test").glob("pred_*.png"))) == len(list((out / "test").glob("gt_*.png"))) == 4
    metrics = json.loads((out / "metrics.json").read_text())["mean"]
    # 150 steps at 64 pixels: far from good, far from an empty picture (6 dB).
    assert metrics["mesh"]["psnr"]["frame"] > 15 and "mesh as tracked" in printed
    assert metrics["pred"]["psnr"]["frame"] > 15 and set(metrics) == {
        "pred",
        "pred_as_tracked",
        "mesh",
        "mesh_as_tracked",
    }
    assert len(read_track(out / "track.npz")) == 40
    assert main(["avatar", str(clip), "--out", str(out), *QUICK]) == 2
    assert "--overwrite" in capsys.readouterr().err
    scores = ["eval", "avatar", str(out), str(out), "--video", str(clip), "--out", str(tmp_path / "scores")]
    scores += ["--size", "64", "--json", "-"]
    assert main([*scores, "--test-fraction", "0.1"]) == 0
    again = json.loads(capsys.readouterr().out)
    # The avatar's folder is a track too, aligned to these frames: the same pictures are judged again.
    assert again["pred"]["psnr"]["frame"] == pytest.approx(metrics["pred"]["psnr"]["frame"], abs=0.3)
    assert again["mesh"]["psnr"]["frame"] > 15 and len(list((tmp_path / "scores" / "test").glob("mesh_*.png"))) == 4
    assert main(scores) == 2 and "--overwrite" in capsys.readouterr().err
    assert main([*scores, "--overwrite", "--test-fraction", "0"]) == 2 and "found 0.0" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["avatar", "scores"]
    still = tmp_path / "still.png"
    assert main(["render", str(out), "--out", str(still), "--expression", "jawOpen=0.5"]) == 0 and still.is_file()


def test_what_cannot_be_made_is_said_in_a_sentence(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = str(tmp_path / "avatar")
    (tmp_path / "empty").mkdir()
    cases = {
        str(tmp_path / "nothing.mp4"): "no such file",
        str(tmp_path / "empty"): "holds no track.npz",
    }
    for source, says in cases.items():
        assert main(["avatar", source, "--out", out]) == 2
        assert says in capsys.readouterr().err
    assert main(["avatar", str(clip), "--video", str(clip), "--out", out]) == 2
    assert "leave --video out" in capsys.readouterr().err
    assert main(["avatar", str(clip), "--out", out, "--set", "train.gausians=5"]) == 2
    assert "train.gaussians" in capsys.readouterr().err
    if not torch.cuda.is_available():
        assert main(["avatar", str(clip), "--out", out, "--device", "cuda"]) == 2
        assert "no NVIDIA GPU" in capsys.readouterr().err
    assert not Path(out).exists() and list(tmp_path.iterdir()) == [tmp_path / "empty"]


@pytest.mark.slow
def test_a_track_of_too_few_frames_or_of_another_video_is_refused(
    clip: Path, astronaut_image: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    settings = resolve_kind(TrackConfig, "draft", None, {"texture.size": 64, "output.overlay": False})
    short = write_clip(tmp_path / "short.mp4", views(astronaut_image, 12))
    track(short, tmp_path / "track", settings)
    out = str(tmp_path / "avatar")
    assert main(["avatar", str(tmp_path / "track"), "--video", str(short), "--out", out, *QUICK]) == 2
    assert "12 frames" in capsys.readouterr().err
    other = write_clip(tmp_path / "other.mp4", [np.ascontiguousarray(v[:, :160]) for v in views(astronaut_image, 12)])
    assert main(["avatar", str(tmp_path / "track"), "--video", str(other), "--out", out, *QUICK]) == 2
    assert "other.mp4" in capsys.readouterr().err
    assert not Path(out).exists()


def test_memory_is_foreseen():
    plan = plan_avatar(moving_footage(4), 30_000, 100, "cpu")
    assert isinstance(plan, AvatarPlan) and plan.frames == 4 and plan.size == 96
    assert "30000 Gaussians" in plan.sentence()
    check_room(plan, plan.bytes)
    with pytest.raises(InputError, match=r"fewer Gaussians \(--set train.gaussians"):
        check_room(plan, plan.bytes - 1)
    assert plan_avatar(moving_footage(4), 60_000, 100, "cpu").bytes > plan.bytes
