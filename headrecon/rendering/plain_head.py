"""Colours for a head that has no texture: skin, lips, brows, eyes with irises, teeth. What a detector needs to see."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from headrecon.structures import HeadAssets

#: Horizontal visible iris diameter, mean of adults (Rüfer, Schröder, Erb 2005).
IRIS_DIAMETER_M = 0.01171
#: Tones of what is not skin, in even light.
PART_SRGB: dict[str, tuple[float, float, float]] = {
    "mouth": (0.42, 0.16, 0.15),
    "leye": (0.90, 0.88, 0.86),
    "reye": (0.90, 0.88, 0.86),
    "upper_teeth": (0.90, 0.87, 0.80),
    "lower_teeth": (0.88, 0.85, 0.78),
    "teeth": (0.90, 0.87, 0.80),
    "gums": (0.68, 0.36, 0.35),
    "tongue": (0.70, 0.36, 0.35),
}


@dataclass(frozen=True)
class PlainColours:
    """sRGB colours of a plain head."""

    skin: tuple[float, float, float] = (0.80, 0.61, 0.52)
    iris: tuple[float, float, float] = (0.30, 0.21, 0.13)
    pupil: tuple[float, float, float] = (0.03, 0.03, 0.03)
    brows: tuple[float, float, float] = (0.22, 0.15, 0.11)
    #: How far lips turn towards red, 0..1.
    lips: float = 0.35


def plain_head(assets: HeadAssets, colours: PlainColours = PlainColours()) -> Float[np.ndarray, "V 3"]:
    """sRGB per vertex: the model's parts, its regions "lips" and "brows" and round irises, where it has them."""
    out = np.tile(np.asarray(colours.skin, dtype=np.float64), (assets.num_vertices, 1))
    lip_colour = out[0] * (1.0, 0.70, 0.70)
    for region, target, strength in (
        ("lips", lip_colour, colours.lips / 0.35),
        ("brows", np.array(colours.brows), 0.9),
    ):
        if region in assets.regions:
            share = np.clip(assets.regions[region][:, None].astype(np.float64) * strength, 0, 1)
            out = out * (1 - share) + target * share
    for part, colour in PART_SRGB.items():
        ids = np.unique(assets.faces[assets.faces_of(part)])
        out[ids[ids >= 0]] = colour
    for part in ("leye", "reye"):
        ids = np.unique(assets.faces[assets.faces_of(part)])
        _paint_iris(out, assets, ids[ids >= 0], colours)
    return out.astype(np.float32)


def _paint_iris(out: np.ndarray, assets: HeadAssets, ids: np.ndarray, colours: PlainColours) -> None:
    """Discs on the front of an eyeball, centred on its axis (+z at rest)."""
    if ids.size == 0:
        return
    points = assets.v_template[ids]
    centre = (points.max(0) + points.min(0)) / 2
    radius = np.hypot(points[:, 0] - centre[0], points[:, 1] - centre[1])
    front = points[:, 2] > centre[2]
    out[ids[front & (radius < IRIS_DIAMETER_M / 2)]] = colours.iris
    out[ids[front & (radius < 0.0021)]] = colours.pupil
