"""Lips and lids as numbers, from the 68 points of any head: so that two models can be asked the same question."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

#: Upper and lower inner lips, face to face; upper and lower lids likewise (right eye, left eye).
_LIPS = ((61, 62, 63), (67, 66, 65))
_LIDS = (((37, 38), (41, 40)), ((43, 44), (47, 46)))
_OUTER_EYES = (36, 45)
#: Points that expressions leave alone, by which a face is held still: bridge and base of the nose, corners of the eyes.
_STILL = (27, 28, 29, 30, 31, 33, 35, 36, 39, 42, 45)
_EYES, _MOUTH_CORNERS = (36, 39, 42, 45), (48, 54)
#: Lips count as closed below this gap above the one at rest, in shares of the distance of the outer eye corners (90 mm
#: on average: 0.9 mm); lids below this share of their opening at rest.
LIPS_CLOSED = 0.010
LIDS_CLOSED = 0.45


@dataclass(frozen=True)
class FaceSignals:
    """lip_gap: height of the inner rim of the upper lip above the lower one's, beyond that at rest, in distances of the
    outer eye corners; negative where lips are pressed or rolled in. lids: opening of the right and the left eye as a
    share of that at rest."""

    lip_gap: Float[np.ndarray, " T"]
    lids: Float[np.ndarray, "T 2"]

    @property
    def lips_closed(self) -> Bool[np.ndarray, " T"]:
        return np.asarray(self.lip_gap < LIPS_CLOSED)

    @property
    def eyes_closed(self) -> Bool[np.ndarray, " T"]:
        """Both eyes at once: a blink."""
        return np.asarray((self.lids < LIDS_CLOSED).all(1))


def face_signals(points: Float[np.ndarray, "T 68 3"], neutral: Float[np.ndarray, "68 3"]) -> FaceSignals:
    """Signals of T posed faces, whose 68 points are given, and of the same face at rest. Any unit, the same in both."""
    wide = float(np.linalg.norm(neutral[_OUTER_EYES[0]] - neutral[_OUTER_EYES[1]]))
    gap = (_heights(points, neutral) - _heights(neutral[None], neutral)) / wide
    lids = [_apart(points, *eye) / np.maximum(_apart(neutral[None], *eye), 1e-9) for eye in _LIDS]
    return FaceSignals(gap, np.stack(lids, axis=1))


def _heights(points: np.ndarray, neutral: np.ndarray) -> Float[np.ndarray, " T"]:
    """Of the upper lip's rim above the lower one's along the face's own vertical. Signed: a distance would grow again
    when lips are rolled in and their rims pass each other, and then calls the firmest closure an opening."""
    across = neutral[_OUTER_EYES[1]] - neutral[_OUTER_EYES[0]]
    up = neutral[list(_EYES)].mean(0) - neutral[list(_MOUTH_CORNERS)].mean(0)
    up = up - across * (up @ across) / (across @ across)
    up = up / np.linalg.norm(up)
    still = list(_STILL)
    rest, here = neutral[still] - neutral[still].mean(0), points[:, still] - points[:, still].mean(1, keepdims=True)
    u, _, vt = np.linalg.svd(np.einsum("tni,nj->tij", here, rest))
    u[:, :, 2] *= np.sign(np.linalg.det(u @ vt))[:, None]  # a turn, never a reflection (Umeyama 1991)
    apart = (points[:, list(_LIPS[0])] - points[:, list(_LIPS[1])]).mean(1)
    return np.einsum("ti,ti->t", apart, (u @ vt) @ up)


def _apart(points: np.ndarray, upper: tuple[int, ...], lower: tuple[int, ...]) -> Float[np.ndarray, " T"]:
    return np.linalg.norm(points[:, list(upper)] - points[:, list(lower)], axis=2).mean(1)


def runs(flags: Bool[np.ndarray, " T"]) -> Int[np.ndarray, "N 2"]:
    """First and last index of each stretch of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return np.stack([edges[::2], edges[1::2] - 1], axis=1)
