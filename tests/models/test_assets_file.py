"""Head models survive the disk exactly, and damaged or hostile files end in one AssetError sentence."""

from __future__ import annotations

import json
import os
import zipfile
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from headrecon.errors import AssetError
from headrecon.io.npz import npz_names, read_npz
from headrecon.models import assets_file
from headrecon.models.assets_file import META, load_assets, save_assets
from headrecon.structures import HeadAssets, LandmarkEmbedding, Licence

NAMES = ("jawOpen", "mouthLeft")


def small_assets(v: int = 12, nb: int = 4, with_posedirs: bool = True) -> HeadAssets:
    rng = np.random.default_rng(0)

    def values(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    weights = rng.random((v, 5)).astype(np.float32)
    faces = np.array([[0, 1, 2, -1], [2, 3, 4, 5]], np.int32)
    return HeadAssets(
        name="tiny",
        v_template=values(v, 3),
        faces=faces,
        uvs=values(7, 2),
        uv_faces=faces,
        shapedirs=values(v, 3, nb),
        exprdirs=values(v, 3, len(NAMES)),
        expression_names=NAMES,
        J_regressor=values(5, v),
        parents=np.array([-1, 0, 1, 1, 1], np.int32),
        lbs_weights=weights / weights.sum(1, keepdims=True),
        face_part=np.array([0, 1], np.int32),
        part_names=("skin", "leye"),
        licences=(Licence("Own", "CC0-1.0", True, "https://example.org/é", "a note"),),
        posedirs=values(36, 3 * v) if with_posedirs else None,
        landmarks={
            "ibug68": LandmarkEmbedding(np.array([[0, 1, 2]], np.int32), np.array([[0.2, 0.3, 0.5]], np.float32)),
            "measure/head_length": LandmarkEmbedding(
                np.array([[3, 4, 5]], np.int32), np.ones((1, 3), np.float32) / 3, np.array([1e-3], np.float32)
            ),
        },
        regions={"face": rng.random(v).astype(np.float32)},
    )


def assert_same(a: HeadAssets, b: HeadAssets) -> None:
    for f in fields(HeadAssets):
        x, y = getattr(a, f.name), getattr(b, f.name)
        if isinstance(x, np.ndarray):
            assert x.dtype == y.dtype, f.name
            assert np.array_equal(x, y), f.name
        elif f.name == "regions":
            assert list(x) == list(y)
            assert all(np.array_equal(x[k], y[k]) for k in x)
        elif f.name == "landmarks":
            assert list(x) == list(y)
            for k in x:
                assert np.array_equal(x[k].vertex_ids, y[k].vertex_ids)
                assert np.array_equal(x[k].barycentrics, y[k].barycentrics)
                assert (x[k].sigma_m is None) == (y[k].sigma_m is None)
        else:
            assert x == y, f.name


@pytest.mark.parametrize("with_posedirs", [True, False])
def test_round_trip_is_exact(tmp_path: Path, with_posedirs: bool) -> None:
    assets = small_assets(with_posedirs=with_posedirs)
    path = save_assets(assets, tmp_path / "new" / "tiny.npz")
    assert_same(assets, load_assets(path))
    assert [p.name for p in path.parent.iterdir()] == ["tiny.npz"]  # no temporary file stays


def test_float64_is_stored_as_float32_and_bytes_repeat(tmp_path: Path) -> None:
    assets = small_assets()
    double = replace(assets, v_template=assets.v_template.astype(np.float64), faces=assets.faces.astype(np.int64))
    a, b = save_assets(assets, tmp_path / "a.npz"), save_assets(double, tmp_path / "b.npz")
    assert a.read_bytes() == b.read_bytes()


def test_inconsistent_assets_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match="lbs_weights must sum"):
        save_assets(replace(small_assets(), lbs_weights=np.zeros((12, 5), np.float32)), tmp_path / "x.npz")
    with pytest.raises(AssetError, match="letters, digits"):
        save_assets(replace(small_assets(), regions={"../x": np.zeros(12, np.float32)}), tmp_path / "x.npz")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_assets(small_assets(), tmp_path / "x.npz")
    before = path.read_bytes()

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(AssetError, match="No space left"):
        save_assets(small_assets(v=20), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["x.npz"]


def rewrite(path: Path, **changes: np.ndarray | None) -> Path:
    arrays = {**read_npz(path), **changes}
    np.savez(path, **{k: v for k, v in arrays.items() if v is not None})
    return path


def rewrite_meta(path: Path, **changes: object) -> Path:
    meta = {**json.loads(read_npz(path)[META].tobytes()), **changes}
    text: np.ndarray = np.frombuffer(json.dumps(meta).encode(), np.uint8)
    return rewrite(path, **{META: text})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shapedirs": None}, "'shapedirs' is missing"),
        ({"shapedirs": np.zeros((12, 3), np.float32)}, r"'shapedirs' must have shape \(12, 3, Nb\)"),
        ({"faces": np.zeros((2, 4), np.float32)}, "'faces' must have shape .* type int32"),
        ({"faces": np.full((2, 4), 99)}, "faces must index 0..11"),
        ({"faces": np.zeros((2, 5), int), "uv_faces": np.zeros((2, 5), int)}, "triangles or quads"),
        ({"v_template": np.full((12, 3), np.nan, np.float32)}, "v_template holds NaN"),
        ({"uvs": np.zeros((7, 3), np.float32)}, "'uvs' must have shape"),
        ({"regions.face": np.zeros(11, np.float32)}, "'regions.face' must have shape"),
        ({"landmarks.ibug68.vertex_ids": np.array([[0, 1, 12]])}, "landmarks 'ibug68' must index"),
        (
            {"landmarks.ibug68.barycentrics": np.ones((2, 3), np.float32)},
            "'landmarks.ibug68.barycentrics' must have shape",
        ),
        ({"face_part": np.array([0, -1])}, "face_part must not be negative"),
        ({META: None}, "not a headrecon head model"),
        ({META: np.frombuffer(b"{", np.uint8)}, "not JSON"),
        ({META: np.frombuffer(b"[" * 100000, np.uint8)}, "not JSON"),
    ],
)
def test_wrong_arrays_are_named(tmp_path: Path, changes: dict, message: str) -> None:
    path = rewrite(save_assets(small_assets(), tmp_path / "x.npz"), **changes)
    with pytest.raises(AssetError, match=message):
        load_assets(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 99}, "format version 99"),
        ({"format": "other"}, "not a headrecon head model"),
        ({"licences": [{"name": "x"}]}, "malformed"),
        ({"licences": [{"name": "", "spdx": "", "commercial": "yes", "source": "", "note": ""}]}, "malformed"),
        ({"expression_names": [1, 2]}, "malformed"),
        ({"expression_names": ["a", "b", "c"]}, "exprdirs must have shape"),
        ({"regions": ["absent"]}, "'regions.absent' is missing"),
        ({"landmarks": ["absent"]}, "'landmarks.absent.vertex_ids' is missing"),
        ({"landmarks": 5}, "malformed"),
    ],
)
def test_wrong_descriptions_are_named(tmp_path: Path, changes: dict, message: str) -> None:
    path = rewrite_meta(save_assets(small_assets(), tmp_path / "x.npz"), **changes)
    with pytest.raises(AssetError, match=message):
        load_assets(path)


def test_every_truncation_is_an_asset_error(tmp_path: Path) -> None:
    whole = save_assets(small_assets(), tmp_path / "x.npz").read_bytes()
    for size in range(0, len(whole), 997):
        (tmp_path / "cut.npz").write_bytes(whole[:size])
        with pytest.raises(AssetError, match=r"cut\.npz"):
            load_assets(tmp_path / "cut.npz")


def test_flipped_bytes_never_escape_as_other_errors(tmp_path: Path) -> None:
    whole = save_assets(small_assets(), tmp_path / "x.npz").read_bytes()
    rng = np.random.default_rng(1)
    refused = 0
    for at in rng.integers(0, len(whole), 300):
        damaged = bytearray(whole)
        damaged[at] ^= int(rng.integers(1, 256))
        (tmp_path / "bad.npz").write_bytes(damaged)
        try:
            load_assets(tmp_path / "bad.npz")  # bytes outside the content (zip timestamps) may change unnoticed
        except AssetError:
            refused += 1
    assert refused > 250


def test_missing_directory_text_and_unreadable(tmp_path: Path) -> None:
    (tmp_path / "note.npz").write_text("hello")
    for path, message in (("no.npz", "no such file"), (".", "directory"), ("note.npz", "not a readable")):
        with pytest.raises(AssetError, match=message):
            load_assets(tmp_path / path)


def header_of(shape: str, descr: str = "<f4") -> bytes:
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


@pytest.mark.parametrize(
    "member",
    [
        header_of("(1000000000000,)"),
        header_of("(-1,)"),
        header_of("(2,)", "|O") + b"\x80\x04N." * 4,
        header_of("(1,)", "|V8") + b"12345678",
        header_of("(1,)") + b"12345678",  # more bytes than the header says
        b"\x93NUMPY\x07\x00",
        b"cos\nsystem\n(S'true'\ntR.",
        b"",
    ],
)
def test_hostile_members_are_refused(tmp_path: Path, member: bytes) -> None:
    with zipfile.ZipFile(tmp_path / "h.npz", "w") as archive:
        archive.writestr("a.npy", member)
    with pytest.raises(AssetError, match=r"a\.npy"):
        read_npz(tmp_path / "h.npz")


def test_a_zip_bomb_is_refused_before_it_unpacks(tmp_path: Path) -> None:
    size = 64 << 20
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", header_of(f"({size // 4},)") + bytes(size))
    assert (tmp_path / "bomb.npz").stat().st_size < 1 << 20
    with pytest.raises(AssetError, match="unpacks to"):
        read_npz(tmp_path / "bomb.npz", max_bytes=1 << 20)


def test_object_arrays_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "o.npz", a=np.array([{}, None], dtype=object))
    with pytest.raises(AssetError, match="plain numbers or text"):
        read_npz(tmp_path / "o.npz")


def test_read_npz_agrees_with_numpy(tmp_path: Path) -> None:
    arrays = {
        "f": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big": np.arange(4, dtype=">f8"),
        "text": np.array(["a", "bcd"]),
        "scalar": np.array(3),
        "empty": np.zeros((0, 3)),
    }
    np.savez_compressed(tmp_path / "n.npz", **arrays)
    got = read_npz(tmp_path / "n.npz")
    assert npz_names(tmp_path / "n.npz") == set(arrays) == set(got)
    for name, expected in arrays.items():
        assert got[name].shape == expected.shape, name
        assert np.array_equal(got[name], expected), name
        assert got[name].dtype.isnative
        assert got[name].flags.writeable
    assert set(read_npz(tmp_path / "n.npz", names=["f", "absent"])) == {"f"}


def test_object_arrays_are_never_unpickled_by_numpy_directly() -> None:
    """A guard on the module itself: nothing in it may call numpy's own loader."""
    text = Path(assets_file.__file__).read_text() + Path(read_npz.__code__.co_filename).read_text()
    assert "np.load(" not in text
    assert "allow_pickle=True" not in text
