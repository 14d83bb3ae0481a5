"""How a synthetic person looks apart from shape: drawn from a seed, every part of it can be set."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: Skin reflectances (sRGB) from light to dark: the middles of the six types of Fitzpatrick's scale as usually drawn.
SKIN_TONES: tuple[tuple[float, float, float], ...] = (
    (0.93, 0.80, 0.72), (0.89, 0.72, 0.61), (0.80, 0.61, 0.49),
    (0.66, 0.46, 0.34), (0.46, 0.30, 0.21), (0.29, 0.19, 0.14),
)  # fmt: skip
#: Hair from black to grey (sRGB), and how often it goes with light (types 1 to 3) and dark skin.
HAIR_COLOURS = (
    (0.07, 0.055, 0.05), (0.16, 0.10, 0.07), (0.30, 0.20, 0.13), (0.58, 0.44, 0.28), (0.42, 0.20, 0.11),
    (0.55, 0.54, 0.53),
)  # fmt: skip
_HAIR_ODDS = ((0.20, 0.30, 0.22, 0.13, 0.05, 0.10), (0.78, 0.14, 0.0, 0.0, 0.0, 0.08))
IRIS_COLOURS = ((0.24, 0.15, 0.09), (0.40, 0.28, 0.16), (0.38, 0.40, 0.30), (0.40, 0.50, 0.58))
_IRIS_ODDS = ((0.32, 0.22, 0.18, 0.28), (0.86, 0.14, 0.0, 0.0))


@dataclass(frozen=True)
class Look:
    """Colours are sRGB, strengths 0 (none) to about 1 (strong), lengths mm on a face of average size.

    skin: base colour. redness: blood under cheeks, nose, ears. mottling: uneven pigment. freckles, moles: counts.
    under_eyes: dark rings. beard: stubble to a short full beard. lips: how far they turn from skin to red.
    brow_mm: height of the brows. hair_mm: how far hair stands off the skull, 0 for a bald head.
    hairline: degrees that the hair line lies higher (receding) than usual. roughness: of the skin; 0.45 is oily.
    """

    tone: int
    skin: tuple[float, float, float]
    iris: tuple[float, float, float]
    hair: tuple[float, float, float]
    redness: float = 0.5
    mottling: float = 0.5
    freckles: int = 0
    moles: int = 3
    under_eyes: float = 0.3
    beard: float = 0.0
    lips: float = 0.4
    brows: float = 0.8
    brow_mm: float = 8.0
    lashes: float = 0.6
    hair_mm: float = 14.0
    hairline: float = 0.0
    roughness: float = 0.55


def draw_look(rng: np.random.Generator, tone: int | None = None, masculine: bool | None = None) -> Look:
    """A plausible look. tone: index of SKIN_TONES or drawn; masculine: beards and receding hair or not, or drawn."""
    tone = int(rng.integers(len(SKIN_TONES))) if tone is None else tone
    if masculine is None:
        masculine = bool(rng.random() < 0.5)
    kind = 0 if tone < 3 else 1
    warmth = 1 + rng.normal(0, 0.03, 3)
    skin = np.clip(np.array(SKIN_TONES[tone]) * warmth * (1 + rng.normal(0, 0.04)), 0.05, 0.97)
    hair = np.array(HAIR_COLOURS[rng.choice(len(HAIR_COLOURS), p=_HAIR_ODDS[kind])]) * rng.uniform(0.8, 1.15)
    iris = np.array(IRIS_COLOURS[rng.choice(len(IRIS_COLOURS), p=_IRIS_ODDS[kind])]) * rng.uniform(0.85, 1.15)
    freckled = kind == 0 and rng.random() < 0.3
    bearded = masculine and rng.random() < 0.65
    bald = rng.random() < (0.3 if masculine else 0.1)
    return Look(
        tone=tone,
        skin=_rgb(skin),
        iris=_rgb(iris),
        hair=_rgb(np.clip(hair, 0, 1)),
        redness=float(rng.uniform(0.2, 0.85)),
        mottling=float(rng.uniform(0.3, 0.9)),
        freckles=int(rng.integers(60, 260)) if freckled else 0,
        moles=int(rng.poisson(3)),
        under_eyes=float(rng.uniform(0.05, 0.6)),
        beard=float(rng.beta(1.3, 2.2)) if bearded else 0.0,
        lips=float(rng.uniform(0.25, 0.6) if masculine else rng.uniform(0.4, 0.95)),
        brows=float(rng.uniform(0.55, 0.95)),
        brow_mm=float(rng.uniform(7.0, 11.0) if masculine else rng.uniform(5.0, 8.5)),
        lashes=float(rng.uniform(0.3, 0.6) if masculine else rng.uniform(0.5, 1.0)),
        hair_mm=0.0 if bald else float(rng.uniform(6.0, 30.0)),
        hairline=float(rng.uniform(-4, 12) if masculine else rng.uniform(-5, 4)),
        roughness=float(rng.uniform(0.48, 0.68)),
    )


def _rgb(values: np.ndarray) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])
