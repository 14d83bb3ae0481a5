"""Expressions as people type them: `jawOpen=0.6,mouthSmileLeft=0.3`."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from headrecon.errors import InputError


def read_weights(text: str, names: Sequence[str]) -> Float[np.ndarray, " Ne"]:
    """Weights in the order of `names`; what is not named is 0. An empty text is the calm face.

    Raises InputError for an unknown name (with the nearest one), a value that is no number, or one outside 0..1.
    """
    out = np.zeros(len(names))
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, _, value = (s.strip() for s in part.partition("="))
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
            raise InputError(
                f"no expression is named {name!r}"
                + (f"; did you mean {near[0]}?" if near else "")
                + " (the head model "
                f"has {len(names)}, such as {', '.join(list(names)[:3])})"
            )
        try:
            weight = float(value)
        except ValueError:
            raise InputError(f"expression {part!r}: expected NAME=WEIGHT such as jawOpen=0.6") from None
        if not 0 <= weight <= 1:
            raise InputError(f"expression {name}: weights go from 0 to 1, found {value}")
        out[list(names).index(name)] = weight
    return out
