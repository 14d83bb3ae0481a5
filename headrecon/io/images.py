"""Reading any picture a user may bring into upright 8-bit sRGB, and writing pictures in one piece.

What cannot be read is refused with one sentence; what merely is unusual (16 bits, CMYK, a colour profile, an
animation) is converted, with a warning where something of the picture is left out.
"""

from __future__ import annotations

import io
import os
import re
import struct
import tempfile
import warnings
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageCms, UnidentifiedImageError

from headrecon.errors import InputError, ShapeError
from headrecon.io.exif import FocalHint, focal_hint

MAX_MEGAPIXELS = 100.0
#: A face that can be measured does not fit into less.
MIN_SIDE = 48
#: The formats Pillow may try. Not all it knows: some of its readers start other programs.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "AVIF")
EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".avif"})
#: What shows through transparent parts: a mid grey leaves neither bright nor dark hair without an edge.
BACKGROUND_SRGB = (128, 128, 128)

_DECODE_ERRORS = (OSError, SyntaxError, ValueError, IndexError, EOFError, struct.error, zlib.error, MemoryError)


@dataclass(frozen=True)
class LoadedImage:
    """An upright picture as 8-bit sRGB, with what its file says about the camera.

    file_size is (width, height) as stored in the file, before the EXIF orientation is applied.
    """

    path: Path
    image_srgb: UInt8[np.ndarray, "H W 3"]
    file_size: tuple[int, int]
    focal: FocalHint | None
    warnings: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the upright picture."""
        return self.image_srgb.shape[1], self.image_srgb.shape[0]


def load_image(path: str | os.PathLike[str]) -> LoadedImage:
    """Read a picture: upright, sRGB, 8 bits, first frame, transparency laid over grey.

    Raises:
        InputError: there is no such file, or it is not a whole picture of a usable size.
    """
    path = Path(path)
    _check_file(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns about large or oddly tagged pictures; we judge them ourselves
        with _opened(path) as picture:
            _check_size(path, picture.size)
            frames = getattr(picture, "n_frames", 1)
            notes: list[str] = []
            if frames > 1 and picture.format != "MPO":  # the further frames of an MPO are thumbnails or depth maps
                notes.append(f"{path.name} has {frames} frames; the first is used")
            _decode(path, picture)
            exif = picture.getexif()  # after decoding: Pillow itself turns a TIFF upright and then drops the tag
            file_size = picture.size
            rgb = _upright(_to_srgb(picture, path, notes), exif.get(0x0112, 1))
            focal, note = focal_hint(exif, file_size)
    if note:
        notes.append(f"{path.name}: {note}")
    return LoadedImage(path, np.ascontiguousarray(rgb), file_size, focal, tuple(notes))


def find_images(directory: str | os.PathLike[str]) -> list[Path]:
    """The pictures directly in a directory, sorted by name; hidden files are left out.

    Raises:
        InputError: it is no directory, or holds no picture.
    """
    folder = Path(directory)
    if not folder.is_dir():
        raise InputError(f"{folder} is not a directory; expected one with pictures in it")
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in EXTENSIONS and not p.name.startswith("."))
    if not found:
        raise InputError(f"{folder} holds no picture; expected files ending in {', '.join(sorted(EXTENSIONS))}")
    return found


def save_png(path: str | os.PathLike[str], image_srgb: np.ndarray) -> None:
    """Write a PNG that is either whole or not there. The directory must exist.

    image_srgb is [H,W], [H,W,3] or [H,W,4]; uint8, or float in 0..1 (clipped and rounded).

    Raises:
        ShapeError: the array is no picture.
        InputError: the file cannot be written.
    """
    path = Path(path)
    array = np.asarray(image_srgb)
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)) or array.size == 0:
        raise ShapeError(f"a picture must have shape [H,W], [H,W,3] or [H,W,4], found {list(array.shape)}")
    if array.dtype.kind == "f":
        array = np.rint(np.clip(np.nan_to_num(array), 0.0, 1.0) * 255.0).astype(np.uint8)
    if array.dtype != np.uint8:
        raise ShapeError(f"a picture must be uint8 or float in 0..1, found {array.dtype}")
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}); choose another output directory") from error
    try:
        with os.fdopen(handle, "wb") as file:
            Image.fromarray(np.ascontiguousarray(array)).save(file, format="PNG", compress_level=2)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error}); make room or choose another output directory") from error
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)


def _umask() -> int:
    """The process's file mode mask, which `mkstemp` ignores; it can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _check_file(path: Path) -> None:
    try:
        if path.is_dir():
            raise InputError(f"{path} is a directory; expected one picture (a folder of several is read with --batch)")
        size = path.stat().st_size
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; expected a picture") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}); expected a picture") from error
    if size == 0:
        raise InputError(f"{path} is empty (0 bytes); expected a picture: copy or download it again")


def _opened(path: Path) -> Image.Image:
    try:
        return Image.open(path, formats=FORMATS)
    except Image.DecompressionBombError as error:
        pixels = re.search(r"\d+", str(error))
        raise _too_large(path, int(pixels.group()) / 1e6 if pixels else float("inf")) from None
    except UnidentifiedImageError:
        raise InputError(
            f"{path} is not a picture that can be read: expected JPEG, PNG, WebP, TIFF, BMP, GIF or AVIF, "
            f"found {_what_it_is(path)}"
        ) from None
    except PermissionError:
        raise InputError(f"{path} may not be read by you; change its permissions") from None
    except _DECODE_ERRORS as error:
        raise _broken(path, error) from error


def _what_it_is(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(512)
    if start[4:8] == b"ftyp":
        brand = start[8:12].decode("latin-1").strip()
        return f"a file of the kind {brand!r} (HEIC or video); export the photo as JPEG first"
    if start.startswith((b"%PDF", b"\x00asm", b"PK\x03\x04")):
        return "a document or archive"
    with suppress(UnicodeDecodeError):
        text = start.decode("utf-8", errors="strict") if len(start) < 512 else start[:-4].decode("utf-8")
        if text.isprintable() or all(c.isprintable() or c.isspace() for c in text):
            return "text"
    if start.startswith((b"\xff\xd8", b"\x89PNG", b"RIFF", b"GIF8", b"II*\0", b"MM\0*")):
        return "the beginning of one that is damaged or cut off; copy or download it again"
    return "something else"


def _check_size(path: Path, size: tuple[int, int]) -> None:
    width, height = size
    megapixels = width * height / 1e6
    if megapixels > MAX_MEGAPIXELS:
        raise _too_large(path, megapixels)
    if min(width, height) < MIN_SIDE:
        raise InputError(
            f"{path} is too small: {width} x {height} pixels, at least {MIN_SIDE} on each side are needed; "
            "use a larger version of the photo"
        )


def _too_large(path: Path, megapixels: float) -> InputError:
    return InputError(
        f"{path} is too large: {megapixels:.0f} megapixels, at most {MAX_MEGAPIXELS:.0f} are read; reduce it first"
    )


def _broken(path: Path, error: Exception) -> InputError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return InputError(f"{path} is damaged or cut off ({reason}); expected a whole picture: copy or download it again")


def _decode(path: Path, picture: Image.Image) -> None:
    try:
        picture.seek(0)
        picture.load()
    except Image.DecompressionBombError:
        raise _too_large(path, picture.size[0] * picture.size[1] / 1e6) from None
    except _DECODE_ERRORS as error:
        raise _broken(path, error) from error


def _upright(rgb: Image.Image, orientation: int) -> np.ndarray:
    """Apply the EXIF orientation (1 to 8; Exif 2.32, section 4.6.4). Other values mean nothing and are ignored."""
    transpose = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }.get(orientation)
    return np.asarray(rgb if transpose is None else rgb.transpose(transpose))


def _to_srgb(picture: Image.Image, path: Path, notes: list[str]) -> Image.Image:
    """Any mode to 8-bit RGB: depth, palette, transparency, colour profile."""
    eight_bit = _to_eight_bits(picture)
    if eight_bit.mode in ("P", "PA", "1"):
        transparent = "transparency" in eight_bit.info or eight_bit.mode == "PA"
        eight_bit = eight_bit.convert("RGBA" if transparent else "RGB")
    if "transparency" in eight_bit.info and eight_bit.mode in ("L", "RGB"):
        eight_bit = eight_bit.convert("RGBA")
    if eight_bit.mode in ("La", "RGBa"):  # premultiplied
        eight_bit = eight_bit.convert({"La": "LA", "RGBa": "RGBA"}[eight_bit.mode])
    alpha = None
    if eight_bit.mode in ("LA", "RGBA"):
        alpha = eight_bit.getchannel("A")
        eight_bit = eight_bit.convert(eight_bit.mode[:-1])
    rgb = _through_profile(eight_bit, picture.info.get("icc_profile"), path, notes)
    if alpha is not None and alpha.getextrema()[0] < 255:  # type: ignore[operator]
        rgb = Image.composite(rgb, Image.new("RGB", rgb.size, BACKGROUND_SRGB), alpha)
        notes.append(f"{path.name} is partly transparent; grey was laid under it")
    return rgb


def _to_eight_bits(picture: Image.Image) -> Image.Image:
    """Grey pictures of 16 or 32 bits to 8. (Pillow reads 16-bit colour as 8-bit itself.)"""
    if not picture.mode.startswith(("I", "F")):
        return picture
    values = np.asarray(picture).astype(np.float64)
    if picture.mode.startswith("I"):
        # "I" is what Pillow makes of several depths; no picture of 16 bits stays below 256 throughout
        top = 65535.0 if picture.mode.startswith("I;16") or values.max() > 255 else 255.0
    else:
        top = 1.0 if values.max() <= 1.0 else 255.0 if values.max() <= 255.0 else 65535.0
    scaled = np.clip(np.nan_to_num(values) / top, 0.0, 1.0) * 255.0
    return Image.fromarray(np.rint(scaled).astype(np.uint8))


def _through_profile(picture: Image.Image, profile: bytes | None, path: Path, notes: list[str]) -> Image.Image:
    """To sRGB through the embedded ICC profile where there is a usable one, else by Pillow's plain conversion."""
    if profile and picture.mode in ("RGB", "L", "CMYK", "LAB"):
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            if picture.mode == "RGB" and "srgb" in ImageCms.getProfileDescription(source).lower():
                return picture
            converted = ImageCms.profileToProfile(picture, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
            if converted is not None:
                return converted
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
            reason = " ".join(str(error).split())
            notes.append(f"{path.name}: the colour profile cannot be used ({reason}); colours are taken as sRGB")
    return picture.convert("RGB")


def from_array(image_srgb: UInt8[np.ndarray, "H W 3"], name: str = "array.png") -> LoadedImage:
    """A picture that is in memory already, as if it had been loaded. Raises InputError for other shapes or types."""
    image = np.asarray(image_srgb)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise InputError(f"expected a picture as uint8 [height, width, 3] in sRGB, found {image.dtype} {image.shape}")
    return LoadedImage(Path(name), np.ascontiguousarray(image), (image.shape[1], image.shape[0]), None)
