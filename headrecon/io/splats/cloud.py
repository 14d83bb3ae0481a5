"""What the formats share: Gaussians as files hold them, the turns between axes, and files read with bounds."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from headrecon.errors import InputError, ShapeError
from headrecon.geometry.harmonics import C0, evaluate_harmonics
from headrecon.structures import Gaussians

#: More than any head needs, and what Niantic's own reader allowed; a file that claims more is refused.
MOST_GAUSSIANS = 10_000_000
#: Of a file, and of what a compressed one unpacks to.
MAX_BYTES = 4 << 30
#: Coefficients of spherical harmonics up to degree 0, 1, 2, 3.
HARMONICS = (1, 4, 9, 16)
#: Logarithms need a smallest scale (metres) and logits an opacity that is neither 0 nor 1.
SMALLEST_SCALE = 1e-10
OPACITY_MARGIN = 1e-7

#: Which way a file's axes run, as signs of x, y and z. All are rotations, so nothing is mirrored.
#: "y-down": half a turn about z, what PlayCanvas and SuperSplat undo when they load a file. "opencv": half a turn about
#: x, as COLMAP's and OpenCV's world (x right, y down, z away). "y-up": as in memory and in glTF.
AXES: dict[str, tuple[int, int, int]] = {"y-down": (-1, -1, 1), "opencv": (1, -1, -1), "y-up": (1, 1, 1)}

#: A direction in which no basis function is zero: where a turn's sign on each of them is looked up.
_GENERIC = np.array([0.36, 0.48, 0.8])


@dataclass(frozen=True)
class SplatCloud:
    """N Gaussians as files hold them: float32, unit quaternions, opacities 0..1, K = 1, 4, 9 or 16 harmonics."""

    means: Float[np.ndarray, "N 3"]
    quats_wxyz: Float[np.ndarray, "N 4"]
    scales: Float[np.ndarray, "N 3"]
    opacities: Float[np.ndarray, " N"]
    sh: Float[np.ndarray, "N K 3"]

    def __len__(self) -> int:
        return len(self.means)

    @property
    def degree(self) -> int:
        return HARMONICS.index(self.sh.shape[1])

    @property
    def colours(self) -> Float[np.ndarray, "N 3"]:
        """Without what depends on the direction of view: sRGB, mostly 0..1."""
        return self.sh[:, 0] * np.float32(C0) + np.float32(0.5)

    def gaussians(self) -> Gaussians:
        return Gaussians(self.means, self.quats_wxyz, self.scales, self.opacities, sh=self.sh)

    def take(self, ids: np.ndarray) -> SplatCloud:
        """Some of them, in that order."""
        return SplatCloud(*(getattr(self, f.name)[ids] for f in fields(self)))

    def moved(self, rotation: Float[np.ndarray, "3 3"], shift: Float[np.ndarray, "3"]) -> SplatCloud:
        """Turned, then shifted (metres): places, axes and what depends on the direction of view."""
        means = self.means.astype(np.float64) @ rotation.T + shift
        quats = _times(_quat_of(rotation), self.quats_wxyz)
        sh = harmonics_turned(self.sh, rotation)
        return SplatCloud(means.astype(np.float32), quats, self.scales, self.opacities, sh)

    def turned(self, axes: str) -> SplatCloud:
        """From memory's axes to a file's, or back: each turn is its own inverse. Raises InputError for unknown axes."""
        if axes not in AXES:
            raise InputError(f"axes must be one of {', '.join(AXES)}, found {axes!r}")
        signs = np.array(AXES[axes], dtype=np.float32)
        # Turning the Gaussian's own axes along leaves the ellipsoid as it is and only flips signs: nothing is rounded.
        quats = self.quats_wxyz * np.concatenate([np.ones(1, np.float32), signs])
        kept, turned = (evaluate_harmonics(d, self.degree) for d in (_GENERIC, _GENERIC * signs))
        flips = np.sign(kept * turned).astype(np.float32)
        return SplatCloud(self.means * signs, quats, self.scales, self.opacities, self.sh * flips[:, None])


def cloud_from(gaussians: Gaussians) -> SplatCloud:
    """Gaussians as files hold them. Colours become harmonics of degree 0; quaternions get length 1.

    Raises ShapeError for a batch or for colours that are not red, green and blue, InputError for none at all, too many,
    numbers that are not finite or a quaternion of length 0.
    """
    found = {f.name: _array(getattr(gaussians, f.name)) for f in fields(gaussians)}
    if found["means"].ndim != 2:
        raise ShapeError(f"a file of splats holds one set: expected means [N,3], found {list(found['means'].shape)}")
    count = len(found["means"])
    sh = found["sh"]
    if sh is None:
        colours = found["colours"]
        if colours is None or colours.shape != (count, 3):
            shape = None if colours is None else list(colours.shape)
            raise ShapeError(f"splats need colours [N,3] or sh [N,K,3] to be written, found colours {shape}")
        sh = ((colours - np.float32(0.5)) / np.float32(C0))[:, None]
    expected = {"means": (count, 3), "quats_wxyz": (count, 4), "scales": (count, 3), "opacities": (count,)}
    for name, shape in expected.items():
        if found[name].shape != shape:
            raise ShapeError(f"splats: {name} must have shape {list(shape)}, found {list(found[name].shape)}")
    if sh.ndim != 3 or sh.shape[0] != count or sh.shape[1] not in HARMONICS or sh.shape[2] != 3:
        raise ShapeError(f"splats: sh must be [N,K,3] with K of {HARMONICS}, found {list(sh.shape)}")
    cloud = SplatCloud(found["means"], found["quats_wxyz"], found["scales"], found["opacities"], sh)
    return checked(cloud, "the Gaussians")


def checked(cloud: SplatCloud, where: object) -> SplatCloud:
    """The cloud with unit quaternions and opacities in 0..1; InputError when it is empty, too large or not finite."""
    count = len(cloud)
    if count == 0:
        raise InputError(f"{where}: expected at least one Gaussian, found none")
    check_count(count, where)
    for f in fields(cloud):
        bad = np.flatnonzero(~np.isfinite(getattr(cloud, f.name)).reshape(count, -1).all(axis=1))
        if len(bad):
            raise InputError(
                f"{where}: {f.name} of Gaussian {bad[0]} is not a finite number ({len(bad)} such); filter them out, "
                "or make it again"
            )
    if (cloud.scales < 0).any():
        raise InputError(f"{where}: Gaussian {int(np.argmin(cloud.scales.min(1)))} has a negative scale")
    lengths = np.linalg.norm(cloud.quats_wxyz.astype(np.float64), axis=1, keepdims=True)
    if (lengths < 1e-12).any():
        raise InputError(f"{where}: Gaussian {int(np.argmin(lengths))} has a rotation of length 0")
    quats = (cloud.quats_wxyz / lengths).astype(np.float32)
    return SplatCloud(cloud.means, quats, cloud.scales, cloud.opacities.clip(0, 1), cloud.sh)


def check_count(count: int, where: object) -> None:
    """Raise InputError for more Gaussians than any head has."""
    if count > MOST_GAUSSIANS:
        raise InputError(f"{where} claims {count:,} Gaussians; at most {MOST_GAUSSIANS:,} are read or written")


def _array(values: Any) -> Any:
    if values is None:
        return None
    array = values if isinstance(values, np.ndarray) else values.detach().cpu().numpy()
    return np.ascontiguousarray(array, dtype=np.float32)


def log_scales(cloud: SplatCloud) -> Float[np.ndarray, "N 3"]:
    """Natural logarithms of the scales; those below `SMALLEST_SCALE` count as that."""
    return np.log(np.maximum(cloud.scales, SMALLEST_SCALE))


def logits(opacities: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """The inverse of the logistic function, kept finite."""
    p = opacities.astype(np.float64).clip(OPACITY_MARGIN, 1 - OPACITY_MARGIN)
    return (np.log(p) - np.log1p(-p)).astype(np.float32)


def logistic(values: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """1 / (1 + e^-x), for any x."""
    # The halves meet at 0 and neither overflows.
    e = np.exp(-np.abs(values.astype(np.float64)))
    return np.where(values >= 0, 1 / (1 + e), e / (1 + e)).astype(np.float32)


def write_whole(path: str | Path, *parts: bytes) -> None:
    """Write a file through a temporary one beside it, so that a reader never sees half of it. Raises InputError."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial-{secrets.token_hex(4)}")
    try:
        with partial.open("wb") as stream:
            for part in parts:
                stream.write(part)
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise InputError(f"cannot write {path}: {error.strerror or error}; choose a folder you may write to") from error


def read_whole(path: str | Path) -> bytes:
    """The content of a file of splats. Raises InputError when it is missing, unreadable, empty or too large."""
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise InputError(f"{path} has {size:,} bytes; files of splats up to {MAX_BYTES:,} are read")
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    if not data:
        raise InputError(f"{path} is empty (0 bytes); expected a file of splats")
    return data


def harmonics_turned(sh: Float[np.ndarray, "N K 3"], rotation: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "N K 3"]:
    """Coefficients of the same colours after the Gaussians were turned: c'(d) = c(rotation^T d), which is exact."""
    if sh.shape[1] == 1:
        return sh
    degree = HARMONICS.index(sh.shape[1])
    directions = _spread(4 * sh.shape[1])
    after, before = (evaluate_harmonics(d, degree) for d in (directions, directions @ rotation))
    matrix = np.linalg.lstsq(after, before, rcond=None)[0]
    return np.einsum("jk,nkc->njc", matrix, sh.astype(np.float64)).astype(np.float32)


def _spread(count: int) -> Float[np.ndarray, "n 3"]:
    """Unit vectors all round (a Fibonacci lattice)."""
    i = np.arange(count) + 0.5
    z, angle = 1 - 2 * i / count, np.pi * (1 + np.sqrt(5)) * i
    ring = np.sqrt(1 - z * z)
    return np.stack([ring * np.cos(angle), ring * np.sin(angle), z], axis=1)


def _quat_of(rotation: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "4"]:
    """w, x, y, z: the axis of largest eigenvalue of Bar-Itzhack's symmetric matrix (2000), safe for every angle."""
    r = rotation
    k = np.array(
        [
            [r[0, 0] - r[1, 1] - r[2, 2], r[1, 0] + r[0, 1], r[2, 0] + r[0, 2], r[2, 1] - r[1, 2]],
            [0, r[1, 1] - r[0, 0] - r[2, 2], r[2, 1] + r[1, 2], r[0, 2] - r[2, 0]],
            [0, 0, r[2, 2] - r[0, 0] - r[1, 1], r[1, 0] - r[0, 1]],
            [0, 0, 0, r[0, 0] + r[1, 1] + r[2, 2]],
        ]
    )
    vectors = np.linalg.eigh(k + np.triu(k, 1).T)[1]
    return vectors[[3, 0, 1, 2], 3]


def _times(one: Float[np.ndarray, "4"], many: Float[np.ndarray, "N 4"]) -> Float[np.ndarray, "N 4"]:
    """One rotation after each of many."""
    w, x, y, z = one
    matrix = np.array([[w, -x, -y, -z], [x, w, -z, y], [y, z, w, -x], [z, -y, x, w]])
    return (many.astype(np.float64) @ matrix.T).astype(np.float32)
