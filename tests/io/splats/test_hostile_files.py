"""Files of splats that are damaged, foreign or made to harm: one clear sentence, no crash, no gigabytes."""

from __future__ import annotations

import gzip
import json
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from headrecon.errors import InputError
from headrecon.structures import Gaussians
from tests.io.splats.clouds import random_cloud
from tests.io.splats.test_round_trips import READERS, WRITERS


def refused(read: Callable[..., Gaussians], path: Path, words: str = "a") -> None:
    """Refused with these words, in less memory than 64 MB."""
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=words) as caught:
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 64e6
    finally:
        tracemalloc.stop()
    assert path.name in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", list(READERS))
def test_missing_empty_and_foreign(tmp_path: Path, kind: str) -> None:
    refused(READERS[kind], tmp_path / "none", "No such file")
    refused(READERS[kind], tmp_path, "Is a directory")
    (tmp_path / "empty").write_bytes(b"")
    refused(READERS[kind], tmp_path / "empty", "empty")
    (tmp_path / "text").write_bytes(b"This is not a file of splats, whatever its name may say.\n" * 3)
    refused(READERS[kind], tmp_path / "text")


@pytest.mark.parametrize("kind", list(READERS))
def test_cut_off_anywhere(tmp_path: Path, kind: str) -> None:
    WRITERS[kind](tmp_path / "whole", random_cloud(40, seed=1))
    data = (tmp_path / "whole").read_bytes()
    lengths = {*range(1, 60), *np.linspace(60, len(data) - 1, 120).astype(int)}
    if kind == "splat":
        lengths = {n for n in lengths if n % 32}  # whole rows make a shorter, valid file
    for length in sorted(lengths):
        (tmp_path / "cut").write_bytes(data[:length])
        refused(READERS[kind], tmp_path / "cut")


@pytest.mark.parametrize("kind", ["ply", "splat", "spz"])
def test_bytes_beyond_the_end(tmp_path: Path, kind: str) -> None:
    WRITERS[kind](tmp_path / "a", random_cloud(5))
    (tmp_path / "a").write_bytes((tmp_path / "a").read_bytes() + b"more")
    refused(READERS[kind], tmp_path / "a")


@pytest.mark.parametrize("kind", list(READERS))
def test_random_damage_never_crashes(tmp_path: Path, kind: str) -> None:
    WRITERS[kind](tmp_path / "a", random_cloud(20))
    whole, rng = np.frombuffer((tmp_path / "a").read_bytes(), np.uint8), np.random.default_rng(2)
    for _ in range(150):
        damaged = whole.copy()
        damaged[rng.integers(0, len(whole), 4)] = rng.integers(0, 256, 4)
        (tmp_path / "b").write_bytes(damaged.tobytes())
        try:
            back = READERS[kind](tmp_path / "b")
        except InputError:
            continue
        assert all(np.isfinite(a).all() for a in (back.means, back.quats_wxyz, back.scales, back.opacities, back.sh))


def ply_with(old: bytes, new: bytes, tmp_path: Path) -> Path:
    WRITERS["ply"](tmp_path / "a.ply", random_cloud(4))
    data = (tmp_path / "a.ply").read_bytes()
    assert old in data
    (tmp_path / "b.ply").write_bytes(data.replace(old, new, 1))
    return tmp_path / "b.ply"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b"vertex 4", b"vertex 9999999999", "at most"),
        (b"vertex 4", b"vertex 99999999999999999999", "header"),
        (b"vertex 4", b"vertex -4", "header"),
        (b"vertex 4", b"vertex 9999999", "cut off or damaged"),
        (b"vertex 4", b"vertex 3", "cut off or damaged"),
        (b"binary_little_endian", b"binary_big_endian", "binary_little_endian"),
        (b"element vertex", b"element chunk", "element vertex"),
        (b"property float x\n", b"property list uchar int x\n", "unexpected line"),
        (b"property float x\n", b"property florin x\n", "header"),
        (b"property float rot_3\n", b"property float rot_7\n", "rot_3"),
        (b"property float nx\n", b"property float f_rest_0\n", "f_rest"),
        (b"property float nx\n", b"property float x\n", "header"),
        (b"end_header", b"on_and_on!", "end_header"),
    ],
)
def test_ply_headers_that_lie(tmp_path: Path, old: bytes, new: bytes, words: str) -> None:
    refused(READERS["ply"], ply_with(old, new, tmp_path), words)


def test_numbers_in_a_ply_that_are_none(tmp_path: Path) -> None:
    WRITERS["ply"](tmp_path / "a.ply", random_cloud(4))
    data = (tmp_path / "a.ply").read_bytes()
    start, row = data.index(b"end_header\n") + 11, 17 * 4
    for column, value, words in [(0, np.nan, "means"), (9, np.nan, "opacities"), (10, 1e4, "scales"),
                                 (13, np.inf, "quats_wxyz"), (6, -np.inf, "sh")]:  # fmt: skip
        bad = bytearray(data)
        struct.pack_into("<f", bad, start + 2 * row + 4 * column, value)
        (tmp_path / "b.ply").write_bytes(bytes(bad))
        refused(READERS["ply"], tmp_path / "b.ply", f"{words} of Gaussian 2 is not a finite number")
    # Other programs write these two on purpose: fully opaque, and flat.
    good = bytearray(data)
    struct.pack_into("<f", good, start + 4 * 9, np.inf)
    struct.pack_into("<f", good, start + 4 * 10, -np.inf)
    (tmp_path / "c.ply").write_bytes(bytes(good))
    back = READERS["ply"](tmp_path / "c.ply")
    assert back.opacities[0] == 1 and back.scales[0, 0] == 0


def spz_of(header: bytes, body: bytes, path: Path) -> Path:
    path.write_bytes(gzip.compress(header + body))
    return path


def test_a_bomb_in_an_spz_is_not_unpacked(tmp_path: Path) -> None:
    """A hundred megabytes of zeros in 100 kB, behind a header that asks for one Gaussian, or for ten million."""
    zeros = bytes(100_000_000)
    one = struct.pack("<IIIBBBB", 0x5053474E, 3, 1, 0, 12, 0, 0)
    refused(READERS["spz"], spz_of(one, zeros, tmp_path / "one"), "end before the file does")
    many = struct.pack("<IIIBBBB", 0x5053474E, 3, 2**32 - 1, 3, 12, 0, 0)
    refused(READERS["spz"], spz_of(many, zeros, tmp_path / "many"), "at most 10,000,000")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ((0x5053474F, 3, 1, 0, 12, 0, 0), "magic"),
        ((0x5053474E, 7, 1, 0, 12, 0, 0), "version 7"),
        ((0x5053474E, 1, 1, 0, 12, 0, 0), "version 1"),
        ((0x5053474E, 3, 1, 4, 12, 0, 0), "degree 4"),
        ((0x5053474E, 3, 1, 0, 99, 0, 0), "99 bits"),
        ((0x5053474E, 3, 1, 0, 12, 2, 0), "extensions"),
        ((0x5053474E, 3, 0, 0, 12, 0, 0), "end before|at least one"),
        ((0x5053474E, 3, 5, 0, 12, 0, 0), "ends early"),
    ],
)
def test_spz_headers_that_lie(tmp_path: Path, fields: tuple[int, ...], words: str) -> None:
    refused(READERS["spz"], spz_of(struct.pack("<IIIBBBB", *fields), bytes(20), tmp_path / "a"), words)


def test_an_spz_of_version_4_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(struct.pack("<IIIBBBBI12x", 0x5053474E, 4, 1, 0, 12, 0, 6, 32))
    refused(READERS["spz"], tmp_path / "a", "version 4, compressed with Zstandard; convert it to version 3")


def glb_with(change: Callable[[dict], None], tmp_path: Path) -> Path:
    WRITERS["glb"](tmp_path / "a.glb", random_cloud(4))
    data = (tmp_path / "a.glb").read_bytes()
    size = struct.unpack_from("<I", data, 12)[0]
    document = json.loads(data[20 : 20 + size])
    change(document)
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    (tmp_path / "b.glb").write_bytes(data[:12] + struct.pack("<I4s", len(text), b"JSON") + text + data[20 + size :])
    return tmp_path / "b.glb"


def primitive(document: dict) -> dict:
    return document["meshes"][0]["primitives"][0]


def set_(path: list, value: object) -> Callable[[dict], None]:
    def change(document: dict) -> None:
        for key in path[:-1]:
            document = document[key]
        document[path[-1]] = value

    return change


_SPLATS = ["meshes", 0, "primitives", 0, "extensions", "KHR_gaussian_splatting"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (set_(["accessors", 0, "count"], 10**9), "at most"),
        (set_(["accessors", 0, "count"], 5), "beyond the file|rows of"),
        (set_(["accessors", 2, "count"], 3), "rows of"),
        (set_(["accessors", 0, "bufferView"], 99), "damaged"),
        (set_(["bufferViews", 0, "byteOffset"], -4), "damaged"),
        (set_([*_SPLATS, "kernel"], "cone"), "kernel"),
        (set_([*_SPLATS, "colorSpace"], "lin_rec709_display"), "srgb_rec709_display"),
        (set_([*_SPLATS, "extensions"], {"KHR_gaussian_splatting_compression_spz_2": {}}), "plain splats"),
        (set_(["nodes", 0, "rotation"], [0, 0, 1, 0]), "moves"),
        (lambda d: primitive(d).pop("extensions"), "holds no Gaussian splats"),
        (lambda d: primitive(d)["attributes"].pop("KHR_gaussian_splatting:SCALE"), "damaged"),
    ],
)
def test_glb_documents_that_lie(tmp_path: Path, change: Callable[[dict], None], words: str) -> None:
    refused(READERS["glb"], glb_with(change, tmp_path), words)
