"""Eyes that a fitted shape pushed through their lids go back behind them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from headrecon.models.eye_sockets import LID_ENDS_M, LID_RIM_M, EyeSocket, eye_sockets, seat_eyes
from headrecon.structures import HeadAssets
from tests.tiny_face import tiny_face

#: The eyeball of `lidded`, metres, and how far its lids lie from it.
RADIUS, LID = 0.012, 0.001


def at_rest(assets: HeadAssets) -> np.ndarray:
    return assets.v_template.astype(np.float64)


def lidded() -> HeadAssets:
    """Two round eyes, each behind a shell of skin with a slit before it."""
    side = np.array([[0.032, 0.0, 0.07]])
    turns = np.stack(np.meshgrid(np.radians(np.arange(0, 360, 9)), np.radians(np.arange(-85, 86, 5))), -1).reshape(
        -1, 2
    )
    ball = np.stack([np.sin(turns[:, 0]), np.tan(turns[:, 1]), np.cos(turns[:, 0])], 1)
    ball /= np.linalg.norm(ball, axis=1, keepdims=True)
    shell = ball[(ball[:, 2] > 0) & (np.abs(ball[:, 1]) > 0.4)]
    parts = [RADIUS * ball + side, RADIUS * ball - side * [1, 0, -1], (RADIUS + LID) * shell + side,
             (RADIUS + LID) * shell - side * [1, 0, -1]]  # fmt: skip
    names = ("skin", "leye", "reye")
    kind = np.concatenate([np.full(len(p), k) for p, k in zip(parts, (1, 2, 0, 0), strict=True)])
    at = np.concatenate(parts)
    # Triangles need not close: only which vertices belong to what counts here.
    faces = np.repeat(np.arange(len(at), dtype=np.int32)[:, None], 3, 1)
    return HeadAssets(
        name="eyes",
        v_template=at,
        faces=faces,
        uvs=np.zeros((1, 2)),
        uv_faces=np.zeros_like(faces),
        shapedirs=np.zeros((len(at), 3, 0)),
        exprdirs=np.zeros((len(at), 3, 0)),
        expression_names=(),
        J_regressor=np.zeros((1, len(at))),
        parents=np.array([-1]),
        lbs_weights=np.ones((len(at), 1)),
        face_part=kind.astype(np.int32),
        part_names=names,
        licences=(),
    )


def rim_of(assets: HeadAssets, socket: EyeSocket) -> np.ndarray:
    """Rims in front of the middle of the eyeball."""
    at = at_rest(assets)
    rim = socket.near[socket.distance < LID_RIM_M]
    return rim[at[rim, 2] > at[socket.eyeball].mean(0)[2] + 0.003]


def gaps(vertices: np.ndarray, eyeball: np.ndarray, rim: np.ndarray) -> np.ndarray:
    middle = vertices[eyeball].mean(0)
    return np.linalg.norm(vertices[rim] - middle, axis=1) - np.linalg.norm(vertices[eyeball] - middle, axis=1).mean()


def test_sockets_hold_what_is_near() -> None:
    assets = lidded()
    left, right = eye_sockets(assets)
    at = at_rest(assets)
    assert at[left.eyeball, 0].mean() > 0 > at[right.eyeball, 0].mean()
    for socket in (left, right):
        whole = np.linalg.norm(at[socket.near][:, None] - at[socket.eyeball], axis=2).min(1)
        np.testing.assert_allclose(socket.distance, whole)
        assert socket.distance.max() < LID_ENDS_M
        assert not np.isin(socket.near, socket.eyeball).any()
        assert (socket.share[socket.distance < LID_RIM_M] == 1).all()


def test_the_mean_head_stays_as_it_is() -> None:
    assets = lidded()
    assert np.abs(seat_eyes(assets, at_rest(assets))).max() < 1e-9


def test_an_eyeball_pushed_through_its_lids_goes_back() -> None:
    assets = lidded()
    ball = eye_sockets(assets)[0].eyeball
    pushed = at_rest(assets)
    pushed[ball, 2] += 0.0012
    moved = seat_eyes(assets, pushed)
    # The prior on its place and the lids' share hold a little of it back.
    np.testing.assert_allclose(moved[ball], np.tile([0.0, 0.0, -0.0012], (len(ball), 1)), atol=1e-4)
    others = np.setdiff1d(np.arange(len(moved)), np.concatenate([s.near for s in eye_sockets(assets)] + [ball]))
    assert np.abs(moved[others]).max() == 0


def test_a_rim_inside_of_the_eyeball_comes_out() -> None:
    assets = lidded()
    socket = eye_sockets(assets)[1]
    rim = rim_of(assets, socket)
    at = at_rest(assets)
    low = rim[at[rim, 1] < at[socket.eyeball].mean(0)[1]]
    wanted = gaps(at, socket.eyeball, rim)
    dented = at.copy()
    middle = at[socket.eyeball].mean(0)
    outward = dented[low] - middle
    dented[low] -= 0.0012 * outward / np.linalg.norm(outward, axis=1, keepdims=True)
    after = dented + seat_eyes(assets, dented)
    missed_before = np.abs(gaps(dented, socket.eyeball, rim) - wanted)
    missed = np.abs(gaps(after, socket.eyeball, rim) - wanted)
    # Neighbours share what rims lack, so a step in the dent is not undone wholly.
    assert missed.mean() < 0.3 * missed_before.mean()


def test_the_iris_stays_where_it_was_seen() -> None:
    assets = lidded()
    ball = eye_sockets(assets)[0].eyeball
    pushed = at_rest(assets)
    pushed[ball] += [0.001, -0.001, 0.0]
    moved = seat_eyes(assets, pushed)[ball]
    assert np.abs(moved[:, :2]).max() < 3e-4


def test_a_model_without_eyes_has_none() -> None:
    assets = tiny_face()
    blind = replace(assets, part_names=tuple("skin" if n in ("leye", "reye") else n for n in assets.part_names))
    assert eye_sockets(blind) == []
    assert not seat_eyes(blind, at_rest(blind)).any()
