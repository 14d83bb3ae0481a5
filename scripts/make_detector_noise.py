"""Makes headrecon/data/detector_noise.npz: how the 478 points err after the closer look of `FaceRefiner`.

    python scripts/make_detector_noise.py FACES.npz...

FACES are rendered faces with exact truth (scripts/render_training_faces.py), best ones that the refiner was not made
from. Their errors, in the head's frame and in units of the distance between the eyes, are split into leading modes and
independent noise per point. The mean error that is left is part of the modes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from headrecon.fitting.landmarks import HeadFrame
from headrecon.perception.face_refiner import FaceFrame, load_face_refiner

OUT = Path(__file__).resolve().parents[1] / "headrecon/data/detector_noise.npz"
NUM_MODES = 32
#: Real faces differ from rendered ones in ways that no rendering shows; no point is trusted more than this.
SIGMA_FLOOR = 0.005


def errors(paths: list[Path]) -> np.ndarray:
    """Refined minus true points, [N,478,2], head frame, interocular distances."""
    refiner, out = load_face_refiner(), []
    for path in paths:
        with np.load(path) as table:
            for seen, true in zip(table["detected"].astype(np.float64), table["true"], strict=True):
                face, head = FaceFrame.of(seen), HeadFrame.of(seen)
                corrections, _ = refiner.predict(face.normalized(seen)[None])
                points = seen[:, :2].copy()
                points[:468] += corrections[0] @ face.axes * face.scale_px
                out.append((points - true) @ head.axes.T / head.scale_px)
    return np.stack(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("faces", nargs="+", type=Path)
    found = errors(parser.parse_args().faces)
    # A few photos go wrong altogether (a lost face); they are the robust kernel's business, not the table's.
    size = np.sqrt((found**2).mean((1, 2)))
    found = found[size < 3 * np.median(size)]
    flat = found.reshape(len(found), -1)
    _, singular, modes = np.linalg.svd(flat / np.sqrt(len(flat)), full_matrices=False)
    modes = modes[:NUM_MODES] * singular[:NUM_MODES, None]
    unit = modes / np.linalg.norm(modes, axis=1, keepdims=True)
    left = (flat - flat @ unit.T @ unit).reshape(found.shape)
    sigma = np.sqrt((left**2).mean(0) + SIGMA_FLOOR**2)
    print(f"error {100 * np.sqrt((found**2).mean()):.2f} % of eye distance, of which bias "
          f"{100 * np.sqrt((found.mean(0) ** 2).mean()):.2f} %, left after {NUM_MODES} modes "
          f"{100 * np.sqrt((left**2).mean()):.2f} %")  # fmt: skip
    np.savez_compressed(OUT, sigma=sigma.astype(np.float32), modes=modes.reshape(-1, 478, 2).astype(np.float32))
    print(f"wrote {OUT} ({OUT.stat().st_size / 1e3:.0f} kB)")


if __name__ == "__main__":
    main()
