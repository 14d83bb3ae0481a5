"""Makes headrecon/data/face_refiner.npz from rendered faces (scripts/render_training_faces.py).

    python scripts/train_face_refiner.py FACES.npz... [--components 150] [--noise 0.02]

A regression with noise of a given size counted in for every coordinate (a ridge); every face is seen in the mirror too.
The size was chosen on photos of people: shapes from several photos of one person should agree, those of different
persons differ (docs/accuracy.md). On rendered heads alone less noise and more terms look better. The covariance of
what it leaves unexplained comes from faces held back, one part in three at a time.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from headrecon.models.store import load_head
from headrecon.perception.face_refiner import FaceFrame, FaceRefiner, mirrored_points
from headrecon.structures import HeadAssets

OUT = Path(__file__).resolve().parents[1] / "headrecon/data/face_refiner.npz"
FOLDS = 3
ERROR_CODES = 60
#: A detection that misses by this multiple of the median is a lost face, not an error to learn.
LOST = 3.0


@dataclass(frozen=True)
class Faces:
    """Normalized detected points [N,478,3], true minus detected mesh points [N,468,2] and betas [N,Nb]."""

    points: np.ndarray
    errors: np.ndarray
    betas: np.ndarray

    def take(self, rows: np.ndarray) -> Faces:
        return Faces(self.points[rows], self.errors[rows], self.betas[rows])

    def with_mirrored(self, mirror_betas: np.ndarray) -> Faces:
        padded = np.concatenate([self.errors, np.zeros((len(self.errors), 10, 2))], axis=1)
        return Faces(
            np.concatenate([self.points, mirrored_points(self.points)]),
            np.concatenate([self.errors, mirrored_points(padded)[:, :468]]),
            np.concatenate([self.betas, self.betas @ mirror_betas.T]),
        )


def load_faces(paths: list[Path]) -> Faces:
    points, errors, betas = [], [], []
    for path in paths:
        with np.load(path) as table:
            for seen, true, identity in zip(table["detected"], table["true"], table["betas"], strict=True):
                frame = FaceFrame.of(seen.astype(np.float64))
                points.append(frame.normalized(seen.astype(np.float64)))
                errors.append((true[:468] - seen[:468, :2]) @ frame.axes.T / frame.scale_px)
                betas.append(identity)
    faces = Faces(np.stack(points), np.stack(errors), np.stack(betas).astype(np.float64))
    size = np.sqrt((faces.errors**2).mean((1, 2)))
    return faces.take(np.flatnonzero(size < LOST * np.median(size)))


def mirrored_identity(assets: HeadAssets) -> np.ndarray:
    """Matrix M such that the head of betas M b is the mirror image of that of b, as nearly as the space allows."""
    template, directions = assets.v_template.astype(np.float64), assets.shapedirs.astype(np.float64)
    _, partner = cKDTree(template).query(template * (-1, 1, 1))
    mirrored = directions[partner] * np.array([-1.0, 1.0, 1.0])[:, None]
    flat = directions.reshape(-1, directions.shape[2])
    return np.linalg.lstsq(flat, mirrored.reshape(flat.shape), rcond=None)[0]


def principal_axes(rows: np.ndarray, count: int) -> np.ndarray:
    """The directions of largest scatter, one a row, largest first."""
    return np.linalg.eigh(rows.T @ rows)[1][:, ::-1][:, :count].T


def points_off_the_mouth(mean: np.ndarray) -> np.ndarray:
    """Mesh points outside of an ellipse around the lips.

    Skin taken from smiling portraits shows teeth on a shut mouth: learned from such renderings, an open mouth would be
    an error of the detector.
    """
    middle = mean[[61, 291], :2].mean(0)
    reach = (mean[:468, :2] - middle) / (0.50, 0.32)
    return np.flatnonzero((reach**2).sum(1) > 1)


def fit_refiner(faces: Faces, mirror_betas: np.ndarray, components: int, noise: float) -> FaceRefiner:
    """The regression; its covariance is left at the population's."""
    both = faces.with_mirrored(mirror_betas)
    used = points_off_the_mouth(both.points.mean(0))
    flat = both.points[:, used, :2].reshape(len(both.points), -1)
    mean, errors = flat.mean(0), both.errors[:, used].reshape(len(flat), -1)
    codes = principal_axes(errors, ERROR_CODES)
    up = both.points[:, 152] - both.points[:, 10]
    refiner = FaceRefiner(
        model="anny", used=used, mean_points=mean, axes=principal_axes(flat - mean, components),
        mean_pitch=float(np.arctan2(up[:, 2], up[:, 1]).mean()), weights=np.zeros((0, 0)), error_components=codes,
        mirror_betas=mirror_betas, covariance=np.eye(len(mirror_betas)),
    )  # fmt: skip
    design = refiner.design(both.points)
    penalty = np.full(design.shape[1], len(design) * noise**2)
    penalty[components:] = 1e-3 * len(design)  # pose terms have no such noise, only too few faces
    answer = np.concatenate([both.betas, errors @ codes.T], axis=1)
    return replace(refiner, weights=np.linalg.solve(design.T @ design + np.diag(penalty), design.T @ answer))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("faces", nargs="+", type=Path)
    parser.add_argument("--components", type=int, default=150)
    parser.add_argument("--noise", type=float, default=0.02)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    faces, mirror = load_faces(args.faces), mirrored_identity(load_head())
    print(f"{len(faces.betas)} faces")
    order = np.random.default_rng(0).permutation(len(faces.betas))
    left, before, after = [], [], []
    for part in np.array_split(order, FOLDS):
        refiner = fit_refiner(faces.take(np.setdiff1d(order, part)), mirror, args.components, args.noise)
        corrections, betas = refiner.predict(faces.points[part])
        left.append(betas - faces.betas[part])
        before.append(faces.errors[part])
        after.append(faces.errors[part] - corrections)
    left = np.concatenate(left)
    covariance = left.T @ left / len(left)
    # No direction may be known worse than the population knows it; the faces' own scatter says what that is.
    population = faces.betas.T @ faces.betas / len(faces.betas)
    root = np.linalg.cholesky(population)
    relative = np.linalg.solve(root, np.linalg.solve(root, covariance).T)
    values, axes = np.linalg.eigh((relative + relative.T) / 2)
    covariance = (axes * np.minimum(values, 1.0)) @ axes.T
    print(f"identity: variance left {np.trace(covariance) / len(covariance):.3f}, best {values[:8].round(2)}")
    print(f"points: error {100 * np.sqrt(np.mean(np.concatenate(before) ** 2)):.2f} % of the eye distance, "
          f"{100 * np.sqrt(np.mean(np.concatenate(after) ** 2)):.2f} % after correction")  # fmt: skip
    refiner = replace(fit_refiner(faces, mirror, args.components, args.noise), covariance=covariance)
    half = {
        name: getattr(refiner, name).astype(np.float16)
        for name in ("axes", "weights", "error_components", "mirror_betas")
    }
    np.savez_compressed(
        args.out, model="anny", used=refiner.used.astype(np.int16), mean_pitch=refiner.mean_pitch,
        mean_points=refiner.mean_points.astype(np.float32),
        covariance=covariance.astype(np.float32), **half,
    )  # fmt: skip
    print(f"wrote {args.out} ({args.out.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    main()
