"""Pictures from users: everything unusual is read right, everything unusable refused in one sentence."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from headrecon.errors import InputError, ShapeError
from headrecon.io.images import BACKGROUND_SRGB, find_images, load_image, save_png

WIDTH, HEIGHT = 96, 64


@pytest.fixture
def picture() -> np.ndarray:
    """A smooth picture whose four corners differ, so that every orientation can be told apart."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([x * 255 // WIDTH, y * 255 // HEIGHT, 255 - x * 255 // WIDTH], axis=-1).astype(np.uint8)


def close(found: np.ndarray, expected: np.ndarray, tolerance: float) -> bool:
    return found.shape == expected.shape and np.abs(found.astype(float) - expected.astype(float)).mean() <= tolerance


# JPEG and lossy WebP change a smooth picture by a grey level or two.
@pytest.mark.parametrize(
    ("extension", "tolerance"),
    [("png", 0), ("bmp", 0), ("tif", 0), ("ppm", 0), ("gif", 12), ("jpg", 3), ("webp", 3), ("avif", 5)],
)
def test_formats(tmp_path: Path, picture: np.ndarray, extension: str, tolerance: float) -> None:
    path = tmp_path / f"p.{extension}"
    try:
        Image.fromarray(picture).save(path)
    except (KeyError, OSError) as error:
        pytest.skip(f"this Pillow cannot write {extension}: {error}")
    loaded = load_image(path)
    assert loaded.image_srgb.dtype == np.uint8
    assert loaded.image_srgb.flags.c_contiguous
    assert loaded.size == loaded.file_size == (WIDTH, HEIGHT)
    assert close(loaded.image_srgb, picture, tolerance)
    assert loaded.warnings == ()
    assert loaded.focal is None


@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("extension", ["png", "jpg", "webp", "tif"])
def test_exif_orientation(tmp_path: Path, picture: np.ndarray, orientation: int, extension: str) -> None:
    # What a camera in that orientation stores of the upright scene: the inverse of what a viewer must do.
    stored = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation](picture)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"p.{extension}"
    Image.fromarray(np.ascontiguousarray(stored)).save(
        path, exif=exif, **({"quality": 95} if extension != "tif" else {})
    )
    loaded = load_image(path)
    assert close(loaded.image_srgb, picture, 3)
    assert loaded.size == (WIDTH, HEIGHT)


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_senseless_orientation_is_ignored(tmp_path: Path, picture: np.ndarray, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(picture).save(tmp_path / "p.png", exif=exif)
    assert close(load_image(tmp_path / "p.png").image_srgb, picture, 0)


def test_grey_palette_and_bilevel(tmp_path: Path, picture: np.ndarray) -> None:
    grey = picture[..., 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(load_image(tmp_path / "grey.png").image_srgb, np.repeat(grey[..., None], 3, 2))
    Image.fromarray(picture).quantize(256).save(tmp_path / "palette.png")
    assert close(load_image(tmp_path / "palette.png").image_srgb, picture, 12)
    Image.fromarray(grey > 100).save(tmp_path / "two.png")
    np.testing.assert_array_equal(load_image(tmp_path / "two.png").image_srgb[..., 1], np.where(grey > 100, 255, 0))


@pytest.mark.parametrize("extension", ["png", "tif"])
def test_16_bit_grey_is_scaled_not_clipped(tmp_path: Path, picture: np.ndarray, extension: str) -> None:
    Image.fromarray(picture[..., 0].astype(np.uint16) * 257).save(tmp_path / f"p.{extension}")
    np.testing.assert_array_equal(load_image(tmp_path / f"p.{extension}").image_srgb[..., 0], picture[..., 0])


def write_png_16_bit_rgb(path: Path, values: np.ndarray) -> None:
    """Pillow cannot write this kind of PNG, cameras' raw converters can (PNG specification, section 11)."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)


def test_16_bit_colour(tmp_path: Path, picture: np.ndarray) -> None:
    write_png_16_bit_rgb(tmp_path / "p.png", picture.astype(np.uint16) * 257)
    assert close(load_image(tmp_path / "p.png").image_srgb, picture, 0.5)


def test_floating_point_tiff(tmp_path: Path, picture: np.ndarray) -> None:
    Image.fromarray(picture[..., 0].astype(np.float32) / 255).save(tmp_path / "p.tif")
    assert close(load_image(tmp_path / "p.tif").image_srgb[..., 0], picture[..., 0], 0.5)


def test_cmyk(tmp_path: Path, picture: np.ndarray) -> None:
    Image.fromarray(picture).convert("CMYK").save(tmp_path / "p.jpg", quality=95)
    assert close(load_image(tmp_path / "p.jpg").image_srgb, picture, 4)


def test_transparency_is_laid_over_grey(tmp_path: Path, picture: np.ndarray) -> None:
    alpha = np.full((HEIGHT, WIDTH, 1), 255, np.uint8)
    alpha[:, : WIDTH // 2] = 0
    Image.fromarray(np.concatenate([picture, alpha], axis=2)).save(tmp_path / "p.png")
    loaded = load_image(tmp_path / "p.png")
    assert (loaded.image_srgb[:, : WIDTH // 2] == BACKGROUND_SRGB).all()
    np.testing.assert_array_equal(loaded.image_srgb[:, WIDTH // 2 :], picture[:, WIDTH // 2 :])
    assert "transparent" in loaded.warnings[0]


def test_full_opacity_changes_nothing(tmp_path: Path, picture: np.ndarray) -> None:
    Image.fromarray(picture).convert("RGBA").save(tmp_path / "p.png")
    loaded = load_image(tmp_path / "p.png")
    np.testing.assert_array_equal(loaded.image_srgb, picture)
    assert loaded.warnings == ()


def test_transparent_palette(tmp_path: Path, picture: np.ndarray) -> None:
    indexed = Image.fromarray((picture[..., 0] > 128).astype(np.uint8))
    indexed = indexed.convert("P")
    indexed.putpalette([10, 20, 30, 200, 210, 220])
    indexed.save(tmp_path / "p.png", transparency=0)
    found = load_image(tmp_path / "p.png").image_srgb
    expected = np.where(picture[..., :1] > 128, (200, 210, 220), BACKGROUND_SRGB)
    np.testing.assert_array_equal(found, expected)


def test_colour_profile_is_converted(tmp_path: Path, picture: np.ndarray) -> None:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    expected = Image.fromarray(picture)
    to_lab = ImageCms.profileToProfile(expected, ImageCms.createProfile("sRGB"), lab, outputMode="LAB")
    assert to_lab is not None
    to_lab.save(tmp_path / "p.tif", icc_profile=lab.tobytes())
    loaded = load_image(tmp_path / "p.tif")
    assert close(loaded.image_srgb, picture, 3)
    assert loaded.warnings == ()


def test_broken_colour_profile_is_a_warning(tmp_path: Path, picture: np.ndarray) -> None:
    Image.fromarray(picture).save(tmp_path / "p.png", icc_profile=b"no profile at all")
    loaded = load_image(tmp_path / "p.png")
    assert close(loaded.image_srgb, picture, 0)
    assert "colour profile" in loaded.warnings[0]


@pytest.mark.parametrize("extension", ["gif", "webp", "png"])
def test_first_frame_of_an_animation(tmp_path: Path, picture: np.ndarray, extension: str) -> None:
    frames = [Image.fromarray(p) for p in (picture, 255 - picture, picture[::-1].copy())]
    path = tmp_path / f"p.{extension}"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    loaded = load_image(path)
    assert close(loaded.image_srgb, picture, 12)
    assert "3 frames" in loaded.warnings[0]


def refused(path: Path, *says: str) -> None:
    with pytest.raises(InputError) as caught:
        load_image(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    for word in says:
        assert word in message


def test_missing_directory_and_empty(tmp_path: Path) -> None:
    refused(tmp_path / "nothing.jpg", "does not exist")
    refused(tmp_path, "is a directory")
    (tmp_path / "empty.jpg").touch()
    refused(tmp_path / "empty.jpg", "0 bytes")


@pytest.mark.parametrize("text", ["hello, I am no picture\n", "é" * 600])
def test_text_named_jpg(tmp_path: Path, text: str) -> None:
    (tmp_path / "p.jpg").write_text(text)
    refused(tmp_path / "p.jpg", "expected JPEG", "found text")


def test_other_files(tmp_path: Path) -> None:
    (tmp_path / "p.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    refused(tmp_path / "p.heic", "heic", "export the photo as JPEG")
    (tmp_path / "p.png").write_bytes(b"%PDF-1.7 \xff\xfe")
    refused(tmp_path / "p.png", "document")
    (tmp_path / "p.gif").write_bytes(bytes(range(128, 256)) * 10)
    refused(tmp_path / "p.gif", "something else")


@pytest.mark.parametrize("extension", ["jpg", "png", "webp", "tif", "gif"])
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.9])
def test_truncated(tmp_path: Path, extension: str, kept: float) -> None:
    path = tmp_path / f"p.{extension}"
    noise = np.random.default_rng(0).integers(0, 255, (200, 300, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    refused(path, "again")


def png_header(path: Path, width: int, height: int) -> None:
    """A PNG that ends where its pixels would begin."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    header = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + struct.pack(">I", 1000) + b"IDAT")


@pytest.mark.parametrize(("width", "height"), [(10_001, 10_000), (15_000, 15_000), (60_000, 60_000)])
def test_too_many_megapixels_are_refused_from_the_header(tmp_path: Path, width: int, height: int) -> None:
    path = tmp_path / "p.png"
    png_header(path, width, height)  # there is nothing to decode
    refused(path, f"{width * height / 1e6:.0f} megapixels", "at most 100")


def test_too_small(tmp_path: Path) -> None:
    Image.new("RGB", (1, 1)).save(tmp_path / "p.png")
    refused(tmp_path / "p.png", "1 x 1 pixels")
    Image.new("RGB", (4000, 20)).save(tmp_path / "flat.png")
    refused(tmp_path / "flat.png", "4000 x 20 pixels")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="needs a user whom file permissions bind")
def test_forbidden_file(tmp_path: Path) -> None:
    Image.new("RGB", (100, 100)).save(tmp_path / "p.png")
    (tmp_path / "p.png").chmod(0)
    refused(tmp_path / "p.png", "permissions")


def test_find_images(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no picture"):
        find_images(tmp_path)
    for name in ("b.JPG", "a.png", ".hidden.png", "notes.txt"):
        (tmp_path / name).touch()
    assert [p.name for p in find_images(tmp_path)] == ["a.png", "b.JPG"]
    with pytest.raises(InputError, match="not a directory"):
        find_images(tmp_path / "a.png")


def test_save_png_round_trip(tmp_path: Path, picture: np.ndarray) -> None:
    save_png(tmp_path / "p.png", picture)
    np.testing.assert_array_equal(load_image(tmp_path / "p.png").image_srgb, picture)
    save_png(tmp_path / "p.png", picture.astype(np.float32) / 255)
    np.testing.assert_array_equal(load_image(tmp_path / "p.png").image_srgb, picture)
    beyond = np.full((50, 50, 3), [-1.0, 2.0, np.nan])
    save_png(tmp_path / "p.png", beyond)
    assert load_image(tmp_path / "p.png").image_srgb[0, 0].tolist() == [0, 255, 0]
    assert [p.name for p in tmp_path.iterdir()] == ["p.png"]


def test_save_png_leaves_the_old_file_when_it_fails(
    tmp_path: Path, picture: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_png(tmp_path / "p.png", picture)
    before = (tmp_path / "p.png").read_bytes()

    def full_disk(self: Image.Image, file, **options: object) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full_disk)
    with pytest.raises(InputError, match="No space left"):
        save_png(tmp_path / "p.png", 255 - picture)
    assert (tmp_path / "p.png").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["p.png"]


def test_save_png_refuses_what_is_no_picture(tmp_path: Path, picture: np.ndarray) -> None:
    for wrong in (np.zeros((3, 4, 5, 3)), np.zeros((10, 10, 2)), np.zeros((0, 5, 3)), picture.astype(np.int64)):
        with pytest.raises(ShapeError):
            save_png(tmp_path / "p.png", wrong)
    with pytest.raises(InputError, match="cannot be written"):
        save_png(tmp_path / "missing" / "p.png", picture)
