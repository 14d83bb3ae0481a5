"""Photographs a textured scan from the front and from 45 degrees, reconstructs each photo and scores it on the scan.

    python scripts/measure_scan.py --scan head.obj --colours colours.jpg [--photos 4] [--stage landmarks]
        [--mm-per-unit X] [--picture heat.png]

The scan must stand upright (+y) and face +z. Its seven landmarks are found by looking at a rendering of it: they only
start the alignment and centre the scored region, and a test shows that millimetres there do not move the score.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
from pathlib import Path

import numpy as np
import torch
from measure_accuracy import GEOMETRY, STAGES, VIEWS, now_points

from headrecon.config import ReconstructConfig, parse_assignment, resolve
from headrecon.datasets.scene import SyntheticOptions
from headrecon.datasets.textured_scan import TexturedScan, scan_photo, upright_scan
from headrecon.evaluation.heat_map import heat_map
from headrecon.evaluation.scan_to_mesh import EvaluationOptions, MeshScore, evaluate_mesh
from headrecon.io.images import load_image, save_png
from headrecon.io.meshes.loaded import read_mesh
from headrecon.perception.faces import choose_face, observe_faces
from headrecon.perception.networks import Networks
from headrecon.pipeline import Engine, load_engine, reconstruct
from headrecon.rendering.cameras_orbit import orbit_cameras
from headrecon.rendering.lighting import soft_front
from headrecon.rendering.mesh import Appearance, RenderOptions, render_mesh
from headrecon.structures import Mesh, triangulate

#: NoW's seven points among MediaPipe's 478.
MEDIAPIPE_OF_NOW = (33, 133, 362, 263, 2, 61, 291)


def points_by_looking(mesh: Mesh, texture: np.ndarray, networks: Networks) -> np.ndarray:
    """The seven points on the surface, in the mesh's unit."""
    colours = torch.from_numpy(texture.astype(np.float32) / 255)
    camera = orbit_cameras(mesh.vertices, [0.0], 900)
    size = float(np.linalg.norm(np.ptp(mesh.vertices, axis=0)))
    options = RenderOptions(lighting=soft_front(), near_z=1e-3 * size)
    seen = render_mesh(mesh, camera, Appearance(texture_srgb=colours), options)
    image = (seen.image_srgb[0].numpy() * 255).round().astype(np.uint8)
    face, _ = choose_face(observe_faces(image, networks), None)
    columns, rows = np.floor(face.landmarks[list(MEDIAPIPE_OF_NOW), :2]).astype(int).T
    index, weights = seen.face_index[0].numpy()[rows, columns], seen.barycentrics[0].numpy()[rows, columns]
    if (index < 0).any():
        raise SystemExit("a landmark was found beside the scan; does it stand upright and face +z?")
    corners = mesh.vertices[triangulate(mesh.faces)[0][index]]
    return (corners * weights[..., None]).sum(1)


def fitted(engine: Engine, config: ReconstructConfig, image: np.ndarray) -> np.ndarray:
    return reconstruct(image, config, engine=engine).neutral


def score(engine: Engine, vertices: np.ndarray, scan: TexturedScan) -> MeshScore:
    marks = now_points(engine.assets, vertices)
    return evaluate_mesh(Mesh(vertices, engine.assets.faces), marks, scan.mesh, scan.landmarks, EvaluationOptions("m"))


def line(name: str, found: MeshScore) -> str:
    cells = [f"{x:.2f}" for e in (found.metric, found.scale_free) for x in (e.median_mm, e.mean_mm, e.std_mm)]
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--scan", type=Path, required=True)
    parser.add_argument("--colours", type=Path, required=True)
    parser.add_argument("--mm-per-unit", type=float, help="default: from the distance of the eyes, see textured_scan")
    parser.add_argument("--photos", type=int, default=4, help="of each view")
    parser.add_argument("--stage", choices=("all", "landmarks"), default="all")
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="KEY=VALUE")
    parser.add_argument("--picture", type=Path, help="where the last photo's errors lie")
    args = parser.parse_args()
    config = resolve(overrides=GEOMETRY | STAGES[args.stage] | dict(parse_assignment(t) for t in args.settings))
    engine = load_engine(config)
    mesh, texture = read_mesh(args.scan).mesh, load_image(args.colours).image_srgb
    scan = upright_scan(mesh, texture, points_by_looking(mesh, texture, engine.networks), args.mm_per_unit)
    print("| | metric: median | mean | std | scale-free: median | mean | std |\n|---|---|---|---|---|---|---|")
    print(line("average head", score(engine, engine.assets.v_template, scan)), flush=True)
    vertices = engine.assets.v_template
    for view, yaw in VIEWS.items():
        for seed in range(args.photos):
            turn = (0.0, yaw * (1 if seed % 2 else -1), 0.0)
            photo = scan_photo(scan, seed, SyntheticOptions(turn=turn, yaw=4.0, pitch=5.0, roll=4.0))
            vertices = fitted(engine, config, photo.image_srgb)
            print(line(f"{view}, photo {seed + 1}", score(engine, vertices, scan)), flush=True)
    if args.picture:
        found = score(engine, vertices, scan)
        picture = heat_map(scan.mesh, Mesh(vertices, engine.assets.faces), scan.landmarks, found, found.scale_free)
        save_png(args.picture, picture)


if __name__ == "__main__":
    main()
