"""Where an expression folds the skin: creases that the photo shows and the neutral face does not have.

A smile pushes the cheeks against the upper lip, and the skin between is squeezed into the fold beside the mouth. A
model whose faces are centimetres large has no such fold in its shape; projected as it is, the dark line would be part
of the skin's own colour and stay on the face when it is at rest. Squeezing is what the model does know: the smaller
principal stretch of each triangle between the head at rest and as it was photographed.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from headrecon.geometry.mesh import face_areas

#: Share of its length that skin is squeezed by: below the first it stays smooth, from the second on it is folded.
_SQUEEZED = (0.06, 0.20)
#: Folds lie beside what is squeezed most: the weight spreads by so many rings of triangles.
_RINGS = 2


def fold_weight(
    rest: Float[np.ndarray, "V 3"], shown: Float[np.ndarray, "V 3"], triangles: Int[np.ndarray, "F 3"]
) -> Float[np.ndarray, " V"]:
    """0 where the skin lies as it does at rest, 1 where it is squeezed into folds; of two poses of one head.

    Turning and moving the head change nothing, its size (the posed head over the one at rest) must be the same.
    """
    stretch = least_stretch(rest.astype(np.float64), shown.astype(np.float64), triangles)
    t = np.clip((1 - stretch - _SQUEEZED[0]) / (_SQUEEZED[1] - _SQUEEZED[0]), 0, 1)
    weight = t * t * (3 - 2 * t)
    area = face_areas(rest.astype(np.float64), triangles)
    out = np.zeros(len(rest))
    for _ in range(_RINGS):  # from triangles to their corners and back
        total = np.full(len(rest), 1e-20)
        out = np.zeros(len(rest))
        for corner in triangles.T:
            total += np.bincount(corner, area, minlength=len(rest))
            out += np.bincount(corner, area * weight, minlength=len(rest))
        out /= total
        weight = np.maximum(weight, out[triangles].max(1))
    return out.astype(np.float32)


def least_stretch(
    rest: Float[np.ndarray, "V 3"], shown: Float[np.ndarray, "V 3"], triangles: Int[np.ndarray, "F 3"]
) -> Float[np.ndarray, " F"]:
    """Smaller principal stretch of each triangle: 1 where lengths are kept, less where it is squeezed; 1 for slivers.

    Singular values of the 2 x 2 map between the triangle's planes, in closed form.
    """
    (a, b, c), (p, q, r) = _flat(rest, triangles), _flat(shown, triangles)
    good = (a * c > 1e-16) & (p * r > 1e-16)
    a, c = np.where(good, a, 1.0), np.where(good, c, 1.0)
    # Both edges in their planes are (a, 0), (b, c) and (p, 0), (q, r): the map is upper triangular.
    m00, m01, m11 = p / a, (q - p * b / a) / c, r / c
    total, product = m00**2 + m01**2 + m11**2, m00 * m11
    larger = np.sqrt(0.5 * (total + np.sqrt(np.maximum(total**2 - 4 * product**2, 0.0))))
    return np.where(good, product / np.maximum(larger, 1e-12), 1.0)


def _flat(vertices: np.ndarray, triangles: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Length of the first edge, and the second edge along and across it."""
    first, second = (vertices[triangles[:, k]] - vertices[triangles[:, 0]] for k in (1, 2))
    length = np.linalg.norm(first, axis=1)
    along = (first * second).sum(1) / np.maximum(length, 1e-12)
    return length, along, np.linalg.norm(np.cross(first, second), axis=1) / np.maximum(length, 1e-12)
