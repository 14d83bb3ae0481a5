"""From footage to a learner: carrier, features, sheet and seeds."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Int, UInt8

from headrecon.avatars.footage import Footage
from headrecon.avatars.gaussian.carrier import Carrier
from headrecon.avatars.gaussian.features import mean_rotation, motion_basis
from headrecon.avatars.gaussian.model import GaussianAvatar
from headrecon.avatars.gaussian.nuisances import TRACK_KINDS, Nuisances
from headrecon.avatars.gaussian.seeding import Looks, look_frames, seed_rig
from headrecon.avatars.gaussian.settings import GaussianAvatarConfig
from headrecon.avatars.gaussian.torso import Sheet, SheetMotion, following, shoulder_sheet
from headrecon.avatars.gaussian.training import Learner, Scene
from headrecon.avatars.protocol import Person
from headrecon.geometry.cameras import project_points, unproject_points
from headrecon.geometry.rotations import axis_angle_to_matrix, matrix_to_axis_angle
from headrecon.structures import HeadParams

#: Columns and rows at the sheet's border lie outside the pictures by this share, so that no shoulder ends in view.
_BEYOND = 1.15


@dataclass(frozen=True)
class Begun:
    """A learner before its first step, and the avatar as it would be now."""

    learner: Learner
    avatar: GaussianAvatar


def begin(
    footage: Footage,
    person: Person,
    train: Int[np.ndarray, " M"],
    config: GaussianAvatarConfig,
    device: str = "cpu",
    texture_srgb: UInt8[np.ndarray, "S S 3"] | None = None,
    *,
    sketch: bool = False,
) -> Begun:
    """Set out from footage. train: its rows to learn from; sketch: as in `Scene`. Raises ShapeError where footage and
    person do not fit."""
    params = _tensors(footage.validate().track.params, person, device)
    learned = params.take(torch.as_tensor(train))
    basis = motion_basis(person, learned).to(device)
    rest = _rest(learned)
    sheet = _sheet(person, footage, rest, train, config)
    carrier = Carrier(person.assets, person.offsets, sheet.anchors, sheet.triangles, device)
    spreads = 1 / basis.matrix[-3:].abs().amax(1).cpu()
    motion = following(sheet, spreads).to(device)
    usable = np.zeros(len(footage), bool)
    usable[train] = True
    moves = SheetMotion(carrier.sheet_rest, motion)
    posed = []
    for index in look_frames(usable, params):
        one = params.take(slice(index, index + 1))
        moved = carrier.pose(one, moves(basis(one)[0, -basis.num_pose :]))
        posed.append((int(index), moved.vertices.cpu().numpy().astype(np.float64)))
    on_sheet = round(config.train.torso_share * config.train.gaussians * 0.6)
    counts = (round(0.6 * config.train.gaussians) - on_sheet, on_sheet)
    rng = np.random.default_rng([config.seed, 0])
    rig = seed_rig(carrier, Looks(footage, posed), counts, len(basis), texture_srgb, rng)
    rig = rig.with_tensors({k: t.to(device) for k, t in rig.tensors().items()})
    kinds = (
        *(TRACK_KINDS if config.train.refine_track else ()),
        "body",
        *(("gain", "bias") if config.train.exposure else ()),
    )
    scene = Scene(footage, carrier, basis, train, config.train, config.seed, sketch=sketch)
    avatar = GaussianAvatar(person, rig, basis, sheet, motion, rest)
    return Begun(Learner(scene, rig, motion, Nuisances(params, kinds)), avatar)


def _tensors(params: HeadParams, person: Person, device: str) -> HeadParams:
    """The track's parameters for a head whose identity is settled: no betas."""
    found = {k: torch.tensor(np.asarray(v), dtype=torch.float32, device=device) for k, v in vars(params).items()}
    return replace(HeadParams(**found), betas=torch.zeros(params.batch, 0, device=device))


def _rest(params: HeadParams) -> HeadParams:
    """No expression, in the mean pose of these frames."""
    whole = mean_rotation(axis_angle_to_matrix(params.global_orient) @ axis_angle_to_matrix(params.neck_pose))
    zero = HeadParams.zeros(0, params.expression.shape[1], 1, device=params.transl.device)
    orient = matrix_to_axis_angle(whole.float())[None]
    return replace(zero, global_orient=orient, transl=params.transl.mean(0, keepdim=True))


def _sheet(
    person: Person, footage: Footage, rest: HeadParams, train: Int[np.ndarray, " M"], config: GaussianAvatarConfig
) -> Sheet:
    """A sheet that fills the pictures at the neck's distance, from the ears down."""
    if config.train.torso_share == 0:
        return Sheet.empty()
    head = Carrier(person.assets, person.offsets, np.zeros((0, 3)), np.zeros((0, 3), np.int64))
    one = HeadParams(**{k: v.cpu() for k, v in vars(rest).items()})
    found = head.model(one, head.offsets)
    vertices, joints = (t[0].numpy().astype(np.float64) for t in (found.vertices, found.joints))
    neck = vertices[np.argsort(person.assets.v_template[:, 1])[: len(vertices) // 100]].mean(0)
    cameras = footage.track.cameras.numpy()
    camera = replace(cameras, viewmats=cameras.viewmats[train[0]], Ks=cameras.Ks[train[0]])
    (centre,), (depth,) = project_points(neck[None], camera)
    pixels = np.array([[0.0, centre[1]], [camera.width, centre[1]], [centre[0], camera.height]])
    left, right, low = unproject_points(pixels, np.full(3, depth), camera)
    half = _BEYOND * max(abs(left[0] - neck[0]), abs(right[0] - neck[0]))
    bottom = min(float(low[1]), float(neck[1])) - (_BEYOND - 1) * half
    return shoulder_sheet(neck, float(joints[3:, 1].mean()), bottom, float(half))
