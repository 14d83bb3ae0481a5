"""The lens of a clip from skin: a patterned head that turns before a camera whose focal length is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from headrecon.fitting.camera_prior import f35_from_focal, video_focal_prior
from headrecon.fitting.multiview.views import PosedView, Views
from headrecon.fitting.video.keyframes import SCALES, choose_turns
from headrecon.fitting.video.skin_focal import focal_of_skin, weighed
from headrecon.io.exif import FocalHint
from headrecon.structures import Cameras
from tests.fitting.test_multiview import SIZE, fitter, photograph

DISTANCE = 0.40
FOCAL = SIZE * DISTANCE / 0.24
#: Turns of the head in degrees: pitch and yaw.
TURNS = ((0, 0), (5, 8), (-4, 12), (3, -9), (-6, -4), (6, -14), (-2, 5), (0, 16))


def _camera(focal: float) -> Cameras:
    k = np.array([[focal, 0.0, SIZE / 2], [0.0, focal, SIZE / 2], [0.0, 0.0, 1.0]])
    return Cameras(np.diag([1.0, -1.0, -1.0, 1.0]), k, SIZE, SIZE)


def _clip(wrong: float, turns=TURNS) -> Views:
    """Frames of a head 0.4 m away, and poses as found with a lens `wrong` times as long."""
    surface, views = fitter().surface, []
    layout = surface.joints.layout
    for pitch, yaw in turns:
        x = layout.zeros()
        x[layout.slices["global_orient"]] = np.radians([pitch, yaw, 0.0])
        x[layout.slices["transl"]] = [0.004 * yaw / 16, 0.0, -DISTANCE]
        image, alpha = photograph(surface.posed(x, None), _camera(FOCAL))
        x[layout.slices["transl"]][:] *= wrong  # as large in the picture, as the lens is longer
        x[layout.slices["transl"]][:2] /= wrong
        views.append(PosedView(image, _camera(FOCAL * wrong), x, alpha))
    return Views.of(views, surface.assets.num_betas)


@pytest.mark.parametrize("wrong", [2.0, 0.75])
def test_a_turning_head_shows_the_lens(wrong):
    found = focal_of_skin(fitter().surface.assets, _clip(wrong), FocalHint(FOCAL * wrong, 0.5, "prior"))
    assert found is not None
    assert found.source == "skin"
    # The start is 69 and 29 % off; the answer's own deviation must cover what is left.
    assert abs(np.log(found.focal_px / FOCAL)) < min(0.12, 2.5 * found.sigma_log)
    assert found.sigma_log < 0.3


def test_a_head_that_does_not_turn_says_nothing():
    still = _clip(2.0, ((0, 0),) * 4)
    assert focal_of_skin(fitter().surface.assets, still, FocalHint(FOCAL, 0.5, "prior")) is None
    one = replace(still, views=still.views[:1])
    assert focal_of_skin(fitter().surface.assets, one, FocalHint(FOCAL, 0.5, "prior")) is None


def test_frames_that_show_the_lens_differ_in_turn_and_not_in_what_the_face_does():
    rng = np.random.default_rng(1)
    features = np.zeros((200, len(SCALES)))
    features[:, 0] = np.linspace(-0.3, 0.3, 200) / SCALES[0]
    features[:, 4] = np.where(np.arange(200) % 3, 0.0, 8.0) + 0.01 * rng.normal(size=200)  # every third mouth is open
    features[:, 7] = 0.0
    presence = np.ones(200)
    features[:20] = np.nan
    presence[:20] = 0.0
    chosen = choose_turns(features, presence, 6)
    assert len(chosen) == 6
    assert (chosen % 3 != 0).all()
    assert np.ptp(features[chosen, 0] * SCALES[0]) > 0.4
    assert (chosen >= 20).all()
    assert len(choose_turns(np.full((5, len(SCALES)), np.nan), np.zeros(5), 3)) == 0


def test_videos_are_believed_to_come_from_short_lenses():
    hint = video_focal_prior((720, 1280))
    assert f35_from_focal(hint.focal_px, (720, 1280)) == pytest.approx(36.0)
    assert 36.0 * np.exp(-1.645 * hint.sigma_log) < 26.0  # a phone's camera is well inside of nine tenths


def test_frames_that_disagree_are_believed_less_and_the_answer_stays_nearer_to_the_usual():
    """Two of the frames are cut out of a camera with a lens four times as long: no one lens explains all of them."""
    whole = _clip(1.0)
    views = list(whole.views)
    surface = fitter().surface
    far = surface.joints.layout.slices["transl"]
    for index in (3, 5):
        x = np.array(views[index].params)
        x[far] *= [1.0, 1.0, 4.0]
        image, _ = photograph(surface.posed(x, None), _camera(4 * FOCAL))
        views[index] = replace(views[index], image_srgb=image)
    believed = FocalHint(0.7 * FOCAL, 0.5, "prior")
    agreed = focal_of_skin(surface.assets, whole, believed)
    torn = focal_of_skin(surface.assets, replace(whole, views=tuple(views)), believed)
    assert agreed is not None and torn is not None
    assert torn.sigma_log > 1.5 * agreed.sigma_log
    assert torn.focal_px < 0.9 * agreed.focal_px


def test_what_frames_leave_open_is_filled_by_what_was_believed():
    believed = FocalHint(600.0, 0.5, "prior")
    sure, unsure = weighed(2400.0, 0.05, believed), weighed(2400.0, 0.5, believed)
    assert sure.focal_px == pytest.approx(2400.0, rel=0.02)
    assert sure.sigma_log == pytest.approx(0.05, rel=0.01)
    assert unsure.focal_px == pytest.approx(1200.0)  # the geometric middle of two that are equally sure
    assert unsure.sigma_log == pytest.approx(0.5 / 2**0.5)
