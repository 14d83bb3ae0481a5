"""One frame's pose by its picture: the head as it looked in other frames is laid over it.

Lucas and Kanade's alignment (IJCAI 1981) through a head that is known in three dimensions: brightness of the head's
points in reference frames and in this one, Gauss-Newton over turn and shift, coarse to fine, with weights that leave
out what does not fit (Geman and McClure). A point is compared by how it differs from its patch of the head, of which
both frames show enough: shading, which changes as the head turns under its light, hardly counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from headrecon.fitting.video.rigid_head import Patches, RigidHead, RigidPose
from headrecon.fitting.video.rigid_marks import Lens, Sighting, before_lens
from headrecon.fitting.video.rigid_picture import CHANNELS, LEVELS, RigidPicture
from headrecon.geometry.cameras import project_with_jacobian

#: Steps at most at each size, coarse to fine, and the step (radians, metres) that is too small to go on.
_STEPS = (8, 6, 5)
_SMALL = np.array([2e-4] * 3 + [2e-5] * 3)
#: Deviations of the pose from where the head was going: radians; metres across and along the line of sight.
_TURN, _SHIFT, _DEPTH = 0.15, 0.02, 0.006
#: What a pose from landmarks is off by for each radian of its turn: radians; metres across and along the line of sight.
_PER_RADIAN = np.array([1.0, 1.0, 1.0, 0.08, 0.08, 0.3])
#: Share of the points that say something of their own: neighbours are blurred and mismodelled alike.
_INDEPENDENT = 0.3
#: Deviation of a head's distance within a stretch, as a share of it.
_DISTANCE = 0.02
#: Residuals beyond so many robust deviations hardly count.
_KERNEL = 2.0
#: A patch of which less than this share is seen in both frames says nothing.
_LEAST_AROUND = 0.25
#: Fewer points than this (sum of weights) say nothing of the pose.
LEAST_POINTS = 60.0
#: Patterns weaker than this are noise: natural logarithms of brightness, and of red over green.
_NOISE = (0.015, 0.008)
_JUDGED_LEVEL = 1


@dataclass(frozen=True)
class Reference:
    """How the head looked in a frame. values: of its points in both channels, coarse to fine; seen: how much each
    counts; sigma: radians that its pose may be off by."""

    frame: int
    pose: RigidPose
    values: Float[np.ndarray, "L N C"]
    seen: Float[np.ndarray, " N"]
    sigma: float

    @staticmethod
    def of(frame: int, head: RigidHead, lens: Lens, picture: RigidPicture, pose: RigidPose, sigma: float) -> Reference:
        """Read off a frame whose pose is known."""
        pixels = lens.project(pose.apply(head.points))
        samples = [picture.sample(pixels, level) for level in range(LEVELS)]
        seen = head.seen(pose) * head.weights * samples[0].inside
        return Reference(frame, pose, np.stack([s.value for s in samples]), seen, sigma)


@dataclass(frozen=True)
class RigidFit:
    """pose: of the frame. correlation: of the patterns in frame and references, -1..1; points: how many were compared
    (sum of their weights)."""

    pose: RigidPose
    correlation: float
    points: float


def align(
    head: RigidHead,
    lens: Lens,
    picture: RigidPicture,
    references: Sequence[tuple[Reference, float]],
    start: RigidPose,
    sighting: Sighting | None = None,
    told: tuple[RigidPose, float] | None = None,
    depth_m: float | None = None,
) -> RigidFit:
    """The pose of a frame. references: with the share that each has in the answer; start: where the head should be;
    sighting: what a face detector says of the frame; told: a pose from elsewhere with the radians it may be off by;
    depth_m: about how far away the head is known to be.

    O(points times neighbours) a step, about 30 ms a frame for two references.
    """
    prior = _prior(start)
    pose = start
    for level in range(LEVELS):
        for _ in range(_STEPS[level]):
            seen = head.seen(pose) * head.weights
            normal, right = np.diag(prior), prior * pose.step_to(start, head.centre)
            if depth_m is not None:
                # How much skin a frame shows grows as a head slips towards the camera: patterns alone do not hold it.
                away = float(pose.apply(head.centre[None])[0, 2])
                weight = 1.0 / (_DISTANCE * depth_m) ** 2
                normal[5, 5] += weight
                right[5] += weight * (depth_m - away)
            if told is not None:
                weight = 1.0 / (told[1] * _PER_RADIAN) ** 2
                normal += np.diag(weight)
                right += weight * pose.step_to(told[0], head.centre)
            if sighting is not None:
                marked, missed = sighting.linear(head, lens, pose)
                normal += marked.T @ marked
                right -= marked.T @ missed
            found = False
            for reference, share in references:
                for residual, jacobian, weight in _compared(head, lens, picture, reference, pose, level, seen):
                    weighted = jacobian * (_INDEPENDENT * share * weight)[:, None]
                    normal += weighted.T @ jacobian
                    right -= weighted.T @ residual
                    found = True
            if not found:
                return RigidFit(start, 0.0, 0.0)
            step = np.linalg.solve(normal, right)
            pose = pose.turned(step, head.centre)
            if (np.abs(step) < _SMALL * 2 ** (LEVELS - 1 - level)).all():
                break
    return RigidFit(pose, *agreement(head, lens, picture, references, pose))


def agreement(
    head: RigidHead,
    lens: Lens,
    picture: RigidPicture,
    references: Sequence[tuple[Reference, float]],
    pose: RigidPose,
) -> tuple[float, float]:
    """How well a frame at a pose looks like its references: correlation of their patterns, and how many points."""
    pixels = lens.project(before_lens(pose.apply(head.points)))
    now = picture.sample(pixels, _JUDGED_LEVEL)
    seen = head.seen(pose) * head.weights * now.inside
    patches = head.patches[_JUDGED_LEVEL]
    both = own = theirs = points = 0.0
    for reference, share in references:
        weight = np.sqrt(seen * reference.seen)
        columns = np.column_stack([now.value, reference.values[_JUDGED_LEVEL]])
        different, enough = _differences(columns, weight, patches)
        weight = share * weight * enough
        for channel, noise in enumerate(_NOISE):
            a, b = different[channel], different[CHANNELS + channel]
            both += float((weight * a * b).sum()) / noise**2
            own += float((weight * (a**2 + noise**2)).sum()) / noise**2
            theirs += float((weight * (b**2 + noise**2)).sum()) / noise**2
        points += float(weight.sum())
    return float(both / max(np.sqrt(own * theirs), 1e-12)), float(points)


def _prior(start: RigidPose) -> Float[np.ndarray, "6"]:
    """Information on each entry of a step; shifts are in the camera's axes."""
    return 1.0 / np.array([_TURN] * 3 + [_SHIFT, _SHIFT, _DEPTH]) ** 2


def _compared(
    head: RigidHead,
    lens: Lens,
    picture: RigidPicture,
    reference: Reference,
    pose: RigidPose,
    level: int,
    seen: Float[np.ndarray, " N"],
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Residuals, their derivatives by a step and their weights for each channel of one reference; none where too
    little is shared."""
    weight = np.sqrt(seen * reference.seen)
    used = np.flatnonzero(weight > 0.02)
    if len(used) < LEAST_POINTS:
        return
    camera = before_lens(pose.apply(head.points[used]))
    pixels, d_point, _ = project_with_jacobian(camera, lens.focal_px, lens.principal)
    sample = picture.sample(pixels, level)
    arm = (head.points[used] - head.centre) @ pose.rotation.T
    weight[used] *= sample.inside
    for channel, noise in enumerate(_NOISE):
        slope = np.einsum("na,nab->nb", sample.slope[:, channel], d_point)
        # A step's turn is in the head's axes: d point = R (w x arm_head) = (R w) x arm.
        turning = np.cross(arm, slope) @ pose.rotation
        columns = np.zeros((len(head.points), 7))
        missed = sample.value[:, channel] - reference.values[level][used, channel]
        columns[used] = np.column_stack([missed, turning, slope])
        different, enough = _differences(columns, weight, head.patches[level])
        counted = weight * enough
        if counted.sum() < LEAST_POINTS:
            return
        residual = different[0]
        deviation = 1.4826 * _weighted_median(np.abs(residual), counted) + 1e-4
        robust = 1.0 / (1.0 + (residual / (_KERNEL * deviation)) ** 2) ** 2
        yield residual, different[1:].T, counted * robust / (deviation**2 + noise**2)


def _differences(
    columns: Float[np.ndarray, "N C"], weight: Float[np.ndarray, " N"], patches: Patches
) -> tuple[Float[np.ndarray, "C N"], Bool[np.ndarray, " N"]]:
    """Each point less the mean of its patch, and whether enough of that is seen."""
    sums = patches.sums(np.column_stack([columns * weight[:, None], weight]))
    total = sums[:, -1:]
    mean = sums[:, :-1] / np.maximum(total, 1e-9)
    enough = total[:, 0] > _LEAST_AROUND * len(weight) / len(total)
    return (columns - mean[patches.group]).T, enough[patches.group]


def _weighted_median(values: np.ndarray, weight: np.ndarray) -> float:
    order = np.argsort(values, kind="stable")
    ends = np.cumsum(weight[order])
    return float(values[order[np.searchsorted(ends, 0.5 * ends[-1])]])
