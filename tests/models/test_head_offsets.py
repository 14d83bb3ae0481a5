"""Offsets on the neutral head (hair): they turn with the head and touch nothing else."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from headrecon.errors import ShapeError
from headrecon.geometry.rotations import axis_angle_to_matrix
from headrecon.io.meshes.glb import RiggedHead, build_gltf
from headrecon.models.head_model import HeadModel
from tests.synthetic_assets import make_tiny_assets


@pytest.fixture(scope="module")
def model() -> HeadModel:
    return HeadModel(make_tiny_assets(), dtype=torch.float64)


@pytest.fixture
def offsets(model) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return 0.01 * torch.rand(model.assets.num_vertices, 3, generator=generator, dtype=torch.float64)


def with_pose(model: HeadModel, **poses: torch.Tensor):
    return dataclasses.replace(model.zeros(), **poses)


def test_offsets_are_added_to_the_neutral_head(model, offsets):
    plain, moved = model(model.zeros()), model(model.zeros(), offsets)
    torch.testing.assert_close(moved.vertices - plain.vertices, offsets[None])
    torch.testing.assert_close(moved.joints, plain.joints)


def test_offsets_turn_with_the_head(model, offsets):
    """With every joint but the root at rest, all vertices turn as one, and their offsets with them."""
    turn = torch.tensor([[0.3, -0.7, 0.2]], dtype=torch.float64)
    params = with_pose(model, global_orient=turn, transl=torch.ones(1, 3, dtype=torch.float64))
    change = model(params, offsets).vertices - model(params).vertices
    torch.testing.assert_close(change[0], offsets @ axis_angle_to_matrix(turn)[0].T)


def test_morph_targets_do_not_change(model, offsets):
    """A rig's morph targets are differences from the neutral head, so they serve with and without hair alike."""
    shapes = torch.eye(model.assets.num_expressions, dtype=torch.float64)[:3]
    for row in shapes:
        smiling = dataclasses.replace(model.zeros(), expression=row[None])
        plain = model(smiling).vertices - model(model.zeros()).vertices
        haired = model(smiling, offsets).vertices - model(model.zeros(), offsets).vertices
        torch.testing.assert_close(plain, haired)


def test_one_set_for_each_head_and_gradients(model, offsets):
    two = dataclasses.replace(
        model.zeros(2), global_orient=torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.5, 0.0]], dtype=torch.float64)
    )
    sets = torch.stack([offsets, -offsets]).requires_grad_()
    both = model(two, sets).vertices
    one = model(with_pose(model, global_orient=two.global_orient[1:]), -offsets).vertices[0]
    torch.testing.assert_close(both[1], one)
    (gradient,) = torch.autograd.grad(both.sum(), sets)
    # Rotations keep lengths: the sum of coordinates changes by the turned unit vectors.
    np.testing.assert_allclose(gradient[0].numpy(), 1.0, atol=1e-9)


def test_a_rigs_joints_do_not_move_with_hair(model):
    """Joints are regressed from vertices, the scalp's among them: a GLB that took the hair in would nod elsewhere."""
    assets = model.assets
    offsets = np.zeros_like(assets.v_template)
    offsets[assets.J_regressor.any(0)] = 0.05
    texture = np.zeros((4, 4, 3), np.uint8)
    bald = build_gltf(RiggedHead(assets, assets.v_template, texture))
    haired = build_gltf(RiggedHead(assets, assets.v_template + offsets, texture, offsets=offsets))
    unaware = build_gltf(RiggedHead(assets, assets.v_template + offsets, texture))

    def places(gltf):
        return np.array([node.translation for node in gltf.nodes if node.translation is not None])

    np.testing.assert_allclose(places(haired), places(bald), atol=1e-6)
    assert np.abs(places(unaware) - places(bald)).max() > 0.01


@pytest.mark.parametrize("shape", [(3, 3), (5, 0, 3)])
def test_wrong_shapes_are_named(model, shape):
    with pytest.raises(ShapeError, match="offsets"):
        model(model.zeros(), torch.zeros(shape, dtype=torch.float64))
