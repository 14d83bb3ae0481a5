"""What a Gaussian avatar costs: posing, drawing, and one step of training, at the default preset's size.

The avatar is a synthetic person's before training, with as many Gaussians as the preset ends with.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch

from headrecon.avatars.files import settled
from headrecon.avatars.footage import Footage
from headrecon.avatars.gaussian.build import Begun, begin
from headrecon.avatars.gaussian.settings import GaussianAvatarConfig, TrainConfig
from headrecon.avatars.held_out import params_of
from headrecon.avatars.protocol import Person
from headrecon.benchmarks.cases import Case, Prepared
from headrecon.config import ReconstructConfig
from headrecon.datasets.synthetic_video import SyntheticVideo, VideoOptions
from headrecon.pipeline import load_engine
from headrecon.structures import Cameras

_GAUSSIANS, _FRAMES = 30_000, 8


@lru_cache(maxsize=1)
def _begun(device: str) -> Begun:
    assets = load_engine(ReconstructConfig()).assets
    video = SyntheticVideo(assets, 1, VideoOptions(seconds=_FRAMES / 4, fps=4, noise=0.0, texture_size=512))
    colours, alphas = (np.stack(a) for a in zip(*(video.cut_out(i) for i in range(_FRAMES)), strict=True))
    footage = Footage(video.track, colours, alphas, np.ones(_FRAMES, bool))
    betas = np.asarray(footage.track.betas, np.float64)
    neutral, hair = video.neutral(), video.neutral(hair=True)
    person = Person(settled(assets, neutral), betas, hair - neutral, ())
    # Seeds are 0.6 of the Gaussians; the rest comes by splitting, which a benchmark does not wait for.
    train = TrainConfig(iterations=1000, gaussians=round(_GAUSSIANS / 0.6))
    return begin(footage, person, np.arange(_FRAMES), GaussianAvatarConfig(train=train), device)


def _pose(device: str) -> Prepared:
    avatar, params = _still(device)[:2]
    return Prepared(lambda: avatar.gaussians(params).means)


def _render(device: str) -> Prepared:
    avatar, params, cameras = _still(device)
    background = torch.ones(3, device=device)
    return Prepared(lambda: avatar.render(params, cameras, background).image_srgb)


def _still(device: str):
    begun = _begun(device)
    track = begun.learner.scene.footage.track
    cameras = track.cameras
    one = Cameras(cameras.viewmats[:1], cameras.Ks[:1], cameras.width, cameras.height).torch().to(device)
    return begun.avatar, params_of(track, 0, begun.avatar.person.assets).to(device), one


def _step(device: str) -> Prepared:
    """At full size, with everything that moves; the first shares of a run are cheaper."""
    begun = _begun(device)
    learner = begun.learner
    learner.step_number = 700  # past the coarse stage and the last split
    scene = replace(learner.scene, config=replace(learner.scene.config, iterations=1000))
    learner.scene = scene

    def run() -> None:
        learner.step_number = 700
        learner.step()

    return Prepared(run)


CASES = (
    Case("avatar pose", "30k Gaussians", _pose),
    Case("avatar render", "30k Gaussians, 512²", _render, goal_ms=33.3),
    Case("avatar training step", "30k Gaussians, 512²", _step),
)
