"""A head's motion in glTF: channels, times, and places that a viewer will show."""

from __future__ import annotations

import numpy as np
import pytest

from headrecon.errors import ShapeError
from headrecon.io.meshes.glb import RiggedHead, build_gltf
from headrecon.io.meshes.glb_motion import HeadMotion, quaternions_xyzw
from tests.synthetic_assets import make_tiny_assets


def motion(assets, count: int = 4) -> HeadMotion:
    rng = np.random.default_rng(0)
    pose = np.zeros((count, 5, 3))
    pose[:, 0] = 0.1 * rng.normal(size=(count, 3))
    return HeadMotion(
        np.arange(count) / 30 + 2.0,
        rng.uniform(size=(count, assets.num_expressions)),
        pose,
        rng.normal(size=(count, 3)),
    )


def values(gltf, accessor: int, width: int) -> np.ndarray:
    at = gltf.accessors[accessor]
    view = gltf.bufferViews[at.bufferView]
    blob = gltf.binary_blob()[view.byteOffset : view.byteOffset + view.byteLength]
    return np.frombuffer(blob, np.float32).reshape(at.count, width)


def test_channels_hold_the_motion():
    assets = make_tiny_assets()
    moving = motion(assets)
    texture = np.zeros((4, 4, 3), np.uint8)
    gltf = build_gltf(RiggedHead(assets, assets.v_template.astype(np.float32), texture, motion=moving))
    (animation,) = gltf.animations
    by_path = {(c.target.node, c.target.path): animation.samplers[c.sampler] for c in animation.channels}
    assert set(by_path) == {(0, "weights"), (1, "rotation"), (1, "translation")}  # joints at rest have no channel
    times = values(gltf, by_path[(0, "weights")].input, 1)[:, 0]
    assert np.allclose(times, np.arange(4) / 30, atol=1e-6)  # a clip starts at 0
    clock = gltf.accessors[by_path[(0, "weights")].input]
    assert (clock.min, clock.max) == ([0.0], [float(np.float32(3 / 30))])  # lists, as readers insist on for times
    weights = values(gltf, by_path[(0, "weights")].output, 1)
    assert np.allclose(weights[:, 0], moving.expression.reshape(-1), atol=1e-6)
    place = values(gltf, by_path[(1, "translation")].output, 3)
    root = np.array(gltf.nodes[1].translation)
    assert np.allclose(place - root, moving.transl, atol=1e-5)
    turns = values(gltf, by_path[(1, "rotation")].output, 4)
    assert np.allclose(np.linalg.norm(turns, axis=1), 1.0, atol=1e-6)


def test_quaternions_do_not_jump():
    angles = np.zeros((40, 3))
    angles[:, 1] = np.linspace(0, 3 * np.pi, 40)
    turns = quaternions_xyzw(angles)
    assert (np.sum(turns[1:] * turns[:-1], axis=1) > 0).all()


def test_motion_that_does_not_fit_is_refused():
    assets = make_tiny_assets()
    moving = motion(assets)
    with pytest.raises(ShapeError, match="expression must have shape"):
        HeadMotion(moving.times_s, moving.expression[:, :3], moving.full_pose, moving.transl).checked(assets)
    with pytest.raises(ShapeError, match="times that rise"):
        HeadMotion(moving.times_s[::-1], moving.expression, moving.full_pose, moving.transl).checked(assets)
