"""What the whole command does with input that it cannot use: one clear sentence, exit code 2, nothing half-written.

And with input that is merely unusual: it works.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from headrecon.cli import main

#: Everything that costs time and that these tests do not look at is turned down.
QUICK = ("--preset", "draft", "--texture-size", "64", "--set", "output.turntable_frames=0")


def truncated_jpeg(astronaut: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(astronaut).save(stream, "JPEG")
    return stream.getvalue()[:4000]


def png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def tiny_face(astronaut: np.ndarray) -> bytes:
    """The portrait at a tenth of its size, on a larger grey ground: some 5 pixels between the pupils."""
    canvas = Image.new("RGB", (400, 300), (120, 120, 120))
    canvas.paste(Image.fromarray(astronaut).resize((51, 51), Image.Resampling.LANCZOS), (150, 100))
    return png(canvas)


def stripes(astronaut: np.ndarray) -> bytes:
    return png(Image.fromarray(np.tile(np.uint8([[40], [200]]), (128, 256))))


BAD: dict[str, tuple[Callable[[np.ndarray], bytes], str, str]] = {
    "zero bytes": (lambda a: b"", "photo.jpg", "empty"),
    "text named jpg": (lambda a: b"this is not a picture\n" * 40, "photo.jpg", "photo.jpg"),
    "truncated": (truncated_jpeg, "photo.jpg", "photo.jpg"),
    "over 100 megapixels": (lambda a: png(Image.new("1", (12000, 9000))), "photo.png", "megapixel"),
    "one pixel": (lambda a: png(Image.new("RGB", (1, 1))), "photo.png", "1 x 1"),
    "no face": (stripes, "photo.png", "no face"),
    "face too small": (tiny_face, "photo.png", ""),
}


def said_in_one_sentence(capsys: pytest.CaptureFixture[str]) -> str:
    """The error: the last line of stderr, after plain progress lines; nothing on stdout and no traceback."""
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    assert lines[-1].startswith("headrecon: ")
    assert not any(line.startswith("headrecon: ") for line in lines[1:-1])
    return lines[-1]


@pytest.mark.parametrize("kind", BAD)
def test_unusable_pictures_are_refused(
    kind: str, astronaut_image: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, name, expected = BAD[kind]
    photo = tmp_path / "in" / name
    photo.parent.mkdir()
    photo.write_bytes(make(astronaut_image))
    before = sorted(tmp_path.rglob("*"))
    assert main(["reconstruct", str(photo), "--out", str(tmp_path / "out"), *QUICK]) == 2
    assert expected.lower() in said_in_one_sentence(capsys).lower()
    assert sorted(tmp_path.rglob("*")) == before


def test_a_small_face_is_told_in_pixels(
    astronaut_image: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Large enough to be found, too small to be measured: the message has what there is and what is needed."""
    canvas = Image.new("RGB", (400, 300), (120, 120, 120))
    canvas.paste(Image.fromarray(astronaut_image).resize((170, 170), Image.Resampling.LANCZOS), (100, 60))
    photo = tmp_path / "small.png"
    canvas.save(photo)
    assert main(["reconstruct", str(photo), "--out", str(tmp_path / "out"), *QUICK]) == 2
    said = said_in_one_sentence(capsys)
    assert "too small" in said
    assert sum(word.isdigit() for word in said.replace(",", " ").split()) >= 2, said


def test_a_face_that_is_not_there(astronaut_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reconstruct", str(astronaut_path), "--out", str(tmp_path / "out"), "--face", "7", *QUICK]) == 2
    assert "face 7 does not exist" in said_in_one_sentence(capsys)
    assert not (tmp_path / "out").exists()


def test_an_output_inside_a_file_is_refused_before_any_work(
    astronaut_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    assert main(["reconstruct", str(astronaut_path), "--out", str(tmp_path / "file" / "out"), *QUICK]) == 2
    assert "cannot write" in said_in_one_sentence(capsys)
    assert main(["reconstruct", str(astronaut_path), "--out", str(tmp_path / "file"), *QUICK]) == 2
    assert "is a file" in said_in_one_sentence(capsys)
    assert (tmp_path / "file").read_text() == "mine"


def test_an_output_that_exists_is_refused_and_a_strangers_folder_is_never_replaced(
    astronaut_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "diary.txt").write_text("mine")
    assert main(["reconstruct", str(astronaut_path), "--out", str(tmp_path / "out"), *QUICK]) == 2
    assert "--overwrite" in said_in_one_sentence(capsys)
    assert main(["reconstruct", str(astronaut_path), "--out", str(tmp_path / "out"), "--overwrite", *QUICK]) == 2
    assert "did not write" in said_in_one_sentence(capsys)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["diary.txt"]


@pytest.mark.parametrize(
    ("name", "content"),
    [("absent.npz", None), ("broken.npz", b"PK\x03\x04 not an archive"), ("head.npz", b""), ("nosuchmodel", None)],
)
def test_a_missing_or_broken_model_is_refused(
    name: str, content: bytes | None, astronaut_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = name if "." not in name else str(tmp_path / name)
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert main(["reconstruct", str(astronaut_path), "--out", str(tmp_path / "out"), "--model", model, *QUICK]) == 2
    assert name in said_in_one_sentence(capsys)
    assert not (tmp_path / "out").exists()


def test_a_task_bundle_that_is_none_is_refused(
    astronaut_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tmp_path / "face.task"
    bundle.write_text("not a bundle")
    for path in (bundle, tmp_path / "absent.task"):
        code = main(["reconstruct", str(astronaut_path), "--out", str(tmp_path / "out"), "--task", str(path), *QUICK])
        assert code == 2
        assert path.name in said_in_one_sentence(capsys)


def test_no_network_on_first_use_says_what_to_fetch_and_where_to_put_it(astronaut_path: Path, tmp_path: Path) -> None:
    """An empty cache, and a pip that may not look anywhere."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PIP_")}
    environment |= {"HEADRECON_CACHE": str(tmp_path / "cache"), "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}
    command = [
        sys.executable,
        "-m",
        "headrecon.cli",
        "reconstruct",
        str(astronaut_path),
        "--out",
        str(tmp_path / "out"),
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 2, done.stderr
    assert "pip download" in last
    assert str(tmp_path / "cache") in last
    assert not (tmp_path / "out").exists()


def unusual(kind: str, photo: Image.Image, path: Path) -> Path:
    """The same portrait in a form that careless readers stumble over."""
    if kind == "grey 16 bit":
        grey = np.asarray(photo.convert("L")).astype(np.uint16) * 257
        Image.fromarray(grey).save(path := path.with_suffix(".png"))
    elif kind == "turned by EXIF":
        exif = Image.Exif()
        exif[0x0112] = 6  # stored lying on its side, to be turned by 90 degrees clockwise
        photo.transpose(Image.Transpose.ROTATE_90).save(path := path.with_suffix(".jpg"), exif=exif, quality=95)
    elif kind == "CMYK":
        photo.convert("CMYK").save(path := path.with_suffix(".jpg"), quality=95)
    elif kind == "palette with transparency":
        photo.quantize(256).save(path := path.with_suffix(".png"), transparency=0)
    else:
        photo.save(path := path.with_suffix(".webp"), save_all=True, append_images=[photo.rotate(90)], lossless=True)
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["grey 16 bit", "turned by EXIF", "CMYK", "palette with transparency", "animated WebP"]
)
def test_unusual_pictures_work(kind: str, astronaut_image: np.ndarray, tmp_path: Path) -> None:
    photo = unusual(kind, Image.fromarray(astronaut_image), tmp_path / "photo")
    assert main(["reconstruct", str(photo), "--out", str(tmp_path / "out"), *QUICK]) == 0
    head = json.loads((tmp_path / "out" / "head.json").read_text())
    assert (head["camera"]["width"], head["camera"]["height"]) == (512, 512)
    assert (tmp_path / "out" / "head.glb").stat().st_size > 10_000
