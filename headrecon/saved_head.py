"""A head read back from the folder that `reconstruct` or `track` wrote: ready to be moved, drawn or written again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, UInt8

from headrecon.errors import AssetError, InputError
from headrecon.io.meshes.rigged_reader import read_rigged
from headrecon.models.point_model import ParamLayout, PointModel
from headrecon.models.posed_mesh import posed_vertices
from headrecon.models.store import load_head
from headrecon.structures import HeadAssets, LandmarkEmbedding, Licence

if TYPE_CHECKING:
    from headrecon.avatars.protocol import Person

_DOCUMENTS = ("head.json", "track.json")


@dataclass(frozen=True)
class SavedHead:
    """offsets: metres that the neutral mesh has beyond what its betas say: hair, and detail that photos showed.

    texture: in the model's UVs. licences: of all that made the head.
    """

    assets: HeadAssets
    betas: Float[np.ndarray, " Nb"]
    offsets: Float[np.ndarray, "V 3"]
    texture: UInt8[np.ndarray, "S s 3"]
    licences: tuple[Licence, ...]

    @property
    def layout(self) -> ParamLayout:
        return ParamLayout(self.assets.num_betas, self.assets.num_expressions)

    @property
    def neutral(self) -> Float[np.ndarray, "V 3"]:
        """The head at rest, with its hair."""
        row = self.layout.zeros()
        row[self.layout.slices["betas"]][: len(self.betas)] = self.betas
        return self.posed(joint_model(self.assets), row)

    def posed(self, joints: PointModel, row: Float[np.ndarray, " P"]) -> Float[np.ndarray, "V 3"]:
        """The head at flat parameters, with its hair. joints: `joint_model` of its assets, made once."""
        return posed_vertices(self.assets, joints, row, self.offsets)


def joint_model(assets: HeadAssets) -> PointModel:
    """A `PointModel` for its joints alone."""
    return PointModel(assets, LandmarkEmbedding(np.zeros((0, 3), int), np.zeros((0, 3))))


def person_of(head: SavedHead) -> Person:
    """The head with its identity settled, as avatars have it."""
    from headrecon.avatars.files import settled
    from headrecon.avatars.protocol import Person

    bald = SavedHead(head.assets, head.betas, np.zeros_like(head.offsets), head.texture, head.licences)
    return Person(settled(head.assets, bald.neutral), head.betas, head.offsets, head.licences)


def load_saved_head(folder: str | Path, assets: HeadAssets | None = None) -> SavedHead:
    """Read a head from an output folder: `head.glb` beside `head.json` or `track.json`.

    assets: of its model, where they are at hand. The mesh in the GLB less the model's at these betas is what photos
    added to the model (hair and detail). Raises InputError for another folder or a damaged one, AssetError when
    the head's model is not here.
    """
    folder = Path(folder)
    document = _document(folder)
    try:
        name = document["model"]["name"]
        values = document["parameters"]["betas"] if "parameters" in document else document["betas"]
        betas = np.array(values, dtype=np.float64)
        licences = tuple(
            Licence(x["name"], x["spdx"], bool(x.get("commercial", document["commercial_use"])), x["source"])
            for x in document["licences"]
        )
        if not isinstance(name, str) or betas.ndim != 1 or not np.isfinite(betas).all():
            raise ValueError("betas must be a list of numbers")
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{folder}: its description is damaged ({error}); make the head again") from error
    assets = assets or load_head(name)
    if assets.name != name or len(betas) > assets.num_betas:
        raise AssetError(f"{folder} is of the head model {name!r} with {len(betas)} betas; found {assets.name!r}")
    neutral, texture = read_rigged(folder / "head.glb", assets)
    bald = SavedHead(assets, betas, np.zeros_like(neutral), texture, licences)
    offsets = np.nan_to_num(neutral - bald.neutral, nan=0.0)
    return SavedHead(assets, betas, offsets, texture, licences)


def _document(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise InputError(f"{folder} {what}; expected a folder that `headrecon reconstruct` or `headrecon track` wrote")
    found = next((folder / name for name in _DOCUMENTS if (folder / name).is_file()), None)
    if found is None or not (folder / "head.glb").is_file():
        raise InputError(
            f"{folder} holds no head: expected head.glb with head.json or track.json beside it, as "
            "`headrecon reconstruct` and `headrecon track` write them"
        )
    try:
        content = json.loads(found.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{found} cannot be read as JSON ({error}); make the head again") from error
    if not isinstance(content, dict) or not str(content.get("schema", "")).startswith("headrecon."):
        raise InputError(f"{found} was not written by headrecon; expected a head's folder")
    return content
