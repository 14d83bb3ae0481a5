"""The Gaussian avatar's arrays, written and read (docs/formats.md, "Avatars")."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from headrecon.avatars.files import (
    DOCUMENT,
    SCHEMA,
    TENSORS,
    need,
    person_arrays,
    person_page,
    read_person,
)
from headrecon.avatars.gaussian.carrier import Places
from headrecon.avatars.gaussian.features import MotionBasis
from headrecon.avatars.gaussian.model import GaussianAvatar
from headrecon.avatars.gaussian.splat_rig import CHANNELS, UNITS, SplatRig
from headrecon.avatars.gaussian.torso import Sheet
from headrecon.errors import InputError
from headrecon.io.runs import versions, write_json
from headrecon.io.tensor_files import write_tensors
from headrecon.structures import HeadAssets, HeadParams, triangulate

#: More Gaussians than any avatar has.
_MOST = 5_000_000
#: Columns of the motion row after the expressions: jaw, gaze, turn, place.
_POSE_COLUMNS = 12
_REST = ("global_orient", "neck_pose", "jaw_pose", "leye_pose", "reye_pose", "transl")


def write_gaussian_avatar(folder: Path, avatar: GaussianAvatar) -> None:
    """Write both files into a folder that is there already."""
    person, basis, rig = avatar.person, avatar.basis, avatar.rig
    write_tensors(folder / TENSORS, avatar_arrays(avatar), {"schema": SCHEMA})
    page = {
        "schema": SCHEMA,
        "kind": avatar.kind,
        **person_page(person),
        "gaussians": len(rig),
        "features": len(basis),
        "pose_features": basis.num_pose,
        "correction_units": list(UNITS),
        "versions": versions(),
    }
    write_json(folder / DOCUMENT, page)


def avatar_arrays(avatar: GaussianAvatar) -> dict[str, np.ndarray]:
    """Every array of the avatar by its name in the file."""
    rig, basis, sheet = avatar.rig, avatar.basis, avatar.sheet
    arrays = person_arrays(avatar.person)
    arrays["bind.triangles"] = rig.places.triangles.astype(np.int32)
    arrays["bind.barycentrics"] = rig.places.barycentrics.astype(np.float32)
    for name, tensor in rig.tensors().items():
        values = tensor.detach().cpu().numpy()
        arrays[f"splats.{name}"] = values.astype(np.float16 if name == "corrections" else np.float32)
    for name in ("matrix", "mean", "low", "high", "orient"):
        arrays[f"motion.{name}"] = getattr(basis, name).cpu().numpy().astype(np.float32)
    arrays["sheet.anchors"] = sheet.anchors.astype(np.float32)
    arrays["sheet.triangles"] = sheet.triangles.astype(np.int32)
    arrays["sheet.motion"] = avatar.sheet_motion.cpu().numpy().astype(np.float32)
    for name in _REST:
        arrays[f"rest.{name}"] = getattr(avatar.rest_pose, name).cpu().numpy().astype(np.float32)
    return arrays


def read_gaussian_avatar(
    folder: Path, page: Mapping[str, Any], arrays: Mapping[str, np.ndarray], assets: HeadAssets | None
) -> GaussianAvatar:
    """The avatar that these arrays describe. Raises InputError or AssetError for what does not fit together."""
    person = read_person(folder, page, arrays, assets)
    count = len(need(folder, arrays, "bind.triangles", (None,), np.int32))
    if not 1 <= count <= _MOST:
        raise InputError(f"{folder}: expected 1 to {_MOST} Gaussians, found {count}; make the avatar again")
    sheet = _sheet(folder, arrays)
    faces = len(triangulate(person.assets.faces)[0]) + len(sheet.triangles)
    basis = _basis(folder, page, arrays, person.assets.num_expressions)
    triangles = _indices(folder, arrays, "bind.triangles", (count,), faces)
    places = Places(triangles, need(folder, arrays, "bind.barycentrics", (count, 3), np.float32).astype(np.float64))
    shapes = {"offsets": (count, 3), "quats_wxyz": (count, 4), "log_scales": (count, 3), "logits": (count,),
              "colours": (count, 3), "corrections": (count, CHANNELS, len(basis))}  # fmt: skip
    splats = {
        name: torch.from_numpy(need(folder, arrays, f"splats.{name}", shape, np.float32, np.float16).astype(np.float32))
        for name, shape in shapes.items()
    }
    motion = need(folder, arrays, "sheet.motion", (len(sheet.anchors), 3, basis.num_pose), np.float32)
    rest = {n: torch.from_numpy(need(folder, arrays, f"rest.{n}", (1, 3), np.float32).copy()) for n in _REST}
    pose = HeadParams(torch.zeros(1, 0), torch.zeros(1, person.assets.num_expressions), **rest)
    return GaussianAvatar(person, SplatRig(places, **splats), basis, sheet, torch.from_numpy(motion.copy()), pose)


def _sheet(folder: Path, arrays: Mapping[str, np.ndarray]) -> Sheet:
    anchors = need(folder, arrays, "sheet.anchors", (None, 3), np.float32).astype(np.float64)
    return Sheet(anchors, _indices(folder, arrays, "sheet.triangles", (None, 3), len(anchors)))


def _basis(folder: Path, page: Mapping[str, Any], arrays: Mapping[str, np.ndarray], expressions: int) -> MotionBasis:
    matrix = need(folder, arrays, "motion.matrix", (None, expressions + _POSE_COLUMNS), np.float32)
    k, num_pose = len(matrix), page.get("pose_features")
    if not isinstance(num_pose, int) or not 0 < num_pose <= k:
        raise InputError(f"{folder}: pose_features must be 1 to {k}, found {num_pose!r}; make the avatar again")
    vectors = {n: need(folder, arrays, f"motion.{n}", (k,), np.float32) for n in ("mean", "low", "high")}
    vectors |= {"matrix": matrix, "orient": need(folder, arrays, "motion.orient", (3, 3), np.float32)}
    return MotionBasis(**{n: torch.from_numpy(a.copy()) for n, a in vectors.items()}, num_pose=num_pose)


def _indices(
    folder: Path, arrays: Mapping[str, np.ndarray], name: str, shape: tuple[int | None, ...], limit: int
) -> np.ndarray:
    found = need(folder, arrays, name, shape, np.int32).astype(np.int64)
    if found.size and (found.min() < 0 or found.max() >= limit):
        raise InputError(f"{folder}: {name} must lie in 0..{limit - 1}; make the avatar again")
    return found
