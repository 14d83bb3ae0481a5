"""Tracks for tests: motion drawn from a seed, valid in every field."""

from __future__ import annotations

import numpy as np

from headrecon.structures import ARKIT_NAMES, POSE_FIELDS, Cameras, HeadParams, Track


def make_track(count: int = 5, seed: int = 0, names: tuple[str, ...] = ARKIT_NAMES, betas: int = 4) -> Track:
    """Small random motion of one person at 30 frames per second; the third frame of the video could not be read."""
    rng = np.random.default_rng(seed)
    poses = {name: rng.normal(0, 0.1, (count, 3)) for name in (*POSE_FIELDS, "transl")}
    person = rng.normal(size=betas)
    frames = np.array([i + (i >= 2) for i in range(count)])
    flip = np.diag([1.0, -1.0, -1.0, 1.0])
    k = np.array([[900.0, 0, 256], [0, 900.0, 256], [0, 0, 1]])
    return Track(
        model="tiny",
        expression_names=names,
        params=HeadParams(np.tile(person, (count, 1)), rng.uniform(0, 1, (count, len(names))), **poses),
        cameras=Cameras(np.tile(flip, (count, 1, 1)), np.tile(k, (count, 1, 1)), 512, 512),
        frames=frames,
        timestamps_s=frames / 30,
        confidence=rng.uniform(0, 1, count),
    )
