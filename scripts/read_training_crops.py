"""Shows rendered crops (scripts/render_training_crops.py) to the mesh and the recognition network: points and features.

    python scripts/read_training_crops.py PREFIX... [--both-looks]

The region is not the true one: a first look at a shaken region, a second (in the mirror) where the first one's points
put it, as with photos; the features are those of a third look where the mean of both puts it, shaken a little, half of
them in the mirror. With `--both-looks` (for validation) there are two, plain and mirrored, not shaken.
Output: PREFIX.seen.npz with points [N,478,3] (pixels of the crop, never mirrored), presence [N] and, for L = N or 2 N
looks, mirrored [L] and summary [L,1792]; PREFIX.middle.npy [L,24,24,64] and PREFIX.deep.npy [L,12,12,128], float16;
the same of the recognition network: PREFIX.known_middle.npy [L,8,8,128] and PREFIX.known_deep.npy [L,4,4,256].
"""

from __future__ import annotations

import argparse
import zlib

import numpy as np

from headrecon.perception.attention_mesh import AttentionMesh, MeshFeatures
from headrecon.perception.crops import Roi, Tile
from headrecon.perception.face_identity import chip_at
from headrecon.perception.face_landmarks import roi_from_landmarks
from headrecon.perception.mesh_symmetry import mirror_indices
from headrecon.perception.networks import load_networks
from headrecon.perception.recognition_network import RecognitionNetwork, load_recognition_network

_MARGIN = 0.1


def shaken(rng: np.random.Generator, roi: Roi, amount: float) -> Roi:
    shift = amount * roi.size * rng.normal(size=2)
    size, turn = roi.size * np.exp(2 * amount * rng.normal()), roi.angle_rad + 3 * amount * rng.normal()
    return Roi(roi.center_x + float(shift[0]), roi.center_y + float(shift[1]), float(size), float(turn))


def points_of(crop: np.ndarray, mesh: AttentionMesh, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    side = crop.shape[0]
    roi = shaken(rng, Roi(side / 2, side / 2, side), 0.02)
    first, presence = mesh(Tile(crop, roi, mesh.input_size, _MARGIN).sample(roi, mesh.input_size))
    first = roi.to_image(first)
    roi = roi_from_landmarks(first)
    second, again = mesh(Tile(crop, roi, mesh.input_size, _MARGIN).sample(roi, mesh.input_size, mirror=True))
    second = second[mirror_indices()]
    second[:, 0] = 1 - second[:, 0]
    return (first + roi.to_image(second)) / 2, (presence + again) / 2


def features_of(crop: np.ndarray, mesh: AttentionMesh, roi: Roi, mirror: bool) -> MeshFeatures:
    return mesh.features(Tile(crop, roi, mesh.input_size, _MARGIN).sample(roi, mesh.input_size, mirror))


def read(prefix: str, mesh: AttentionMesh, recognition: RecognitionNetwork, both: bool) -> None:
    crops = np.load(f"{prefix}.crops.npy", mmap_mode="r")
    rng = np.random.default_rng([9, zlib.crc32(prefix.encode())])
    count = len(crops) * (2 if both else 1)
    mirrored = np.arange(count) % 2 == 1 if both else rng.random(count) < 0.5
    middle, deep = np.empty((count, 24, 24, 64), np.float16), np.empty((count, 12, 12, 128), np.float16)
    known_middle, known_deep = np.empty((count, 8, 8, 128), np.float16), np.empty((count, 4, 4, 256), np.float16)
    summary = np.empty((count, 1792), np.float16)
    points, presence = np.empty((len(crops), 478, 3), np.float32), np.empty(len(crops), np.float32)
    for k in range(len(crops)):
        crop = np.ascontiguousarray(crops[k])
        points[k], presence[k] = points_of(crop, mesh, rng)
        region = roi_from_landmarks(points[k].astype(np.float64))
        for row in (2 * k, 2 * k + 1) if both else (k,):
            roi = region if both else shaken(rng, region, 0.008)
            seen = features_of(crop, mesh, roi, bool(mirrored[row]))
            middle[row], deep[row], summary[row] = seen.middle, seen.deep, seen.summary
            chip = chip_at(crop, points[k])
            known = recognition((chip[:, ::-1] if mirrored[row] else chip)[None])
            known_middle[row], known_deep[row] = known.middle[0], known.deep[0]
    maps = {"middle": middle, "deep": deep, "known_middle": known_middle, "known_deep": known_deep}
    for name, values in maps.items():
        np.save(f"{prefix}.{name}.npy", values)
    np.savez(f"{prefix}.seen.npz", points=points, presence=presence, mirrored=mirrored, summary=summary)
    print(f"{prefix}: {len(crops)} faces, {(presence > 0.5).mean():.1%} taken for one")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("prefixes", nargs="+")
    parser.add_argument("--both-looks", action="store_true")
    args = parser.parse_args()
    mesh, recognition = load_networks(num_threads=1).face_mesh, load_recognition_network()
    for prefix in args.prefixes:
        read(prefix, mesh, recognition, args.both_looks)


if __name__ == "__main__":
    main()
