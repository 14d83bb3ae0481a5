"""How a synthetic person moves in a video: speech, blinks, gaze, turning head, moving camera; drawn from a seed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from headrecon.datasets.speech import draw_speech, eased, mouth_curves
from headrecon.geometry import so3

#: Share of a turn of the head that the shoulders do.
_SHOULDERS = 0.4
#: Each eye turns in by this much: what is looked at is a metre away.
_VERGENCE = math.radians(1.7)


@dataclass(frozen=True)
class MotionOptions:
    """What moves. talk, blink: whether. gaze, sway: degrees (of the eyes; of the head beside its turn).

    turn: degrees of yaw that the head reaches in the second half of the clip before it comes back, to the person's left
    when positive; 90 is profile. spin: degrees by which body and head turn round in the second half and stay, as on a
    swivel chair; 360 shows all of the head. camera: 0 on a tripod, 1 in a hand that walks slowly nearer. light: whether
    the light changes in the clip. moods: how strong slow expressions (smile, brows) get, 0..1.
    """

    talk: bool = True
    blink: bool = True
    gaze: float = 12.0
    sway: float = 5.0
    turn: float = 0.0
    spin: float = 0.0
    camera: float = 1.0
    light: bool = True
    moods: float = 0.35

    @staticmethod
    def still() -> MotionOptions:
        """A head that does not move at all: what a tracker then shows is its own noise."""
        return MotionOptions(talk=False, blink=False, gaze=0.0, sway=0.0, camera=0.0, light=False, moods=0.0)


@dataclass(frozen=True)
class HeadMotion:
    """Motion at T times. weights: ARKit names to weights 0..1. root, neck, eyes (left, right): axis-angle, radians.

    shift: of the head in metres. camera: turn (axis-angle) and shift of the camera, in its own axes (OpenGL: +y up).
    light: 0..1, how far between two lights. blinks: first and last time (seconds) at which lids are on their way.
    """

    weights: dict[str, Float[np.ndarray, " T"]]
    root: Float[np.ndarray, "T 3"]
    neck: Float[np.ndarray, "T 3"]
    eyes: Float[np.ndarray, "T 2 3"]
    shift: Float[np.ndarray, "T 3"]
    camera: Float[np.ndarray, "T 2 3"]
    light: Float[np.ndarray, " T"]
    blinks: tuple[tuple[float, float], ...]


def draw_motion(
    rng: np.random.Generator, times_s: Float[np.ndarray, " T"], seconds: float, options: MotionOptions
) -> HeadMotion:
    """Draw the motion of a clip of so many seconds and evaluate it at some times, however they are spaced."""
    t = np.asarray(times_s, dtype=np.float64)
    mouth, lids, gaze, head, hand, mood = rng.spawn(6)
    weights = mouth_curves(draw_speech(mouth, seconds), t) if options.talk else {}
    for name, curve in _moods(mood, t, seconds, options.moods).items():
        weights[name] = np.clip(weights.get(name, 0.0) + curve, 0, 1)
    eyes = _gaze(gaze, t, seconds, options.gaze)
    blinks = draw_blinks(lids, seconds) if options.blink else ()
    closed = sum((blink_curve(t, *blink) for blink in blinks), np.zeros(len(t)))
    _lids(weights, eyes, closed)
    yaw = math.radians(options.turn) * _there_and_back(t, seconds)
    sway = np.radians(options.sway) * _drift(head, t, 3) * (0.6, 1.0, 0.5)
    turn = sway + yaw[:, None] * (0, 1, 0)
    shift = 0.012 * min(options.sway / 5, 1.0) * _drift(head, t, 3)
    camera = np.stack([np.radians(1.2) * _drift(hand, t, 3) * (1, 1, 0.6), 0.012 * _drift(hand, t, 3)], axis=1)
    camera[:, 1, 2] -= 0.05 * t / max(seconds, 1e-9)  # walks nearer
    light = 0.5 - 0.5 * np.cos(2 * np.pi * t / max(seconds, 1e-9)) if options.light else np.zeros(len(t))
    return HeadMotion(
        weights=weights,
        root=_spun(_SHOULDERS * turn, math.radians(options.spin) * _round(t, seconds)),
        neck=(1 - _SHOULDERS) * turn,
        eyes=eyes,
        shift=shift,
        camera=options.camera * camera,
        light=light,
        blinks=tuple(blinks),
    )


def draw_blinks(rng: np.random.Generator, seconds: float) -> tuple[tuple[float, float], ...]:
    """Start and end of each blink: 150 to 300 ms long, more often than people's, to have some."""
    out, now = [], float(rng.uniform(0.4, 1.0))
    while now < seconds - 0.35:
        length = float(rng.uniform(0.15, 0.30))
        out.append((now, now + length))
        now += length + float(rng.uniform(0.7, 2.2))
    return tuple(out)


def blink_curve(times_s: Float[np.ndarray, " T"], start_s: float, end_s: float) -> Float[np.ndarray, " T"]:
    """0 to 1 and back: lids fall in 35 % of the time, stay for 15 % and rise in half of it."""
    u = (times_s - start_s) / (end_s - start_s)
    keys = np.array([0.0, 0.35, 0.5, 1.0])
    return eased(np.clip(u, 0, 1), keys, np.array([[0.0], [1.0], [1.0], [0.0]]))[:, 0]


def _lids(weights: dict[str, np.ndarray], eyes: np.ndarray, closed: np.ndarray) -> None:
    """Blinks, and lids that follow the gaze down and up."""
    down = np.clip(eyes[:, 0, 0] / math.radians(25), -1, 1)
    for side in ("Left", "Right"):
        weights[f"eyeBlink{side}"] = np.maximum(closed, 0.35 * np.maximum(down, 0))
        weights[f"eyeWide{side}"] = 0.4 * np.maximum(-down, 0) * (1 - closed)
        weights[f"eyeSquint{side}"] = np.clip(weights.get(f"eyeSquint{side}", 0.0) + 0.25 * closed, 0, 1)


def _moods(rng: np.random.Generator, t: np.ndarray, seconds: float, strength: float) -> dict[str, np.ndarray]:
    """Slow smiles and brows, a little uneven between the sides."""
    groups = (("mouthSmile", 1.0), ("cheekSquint", 0.5), ("browOuterUp", 0.8), ("browDown", 0.6), ("eyeSquint", 0.4))
    keys = np.append(np.arange(0.0, seconds, 0.9), seconds + 0.9)
    out = {}
    for name, share in groups:
        level = strength * share * rng.uniform(0, 1, (len(keys), 1)) * (rng.random((len(keys), 1)) < 0.5)
        curve = eased(t, keys, level)[:, 0]
        for side in ("Left", "Right"):
            out[name + side] = curve * float(rng.uniform(0.8, 1.0))
    out["browInnerUp"] = 0.8 * out["browOuterUpLeft"]
    return out


def _gaze(rng: np.random.Generator, t: np.ndarray, seconds: float, degrees: float) -> np.ndarray:
    """Fixations with saccades of 45 ms between them; both eyes together, converging on a point near the camera."""
    keys, values, now = [0.0], [np.zeros(2)], float(rng.uniform(0.3, 0.8))
    while now < seconds:
        aim = np.radians(degrees) * rng.uniform(-1, 1, 2) * (0.55, 1.0)
        keys += [now, now + 0.045]
        values += [values[-1], aim]
        now += float(rng.uniform(0.35, 1.2))
    keys.append(seconds + 1.0)
    values.append(values[-1])
    at = eased(t, np.array(keys), np.array(values))
    inwards = _VERGENCE if degrees else 0.0
    out = np.zeros((len(t), 2, 3))
    out[:, :, :2] = at[:, None]
    out[:, 0, 1] -= inwards  # the left eye turns to the person's right
    out[:, 1, 1] += inwards
    return out


def _there_and_back(t: np.ndarray, seconds: float) -> np.ndarray:
    """0 for the first two fifths, then to 1, held for a moment, and back to 0 before the end."""
    keys = np.array([0.0, 0.4, 0.62, 0.70, 0.94, 1.0]) * seconds
    return eased(t, keys, np.array([[0.0], [0.0], [1.0], [1.0], [0.0], [0.0]]))[:, 0]


def _round(t: np.ndarray, seconds: float) -> np.ndarray:
    """0 for the first quarter, then evenly to 1, where it stays from seven eighths on."""
    keys = np.array([0.0, 0.25, 0.875, 1.0]) * seconds
    return eased(t, keys, np.array([[0.0], [0.0], [1.0], [1.0]]))[:, 0]


def _spun(root: Float[np.ndarray, "T 3"], yaw: Float[np.ndarray, " T"]) -> Float[np.ndarray, "T 3"]:
    """The body's turns when the chair below has turned by `yaw`."""
    if not yaw.any():
        return root
    turned = so3.exp(yaw[:, None] * np.array([0.0, 1.0, 0.0])) @ so3.exp(root)
    return np.array([so3.log(matrix) for matrix in turned])


def _drift(rng: np.random.Generator, t: np.ndarray, count: int) -> np.ndarray:
    """Smooth wandering within about ±1: three slow waves a channel, 0 in the mean."""
    frequency = rng.uniform(0.12, 0.75, (3, count))
    phase = rng.uniform(0, 2 * np.pi, (3, count))
    size = rng.uniform(0.3, 1.0, (3, count)) / (1 + 2 * frequency)
    waves = size * np.sin(2 * np.pi * frequency * t[:, None, None] + phase)
    return waves.sum(1) / size.sum(0)
