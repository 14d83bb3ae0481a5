"""A small head model made of ellipsoids: valid in every field, quick to build, the same every time.

It is no likeness of anybody. Its use is that tests of exporters, textures and fitting need no download: it has
quads and triangles, UV seams, eye spheres at their joints, an inner mouth, 52 named expressions that respect left
and right, pose correctives, and landmark embeddings at plausible places.

    from tests.synthetic_assets import make_tiny_assets
    assets = make_tiny_assets()
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from headrecon.structures import ARKIT_NAMES, HeadAssets, LandmarkEmbedding, Licence, triangulate

PARTS = ("skin", "leye", "reye", "mouth", "upper_teeth", "lower_teeth", "tongue")
HEAD_RADII = np.array([0.075, 0.115, 0.095])
EYE_CENTRE = np.array([0.031, 0.022, 0.0735])  # the subject's left eye; the right one mirrors it
EYE_RADIUS = 0.012
JOINTS = np.array(
    [[0, -0.10, -0.02], [0, -0.07, -0.03], [0, -0.02, 0.01], EYE_CENTRE, EYE_CENTRE * [-1, 1, 1]], dtype=np.float64
)
TINY_LICENCE = Licence("tiny test head", "CC0-1.0", True, "made by this test suite")


def _sphere(rings: int, segments: int) -> tuple[np.ndarray, ...]:
    """Unit UV sphere with poles at +-y and its UV seam at the back: points, faces [F,4], uvs in 0..1, uv_faces."""
    theta = np.pi * np.arange(1, rings) / rings
    phi = 2 * np.pi * np.arange(segments) / segments - np.pi  # starts at the back (-z) and goes over +x ... to itself
    ring = np.stack(
        [
            np.sin(theta)[:, None] * np.sin(phi)[None],
            np.cos(theta)[:, None] * np.ones_like(phi)[None],
            np.sin(theta)[:, None] * np.cos(phi)[None],
        ],
        axis=-1,
    )
    points = np.concatenate([[[0, 1, 0]], ring.reshape(-1, 3), [[0, -1, 0]]])
    u = np.arange(segments + 1) / segments
    uv = np.stack(np.meshgrid(u, 1 - np.arange(rings + 1) / rings), axis=-1).reshape(-1, 2)
    faces, uv_faces = [], []
    for i in range(rings):
        for s in range(segments):
            a, b = _row(i, s, segments, rings), _row(i, s + 1, segments, rings)
            c, d = _row(i + 1, s + 1, segments, rings), _row(i + 1, s, segments, rings)
            t = [i * (segments + 1) + s, i * (segments + 1) + s + 1]
            t += [t[1] + segments + 1, t[0] + segments + 1]
            corners = [(d, t[3]), (c, t[2]), (b, t[1]), (a, t[0])]  # counter-clockwise seen from outside
            if i == 0:
                corners = [(d, t[3]), (c, t[2]), (a, t[0])]
            elif i == rings - 1:
                corners = [(c, t[2]), (b, t[1]), (a, t[0])]
                corners[0] = (d, t[3])
            face, tex = zip(*corners, strict=True)
            faces.append([*face, -1][:4])
            uv_faces.append([*tex, -1][:4])
    return points, np.array(faces), uv, np.array(uv_faces)


def _row(ring: int, segment: int, segments: int, rings: int) -> int:
    if ring == 0:
        return 0
    if ring == rings:
        return 1 + (rings - 1) * segments
    return 1 + (ring - 1) * segments + segment % segments


def _head_surface(points: np.ndarray) -> np.ndarray:
    """Ellipsoid with a nose and a slight chin."""
    p = points * HEAD_RADII
    nose = np.exp(-(((points[:, 0]) / 0.14) ** 2 + ((points[:, 1] + 0.05) / 0.16) ** 2)) * (points[:, 2] > 0)
    chin = np.exp(-(((points[:, 0]) / 0.3) ** 2 + ((points[:, 1] + 0.75) / 0.25) ** 2)) * (points[:, 2] > 0)
    return p + np.stack([0 * nose, 0 * nose, 0.02 * nose + 0.012 * chin], axis=-1)


def _parts(rings: int) -> list[tuple[str, np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """(part, vertices, faces, uvs, uv_faces) of every part, each with its own rectangle of the UV square."""
    small = max(6, rings // 3)
    layout = {
        "skin": (np.ones(3), np.zeros(3), (0.02, 0.27, 0.96, 0.71)),
        "leye": (np.full(3, EYE_RADIUS), EYE_CENTRE, (0.52, 0.02, 0.21, 0.21)),
        "reye": (np.full(3, EYE_RADIUS), EYE_CENTRE * [-1, 1, 1], (0.27, 0.02, 0.21, 0.21)),
        "mouth": (np.array([0.02, 0.012, 0.012]), np.array([0, -0.05, 0.055]), (0.02, 0.02, 0.10, 0.21)),
        "upper_teeth": (np.array([0.016, 0.003, 0.003]), np.array([0, -0.046, 0.066]), (0.14, 0.02, 0.10, 0.09)),
        "lower_teeth": (np.array([0.015, 0.003, 0.003]), np.array([0, -0.055, 0.065]), (0.14, 0.14, 0.10, 0.09)),
        "tongue": (np.array([0.01, 0.003, 0.012]), np.array([0, -0.051, 0.052]), (0.77, 0.02, 0.21, 0.21)),
    }
    result = []
    for name, (radii, centre, (u, v, w, h)) in layout.items():
        points, faces, uv, uv_faces = _sphere(rings, 2 * rings) if name == "skin" else _sphere(small, 2 * small)
        xyz = _head_surface(points) if name == "skin" else points * radii + centre
        result.append((name, xyz, faces, uv * [w, h] + [u, v], uv_faces))
    return result


def _shift(faces: np.ndarray, offset: int) -> np.ndarray:
    return np.where(faces >= 0, faces + offset, -1)


def _shapedirs(v: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Smooth fields: size first, then stretches, then low-frequency waves; about 3 mm per standard deviation."""
    dirs = [v * 0.03]
    dirs += [np.eye(3)[axis] * v * 0.04 for axis in range(3)]
    while len(dirs) < count:
        wave, phase = rng.normal(size=3) * 20, rng.uniform(0, 2 * np.pi)
        amplitude = rng.normal(size=3)
        field = np.sin(np.abs(v) @ np.abs(wave) + phase)[:, None] * amplitude / np.linalg.norm(amplitude) * 0.002
        dirs.append(field * np.sign(v + 1e-12) ** np.array([1, 0, 0]))  # mirror-symmetric people
    return np.stack(dirs[:count], axis=-1)


def _exprdirs(v: np.ndarray, part: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One bump per name near where it acts; ...Right mirrors ...Left; only the surfaces in reach move."""
    height = {
        "brow": 0.045,
        "eye": 0.022,
        "cheek": -0.015,
        "nose": -0.005,
        "jaw": -0.09,
        "mouth": -0.05,
        "tongue": -0.05,
    }
    eyes = np.isin(part, [PARTS.index("leye"), PARTS.index("reye")])
    made: dict[str, np.ndarray] = {}
    bumps: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for name in ARKIT_NAMES:
        mirror = name.removesuffix("Right") + "Left"
        if name.endswith("Right") and mirror in bumps and name not in ("jawRight", "mouthRight"):
            made[name] = _mirrored_bump(v, *bumps[mirror])
        else:
            key = next(k for k in height if name.startswith(k))
            side = 0.025 if name.endswith("Left") else 0.0
            centre = np.array([side, height[key], 0.08]) + rng.normal(size=3) * 0.004
            push = rng.normal(size=3) * 0.003 + np.array([0, -0.012 if name == "jawOpen" else 0, 0])
            bumps[name] = centre, push
            made[name] = _bump(v, centre, push)
        made[name] = np.where(eyes[:, None], 0, made[name])
    return np.stack([made[n] for n in ARKIT_NAMES], axis=-1)


def _bump(v: np.ndarray, centre: np.ndarray, push: np.ndarray) -> np.ndarray:
    weight = np.exp(-((v - centre) ** 2).sum(1) / (2 * 0.02**2))
    return np.where(weight > 1e-3, weight, 0)[:, None] * push


def _mirrored_bump(v: np.ndarray, centre: np.ndarray, push: np.ndarray) -> np.ndarray:
    flip = np.array([-1, 1, 1])
    return _bump(v, centre * flip, push * flip)


def _lbs_weights(v: np.ndarray, part: np.ndarray) -> np.ndarray:
    weights = np.zeros((len(v), 5))
    neck = 1 / (1 + np.exp(-(v[:, 1] + 0.09) / 0.008))
    jaw = neck / (1 + np.exp((v[:, 1] + 0.045) / 0.006)) / (1 + np.exp(-(v[:, 2] - 0.01) / 0.01))
    weights[:, 0], weights[:, 2] = 1 - neck, jaw
    weights[:, 1] = neck - jaw
    rigid = {"leye": 3, "reye": 4, "upper_teeth": 1, "lower_teeth": 2, "tongue": 2}
    for name, joint in rigid.items():
        weights[part == PARTS.index(name)] = np.eye(5)[joint]
    return weights


def _joint_regressor(v: np.ndarray, part: np.ndarray) -> np.ndarray:
    """Affine weights (summing to 1) that give JOINTS on the template; eyes are the means of their spheres."""
    system = np.concatenate([v.T, np.ones((1, len(v)))])
    regressor = (np.linalg.pinv(system) @ np.concatenate([JOINTS.T, np.ones((1, 5))])).T
    for joint, name in ((3, "leye"), (4, "reye")):
        own = part == PARTS.index(name)
        regressor[joint] = own / own.sum()
    return regressor


def _embed(v: np.ndarray, triangles: np.ndarray, xy: np.ndarray) -> LandmarkEmbedding:
    """The frontmost surface point under each (x, y), seen along -z; points off the silhouette are pulled in."""
    tri = v[triangles]
    a, ab, ac = tri[:, 0, :2], tri[:, 1, :2] - tri[:, 0, :2], tri[:, 2, :2] - tri[:, 0, :2]
    det = ab[:, 0] * ac[:, 1] - ab[:, 1] * ac[:, 0]
    ids, weights = [], []
    for point in xy:
        for shrink in np.linspace(1, 0, 41):
            q = point * shrink - a
            s = (q[:, 0] * ac[:, 1] - q[:, 1] * ac[:, 0]) / np.where(det > 1e-12, det, np.inf)
            t = (ab[:, 0] * q[:, 1] - ab[:, 1] * q[:, 0]) / np.where(det > 1e-12, det, np.inf)
            inside = (det > 1e-12) & (s >= -1e-9) & (t >= -1e-9) & (s + t <= 1 + 1e-9)
            if inside.any():
                break
        depth = tri[:, 0, 2] + s * (tri[:, 1, 2] - tri[:, 0, 2]) + t * (tri[:, 2, 2] - tri[:, 0, 2])
        best = int(np.argmax(np.where(inside, depth, -np.inf)))
        ids.append(triangles[best])
        weights.append(np.clip([1 - s[best] - t[best], s[best], t[best]], 0, 1))
    w = np.array(weights)
    return LandmarkEmbedding(np.array(ids), w / w.sum(1, keepdims=True), np.full(len(w), 0.0015))


def _ibug68_layout() -> np.ndarray:
    """68 plausible (x, y) in metres; the subject's right is -x, so image order runs from -x to +x."""
    angle = np.linspace(np.pi, 2 * np.pi, 17)
    jaw = np.stack([0.068 * np.cos(angle), 0.02 + 0.105 * np.sin(angle)], 1)
    brow = np.stack([np.linspace(-0.05, -0.014, 5), 0.04 + 0.006 * np.sin(np.linspace(0.3, 2.8, 5))], 1)
    bridge = np.stack([np.zeros(4), np.linspace(0.02, -0.008, 4)], 1)
    nostrils = np.stack([np.linspace(-0.013, 0.013, 5), [-0.016, -0.019, -0.021, -0.019, -0.016]], 1)
    turn = np.deg2rad([180, 120, 60, 0, -60, -120])
    eye = np.stack([0.013 * np.cos(turn), 0.005 * np.sin(turn)], 1) + [-0.031, 0.022]
    flip = [3, 2, 1, 0, 5, 4]
    outer = np.deg2rad([180, 150, 120, 90, 60, 30, 0, -30, -60, -90, -120, -150])
    lips = np.stack([0.024 * np.cos(outer), -0.05 + 0.01 * np.sin(outer)], 1)
    inner = np.deg2rad([180, 125, 90, 55, 0, -55, -90, -125])
    gap = np.stack([0.019 * np.cos(inner), -0.05 + 0.003 * np.sin(inner)], 1)
    mirror = np.array([-1, 1])
    return np.concatenate([jaw, brow, brow[::-1] * mirror, bridge, nostrils, eye, eye[flip] * mirror, lips, gap])


def _mediapipe478_layout() -> np.ndarray:
    """468 points spread over the front of the face, then centre and four rim points of each iris (right first)."""
    k = np.arange(468)
    radius, angle = np.sqrt((k + 0.5) / 468), k * np.pi * (3 - np.sqrt(5))
    face = np.stack([0.062 * radius * np.cos(angle), -0.015 + 0.085 * radius * np.sin(angle)], 1)
    rim = np.array([[0, 0], [1, 0], [0, 1], [-1, 0], [0, -1]]) * 0.0059
    return np.concatenate([face, rim + EYE_CENTRE[:2] * [-1, 1], rim * [-1, 1] + EYE_CENTRE[:2]])


@lru_cache(maxsize=4)
def make_tiny_assets(rings: int = 24, num_betas: int = 12, posedirs: bool = False) -> HeadAssets:
    """Build the model: about 1,700 vertices at the default. Treat the arrays as read-only, they are shared."""
    rng = np.random.default_rng(7)
    vertices, faces, uvs, uv_faces, face_part, vertex_part = [], [], [], [], [], []
    for name, xyz, f, uv, fuv in _parts(rings):
        faces.append(_shift(f, sum(map(len, vertices))))
        uv_faces.append(_shift(fuv, sum(map(len, uvs))))
        vertices.append(xyz)
        uvs.append(uv)
        face_part.append(np.full(len(f), PARTS.index(name)))
        vertex_part.append(np.full(len(xyz), PARTS.index(name)))
    v, f, part = np.concatenate(vertices), np.concatenate(faces), np.concatenate(vertex_part)
    surface = np.concatenate(face_part)
    seen = triangulate(f[np.isin(surface, [0, 1, 2])])[0]
    correctives = rng.normal(size=(9 * 4, 3 * len(v))) * 2e-4 if posedirs else None
    outside = part == 0
    return HeadAssets(
        name="tiny",
        v_template=v.astype(np.float32),
        faces=f.astype(np.int32),
        uvs=np.concatenate(uvs).astype(np.float32),
        uv_faces=np.concatenate(uv_faces).astype(np.int32),
        shapedirs=_shapedirs(v, num_betas, rng).astype(np.float32),
        exprdirs=_exprdirs(v, part, rng).astype(np.float32),
        expression_names=ARKIT_NAMES,
        J_regressor=_joint_regressor(v, part).astype(np.float32),
        parents=np.array([-1, 0, 1, 1, 1]),
        lbs_weights=_lbs_weights(v, part).astype(np.float32),
        face_part=surface.astype(np.int32),
        part_names=PARTS,
        licences=(TINY_LICENCE,),
        posedirs=None if correctives is None else correctives.astype(np.float32),
        landmarks={
            "ibug68": _embed(v, triangulate(f[surface == 0])[0], _ibug68_layout()),
            "mediapipe478": _embed(v, seen, _mediapipe478_layout()),
        },
        regions={
            "face": (outside & (v[:, 2] > 0.01) & (v[:, 1] > -0.1)).astype(np.float32),
            "scalp": (outside & (v[:, 1] - 0.9 * v[:, 2] > 0.02)).astype(np.float32),
            "neck": (outside & (v[:, 1] < -0.085)).astype(np.float32),
        },
    ).validate()
