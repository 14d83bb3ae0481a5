"""Whether two tracks show the same person: how far their heads at rest are from each other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from headrecon.errors import InputError
from headrecon.evaluation.track_match import skin_triangles
from headrecon.geometry.alignment import umeyama
from headrecon.models.point_model import PointModel
from headrecon.models.posed_mesh import posed_vertices
from headrecon.structures import HeadAssets, Track


@dataclass(frozen=True)
class IdentityDifference:
    """Between corresponding vertices of the face, mm: as they are, after a rigid motion, and after one with size.

    size: of the second head over the first.
    """

    mean_mm: float
    aligned_mm: float
    scale_free_mm: float
    size: float


def compare_identities(one: Track, two: Track, assets: HeadAssets) -> IdentityDifference:
    """Compare the people of two tracks of the same head model. Raises InputError when the models differ."""
    for track in (one, two):
        if track.model != assets.name:
            raise InputError(f"both tracks must be of the head model {assets.name!r}, found {track.model!r}")
    if "face" in assets.regions:
        ids = np.flatnonzero(assets.regions["face"] > 0.5)
    else:
        ids = np.unique(skin_triangles(assets))
    model = PointModel(assets, assets.landmarks["ibug68"])
    heads = []
    for track in (one, two):
        row = model.layout.zeros()
        row[: len(track.betas)] = track.betas
        heads.append(1e3 * posed_vertices(assets, model, row)[ids])
    first, second = heads
    rigid, free = (umeyama(second, first, with_scale=scale) for scale in (False, True))
    moved = (second, rigid.apply(second), free.apply(second))
    plain, aligned, scale_free = (float(np.linalg.norm(m - first, axis=1).mean()) for m in moved)
    return IdentityDifference(plain, aligned, scale_free, 1 / free.scale)
