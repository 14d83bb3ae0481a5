"""Videos as strangers send them: turned, uneven in time, cut off, damaged, or no videos at all."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from headrecon.errors import InputError
from headrecon.io.video_colour import HLG, PQ, to_srgb
from headrecon.io.video_orientation import Orientation
from headrecon.io.video_reader import VideoReader
from headrecon.io.video_writer import write_timed_mp4

SIZE = (48, 64)


def picture(index: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Bright on the left, with a brightness that tells the frames apart."""
    image = np.full((*size, 3), 40 + 6 * index, np.uint8)
    image[:, : size[1] // 4] = 250
    return image


def make(path: Path, times_s: list[float], size: tuple[int, int] = SIZE) -> Path:
    write_timed_mp4(path, ((t, picture(i, size)) for i, t in enumerate(times_s)), 30.0)
    return path


def turned(path: Path, matrix: tuple[int, ...]) -> Path:
    """The file with that rotation in its track header (`tkhd`), as phones write it: 16.16 fixed point."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4
    start = at + 40 + (12 if data[at] == 1 else 0)
    unit = [v << 16 for v in matrix]
    values = [unit[0], unit[1], 0, unit[2], unit[3], 0, 0, 0, 1 << 30]
    data[start : start + 36] = struct.pack(">9i", *values)
    path.write_bytes(data)
    return path


def test_frames_come_in_order_with_their_times(tmp_path):
    times = [0.0, 0.033, 0.1, 0.2, 0.233]  # a varying rate
    reader = VideoReader(make(tmp_path / "a.mp4", times))
    frames = list(reader.frames())
    assert [f.index for f in frames] == [0, 1, 2, 3, 4]
    assert np.allclose([f.time_s for f in frames], times, atol=2e-4)  # the container counts 1/16000 s or finer
    assert (reader.info.width, reader.info.height) == (64, 48)
    levels = [float(f.image_srgb[:, 32:].mean()) for f in frames]
    assert np.allclose(levels, [40 + 6 * i for i in range(5)], atol=3.0)  # lossy
    assert reader.notes == []


def test_reading_from_the_middle_gives_the_same_frames(tmp_path):
    reader = VideoReader(make(tmp_path / "a.mp4", [i / 30 for i in range(12)]))
    whole, part = list(reader.frames()), list(reader.frames(7))
    assert [f.index for f in part] == [7, 8, 9, 10, 11]
    for a, b in zip(whole[7:], part, strict=True):
        assert a.time_s == b.time_s
        assert np.array_equal(a.image_srgb, b.image_srgb)
    assert np.array_equal(reader.pictures_at([9])[9], whole[9].image_srgb)
    with pytest.raises(InputError, match="frame 40 cannot be read again"):
        reader.pictures_at([40])


@pytest.mark.parametrize(
    ("matrix", "corner"),
    [
        ((0, 1, -1, 0), "top"),
        ((-1, 0, 0, -1), "right"),
        ((0, -1, 1, 0), "bottom"),
        ((-1, 0, 0, 1), "right"),
        ((1, 0, 0, -1), "left"),
        ((0, 1, 1, 0), "top"),
        ((0, -1, -1, 0), "bottom"),
        ((0, 0, 0, 0), "left"),
    ],
    ids=["90", "180", "270", "mirrored", "upside down mirrored", "90 mirrored", "270 mirrored", "zeros"],
)
def test_rotation_flags_turn_the_picture_upright(tmp_path, matrix, corner):
    """The stored picture is bright on its left; the flag says where that side belongs."""
    reader = VideoReader(turned(make(tmp_path / "a.mp4", [0.0, 0.1]), matrix))
    image = next(reader.frames()).image_srgb.mean(2)
    height, width = image.shape
    assert (width, height) == ((48, 64) if matrix[1] else (64, 48))
    assert (reader.info.width, reader.info.height) == (width, height)
    strips = {
        "top": image[: height // 5],
        "bottom": image[-height // 5 :],
        "right": image[:, -width // 5 :],
        "left": image[:, : width // 5],
    }
    assert max(strips, key=lambda k: float(strips[k].mean())) == corner


def test_mirrors_are_told_from_turns():
    """All eight, on a picture whose four corners differ, against the matrix itself."""
    stored = np.arange(6, dtype=np.uint8).reshape(2, 3)[..., None].repeat(3, axis=2)
    for matrix in ((1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0),
                   (-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0), (0, -1, -1, 0)):  # fmt: skip
        a, b, c, d = matrix
        shown = Orientation.of_matrix(*(float(m) for m in matrix)).apply(stored)
        rows, columns = np.mgrid[0:2, 0:3]
        x, y = a * columns + c * rows, b * columns + d * rows
        assert np.array_equal(shown[y - y.min(), x - x.min()], stored)


@pytest.mark.parametrize(("kind", "white", "grey"), [(PQ, 148, 97), (HLG, 191, 97)])
def test_high_dynamic_range_becomes_srgb(kind, white, grey):
    """BT.2408: white paper (203 cd/m²: 58 % of PQ, 75 % of HLG) is nearly white, a grey card (38 %) is grey."""
    image = np.array([[[white] * 3, [grey] * 3, [255] * 3, [0] * 3]], np.uint8)
    out = to_srgb(image, kind)[0, :, 0].astype(int)
    assert 235 <= out[0] <= 250
    assert out[1] == pytest.approx(100, abs=4)  # 0.128 of white as sRGB
    assert out[2] >= 250
    assert out[3] == 0
    red = to_srgb(np.array([[[white, grey, grey]]], np.uint8), kind)[0, 0].astype(int)
    assert red[0] > 1.4 * red[1]  # BT.2020's red is a stronger one than sRGB's


def test_a_file_of_high_dynamic_range_is_told(tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = SIZE[1], SIZE[0], "yuv420p"
        stream.codec_context.color_trc = HLG
        grey = np.full((*SIZE, 3), 191, np.uint8)
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(stream.encode())
    reader = VideoReader(path)
    image = next(iter(reader.frames())).image_srgb
    list(reader.frames())
    assert 225 <= image.mean() <= 252
    assert any("high dynamic range" in note for note in reader.notes)


def test_truncated_file_gives_what_decodes_and_says_so(tmp_path):
    path = tmp_path / "a.mp4"
    rng = np.random.default_rng(0)
    noise = ((i / 30, rng.integers(0, 255, (96, 128, 3), dtype=np.uint8)) for i in range(60))
    write_timed_mp4(path, noise, 30.0)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    reader = VideoReader(path)
    count = sum(1 for _ in reader.frames())
    assert 10 < count < 50
    assert any("ends too early" in note for note in reader.notes)


def test_damaged_frames_are_left_out_and_counted(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for i in range(10):
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture(i), format="rgb24")):
                if i == 4:
                    broken = av.Packet(b"\xff\xd8not a picture at all")
                    broken.stream, broken.pts, broken.dts = stream, packet.pts, packet.dts
                    broken.time_base = packet.time_base
                    container.mux(broken)
                else:
                    container.mux(packet)
    reader = VideoReader(path)
    frames = list(reader.frames())
    assert [f.index for f in frames] == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert "1 damaged frame was left out" in reader.notes


def test_one_frame(tmp_path):
    reader = VideoReader(make(tmp_path / "a.mp4", [0.0]))
    frames = list(reader.frames())
    assert [(f.index, f.time_s) for f in frames] == [(0, 0.0)]
    assert reader.notes == []


def sound_only(path: Path) -> None:
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=48000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4800), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.time_base, frame.pts = 48000, Fraction(1, 48000), 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def test_what_is_no_video_is_refused_in_one_sentence(tmp_path):
    text, empty, sound = tmp_path / "a.mp4", tmp_path / "b.mp4", tmp_path / "c.mp4"
    text.write_text("this is no video\n" * 50)
    empty.write_bytes(b"")
    sound_only(sound)
    cut = make(tmp_path / "d.mp4", [0.0, 0.1])
    data = cut.read_bytes()
    cut.write_bytes(data[: data.index(b"mdat") + 4])  # all of the header and nothing of the pictures
    for path, said in ((text, "not a video"), (empty, "empty"), (sound, "no picture stream"), (cut, "no frame")):
        with pytest.raises(InputError, match=said) as caught:
            VideoReader(path)
        assert str(path) in str(caught.value)
    with pytest.raises(InputError, match="is a folder"):
        VideoReader(tmp_path)
    with pytest.raises(InputError, match="no such file"):
        VideoReader(tmp_path / "none.mp4")


def test_absurd_sizes_are_refused_before_anything_is_decoded(tmp_path, monkeypatch):
    path = make(tmp_path / "a.mp4", [0.0, 0.1])
    monkeypatch.setattr("headrecon.io.video_reader.MAX_PIXELS", 1000)
    with pytest.raises(InputError, match="64 x 48 pixels are too large"):
        VideoReader(path)


def bar(time: int) -> np.ndarray:
    """A bright bar that moves two pixels a field."""
    image = np.full((64, 96, 3), 40, np.uint8)
    image[:, 4 + 2 * time : 20 + 2 * time] = 230
    return image


@pytest.mark.parametrize(("codec", "suffix"), [("mpeg2video", "mpg"), ("libx264", "mp4")])
def test_interlaced_frames_lose_one_field(codec, suffix, tmp_path):
    """Two fields of different times look like a comb; the first field is left, and the user is told."""
    path = tmp_path / f"a.{suffix}"
    options = {"flags": "+ildct+ilme"} if codec == "mpeg2video" else {"x264opts": "tff=1:bframes=0"}
    with av.open(str(path), "w") as container:
        try:
            stream = container.add_stream(codec, rate=25, options=options)
        except (av.FFmpegError, ValueError):
            pytest.skip(f"this PyAV has no encoder named {codec}")
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 96, 64, "yuv420p", 4_000_000
        for i in range(8):
            woven = bar(2 * i)
            woven[1::2] = bar(2 * i + 1)[1::2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(woven, format="rgb24").reformat(format="yuv420p")))
        container.mux(stream.encode())
    reader = VideoReader(path)
    frames = list(reader.frames())
    assert len(frames) == 8
    assert any(note.startswith("8 interlaced frames") for note in reader.notes)
    for i, frame in enumerate(frames):
        found = frame.image_srgb.astype(int)
        assert np.abs(found[0::2] - bar(2 * i)[0::2]).max() < 25  # the earlier field's place, lossy
        # no comb: every line in between is the mean of its neighbours
        assert np.abs(found[1:-1:2] - (found[0:-2:2] + found[2::2]) / 2).max() <= 1


def test_frames_that_are_not_interlaced_keep_all_lines(tmp_path):
    path = tmp_path / "a.mp4"
    lines = np.zeros((48, 64, 3), np.uint8)
    lines[::2] = 255
    write_timed_mp4(path, ((i / 30, lines) for i in range(3)), 30.0)
    reader = VideoReader(path)
    found = next(reader.frames()).image_srgb.astype(int)
    assert np.abs(np.diff(found, axis=0)).mean() > 150
    assert not reader.notes


def test_sound_goes_along(tmp_path):
    with_sound = tmp_path / "in.mp4"
    with av.open(str(with_sound), "w", format="mp4") as container:
        video, audio = container.add_stream("libx264", rate=30), container.add_stream("aac", rate=48000)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        for i in range(30):
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture(i), format="rgb24")))
        tone = np.sin(np.arange(48000) / 20).astype(np.float32)[None]
        frame = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
        frame.sample_rate, frame.time_base, frame.pts = 48000, Fraction(1, 48000), 0
        container.mux(audio.encode(frame))
        container.mux([*video.encode(), *audio.encode()])
    reader = VideoReader(with_sound)
    assert reader.info.audio == "aac"
    out = tmp_path / "out.mp4"
    write_timed_mp4(out, ((f.time_s, f.image_srgb) for f in reader.frames(15)), 30.0, with_sound, 0.5)
    with av.open(str(out)) as container:
        kinds = {s.type: float(s.duration * s.time_base) for s in container.streams}
        assert abs(kinds["audio"] - 0.5) < 0.08  # the second half, to a packet of 21 ms
        assert abs(kinds["video"] - 0.5) < 0.05
