"""Reflectance of skin: pigment and blood, blotches, freckles, moles, lips, lids. Linear light.

Skin is a base colour seen through two absorbers (after Tsumura et al., "Image-based skin color and texture analysis/
synthesis by extracting hemoglobin and melanin information in the skin", SIGGRAPH 2003): each multiplies the colour by
exp(-amount * spectrum), and all variation is variation of their amounts over the face.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from headrecon.datasets.face_frame import FaceFrame, inside_ring, resampled, smooth_step
from headrecon.datasets.looks import Look
from headrecon.datasets.value_noise import NoiseField, SurfacePoints

#: Absorption of red, green and blue by one unit of each absorber.
_MELANIN = np.array([0.55, 0.85, 1.25])
_BLOOD = np.array([0.10, 1.00, 0.80])
#: Where blood shows: centre in face coordinates (mirrored for x > 0), radius in mm, amount.
_FLUSH = (
    ((40, -40, -2), 28, 0.24), ((0, -30, 42), 15, 0.28), ((0, -36, 30), 26, 0.10), ((0, -104, 10), 16, 0.14),
    ((20, 22, 8), 14, 0.06), ((44, -18, -8), 16, 0.10),
)  # fmt: skip


def paint_skin(
    surface: SurfacePoints, ears: Float[np.ndarray, " N"], frame: FaceFrame, look: Look, rng: np.random.Generator
) -> Float[np.ndarray, "N 3"]:
    """Linear reflectance at points of the skin in face coordinates (mm). ears: 1 on an ear, 0 off it."""
    blotches, fine, points = NoiseField(rng), NoiseField(rng), surface.points
    fair = 1.0 if look.tone < 3 else 0.55  # blood shows less through dark skin
    blood = 0.30 * ears + surface.carry(_flush(surface.vertices))
    blood *= look.redness * fair * (1 + 0.35 * surface.coarse(blotches, 14.0))
    blood += 0.05 * look.mottling * surface.coarse(blotches, 7.0, 300.0)
    melanin = 0.055 * look.mottling * surface.coarse(blotches, 24.0, 600.0)
    melanin += 0.030 * look.mottling * fine(points, 3.5) + 0.022 * fine(points + 50, 1.6)
    # The forehead and the bridge of the nose take more sun; shaded places are lighter.
    melanin += 0.05 * smooth_step(points[:, 1], 10, 50) * smooth_step(points[:, 2], -60, 0)
    melanin -= 0.06 * smooth_step(points[:, 1], -115, -150)
    rings = surface.carry(_under_eyes(surface.vertices, frame))
    melanin += 0.20 * look.under_eyes * rings
    blood += 0.16 * look.under_eyes * rings
    spots = _spots(points, frame, look, rng)
    base = _linear(np.array(look.skin))
    skin = base * np.exp(-(melanin + spots)[:, None] * _MELANIN - blood[:, None] * _BLOOD)
    skin = _with_lips(skin, points, frame, look, fine)
    return np.clip(_with_lids(skin, points, frame, look, fine), 0.004, 0.95)


def _linear(srgb: np.ndarray) -> np.ndarray:
    return np.where(srgb <= 0.04045, srgb / 12.92, ((np.maximum(srgb, 0) + 0.055) / 1.055) ** 2.4)


def _flush(points: np.ndarray) -> np.ndarray:
    folded = points.copy()
    folded[:, 0] = np.abs(points[:, 0])
    return sum(
        (amount * np.exp(-((folded - centre) ** 2).sum(1) / radius**2) for centre, radius, amount in _FLUSH),
        np.zeros(len(points)),
    )


def _under_eyes(points: np.ndarray, frame: FaceFrame) -> np.ndarray:
    """A crescent below the inner half of each eye."""
    out = np.zeros(len(points))
    for side in ("right", "left"):
        ring = frame.eye_ring(side)
        low = ring[ring[:, 1] < ring[:, 1].mean()].mean(0)
        inward = np.array([-np.sign(low[0]) * 4.0, -6.0, 0.0])
        away = (points - low - inward) / [15.0, 6.0, 16.0]
        out += np.exp(-(away**2).sum(1))
    return out


def _spots(points: np.ndarray, frame: FaceFrame, look: Look, rng: np.random.Generator) -> np.ndarray:
    """Freckles over nose and cheeks, moles anywhere: extra pigment."""
    from scipy.spatial import KDTree

    out = np.zeros(len(points))
    face = np.flatnonzero((points[:, 2] > -40) & (points[:, 1] < 60) & (points[:, 1] > -120))
    if not face.size or look.freckles + look.moles == 0:
        return out
    chance = np.exp(-(((np.abs(points[face, 0]) - 22) / 26) ** 2) - ((points[face, 1] + 28) / 24) ** 2)
    chance /= chance.sum()
    tree = KDTree(points[face])
    freckles = rng.choice(face, size=look.freckles, p=chance)
    moles = rng.choice(face, size=look.moles)
    for centres, radius, strength in ((freckles, (0.5, 1.3), (0.15, 0.5)), (moles, (0.6, 1.5), (0.6, 1.6))):
        for centre in centres:
            size, amount = rng.uniform(*radius), rng.uniform(*strength)
            near = face[np.asarray(tree.query_ball_point(points[centre], 2.5 * size), dtype=int)]
            away = np.linalg.norm(points[near] - points[centre], axis=1)
            out[near] = np.maximum(out[near], amount * smooth_step(away, 1.5 * size, 0.5 * size))
    return out


def _with_lips(skin: np.ndarray, points: np.ndarray, frame: FaceFrame, look: Look, noise: NoiseField) -> np.ndarray:
    ring = resampled(frame.outer_lips, 160, closed=True)
    front = points[:, 2] > ring[:, 2].min() - 6
    rows = np.flatnonzero(front & (np.abs(points[:, 1] - ring[:, 1].mean()) < 40) & (np.abs(points[:, 0]) < 45))
    edge = inside_ring(points[rows], ring) + 0.35 * noise(points[rows], 2.0)
    share = smooth_step(edge, -0.9, 0.9) * (0.6 + 0.4 * look.lips)
    at = points[rows]
    lines = noise(np.column_stack([at[:, 0] / 0.9, at[:, 1] / 5.0, at[:, 2] / 5.0]), 1.0)  # fine vertical creases
    blood = (0.42 + 0.70 * look.lips) * (0.8 if look.tone >= 3 else 1.0) + 0.08 * lines
    melanin = 0.04 + (0.10 if look.tone >= 3 else 0.0) + 0.06 * lines
    lips = skin[rows] * np.exp(-blood[:, None] * _BLOOD - melanin[..., None] * _MELANIN)
    # The seam between closed lips lies in shade that no mesh of this size resolves.
    seam = resampled(frame.inner_lips, 120, closed=True)
    shade = 0.55 * smooth_step(np.abs(inside_ring(at, seam)), 1.6, 0.2)
    lips *= (1 - shade * share)[:, None]
    out = skin.copy()
    out[rows] = skin[rows] * (1 - share[:, None]) + lips * share[:, None]
    return out


def _with_lids(skin: np.ndarray, points: np.ndarray, frame: FaceFrame, look: Look, noise: NoiseField) -> np.ndarray:
    """Lashes as a dark rim, stronger above; the fold of the upper lid; the pink corner near the nose."""
    out = skin.copy()
    for side in ("right", "left"):
        ring = resampled(frame.eye_ring(side), 100, closed=True)
        middle = ring.mean(0)
        rows = np.flatnonzero(np.linalg.norm(points - middle, axis=1) < 32)
        away = inside_ring(points[rows], ring) + 0.2 * noise(points[rows], 1.2)
        upper = smooth_step(points[rows, 1] - middle[1], -1.0, 2.0)
        # Lashes darken the rim itself and a little outside of it; what lies further in is the lid's inner side.
        rim = smooth_step(-away, 0.7 + 0.8 * look.lashes * upper, 0.1) * smooth_step(away, 3.0, 1.0)
        dark = look.lashes * rim * (0.22 + 0.48 * upper)
        fold = 0.14 * upper * np.exp(-(((away + 4.5) / 1.2) ** 2))
        factor = np.clip(1 - dark - fold, 0.05, 1)[:, None]
        out[rows] *= factor ** np.array([1.0, 1.05, 1.08])
    return out
