"""Tracks on disk: `track.npz` holds all of a `Track`; `livelink.csv` and `arkit.csv` its motion for other tools.

See docs/formats.md. A track comes from strangers too: plain arrays and one JSON text, no pickles, sizes bounded.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from headrecon.errors import AssetError, ShapeError
from headrecon.io.arkit_curves import ArkitCurves, arkit_curves
from headrecon.io.npz import read_npz, write_npz
from headrecon.io.runs import write_text
from headrecon.structures import ARKIT_NAMES, Cameras, HeadParams, Track

FORMAT = "headrecon.track"
FORMAT_VERSION = 1
#: Name of the array that holds the JSON text.
META = "headrecon_meta"
#: Frames in the longest track that is read: 13 hours at 60 frames per second.
MAX_FRAMES = 3_000_000

_PER_FRAME = tuple(f.name for f in fields(HeadParams) if f.name != "betas")
_ARRAYS = (*_PER_FRAME, "betas", "viewmats", "Ks", "frames", "timestamps_s", "confidence")

#: The order of Live Link Face's files; readers go by the names in the header, and some by their place.
LIVE_LINK_NAMES: tuple[str, ...] = (
    "EyeBlinkLeft", "EyeLookDownLeft", "EyeLookInLeft", "EyeLookOutLeft", "EyeLookUpLeft", "EyeSquintLeft",
    "EyeWideLeft", "EyeBlinkRight", "EyeLookDownRight", "EyeLookInRight", "EyeLookOutRight", "EyeLookUpRight",
    "EyeSquintRight", "EyeWideRight", "JawForward", "JawRight", "JawLeft", "JawOpen", "MouthClose", "MouthFunnel",
    "MouthPucker", "MouthRight", "MouthLeft", "MouthSmileLeft", "MouthSmileRight", "MouthFrownLeft",
    "MouthFrownRight", "MouthDimpleLeft", "MouthDimpleRight", "MouthStretchLeft", "MouthStretchRight",
    "MouthRollLower", "MouthRollUpper", "MouthShrugLower", "MouthShrugUpper", "MouthPressLeft", "MouthPressRight",
    "MouthLowerDownLeft", "MouthLowerDownRight", "MouthUpperUpLeft", "MouthUpperUpRight", "BrowDownLeft",
    "BrowDownRight", "BrowInnerUp", "BrowOuterUpLeft", "BrowOuterUpRight", "CheekPuff", "CheekSquintLeft",
    "CheekSquintRight", "NoseSneerLeft", "NoseSneerRight", "TongueOut",
)  # fmt: skip
_LIVE_LINK_ANGLES = tuple(
    f"{part}{angle}" for part in ("Head", "LeftEye", "RightEye") for angle in ("Yaw", "Pitch", "Roll")
)


def write_track(path: str | Path, track: Track) -> None:
    """Write `track.npz`, whole or not at all; floats keep their precision. Raises ShapeError, InputError."""
    write_npz(path, track_arrays(track))


def track_arrays(track: Track) -> dict[str, np.ndarray]:
    """What `track.npz` holds, by name. Raises ShapeError for a track without frames or one that does not fit."""
    track = track.validate()
    if not len(track):
        raise ShapeError("track: expected at least one frame, found none")
    params = track.params.numpy()
    meta = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "model": track.model,
        "expression_names": list(track.expression_names),
        "width": track.cameras.width,
        "height": track.cameras.height,
    }
    arrays = {META: np.frombuffer(json.dumps(meta).encode(), dtype=np.uint8), "betas": params.betas[0]}
    arrays |= {name: getattr(params, name) for name in _PER_FRAME}
    cameras = track.cameras.numpy()
    arrays |= {"viewmats": cameras.viewmats, "Ks": cameras.Ks, "frames": np.asarray(track.frames, dtype=np.int64)}
    return arrays | {"timestamps_s": track.timestamps_s, "confidence": track.confidence}


def read_track(path: str | Path) -> Track:
    """Read a `track.npz`. Raises AssetError when it is missing, damaged, of another version, or inconsistent."""
    path = Path(path)
    arrays = read_npz(path)
    meta = _read_meta(arrays, path)
    missing = [name for name in _ARRAYS if name not in arrays]
    if missing:
        raise AssetError(f"{path}: array {missing[0]!r} is missing; track the video again")
    try:
        return _track(arrays, meta, path).validate()
    except ShapeError as error:
        raise AssetError(f"{path}: {error}; track the video again") from error


def _track(arrays: dict[str, np.ndarray], meta: dict[str, Any], path: Path) -> Track:
    count = len(arrays["frames"]) if arrays["frames"].ndim == 1 else 0
    if not 0 < count <= MAX_FRAMES:
        raise AssetError(f"{path}: expected 1 to {MAX_FRAMES:,} frames, found {arrays['frames'].shape}")
    names = meta["expression_names"]
    shapes = {"betas": (-1,), "expression": (count, len(names)), "viewmats": (count, 4, 4), "Ks": (count, 3, 3)}
    shapes |= {"frames": (count,), "timestamps_s": (count,), "confidence": (count,)}
    for name in _ARRAYS:
        array, expected = arrays[name], shapes.get(name, (count, 3))
        kinds = "iu" if name == "frames" else "f"
        if (
            array.ndim != len(expected)
            or (expected[0] != -1 and array.shape != expected)
            or array.dtype.kind not in kinds
        ):
            wanted = "[Nb]" if name == "betas" else list(expected)
            kind = "whole numbers" if kinds == "iu" else "floats"
            raise AssetError(f"{path}: {name} must be {kind} {wanted}, found {array.dtype} {list(array.shape)}")
    # One row seen T times: a long track does not hold its identity T times over.
    betas = np.broadcast_to(arrays["betas"], (count, len(arrays["betas"])))
    return Track(
        model=meta["model"],
        expression_names=tuple(names),
        params=HeadParams(betas=betas, **{name: arrays[name] for name in _PER_FRAME}),
        cameras=Cameras(arrays["viewmats"], arrays["Ks"], meta["width"], meta["height"]),
        frames=arrays["frames"].astype(np.int64, copy=False),
        timestamps_s=arrays["timestamps_s"],
        confidence=arrays["confidence"],
    )


def _read_meta(arrays: dict[str, np.ndarray], path: Path) -> dict[str, Any]:
    text = arrays.get(META)
    if text is None or text.dtype != np.uint8:
        raise AssetError(f"{path}: not a track; expected the track.npz that `headrecon track` writes")
    try:
        meta = json.loads(text.tobytes())
    except (ValueError, RecursionError) as error:
        raise AssetError(f"{path}: its description is not JSON; the file is damaged, track the video again") from error
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise AssetError(f"{path}: not a track; expected the track.npz that `headrecon track` writes")
    if meta.get("format_version") != FORMAT_VERSION:
        found = meta.get("format_version")
        raise AssetError(
            f"{path}: format version {found!r}, this headrecon reads {FORMAT_VERSION}; track the video again"
        )
    names = meta.get("expression_names")
    sizes = [meta.get(key) for key in ("width", "height")]
    good = isinstance(names, list) and all(isinstance(n, str) for n in names) and isinstance(meta.get("model"), str)
    if not good or not all(type(n) is int and 0 < n <= 65536 for n in sizes):
        raise AssetError(f"{path}: its description lacks model, expression_names, width or height, or they are wrong")
    return meta


def write_livelink_csv(path: str | Path, track: Track) -> None:
    """Write the motion as Live Link Face does: a timecode, 61, 52 curves and nine angles in radians per frame.

    Timecodes count from 0 at the clip's start, in frames of the track's usual rate with thousandths of a frame, so that
    a varying rate stays true. Raises InputError when the file cannot be written.
    """
    curves = arkit_curves(track)
    order = [ARKIT_NAMES.index(name[0].lower() + name[1:]) for name in LIVE_LINK_NAMES]
    angles = np.concatenate([curves.head, curves.left_eye, curves.right_eye], axis=1)
    values = np.concatenate([curves.weights[:, order], angles], axis=1)
    header = ",".join(("Timecode", "BlendShapeCount", *LIVE_LINK_NAMES, *_LIVE_LINK_ANGLES))
    rate = nominal_rate(track.timestamps_s)
    rows = (
        f"{timecode(float(t), rate)},{values.shape[1]}," + ",".join(f"{v:.6f}" for v in row + 0.0)
        for t, row in zip(track.timestamps_s - track.timestamps_s[0], values, strict=True)
    )
    _write_rows(path, header, rows)


def write_arkit_csv(path: str | Path, track: Track) -> None:
    """Write frame, time_s, confidence and the 52 ARKit weights in Apple's alphabetical order, a row per frame."""
    curves: ArkitCurves = arkit_curves(track)
    header = ",".join(("frame", "time_s", "confidence", *ARKIT_NAMES))
    rows = (
        f"{frame},{time:.6f},{confidence:.4f}," + ",".join(f"{v:.6f}" for v in row + 0.0)
        for frame, time, confidence, row in zip(
            track.frames, track.timestamps_s, track.confidence, curves.weights, strict=True
        )
    )
    _write_rows(path, header, rows)


def _write_rows(path: str | Path, header: str, rows: Iterator[str]) -> None:
    write_text(path, "\n".join((header, *rows)) + "\n")


def nominal_rate(timestamps_s: Float[np.ndarray, " T"], fallback: int = 30) -> int:
    """Frames per second that a timecode counts in: the usual rate, rounded; `fallback` for a single frame."""
    if len(timestamps_s) < 2:
        return fallback
    return max(1, round(1 / float(np.median(np.diff(timestamps_s)))))


def timecode(seconds: float, rate: int) -> str:
    """HH:MM:SS:FF.fff, frames and thousandths of a frame within the second."""
    thousandths = round(seconds * rate * 1000)
    whole, rest = divmod(thousandths, rate * 1000)
    frame, part = divmod(rest, 1000)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}:{frame:02d}.{part:03d}"
