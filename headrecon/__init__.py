"""headrecon: photos and video of a person to a metric, rigged head. See docs/architecture.md.

    import headrecon
    result = headrecon.reconstruct("photo.jpg")
    result.save("out")

The names below are imported when first used, so that `import headrecon` and `headrecon --help` cost nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from headrecon.avatar_export import export
    from headrecon.avatar_making import avatar
    from headrecon.avatars.files import load_avatar
    from headrecon.batch import reconstruct_batch
    from headrecon.config import ReconstructConfig
    from headrecon.config import resolve as resolve_config
    from headrecon.driving.clip import drive
    from headrecon.errors import HeadReconError
    from headrecon.evaluation.mesh_files import evaluate_mesh_files
    from headrecon.evaluation.scan_to_mesh import evaluate_mesh
    from headrecon.models.store import load_head
    from headrecon.pipeline import Reconstruction, reconstruct
    from headrecon.structures import Cameras, HeadAssets, HeadParams, Licence, Mesh
    from headrecon.tracking.run import track

#: Public name -> the module that has it, and its name there.
_HOMES: dict[str, tuple[str, str]] = {
    "Cameras": ("headrecon.structures", "Cameras"),
    "HeadAssets": ("headrecon.structures", "HeadAssets"),
    "HeadParams": ("headrecon.structures", "HeadParams"),
    "HeadReconError": ("headrecon.errors", "HeadReconError"),
    "Licence": ("headrecon.structures", "Licence"),
    "Mesh": ("headrecon.structures", "Mesh"),
    "ReconstructConfig": ("headrecon.config", "ReconstructConfig"),
    "Reconstruction": ("headrecon.pipeline", "Reconstruction"),
    "avatar": ("headrecon.avatar_making", "avatar"),
    "drive": ("headrecon.driving.clip", "drive"),
    "evaluate_mesh": ("headrecon.evaluation.scan_to_mesh", "evaluate_mesh"),
    "evaluate_mesh_files": ("headrecon.evaluation.mesh_files", "evaluate_mesh_files"),
    "export": ("headrecon.avatar_export", "export"),
    "load_avatar": ("headrecon.avatars.files", "load_avatar"),
    "load_head": ("headrecon.models.store", "load_head"),
    "reconstruct": ("headrecon.pipeline", "reconstruct"),
    "reconstruct_batch": ("headrecon.batch", "reconstruct_batch"),
    "resolve_config": ("headrecon.config", "resolve"),
    "track": ("headrecon.tracking.run", "track"),
}

__all__ = [
    "Cameras", "HeadAssets", "HeadParams", "HeadReconError", "Licence", "Mesh", "ReconstructConfig", "Reconstruction",
    "avatar", "drive", "evaluate_mesh", "evaluate_mesh_files", "export", "load_avatar", "load_head", "reconstruct",
    "reconstruct_batch", "resolve_config", "track",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'headrecon' has no attribute {name!r}")
    import importlib

    module, attribute = _HOMES[name]
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
