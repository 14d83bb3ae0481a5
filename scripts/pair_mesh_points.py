"""Find which of the 478 face points are mirror images of each other: the table in perception/mesh_symmetry.py.

    python scripts/pair_mesh_points.py PHOTO...

The points of each photo and of its mirror image are averaged over small changes of the region; the pairing is the one
with the least squared distance over all photos. Four or more different faces give an unambiguous answer.
"""

from __future__ import annotations

import argparse
import math
import textwrap
from pathlib import Path

import numpy as np
from scipy.optimize import linear_sum_assignment

from headrecon.io.images import load_image
from headrecon.perception.attention_mesh import MESH_POINTS
from headrecon.perception.crops import Roi, Tile
from headrecon.perception.face_detection import detect_faces
from headrecon.perception.face_landmarks import read_face
from headrecon.perception.networks import Networks, load_networks

LOOKS = 20


def costs(image: np.ndarray, networks: Networks, rng: np.random.Generator) -> np.ndarray:
    """Squared distances [478,478] between the points of a photo and those of its mirror image, in region sides."""
    network = networks.face_mesh
    roi = read_face(image, detect_faces(image, networks)[0], network).roi
    tile = Tile(image, roi, network.input_size, 0.3)
    plain, mirrored = [], []
    for _ in range(LOOKS):
        dx, dy = rng.normal(scale=0.02 * roi.size, size=2)
        size = roi.size * math.exp(rng.normal(scale=0.04))
        look = Roi(roi.center_x + dx, roi.center_y + dy, size, roi.angle_rad + rng.normal(scale=0.05))
        plain.append(look.to_image(network(tile.sample(look, network.input_size))[0]))
        seen = network(tile.sample(look, network.input_size, mirror=True))[0]
        seen[:, 0] = 1.0 - seen[:, 0]
        mirrored.append(look.to_image(seen))
    difference = np.mean(plain, axis=0)[:, None] - np.mean(mirrored, axis=0)[None]
    return (difference**2).sum(-1) / roi.size**2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, nargs="+")
    photos = parser.parse_args().photos
    networks, rng = load_networks(), np.random.default_rng(0)
    total = np.sum([costs(load_image(photo).image_srgb, networks, rng) for photo in photos], axis=0)
    order = np.arange(478)
    for part in (slice(0, MESH_POINTS), slice(MESH_POINTS, 478)):  # an iris point never pairs with one of the mesh
        order[part] = linear_sum_assignment(total[part, part])[1] + part.start
    if not (order[order] == np.arange(478)).all():
        raise SystemExit("the pairing is not its own inverse; give more photos")
    pairs = [f"{a}:{b}" for a, b in enumerate(order) if a < b]
    print(textwrap.fill(" ".join(pairs), 110))
    print(f"{len(pairs)} pairs, {(order == np.arange(478)).sum()} points on the midline")


if __name__ == "__main__":
    main()
