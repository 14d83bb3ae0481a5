"""Prints the coverage table of docs/accuracy.md: synthetic photos, detector and fit as in `headrecon reconstruct`.

python scripts/measure_coverage.py [--photos 100] [--first-seed 3000]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from headrecon.config import ReconstructConfig
from headrecon.datasets.synthetic import SyntheticOptions, SyntheticPhoto, synthetic_photo
from headrecon.evaluation.coverage import CoverageRow, compare, summarise, truths
from headrecon.fitting.metric_scale import MetricKnowledge
from headrecon.fitting.photo import CameraHint
from headrecon.models.head_model import HeadModel
from headrecon.perception.faces import observe_faces
from headrecon.pipeline import Engine, load_engine


def figures(engine: Engine, photo: SyntheticPhoto, knowledge: MetricKnowledge) -> dict | None:
    found = observe_faces(photo.image_srgb, engine.networks, max_faces=1)
    if not found:
        return None
    fit = engine.fitter.fit(engine.refined(found[0], photo.image_srgb) or found[0], CameraHint(), knowledge)
    return {**fit.figures, **fit.view_figures[0]}


def known(photo: SyntheticPhoto, what: str) -> MetricKnowledge:
    return MetricKnowledge(focal_px=photo.focal_px) if what == "focal" else MetricKnowledge()


def rows(engine: Engine, seeds: range, what: str) -> Iterator[CoverageRow]:
    model, outcomes = HeadModel(engine.assets), []
    for seed in seeds:
        photo = synthetic_photo(engine.assets, seed, SyntheticOptions(size=512), model)
        found = figures(engine, photo, known(photo, what))
        if found is not None:
            outcomes += compare(truths(engine.assets, photo), found)
    yield from summarise(outcomes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=int, default=100)
    parser.add_argument("--first-seed", type=int, default=3000)
    options = parser.parse_args()
    engine = load_engine(ReconstructConfig())
    seeds = range(options.first_seed, options.first_seed + options.photos)
    titles = ("figure", "photos", "truths in 90 % interval", "rms error", "mean error", "stated sigma")
    for what in ("nothing", "focal"):
        print(f"\nknown beforehand: {what}\n| {' | '.join(titles)} |\n|{'---|' * len(titles)}")
        for r in rows(engine, seeds, what):
            errors = f"{r.rms_error:.2f} | {r.mean_error:+.2f} | {r.mean_sigma:.2f}"
            print(f"| {r.name} | {r.count} | {100 * r.share:.0f} % | {errors} |")


if __name__ == "__main__":
    main()
