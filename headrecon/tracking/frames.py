"""Second pass over what was seen: every frame is fitted, in order, and kept in chunks on disk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from headrecon.fitting.blas_threads import one_blas_thread
from headrecon.fitting.landmark_groups import interocular_px
from headrecon.fitting.video.frame_fit import FrameFit, FrameFitter
from headrecon.fitting.video.motion import FORGOTTEN_S, MotionModel, MotionState
from headrecon.io.work_folder import WorkFolder, chunk_name
from headrecon.tracking.seen import seen_chunks

_STAGE = "fitted"
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
    """All frames of a segment. sigma is infinite where nobody was seen and the state was carried on."""

    frames: Int[np.ndarray, " T"]
    times_s: Float[np.ndarray, " T"]
    states: Float[np.ndarray, "T S"]
    sigmas: Float[np.ndarray, "T S"]
    errors: Float[np.ndarray, " T"]
    confidence: Float[np.ndarray, " T"]


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
) -> FittedFrames:
    """Fit the frames of one shot from where an earlier run stopped. Constant memory until they are put together.

    further: residuals to add for a frame, from its index and the state expected.
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
        rows: list[tuple[np.ndarray, np.ndarray, float, float]] = []
        with one_blas_thread():
            for i in own:
                time_s = float(chunk.times_s[i])
                points = chunk.points[i] if chunk.held[i] else None
                row, motion = _next(model, motion, points, (time_s, float(chunk.presence[i])))
                rows.append(row)
                progress(int(chunk.frames[i]))
        columns = [np.array(column) for column in zip(*rows, strict=True)]
        arrays = dict(zip(("states", "sigmas", "errors", "confidence"), columns, strict=True))
        arrays |= {"frames": chunk.frames[own], "times_s": chunk.times_s[own], **_pack_motion(motion)}
        work.save(chunk_name(stage, index), arrays)
    return _together(work, stage)


def _next(
    model: MotionModel, motion: MotionState | None, points: np.ndarray | None, shown: tuple[float, float]
) -> tuple[tuple[np.ndarray, np.ndarray, float, float], MotionState | None]:
    """One frame: its row and the motion after it. shown: time and presence."""
    fitter, (time_s, presence) = model.fitter, shown
    if points is None:
        motion = None if motion is None else model.coast(motion, time_s)
        state = np.zeros(fitter.size) if motion is None else motion.state
        return (state, np.full(fitter.size, np.inf), np.nan, 0.0), motion
    if motion is not None and motion.missed and time_s - motion.time_s + motion.missed * motion.step_s > FORGOTTEN_S:
        motion = None
    if motion is None:
        fit = _from_scratch(fitter, points)
    else:
        prior = model.prior(motion, time_s, interocular_px(points))
        fit = fitter.fit(points, prior.mean, prior)
        if fit.error > _POOR:
            anew = _from_scratch(fitter, points)
            fit = anew if anew.error < 0.8 * fit.error else fit
    motion = model.advance(motion, fit.state, time_s)
    return (fit.state, fit.sigma, fit.error, confidence_of(presence, fit)), motion


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
    names = ("frames", "times_s", "states", "sigmas", "errors", "confidence")
    parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for arrays in work.chunks(stage):
        for name in names:
            parts[name].append(arrays[name])
    return FittedFrames(**{name: np.concatenate(parts[name]) for name in names})
