"""Where a head is going: what is expected of the next frame before it is looked at."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from headrecon.fitting.video.frame_fit import FrameFitter, StatePrior

#: Deviations of a step of 1/30 s, by what moves: weights, radians, pixels per eye distance, log depth.
_STEPS = {"expression": 0.25, "jaw_pose": 0.15, "neck_pose": 0.05, "leye_pose": 0.2, "reye_pose": 0.2}
_TURN, _SHIFT, _DEPTH = 0.06, 0.12, 0.02
#: Lids and lips are the fastest.
_FAST, _FAST_STEP = ("eyeBlink", "mouthClose", "jawOpen", "mouthPress", "mouthRoll", "mouthFunnel", "mouthPucker"), 0.6
_USUAL_STEP_S = 1 / 30
#: Share of a head's speed that is left after each further frame in which nobody is seen.
_DAMPING = 0.8
#: After this long without a face nothing is expected of it any more.
FORGOTTEN_S = 0.7


@dataclass(frozen=True)
class MotionState:
    """The last two frames' states and times; missed: since when nobody is seen, in frames."""

    state: Float[np.ndarray, " S"]
    before: Float[np.ndarray, " S"]
    time_s: float
    step_s: float = _USUAL_STEP_S
    missed: int = 0


@dataclass(frozen=True)
class MotionModel:
    """What is known of how heads move. expression_names: of the state's first entries."""

    fitter: FrameFitter
    moving: tuple[str, ...] = field(default=("global_orient", "placement"))

    def predict(self, motion: MotionState, time_s: float) -> Float[np.ndarray, " S"]:
        """The state at `time_s`: the head goes on as it went, slowing down; the face stays as it was."""
        out = motion.state.copy()
        ahead = min((time_s - motion.time_s) / max(motion.step_s, 1e-3), 3.0)
        for name in self.moving:
            s = self.fitter.slices[name]
            out[s] += ahead * _DAMPING ** (1 + motion.missed) * (motion.state[s] - motion.before[s])
        orient = self.fitter.slices["global_orient"]
        out[orient] = np.clip(out[orient], -2.5, 2.5)
        return out

    def prior(self, motion: MotionState, time_s: float, eye_distance_px: float) -> StatePrior:
        """The prediction with what it may be off by."""
        steps = max((time_s - motion.time_s) / _USUAL_STEP_S, 0.25)
        sigma = np.empty(self.fitter.size)
        for name, value in _STEPS.items():
            sigma[self.fitter.slices[name]] = value
        for i, name in enumerate(self.fitter.person.surface.expression_names):
            if name.startswith(_FAST):
                sigma[i] = _FAST_STEP
        sigma[self.fitter.slices["global_orient"]] = _TURN
        sigma[self.fitter.slices["placement"]] = (_SHIFT * eye_distance_px, _SHIFT * eye_distance_px, _DEPTH)
        return StatePrior(self.predict(motion, time_s), sigma * np.sqrt(steps))

    def advance(self, motion: MotionState | None, state: Float[np.ndarray, " S"], time_s: float) -> MotionState:
        """After a frame that was seen."""
        if motion is None or motion.missed:
            return MotionState(state, state, time_s)
        return MotionState(state, motion.state, time_s, max(time_s - motion.time_s, 1e-3))

    def coast(self, motion: MotionState, time_s: float) -> MotionState:
        """After a frame in which nobody was seen."""
        ahead = self.predict(motion, time_s)
        return MotionState(ahead, motion.state, time_s, max(time_s - motion.time_s, 1e-3), motion.missed + 1)
