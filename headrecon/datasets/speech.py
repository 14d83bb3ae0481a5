"""Speech without sound: a line of mouth shapes in time, with lips that truly meet on m, b and p.

Shapes are ARKit weights chosen by eye on two head models; names that a model lacks are left out by the user of the
curves. Durations are those of conversational English, four to six syllables a second (Miller, Grosjean, Lomanto 1984).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

_BOTH = {
    "press": ("mouthPressLeft", "mouthPressRight"),
    "upper": ("mouthUpperUpLeft", "mouthUpperUpRight"),
    "lower": ("mouthLowerDownLeft", "mouthLowerDownRight"),
    "stretch": ("mouthStretchLeft", "mouthStretchRight"),
    "smile": ("mouthSmileLeft", "mouthSmileRight"),
}


def _shape(**weights: float) -> dict[str, float]:
    """ARKit weights; the short names above stand for both sides."""
    return {name: value for key, value in weights.items() for name in _BOTH.get(key, (key,))}


#: Visemes: mouth shapes of sounds that look alike.
VISEMES: dict[str, dict[str, float]] = {
    "rest": {},
    "mbp": _shape(jawOpen=0.06, mouthClose=0.06, press=0.35, mouthRollLower=0.15, mouthRollUpper=0.15),
    "fv": _shape(jawOpen=0.08, mouthRollLower=0.45, upper=0.25),
    "sz": _shape(jawOpen=0.06, stretch=0.2, lower=0.25, upper=0.15),
    "td": _shape(jawOpen=0.14, stretch=0.1, lower=0.12),
    "kg": _shape(jawOpen=0.2, lower=0.1),
    "a": _shape(jawOpen=0.5, lower=0.2, upper=0.15),
    "e": _shape(jawOpen=0.28, stretch=0.3, smile=0.15),
    "i": _shape(jawOpen=0.12, smile=0.35, stretch=0.25, lower=0.2),
    "o": _shape(jawOpen=0.32, mouthFunnel=0.55, mouthPucker=0.15),
    "u": _shape(jawOpen=0.1, mouthPucker=0.65, mouthFunnel=0.2),
}
_CONSONANTS, _CONSONANT_ODDS = ("mbp", "fv", "sz", "td", "kg"), (0.34, 0.1, 0.2, 0.2, 0.16)
_VOWELS, _VOWEL_ODDS = ("a", "e", "i", "o", "u"), (0.3, 0.2, 0.2, 0.17, 0.13)


@dataclass(frozen=True)
class Sound:
    """One sound: its viseme, from when to when (seconds), and how fully the shape is taken."""

    viseme: str
    start_s: float
    end_s: float
    strength: float = 1.0


def draw_speech(rng: np.random.Generator, seconds: float, start_s: float = 0.3) -> list[Sound]:
    """Syllables of a consonant and a vowel, with a pause after some, from `start_s` until the end."""
    sounds, now = [], start_s
    while now < seconds - 0.45:
        consonant = str(rng.choice(_CONSONANTS, p=_CONSONANT_ODDS))
        for viseme, low, high in (
            (consonant, 0.07, 0.11),
            (str(rng.choice(_VOWELS, p=_VOWEL_ODDS)), 0.09, 0.17),
        ):
            length = float(rng.uniform(low, high))
            # Closures are whole or none; other shapes are taken more or less fully.
            strength = 1.0 if viseme == "mbp" else float(rng.uniform(0.65, 1.1))
            sounds.append(Sound(viseme, now, now + length, strength))
            now += length
        if rng.random() < 0.18:
            pause = float(rng.uniform(0.12, 0.35))
            sounds.append(Sound("rest", now, now + pause))
            now += pause
    return sounds


def mouth_curves(sounds: list[Sound], times_s: Float[np.ndarray, " T"]) -> dict[str, Float[np.ndarray, " T"]]:
    """ARKit weights at the given times: each sound is held about its middle, and shapes pass smoothly between.

    m, b, p and pauses are held for half of their time, others for a moment, so that a closure is reached however short
    it is.
    """
    names = sorted({name for sound in sounds for name in VISEMES[sound.viseme]})
    keys_t, keys_w = [0.0], [np.zeros(len(names))]
    for sound in sounds:
        target = np.array([VISEMES[sound.viseme].get(name, 0.0) for name in names]) * sound.strength
        half = (0.25 if sound.viseme in ("mbp", "rest") else 0.06) * (sound.end_s - sound.start_s)
        middle = (sound.start_s + sound.end_s) / 2
        keys_t += [middle - half, middle + half]
        keys_w += [target, target]
    end = sounds[-1].end_s + 0.15 if sounds else 0.0
    keys_t.append(end + 1e-6)
    keys_w.append(np.zeros(len(names)))
    values = eased(np.asarray(times_s, dtype=np.float64), np.array(keys_t), np.array(keys_w))
    return {name: values[:, i] for i, name in enumerate(names)}


def eased(
    times: Float[np.ndarray, " T"], keys: Float[np.ndarray, " K"], values: Float[np.ndarray, "K D"]
) -> Float[np.ndarray, "T D"]:
    """Values at rising keys, with smooth steps between them that neither overshoot nor start with a jerk."""
    i = np.clip(np.searchsorted(keys, times, side="right") - 1, 0, len(keys) - 2)
    t = np.clip((times - keys[i]) / np.maximum(keys[i + 1] - keys[i], 1e-9), 0, 1)
    t = (t * t * (3 - 2 * t))[:, None]
    return values[i] * (1 - t) + values[i + 1] * t
