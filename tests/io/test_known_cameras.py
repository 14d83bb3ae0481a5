"""Cameras that users bring: nerfstudio, COLMAP as text and binary, our JSON; matched to photos by name and size."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from headrecon.errors import InputError
from headrecon.io.cameras import write_transforms
from headrecon.io.images import LoadedImage
from headrecon.io.known_cameras import match_cameras, read_known_cameras
from headrecon.structures import Cameras

NAMES = ("front.jpg", "left.png")
SIZES = ((640, 480), (300, 400))
LENSES = ((800.0, 810.0, 319.5, 240.25), (500.0, 500.0, 150.0, 200.0))
ROTATIONS = Rotation.random(2, rng=np.random.default_rng(0))
SHIFTS = np.array([[0.1, -0.2, 0.9], [0.3, 0.05, 1.1]])


def truth() -> tuple[np.ndarray, np.ndarray]:
    viewmats, ks = np.tile(np.eye(4), (2, 1, 1)), np.tile(np.eye(3), (2, 1, 1))
    viewmats[:, :3, :3], viewmats[:, :3, 3] = ROTATIONS.as_matrix(), SHIFTS
    for k, (fx, fy, cx, cy) in zip(ks, LENSES, strict=True):
        k[0, 0], k[1, 1], k[0, 2], k[1, 2] = fx, fy, cx, cy
    return viewmats, ks


def write_nerfstudio(folder: Path) -> None:
    viewmats, ks = truth()
    cameras = [Cameras(v, k, *s) for v, k, s in zip(viewmats, ks, SIZES, strict=True)]
    write_transforms(folder / "transforms.json", cameras, [f"images/{n}" for n in NAMES])


def write_colmap_text(folder: Path, models: tuple[str, str] = ("PINHOLE", "PINHOLE")) -> None:
    lines, poses = ["# cameras"], ["# images"]
    for i, (name, size, lens) in enumerate(zip(NAMES, SIZES, LENSES, strict=True)):
        q = np.roll(ROTATIONS[i].as_quat(), 1)
        params = {"PINHOLE": lens, "SIMPLE_PINHOLE": lens[1:], "OPENCV": (*lens, 0, 0, 0, 0),
                  "SIMPLE_RADIAL": (*lens[1:], 0.02), "OPENCV_FISHEYE": (*lens, 0, 0, 0, 0)}[models[i]]  # fmt: skip
        lines.append(" ".join(map(str, (i + 7, models[i], *size, *map(float, params)))))
        poses += [" ".join(map(str, (i + 1, *map(float, (*q, *SHIFTS[i])), i + 7, name))), "" if i else "1 2 -1 5 6 3"]
    (folder / "cameras.txt").write_text("\n".join(lines) + "\n")
    (folder / "images.txt").write_text("\n".join(poses) + "\n")


def write_colmap_binary(folder: Path) -> None:
    cameras, images = struct.pack("<Q", 2), struct.pack("<Q", 2)
    for i, (name, size, lens) in enumerate(zip(NAMES, SIZES, LENSES, strict=True)):
        q = np.roll(ROTATIONS[i].as_quat(), 1)
        cameras += struct.pack("<iiQQ4d", i + 7, 1, *size, *lens)
        images += struct.pack("<I7dI", i + 1, *q, *SHIFTS[i], i + 7) + name.encode() + b"\0"
        images += struct.pack("<Q", 2) + 2 * struct.pack("<ddq", 1.0, 2.0, -1)
    (folder / "cameras.bin").write_bytes(cameras)
    (folder / "images.bin").write_bytes(images)


def opencv_json() -> dict[str, Any]:
    viewmats, ks = truth()
    entries = [
        {"image": n, "width": s[0], "height": s[1], "K": k.tolist(), "R": v[:3, :3].tolist(), "t": v[:3, 3].tolist()}
        for n, s, k, v in zip(NAMES, SIZES, ks, viewmats, strict=True)
    ]
    return {"unit": "m", "cameras": entries}


def write_opencv(folder: Path) -> None:
    (folder / "cameras.json").write_text(json.dumps(opencv_json()))


WRITERS = {
    "nerfstudio": write_nerfstudio,
    "colmap text": write_colmap_text,
    "colmap binary": write_colmap_binary,
    "opencv": write_opencv,
}


@pytest.mark.parametrize("kind", WRITERS)
def test_all_formats_give_the_same_cameras(kind: str, tmp_path: Path) -> None:
    WRITERS[kind](tmp_path)
    viewmats, ks = truth()
    found = read_known_cameras(tmp_path)
    assert [Path(c.image).name for c in found] == list(NAMES)
    assert [(c.width, c.height) for c in found] == list(SIZES)
    np.testing.assert_allclose([c.viewmat for c in found], viewmats, atol=1e-9)
    np.testing.assert_allclose([c.k for c in found], ks, atol=1e-9)


def test_files_named_themselves_and_models_in_their_usual_folder(tmp_path: Path) -> None:
    sparse = tmp_path / "sparse" / "0"
    sparse.mkdir(parents=True)
    write_colmap_text(sparse, ("SIMPLE_PINHOLE", "OPENCV"))  # no distortion: coefficients of zero
    for path in (tmp_path, sparse / "cameras.txt", sparse / "images.txt"):
        found = read_known_cameras(path)
        np.testing.assert_allclose(found[0].k[[0, 1], [0, 1]], LENSES[0][1])


def test_units(tmp_path: Path) -> None:
    write_colmap_text(tmp_path)
    metres, millimetres = (read_known_cameras(tmp_path, unit) for unit in ("m", "mm"))
    np.testing.assert_allclose(millimetres[0].viewmat[:3, 3], 1e-3 * metres[0].viewmat[:3, 3])
    np.testing.assert_array_equal(millimetres[0].viewmat[:3, :3], metres[0].viewmat[:3, :3])
    content = opencv_json() | {"unit": "mm"}
    (tmp_path / "cameras.json").write_text(json.dumps(content))
    own = read_known_cameras(tmp_path / "cameras.json")
    np.testing.assert_allclose(own[1].viewmat[:3, 3], 1e-3 * SHIFTS[1])
    with pytest.raises(InputError, match="its unit is mm"):
        read_known_cameras(tmp_path / "cameras.json", "m")


@pytest.mark.parametrize("models", [("SIMPLE_RADIAL", "PINHOLE"), ("PINHOLE", "OPENCV_FISHEYE")])
def test_distortion_is_refused(models: tuple[str, str], tmp_path: Path) -> None:
    write_colmap_text(tmp_path, models)
    with pytest.raises(InputError, match="undistort the photos"):
        read_known_cameras(tmp_path)


def _without(key: str) -> dict[str, Any]:
    content = opencv_json()
    del content["cameras"][1][key]
    return content


def _with(key: str, value: Any) -> dict[str, Any]:
    content = opencv_json()
    content["cameras"][1][key] = value
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "found neither"),
        ({"cameras": []}, "at least one camera"),
        ({"cameras": [3]}, "at least one camera"),
        (opencv_json() | {"unit": "inch"}, "unit must be one of"),
        (_without("image"), "must name its 'image'"),
        (_without("width"), "whole 'width' and 'height'"),
        (_with("height", 0), "whole 'width' and 'height'"),
        (_with("width", 300.5), "whole 'width' and 'height'"),
        (_without("K"), "'K' of shape"),
        (_with("K", [[500, 2, 150], [0, 500, 200], [0, 0, 1]]), "without skew"),
        (_with("R", (2 * np.eye(3)).tolist()), "must hold a rotation"),
        (_with("R", np.diag([1, 1, -1]).tolist()), "must hold a rotation"),
        (_with("t", [0, 0, "far"]), "'t' of shape"),
        (_with("t", [0, 0, float("nan")]), "'t' of shape"),
        (_with("distortion", [0.1, 0, 0, 0]), "lens distortion"),
    ],
)
def test_wrong_json_is_explained(content: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "cameras.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        read_known_cameras(tmp_path / "cameras.json")


@pytest.mark.parametrize("name", ["cameras.bin", "images.bin"])
@pytest.mark.parametrize("damage", ["cut", "huge count", "noise"])
def test_broken_binaries_are_explained(name: str, damage: str, tmp_path: Path) -> None:
    write_colmap_binary(tmp_path)
    data = (tmp_path / name).read_bytes()
    noise = np.random.default_rng(3).bytes(len(data))
    new = {"cut": data[:-5], "huge count": b"\xff" * 8 + data[8:], "noise": noise}[damage]
    (tmp_path / name).write_bytes(new)
    with pytest.raises(InputError):
        read_known_cameras(tmp_path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("cameras.txt", "7 PINHOLE wide 480 1 1 1 1\n"),
        ("cameras.txt", "7 PINHOLE 640 480 1 1 1\n"),
        ("cameras.txt", "7 PINHOLE 640 480 -1 1 1 1\n"),
        ("cameras.txt", "7 MAGIC 640 480 1 1 1 1\n"),
        ("cameras.txt", "9 PINHOLE 640 480 1 1 1 1\n"),
        ("images.txt", "1 2 0 0 0 0 0 0 7 a.jpg\n\n"),
        ("images.txt", "1 1 0 0 0\n\n"),
        ("images.txt", "1 1 0 0 0 0 nan 0 7 a.jpg\n\n"),
    ],
)
def test_broken_texts_are_explained(name: str, text: str, tmp_path: Path) -> None:
    write_colmap_text(tmp_path)
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError):
        read_known_cameras(tmp_path)


def test_a_folder_without_cameras_says_what_it_could_hold(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"transforms\.json.*COLMAP.*cameras\.json"):
        read_known_cameras(tmp_path)
    with pytest.raises(InputError, match="no such file or folder"):
        read_known_cameras(tmp_path / "nothing.json")


def _photo(name: str, size: tuple[int, int], stored: tuple[int, int] | None = None) -> LoadedImage:
    return LoadedImage(Path("photos") / name, np.zeros((size[1], size[0], 3), np.uint8), stored or size, None)


@pytest.fixture
def cameras(tmp_path: Path):
    write_nerfstudio(tmp_path)
    return read_known_cameras(tmp_path)


def test_photos_find_their_cameras(cameras) -> None:
    photos = [_photo("left.png", SIZES[1]), _photo("front.jpg", SIZES[0])]
    assert [Path(c.image).name for c in match_cameras(cameras, photos)] == ["left.png", "front.jpg"]


@pytest.mark.parametrize(
    ("photos", "message"),
    [
        ([_photo("front.jpg", SIZES[0])], r"photos that were not given: images/left\.png"),
        ([_photo("front.jpg", SIZES[0]), _photo("right.png", SIZES[1])], r"right\.png: no camera is named after it"),
        (
            [_photo("front.jpg", (320, 240)), _photo("left.png", SIZES[1])],
            "640 x 480 pixels, the picture has 320 x 240",
        ),
        ([_photo("front.jpg", (480, 640), SIZES[0]), _photo("left.png", SIZES[1])], "EXIF orientation"),
    ],
)
def test_what_does_not_match_is_an_error(cameras, photos: list[LoadedImage], message: str) -> None:
    with pytest.raises(InputError, match=message):
        match_cameras(cameras, photos)
