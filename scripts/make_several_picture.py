"""Makes docs/images/several.jpg: seven photos of a synthetic person, and where the head made of them errs.

    python scripts/make_several_picture.py --truth PATH/ict_facekit.npz [--seed 960]

Above the photos, below the errors of the joint fit of their landmarks (left) and of the refined head (right), both by
the NoW protocol, and each head itself.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from measure_multiview import error_picture, joint_fit, look, people
from PIL import Image

from headrecon.config import resolve
from headrecon.fitting.multiview.refine import MultiviewFitter
from headrecon.models.store import load_head
from headrecon.pipeline import load_engine

OUT = Path(__file__).resolve().parents[1] / "docs/images/several.jpg"
#: Side of a photo in the strip, pixels.
CELL = 256


def main() -> None:
    """Photograph, fit, refine, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--truth", required=True, help="ICT-FaceKit's packed .npz")
    parser.add_argument("--seed", type=int, default=960)
    args = parser.parse_args()
    settings = argparse.Namespace(
        first_seed=args.seed, subjects=1, hair=True, outside_mm=0.0, size=1024, own_lights=True
    )
    engine = load_engine(resolve())
    subject = next(people(load_head(args.truth), engine.assets, settings))
    views = joint_fit(engine, subject.ring, look(engine, subject.ring, 0.0), known=True)
    fitter = MultiviewFitter(engine.assets)
    fit = fitter.refine(views)
    strip = [
        np.asarray(Image.fromarray(p).resize((CELL, CELL), Image.Resampling.LANCZOS)) for p in subject.ring.images_srgb
    ]
    maps = []
    for vertices in (
        fitter.surface.posed(views.views[0].params, None),
        fitter.surface.posed(fit.params[0], fit.offsets),
    ):
        print(f"median {subject.score(vertices).metric.median_mm:.3f} mm")
        width = CELL * len(strip) // 2
        drawn = error_picture(subject, engine.assets, vertices, width // 3)
        height = round(drawn.shape[0] * width / drawn.shape[1])
        maps.append(np.asarray(Image.fromarray(drawn).resize((width, height), Image.Resampling.LANCZOS)))
    Image.fromarray(np.vstack([np.hstack(strip), np.hstack(maps)])).save(OUT, quality=88, optimize=True)


if __name__ == "__main__":
    main()
