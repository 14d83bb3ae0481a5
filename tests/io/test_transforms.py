from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from headrecon.errors import InputError, ShapeError
from headrecon.io.cameras import read_transforms, write_transforms
from headrecon.structures import Cameras


def make_cameras(count: int, shared: bool = True) -> Cameras:
    rng = np.random.default_rng(count)
    viewmats = np.tile(np.eye(4), (count, 1, 1))
    viewmats[:, :3, :3] = Rotation.random(count, rng=rng).as_matrix()
    viewmats[:, :3, 3] = rng.normal(size=(count, 3))
    ks = np.tile([[800.0, 0, 319.5], [0, 810, 240.25], [0, 0, 1]], (count, 1, 1))
    if not shared:
        ks[:, 0, 0] += np.arange(count)
    return Cameras(torch.tensor(viewmats), torch.tensor(ks), 640, 480)


@pytest.mark.parametrize(("count", "shared"), [(1, True), (3, True), (3, False)])
def test_round_trip(tmp_path, count, shared):
    cameras = make_cameras(count, shared)
    names = tuple(f"images/{i}.png" for i in range(count))
    write_transforms(tmp_path / "transforms.json", cameras, names)
    back = read_transforms(tmp_path / "transforms.json")
    assert back.images == names
    assert (back.cameras.width, back.cameras.height) == (640, 480)
    torch.testing.assert_close(back.cameras.viewmats, cameras.viewmats, atol=1e-9, rtol=0)
    torch.testing.assert_close(back.cameras.Ks, cameras.Ks)


def test_a_camera_without_batch_axis(tmp_path):
    cameras = make_cameras(1)
    write_transforms(tmp_path / "t.json", Cameras(cameras.viewmats[0], cameras.Ks[0], 640, 480), ["a.jpg"])
    torch.testing.assert_close(read_transforms(tmp_path / "t.json").cameras.viewmats, cameras.viewmats)


def test_matrix_worked_by_hand(tmp_path):
    """Camera 2 m in front of the face, looking back at it: OpenGL axes coincide with the world's."""
    viewmat = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))
    viewmat[2, 3] = 2.0  # a point at the origin lies 2 m ahead
    cameras = Cameras(viewmat, torch.tensor([[500.0, 0, 50], [0, 500, 40], [0, 0, 1]]), 100, 80)
    write_transforms(tmp_path / "t.json", cameras, ["a.jpg"])
    content = json.loads((tmp_path / "t.json").read_text())
    assert content["frames"][0]["transform_matrix"] == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 2], [0, 0, 0, 1]]
    assert {k: content[k] for k in ("fl_x", "fl_y", "cx", "cy", "w", "h")} == {
        "fl_x": 500, "fl_y": 500, "cx": 50, "cy": 40, "w": 100, "h": 80
    }  # fmt: skip
    assert content["frames"][0]["file_path"] == "a.jpg"


def minimal() -> dict:
    frame = {"file_path": "a.png", "transform_matrix": np.eye(4).tolist()}
    return {"fl_x": 10, "cx": 4, "cy": 4, "w": 8, "h": 8, "frames": [frame]}


def save(folder: Path, content: object) -> Path:
    (folder / "t.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return folder / "t.json"


def test_what_other_programs_write(tmp_path):
    """fl_x alone, 3x4 matrices, rounded rotations, values in the frame that overrule the top."""
    content = minimal()
    content["frames"][0]["transform_matrix"] = np.round(Rotation.from_euler("xyz", [1, 2, 3]).as_matrix(), 4).tolist()
    for row in content["frames"][0]["transform_matrix"]:
        row.append(0.0)
    content["frames"][0]["cx"] = 3.5
    loaded = read_transforms(save(tmp_path, content))
    rotation = loaded.cameras.viewmats[0, :3, :3]
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(3, dtype=torch.float64), atol=1e-12, rtol=0)
    assert loaded.cameras.Ks[0].tolist() == [[10, 0, 3.5], [0, 10, 4], [0, 0, 1]]


def changed(**changes) -> dict:
    return {**minimal(), **changes}


def with_matrix(matrix: object) -> dict:
    content = minimal()
    content["frames"][0]["transform_matrix"] = matrix
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not valid JSON"),
        ("[1, 2]", "expected a JSON object"),
        ("{}", "expected a list 'frames'"),
        (changed(frames=[]), "expected a list 'frames'"),
        (changed(frames=[3]), "expected a list 'frames'"),
        (changed(fl_x=None), "must have a number 'fl_x'"),
        (changed(fl_x=True), "must have a number 'fl_x'"),
        ('{"fl_x": NaN, "cx": 1, "cy": 1, "w": 2, "h": 2, "frames": [{}]}', "must have a number 'fl_x'"),
        (changed(fl_x=-1), "must be positive"),
        (changed(w=8.5), "whole numbers"),
        (changed(k1=0.1), "lens distortion"),
        (with_matrix(None), "4x4 finite numbers"),
        (with_matrix([[1, 2], [3]]), "4x4 finite numbers"),
        (with_matrix("abc"), "4x4 finite numbers"),
        (with_matrix((2 * np.eye(4)).tolist()), "must hold a rotation"),
        (with_matrix(np.diag([-1, 1, 1, 1]).tolist()), "must hold a rotation"),
        (changed(frames=[*minimal()["frames"], {**minimal()["frames"][0], "w": 9}]), "one size"),
    ],
)
def test_bad_files(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        read_transforms(save(tmp_path, content))


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match="cannot read cameras"):
        read_transforms(tmp_path / "none.json")


def test_what_cannot_be_written(tmp_path):
    with pytest.raises(ShapeError, match="one image per camera"):
        write_transforms(tmp_path / "t.json", make_cameras(2), ["a.png"])
    skewed = make_cameras(1)
    skewed.Ks[0, 0, 1] = 3.0
    with pytest.raises(ShapeError, match="skew"):
        write_transforms(tmp_path / "t.json", skewed, ["a.png"])
    assert list(tmp_path.iterdir()) == []
