"""Marching cubes in plain torch: the twin of the native op, for the CPU without it and for its tests.

W. Lorensen and H. Cline, "Marching Cubes", SIGGRAPH 1987. A cell's faces follow from its sides: around each side of the
cell, every run of inside corners is cut off by one line, from where a walk around it enters them to where it leaves
them. Chained, the lines of the six sides are closed outlines; each becomes a fan of triangles.
"""

from __future__ import annotations

from functools import cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

BLOCK = 8
WORD_BITS = 64

#: Offsets (dx,dy,dz) of corner 4 dx + 2 dy + dz.
CORNERS = [(c >> 2 & 1, c >> 1 & 1, c & 1) for c in range(8)]


def _ends(edge: int) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Corners that edge 4 axis + 2 o1 + o2 joins; o1 and o2 are its offsets along the other two axes."""
    axis, others = edge // 4, [edge >> 1 & 1, edge & 1]
    lower, upper = list(others), list(others)
    lower.insert(axis, 0)
    upper.insert(axis, 1)
    return tuple(lower), tuple(upper)  # type: ignore[return-value]


_EDGE_OF = {frozenset(_ends(e)): e for e in range(12)}


def _sides_of(edge: int) -> set[tuple[int, int]]:
    """The two sides (axis, upper or lower) of the cell that an edge lies on."""
    a, b = _ends(edge)
    return {(axis, a[axis]) for axis in range(3) if a[axis] == b[axis]}


def _walk_around(axis: int, upper: int) -> list[tuple[int, int, int]]:
    """The corners of a side, counter-clockwise seen from outside the cell."""
    corners = []
    for u, v in [(0, 0), (1, 0), (1, 1), (0, 1)][:: 1 if upper else -1]:
        corner = [0, 0, 0]
        corner[axis], corner[(axis + 1) % 3], corner[(axis + 2) % 3] = upper, u, v
        corners.append((corner[0], corner[1], corner[2]))
    return corners


def _outlines(inside: set[tuple[int, int, int]]) -> list[list[int]]:
    """Closed chains of edges around what is inside, each from its lowest edge on."""
    follows: dict[int, int] = {}
    for axis in range(3):
        for upper in range(2):
            corners = _walk_around(axis, upper)
            for i, corner in enumerate(corners):
                if corner in inside and corners[i - 1] not in inside:
                    last = i
                    while corners[(last + 1) % 4] in inside:
                        last += 1
                    enters = _EDGE_OF[frozenset((corners[i - 1], corner))]
                    follows[enters] = _EDGE_OF[frozenset((corners[last % 4], corners[(last + 1) % 4]))]
    chains = []
    while follows:
        chain = [min(follows)]
        while (following := follows.pop(chain[-1])) != chain[0]:
            chain.append(following)
        chains.append(chain)
    return chains


def _fan(chain: list[int]) -> list[tuple[int, int, int]]:
    """Triangles from the first edge whose diagonals lie on no side of the cell, where a neighbour's might lie as
    well."""
    for start in range(len(chain)):
        turned = chain[start:] + chain[:start]
        if not any(_sides_of(turned[0]) & _sides_of(other) for other in turned[2:-1]):
            return [(turned[0], turned[k], turned[k + 1]) for k in range(1, len(turned) - 1)]
    raise AssertionError("every outline has a corner to start from")


@cache
def faces_of_cases() -> list[list[tuple[int, int, int]]]:
    """For each of 256 cases (bit c: corner c is inside) the triangles, as edges, counter-clockwise seen from
    outside."""
    table = []
    for case in range(256):
        inside = {corner for c, corner in enumerate(CORNERS) if case >> c & 1}
        table.append([face for chain in _outlines(inside) for face in _fan(chain)])
    return table


def dense_of_blocks(
    values: Float[Tensor, "N 8 8 8 *D"], blocks: Int[Tensor, "bx by bz"], size: tuple[int, int, int]
) -> Float[Tensor, "X Y Z *D"]:
    """A sparse grid as a dense one, 0 where nothing is."""
    dense = values.new_zeros(*(BLOCK * n for n in blocks.shape), *values.shape[4:])
    for x, y, z in (blocks >= 0).nonzero().tolist():
        at = tuple(slice(BLOCK * k, BLOCK * (k + 1)) for k in (x, y, z))
        dense[at] = values[int(blocks[x, y, z])]
    return dense[: size[0], : size[1], : size[2]]


def isosurface_reference(
    grid: tuple[Tensor, Tensor | None, Tensor | None],
    size: tuple[int, int, int],
    placement: tuple[float, tuple[float, ...], tuple[float, ...]],
    below: bool,
) -> tuple[Float[Tensor, "V 3"], Float[Tensor, "V D"], Int[Tensor, "V 2"], Int[Tensor, "F 3"]]:
    """As `_native_calls_isosurface.isosurface`, vertex by vertex and face by face in the same order."""
    values, colours, blocks = grid
    present = torch.ones(size, dtype=torch.bool, device=values.device)
    if blocks is not None:
        there = blocks >= 0
        for axis in range(3):
            there = there.repeat_interleave(BLOCK, axis)
        present = there[: size[0], : size[1], : size[2]]
        if values.ndim == 4:
            values = dense_of_blocks(values, blocks, size)
            colours = None if colours is None else dense_of_blocks(colours, blocks, size)
    level, origin, spacing = placement
    inside = ((values < level) if below else (values > level)) & present
    cases, cells = _cases(inside, present)
    keys, faces = _faces(cases, cells, size)
    return *_vertices(keys, values, colours, (level, origin, spacing)), faces


def _cases(inside: Bool[Tensor, "X Y Z"], present: Bool[Tensor, "X Y Z"]) -> tuple[Tensor, Tensor]:
    """Case of each cell, and (x,y,z) of those with faces, in order."""
    x, y, z = inside.shape
    cases = torch.zeros(x - 1, y - 1, z - 1, dtype=torch.long, device=inside.device)
    whole = torch.ones_like(cases, dtype=torch.bool)
    for c, (dx, dy, dz) in enumerate(CORNERS):
        corner = (slice(dx, x - 1 + dx), slice(dy, y - 1 + dy), slice(dz, z - 1 + dz))
        cases += inside[corner].long() << c
        whole &= present[corner]
    return cases, ((cases > 0) & (cases < 255) & whole).nonzero()


def _faces(cases: Tensor, cells: Int[Tensor, "C 3"], size: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """Edges that have a vertex [V,4] (axis, x, y, z of their lower ends), and the faces' indices into them.

    Vertices are in the order of x, y, words of 64 samples along z, axis, z, as the native op numbers them.
    """
    table = faces_of_cases()
    corners = torch.full((256, 5, 3), -1, dtype=torch.long)
    for case, found in enumerate(table):
        if found:
            corners[case, : len(found)] = torch.tensor(found)
    edges = corners.to(cells.device)[cases[cells[:, 0], cells[:, 1], cells[:, 2]]]  # [C,5,3]
    lower = torch.tensor([[e // 4, *_ends(e)[0]] for e in range(12)], device=cells.device)
    used = edges[..., 0] >= 0
    at = lower[edges[used]]  # [F,3,4]
    at[..., 1:] += cells[:, None, None, :].expand(-1, 5, 3, -1)[used]
    axis, x, y, z = at.unbind(-1)
    word = (x * size[1] + y) * ((size[2] + WORD_BITS - 1) // WORD_BITS) + z // WORD_BITS
    numbers, faces = torch.unique((word * 3 + axis) * WORD_BITS + z % WORD_BITS, return_inverse=True)
    keys = at.new_empty(len(numbers), 4)
    keys[faces.flatten()] = at.flatten(0, 1)
    return keys, faces.int()


def _vertices(
    keys: Int[Tensor, "V 4"],
    values: Tensor,
    colours: Tensor | None,
    placement: tuple[float, tuple[float, ...], tuple[float, ...]],
) -> tuple[Tensor, Tensor, Tensor]:
    level, origin, spacing = placement
    axis, lower = keys[:, 0], keys[:, 1:]
    upper = lower + torch.nn.functional.one_hot(axis, 3)
    cut = cuts(values[tuple(lower.T)], values[tuple(upper.T)], level)
    index = lower + cut[:, None] * torch.nn.functional.one_hot(axis, 3)
    vertices = index.to(values.dtype) * values.new_tensor(spacing) + values.new_tensor(origin)
    size = values.shape
    sample = (lower[:, 0] * size[1] + lower[:, 1]) * size[2] + lower[:, 2]
    if colours is None:
        painted = values.new_empty(len(keys), 0)
    else:
        painted = colours[tuple(lower.T)] + cut[:, None] * (colours[tuple(upper.T)] - colours[tuple(lower.T)])
    return vertices, painted, torch.stack([sample, axis], 1).int()


def cuts(lower: Float[Tensor, " V"], upper: Float[Tensor, " V"], level: float) -> Float[Tensor, " V"]:
    """How far along its edge each vertex lies; halfway where a sample is not finite. Differentiable in the samples."""
    t = (level - lower) / (upper - lower)
    return torch.where((t >= 0) & (t <= 1), t, torch.full_like(t, 0.5))
