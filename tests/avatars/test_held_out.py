"""Held-out figures: the split, the head's region, and that a figure says what it should."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from headrecon.avatars.footage import Footage
from headrecon.avatars.held_out import HeadRegion, evaluate_held_out, params_of, score_frame, split
from headrecon.avatars.protocol import AvatarPictures, Person
from headrecon.errors import InputError
from headrecon.structures import Cameras, HeadParams, Track
from tests.synthetic_assets import make_tiny_assets

SIZE, COUNT = 96, 20


def footage(turn: float = 0.0) -> Footage:
    assets = make_tiny_assets()
    zeros = {
        name: np.zeros((COUNT, 3)) for name in ("global_orient", "neck_pose", "jaw_pose", "leye_pose", "reye_pose")
    }
    zeros["global_orient"] = zeros["global_orient"] + [0.0, 0.0, turn]
    params = HeadParams(
        betas=np.zeros((COUNT, assets.num_betas)),
        expression=np.zeros((COUNT, assets.num_expressions)),
        transl=np.tile([0.0, 0.0, -0.6], (COUNT, 1)),
        **zeros,
    )
    k = np.array([[1.6 * SIZE, 0, SIZE / 2], [0, 1.6 * SIZE, SIZE / 2], [0, 0, 1]])
    flip = np.diag([1.0, -1.0, -1.0, 1.0])
    cameras = Cameras(np.tile(flip, (COUNT, 1, 1)), np.tile(k, (COUNT, 1, 1)), SIZE, SIZE)
    names = tuple(assets.expression_names)
    track = Track(assets.name, names, params, cameras, np.arange(COUNT), np.arange(COUNT) / 25, np.ones(COUNT))
    rng = np.random.default_rng(0)
    alphas = np.zeros((COUNT, SIZE, SIZE), np.uint8)
    alphas[:, 15:, 25:71] = 255
    return Footage(track, rng.integers(0, 256, (COUNT, SIZE, SIZE, 3), np.uint8), alphas, np.arange(COUNT) != 3)


class Replay:
    """An avatar that knows every frame by heart, and adds a constant."""

    def __init__(self, material: Footage, off: float) -> None:
        assets = make_tiny_assets()
        self.person = Person(assets, np.zeros(assets.num_betas), np.zeros((assets.num_vertices, 3)), ())
        self._material, self._off, self._row = material, off, 16

    def render(self, params, cameras, background_srgb=None):
        picture = torch.from_numpy(self._material.matted(self._row, (1.0, 1.0, 1.0)))[None] * (1 - self._off)
        self._row += 1
        return AvatarPictures(picture, torch.ones(1, SIZE, SIZE))


def test_the_last_usable_frames_are_kept_back():
    material = footage()
    train, test = split(material, 0.2)
    assert test.tolist() == [16, 17, 18, 19] and 3 not in train and len(train) == 15
    assert len(split(material, 0.0)[1]) == 0
    for fraction in (1.0, -0.1, 0.99):
        with pytest.raises(InputError):
            split(material, fraction)


def test_the_region_ends_below_the_chin_and_tilts_with_the_head():
    upright = HeadRegion(make_tiny_assets(), footage())
    line = upright.above_chin(0)
    last = int(np.flatnonzero(line[:, SIZE // 2]).max())
    assert SIZE // 2 < last < SIZE - 5 and (line == line[:, :1]).all()
    tilted = HeadRegion(make_tiny_assets(), footage(turn=0.4)).above_chin(0)
    lowest = [int(np.flatnonzero(tilted[:, x]).max()) for x in (SIZE // 2 - 8, SIZE // 2 + 8)]
    # The head turns about the camera's axis, counter-clockwise for who looks at it: the chin goes to the right.
    assert (lowest[0] - lowest[1]) / 16 == pytest.approx(math.tan(0.4), abs=0.1)
    region = upright(0)
    assert region[20, 48] and not region[SIZE - 2, 48] and not region[20, 5]
    assert region[20, 24] and not region[20, 20]  # a rim of background belongs to it


def test_scores_see_where_an_error_is():
    rng = np.random.default_rng(1)
    truth = rng.random((64, 64, 3)).astype(np.float32)
    region = np.zeros((64, 64), bool)
    region[10:40, 10:50] = True
    outside = np.where(region[..., None], truth, np.clip(truth - 0.3, 0, 1))
    score = score_frame(0, outside, truth, region)
    assert score.psnr["head"] > 50 and score.psnr["head_frame"] > 50 and score.psnr["frame"] < 20
    assert score.ssim["head_frame"] == pytest.approx(1.0) and score.ssim["frame"] < score.ssim["head"] < 1
    inside = score_frame(0, np.where(region[..., None], 0.5, truth), truth, region)
    # The same squared error over all of the picture, of which the region is a part.
    share = 10 * math.log10(64 * 64 / region.sum())
    assert inside.psnr["frame"] - inside.psnr["head"] == pytest.approx(share, abs=1e-3)


def test_an_evaluation_writes_pictures_and_figures(tmp_path):
    material = footage()
    ids = split(material, 0.2)[1]
    page = evaluate_held_out(Replay(material, 0.0), material, ids, tmp_path, baselines={"dark": Replay(material, 0.2)})
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert written["frames"] == ids.tolist() and written["mean"]["dark"].keys() == {"psnr", "ssim"}
    names = sorted(p.name for p in (tmp_path / "test").iterdir())
    assert names == sorted(f"{kind}_{i:06d}.png" for kind in ("pred", "gt", "dark") for i in ids)
    assert page["mean"]["pred"]["psnr"]["frame"] > 50
    expected = np.mean([-10 * math.log10(np.square(0.2 * material.matted(int(i))).mean()) for i in ids])
    assert page["mean"]["dark"]["psnr"]["frame"] == pytest.approx(expected, abs=0.05)
    assert page["mean"]["dark"]["psnr"]["head"] < page["mean"]["pred"]["psnr"]["head"]
    with pytest.raises(InputError, match="test-fraction"):
        evaluate_held_out(Replay(material, 0.0), material, ids[:0], tmp_path)


def test_expressions_go_by_name():
    assets, material = make_tiny_assets(), footage()
    track = material.track
    track.params.expression[2, 5] = 0.7
    name = track.expression_names[5]
    found = params_of(track, 2, assets)
    assert float(found.expression[0, assets.expression_names.index(name)]) == pytest.approx(0.7)
    assert float(found.expression.sum()) == pytest.approx(0.7) and found.transl.dtype == torch.float32
