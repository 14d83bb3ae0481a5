"""`headrecon models embed`: face landmarks for a model of the user's, stored with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from headrecon.errors import InputError
from headrecon.fitting.landmark_embedding import EmbeddingOptions, embed_landmarks
from headrecon.models.assets_file import load_assets
from headrecon.models.store import DEFAULT_MODEL, ModelEntry, list_models, store_model
from headrecon.perception.networks import load_networks


def embed_model(
    name: str,
    options: EmbeddingOptions = EmbeddingOptions(),
    progress: Callable[[str, float], None] | None = None,
) -> ModelEntry:
    """Find the 478 face points and the 68 of iBUG on an added model, and store them in it. Raises InputError."""
    if name == DEFAULT_MODEL:
        raise InputError(f"{DEFAULT_MODEL!r} comes with its landmarks; `scripts/make_anny_landmarks.py` makes them")
    entry = next((e for e in list_models() if e.name == name), None)
    if entry is None or entry.path is None:
        raise InputError(f"no model {name!r} in the cache; add it first with `headrecon models add PATH`")
    assets = load_assets(entry.path)
    found = embed_landmarks(assets, load_networks(), options, progress)
    # Other sets that the model has (its makers' own 68 points, measures) stay as they are.
    kept = {k: v for k, v in assets.landmarks.items() if k != "mediapipe478"}
    return store_model(replace(assets, landmarks={**found, **kept}), name)
