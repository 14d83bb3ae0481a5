"""Avatars on disk: `avatar.json` says what it is, `avatar.safetensors` holds the arrays (docs/formats.md).

Avatars come from strangers too: plain arrays, every size and number checked, nothing that runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from headrecon.avatars.protocol import Avatar, Person
from headrecon.errors import AssetError, InputError
from headrecon.io.tensor_files import read_tensors
from headrecon.models.store import load_head
from headrecon.structures import HeadAssets, Licence

SCHEMA = "headrecon.avatar/1"
DOCUMENT, TENSORS = "avatar.json", "avatar.safetensors"
_LARGEST_PAGE = 1 << 20


def load_avatar(folder: str | Path, assets: HeadAssets | None = None) -> Avatar:
    """Read an avatar of any kind. assets: of its head model, where they are at hand.

    Raises InputError for another folder, a damaged one or one of a later version; AssetError when the head model is not
    here.
    """
    folder = Path(folder)
    page = avatar_page(folder)
    if page.get("kind") != "gaussian":
        raise InputError(f"{folder}: this version reads avatars of the kind gaussian, found {page.get('kind')!r}")
    from headrecon.avatars.gaussian.files import read_gaussian_avatar

    return read_gaussian_avatar(folder, page, read_tensors(folder / TENSORS), assets)


def avatar_page(folder: str | Path) -> dict[str, Any]:
    """The content of `avatar.json`. Raises InputError for a folder without one, or with another one."""
    path = Path(folder) / DOCUMENT
    if not path.is_file():
        raise InputError(f"{folder} holds no avatar: expected {DOCUMENT}, as `headrecon avatar` writes it")
    try:
        if path.stat().st_size > _LARGEST_PAGE:
            raise ValueError("it is longer than a megabyte")
        page = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read ({error}); make the avatar again") from error
    schema = page.get("schema") if isinstance(page, dict) else None
    if schema != SCHEMA:
        raise InputError(f"{path} says {schema!r} of itself; expected {SCHEMA!r}, which this version reads")
    return page


def person_page(person: Person) -> dict[str, Any]:
    """What `avatar.json` says of the person."""
    assets = person.assets
    return {
        "model": {"name": assets.name, "version": assets.version, "vertices": assets.num_vertices},
        "betas": [float(b) for b in person.betas],
        "expression_names": list(assets.expression_names),
        "licences": [
            {"name": x.name, "spdx": x.spdx, "commercial": x.commercial, "source": x.source}
            for x in dict.fromkeys(person.licences)
        ],
        "commercial_use": all(x.commercial for x in person.licences),
    }


def person_arrays(person: Person) -> dict[str, np.ndarray]:
    """What `avatar.safetensors` says of the person: the neutral head of the model, and hair on it, metres."""
    return {
        "person.neutral": person.assets.v_template.astype(np.float32),
        "person.offsets": person.offsets.astype(np.float32),
    }


def read_person(
    folder: Path, page: Mapping[str, Any], arrays: Mapping[str, np.ndarray], assets: HeadAssets | None
) -> Person:
    """The person of an avatar. Raises InputError or AssetError."""
    try:
        name, names = page["model"]["name"], tuple(page["expression_names"])
        betas = np.array(page["betas"], dtype=np.float64)
        licences = tuple(
            Licence(str(x["name"]), str(x["spdx"]), bool(x["commercial"]), str(x["source"])) for x in page["licences"]
        )
        if not isinstance(name, str) or betas.ndim != 1 or not np.isfinite(betas).all():
            raise ValueError("model and betas must be a name and a list of numbers")
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{folder}: {DOCUMENT} is damaged ({error}); make the avatar again") from error
    assets = assets or load_head(name)
    if assets.name != name or tuple(assets.expression_names) != names:
        raise AssetError(
            f"{folder} is of the head model {name!r} with {len(names)} expressions; found {assets.name!r} with "
            f"{len(assets.expression_names)}: bring the model in with `headrecon models add PATH`"
        )
    count = assets.num_vertices
    neutral, offsets = (need(folder, arrays, f"person.{x}", (count, 3), np.float32) for x in ("neutral", "offsets"))
    return Person(settled(assets, neutral), betas, offsets.astype(np.float64), licences)


def settled(assets: HeadAssets, neutral: np.ndarray) -> HeadAssets:
    """The head model of one person: this neutral mesh, and no shapes of others."""
    empty = np.zeros((assets.num_vertices, 3, 0), dtype=assets.shapedirs.dtype)
    return replace(assets, v_template=neutral.astype(assets.v_template.dtype), shapedirs=empty)


def need(
    folder: Path, arrays: Mapping[str, np.ndarray], name: str, shape: tuple[int | None, ...], *kinds: Any
) -> np.ndarray:
    """The array of this name, shape (None: any length) and one of these types, without NaN. Raises InputError."""
    array = arrays.get(name)
    if array is None:
        raise InputError(f"{folder}: {TENSORS} lacks {name}; make the avatar again")
    fits = array.ndim == len(shape) and all(n is None or n == m for n, m in zip(shape, array.shape, strict=True))
    if not fits or array.dtype not in [np.dtype(kind) for kind in kinds]:
        wanted = " or ".join(np.dtype(kind).name for kind in kinds)
        raise InputError(
            f"{folder}: {name} must be {wanted} {list(shape)}, found {array.dtype.name} {list(array.shape)}; "
            "make the avatar again"
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InputError(f"{folder}: {name} holds NaN or infinity; make the avatar again")
    return array
