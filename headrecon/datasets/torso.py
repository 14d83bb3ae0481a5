"""Shoulders in a shirt for a head that ends at its neck: they follow the body (the root joint), not the head."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from headrecon.datasets.value_noise import NoiseField
from headrecon.geometry import so3
from headrecon.structures import Mesh

#: Cross-sections from the collar down, for a neck of 5.5 cm half width: half width, half depth, height over the neck's
#: lower end, how far back (metres), and the exponent of the superellipse (2 is an ellipse).
_SECTIONS = np.array([
    (0.062, 0.065, 0.026, 0.000, 2.0), (0.067, 0.069, 0.002, 0.000, 2.0), (0.085, 0.073, -0.012, 0.004, 2.0),
    (0.120, 0.082, -0.027, 0.007, 2.1), (0.160, 0.092, -0.048, 0.008, 2.2), (0.190, 0.101, -0.080, 0.006, 2.3),
    (0.205, 0.110, -0.130, 0.000, 2.4), (0.210, 0.118, -0.200, -0.006, 2.5), (0.208, 0.122, -0.450, -0.010, 2.5),
])  # fmt: skip
_NECK_M = 0.055
_RINGS, _COLUMNS = 56, 96
#: Heights (shares of the head's) whose vertices say where the neck ends.
_NECK_BAND = 0.06


@dataclass(frozen=True)
class Torso:
    """A closed-off shirt. mesh: at rest, metres, UVs over all of `texture_srgb`. pivot: of the body's turns."""

    mesh: Mesh
    texture_srgb: Float[np.ndarray, "S S 3"]
    pivot: Float[np.ndarray, "3"]

    def posed(self, global_orient: Float[np.ndarray, "3"], transl: Float[np.ndarray, "3"]) -> Float[np.ndarray, "V 3"]:
        """Vertices where the body is: turned about the root joint, then moved."""
        return (self.mesh.vertices - self.pivot) @ so3.exp(np.asarray(global_orient)).T + self.pivot + transl


def draw_torso(
    neutral: Float[np.ndarray, "V 3"], pivot: Float[np.ndarray, "3"], rng: np.random.Generator, size: int
) -> Torso:
    """Shoulders for a head at rest (its skin's vertices), with a shirt drawn from the generator.

    pivot: the root joint. size: side of the texture in pixels.
    """
    neutral = np.asarray(neutral, dtype=np.float64)
    low, high = neutral[:, 1].min(), neutral[:, 1].max()
    neck = neutral[neutral[:, 1] < low + _NECK_BAND * (high - low)]
    centre = (neck.min(0) + neck.max(0)) / 2
    half = np.ptp(neck[:, [0, 2]], axis=0) / 2
    vertices, faces, uvs, uv_faces = _loft(_profile(half * 1.03), [centre[0], low, centre[2]])
    broad = float(rng.uniform(0.94, 1.08))
    below = np.clip((low - vertices[:, 1]) / 0.05, 0, 1)  # the collar keeps the neck's size
    vertices[:, 0] = centre[0] + (vertices[:, 0] - centre[0]) * (1 + (broad - 1) * below)
    return Torso(Mesh(vertices, faces, uvs, uv_faces), _shirt(size, rng), np.asarray(pivot, dtype=np.float64))


def _profile(half: Float[np.ndarray, "2"]) -> Float[np.ndarray, "R 5"]:
    """Many sections between the given ones; at the collar as wide and deep as this neck."""
    from scipy.interpolate import PchipInterpolator

    sections = _SECTIONS * ([half[0] / _NECK_M] * 4 + [1.0])
    sections[:, 1] += (half[1] - sections[0, 1] + 0.004) * np.linspace(1, 0, len(sections))
    at = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(sections[:, :3], axis=0), axis=1))])
    return PchipInterpolator(at, sections)(np.linspace(0, at[-1], _RINGS))


def _loft(
    profile: Float[np.ndarray, "R 5"], origin: list[float]
) -> tuple[np.ndarray, Int[np.ndarray, "F 4"], Float[np.ndarray, "T 2"], Int[np.ndarray, "F 4"]]:
    """Rings of points joined to quads; the seam of the UVs runs down the back."""
    angle = np.linspace(-np.pi, np.pi, _COLUMNS + 1)  # 0 is in front
    across, ahead = np.sin(angle), np.cos(angle)
    power = 2 / profile[:, 4:]
    x = profile[:, :1] * np.sign(across) * np.abs(across) ** power
    z = profile[:, 1:2] * np.sign(ahead) * np.abs(ahead) ** power - profile[:, 3:4]
    y = np.broadcast_to(profile[:, 2:3], x.shape)
    points = np.stack([x, y, z], axis=-1) + origin
    ring, column = (i.reshape(-1) for i in np.mgrid[: _RINGS - 1, :_COLUMNS])
    wide = _COLUMNS + 1
    uv_faces = np.stack([ring * wide + column, (ring + 1) * wide + column, (ring + 1) * wide + column + 1,
                         ring * wide + column + 1], axis=1)  # fmt: skip
    joined = np.arange(_RINGS * wide).reshape(_RINGS, wide)
    joined = joined - np.arange(_RINGS)[:, None]  # one vertex less a ring: the last is the first
    joined[:, -1] = joined[:, 0]
    v, u = np.meshgrid(np.linspace(0, 1, _RINGS), np.linspace(0, 1, wide), indexing="ij")
    uvs = np.stack([u, v], axis=-1).reshape(-1, 2)
    return points[:, :-1].reshape(-1, 3), joined.reshape(-1)[uv_faces], uvs, uv_faces


def _shirt(size: int, rng: np.random.Generator) -> Float[np.ndarray, "S S 3"]:
    """Cloth with folds, a hem at the collar and, on some shirts, stripes; sRGB 0..1, the collar in the first row."""
    v, u = (np.mgrid[:size, :size] + 0.5) / size
    angle = 2 * np.pi * u
    # Around the body, so that nothing shows at the seam.
    points = np.stack([np.sin(angle), np.cos(angle), 2.2 * v], axis=-1).reshape(-1, 3)
    field = NoiseField(rng)
    folds = field.octaves(points * [1, 1, 0.5], 0.16, 3).reshape(size, size)
    weave = field(points, 0.012).reshape(size, size)
    base = rng.uniform(0.08, 0.75) * (1 + rng.uniform(-0.35, 0.35, 3))
    shade = 1 + 0.07 * folds + 0.035 * weave
    colours = np.clip(base, 0.04, 0.9) * shade[..., None]
    if rng.random() < 0.6:
        other = np.clip(rng.uniform(0.1, 0.85) * (1 + rng.uniform(-0.3, 0.3, 3)), 0.04, 0.9)
        wide, gap = rng.uniform(0.015, 0.04), rng.uniform(0.07, 0.14)
        stripe = ((v + 0.004 * folds) % gap < wide) & (v > 0.2)
        colours = np.where(stripe[..., None], other * shade[..., None], colours)
    hem = np.exp(-(((v - 0.055) / 0.006) ** 2)) + np.exp(-((v / 0.01) ** 2))
    return np.clip(colours * (1 - 0.45 * np.clip(hem, 0, 1))[..., None], 0.01, 0.98).astype(np.float32)


def joined(
    head: Mesh, head_texture: Float[np.ndarray, "S S 3"], torso: Torso, at: np.ndarray
) -> tuple[Mesh, np.ndarray]:
    """Head and torso as one mesh with one texture, side by side. at: the torso's vertices."""
    if head.uvs is None or head.uv_faces is None or torso.mesh.uvs is None or torso.mesh.uv_faces is None:
        raise ValueError("joined needs meshes with UVs")
    faces, uv_faces = torso.mesh.faces, torso.mesh.uv_faces
    if head.faces.shape[1] == 3:
        faces, uv_faces = (np.concatenate([f[:, [0, 1, 2]], f[:, [0, 2, 3]]]) for f in (faces, uv_faces))
    # Half a texel of distance keeps the two from mixing where they meet.
    edge = 0.5 / head_texture.shape[1]
    own = np.clip(torso.mesh.uvs, [edge, 0], [1 - edge, 1])
    mesh = Mesh(
        np.concatenate([head.vertices, at]).astype(np.float32),
        np.concatenate([head.faces, faces + len(head.vertices)]),
        np.concatenate([head.uvs * [0.5, 1], own * [0.5, 1] + [0.5, 0]]).astype(np.float32),
        np.concatenate([head.uv_faces, uv_faces + len(head.uvs)]),
    )
    return mesh, np.concatenate([head_texture, torso.texture_srgb], axis=1)
