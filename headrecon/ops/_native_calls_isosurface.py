"""The call of native marching cubes. See `_native_calls`."""

from __future__ import annotations

from ctypes import c_float

import torch
from torch import Tensor

from headrecon.errors import ShapeError
from headrecon.ops import _native
from headrecon.ops._native import num_threads
from headrecon.ops._native_calls import _pointers
from headrecon.ops._native_params_isosurface import IsosurfaceParams

WORD_BITS = 64
MOST_NUMBERED = 2**31 - 1  # vertices and faces are int32
_BLOCKS = "blocks must number the blocks of values, or be -1 where there is none; found higher numbers"
_SIZES = "2 to 4096 samples a side, fewer than 2^31 samples, vertices and faces"


def isosurface(
    grid: tuple[Tensor, Tensor | None, Tensor | None],
    size: tuple[int, int, int],
    placement: tuple[float, tuple[float, ...], tuple[float, ...]],
    below: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Vertices [V,3], their colours [V,D], edges [V,2] and faces [F,3].

    grid: values [X,Y,Z] or [N,8,8,8], colours (the same with [D]) or None, blocks int32 [bx,by,bz] or None: contiguous.
    size: X, Y, Z. placement: level, origin, spacing.
    """
    values, colours, blocks = grid
    channels = 0 if colours is None else colours.shape[-1]
    words = (size[0], size[1], (size[2] + WORD_BITS - 1) // WORD_BITS)
    bits = torch.empty(5, *words, dtype=torch.int64, device=values.device)
    present = None if blocks is None else torch.empty(words, dtype=torch.int64, device=values.device)
    starts = torch.empty(4, *words, dtype=torch.int32, device=values.device)
    totals = torch.empty(2, dtype=torch.int64, device=values.device)
    level, origin, spacing = placement

    def run(op: str, made: tuple[Tensor | None, ...]) -> None:
        params = IsosurfaceParams(
            *_pointers(values, colours, blocks, bits, present, starts, totals, *made),
            len(values) if values.ndim == 4 else 0, *size, channels, int(below), num_threads(), level,
            (c_float * 3)(*origin), (c_float * 3)(*spacing),
        )  # fmt: skip
        _native._run(op, params, values, _BLOCKS, _SIZES)

    run("isosurface_count", (None, None, None, None))
    vertices, faces = (int(n) for n in totals.tolist())
    if max(vertices, faces) > MOST_NUMBERED:  # a GPU's kernels cannot say so themselves
        raise ShapeError(f"isosurface_count: a size is out of range ({_SIZES})")
    made = (
        values.new_empty(vertices, 3),
        values.new_empty(vertices, channels),
        torch.empty(vertices, 2, dtype=torch.int32, device=values.device),
        torch.empty(faces, 3, dtype=torch.int32, device=values.device),
    )
    if vertices:
        run("isosurface_fill", (made[0], made[1] if channels else None, made[2], made[3]))
    return made
