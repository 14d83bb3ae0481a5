"""Expressions as people type them: `jawOpen=0.6,mouthSmileLeft=0.3`."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from headrecon.errors import InputError


def read_weights(text: str, names: Sequence[str]) -> Float[np.ndarray, " Ne"]:
    """Weights in the order of `names`; what is not named is 0. An empty text is the calm face.

    A name without its side means both: `eyeBlink=1` is `eyeBlinkLeft=1,eyeBlinkRight=1`. Raises InputError for an
    unknown name (with the nearest ones), a value that is no number, or one outside 0..1.
    """
    out, order = np.zeros(len(names)), list(names)
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, _, value = (s.strip() for s in part.partition("="))
        meant = [n for n in ((name,) if name in names else _sides(name)) if n in names]
        if not meant:
            raise InputError(
                f"no expression is named {name!r}" + _near(name, order) + f" (the head model has {len(names)}, such as "
                f"{', '.join(order[:3])})"
            )
        try:
            weight = float(value)
        except ValueError:
            raise InputError(f"expression {part!r}: expected NAME=WEIGHT such as jawOpen=0.6") from None
        if not 0 <= weight <= 1:
            raise InputError(f"expression {name}: weights go from 0 to 1, found {value}")
        for one in meant:
            out[order.index(one)] = weight
    return out


def _sides(name: str) -> tuple[str, ...]:
    """The expressions of both halves of the face. Jaw and mouth have no halves: they move to the left or the right."""
    return () if name in ("jaw", "mouth", "") else (f"{name}Left", f"{name}Right")


def _near(name: str, names: list[str]) -> str:
    """What was probably meant: spelt alike, or with the same word in it (`smile`)."""
    low = {n.lower(): n for n in names}
    found = [low[n] for n in difflib.get_close_matches(name.lower(), list(low), n=3, cutoff=0.6)]
    found += [n for n in names if len(name) > 2 and name.lower() in n.lower()]
    found = list(dict.fromkeys(found))[:4]
    found = found or [low[n] for n in difflib.get_close_matches(name.lower(), list(low), n=1, cutoff=0.4)]
    return f"; did you mean {' or '.join(found)}?" if found else ""
