"""The choice of a focal length: which way it goes, and that a head stays where it was in the picture."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from headrecon.avatars.gaussian.lens import choose_lens, descend, relensed_track, root_of
from headrecon.avatars.gaussian.settings import GaussianAvatarConfig
from headrecon.geometry.cameras import project_points
from headrecon.models.moving_head import MovingHead
from tests.avatars.moving_subject import moving_footage, moving_track, subject


@pytest.mark.parametrize(
    ("truth", "found"), [(1.0, 1.0), (0.36, 0.36), (0.5, 0.6), (0.05, 0.216), (1.7, 1.0), (0.9, 1.0)]
)
def test_the_search_goes_downhill_in_steps(truth: float, found: float):
    assert descend(lambda factor: 1 + abs(np.log(factor / truth))) == pytest.approx(found)


def test_what_is_hardly_better_is_not_believed():
    assert descend(lambda factor: 1.0 if factor == 1.0 else 0.99) == 1.0


def test_a_step_between_long_lenses_is_passed():
    found = {1.0: 1.0, 0.6: 0.99, 0.36: 0.9, 0.216: 0.95}
    assert descend(lambda factor: found[round(factor, 3)]) == pytest.approx(0.36)


def test_a_head_keeps_its_place_and_size_in_the_picture():
    person, track = subject(), moving_track(6)
    other = relensed_track(track, root_of(person), 0.5)
    for row in (0, 3):
        (here, z), (there, near) = (
            project_points(
                MovingHead.of(person.assets, t).vertices(row).astype(np.float64),
                MovingHead.of(person.assets, t).camera(row),
            )
            for t in (track, other)
        )
        root = np.argmin(np.abs(z - (track.params.transl[row, 2] * -1)))
        # What lies at the root's depth keeps its pixel; the rest by the perspective of half the distance.
        assert np.abs(here[root] - there[root]).max() < 1.5
        assert np.median(near / z) == pytest.approx(0.5, abs=0.06)
        assert np.ptp(there, axis=0) == pytest.approx(np.ptp(here, axis=0), rel=0.25)
    back = relensed_track(other, root_of(person), 2.0)
    assert np.allclose(back.params.transl, track.params.transl) and np.allclose(back.cameras.Ks, track.cameras.Ks)


def test_a_moving_camera_is_left_alone():
    footage = moving_footage(4)
    views = np.array(footage.track.cameras.viewmats)
    views[1, 0, 3] = 0.1
    moved = replace(footage, track=replace(footage.track, cameras=replace(footage.track.cameras, viewmats=views)))
    assert choose_lens(moved, subject(), np.arange(4), GaussianAvatarConfig()) == 1.0
