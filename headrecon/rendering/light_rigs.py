"""Named lights for `--relight`, lights from panoramas, and lights as plain documents."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from headrecon.errors import InputError
from headrecon.rendering.lighting import Lighting, ambient, soft_front, studio

_Colour = tuple[float, float, float]
#: A panorama is averaged down to this many rows before it is projected.
_PANORAMA_ROWS = 64


def _rig(*lamps: tuple[_Colour, _Colour], top: _Colour, bottom: _Colour) -> Lighting:
    """Lamps (direction in view axes, colour) and a sky; all travels with the camera."""
    directions = np.array([d for d, _ in lamps], dtype=np.float32).reshape(-1, 3)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    colours = np.array([c for _, c in lamps], dtype=np.float32).reshape(-1, 3)
    return Lighting(np.asarray(ambient(top, bottom), dtype=np.float32), directions, colours, "view")


def _left() -> Lighting:
    lamp = ((-0.95, 0.25, 0.30), (1.05, 1.00, 0.93))
    return _rig(lamp, top=(0.10, 0.11, 0.13), bottom=(0.05, 0.05, 0.05))


def _right() -> Lighting:
    lamp = ((0.95, 0.25, 0.30), (1.05, 1.00, 0.93))
    return _rig(lamp, top=(0.10, 0.11, 0.13), bottom=(0.05, 0.05, 0.05))


def _top() -> Lighting:
    lamp = ((0.0, 1.0, 0.22), (1.05, 1.02, 0.98))
    return _rig(lamp, top=(0.16, 0.17, 0.19), bottom=(0.06, 0.055, 0.05))


def _rim() -> Lighting:
    lamps = (((-0.85, 0.25, -0.75), (1.5, 1.5, 1.55)), ((0.85, 0.25, -0.75), (1.5, 1.45, 1.35)))
    return _rig(*lamps, top=(0.16, 0.16, 0.18), bottom=(0.08, 0.08, 0.08))


def _sunset() -> Lighting:
    lamp = ((0.85, 0.12, 0.45), (1.35, 0.74, 0.36))
    return _rig(lamp, top=(0.20, 0.26, 0.40), bottom=(0.16, 0.10, 0.07))


def _overcast() -> Lighting:
    return _rig(top=(0.95, 0.98, 1.02), bottom=(0.30, 0.29, 0.28))


_RIGS: dict[str, Callable[[], Lighting]] = {
    "studio": studio,
    "soft_front": soft_front,
    "left": _left,
    "right": _right,
    "top": _top,
    "rim": _rim,
    "sunset": _sunset,
    "overcast": _overcast,
}
#: Lights that `named_light` knows. "left" and "right" are the viewer's.
LIGHT_NAMES: tuple[str, ...] = tuple(_RIGS)


def named_light(name: str) -> Lighting:
    """One of LIGHT_NAMES; all travel with the camera. Raises InputError for another name."""
    if name not in _RIGS:
        raise InputError(f"there is no light named {name!r}; choose one of {', '.join(LIGHT_NAMES)}")
    return _RIGS[name]()


def light_to_document(lighting: Lighting) -> dict[str, Any]:
    """A light as plain numbers, for JSON: `light_from_document` reads it back."""
    return {
        "space": lighting.space,
        "ambient_sh": np.asarray(lighting.ambient_sh, dtype=float).round(6).tolist(),
        "directions": np.asarray(lighting.directions, dtype=float).round(6).tolist(),
        "intensities": np.asarray(lighting.intensities, dtype=float).round(6).tolist(),
    }


def light_from_document(document: Mapping[str, Any]) -> Lighting:
    """The light in a document as `light_to_document` writes it, or in the `light` of a `head.json`.

    Lamps may be left out. Raises InputError that names what is missing or malformed.
    """
    found = document.get("light", document)
    if not isinstance(found, Mapping) or "ambient_sh" not in found:
        raise InputError("a light needs the key 'ambient_sh' (nine rows of red, green, blue); it is not there")
    arrays = {}
    for key, rows in (("ambient_sh", 9), ("directions", None), ("intensities", None)):
        try:
            array = np.asarray(found.get(key, ()), dtype=np.float32).reshape(-1, 3)
        except (TypeError, ValueError) as error:
            raise InputError(f"a light's {key!r} must be rows of three numbers, found something else") from error
        if (rows is not None and len(array) != rows) or not np.isfinite(array).all():
            wanted = "finite rows of three numbers" if rows is None else f"{rows} finite rows of three numbers"
            raise InputError(f"a light's {key!r} must be {wanted}, found {len(array)} rows")
        arrays[key] = array
    directions, intensities, space = arrays["directions"], arrays["intensities"], found.get("space", "view")
    if len(directions) != len(intensities):
        raise InputError(f"a light has {len(directions)} directions and {len(intensities)} intensities; give as many")
    if space not in ("view", "world"):
        raise InputError(f"a light's 'space' must be 'view' or 'world', found {space!r}")
    length = np.linalg.norm(directions, axis=1, keepdims=True)
    if (length < 1e-6).any():
        raise InputError("a light's directions must not be zero")
    return Lighting(arrays["ambient_sh"], (directions / length).astype(np.float32), intensities, space)


def light_from_panorama(image_linear: Float[np.ndarray, "H W 3"], level: float = 0.9) -> Lighting:
    """Light of an equirectangular panorama (linear radiance): its sun or window as a lamp, the rest as harmonics.

    The middle of the picture is what lies behind the camera, that is in front of the face; row 0 is straight up.
    level: what a white matt surface shows on average over all normals; panoramas come in any exposure.
    Raises InputError for a picture without light.
    """
    image = np.maximum(np.nan_to_num(np.asarray(image_linear, dtype=np.float64)), 0)
    step = max(1, image.shape[0] // _PANORAMA_ROWS)
    rows, columns = image.shape[0] // step, image.shape[1] // step
    small = image[: rows * step, : columns * step].reshape(rows, step, columns, step, 3).mean((1, 3))
    up = math.pi * (0.5 - (np.arange(rows) + 0.5) / rows)[:, None]
    around = 2 * math.pi * ((np.arange(columns) + 0.5) / columns - 0.5)[None]
    # The panorama is seen from inside: to the right of its middle is the viewer's left when the face looks at it.
    directions = np.stack(
        np.broadcast_arrays(-np.sin(around) * np.cos(up), np.sin(up), np.cos(around) * np.cos(up)), -1
    )
    solid = np.broadcast_to(np.cos(up) * (math.pi / rows) * (2 * math.pi / columns), (rows, columns))
    mean = (small * solid[..., None]).sum((0, 1)) / solid.sum()
    if float(mean.mean()) < 1e-9:
        raise InputError("the panorama holds no light: every pixel is black")
    small = small * (level / float(mean.mean()))
    lamp, rest = _lamp_of(small, directions, solid)
    flat = directions.reshape(-1, 3)
    power = (rest * solid[..., None]).reshape(-1, 3)
    sh = _harmonics(flat).T @ power
    return Lighting(sh.astype(np.float32), lamp[0], lamp[1], "view")


def _lamp_of(
    image: np.ndarray, directions: np.ndarray, solid: np.ndarray
) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """The brightest small source as a lamp, if it gives a good part of the light, and the picture without it."""
    luma = image @ np.array([0.2126, 0.7152, 0.0722])
    total = float((luma * solid).sum())
    peak = directions.reshape(-1, 3)[int(np.argmax(luma))]
    near = (directions @ peak) > math.cos(math.radians(14))
    median = float(np.median(luma[near]))
    glow = np.clip(luma - 2 * median, 0, None) / np.maximum(luma, 1e-12) * near
    power = (image * (glow * solid)[..., None]).sum((0, 1))
    if float(power @ np.array([0.2126, 0.7152, 0.0722])) < 0.1 * total:
        return (np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float32)), image
    weight = (glow * luma * solid)[..., None]
    centre = (directions * weight).sum((0, 1))
    direction = (centre / np.linalg.norm(centre)).astype(np.float32)[None]
    # Irradiance over pi: what a white matt surface that faces the lamp shows.
    return (direction, (power / math.pi).astype(np.float32)[None]), image * (1 - glow)[..., None]


def _harmonics(directions: np.ndarray) -> np.ndarray:
    import torch

    from headrecon.geometry.harmonics import evaluate_harmonics

    return evaluate_harmonics(torch.from_numpy(directions), 2).numpy()
