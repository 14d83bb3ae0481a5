"""Makes headrecon/data/point_bias.npz: what MediaPipe's points have in common on photos of people, against the head.

    python scripts/measure_point_bias.py --person A.jpg B.jpg --person C.jpg ... [--others D.jpg ...]

Photos are fitted without a bias, then twice more with what was left on average (one mean per person, mirrored, shrunk
as by one more person without any). It is a bias of the detector, of the points' places on the head, and of the mean
head's brows and lids, which photos cannot tell apart. Use openly licensed portraits: the shipped table was made from
two official portraits each of two people, scikit-image's astronaut and matplotlib's sample portrait, all in the public
domain. --others: photos of other people, to compare with; not in the table.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from headrecon.config import resolve
from headrecon.fitting.photo import LandmarkFitter
from headrecon.geometry.cameras import project_points
from headrecon.io.images import load_image
from headrecon.models.posed_mesh import embed, posed_vertices
from headrecon.perception.eye_frame import EyeFrame
from headrecon.perception.faces import choose_face, observe_faces
from headrecon.perception.mesh_symmetry import mirror_indices
from headrecon.pipeline import load_engine
from headrecon.structures import FaceObservation

OUT = Path(__file__).resolve().parents[1] / "headrecon/data/point_bias.npz"
MESH_POINTS = 468
ROUNDS = 3


def left_over(fitter: LandmarkFitter, face: FaceObservation) -> np.ndarray:
    """Detected minus fitted points, [478,2], head frame, eye distances; 0 for the irises."""
    fit, models = fitter.fit(face), fitter.models
    vertices = posed_vertices(models.assets, models.points, fit.flat[0])
    points = embed(vertices, models.assets.landmarks["mediapipe478"])[:MESH_POINTS]
    pixels, _ = project_points(points, fit.pinholes[0])
    frame = EyeFrame.of(face.landmarks.astype(np.float64))
    out = np.zeros((len(face.landmarks), 2))
    out[:MESH_POINTS] = (face.landmarks[:MESH_POINTS, :2] - pixels) @ frame.axes.T / frame.scale_px
    return out


def mean_left_over(fitter: LandmarkFitter, people: list[list[FaceObservation]]) -> np.ndarray:
    means = [np.mean([left_over(fitter, face) for face in faces], axis=0) for faces in people]
    mean = np.mean(means, axis=0)
    mirrored = mean[mirror_indices()] * (-1, 1)
    return 0.5 * (mean + mirrored) * len(people) / (len(people) + 1)


def measured(fitter: LandmarkFitter, people: list[list[FaceObservation]]) -> np.ndarray:
    options = fitter.options
    bias = np.zeros_like(options.noise.sigma)
    for _ in range(ROUNDS):
        noise = replace(options.noise, bias=bias)
        bias = mean_left_over(LandmarkFitter(fitter.assets, replace(options, noise=noise, stated_noise=None)), people)
    return bias


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--person", nargs="+", type=Path, action="append", required=True)
    parser.add_argument("--others", nargs="+", type=Path, action="append", default=[], help="once for each person")
    args = parser.parse_args()
    engine = load_engine(resolve())

    def look(paths: list[Path]) -> list[FaceObservation]:
        return [choose_face(observe_faces(load_image(p).image_srgb, engine.networks), None)[0] for p in paths]

    bias = measured(engine.fitter, [look(paths) for paths in args.person])
    print(f"bias of {len(args.person)} people: rms {100 * np.sqrt((bias**2).sum(1).mean()):.2f} % of the eye distance")
    if args.others:
        other = measured(engine.fitter, [look(paths) for paths in args.others])
        alike = np.corrcoef(bias[:MESH_POINTS].ravel(), other[:MESH_POINTS].ravel())[0, 1]
        size = 100 * np.sqrt((other**2).sum(1).mean())
        print(f"of {len(args.others)} others: rms {size:.2f} %; correlation {alike:.2f}")
    np.savez_compressed(OUT, bias=bias.astype(np.float32))
    print(f"wrote {OUT} ({OUT.stat().st_size / 1e3:.0f} kB)")


if __name__ == "__main__":
    main()
