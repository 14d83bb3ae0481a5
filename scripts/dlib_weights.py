"""Reads the weights of dlib's face recognition network out of its `.dat` file, without dlib.

The file is dlib's serialised network: layers from input to output, each as a name and its settings, those that learn
with a tensor behind them: version, four sizes as packed integers, then little-endian 32-bit floats. We look for the
names of the layers that learn, in order, and read their tensors; the architecture itself is fixed and known.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from jaxtyping import Float

from headrecon.errors import AssetError

#: A layer's name with its length before it and the version of the tensor behind it; fc_2 has its sizes between them.
_LEARNED = re.compile(rb"\x01(?:\x05(con_4)|\x07(affine_)|\x04(fc_2)\x01\x80\x02\x00\x01)\x01\x02")


def read_tensors(path: Path, sizes: list[tuple[str, int]]) -> list[Float[np.ndarray, " N"]]:
    """The tensors of the layers that learn, flat, in the order of the file.

    sizes: kind of layer ("con_4", "affine_", "fc_2") and number of weights expected of each.
    Raises AssetError when the file is missing or is not that network.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise AssetError(f"the network {path} cannot be read ({error}); remove the model cache entry") from error
    tensors: list[np.ndarray] = []
    at = 0
    for kind, count in sizes:
        found = _LEARNED.search(content, at)
        name = None if found is None else next(g.decode() for g in found.groups() if g)
        if found is None or name != kind:
            raise _foreign(path, f"layer {len(tensors)} must be {kind}, found {name}")
        at, held = found.end(), 1
        for _ in range(4):
            size, at = _packed(content, at, path)
            held *= size
        end = at + 4 * count
        if held != count or end > len(content):
            raise _foreign(path, f"layer {len(tensors)} ({kind}) must have {count} weights, found {held}")
        tensors.append(np.frombuffer(content[at:end], "<f4"))
        at = end
    if not all(np.isfinite(t).all() for t in tensors):
        raise _foreign(path, "it holds NaN or infinity")
    return tensors


def _packed(content: bytes, at: int, path: Path) -> tuple[int, int]:
    """A packed integer (one byte that holds the number of bytes, then these, lowest first) and where it ends."""
    length = content[at] if at < len(content) else 0
    if not 0 < length <= 4:
        raise _foreign(path, f"a size at byte {at} is broken")
    return int.from_bytes(content[at + 1 : at + 1 + length], "little"), at + 1 + length


def _foreign(path: Path, what: str) -> AssetError:
    return AssetError(f"{path} is not the face recognition network that was expected: {what}; remove the cache entry")
