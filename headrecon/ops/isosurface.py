"""Marching cubes: a mesh of the surface where a field on a grid crosses a level.

W. Lorensen and H. Cline, "Marching Cubes", SIGGRAPH 1987, with one decision for ambiguous sides in both cells that
share them; the passes over rows of bits after W. Schroeder et al., "Flying Edges", LDAV 2015. The topology is that of
scikit-image's `marching_cubes(method="lorensen")`: the same vertices, as many faces, the same Euler number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headrecon.errors import ShapeError
from headrecon.ops import _native
from headrecon.ops._native_calls_isosurface import isosurface
from headrecon.ops._register import register_op
from headrecon.ops.reference.isosurface import BLOCK, cuts, isosurface_reference

MOST_SAMPLES = 2**31 - 1


@dataclass(frozen=True)
class IsoLevel:
    """Which surface, and where the grid lies.

    inside: the side of the level that is solid; faces are counter-clockwise seen from the other one. "above" for
    densities and occupancy, "below" for signed distances. A sample at the level itself is outside. origin: of sample
    (0,0,0), and spacing: from sample to sample, both in metres along x, y, z.
    """

    level: float = 0.0
    inside: Literal["above", "below"] = "above"
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class IsoSurface:
    """A triangle mesh. Vertices are shared: none appears twice, each belongs to a face.

    vertices: metres. faces: counter-clockwise seen from outside, so that normals point out of what is inside. colours:
    as the samples', interpolated; None without. edges: of each vertex the flat index (x * Y + y) * Z + z of the sample
    at the lower end of its edge, and the edge's axis.
    """

    vertices: Float[Tensor, "V 3"]
    faces: Int[Tensor, "F 3"]
    colours: Float[Tensor, "V D"] | None
    edges: Int[Tensor, "V 2"]


def extract_mesh(
    values: Float[Tensor, "X Y Z"],
    at: IsoLevel = IsoLevel(),
    colours: Float[Tensor, "X Y Z D"] | None = None,
    active: Bool[Tensor, "bx by bz"] | None = None,
) -> IsoSurface:
    """The surface of a dense grid. float32; colours in any space and of any number of channels.

    active: blocks of 8 x 8 x 8 samples ([ceil(X/8), ceil(Y/8), ceil(Z/8)]) that count; cells with a corner in another
    block are left out. Where the solid meets the border of the grid (or of what is active) the mesh is open there, and
    watertight everywhere else. A grid with less than two samples along an axis has no cells and gives an empty mesh.
    NaN is outside; next to a sample that is not finite vertices lie halfway.

    Differentiable in values and colours (which cell has which faces is a constant): vertices move along their edges.
    The result does not depend on the number of threads. Time grows with the samples, and with the surface's vertices;
    scratch takes one byte a sample. Raises ShapeError for wrong shapes or types; NativeMissing on a device without a
    built back end.
    """
    if values.ndim != 3 or values.dtype != torch.float32:
        raise ShapeError(f"extract_mesh: values must be float32 [X,Y,Z], found {values.dtype} {tuple(values.shape)}")
    size = (values.shape[0], values.shape[1], values.shape[2])
    _check_colours(values, colours)
    blocks = None
    if active is not None:
        expected = tuple((n + BLOCK - 1) // BLOCK for n in size)
        if tuple(active.shape) != expected or active.dtype != torch.bool:
            raise ShapeError(
                f"extract_mesh: active must be bool {expected}, a flag for each 8 x 8 x 8 samples of {size}; "
                f"found {active.dtype} {tuple(active.shape)}"
            )
        blocks = active.to(torch.int32) - 1
    return _extract(values, colours, blocks, size, at)


def extract_mesh_sparse(
    values: Float[Tensor, "N 8 8 8"],
    block_places: Int[Tensor, "N 3"],
    at: IsoLevel = IsoLevel(),
    colours: Float[Tensor, "N 8 8 8 D"] | None = None,
) -> IsoSurface:
    """The surface of a grid of which only some blocks of 8 x 8 x 8 samples exist; the rest as `extract_mesh`.

    block_places: block (i,j,k) holds samples (8 i .. 8 i + 7, ...); any integers, each place at most once. `at.origin`
    is that of sample (0,0,0). Cells between blocks belong to the mesh where all their corners exist. Scratch takes a
    byte for each sample of the box around all blocks (at most 2^31 samples, 4096 a side). `edges` of the result count
    in that box.
    """
    if values.ndim != 4 or values.shape[1:] != (BLOCK, BLOCK, BLOCK) or values.dtype != torch.float32:
        raise ShapeError(
            f"extract_mesh_sparse: values must be float32 [N,8,8,8], found {values.dtype} {tuple(values.shape)}"
        )
    if block_places.shape != (len(values), 3) or block_places.dtype.is_floating_point:
        raise ShapeError(
            f"extract_mesh_sparse: block_places must be integers {(len(values), 3)}, found {block_places.dtype} "
            f"{tuple(block_places.shape)}"
        )
    _check_colours(values, colours)
    if len(values) == 0:
        return _extract(values.new_empty(0, 0, 0), None if colours is None else colours[:, 0], None, (0, 0, 0), at)
    low, high = block_places.amin(0), block_places.amax(0)
    counts = (high - low + 1).tolist()
    blocks = torch.full(counts, -1, dtype=torch.int32, device=values.device)
    places = block_places.long() - low
    blocks[tuple(places.T)] = torch.arange(len(values), dtype=torch.int32, device=values.device)
    if int((blocks >= 0).sum()) != len(values):
        raise ShapeError("extract_mesh_sparse: block_places must name each place once, found one named twice")
    origin = tuple(o + BLOCK * k * s for o, k, s in zip(at.origin, low.tolist(), at.spacing, strict=True))
    moved = IsoLevel(at.level, at.inside, (origin[0], origin[1], origin[2]), at.spacing)
    return _extract(values, colours, blocks, (BLOCK * counts[0], BLOCK * counts[1], BLOCK * counts[2]), moved)


def _check_colours(values: Tensor, colours: Tensor | None) -> None:
    if colours is not None and (colours.shape[:-1] != values.shape or colours.dtype != torch.float32):
        raise ShapeError(
            f"colours must be float32 {(*values.shape, 'D')}, found {colours.dtype} {tuple(colours.shape)}"
        )


def _extract(
    values: Tensor, colours: Tensor | None, blocks: Tensor | None, size: tuple[int, int, int], at: IsoLevel
) -> IsoSurface:
    if at.inside not in ("above", "below"):
        raise ShapeError(f'IsoLevel: inside must be "above" or "below", found {at.inside!r}')
    if size[0] * size[1] * size[2] > MOST_SAMPLES:
        raise ShapeError(f"a grid may have at most {MOST_SAMPLES} samples, found {size}; extract it in parts")
    vertices, painted, edges, faces = _isosurface(
        values.detach(),
        None if colours is None else colours.detach(),
        blocks,
        list(size),
        [at.level, *at.origin, *at.spacing],
        at.inside == "below",
    )
    if values.requires_grad or (colours is not None and colours.requires_grad):
        vertices, painted = _moving(values, colours, blocks, edges, (size, at))
    return IsoSurface(vertices, faces, None if colours is None else painted, edges)


def _moving(
    values: Tensor,
    colours: Tensor | None,
    blocks: Tensor | None,
    edges: Tensor,
    where: tuple[tuple[int, int, int], IsoLevel],
) -> tuple[Tensor, Tensor]:
    """The same vertices and colours, as functions of the samples."""
    size, at = where
    sample, axis = edges[:, 0].long(), edges[:, 1].long()
    low = torch.stack([sample // (size[1] * size[2]), sample // size[2] % size[1], sample % size[2]], 1)
    along = torch.nn.functional.one_hot(axis, 3)

    def read(grid: Tensor, places: Tensor) -> Tensor:
        if values.ndim == 3:
            return grid[tuple(places.T)]
        assert blocks is not None
        return grid[blocks[tuple((places // BLOCK).T)].long(), *(places % BLOCK).T]

    cut = cuts(read(values, low), read(values, low + along), at.level)[:, None]
    vertices = (low + cut * along) * values.new_tensor(at.spacing) + values.new_tensor(at.origin)
    if colours is None:
        return vertices, values.new_empty(len(edges), 0)
    lower = read(colours, low)
    return vertices, lower + cut * (read(colours, low + along) - lower)


_SCHEMA = (
    "(Tensor values, Tensor? colours, Tensor? blocks, int[] size, float[] placement, bool below)"
    " -> (Tensor, Tensor, Tensor, Tensor)"
)


def _kernel(
    values: Tensor,
    colours: Tensor | None,
    blocks: Tensor | None,
    size: list[int],
    placement: list[float],
    below: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if min(size) < 2:
        return _nothing(values, colours, 0, 0)
    run = isosurface_reference if _native.use_reference(values) else isosurface
    grid = tuple(None if t is None else t.contiguous() for t in (values, colours, blocks))
    return run(grid, (size[0], size[1], size[2]), (placement[0], tuple(placement[1:4]), tuple(placement[4:7])), below)  # type: ignore[arg-type]


def _nothing(
    values: Tensor, colours: Tensor | None, vertices: Any, faces: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    channels = 0 if colours is None else colours.shape[-1]
    return (
        values.new_empty(vertices, 3),
        values.new_empty(vertices, channels),
        torch.empty(vertices, 2, dtype=torch.int32, device=values.device),
        torch.empty(faces, 3, dtype=torch.int32, device=values.device),
    )


def _fake(
    values: Tensor,
    colours: Tensor | None,
    blocks: Tensor | None,
    size: list[int],
    placement: list[float],
    below: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    context = torch.library.get_ctx()
    return _nothing(values, colours, context.new_dynamic_size(), context.new_dynamic_size())


_isosurface = register_op("isosurface", _SCHEMA, _kernel, _fake)
