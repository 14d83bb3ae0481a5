"""The focal length that pictures prefer: of a few shorter ones, that with which a quick avatar meets them best.

A track's focal length and distance come from landmarks and are hard to tell apart when a head hardly turns. What is
wrong with them does not show at the landmarks; it shows at the outline and the hair, which then swell and shrink as the
head nods. So a small avatar is learned with each of a few focal lengths, for some seconds, and the best is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from jaxtyping import Float, Int

from headrecon.avatars.footage import Footage
from headrecon.avatars.gaussian.build import begin
from headrecon.avatars.gaussian.settings import GaussianAvatarConfig
from headrecon.avatars.protocol import Person
from headrecon.structures import Track

#: A quick avatar: steps, Gaussians, and the share of the steps, the last ones, whose differences are compared.
_STEPS, _GAUSSIANS, _COMPARED = 420, 8000, 0.5
#: Focal lengths are tried in steps of this factor, at most so many times.
_FACTOR, _MOST = 0.6, 3
#: A difference must fall by this share before another focal length is believed, and rise by that to end the search.
_BETTER, _WORSE = 0.03, 0.02


def choose_lens(
    footage: Footage,
    person: Person,
    train: Int[np.ndarray, " M"],
    config: GaussianAvatarConfig,
    device: str = "cpu",
    told: Callable[[float], None] | None = None,
) -> float:
    """Factor on the track's focal length: 1 where the camera moves, or where no shorter one is better. Deterministic.

    Takes two to four runs of 420 steps at half the size.
    """
    views = footage.track.cameras.viewmats
    if not np.allclose(views, views[:1]):
        return 1.0
    quick = replace(config.train, iterations=_STEPS, gaussians=min(_GAUSSIANS, config.train.gaussians))
    sketch = replace(config, train=quick)
    done = 0

    def difference(factor: float) -> float:
        nonlocal done
        learner = begin(relensed(footage, person, factor), person, train, sketch, device, sketch=True).learner
        losses: list[float] = []
        learner.run(_STEPS, lambda step, loss: losses.append(loss))
        done += 1
        if told is not None:
            told(done / (1 + _MOST))
        return float(np.mean(losses[round((1 - _COMPARED) * _STEPS) :]))

    return descend(difference)


def descend(difference: Callable[[float], float]) -> float:
    """The factor with the least difference, going down from 1 in steps until it is clearly worse.

    A step that changes nothing is passed: between long lenses pictures hardly differ. Longer ones than the track's are
    not tried for the same reason: noise would decide.
    """
    best, factor, least = 1.0, 1.0, difference(1.0)
    for _ in range(_MOST):
        factor *= _FACTOR
        found = difference(factor)
        if found > (1 + _WORSE) * least:
            break
        if found < (1 - _BETTER) * least:
            best, least = factor, found
    return best


def relensed(footage: Footage, person: Person, factor: float) -> Footage:
    """The footage as another focal length would have it: every head as large as it was, nearer or farther."""
    return replace(footage, track=relensed_track(footage.track, root_of(person), factor))


def root_of(person: Person) -> Float[np.ndarray, " 3"]:
    """The root joint at rest, metres."""
    return person.assets.J_regressor[0].astype(np.float64) @ person.assets.v_template.astype(np.float64)


def relensed_track(track: Track, root: Float[np.ndarray, " 3"], factor: float) -> Track:
    """A track with this factor on its focal length; root joints keep their pixels' size: z x factor."""
    if factor == 1.0:
        return track
    cameras = track.cameras
    views, ks = np.asarray(cameras.viewmats, np.float64), np.array(cameras.Ks, np.float64)
    ks[:, 0, 0] *= factor
    ks[:, 1, 1] *= factor
    world = root + np.asarray(track.params.transl, np.float64)
    seen = np.einsum("tij,tj->ti", views[:, :3, :3], world) + views[:, :3, 3]
    seen[:, 2] *= factor
    moved = np.einsum("tji,tj->ti", views[:, :3, :3], seen - views[:, :3, 3])
    transl = (moved - root).astype(np.asarray(track.params.transl).dtype)
    return replace(track, cameras=replace(cameras, Ks=ks), params=replace(track.params, transl=transl))
