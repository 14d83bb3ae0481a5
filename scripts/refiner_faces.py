"""What scripts/train_face_refiner.py learns from: faces read by scripts/read_training_crops.py, normalized."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from scipy.spatial import KDTree

from headrecon.perception.eye_frame import EyeFrame
from headrecon.perception.shape_reader import MESH_POINTS, mirrored_points
from headrecon.structures import HeadAssets

#: A detection that misses by this multiple of the median is a lost face, not an error to learn.
LOST = 3.0
LEAST_PRESENCE = 0.5


@dataclass(frozen=True)
class Faces:
    """N looks. middle, deep, summary: the mesh network's features, float16; known_middle, known_deep: those of the
    recognition network. points [N,478,3] as `EyeFrame.normalized`
    gives them, errors [N,478,2] true minus detected in the same units, betas [N,Nb]: all as that look showed them, so
    mirrored where it was in the mirror."""

    middle: np.ndarray
    deep: np.ndarray
    summary: np.ndarray
    known_middle: np.ndarray
    known_deep: np.ndarray
    points: np.ndarray
    errors: np.ndarray
    betas: np.ndarray

    def __len__(self) -> int:
        return len(self.points)


def mirrored_identity(assets: HeadAssets) -> np.ndarray:
    """Matrix M such that the head of betas M b is the mirror image of that of b, as nearly as the space allows."""
    template, directions = assets.v_template.astype(np.float64), assets.shapedirs.astype(np.float64)
    _, partner = KDTree(template).query(template * (-1, 1, 1))
    partner = np.asarray(partner)
    columns = directions.reshape(-1, directions.shape[2])
    mirrored = (directions[partner] * np.array([-1.0, 1.0, 1.0])[:, None]).reshape(columns.shape)
    return np.linalg.lstsq(columns, mirrored, rcond=None)[0]


def load_faces(prefixes: list[str], mirror_betas: np.ndarray) -> Faces:
    parts = [_load(prefix, mirror_betas) for prefix in prefixes]
    names = [f.name for f in fields(Faces)]
    return Faces(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def _load(prefix: str, mirror_betas: np.ndarray) -> Faces:
    with np.load(f"{prefix}.npz") as truth, np.load(f"{prefix}.seen.npz") as seen:
        true, betas, points = truth["points"].astype(float), truth["betas"].astype(float), seen["points"].astype(float)
        presence, in_mirror, summary = seen["presence"], seen["mirrored"], seen["summary"]
    frames = [EyeFrame.of(p) for p in points]
    errors = np.stack(
        [(t - p[:, :2]) @ f.axes.T / f.scale_px for t, p, f in zip(true, points, frames, strict=True)]
    )  # fmt: skip
    points = np.stack([f.normalized(p) for f, p in zip(frames, points, strict=True)])
    size = np.sqrt((errors[:, :MESH_POINTS] ** 2).mean((1, 2)))
    good = np.flatnonzero((presence > LEAST_PRESENCE) & (size < LOST * np.median(size)))
    looks = len(in_mirror) // len(points)
    rows, faces = (good[:, None] * looks + np.arange(looks)).ravel(), np.repeat(good, looks)
    turned = in_mirror[rows]
    maps = [np.load(f"{prefix}.{name}.npy", mmap_mode="r")[rows] for name in ("middle", "deep")]
    known = [np.load(f"{prefix}.{name}.npy", mmap_mode="r")[rows] for name in ("known_middle", "known_deep")]
    as_seen = [
        np.where(turned[:, None, None], mirrored_points(values[faces]), values[faces]) for values in (points, errors)
    ]
    betas = np.where(turned[:, None], betas[faces] @ mirror_betas.T, betas[faces])
    return Faces(*maps, summary[rows], *known, as_seen[0], as_seen[1], betas)


def identity_metric(assets: HeadAssets) -> np.ndarray:
    """Lower triangle L: |L^T d|^2 is the mean squared distance over the face that betas d make, 1 for the population's
    mean; a little is added for every direction, so that none is without a price."""
    face = np.flatnonzero(assets.regions["face"] > 0.5)
    directions = assets.shapedirs[face].astype(np.float64).reshape(3 * len(face), -1)
    gram = directions.T @ directions
    return np.linalg.cholesky(gram / np.trace(gram) + 0.002 * np.eye(len(gram)))
