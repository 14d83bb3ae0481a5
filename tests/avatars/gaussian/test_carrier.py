"""What carries Gaussians: at rest nothing has moved; a rigid head carries them rigidly; a jaw takes its own along."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from headrecon.avatars.gaussian.carrier import Carrier, Places
from headrecon.avatars.gaussian.splat_rig import CHANNELS, SplatRig
from headrecon.avatars.gaussian.torso import Sheet, SheetMotion, following, shoulder_sheet, swayed
from headrecon.geometry.rotations import axis_angle_to_matrix, quat_to_matrix
from headrecon.structures import HeadParams
from tests.avatars.moving_subject import subject


def carrier(sheet: Sheet | None = None) -> Carrier:
    person = subject()
    sheet = sheet or Sheet.empty()
    return Carrier(person.assets, person.offsets, sheet.anchors, sheet.triangles)


def params(**changed: torch.Tensor) -> HeadParams:
    return replace(HeadParams.zeros(0, subject().assets.num_expressions), **changed)


def rig_on(carrying: Carrier, count: int = 40) -> SplatRig:
    rng = np.random.default_rng(3)
    places = Places(rng.integers(0, carrying.head_triangles, count), rng.dirichlet(np.ones(3), count))
    g = torch.Generator().manual_seed(4)
    return SplatRig(
        places,
        0.004 * torch.randn(count, 3, generator=g),
        torch.randn(count, 4, generator=g),
        -5 + 0.2 * torch.randn(count, 3, generator=g),
        torch.randn(count, generator=g),
        torch.rand(count, 3, generator=g),
        torch.zeros(count, CHANNELS, 2),
    )


def test_at_rest_nothing_has_moved():
    sheet = shoulder_sheet(np.array([0.0, -0.1, 0.0]), 0.0, -0.3, 0.25)
    at_rest = carrier(sheet)
    moved = at_rest.pose(params(), at_rest.sheet_rest)
    torch.testing.assert_close(moved.vertices, at_rest.rest)
    identity = torch.tensor([1.0, 0, 0, 0]).expand(len(at_rest.rest), 4)
    # float32 products of rotation matrices
    torch.testing.assert_close(moved.turns_wxyz, identity, atol=2e-6, rtol=0)
    torch.testing.assert_close(moved.stretch, torch.ones(len(at_rest.rest)), atol=1e-4, rtol=0)


def test_a_rigid_head_carries_its_gaussians_rigidly():
    carrying = carrier()
    rig = rig_on(carrying)
    turn, shift = torch.tensor([[0.5, 2.0, -0.8]]), torch.tensor([[0.1, -0.2, -0.6]])
    still, moved = params(), params(global_orient=turn, transl=shift)
    empty, no_features = carrying.sheet_rest, torch.zeros(2)
    mix = rig.places.mix(carrying)
    a = rig.pose(carrying.pose(still, empty), mix, no_features)
    b = rig.pose(carrying.pose(moved, empty), mix, no_features)
    rotation = axis_angle_to_matrix(turn)[0]
    joint = carrying.model(still).joints[0, 0]
    expected = (a.means - joint) @ rotation.T + joint + shift
    torch.testing.assert_close(b.means, expected, atol=3e-6, rtol=0)  # metres; float32 at a metre
    torch.testing.assert_close(b.scales, a.scales, rtol=1e-3, atol=0)
    axes = rotation @ quat_to_matrix(a.quats_wxyz)
    torch.testing.assert_close(quat_to_matrix(b.quats_wxyz), axes, atol=2e-5, rtol=0)


def test_a_turn_of_a_part_is_that_of_its_triangles():
    carrying = carrier()
    jaw = torch.tensor([[0.3, 0.0, 0.0]])
    moved = carrying.pose(params(jaw_pose=jaw), carrying.sheet_rest)
    weights = torch.as_tensor(subject().assets.lbs_weights[:, 2])
    # Vertices whose whole neighbourhood moves with the jaw turn as the jaw does.
    whole = weights > 0.999
    for triangle in carrying.triangles:
        if (weights[triangle] < 0.999).any():
            whole[triangle] = False
    assert whole.sum() > 3
    expected = axis_angle_to_matrix(jaw)[0].expand(int(whole.sum()), 3, 3)
    torch.testing.assert_close(quat_to_matrix(moved.turns_wxyz[whole]), expected, atol=1e-4, rtol=0)


def test_corrections_are_linear_and_in_their_units():
    carrying = carrier()
    rig = rig_on(carrying, 3)
    corrections = torch.zeros(3, CHANNELS, 2)
    corrections[0, 0, 0], corrections[1, 3, 1], corrections[2, 6, 0] = 0.5, 0.25, 1.0
    rig = replace(rig, corrections=corrections)
    mix, at_rest = rig.places.mix(carrying), carrying.pose(params(), carrying.sheet_rest)
    before, after = (rig.pose(at_rest, mix, f) for f in (torch.zeros(2), torch.tensor([1.0, 2.0])))
    # By hand: 0.5 x 0.02 m along x; 0.25 x 2 of red; 8 of the logit.
    shift = (after.means - before.means)[0]
    torch.testing.assert_close(shift, torch.tensor([0.01, 0, 0]), atol=1e-5, rtol=0)
    assert before.colours is not None and after.colours is not None
    torch.testing.assert_close(after.colours[1] - before.colours[1], torch.tensor([0.5, 0, 0]))
    opened = torch.logit(after.opacities[2]) - torch.logit(before.opacities[2])
    torch.testing.assert_close(opened, torch.tensor(8.0), atol=1e-2, rtol=0)  # float32 near an opacity of 1


def test_gradients_reach_parameters_and_gaussians():
    carrying = carrier()
    rig = rig_on(carrying, 6)
    leaves = {k: t.clone().requires_grad_() for k, t in rig.tensors().items()}
    orient = torch.tensor([[0.2, -0.4, 0.1]])

    def height(turn: torch.Tensor) -> torch.Tensor:
        posed = rig.with_tensors(leaves).pose(
            carrying.pose(params(global_orient=turn), carrying.sheet_rest), rig.places.mix(carrying), torch.zeros(2)
        )
        return (posed.means * torch.tensor([1.0, 2.0, 3.0])).sum() + posed.quats_wxyz[:, 1].sum()

    turn = orient.clone().requires_grad_()
    height(turn).backward()
    step = 1e-2
    for axis in range(3):
        shift = torch.zeros(1, 3)
        shift[0, axis] = step
        with torch.no_grad():
            slope = (height(orient + shift) - height(orient - shift)) / (2 * step)
        # Second-order error of differences over 0.01 rad, and float32.
        torch.testing.assert_close(turn.grad[0, axis], slope, rtol=5e-3, atol=2e-3)
    assert all(leaves[k].grad.abs().sum() > 0 for k in ("offsets", "quats_wxyz"))


def test_the_sheet_faces_the_viewer_and_follows_the_head():
    sheet = shoulder_sheet(np.array([0.0, -0.1, 0.0]), 0.0, -0.3, 0.25)
    a, b, c = (sheet.anchors[sheet.triangles[:, i]] for i in range(3))
    assert (np.cross(b - a, c - a)[:, 2] > 0).all()
    assert np.isclose(np.ptp(sheet.anchors[:, 0]), 0.5) and np.isclose(sheet.anchors[:, 1].min(), -0.3)
    motion = SheetMotion(torch.as_tensor(sheet.anchors).float(), following(sheet, torch.tensor([0.02, 0.01, 0.03])))
    moved = motion(torch.tensor([1.0, 1.0, 1.0, 2.0, 0.0, -1.0]))
    shift = torch.tensor([0.04, 0.0, -0.03]).expand_as(moved)
    torch.testing.assert_close(moved - motion.rest, shift)
    swung = swayed(motion.rest, torch.tensor([0.0, 0.0, 0.0, 0.1, 0.0, 0.0]))
    torch.testing.assert_close(swung - motion.rest, torch.tensor([0.01, 0.0, 0.0]).expand_as(swung))
