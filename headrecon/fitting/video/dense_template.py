"""A person's skin from the keyframes: posed by their landmarks, averaged, posed again by their skin, until it is sharp.

Congealing (Learned-Miller, PAMI 2006): each picture is aligned with the mean of the others and the mean is taken anew.
The mean of a dozen pictures that the landmarks misplace by a per cent of the eye distance is a blur; a few rounds later
it shows lashes. What varies from picture to picture beyond light (folds, lips, shine) gets a deviation of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int, UInt8

from headrecon.fitting.blas_threads import one_blas_thread
from headrecon.fitting.video.dense_fit import (
    DenseFrameFitter,
    DenseOptions,
    SkinTemplate,
    picture_of,
    projected,
)
from headrecon.fitting.video.dense_picture import CHANNELS, FINEST_PER_M, FacePicture, shown
from headrecon.fitting.video.dense_points import FacePoints
from headrecon.fitting.video.dense_residual import light_solvers
from headrecon.fitting.video.frame_fit import FrameFit, FrameFitter

#: Misplacement allowed for in each round, working pixels.
_ROUNDS = (2.0, 1.0, 0.6, 0.4)
#: Deviations of log light and colours that are believed of a point before it is looked at, and as many looks' worth.
_BELIEVED, _WORTH = np.array([0.08, 0.04]), 1.5
#: Least deviations: what a codec leaves.
_LEAST = np.array([0.02, 0.015])
#: Deviation that says a point is not known.
_UNKNOWN = 10.0
#: So many points with texture are followed, and so many others; fewer in all are no face.
_TEXTURED, _PLAIN, _LEAST_POINTS = 550, 250, 100
#: A point of which fewer pictures show something tells nothing; where there are few, a share of them.
_LEAST_SEEN, _LEAST_SHARE = 1.2, 0.5
#: Deviations at which a picture's value of a point counts a quarter.
_CUT = 2.5


@dataclass(frozen=True)
class Keyframe:
    """A frame of the person: its picture, the points seen in it, and its state by them."""

    image_srgb: UInt8[np.ndarray, "H W 3"]
    marks: Float[np.ndarray, "478 D"]
    fit: FrameFit


@dataclass(frozen=True)
class _Look:
    """What one keyframe shows: values and their squared change per working pixel, and how well each point is seen."""

    values: Float[np.ndarray, "N C"]
    seen: Float[np.ndarray, " N"]
    texture: Float[np.ndarray, "N C"]


def learn_template(
    fitter: FrameFitter, face: FacePoints, keyframes: Sequence[Keyframe], options: DenseOptions | None = None
) -> tuple[FacePoints, SkinTemplate, list[Keyframe]] | None:
    """The points that tell most, their template, and the keyframes posed by it; None where the keyframes do not show
    enough of the face.

    O(rounds x keyframes) frames' fits.
    """
    options = options or DenseOptions()
    scales = [float(np.exp(-k.fit.state[fitter.slices["placement"]][2])) for k in keyframes]
    per_m = min(float(np.median(scales)), FINEST_PER_M) if scales else FINEST_PER_M
    frames = list(keyframes)
    pictures = [picture_of(fitter, face, k.image_srgb, k.fit.state, per_m) for k in frames]
    pairs = [(k, p) for k, p in zip(frames, pictures, strict=True) if p is not None]
    if not pairs:
        return None
    frames, held = [k for k, _ in pairs], [p for _, p in pairs]
    with one_blas_thread():
        looks = [_look(fitter, face, k.fit, p) for k, p in zip(frames, held, strict=True)]
        mean = _mean(face, looks, per_m)
        for slack in _ROUNDS if len(looks) > 1 else ():
            frames = _align(fitter, face, (frames, held), mean, replace(options, rounds=(slack,)))
            looks = [_look(fitter, face, k.fit, p) for k, p in zip(frames, held, strict=True)]
            mean = _mean(face, looks, per_m)
        template = mean.template
        ids = _telling(looks, template)
        if len(ids) < _LEAST_POINTS:
            return None
        return face.take(ids), SkinTemplate(template.values[ids], template.sigma[ids], per_m), frames


def _telling(looks: Sequence[_Look], template: SkinTemplate) -> Int[np.ndarray, " A"]:
    """Points that are seen: those with most texture for their deviation, and a share of the others, which hold the
    light."""
    seen = np.stack([look.seen for look in looks])[..., None]
    texture = (seen * np.stack([look.texture for look in looks])).sum(0) / np.maximum(seen.sum(0), 1e-9)
    worth = (texture / (template.sigma**2 + 0.1 * texture)).sum(1)
    known = np.flatnonzero(template.sigma[:, 0] < _UNKNOWN)
    order = known[np.argsort(-worth[known], kind="stable")]
    best, others = order[:_TEXTURED], order[_TEXTURED:]
    spread = np.linspace(0, len(others) - 1, min(_PLAIN, len(others))).astype(int)
    return np.sort(np.concatenate([best, np.sort(others)[spread]]))


def _align(
    fitter: FrameFitter,
    face: FacePoints,
    known: tuple[list[Keyframe], list[FacePicture]],
    mean: _Mean,
    options: DenseOptions,
) -> list[Keyframe]:
    """Each keyframe aligned with the mean of the others: with its own part in it, it would stay where it is."""
    out: list[Keyframe] = []
    for i, (frame, picture) in enumerate(zip(*known, strict=True)):
        dense = DenseFrameFitter(fitter, face, mean.without(i), options)
        fit, _, _ = dense.solve(picture, frame.marks, frame.fit, None)
        kept = dense.objection(frame.fit, fit, 1.0) is None
        out.append(replace(frame, fit=fit if kept else frame.fit))
    return out


def _look(fitter: FrameFitter, face: FacePoints, fit: FrameFit, picture: FacePicture) -> _Look:
    values, slopes, inside = picture.sample(projected(fitter, face, fit.state))
    seen = shown(face, fitter.head, fitter.values(fit.state), picture)
    return _Look(values, np.where(inside, seen, 0.0), np.sum((slopes / picture.scale) ** 2, axis=2))


@dataclass(frozen=True)
class _Mean:
    """A robust mean, and each picture's part in it: deviations from the mean before the last step, and weights."""

    template: SkinTemplate
    before: Float[np.ndarray, "N C"]
    rest: Float[np.ndarray, "K N C"]
    weight: Float[np.ndarray, "K N C"]

    def without(self, picture: int) -> SkinTemplate:
        """The mean of the other pictures. What no other shows is not known."""
        others = np.arange(len(self.rest)) != picture
        total = self.weight[others].sum(0)
        shift = (self.weight[others] * self.rest[others]).sum(0) / np.maximum(total, 1e-6)
        sigma = np.where(total < _LEAST_SEEN / 4, _UNKNOWN, self.template.sigma)
        return replace(self.template, values=self.before + shift, sigma=sigma)


def _mean(face: FacePoints, looks: Sequence[_Look], per_m: float) -> _Mean:
    """Robust mean of the pictures up to light, and the deviation from it."""
    seen = np.stack([look.seen for look in looks])  # [K,N]
    values = np.stack([look.values for look in looks])  # [K,N,C]
    first = int(seen.sum(1).argmax())
    mean, sigma = values[first].copy(), np.tile(_BELIEVED, (len(face), 1))
    mean = _filled(mean, seen[first], values, seen)
    before, rest, weight = mean, np.empty_like(values), np.zeros_like(values)
    for _ in range(3):
        before = mean
        for k, look in enumerate(looks):
            missed = look.values - mean
            solvers = light_solvers(face.basis, face.sigma, look.seen[:, None] / sigma**2 * 0.2)
            for c, solver in enumerate(solvers):
                rest[k, :, c] = missed[:, c] - face.basis @ solver.light(missed[:, c])
        weight = seen[..., None] / (1 + (rest / (_CUT * sigma)) ** 2) ** 2
        total = weight.sum(0)
        mean = mean + (weight * rest).sum(0) / np.maximum(total, 1e-6)
        spread = (seen[..., None] * np.minimum(rest**2, (4 * sigma) ** 2)).sum(0)
        sigma = np.sqrt((_WORTH * _BELIEVED**2 + spread) / (_WORTH + seen.sum(0)[:, None]))
        sigma = np.maximum(sigma, _LEAST)
    least = min(_LEAST_SEEN, _LEAST_SHARE * len(looks))
    sigma = np.where(seen.sum(0)[:, None] < least, _UNKNOWN, sigma)
    return _Mean(SkinTemplate(mean, sigma, per_m), before, rest, weight)


def _filled(mean: np.ndarray, seen: np.ndarray, values: np.ndarray, all_seen: np.ndarray) -> np.ndarray:
    """Points that the first picture hides start at the mean of those that show them, moved by the usual difference."""
    hidden = seen < 0.1
    for k in range(len(values)):
        both = (seen >= 0.1) & (all_seen[k] >= 0.1)
        if both.sum() < CHANNELS:
            continue
        shift = np.median(mean[both] - values[k][both], axis=0)
        new = hidden & (all_seen[k] >= 0.1)
        mean[new] = values[k][new] + shift
        hidden &= ~new
    return mean
