"""Several photos of one person against exact truth: other cameras, light, pose, expression in each (docs/accuracy.md).

    python scripts/measure_photos.py --truth PATH/ict_facekit.npz [--subjects 6] [--photos 7] [--set key=value]...

Nothing is known of the cameras, lenses differ, and the photos are of different moments; `measure_multiview.py` has
photos of one moment. Prints median distances from scan to mesh of the head from the first (frontal) photo and from all.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

import argparse
import time

import numpy as np
from measure_accuracy import GEOMETRY, Bench, Settings

from headrecon.config import parse_assignment
from headrecon.datasets.synthetic import SyntheticOptions, synthetic_photo
from headrecon.pipeline import reconstruct

#: Yaw about which each photo varies; the detector finds few faces that are turned further.
YAWS = (0.0, -45.0, 45.0, -20.0, 25.0, -60.0, 60.0)


def photographs(bench: Bench, seed: int, count: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Photos of one person, and the true neutral head."""
    out, neutral = [], np.zeros(0)
    for shot in range(count):
        options = SyntheticOptions(
            size=1024, turn=(0.0, YAWS[shot % len(YAWS)], 0.0), yaw=6.0, pitch=8.0, roll=6.0, expressions=1.5,
            tone=seed % 6, outside_mm=bench.options.outside_mm, shot=shot,
        )  # fmt: skip
        photo = synthetic_photo(bench.truth, seed, options, bench.model)
        out.append(photo.image_srgb)
        neutral = photo.neutral
    return out, neutral


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--truth", required=True, help="ICT-FaceKit's packed .npz or directory, or anny")
    parser.add_argument("--subjects", type=int, default=6)
    parser.add_argument("--first-seed", type=int, default=700)
    parser.add_argument("--photos", type=int, default=7)
    parser.add_argument("--outside-mm", type=float, default=1.0)
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="KEY=VALUE")
    args = parser.parse_args()
    changes = dict(parse_assignment(text) for text in args.settings)
    bench = Bench(Settings(args.truth, "all", args.outside_mm, 1.5, GEOMETRY | changes))
    rows = []
    for seed in range(args.first_seed, args.first_seed + args.subjects):
        photos, truth = photographs(bench, seed, args.photos)
        row, used = [], 0
        for images in (photos[:1], photos):
            began = time.process_time()
            result = reconstruct(images, bench.config, engine=bench.engine)
            found, used = bench.score(result.neutral, truth), len(result.photos)
            row += [found["metric"][0], found["scale_free"][0], time.process_time() - began]
        rows.append(row)
        print(f"{seed}: {used} of {len(photos)} photos used;", np.round(row, 2), flush=True)
    head = "| photos | metric, mm | scale-free, mm | processor time, s |\n|---|---|---|---|"
    one, many = np.split(np.mean(rows, axis=0), 2)
    print(head)
    for name, figures in (("1", one), (str(args.photos), many)):
        print(f"| {name} | {figures[0]:.2f} | {figures[1]:.2f} | {figures[2]:.1f} |")


if __name__ == "__main__":
    main()
