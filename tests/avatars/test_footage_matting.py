"""Mattes: what flickers is calmed, what moves is not; colours of soft edges are the person's."""

from __future__ import annotations

import numpy as np
import pytest

from headrecon.avatars.footage_matting import Steadied, background_plate, foreground_colours

SIZE = 64


def scene(shift: int = 0) -> np.ndarray:
    """Something bright before something dark, with a little texture."""
    rng = np.random.default_rng(3)
    picture = np.full((SIZE, SIZE, 3), 40) + rng.integers(0, 3, (SIZE, SIZE, 3))
    picture[:, 20 + shift : 44 + shift] = 200
    return picture.astype(np.uint8)


def test_masks_hold_still_where_the_picture_does():
    rng = np.random.default_rng(4)
    masks = [np.zeros((SIZE, SIZE), np.uint8) for _ in range(9)]
    for mask in masks:
        mask[:, 20:44] = 255
        mask[:, 44:50] = rng.integers(0, 120)  # a veil that comes and goes
    steady = Steadied(9, lambda row: (scene(), masks[row]))
    found = np.array([steady(row)[30, 46] for row in range(9)], float)
    raw = np.array([mask[30, 46] for mask in masks], float)
    assert found.std() < 0.4 * raw.std() and abs(found.mean() - raw.mean()) < 25
    assert (steady(8)[:, 22:40] == 255).all()


def test_masks_follow_what_moves():
    masks = []
    for row in range(9):
        mask = np.zeros((SIZE, SIZE), np.uint8)
        mask[:, 20 + row : 44 + row] = 255
        masks.append(mask)
    steady = Steadied(9, lambda row: (scene(row), masks[row]))
    for row in range(9):
        assert np.abs(steady(row).astype(int) - masks[row]).max() <= 12


def test_a_row_without_anybody_stays_empty_and_tells_nothing():
    empty, full = np.zeros((SIZE, SIZE), np.uint8), np.full((SIZE, SIZE), 255, np.uint8)
    steady = Steadied(3, lambda row: (scene(), empty if row == 1 else full))
    assert not steady(1).any() and (steady(0) == 255).all()


def mixed() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Brown hair that thins out before a green wall: the picture, its alpha, and both alone."""
    x = np.linspace(0, 1, SIZE)
    alpha = np.clip((x - 0.4) / 0.12, 0, 1)[None].repeat(SIZE, 0)
    hair = np.stack([90 + 30 * x, 60 + 20 * x, 30 + 0 * x], -1)[None].repeat(SIZE, 0)
    wall = np.broadcast_to([40.0, 200.0, 60.0], (SIZE, SIZE, 3))
    picture = np.rint(hair * alpha[..., None] + wall * (1 - alpha[..., None])).astype(np.uint8)
    return picture, np.rint(255 * alpha).astype(np.uint8), hair, wall


@pytest.mark.parametrize("known", [False, True])
def test_soft_edges_lose_the_colour_of_the_room(known: bool):
    picture, alpha, hair, wall = mixed()
    plate = np.concatenate([wall, np.ones((SIZE, SIZE, 1))], -1).astype(np.float32) if known else None
    found = foreground_colours(picture, alpha, plate)
    soft = (alpha > 40) & (alpha < 230)
    before, after = (np.abs(p[soft] - hair[soft]).mean() for p in (picture.astype(float), found.astype(float)))
    assert after < (0.1 if known else 0.2) * before
    sure = alpha >= 250
    assert (found[sure] == picture[sure]).all()


def test_the_picture_can_be_put_together_again():
    picture, alpha, _, wall = mixed()
    found = foreground_colours(picture, alpha, np.concatenate([wall, np.ones((SIZE, SIZE, 1))], -1).astype(np.float32))
    share = alpha[..., None] / 255
    again = found * share + wall * (1 - share)
    assert np.abs(again - picture).max() < 4.5


def test_the_room_is_what_frames_show_beside_the_person():
    wall = np.random.default_rng(5).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    rows = []
    for k in range(9):
        picture, mask = wall.copy(), np.zeros((SIZE, SIZE), np.uint8)
        picture[:, 20 + 2 * k : 40 + 2 * k] = 7  # somebody who walks along it
        mask[:, 20 + 2 * k : 40 + 2 * k] = 255
        picture[:10, :10] = 25 * k  # a screen that changes
        rows.append((picture, mask))
    plate = background_plate(rows)
    known = plate[..., 3] == 1
    assert known[20:, :34].all() and known[20:, 42:].all()  # the person was beside every column for some of the time
    assert not known[20:, 36:40].any() and not known[:10, :10].any()
    assert (plate[known][:, :3] == wall[known]).all()


def test_thin_hair_keeps_its_colour():
    alpha = np.zeros((SIZE, SIZE), np.uint8)
    alpha[:, 10:20], alpha[:, 23] = 255, 60  # a head, and beside it one strand
    hair, wall = np.array([90.0, 60.0, 30.0]), np.array([200.0, 210.0, 220.0])
    share = alpha[..., None] / 255
    picture = np.rint(hair * share + wall * (1 - share)).astype(np.uint8)
    found = foreground_colours(picture, alpha)[:, 23].astype(float)
    assert np.abs(found - hair).mean() < 0.6 * np.abs(picture[:, 23] - hair).mean()
