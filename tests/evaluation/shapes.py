"""Small surfaces whose score is known: an icosphere, and a smooth relief with the proportions of a face."""

from __future__ import annotations

import numpy as np
import trimesh

from headrecon.structures import Mesh

#: The seven NoW points of the relief, x and y in mm.
_MARKS = np.array([(-45, 30), (-17, 30), (17, 30), (45, 30), (0, -15), (-25, -40), (25, -40)], dtype=float)


def height(x: np.ndarray, y: np.ndarray, nose: float = 22.0) -> np.ndarray:
    """A bowl with a nose, eye hollows and a chin, in mm."""
    bowl = -((x / 11.0) ** 2 + (y / 14.0) ** 2) / 2.2
    bump = nose * np.exp(-((x / 14) ** 2) - ((y - 0) / 24) ** 2)
    eyes = -6 * np.exp(-(((np.abs(x) - 31) / 14) ** 2) - ((y - 30) / 12) ** 2)
    chin = 7 * np.exp(-((x / 18) ** 2) - ((y + 75) / 14) ** 2)
    return bowl + bump + eyes + chin


def relief(step: float = 4.0, nose: float = 22.0) -> tuple[Mesh, np.ndarray]:
    """The relief as quads and its seven landmarks, mm."""
    x, y = np.meshgrid(np.arange(-110, 110 + step / 2, step), np.arange(-120, 110 + step / 2, step))
    rows, columns = x.shape
    vertices = np.stack([x, y, height(x, y, nose)], axis=-1).reshape(-1, 3)
    index = np.arange(rows * columns).reshape(rows, columns)
    quads = np.stack([index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]], axis=-1).reshape(-1, 4)
    return Mesh(vertices, quads), np.column_stack([_MARKS, height(_MARKS[:, 0], _MARKS[:, 1], nose)])


def sphere(radius: float = 100.0, subdivisions: int = 3) -> tuple[Mesh, np.ndarray]:
    """An icosphere and seven points on it that lie as on a face."""
    ball = trimesh.creation.icosphere(subdivisions=subdivisions, radius=radius)
    marks = np.column_stack([_MARKS, np.sqrt(100.0**2 - (_MARKS**2).sum(1))]) * (radius / 100.0)
    return Mesh(np.asarray(ball.vertices, float), np.asarray(ball.faces, np.int64)), marks


def moved(points: np.ndarray, seed: int, scale: float = 1.0) -> np.ndarray:
    """Points after a random turn, a shift, and a change of size: the same for the same seed."""
    from scipy.spatial.transform import Rotation

    rotation = Rotation.random(random_state=seed).as_matrix()
    return scale * (points @ rotation.T + np.random.default_rng(seed).normal(size=3) * 400)
