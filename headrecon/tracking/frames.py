"""Second pass over what was seen: every frame is fitted, in order, and kept in chunks on disk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from headrecon.fitting.blas_threads import one_blas_thread
from headrecon.fitting.landmark_groups import interocular_px
from headrecon.fitting.video.frame_fit import FrameFit, FrameFitter, StatePrior
from headrecon.fitting.video.motion import FORGOTTEN_S, MotionModel, MotionState
from headrecon.io.work_folder import WorkFolder, chunk_name
from headrecon.tracking.seen import seen_chunks

if TYPE_CHECKING:
    from headrecon.fitting.video.dense_fit import DenseFit
    from headrecon.tracking.skin import SkinPass

_STAGE = "fitted"
_COLUMNS = ("states", "sigmas", "errors", "confidence", "skin")
_Row = tuple[np.ndarray, np.ndarray, float, float, float]
#: A frame that misses its points by this share of the eye distance is fitted again from scratch.
_POOR = 0.12
#: Confidence: misses up to the first are usual, with the second it falls to 1/e.
_GOOD_ERROR, _ERROR_SCALE = 0.025, 0.05
#: Share of the points that face the camera from which on the pose counts as seen well (a profile shows a third).
_WELL_SEEN = 0.5
#: The network's presence at which confidence is 0 and 1.
_PRESENCE = (0.5, 0.98)


@dataclass(frozen=True)
class FittedFrames:
    """All frames of a segment. sigma is infinite where nobody was seen and the state was carried on. skin: share of the
    skin in view that is as expected, 0 where the landmarks' answer stays; NaN where it was not looked at."""

    frames: Int[np.ndarray, " T"]
    times_s: Float[np.ndarray, " T"]
    states: Float[np.ndarray, "T S"]
    sigmas: Float[np.ndarray, "T S"]
    errors: Float[np.ndarray, " T"]
    confidence: Float[np.ndarray, " T"]
    skin: Float[np.ndarray, " T"]


def confidence_of(presence: float, fit: FrameFit) -> float:
    """0..1: how far a frame's answer can be relied on. The product of three shares: how sure the network is that there
    is a face, how well the head meets its points, and how much of the face is in view."""
    low, high = _PRESENCE
    sure = float(np.clip((presence - low) / (high - low), 0.0, 1.0))
    near = float(np.exp(-max(fit.error - _GOOD_ERROR, 0.0) / _ERROR_SCALE))
    shown = min(fit.seen / _WELL_SEEN, 1.0)
    return max(sure * near * shown, 0.01)


def fit_all(
    fitter: FrameFitter,
    work: WorkFolder,
    shot: int,
    progress: Callable[[int], None],
    skin: SkinPass | None = None,
) -> FittedFrames:
    """Fit the frames of one shot from where an earlier run stopped. Constant memory until they are put together.

    skin: compares the frames' pictures too, which are read once more for it.
    Raises InputError when the disk is full.
    """
    stage = f"{_STAGE}-{shot}"
    done = work.count(stage)
    last = work.load(chunk_name(stage, done - 1)) if done else None
    motion = None if last is None else _motion_of(last)
    model = MotionModel(fitter)
    count = 0
    index = -1
    for chunk in seen_chunks(work):
        own = np.flatnonzero(chunk.shots == shot)
        if not len(own):
            continue
        index += 1
        count += len(own)
        if index < done:
            continue
        rows: list[_Row] = []
        for i in own:
            number, time_s = int(chunk.frames[i]), float(chunk.times_s[i])
            points = chunk.points[i] if chunk.held[i] else None
            refine = None if skin is None or points is None else skin.of_frame(number, points)
            with one_blas_thread():
                row, motion = _next(model, motion, points, (time_s, float(chunk.presence[i])), refine)
            rows.append(row)
            progress(number)
        columns = [np.array(column) for column in zip(*rows, strict=True)]
        arrays = dict(zip(_COLUMNS, columns, strict=True))
        arrays |= {"frames": chunk.frames[own], "times_s": chunk.times_s[own], **_pack_motion(motion)}
        work.save(chunk_name(stage, index), arrays)
    return _together(work, stage)


def _next(
    model: MotionModel,
    motion: MotionState | None,
    points: np.ndarray | None,
    shown: tuple[float, float],
    refine: Callable[[FrameFit, StatePrior | None], DenseFit] | None,
) -> tuple[_Row, MotionState | None]:
    """One frame: its row and the motion after it. shown: time and presence. refine: its skin."""
    fitter, (time_s, presence) = model.fitter, shown
    if points is None:
        motion = None if motion is None else model.coast(motion, time_s)
        state = np.zeros(fitter.size) if motion is None else motion.state
        return (state, np.full(fitter.size, np.inf), np.nan, 0.0, np.nan), motion
    if motion is not None and motion.missed and time_s - motion.time_s + motion.missed * motion.step_s > FORGOTTEN_S:
        motion = None
    prior, skin = None, np.nan
    if motion is None:
        fit = _from_scratch(fitter, points)
    else:
        prior = model.prior(motion, time_s, interocular_px(points))
        fit = fitter.fit(points, prior.mean, prior)
        if fit.error > _POOR:
            anew = _from_scratch(fitter, points)
            fit = anew if anew.error < 0.8 * fit.error else fit
    if refine is not None:
        dense = refine(fit, prior)
        fit, skin = dense.fit, dense.trust if dense.accepted else 0.0
    motion = model.advance(motion, fit.state, time_s)
    return (fit.state, fit.sigma, fit.error, confidence_of(presence, fit), skin), motion


def _from_scratch(fitter: FrameFitter, points: np.ndarray) -> FrameFit:
    """A frame without a frame before it: pose first, then twice everything."""
    fit = fitter.fit(points, fitter.start(points))
    for _ in range(2):
        fit = fitter.fit(points, fit.state)
    return fit


def _pack_motion(motion: MotionState | None) -> dict[str, np.ndarray]:
    if motion is None:
        return {"motion": np.zeros((0, 0))}
    numbers = np.array([motion.time_s, motion.step_s, motion.missed], float)
    return {"motion": np.stack([motion.state, motion.before]), "motion_numbers": numbers}


def _motion_of(arrays: dict[str, np.ndarray]) -> MotionState | None:
    if not arrays["motion"].size:
        return None
    state, before = arrays["motion"]
    time_s, step_s, missed = arrays["motion_numbers"]
    return MotionState(state, before, float(time_s), float(step_s), int(missed))


def _together(work: WorkFolder, stage: str) -> FittedFrames:
    names = ("frames", "times_s", *_COLUMNS)
    parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for arrays in work.chunks(stage):
        for name in names:
            parts[name].append(arrays[name])
    return FittedFrames(**{name: np.concatenate(parts[name]) for name in names})
