"""Cameras on disk: `transforms.json` as nerfstudio reads and writes it.

The file holds camera-to-world matrices with OpenGL axes (+x right, +y up, the camera looks along -z); in memory we keep
world-to-camera with OpenCV axes. The conversion itself lives in `headrecon.geometry.cameras`. Intrinsics agree: pixels,
the centre of the first pixel at (0.5, 0.5). Lens distortion is not modelled: files that have it are refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from headrecon.errors import InputError, ShapeError
from headrecon.geometry.cameras import opengl_from_viewmats, viewmats_from_opengl
from headrecon.io.runs import write_json
from headrecon.structures import Cameras

_INTRINSICS = ("fl_x", "fl_y", "cx", "cy", "w", "h")
_DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")
_LARGEST_JSON = 64 << 20
#: A rotation read from a file may be off by the digits that were printed.
_ROTATION_TOLERANCE = 1e-3


@dataclass(frozen=True)
class KnownCamera:
    """The camera of one image: T_cam_world (OpenCV axes) in the file's unit, intrinsics in pixels, picture size.

    image: as named in the file.
    """

    image: str
    viewmat: Float[np.ndarray, "4 4"]
    k: Float[np.ndarray, "3 3"]
    width: int
    height: int


@dataclass(frozen=True)
class CameraFile:
    """Cameras [C] (float64 tensors) with the image of each, as named in the file (relative to it, forward slashes)."""

    cameras: Cameras
    images: tuple[str, ...]


def write_transforms(
    path: str | Path,
    cameras: Cameras | Sequence[Cameras],
    images: Sequence[str],
    further: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write `transforms.json`, one frame per camera. Intrinsics are given once when shared, else in every frame.

    cameras: all of one picture size, or a list of single ones of any size. further: what else to say of each frame,
    such as its `mask_path`.
    Raises ShapeError when the numbers of cameras and images differ or K has skew, InputError when it cannot be written.
    """
    parts = [_singles(c) for c in ([cameras] if isinstance(cameras, Cameras) else cameras)]
    viewmats, ks = (np.concatenate([p[i] for p in parts]) for i in (0, 1))
    sizes = [p[2] for p in parts for _ in p[0]]
    if len(images) != len(viewmats):
        raise ShapeError(
            f"transforms.json needs one image per camera, found {len(viewmats)} cameras, {len(images)} images"
        )
    if bool((abs(ks[:, 0, 1]) > 1e-9).any()):
        raise ShapeError("transforms.json cannot hold intrinsics with skew (K[0,1] must be 0)")
    transforms = opengl_from_viewmats(viewmats)
    intrinsics = [_intrinsics(k, *size) for k, size in zip(ks, sizes, strict=True)]
    shared = all(entry == intrinsics[0] for entry in intrinsics)
    frames = [
        {"file_path": image, **({} if shared else entry), **more, "transform_matrix": matrix}
        for image, entry, more, matrix in zip(
            images, intrinsics, further or [{}] * len(images), transforms, strict=True
        )
    ]
    head = {"camera_model": "OPENCV", **(intrinsics[0] if shared and intrinsics else {})}
    write_json(path, {**head, "frames": frames}, digits=12)


def _singles(cameras: Cameras) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    arrays = cameras.numpy()
    viewmats = arrays.viewmats.astype(np.float64).reshape(-1, 4, 4)
    ks = np.broadcast_to(arrays.Ks.astype(np.float64).reshape(-1, 3, 3), (len(viewmats), 3, 3))
    return viewmats, ks, (cameras.width, cameras.height)


def _intrinsics(k: Float[np.ndarray, "3 3"], width: int, height: int) -> dict[str, float]:
    focal_x, focal_y, cx, cy = (float(k[i, j]) for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
    return dict(zip(_INTRINSICS, (focal_x, focal_y, cx, cy, width, height), strict=True))


def read_transforms(path: str | Path) -> CameraFile:
    """Read `transforms.json` by nerfstudio or us. Frame values win over those at the top; fl_y defaults to fl_x.

    Raises InputError for a missing or broken file, lens distortion, or frames of different sizes.
    """
    path = Path(path)
    frames = transform_frames(path)
    sizes = {(f.width, f.height) for f in frames}
    if len(sizes) > 1:
        raise InputError(f"{path}: all frames must have one size, found {sorted(sizes)}")
    import torch

    viewmats, ks = (torch.from_numpy(np.stack([getattr(f, name) for f in frames])) for name in ("viewmat", "k"))
    return CameraFile(Cameras(viewmats, ks, *sizes.pop()), tuple(f.image for f in frames))


def transform_frames(path: Path) -> tuple[KnownCamera, ...]:
    """The cameras of `transforms.json`, of any sizes. Raises InputError as `read_transforms` does."""
    content = load_json(path)
    frames = content.get("frames")
    if not isinstance(frames, list) or not frames or not all(isinstance(f, dict) for f in frames):
        raise InputError(f"{path}: expected a list 'frames' with at least one camera")
    out = []
    for i, frame in enumerate(frames):
        v = _frame_intrinsics(path, i, content, frame)
        k = np.array([[v["fl_x"], 0, v["cx"]], [0, v["fl_y"], v["cy"]], [0, 0, 1]], dtype=np.float64)
        viewmat = viewmats_from_opengl(_matrix(path, i, frame))
        out.append(KnownCamera(str(frame.get("file_path", "")), viewmat, k, int(v["w"]), int(v["h"])))
    return tuple(out)


def load_json(path: Path) -> dict[str, Any]:
    """A JSON object with cameras. Raises InputError."""
    try:
        if path.stat().st_size > _LARGEST_JSON:
            raise InputError(f"{path}: larger than {_LARGEST_JSON >> 20} MB; expected cameras of a few photos")
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read cameras {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON: {error}") from error
    except RecursionError as error:
        raise InputError(f"{path} is nested too deeply to be a list of cameras") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a JSON object with 'frames', found {type(content).__name__}")
    return content


def _frame_intrinsics(path: Path, index: int, top: Mapping[str, Any], frame: Mapping[str, Any]) -> dict[str, float]:
    merged = {**top, **frame}
    merged.setdefault("fl_y", merged.get("fl_x"))
    found: dict[str, float] = {}
    for name in (*_INTRINSICS, *_DISTORTION):
        value = merged.get(name, 0.0 if name in _DISTORTION else None)
        if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e9 or value != value:
            raise InputError(f"{path}: frame {index} must have a number {name!r}, found {value!r}")
        found[name] = float(value)
    if any(found[name] for name in _DISTORTION):
        raise InputError(f"{path}: frame {index} has lens distortion; undistort the images first")
    if min(found["fl_x"], found["fl_y"], found["w"], found["h"]) <= 0 or found["w"] % 1 or found["h"] % 1:
        raise InputError(f"{path}: frame {index}: fl_x, fl_y must be positive, w and h positive whole numbers")
    return found


def _matrix(path: Path, index: int, frame: Mapping[str, Any]) -> Float[np.ndarray, "4 4"]:
    try:
        matrix = np.array(frame.get("transform_matrix"), dtype=np.float64)
    except (TypeError, ValueError):
        matrix = np.zeros(0)
    if matrix.shape == (3, 4):
        matrix = np.concatenate([matrix, [[0.0, 0.0, 0.0, 1.0]]])
    if matrix.shape != (4, 4) or not bool(np.isfinite(matrix).all()):
        raise InputError(f"{path}: frame {index}: transform_matrix must be 4x4 finite numbers")
    matrix[:3, :3] = rotation_checked(f"{path}: frame {index}: transform_matrix", matrix[:3, :3])
    return matrix


def rotation_checked(name: str, rotation: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "3 3"]:
    """The nearest true rotation of one that was printed: inverting by transpose is exact only for one.

    Raises InputError when it is none within the digits that files have.
    """
    off = float(abs(rotation @ rotation.T - np.eye(3)).max())
    if off > _ROTATION_TOLERANCE or float(np.linalg.det(rotation)) < 0:
        raise InputError(f"{name} must hold a rotation (off by {off:.2g})")
    u, _, vh = np.linalg.svd(rotation)
    return u @ vh
