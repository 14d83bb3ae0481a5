"""On a GPU an avatar is posed and drawn as on the CPU, and learned by the same code."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from headrecon.structures import Cameras

pytestmark = pytest.mark.cuda


def test_learning_and_drawing_on_a_gpu():
    pytest.importorskip("scipy", reason="seeds of avatars need scipy")
    from headrecon.avatars.gaussian.fit import Task, fit_gaussian
    from headrecon.avatars.gaussian.settings import GaussianAvatarConfig, TrainConfig
    from headrecon.avatars.held_out import drawn_row, params_of
    from tests.avatars.moving_subject import moving_footage, psnr, subject

    ids = np.arange(24)
    train = TrainConfig(iterations=160, gaussians=1200, choose_lens=False)
    fitted = fit_gaussian(
        Task(moving_footage(), subject(), ids[:20], ids[20:]), GaussianAvatarConfig(train=train), "cuda"
    )
    avatar, footage = fitted.avatar, moving_footage()
    assert avatar.device.type == "cuda"
    track, cameras = fitted.track, fitted.track.cameras
    one = Cameras(cameras.viewmats[:1], cameras.Ks[:1], cameras.width, cameras.height).torch()
    params = params_of(track, 0, avatar.person.assets)
    there = avatar.render(params, one, torch.ones(3, device="cuda")).image_srgb[0].cpu()
    assert psnr(there.numpy(), footage.matted(0)) > 23
    rig = avatar.rig.with_tensors({k: t.cpu() for k, t in avatar.rig.tensors().items()})
    here = replace(avatar, rig=rig, basis=avatar.basis.to("cpu"), sheet_motion=avatar.sheet_motion.cpu())
    # Sums in another order; a Gaussian at the edge of what is drawn may fall on either side.
    assert np.abs(drawn_row(here, track, 0) - there.numpy()).mean() < 1e-3
