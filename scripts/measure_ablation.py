"""What moves the error: the fit with its parts left out one by one, on the photos of `measure_accuracy.py`.

    python scripts/measure_ablation.py --truth PATH/ict_facekit.npz [--subjects 16] [--outside-mm 1] [--rows rows.jsonl]

Each photo is looked at once; then every variant fits what was seen, and its neutral head is scored by the NoW protocol.
Geometry only: no hair, no texture. A run that was stopped goes on where it was when given the same --rows file.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: two processes share two cores

import argparse
import json
import multiprocessing
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure_accuracy import VIEWS, Bench, Settings

from headrecon.datasets.synthetic import SyntheticPhoto
from headrecon.fitting.dense.options import DenseOptions
from headrecon.fitting.dense.refine import DenseFitter, DensePhoto
from headrecon.fitting.metric_scale import MetricKnowledge
from headrecon.fitting.photo import CameraHint, LandmarkFit, LandmarkFitter
from headrecon.io.exif import FocalHint
from headrecon.models.posed_mesh import posed_vertices
from headrecon.perception.faces import choose_face, observe_faces
from headrecon.perception.person_mask import person_mask
from headrecon.structures import FaceObservation

#: How much wider than the population the prior of the row "wide" is.
WIDE = 3.0
#: A focal length that is known is known to a hundredth.
KNOWN_LOG = 0.01
AVERAGE, NETWORK = "average head", "network's estimate alone, no fit"
DETECTED, WIDE_PRIOR = "landmarks as detected", f"the same, prior {WIDE:.0f} times as wide"
POINTS, SHAPE, REFINED = "refiner's points only", "refiner's shape only", "landmarks + refiner"
OUTLINE, SHADING, ALL = "+ outline, no shading", "+ shading, no outline", "+ both: everything"
REFINED_FOCAL, ALL_FOCAL = "landmarks + refiner, focal length known", "everything, focal length known"
VARIANTS = (
    AVERAGE, DETECTED, WIDE_PRIOR, NETWORK, POINTS, SHAPE, REFINED, OUTLINE, SHADING, ALL, REFINED_FOCAL, ALL_FOCAL,
)  # fmt: skip


class Ablation(Bench):
    """What one process keeps besides what the accuracy script keeps."""

    def __init__(self, options: Settings) -> None:
        super().__init__(options)
        assets, fitter = self.engine.assets, self.engine.fitter
        # Directions three times as long under the same N(0, I): a prior three times as wide.
        self.wide = LandmarkFitter(replace(assets, shapedirs=WIDE * assets.shapedirs), fitter.options)
        self.dense = {
            OUTLINE: DenseFitter(fitter, DenseOptions(photometric=False)),
            SHADING: DenseFitter(fitter, DenseOptions(use_silhouette=False)),
            ALL: self.engine.dense,
        }

    def neutral(self, fitter: LandmarkFitter, fit: LandmarkFit) -> np.ndarray:
        still = np.zeros_like(fit.flat[0])
        betas = fit.layout.slices["betas"]
        still[betas] = fit.flat[0][betas]
        return posed_vertices(fitter.assets, fitter.models.points, still, None)

    def heads(self, photo: SyntheticPhoto) -> dict[str, np.ndarray]:
        """Neutral vertices by variant."""
        image, engine = photo.image_srgb, self.engine
        seen, _ = choose_face(observe_faces(image, engine.networks), None)
        mask = person_mask(image, engine.networks, seen)
        refined = engine.refined(seen, image)
        assert refined is not None
        assert refined.shape is not None
        assets, fitter = engine.assets, engine.fitter
        network = assets.v_template + assets.shapedirs @ refined.shape.mean.astype(assets.shapedirs.dtype)
        out = {AVERAGE: assets.v_template, NETWORK: network}

        def fit(
            name: str, face: FaceObservation, using: LandmarkFitter = fitter, hint: CameraHint | None = None
        ) -> LandmarkFit:
            found = using.fit(face, hint or CameraHint(), MetricKnowledge())
            out[name] = self.neutral(using, found)
            return found

        fit(DETECTED, seen)
        fit(WIDE_PRIOR, seen, self.wide)
        fit(POINTS, replace(refined, shape=None))
        fit(SHAPE, replace(seen, shape=refined.shape))
        start = fit(REFINED, refined)
        for name, dense in self.dense.items():
            out[name] = self._dense(dense, start, DensePhoto(image, refined, mask, CameraHint()))
        known = CameraHint(focal=FocalHint(photo.focal_px, KNOWN_LOG, "known"))
        start = fit(REFINED_FOCAL, refined, hint=known)
        out[ALL_FOCAL] = self._dense(engine.dense, start, DensePhoto(image, refined, mask, known))
        return out

    def _dense(self, dense: DenseFitter, start: LandmarkFit, photo: DensePhoto) -> np.ndarray:
        return self.neutral(dense.fitter, dense.refine(start, photo, MetricKnowledge()).fit)

    @torch.no_grad()
    def scores(self, seed: int) -> list[dict[str, Any]]:
        rows = []
        for view in VIEWS:
            photo = self.photo(seed, view)
            for name, vertices in self.heads(photo).items():
                found = self.score(vertices.astype(np.float32), photo.neutral)
                rows.append({"seed": seed, "view": view, "variant": name, **{k: v[0] for k, v in found.items()}})
        return rows


_work: Callable[[int], list[dict[str, Any]]] | None = None


def _start(options: Settings) -> None:
    global _work  # noqa: PLW0603 - one per worker process
    torch.set_num_threads(1)
    _work = Ablation(options).scores


def _scores(seed: int) -> list[dict[str, Any]]:
    assert _work is not None
    return _work(seed)


def table(rows: list[dict[str, Any]]) -> str:
    """Means over photos of each photo's median, mm; and in how many photos of each view a variant beats the average."""
    head = "| | front: scale-free | metric | 45°: scale-free | metric | both: scale-free | metric |"
    lines = [head, "|" + "---|" * 7]
    for name in VARIANTS:
        cells = []
        for views in (*((view,) for view in VIEWS), tuple(VIEWS)):
            chosen = [r for r in rows if r["variant"] == name and r["view"] in views]
            cells += (
                [f"{np.mean([r[k] for r in chosen]):.2f}" for k in ("scale_free", "metric")] if chosen else ["", ""]
            )
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, f"\npeople: {len({r['seed'] for r in rows})}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--truth", required=True, help="ICT-FaceKit's packed .npz or directory, or anny")
    parser.add_argument("--subjects", type=int, default=16)
    parser.add_argument("--first-seed", type=int, default=500)
    parser.add_argument("--outside-mm", type=float, default=0.0, help="rms of what no identity mode can express")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rows", type=Path, help="JSON lines; people that are there already are not done again")
    args = parser.parse_args()
    rows = [json.loads(line) for line in args.rows.read_text().splitlines()] if args.rows and args.rows.exists() else []
    done = {r["seed"] for r in rows}
    todo = [s for s in range(args.first_seed, args.first_seed + args.subjects) if s not in done]
    settings = Settings(args.truth, "all", args.outside_mm, 1.0, {})
    context = multiprocessing.get_context("spawn")
    with context.Pool(min(args.processes, max(len(todo), 1)), _start, (settings,)) as pool:
        for found in pool.imap_unordered(_scores, todo):
            rows += found
            if args.rows:
                with args.rows.open("a") as stream:
                    stream.writelines(json.dumps(row) + "\n" for row in found)
    print(table(rows))


if __name__ == "__main__":
    main()
