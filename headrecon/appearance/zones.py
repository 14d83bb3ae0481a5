"""Which parts of a head show plain skin in a photo and which may look otherwise: hair, brows, lips, collars."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headrecon.structures import HeadAssets

#: Chins end this far below the eyes, give or take a centimetre.
_EYES_TO_CHIN_M = 0.115
#: A fit may miss an ear by so much (metres).
_EAR_REACH_M = 0.02


@dataclass(frozen=True)
class Zones:
    """Weights in 0..1 per vertex. skin: on the outer skin at all. scalp: where hair grows or is expected to.

    hair: what the photo shows as hair (where that is known, else `scalp`). plain: nothing but skin is expected here.
    guarded: what does not look like skin here is hair, an ear ring or a collar and never the person's skin.
    behind_ears: what looks like skin here, where hair grows, is an ear that the fit missed. hair_known: hair was
    looked for in the photo. folded: the photo's expression creases the skin (`folds`).
    """

    skin: Float[Tensor, " V"]
    scalp: Float[Tensor, " V"]
    hair: Float[Tensor, " V"]
    plain: Float[Tensor, " V"]
    guarded: Float[Tensor, " V"]
    behind_ears: Float[Tensor, " V"]
    hair_known: bool
    folded: Float[Tensor, " V"]


def find_zones(
    assets: HeadAssets,
    hair: Float[np.ndarray, " V"] | None = None,
    folded: Float[np.ndarray, " V"] | None = None,
) -> Zones:
    """Zones of a model. hair: probability that hair covers each vertex, as `hair.lift_hair` finds it.

    folded: as `folds.fold_weight` has it; it counts on plain skin only, as lips and lids look alike open and shut.
    """

    def region(name: str) -> Tensor:
        values = assets.regions.get(name)
        return torch.zeros(assets.num_vertices) if values is None else torch.from_numpy(values).float().clamp(0, 1)

    skin = torch.zeros(assets.num_vertices)
    skin[torch.from_numpy(vertices_of(assets, "skin"))] = 1
    scalp = torch.from_numpy(scalp_weight(assets)).float()
    covered = scalp if hair is None else torch.from_numpy(np.ascontiguousarray(hair)).float().clamp(0, 1) * skin
    painted = torch.maximum(region("lips"), region("brows"))
    clothed = torch.from_numpy(may_be_clothed(assets))
    behind = _behind_ears(assets) * skin
    if hair is not None:
        scalp = torch.maximum(covered, scalp * (0.3 + 0.7 * behind * covered.max()))
    plain = skin * (1 - torch.maximum(covered, scalp)) * (1 - painted)
    guarded = torch.maximum(clothed, region("ears")) * skin
    creased = torch.zeros_like(plain) if folded is None else torch.from_numpy(folded).float() * plain
    return Zones(skin, scalp, covered, plain, guarded, behind, hair is not None, creased)


def _behind_ears(assets: HeadAssets) -> Float[Tensor, " V"]:
    """1 near the ears and farther back than their middle, where the model has hair; 0 without a region "ears"."""
    from scipy.spatial import KDTree

    ears = np.flatnonzero(assets.regions.get("ears", np.zeros(assets.num_vertices)) > 0.5)
    if not len(ears):
        return torch.zeros(assets.num_vertices)
    template = assets.v_template.astype(np.float64)
    distance, _ = KDTree(template[ears]).query(template, distance_upper_bound=2 * _EAR_REACH_M)
    near = np.clip(2 - np.asarray(distance) / _EAR_REACH_M, 0, 1)
    back = template[:, 2] < template[ears, 2].mean()
    return torch.from_numpy((near * back * (scalp_weight(assets) > 0.3)).astype(np.float32))


def scalp_weight(assets: HeadAssets) -> Float[np.ndarray, " V"]:
    """How likely hair grows at each vertex, 0..1: the model's own region and a guess from height and depth."""
    p = assets.v_template.astype(np.float64)
    eyes = (assets.J_regressor[3:5].astype(np.float64) @ p).mean(0)
    crown = p[:, 1].max() - eyes[1]
    # The hairline: half up from the eyes to the crown in front, in front of the ears at the sides, the nape behind.
    behind = np.clip((eyes[2] - p[:, 2]) / max(float(eyes[2] - p[:, 2].min()), 1e-6), 0, 1)
    line = eyes[1] + crown * (0.55 - 1.25 * behind)
    t = np.clip((p[:, 1] - line) / (0.12 * crown) + 0.5, 0, 1)
    guess = t * t * (3 - 2 * t)
    if "ears" in assets.regions:
        guess = guess * (1 - assets.regions["ears"])
    skin = np.zeros(assets.num_vertices)
    skin[vertices_of(assets, "skin")] = 1
    own = np.asarray(assets.regions.get("scalp", guess))
    return (np.maximum(guess, own) * skin).astype(np.float32)


def may_be_clothed(assets: HeadAssets) -> Float[np.ndarray, " V"]:
    """1 on the neck and below, 0 on the face: the model's own region, else what lies below the chin."""
    if "neck" in assets.regions:
        return np.clip(assets.regions["neck"] * 3, 0, 1).astype(np.float32)
    y = assets.v_template[:, 1].astype(np.float64)
    eyes = (assets.J_regressor[3:5].astype(np.float64) @ y).mean()
    return np.clip((eyes - _EYES_TO_CHIN_M - y) / 0.01, 0, 1).astype(np.float32)


def vertices_of(assets: HeadAssets, part: str) -> np.ndarray:
    """Vertices of a named part; of everything when the model has no such part."""
    faces = assets.faces[assets.faces_of(part)] if part in assets.part_names else assets.faces
    return np.unique(faces[faces >= 0])
