"""Close-ups of the report: the head fills the picture wherever it is in the video."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from headrecon.models.moving_head import MovingHead
from headrecon.structures import Cameras, HeadParams, Track
from headrecon.tracking.overlay import close_up, overlaid
from tests.tiny_face import tiny_face

WIDTH, HEIGHT = 640, 360


def _head(x: float, z: float = -2.0) -> MovingHead:
    assets = tiny_face()
    zeros = {n: np.zeros((1, 3)) for n in ("global_orient", "neck_pose", "jaw_pose", "leye_pose", "reye_pose")}
    k = np.array([[[600.0, 0.0, WIDTH / 2], [0.0, 600.0, HEIGHT / 2], [0.0, 0.0, 1.0]]])
    track = Track(
        model=assets.name,
        expression_names=tuple(assets.expression_names),
        params=HeadParams(
            betas=np.zeros((1, assets.num_betas)),
            expression=np.zeros((1, assets.num_expressions)),
            transl=np.array([[x, 0.0, z]]),
            **zeros,
        ),
        cameras=Cameras(np.diag([1.0, -1.0, -1.0, 1.0])[None], k, WIDTH, HEIGHT),
        frames=np.array([0]),
        timestamps_s=np.array([0.0]),
        confidence=np.array([1.0]),
    )
    return MovingHead.of(assets, track)


def _changed(found: np.ndarray) -> float:
    return float((np.abs(found.astype(int) - 90).max(2) > 3).mean())


@pytest.mark.parametrize("x", [0.0, 0.6, -0.95])
def test_the_head_fills_a_close_up(x):
    image = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    head = _head(x)
    near = close_up(image, head, 0, 200)
    assert max(near.shape[:2]) <= 400 and min(near.shape[:2]) <= 200
    whole = overlaid(image, head, 0, (WIDTH, HEIGHT))
    assert _changed(whole) < 0.06
    assert _changed(near) > 0.25  # a head is rounder than its box, which the cut exceeds


def test_a_head_outside_of_the_picture_shows_the_picture():
    image = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    head = _head(30.0)
    assert close_up(image, head, 0, 180).shape == (180, 320, 3)
    doubtful = replace(head, track=replace(head.track, confidence=np.array([0.0])))
    assert close_up(image, doubtful, 0, 180).shape == (180, 320, 3)
