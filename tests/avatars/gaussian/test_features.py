"""Motion features: centred, of spread one, held within what was seen."""

from __future__ import annotations

import numpy as np
import torch

from headrecon.avatars.gaussian.features import mean_rotation, motion_basis, motion_row
from headrecon.geometry.rotations import axis_angle_to_matrix, matrix_to_axis_angle
from headrecon.structures import HeadParams
from tests.avatars.moving_subject import moving_track, subject


def seen() -> HeadParams:
    return HeadParams(**{k: torch.as_tensor(v).float() for k, v in vars(moving_track(40).params).items()})


def test_features_of_the_footage_are_centred_and_of_unit_spread():
    params = seen()
    basis = motion_basis(subject(), params)
    found = basis(params)
    # Limits hold nothing back of what was seen.
    torch.testing.assert_close(found.mean(0), torch.zeros(len(basis)), atol=1e-4, rtol=0)
    assert found.std(0, correction=0).max() < 1.001  # small motions are divided by the least spread
    # One expression moves, two turns, gaze sideways: one component of expression, one of gaze, six of pose.
    assert len(basis) == 8 and basis.num_pose == 6
    assert found[:, 0].std(correction=0) > 0.99


def test_wild_parameters_are_held_at_the_border():
    params = seen()
    basis = motion_basis(subject(), params)
    found = basis(params)
    wild = HeadParams(**{k: v[:1] * 0 + 5.0 for k, v in vars(params).items()})
    far = basis(wild)[0]
    span = found.amax(0) - found.amin(0)
    assert (far <= found.amax(0) + 0.151 * span + 1e-5).all() and (far >= found.amin(0) - 0.151 * span - 1e-5).all()


def test_the_turn_is_relative_to_the_mean():
    angles = torch.tensor([[0.0, 0.3, 0.0], [0.0, 0.5, 0.0]])
    mean = mean_rotation(axis_angle_to_matrix(angles))
    torch.testing.assert_close(matrix_to_axis_angle(mean), torch.tensor([0.0, 0.4, 0.0]), atol=1e-5, rtol=0)
    params = seen()
    row = motion_row(HeadParams(**{k: v[:2] for k, v in vars(params).items()} | {"global_orient": angles}), mean)
    count = params.expression.shape[1]
    torch.testing.assert_close(
        row[:, count + 6 : count + 9], torch.tensor([[0, -0.1, 0], [0, 0.1, 0]]), atol=1e-5, rtol=0
    )
    assert np.isfinite(row.numpy()).all()
