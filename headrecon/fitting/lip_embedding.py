"""Puts the inner rim of the lower lip on the lower lip.

With the mouth closed both rims lie within a millimetre, so an embedding found on a closed mouth may hang the lower rim
on the upper lip; opening the jaw then leaves it behind, and no expression can follow an open mouth. The shape that
opens the jaw tells the lips apart: the lower rim must move with the lip's red beside it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from headrecon.models.posed_mesh import embed
from headrecon.structures import HeadAssets, LandmarkEmbedding

#: Lower inner rim, and for each the next point outwards on the lower lip.
LOWER_RIM = (95, 88, 178, 87, 14, 317, 402, 318, 324)
LOWER_RED = (96, 89, 179, 86, 15, 316, 403, 319, 325)
#: A point follows the jaw when it moves by this share of its neighbour's motion.
FOLLOWS = 0.7


def with_lower_rim(assets: HeadAssets) -> HeadAssets:
    """The assets with rim points that ignore `jawOpen` moved to the nearest vertex of the lower lip.

    Returned as they are when the model has no such shape or the rim moves already.
    """
    if "jawOpen" not in assets.expression_names or "mediapipe478" not in assets.landmarks:
        return assets
    marks = assets.landmarks["mediapipe478"]
    opening = assets.exprdirs[:, :, assets.expression_names.index("jawOpen")].astype(np.float64)
    at, drop = embed(assets.v_template.astype(np.float64), marks), -embed(opening, marks)[:, 1]
    skin = np.unique(assets.faces[assets.faces_of("skin")][:, :3]) if "skin" in assets.part_names else None
    candidates = np.arange(assets.num_vertices) if skin is None else skin
    ids, bary = marks.vertex_ids.copy(), marks.barycentrics.copy()
    changed = False
    for rim, red in zip(LOWER_RIM, LOWER_RED, strict=True):
        if drop[red] <= 1e-3 or drop[rim] >= FOLLOWS * drop[red]:
            continue
        follows = candidates[-opening[candidates, 1] >= FOLLOWS * drop[red]]
        if follows.size == 0:
            continue
        nearest = follows[np.argmin(np.linalg.norm(assets.v_template[follows] - at[rim], axis=1))]
        ids[rim], bary[rim] = nearest, (1.0, 0.0, 0.0)
        changed = True
    if not changed:
        return assets
    mended = LandmarkEmbedding(ids, bary, marks.sigma_m)
    return replace(assets, landmarks={**assets.landmarks, "mediapipe478": mended})
