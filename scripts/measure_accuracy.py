"""Likeness in millimetres: photos with exact truth, reconstructed, scored by the NoW protocol (docs/accuracy.md).

    python scripts/measure_accuracy.py --truth PATH/ict_facekit.npz [--subjects 40] [--outside-mm 1] [--rows rows.jsonl]
        [--stage landmarks] [--set key=value]... [--processes 2]

Each subject is photographed from the front and from 45 degrees and goes through `headrecon.reconstruct` (with a small
texture, which moves no vertex) or, with --stage landmarks, through the landmark stage alone. --truth anny draws from
the model's own population, where every landmark has an exact counterpart. Rows are written as they come: the same
--rows file goes on where it stopped.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: two processes share two cores

import argparse
import json
import multiprocessing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sex_axis import sex_scores

from headrecon.config import ReconstructConfig, parse_assignment, resolve
from headrecon.datasets.synthetic import SyntheticOptions, SyntheticPhoto, synthetic_photo
from headrecon.datasets.visible_surface import visible_vertices
from headrecon.errors import NoFaceFound
from headrecon.evaluation.now_protocol import IBUG68_OF_NOW
from headrecon.evaluation.scan_to_mesh import EvaluationOptions, ScanErrors, evaluate_mesh
from headrecon.geometry.cameras import project_points
from headrecon.models.head_model import HeadModel
from headrecon.models.store import load_head
from headrecon.pipeline import Engine, load_engine, reconstruct
from headrecon.structures import Cameras, HeadAssets, LandmarkEmbedding, Mesh, triangulate

VIEWS = {"front": 0.0, "45°": 45.0}
#: Parts of a truth that a scanner would see; what of them is hidden is left out as well.
#: What does not change the face's shape is left out.
GEOMETRY: dict[str, Any] = {"hair.lift": False, "texture.detail": "sketch", "texture.size": 64}
STAGES: dict[str, dict[str, Any]] = {"all": {}, "landmarks": {"fit.dense": False}}
SCANNED = ("skin", "mouth", "leye", "reye")
#: Of the 68 points those that mean the same place on every model: nose, eyes, mouth (jaw and brows do not).
INNER = slice(27, 68)
SCORING = EvaluationOptions(align_points=4000)
#: Points of a scan, spread evenly over what a scanner sees: a model's own vertices crowd at eyes and lips.
SCAN_POINTS = 12_000
NO_FACES = np.zeros((0, 3), np.int64)
KINDS = ("metric", "scale_free", "average_metric", "average_scale_free")


@dataclass
class Row:
    """One photo. The four kinds: median, mean and deviation in mm of the result and of the average head.

    truth_percent: rms distance in the picture between the fitted head's points and the truth's, in % of the distance
    between the outer eye corners; detector_percent: the same between the fitted head and the detected points.
    """

    seed: int
    view: str
    tone: int
    sex: float
    found: bool
    seconds: float = 0.0
    truth_percent: float = float("nan")
    detector_percent: float = float("nan")
    errors: dict[str, tuple[float, float, float]] = field(default_factory=dict)


def on_surface(vertices: np.ndarray, embedding: LandmarkEmbedding) -> np.ndarray:
    return (vertices[embedding.vertex_ids] * embedding.barycentrics[..., None]).sum(1)


def scan_points(assets: HeadAssets, count: int = SCAN_POINTS) -> LandmarkEmbedding:
    """Random places on the visible skin, eyes and mouth of the mean head, as many per area everywhere."""
    triangles = triangulate(assets.faces[assets.faces_of(*SCANNED)])[0]
    triangles = triangles[visible_vertices(assets.v_template, triangles)[triangles].all(1)]
    corners = assets.v_template[triangles].astype(np.float64)
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    rng = np.random.default_rng(0)
    chosen = rng.choice(len(triangles), count, p=area / area.sum())
    return LandmarkEmbedding(triangles[np.sort(chosen)], rng.dirichlet([1.0, 1.0, 1.0], count))


def now_points(assets: HeadAssets, vertices: np.ndarray) -> np.ndarray:
    return on_surface(vertices, assets.landmarks["ibug68"])[list(IBUG68_OF_NOW)]


def three(errors: ScanErrors) -> tuple[float, float, float]:
    return errors.median_mm, errors.mean_mm, errors.std_mm


@dataclass(frozen=True)
class Settings:
    truth: str
    stage: str
    outside_mm: float
    expressions: float
    settings: dict[str, Any]


class Bench:
    """What one process keeps: the truth's model, the engine, which vertices a scanner would see."""

    def __init__(self, options: Settings) -> None:
        self.options = options
        self.truth = load_head(options.truth)
        self.config: ReconstructConfig = resolve(overrides=GEOMETRY | STAGES[options.stage] | options.settings)
        self.engine: Engine = load_engine(self.config)
        self.model, self.own = HeadModel(self.truth), HeadModel(self.engine.assets)
        self.scanned = scan_points(self.truth)
        self.sexes = sex_scores(self.truth, self.engine.assets)

    def photo(self, seed: int, view: str) -> SyntheticPhoto:
        yaw = VIEWS[view] * (1 if seed % 2 else -1)
        options = SyntheticOptions(
            turn=(0.0, yaw, 0.0), yaw=4.0, pitch=5.0, roll=4.0, expressions=self.options.expressions,
            outside_mm=self.options.outside_mm, tone=seed % 6,
        )  # fmt: skip
        return synthetic_photo(self.truth, seed, options, self.model)

    def score(self, vertices: np.ndarray, scan: np.ndarray, prefix: str = "") -> dict[str, tuple[float, float, float]]:
        seen, a = on_surface(scan, self.scanned), self.engine.assets
        marks = now_points(a, vertices), now_points(self.truth, scan)
        found = evaluate_mesh(Mesh(vertices, a.faces), marks[0], Mesh(seen, NO_FACES), marks[1], SCORING)
        return {f"{prefix}metric": three(found.metric), f"{prefix}scale_free": three(found.scale_free)}

    @torch.no_grad()
    def fitted(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray, Cameras, np.ndarray]:
        """Neutral and posed vertices, camera, detected points."""
        result = reconstruct(image, self.config, engine=self.engine)
        return result.neutral, result.posed, result.cameras, result.observation.landmarks

    def subject(self, seed: int) -> list[Row]:
        import time

        rows: list[Row] = []
        average: dict[str, tuple[float, float, float]] = {}
        for view in VIEWS:
            photo = self.photo(seed, view)
            if not average:
                average = self.score(self.engine.assets.v_template, photo.neutral, "average_")
            row = Row(seed, view, photo.skin_tone, float(photo.params.betas[0].numpy() @ self.sexes), True)
            began = time.perf_counter()
            try:
                neutral, posed, cameras, detected = self.fitted(photo.image_srgb)
            except NoFaceFound:
                row.found = False
                rows.append(row)
                continue
            row.seconds = time.perf_counter() - began
            row.errors = self.score(neutral, photo.neutral) | average
            row.truth_percent, row.detector_percent = self.overlay(photo, posed, cameras, detected)
            rows.append(row)
        return rows

    def overlay(
        self, photo: SyntheticPhoto, posed: np.ndarray, cameras: Cameras, detected: np.ndarray
    ) -> tuple[float, float]:
        own = self.engine.assets
        name, part = ("mediapipe478", slice(0, 468)) if self.truth.name == own.name else ("ibug68", INNER)
        ours = pixels(on_surface(posed, own.landmarks[name])[part], cameras)
        theirs = pixels(on_surface(photo.posed, self.truth.landmarks[name])[part], photo.cameras)
        eyes = pixels(now_points(self.truth, photo.posed)[[0, 3]], photo.cameras)
        unit = float(np.linalg.norm(eyes[0] - eyes[1]))
        mesh = pixels(on_surface(posed, own.landmarks["mediapipe478"])[:468], cameras)
        return 100 * rms(ours - theirs) / unit, 100 * rms(mesh - detected[:468, :2]) / unit


def pixels(points: np.ndarray, cameras: Cameras) -> np.ndarray:
    viewmat, k = cameras.viewmats.reshape(-1, 4, 4)[0], cameras.Ks.reshape(-1, 3, 3)[0]
    found, _ = project_points(torch.from_numpy(points.astype(np.float32)), Cameras(viewmat, k, 1, 1))
    return found.reshape(-1, 2).numpy()


def rms(differences: np.ndarray) -> float:
    return float(np.sqrt((differences**2).sum(1).mean()))


_bench: Bench | None = None


def _start(options: Settings) -> None:
    global _bench  # noqa: PLW0603 - one per worker process
    torch.set_num_threads(1)
    _bench = Bench(options)


def _subject(seed: int) -> list[dict[str, Any]]:
    assert _bench is not None
    return [asdict(row) for row in _bench.subject(seed)]


def table(rows: list[dict[str, Any]]) -> str:
    """Means over photos of each photo's median, mean and deviation, by group, beside the average head's."""
    head = (
        "photos", "metric: median", "mean", "std", "scale-free: median", "mean", "std",
        "average head: metric", "scale-free", "below it: metric", "scale-free", "overlay against truth", "detector",
    )  # fmt: skip
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    good = [r for r in rows if r["found"]]
    groups = {"all": good} | {view: [r for r in good if r["view"] == view] for view in VIEWS}
    groups |= {f"skin tone {t + 1}": [r for r in good if r["tone"] == t] for t in range(6)}
    groups |= {"male*": [r for r in good if r["sex"] > 0], "female*": [r for r in good if r["sex"] <= 0]}
    for name, group in groups.items():
        if group:
            lines.append(_line(name, group))
    lines.append(f"\nfaces found: {len(good)} of {len(rows)}; * by the shape's place on the model's own sex axis")
    return "\n".join(lines)


def _line(name: str, group: list[dict[str, Any]]) -> str:
    m, s, am, af = (np.mean([r["errors"][kind] for r in group], 0) for kind in KINDS)
    below = [f"{100 * (1 - ours[0] / theirs[0]):.0f} %" for ours, theirs in ((m, am), (s, af))]
    overlay = [f"{np.nanmedian([r[key] for r in group]):.1f} %" for key in ("truth_percent", "detector_percent")]
    cells = [*(f"{x:.2f}" for x in (*m, *s, am[0], af[0])), *below, *overlay]
    return f"| {name} ({len(group)}) | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--truth", required=True, help="ICT-FaceKit's packed .npz or directory, or anny")
    parser.add_argument("--subjects", type=int, default=40)
    parser.add_argument("--first-seed", type=int, default=500)
    parser.add_argument("--outside-mm", type=float, default=0.0, help="rms of what no identity mode can express")
    parser.add_argument("--expressions", type=float, default=1.0, help="mean count of expression shapes at once")
    parser.add_argument("--stage", choices=("all", "landmarks"), default="all")
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="KEY=VALUE")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rows", type=Path, help="JSON lines, one a photo; what is there already is not done again")
    args = parser.parse_args()
    settings = Settings(
        args.truth, args.stage, args.outside_mm, args.expressions, dict(parse_assignment(t) for t in args.settings)
    )
    rows = [json.loads(line) for line in args.rows.read_text().splitlines()] if args.rows and args.rows.exists() else []
    done = {r["seed"] for r in rows}
    todo = [s for s in range(args.first_seed, args.first_seed + args.subjects) if s not in done]
    context = multiprocessing.get_context("spawn")
    with context.Pool(min(args.processes, max(len(todo), 1)), _start, (settings,)) as pool:
        for found in pool.imap_unordered(_subject, todo):
            rows += found
            if args.rows:
                with args.rows.open("a") as stream:
                    stream.writelines(json.dumps(row) + "\n" for row in found)
    print(table(rows))


if __name__ == "__main__":
    main()
