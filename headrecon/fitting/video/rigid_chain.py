"""A head followed by its picture through a stretch of frames: from frames whose pose is known, one after another.

Every frame is laid over the references that look at the head from about where it does; those whose pose the landmarks
gave count most. A head that turns further shows new skin, so frames on the way become references in their turn, and
say less the longer the chain is that led to them. What is followed from both ends of a stretch is blended.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from headrecon.fitting.video.rigid_align import LEAST_POINTS, Reference, RigidFit, agreement, align
from headrecon.fitting.video.rigid_head import RigidHead, RigidPose
from headrecon.fitting.video.rigid_marks import Lens, Sighting
from headrecon.fitting.video.rigid_picture import RigidPicture

#: A frame turned so far from all references becomes one (radians).
_NEW_REFERENCE = math.radians(8.0)
#: References from further away than this show other skin, or the same too much foreshortened.
_FURTHEST = math.radians(55.0)
#: At most so many references for one frame.
_AT_ONCE = 3
#: Deviation of a match between two frames: radians, and radians per radian between them.
_MATCH, _MATCH_SHARE = math.radians(0.3), 0.06
#: Correlation below which a frame is not the head: where a detected face lies on the head within so many metres, and
#: where nobody is detected.
_LEAST_CORRELATION, _LIES_ON_M, _LEAST_ALONE = 0.2, 0.014, 0.4
#: Frames in a row without the head after which it is lost, and the share of the speed that each of them leaves.
_PATIENCE, _DAMPING = 6, 0.8
#: How much a detected face counts beside the picture: all of it where the last frame was as little alike as the first
#: correlation, the share below from the second on. Its points are some millimetres off, alike in all frames.
#: Beyond so many metres off the head they count more and more, up to the largest factor.
_TRUST_FROM, _TRUST_TO, _TRUST_LEAST = 0.55, 0.85, 0.1
_SLIPPED_M, _TRUST_MOST = 0.012, 3.0
#: A head that a detected face misses by so many metres is half as sure.
_DOUBTED_M = 0.008
#: A detected face so far off is another, or an ear taken for one; a picture so little alike has no say.
_ELSEWHERE_M, _WORTHLESS = 0.035, 0.3
#: Deviation of a pose by landmarks: radians up to the turn `_FRONTAL`, then more per radian and per radian squared.
_FRONTAL, _LANDMARKS = math.radians(15.0), (math.radians(1.0), 0.10, 0.5)
#: A pose by landmarks that is surer than this (radians) carries the chain over frames that their pictures do not.
_TELLING = math.radians(6.0)
#: Another start than where the head was going is taken where the frame is more alike by so much.
_BETTER = 0.05
#: Only frames as alike as this become references.
_TRUE_TO_LIFE = 0.45
#: A step from one frame to the next that no head makes: radians, metres.
_LARGEST_STEP = (math.radians(25.0), 0.06)


@dataclass(frozen=True)
class Followed:
    """A frame's pose by its picture. sigma: radians; correlation: see `rigid_align.RigidFit`."""

    pose: RigidPose
    sigma: float
    correlation: float


@dataclass(frozen=True)
class Sight:
    """What is known of a frame: its picture (None: damaged), a detected face, and the pose by its landmarks."""

    frame: int
    picture: RigidPicture | None
    sighting: Sighting | None = None
    told: RigidPose | None = None


class Chain:
    """Follows a head from known frames on. Feed it frames in the order of time, or against it."""

    def __init__(self, head: RigidHead, lens: Lens, references: Sequence[Reference], last: Sequence[RigidPose]) -> None:
        """references: known frames. last: the poses of the two frames before the first that is fed, older first."""
        self.head, self.lens = head, lens
        self.references = list(references)
        self.before, self.now = last[-2] if len(last) > 1 else last[-1], last[-1]
        self.missed, self.alike = 0, 1.0
        self.depth_m = float(self.now.apply(head.centre[None])[0, 2])

    @property
    def lost(self) -> bool:
        """Whether the head is gone, so that feeding further frames is no use."""
        return self.missed >= _PATIENCE

    def next(self, sight: Sight) -> Followed | None:
        """The pose of the next frame, or None where it does not look like the head."""
        picture, sighting = sight.picture, sight.sighting
        if picture is None:  # a damaged frame
            self.missed += 1
            return None
        speed = self.before.step_to(self.now, self.head.centre) * _DAMPING**self.missed
        starts = [self.now.turned(speed, self.head.centre), self.now] if self.missed < 1 else [self.now]
        told = self._told(sight.told, starts[0])
        if told is not None and told[1] < _TELLING:
            starts.append(told[0])
        best, chosen, highest = None, [], -2.0
        for start in starts:
            near = self._chosen(start)
            alike = agreement(self.head, self.lens, picture, near, start)[0] if near else -1.0
            if near and alike > highest + _BETTER:
                best, chosen, highest = start, near, alike
        if best is not None:
            sighting = self._weighed(sighting, best)
            worth = float(np.clip((max(highest, self.alike) - _WORTHLESS) / (_TRUST_TO - _WORTHLESS), 0.05, 1.0)) ** 2
            chosen = [(r, s * worth) for r, s in chosen]
            best = align(self.head, self.lens, picture, chosen, best, sighting, told, self.depth_m)
        self.alike = 0.0 if best is None else best.correlation
        if best is None or not self._believed(best, sighting):
            if told is None or told[1] > _TELLING:
                self.missed += 1
                return None
            sigma = told[1]
            found = Followed(told[0], sigma, 0.0)
        else:
            doubt = 1.0
            if sight.sighting is not None:
                missed = min(sight.sighting.missed_m(self.head, self.lens, best.pose), _ELSEWHERE_M)
                doubt += (missed / _DOUBTED_M) ** 2
            sigma = _sigma(self._chosen(best.pose), best.pose)
            found = Followed(best.pose, doubt * sigma, best.correlation)
        self.before = self.now if not self.missed else found.pose
        self.now, self.missed = found.pose, 0
        apart = min(found.pose.angle_to(r.pose) for r in self.references)
        if apart > _NEW_REFERENCE and found.correlation > _TRUE_TO_LIFE:
            self.references.append(Reference.of(sight.frame, self.head, self.lens, picture, found.pose, sigma))
        return found

    def _told(self, told: RigidPose | None, expected: RigidPose) -> tuple[RigidPose, float] | None:
        """The pose by landmarks with what it may be off by. Of a head far turned they may say that it is hardly turned:
        where it should be by now counts too."""
        if told is None:
            return None
        azimuth = max(abs(p.azimuth(self.head.centre)) for p in (told, expected))
        return told, landmark_sigma(azimuth)

    def _weighed(self, sighting: Sighting | None, start: RigidPose) -> Sighting | None:
        """A detected face with the say that it has: more where pictures say little, or the head has slipped off it."""
        if sighting is None:
            return None
        poor = (_TRUST_TO - self.alike) / (_TRUST_TO - _TRUST_FROM)
        missed = sighting.missed_m(self.head, self.lens, start)
        if missed > _ELSEWHERE_M:
            return None
        slipped = (missed - _SLIPPED_M) / _SLIPPED_M
        trust = max(float(np.clip(poor, 0.0, 1.0)), float(np.clip(slipped, 0.0, _TRUST_MOST)), _TRUST_LEAST)
        return replace(sighting, trust=trust)

    def _believed(self, fit: RigidFit, sighting: Sighting | None) -> bool:
        """Whether the frame shows the head, where it can have gone to."""
        seen = sighting is not None and sighting.missed_m(self.head, self.lens, fit.pose) < _LIES_ON_M
        least = _LEAST_CORRELATION if seen else _LEAST_ALONE
        return fit.points >= LEAST_POINTS and fit.correlation >= least and not self._jumped(fit.pose)

    def _jumped(self, pose: RigidPose) -> bool:
        step = self.now.step_to(pose, self.head.centre)
        steps = 1 + self.missed
        turn, shift = float(np.linalg.norm(step[:3])), float(np.linalg.norm(step[3:]))
        return turn > steps * _LARGEST_STEP[0] or shift > steps * _LARGEST_STEP[1]

    def _chosen(self, pose: RigidPose) -> list[tuple[Reference, float]]:
        """References for a frame that is about there, with their shares."""
        near = [r for r in self.references if r.pose.angle_to(pose) < _FURTHEST]
        near.sort(key=lambda r: _variance(r, pose))
        near = near[:_AT_ONCE]
        shares = np.array([1.0 / _variance(r, pose) for r in near])
        return [(r, float(s)) for r, s in zip(near, shares / max(shares.sum(), 1e-12), strict=True)]


def landmark_sigma(azimuth: float) -> float:
    """Deviation of a pose from landmarks, radians, by how far the head is turned (radians)."""
    least, per_radian, squared = _LANDMARKS
    beyond = max(abs(azimuth) - _FRONTAL, 0.0)
    return least + per_radian * beyond + squared * beyond**2


def _variance(reference: Reference, pose: RigidPose) -> float:
    return reference.sigma**2 + _match_sigma(reference, pose) ** 2


def _match_sigma(reference: Reference, pose: RigidPose) -> float:
    return _MATCH + _MATCH_SHARE * reference.pose.angle_to(pose)


def _sigma(chosen: Sequence[tuple[Reference, float]], pose: RigidPose) -> float:
    """Deviation of a pose from these references: their own errors are alike, those of matching are not."""
    own = sum(share * reference.sigma for reference, share in chosen)
    matching = math.sqrt(sum((share * _match_sigma(reference, pose)) ** 2 for reference, share in chosen))
    return math.hypot(own, matching)


def blended(first: Followed | None, second: Followed | None, centre: Float[np.ndarray, "3"]) -> Followed | None:
    """One pose of two, each counting by its certainty. What they differ by makes the answer less certain."""
    if first is None or second is None:
        return first or second
    share = first.sigma**2 / (first.sigma**2 + second.sigma**2)
    step = first.pose.step_to(second.pose, centre)
    pose = first.pose.turned(share * step, centre)
    sigma = 1.0 / math.sqrt(first.sigma**-2 + second.sigma**-2)
    apart = float(np.linalg.norm(step[:3]))
    return Followed(pose, math.hypot(sigma, 0.5 * apart), min(first.correlation, second.correlation))


def follow_chain(chain: Chain, sights: Iterable[Sight]) -> dict[int, Followed]:
    """Feed frames until they end or the head is lost; what was found, by frame."""
    out: dict[int, Followed] = {}
    for sight in sights:
        found = chain.next(sight)
        if found is not None:
            out[sight.frame] = found
        if chain.lost:
            break
    return out


__all__ = ["Chain", "Followed", "Reference", "Sight", "blended", "follow_chain", "landmark_sigma"]
