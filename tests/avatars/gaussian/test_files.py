"""Avatars on disk: what is read is what was written, and what cannot be an avatar is refused in one sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from headrecon.avatars.files import load_avatar
from headrecon.avatars.gaussian.build import begin
from headrecon.avatars.gaussian.model import GaussianAvatar
from headrecon.avatars.gaussian.settings import GaussianAvatarConfig, TrainConfig
from headrecon.avatars.held_out import drawn_row
from headrecon.avatars.protocol import SplatAvatar
from headrecon.errors import AssetError, InputError
from headrecon.io.tensor_files import read_tensors, write_tensors
from tests.avatars.moving_subject import moving_footage, subject
from tests.synthetic_assets import make_tiny_assets


@pytest.fixture(scope="module")
def avatar() -> GaussianAvatar:
    config = GaussianAvatarConfig(train=TrainConfig(iterations=100, gaussians=1000))
    begun = begin(moving_footage(), subject(), np.arange(20), config)
    found = begun.avatar
    corrections = 0.1 * torch.randn(found.rig.corrections.shape, generator=torch.Generator().manual_seed(0))
    rig = found.rig.with_tensors({**found.rig.tensors(), "corrections": corrections})
    return GaussianAvatar(found.person, rig, found.basis, found.sheet, found.sheet_motion, found.rest_pose)


def test_a_round_trip_draws_the_same(tmp_path: Path, avatar: GaussianAvatar):
    avatar.save(tmp_path / "a")
    again = load_avatar(tmp_path / "a", make_tiny_assets())
    assert isinstance(again, SplatAvatar) and again.kind == "gaussian"
    track = moving_footage().track
    for row in (0, 7):
        # Corrections are kept as float16: 5e-4 of themselves.
        assert np.abs(drawn_row(avatar, track, row) - drawn_row(again, track, row)).max() <= 2 / 255
    assert again.person.assets.num_betas == 0
    torch.testing.assert_close(again.rest().transl, avatar.rest().transl)
    with pytest.raises(InputError, match="exists"):
        avatar.save(tmp_path / "a")
    avatar.save(tmp_path / "a", overwrite=True)


def _tensors(change: Callable[[dict[str, np.ndarray]], None]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        arrays = {k: np.array(v) for k, v in read_tensors(folder / "avatar.safetensors").items()}
        change(arrays)
        write_tensors(folder / "avatar.safetensors", arrays)

    return spoil


def _page(change: Callable[[dict], None]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        page = json.loads((folder / "avatar.json").read_text())
        change(page)
        (folder / "avatar.json").write_text(json.dumps(page))

    return spoil


def _cut(folder: Path) -> None:
    data = (folder / "avatar.safetensors").read_bytes()
    (folder / "avatar.safetensors").write_bytes(data[: len(data) // 2])


def _nan(arrays: dict[str, np.ndarray]) -> None:
    arrays["splats.colours"][0, 0] = np.nan


SPOILT = {
    "cut short": (_cut, "damaged"),
    "no tensors": (lambda f: (f / "avatar.safetensors").unlink(), "does not exist"),
    "not JSON": (lambda f: (f / "avatar.json").write_text("{"), "cannot be read"),
    "foreign": (_page(lambda p: p.update(schema="somebody/1")), "expected 'headrecon.avatar/1'"),
    "later kind": (_page(lambda p: p.update(kind="hybrid")), "kind gaussian"),
    "no model": (_page(lambda p: p.pop("model")), "damaged"),
    "pose features": (_page(lambda p: p.update(pose_features=99)), "pose_features"),
    "lacks": (_tensors(lambda a: a.pop("splats.logits")), "lacks splats.logits"),
    "shape": (_tensors(lambda a: a.update({"splats.offsets": a["splats.offsets"][:-1]})), "splats.offsets must be"),
    "type": (_tensors(lambda a: a.update({"rest.transl": a["rest.transl"].astype(np.int32)})), "rest.transl must be"),
    "nan": (_tensors(_nan), "NaN"),
    "index": (_tensors(lambda a: a["bind.triangles"].__setitem__(0, 10**6)), "must lie in"),
    "negative": (_tensors(lambda a: a["sheet.triangles"].__setitem__((0, 0), -1)), "must lie in"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_what_cannot_be_an_avatar_is_refused(tmp_path: Path, avatar: GaussianAvatar, name: str):
    avatar.save(tmp_path / "a")
    spoil, says = SPOILT[name]
    spoil(tmp_path / "a")
    with pytest.raises(InputError, match=says):
        load_avatar(tmp_path / "a", make_tiny_assets())


def test_another_head_model_is_named(tmp_path: Path, avatar: GaussianAvatar):
    avatar.save(tmp_path / "a")
    _page(lambda p: p["expression_names"].pop())(tmp_path / "a")
    with pytest.raises(AssetError, match="expressions"):
        load_avatar(tmp_path / "a", make_tiny_assets())
    with pytest.raises(InputError, match="holds no avatar"):
        load_avatar(tmp_path, make_tiny_assets())
