"""Prints the tables of docs/accuracy.md on likeness: photos with exact truth, reconstructed, scored by the NoW protocol.

python scripts/measure_accuracy.py --ict PATH [--subjects 40] [--stage landmarks] [--set key=value] [--processes 2]
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: two processes share two cores

import argparse
import json
import multiprocessing
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from headrecon.config import ReconstructConfig, parse_assignment, resolve
from headrecon.datasets.synthetic import SyntheticOptions, synthetic_photo
from headrecon.datasets.visible_surface import visible_vertices
from headrecon.errors import NoFaceFound
from headrecon.evaluation.now_protocol import IBUG68_OF_NOW
from headrecon.evaluation.scan_to_mesh import MeshScore, evaluate_mesh
from headrecon.fitting.photo import CameraHint
from headrecon.models.head_model import HeadModel
from headrecon.models.store import load_head
from headrecon.perception.faces import choose_face, observe_faces
from headrecon.pipeline import Engine, load_engine, reconstruct
from headrecon.structures import HeadAssets, LandmarkEmbedding, Mesh, triangulate

VIEWS = {"front": 0.0, "45°": 45.0}
SCANNED = ("skin", "mouth", "leye", "reye")


@dataclass(frozen=True)
class Row:
    """One photo: median, mean and deviation of its errors in mm, for the result and for the average head."""

    seed: int
    view: str
    tone: int
    found: bool
    metric: tuple[float, float, float]
    scale_free: tuple[float, float, float]
    mean_metric: tuple[float, float, float]
    mean_scale_free: tuple[float, float, float]
    overlay_percent: float


def points(vertices: np.ndarray, embedding: LandmarkEmbedding) -> np.ndarray:
    return (vertices[embedding.vertex_ids] * embedding.barycentrics[..., None]).sum(1)


def now_points(assets: HeadAssets, vertices: np.ndarray) -> np.ndarray:
    return points(vertices, assets.landmarks["ibug68"])[list(IBUG68_OF_NOW)]


class Bench:
    """What one process keeps: models, engine, who is visible."""

    def __init__(self, ict: str, settings: dict, stage: str) -> None:
        self.truth = load_head(ict)
        self.config: ReconstructConfig = resolve(overrides={"texture.size": 64, **settings})
        self.engine: Engine = load_engine(self.config)
        self.stage = stage
        self.model, self.own = HeadModel(self.truth), HeadModel(self.engine.assets)
        faces = self.truth.faces[self.truth.faces_of(*SCANNED)]
        self.visible = visible_vertices(self.truth.v_template, triangulate(faces)[0])

    def score(self, vertices: np.ndarray, scan: np.ndarray) -> MeshScore:
        seen = np.where(self.visible[:, None], scan, np.nan)
        a = self.engine.assets
        return evaluate_mesh(
            Mesh(vertices, a.faces), now_points(a, vertices), Mesh(seen, self.truth.faces), now_points(self.truth, scan)
        )

    def fitted(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Neutral vertices and the fitted 478 points in pixels."""
        if self.stage == "landmarks":
            seen, _ = choose_face(observe_faces(image, self.engine.networks), None)
            fit = self.engine.fitter.fit(seen, CameraHint())
            return self.own(fit.params.neutral()).vertices[0].numpy(), seen.landmarks
        result = reconstruct(image, self.config, engine=self.engine)
        return result.neutral, result.observation.landmarks

    def run(self, job: tuple[int, str]) -> Row:
        seed, view = job
        yaw = VIEWS[view] * (1 if seed % 2 else -1)
        options = SyntheticOptions(size=640, turn=(0.0, yaw, 0.0), yaw=4.0, pitch=5.0, roll=4.0, expressions=1.0)
        photo = synthetic_photo(self.truth, seed, options, self.model)
        average = self.score(self.engine.assets.v_template, photo.neutral)
        try:
            neutral, _ = self.fitted(photo.image_srgb)
        except NoFaceFound:
            neutral = None
        score = average if neutral is None else self.score(neutral, photo.neutral)
        three = [
            (e.median_mm, e.mean_mm, e.std_mm)
            for e in (score.metric, score.scale_free, average.metric, average.scale_free)
        ]
        return Row(seed, view, photo.skin_tone, neutral is not None, *three, float("nan"))


_bench: Bench | None = None


def _start(ict: str, settings: dict, stage: str) -> None:
    global _bench  # noqa: PLW0603 - one per worker process
    _bench = Bench(ict, settings, stage)


def _run(job: tuple[int, str]) -> Row:
    assert _bench is not None
    return _bench.run(job)


def table(rows: list[Row]) -> str:
    lines = ["| photos | metric median | mean | std | scale-free median | mean | std | average head metric / scale-free | below it |"]
    lines.append("|---|" + "---|" * 8)
    groups = {"all": rows} | {v: [r for r in rows if r.view == v] for v in VIEWS}
    groups |= {f"tone {t + 1}": [r for r in rows if r.tone == t] for t in range(6)}
    for name, group in groups.items():
        if not group:
            continue
        m, s, am, as_ = (np.mean([getattr(r, k) for r in group], 0) for k in ("metric", "scale_free", "mean_metric", "mean_scale_free"))
        below = f"{100 * (1 - m[0] / am[0]):.0f} % / {100 * (1 - s[0] / as_[0]):.0f} %"
        cells = [f"{x:.2f}" for x in (*m, *s)]
        lines.append(f"| {name} ({len(group)}) | {' | '.join(cells)} | {am[0]:.2f} / {as_[0]:.2f} | {below} |")
    lines.append(f"\nfaces found: {sum(r.found for r in rows)} of {len(rows)}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--ict", required=True)
    parser.add_argument("--subjects", type=int, default=40)
    parser.add_argument("--first-seed", type=int, default=500)
    parser.add_argument("--stage", choices=("all", "landmarks"), default="all")
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    settings = dict(parse_assignment(text) for text in options.settings)
    jobs = [(s, v) for s in range(options.first_seed, options.first_seed + options.subjects) for v in VIEWS]
    context = multiprocessing.get_context("spawn")
    with context.Pool(options.processes, _start, (options.ict, settings, options.stage)) as pool:
        rows = pool.map(_run, jobs, chunksize=1)
    if options.json:
        options.json.write_text(json.dumps([asdict(r) for r in rows]))
    print(table(rows))


if __name__ == "__main__":
    main()
