"""The JSON documents in the output folder: `head.json` and `landmarks3d.json`. Schema: data/head.schema.json."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from headrecon.errors import InputError, ShapeError
from headrecon.structures import POSE_FIELDS, Cameras, HeadAssets, HeadParams, Licence

HEAD_SCHEMA = "headrecon.head/1"

#: 90 % of a normal distribution lies within this many standard deviations.
_Z90 = 1.6448536269514722


@dataclass(frozen=True)
class Measurement:
    """A figure with its standard deviation; interval90 holds the truth in 90 of 100 cases (normal unless given)."""

    value: float
    sigma: float
    interval90: tuple[float, float] | None = None

    def as_dict(self) -> dict[str, Any]:
        low, high = self.interval90 or (self.value - _Z90 * self.sigma, self.value + _Z90 * self.sigma)
        return {"value": self.value, "sigma": self.sigma, "interval90": [low, high]}


@dataclass(frozen=True)
class PhotoRecord:
    """One of several photos. reason: why it was not used; of a photo that was, the rest is not None.

    params: of the head in this photo, in the world of `cameras`. residual: figures of how it misses the landmarks.
    """

    image: Path
    image_sha256: str | None
    reason: str | None = None
    params: HeadParams | None = None
    cameras: Cameras | None = None
    focal_source: str = ""
    residual: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class HeadRecord:
    """Everything that `head.json` says. metric: figures by name with the unit at the end (`ipd_mm`, `distance_m`).

    focal_source: where the focal length came from (`exif`, `user`, `estimated`). licences: of all that made this head.
    image_sha256: None when the picture came from memory. light: of the photo (`rendering.light_rigs` writes it). hair:
    what its shape was made from. surface: what overlapping photos agreed on. All three None where they were not looked
    for. regions: deviations of the shape by region.
    photos: all that were given, in their order, where there were several.
    """

    assets: HeadAssets
    params: HeadParams
    cameras: Cameras
    image: Path
    image_sha256: str | None
    focal_source: str
    metric: Mapping[str, Measurement]
    licences: Sequence[Licence]
    warnings: Sequence[str] = ()
    timings_s: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    light: Mapping[str, Any] | None = None
    hair: Mapping[str, Any] | None = None
    surface: Mapping[str, Any] | None = None
    regions: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    photos: Sequence[PhotoRecord] = ()


def head_document(record: HeadRecord) -> dict[str, Any]:
    """The content of `head.json`. Raises ShapeError unless the parameters hold exactly one head and one camera."""
    if record.params.batch != 1:
        raise ShapeError(f"head.json describes one head, found a batch of {record.params.batch}")
    licences = [_licence(x) for x in dict.fromkeys(record.licences)]
    return {
        "schema": HEAD_SCHEMA,
        "model": {
            "name": record.assets.name,
            "version": record.assets.version,
            "licences": [_licence(x) for x in record.assets.licences],
        },
        "parameters": _parameters(record.assets, record.params),
        "camera": _camera(record.cameras, record.image, record.focal_source),
        "metric": {name: m.as_dict() for name, m in record.metric.items()},
        "regions": {name: dict(entry) for name, entry in record.regions.items()},
        **({} if record.light is None else {"light": dict(record.light)}),
        **({} if record.hair is None else {"hair": dict(record.hair)}),
        **({} if record.surface is None else {"surface": dict(record.surface)}),
        "warnings": list(record.warnings),
        "licences": licences,
        "commercial_use": all(x["commercial"] for x in licences),
        **({} if not record.photos else {"photos": [_photo(record.assets, x) for x in record.photos]}),
        "image": {"file": record.image.name, "sha256": record.image_sha256 or None},
        "timings_s": dict(record.timings_s),
        "versions": dict(record.versions),
        "config": dict(record.config),
    }


def _photo(assets: HeadAssets, photo: PhotoRecord) -> dict[str, Any]:
    out: dict[str, Any] = {"file": photo.image.name, "sha256": photo.image_sha256 or None, "used": photo.reason is None}
    if photo.params is None or photo.cameras is None:
        return {**out, "reason": photo.reason}
    parameters = _parameters(assets, photo.params)
    del parameters["betas"]  # identity is the head's
    camera = _camera(photo.cameras, photo.image, photo.focal_source)
    return {**out, "parameters": parameters, "camera": camera, "residual": dict(photo.residual)}


def _licence(licence: Licence) -> dict[str, Any]:
    entry = {
        "name": licence.name,
        "spdx": licence.spdx,
        "commercial": licence.commercial,
        "source": licence.source,
    }
    return {**entry, "note": licence.note} if licence.note else entry


def _parameters(assets: HeadAssets, params: HeadParams) -> dict[str, Any]:
    expression = params.expression[0].tolist()
    if len(expression) > len(assets.expression_names):
        raise ShapeError(
            f"head.json: {len(expression)} expression weights but {assets.name!r} names {len(assets.expression_names)}"
        )
    names = assets.expression_names[: len(expression)]
    poses = {name: getattr(params, name)[0].tolist() for name in POSE_FIELDS}
    return {
        "betas": params.betas[0].tolist(),
        "expression": dict(zip(names, expression, strict=True)),
        **poses,
        "transl": params.transl[0].tolist(),
    }


def _camera(cameras: Cameras, image: Path, focal_source: str) -> dict[str, Any]:
    viewmats, ks = cameras.viewmats.reshape(-1, 4, 4), cameras.Ks.reshape(-1, 3, 3)
    if len(viewmats) != 1 or len(ks) != 1:
        raise ShapeError(f"head.json describes one camera, found {len(viewmats)} viewmats and {len(ks)} Ks")
    return {
        "convention": "opencv",
        "viewmat": viewmats[0].tolist(),
        "K": ks[0].tolist(),
        "width": cameras.width,
        "height": cameras.height,
        "image": image.name,
        "focal_source": focal_source,
    }


def landmarks_document(landmarks: Mapping[str, Float[np.ndarray, "L 3"]]) -> dict[str, Any]:
    """The content of `landmarks3d.json`: points in metres by embedding name, on the fitted head."""
    for name, points in landmarks.items():
        if points.ndim != 2 or points.shape[1] != 3:
            raise ShapeError(f"landmarks {name!r} must have shape [L,3], found {points.shape}")
    return {name: points.tolist() for name, points in landmarks.items()}


def sha256_of(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file. Raises InputError when it cannot be read."""
    try:
        with Path(path).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
