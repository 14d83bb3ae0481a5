"""Makes headrecon/data/detector_noise.npz: how MediaPipe's 478 points err on the default head.

    python scripts/make_detector_noise.py [--photos 240]

Renders synthetic photos with exact truth, compares the detected points with the projected ones in the head's frame
(units of the distance between the eyes), and splits the error into its leading modes and independent noise per point.
The mean error is part of the modes: it is a bias of this detector on this head that may or may not hold for a person.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from headrecon.datasets.synthetic import SyntheticOptions, synthetic_photo
from headrecon.geometry.cameras import project_points
from headrecon.models.head_model import HeadModel, embed
from headrecon.models.store import load_head
from headrecon.perception.eye_frame import EyeFrame
from headrecon.perception.faces import observe_faces
from headrecon.perception.networks import load_networks

OUT = Path(__file__).resolve().parents[1] / "headrecon/data/detector_noise.npz"
NUM_MODES = 32
#: Real faces differ from rendered ones in ways that no rendering shows; no point is trusted more than this.
SIGMA_FLOOR = 0.005


def errors(count: int, first_seed: int) -> np.ndarray:
    """Detected minus true points, [N,478,2], head frame, interocular distances."""
    assets, networks = load_head(), load_networks()
    model, out = HeadModel(assets), []
    for seed in range(first_seed, first_seed + count):
        photo = synthetic_photo(assets, seed, SyntheticOptions(size=512), model)
        found = observe_faces(photo.image_srgb, networks, max_faces=1)
        if not found:
            continue
        points = torch.from_numpy(embed(photo.posed, assets.landmarks["mediapipe478"]).astype(np.float32))
        truth = project_points(points, photo.cameras)[0].numpy()
        frame = EyeFrame.of(found[0].landmarks)
        out.append((found[0].landmarks[:, :2] - truth) @ frame.axes.T / frame.scale_px)
    print(f"{len(out)} of {count} photos with a face")
    return np.stack(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--photos", type=int, default=240)
    found = errors(parser.parse_args().photos, first_seed=10_000)
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
    np.savez_compressed(
        OUT, sigma=sigma.astype(np.float32), modes=modes.reshape(-1, 478, 2).astype(np.float32),
        bias=found.mean(0).astype(np.float32),
    )  # fmt: skip
    print(f"wrote {OUT} ({OUT.stat().st_size / 1e3:.0f} kB)")


if __name__ == "__main__":
    main()
