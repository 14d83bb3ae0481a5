"""Track files: nothing is lost in `track.npz`, broken ones are refused, and the CSVs say what other tools expect."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import fields, replace

import numpy as np
import pytest

from headrecon.errors import AssetError, InputError, ShapeError
from headrecon.geometry import so3
from headrecon.io import tracks
from headrecon.io.arkit_curves import JAW_OPEN_RADIANS, arkit_curves, euler_yxz
from headrecon.io.tracks import read_track, timecode, write_arkit_csv, write_livelink_csv, write_track
from headrecon.structures import ARKIT_NAMES, HeadParams, Track
from tests.io.tracks import make_track


def _posed(track: Track, **values: tuple[float, ...]) -> Track:
    """The same track with some fields set to one row in every frame."""
    rows = {name: np.tile(np.array(row), (len(track), 1)) for name, row in values.items()}
    return replace(track, params=replace(track.params, **rows))


def _still(count: int = 3, names: tuple[str, ...] = ARKIT_NAMES) -> Track:
    track = make_track(count, names=names)
    zero = (0.0, 0.0, 0.0)
    poses = dict.fromkeys(("global_orient", "neck_pose", "jaw_pose", "leye_pose", "reye_pose", "transl"), zero)
    return _posed(track, expression=(0.0,) * len(names), **poses)


def test_a_track_survives_its_file_bit_for_bit(tmp_path):
    track = make_track(7)
    single = replace(track, params=replace(track.params, expression=track.params.expression.astype(np.float32)))
    for given in (track, single):
        write_track(tmp_path / "track.npz", given)
        read = read_track(tmp_path / "track.npz")
        assert (read.model, read.expression_names) == (given.model, given.expression_names)
        assert (read.cameras.width, read.cameras.height) == (512, 512)
        pairs = [(getattr(read.params, f.name), getattr(given.params, f.name)) for f in fields(HeadParams)]
        pairs += [(getattr(read, n), getattr(given, n)) for n in ("frames", "timestamps_s", "confidence")]
        pairs += [(read.cameras.viewmats, given.cameras.viewmats), (read.cameras.Ks, given.cameras.Ks)]
        for found, wanted in pairs:
            assert found.dtype == wanted.dtype
            assert np.array_equal(found, wanted)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["track.npz"]  # no temporary file stays


def test_identity_is_stored_once(tmp_path):
    write_track(tmp_path / "a.npz", make_track(50, betas=300))
    with np.load(tmp_path / "a.npz") as archive:
        assert archive["betas"].shape == (300,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"expression": np.zeros((5, 3))}, "expression must be floats [5, 52]"),
        ({"timestamps_s": np.zeros(5)}, "must rise"),
        ({"transl": np.full((5, 3), np.nan)}, "NaN"),
        ({"frames": np.arange(5.0)}, "frames must be whole numbers"),
        ({"Ks": None}, "'Ks' is missing"),
        ({"confidence": np.array(["a"] * 5)}, "confidence must be floats"),
        ({tracks.META: np.frombuffer(b"{", dtype=np.uint8)}, "not JSON"),
        ({tracks.META: np.frombuffer(b"[1]", dtype=np.uint8)}, "not a track"),
        ({tracks.META: None}, "not a track"),
    ],
)  # fmt: skip
def test_broken_tracks_are_refused(tmp_path, change, message):
    path = tmp_path / "t.npz"
    write_track(path, make_track(5))
    with np.load(path) as archive:
        arrays = dict(archive)
    arrays = {name: array for name, array in {**arrays, **change}.items() if array is not None}
    np.savez(path, **arrays)
    with pytest.raises(AssetError, match=r"t\.npz") as caught:
        read_track(path)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [("format_version", 2), ("width", -1), ("width", True), ("expression_names", "x"), ("model", 5), ("height", 1e9)],
)
def test_a_wrong_description_is_refused(tmp_path, key, value):
    path = tmp_path / "t.npz"
    write_track(path, make_track(2))
    with np.load(path) as archive:
        arrays = dict(archive)
    meta = {**json.loads(arrays[tracks.META].tobytes()), key: value}
    arrays[tracks.META] = np.frombuffer(json.dumps(meta).encode(), dtype=np.uint8)
    np.savez(path, **arrays)
    with pytest.raises(AssetError):
        read_track(path)


def test_other_files_are_no_tracks(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"nonsense")
    np.savez(tmp_path / "pickle.npz", x=np.array([{}], dtype=object))
    for name in ("a.npz", "pickle.npz", "missing.npz"):
        with pytest.raises(AssetError, match=re.escape(name)):
            read_track(tmp_path / name)
    with pytest.raises(InputError, match=r"no/t\.npz"):
        write_track(tmp_path / "no" / "t.npz", make_track())
    with pytest.raises(ShapeError, match="at least one frame"):
        write_track(tmp_path / "t.npz", make_track().take(np.zeros(0, int)))


def test_livelink_columns_and_timecodes(tmp_path):
    track = make_track(40)
    write_livelink_csv(tmp_path / "l.csv", track)
    rows = list(csv.DictReader((tmp_path / "l.csv").open()))
    assert len(rows) == 40
    header = list(rows[0])
    assert header[:4] == ["Timecode", "BlendShapeCount", "EyeBlinkLeft", "EyeLookDownLeft"]
    assert header[-9:-6] == ["HeadYaw", "HeadPitch", "HeadRoll"]
    assert header[-1] == "RightEyeRoll"
    assert len(header) == 63
    assert {n[0].lower() + n[1:] for n in header[2:54]} == set(ARKIT_NAMES)
    assert rows[0]["BlendShapeCount"] == "61"
    # Frame 2 of the video is absent: the clock goes on.
    assert [rows[i]["Timecode"] for i in (0, 1, 2, 29)] == [
        "00:00:00:00.000", "00:00:00:01.000", "00:00:00:03.000", "00:00:01:00.000",
    ]  # fmt: skip
    column = ARKIT_NAMES.index("mouthSmileLeft")
    assert float(rows[3]["MouthSmileLeft"]) == pytest.approx(track.params.expression[3, column], abs=1e-6)


def test_timecodes_of_hours_and_parts_of_frames():
    assert timecode(3600 + 62 + 10.25 / 24, 24) == "01:01:02:10.250"
    assert timecode(0.99999999, 30) == "00:00:01:00.000"  # rounds up across the second


def test_arkit_csv_holds_the_weights(tmp_path):
    track = make_track(4, names=("mouthPucker", "ownShape", "jawOpen"))
    write_arkit_csv(tmp_path / "a.csv", track)
    rows = list(csv.DictReader((tmp_path / "a.csv").open()))
    assert list(rows[0]) == ["frame", "time_s", "confidence", *ARKIT_NAMES]
    assert [int(row["frame"]) for row in rows] == [0, 1, 3, 4]
    assert float(rows[1]["mouthPucker"]) == pytest.approx(track.params.expression[1, 0], abs=1e-6)
    assert all(float(row["mouthSmileLeft"]) == 0 for row in rows)  # the model has no such shape


def test_jaw_joint_counts_as_jaw_open():
    curves = arkit_curves(_posed(_still(names=()), jaw_pose=(JAW_OPEN_RADIANS / 2, 0.06, 0.0)))
    assert curves.weights[:, ARKIT_NAMES.index("jawOpen")] == pytest.approx(0.5)
    assert curves.weights[:, ARKIT_NAMES.index("jawLeft")] == pytest.approx(0.5)
    assert curves.weights[:, ARKIT_NAMES.index("jawRight")] == pytest.approx(0)
    wide = arkit_curves(_posed(_still(names=()), jaw_pose=(1.5, 0.0, 0.0)))
    assert wide.weights.max() == 1  # never more than ARKit knows


def test_eyes_that_turn_to_the_persons_left():
    # About +y: +z turns towards +x, the person's left. The left eye looks out, the right one in.
    curves = arkit_curves(_posed(_still(), leye_pose=(0.0, 0.2, 0.0), reye_pose=(0.0, 0.2, 0.0)))
    weights = dict(zip(ARKIT_NAMES, curves.weights[0], strict=True))
    assert weights["eyeLookOutLeft"] == pytest.approx(0.31)
    assert weights["eyeLookInRight"] == pytest.approx(0.31)
    assert weights["eyeLookInLeft"] == weights["eyeLookOutRight"] == 0
    assert curves.left_eye[0] == pytest.approx([-0.2, 0, 0])  # the app counts turns to the right
    down = arkit_curves(_posed(_still(), leye_pose=(0.1, 0.0, 0.0)))
    assert down.left_eye[0] == pytest.approx([0, 0.1, 0])
    assert down.weights[0, ARKIT_NAMES.index("eyeLookDownLeft")] == pytest.approx(0.22)
    assert down.right_eye[0] == pytest.approx(0)


def test_eye_shapes_and_eye_joints_say_the_same():
    still = _still()
    shape = replace(still, params=replace(still.params, expression=still.params.expression.copy()))
    shape.params.expression[:, ARKIT_NAMES.index("eyeLookOutLeft")] = 0.31
    joint = _posed(still, leye_pose=(0.0, 0.2, 0.0))
    assert arkit_curves(shape).weights == pytest.approx(arkit_curves(joint).weights)
    assert arkit_curves(shape).left_eye == pytest.approx(arkit_curves(joint).left_eye)


def test_head_angles():
    for axis, expected in ((0, [0, -0.3, 0]), (1, [0.3, 0, 0]), (2, [0, 0, 0.3])):
        turn = [0.0, 0.0, 0.0]
        turn[axis] = 0.3
        assert arkit_curves(_posed(_still(), global_orient=tuple(turn))).head[0] == pytest.approx(expected)
    # Root and neck turn the head together.
    both = arkit_curves(_posed(_still(), global_orient=(0.0, 0.3, 0.0), neck_pose=(0.0, 0.2, 0.0)))
    assert both.head[0] == pytest.approx([0.5, 0, 0])


def test_euler_angles_rebuild_the_rotation():
    rng = np.random.default_rng(0)
    omegas = [*rng.normal(0, 1.5, (200, 3)), [np.pi / 2, 0, 0], [-np.pi / 2, 0, 0], [0, np.pi, 0]]
    rotations = so3.exp(np.array(omegas))
    y, x, z = euler_yxz(rotations).T

    def about(axis: int, angles: np.ndarray) -> np.ndarray:
        return so3.exp(angles[:, None] * np.eye(3)[axis])

    assert about(1, y) @ about(0, x) @ about(2, z) == pytest.approx(rotations, abs=1e-7)
