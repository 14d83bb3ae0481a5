"""Several photos of one moment, rendered with truth, made to one head: scored before and after the multi-view stage.

    python scripts/measure_multiview.py --truth PATH/ict_facekit.npz [--subjects 10] [--cameras unknown]
    python scripts/measure_multiview.py --scan head.obj --colours colours.jpg [--cameras unknown] [--picture heat.png]

Seven views at 1024 x 1024 (yaw 0, 25, 50 degrees to both sides, 20 up and down; `datasets.camera_ring`). What is scored
is the head as it was photographed (expression included) against the truth as it was rendered, by the NoW protocol; of a
scan, only vertices that can be seen from outside. --marks-px moves every detected point at random.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from measure_accuracy import NO_FACES, SCANNED, SCORING, now_points, on_surface, scan_points
from measure_scan import points_by_looking

from headrecon.config import resolve
from headrecon.datasets.camera_ring import RingOptions, RingPhotos, ring_of_person, ring_of_scan
from headrecon.datasets.synthetic import SyntheticOptions, synthetic_photo
from headrecon.datasets.textured_scan import upright_scan
from headrecon.datasets.visible_surface import visible_vertices
from headrecon.errors import NoFaceFound
from headrecon.evaluation.heat_map import heat_map
from headrecon.evaluation.scan_to_mesh import EvaluationOptions, MeshScore, evaluate_mesh
from headrecon.fitting.multiview.refine import MultiviewFitter
from headrecon.fitting.multiview.views import PosedView, Views
from headrecon.fitting.rig import Rig
from headrecon.io.images import load_image, save_png
from headrecon.io.meshes.loaded import read_mesh
from headrecon.models.head_model import HeadModel
from headrecon.models.store import load_head
from headrecon.perception.faces import choose_face, observe_faces
from headrecon.perception.person_mask import person_mask
from headrecon.pipeline import Engine, load_engine
from headrecon.structures import Cameras, FaceObservation, HeadAssets, Mesh


@dataclass(frozen=True)
class Subject:
    """Photos, and how a head in the model's topology is scored against what was photographed."""

    name: str
    ring: RingPhotos
    score: Callable[[np.ndarray], MeshScore]
    truth: Mesh
    landmarks: np.ndarray


@dataclass(frozen=True)
class Seen:
    """The photos in which a face was found, by number."""

    ids: list[int]
    faces: list[FaceObservation]
    masks: list[np.ndarray]


def people(truth: HeadAssets, own: HeadAssets, args: argparse.Namespace) -> Iterator[Subject]:
    model, scanned = HeadModel(truth), scan_points(truth)
    for seed in range(args.first_seed, args.first_seed + args.subjects):
        options = SyntheticOptions(
            size=64, supersample=1, yaw=4.0, pitch=4.0, roll=3.0, expressions=1.0, tone=seed % 6, hair=args.hair,
            texture_size=1536, outside_mm=args.outside_mm,
        )  # fmt: skip
        person = synthetic_photo(truth, seed, options, model)
        posed, marks = person.posed, now_points(truth, person.posed)

        def score(vertices: np.ndarray, posed: np.ndarray = posed, marks: np.ndarray = marks) -> MeshScore:
            scan = Mesh(on_surface(posed, scanned), NO_FACES)
            return evaluate_mesh(Mesh(vertices, own.faces), now_points(own, vertices), scan, marks, SCORING)

        ring = ring_of_person(person, truth, seed, ring_options(args))
        surface = Mesh(posed, truth.faces[truth.faces_of(*SCANNED)])
        yield Subject(f"person {seed}", ring, score, surface, marks)


def scan_subject(engine: Engine, args: argparse.Namespace) -> Subject:
    mesh, texture = read_mesh(args.scan).mesh, load_image(args.colours).image_srgb
    scan = upright_scan(mesh, texture, points_by_looking(mesh, texture, engine.networks))
    seen = Mesh(scan.mesh.vertices[visible_vertices(scan.mesh.vertices, scan.mesh.triangles)], NO_FACES)
    own = engine.assets

    def score(vertices: np.ndarray) -> MeshScore:
        marks = now_points(own, vertices)
        return evaluate_mesh(Mesh(vertices, own.faces), marks, seen, scan.landmarks, EvaluationOptions("m"))

    ring = ring_of_scan(scan, args.first_seed, ring_options(args))
    return Subject("scan", ring, score, seen, scan.landmarks)


def ring_options(args: argparse.Namespace) -> RingOptions:
    return RingOptions(size=args.size, same_light=not args.own_lights)


def look(engine: Engine, ring: RingPhotos, marks_px: float) -> Seen:
    seen, rng = Seen([], [], []), np.random.default_rng(0)
    for i, image in enumerate(ring.images_srgb):
        try:
            face, _ = choose_face(observe_faces(image, engine.networks), None)
        except NoFaceFound:
            continue
        seen.ids.append(i)
        seen.masks.append(person_mask(image, engine.networks, face))
        face = engine.refined(face, image) or face
        points = face.landmarks.copy()
        points[:, :2] += marks_px * rng.standard_normal(points[:, :2].shape).astype(points.dtype)
        seen.faces.append(replace(face, landmarks=points))
    return seen


def joint_fit(engine: Engine, ring: RingPhotos, seen: Seen, known: bool) -> Views:
    rig = Rig(ring.cameras.viewmats[seen.ids], ring.cameras.Ks[seen.ids]) if known else None
    fit = engine.fitter.fit(seen.faces, rig=rig)
    views = [
        PosedView(ring.images_srgb[i], one(fit.pinholes[k]), fit.flat[k], seen.masks[k]) for k, i in enumerate(seen.ids)
    ]
    return Views.of(views, engine.assets.num_betas, known, known)


def one(camera: Cameras) -> Cameras:
    return replace(camera, viewmats=np.asarray(camera.viewmats, float), Ks=np.asarray(camera.Ks, float))


def error_picture(subject: Subject, own: HeadAssets, vertices: np.ndarray, cell: int = 420) -> np.ndarray:
    """Where a head errs, up to 2 mm, by the vertices of the truth that show (scores may be of other points)."""
    head, truth = Mesh(vertices, own.faces), subject.truth
    if len(truth.faces):
        shown = visible_vertices(truth.vertices, truth.triangles)
        truth = replace(truth, vertices=np.where(shown[:, None], truth.vertices, np.nan))
    score = evaluate_mesh(head, now_points(own, vertices), truth, subject.landmarks, EvaluationOptions("m"))
    return heat_map(truth, head, subject.landmarks, score, score.metric, cell=cell, top_mm=2.0)


def line(name: str, found: MeshScore) -> str:
    cells = [f"{x:.3f}" for e in (found.metric, found.scale_free) for x in (e.median_mm, e.mean_mm, e.std_mm)]
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--truth", help="ICT-FaceKit's packed .npz or directory")
    parser.add_argument("--scan", type=Path)
    parser.add_argument("--colours", type=Path)
    parser.add_argument("--subjects", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=950)
    parser.add_argument("--cameras", choices=("known", "unknown"), default="known")
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--hair", action="store_true", help="on the synthetic people's heads")
    parser.add_argument("--outside-mm", type=float, default=0.0, help="rms of what no identity mode can express")
    parser.add_argument("--own-lights", action="store_true", help="every photo in a light of its own")
    parser.add_argument("--marks-px", type=float, default=0.0, help="noise added to the detected points")
    parser.add_argument("--picture", type=Path, help="where the last subject's errors lie (metric)")
    args = parser.parse_args()
    engine = load_engine(resolve())
    fitter = MultiviewFitter(engine.assets)
    subjects = [scan_subject(engine, args)] if args.scan else people(load_head(args.truth), engine.assets, args)
    medians = []
    print("| | metric: median | mean | std | scale-free: median | mean | std |\n|---|---|---|---|---|---|---|")
    for subject in subjects:
        views = joint_fit(engine, subject.ring, look(engine, subject.ring, args.marks_px), args.cameras == "known")
        before = subject.score(fitter.surface.posed(views.views[0].params, None))
        began = time.perf_counter()
        fit = fitter.refine(views)
        seconds = time.perf_counter() - began
        after = subject.score(fitter.surface.posed(fit.params[0], fit.offsets))
        print(line(f"{subject.name}, {len(views)} photos, joint fit", before))
        note = f"{seconds:.0f} s" if fit.accepted else fit.warnings[0]
        print(line(f"{subject.name}, refined ({note})", after), flush=True)
        medians.append([e.median_mm for m in (before, after) for e in (m.metric, m.scale_free)])
        if args.picture:
            save_png(
                args.picture, error_picture(subject, engine.assets, fitter.surface.posed(fit.params[0], fit.offsets))
            )
    mean = np.mean(medians, axis=0)
    print(f"mean of medians: joint fit {mean[0]:.3f} metric, {mean[1]:.3f} scale-free; ", end="")
    print(f"refined {mean[2]:.3f} metric, {mean[3]:.3f} scale-free")


if __name__ == "__main__":
    main()
