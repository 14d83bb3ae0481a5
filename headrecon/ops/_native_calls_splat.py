"""Calls of the native ops of Gaussian splatting: they make room for the results and fill in the parameter structs.

All arguments are checked, contiguous, float32 or int32, and on one device, as `ops/_splat_ops.py` leaves them. B sets
of N Gaussians are seen by C cameras each, which makes I = B C images.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from headrecon.errors import ShapeError
from headrecon.ops import _native
from headrecon.ops._native import ISA, num_threads
from headrecon.ops._native_calls import _pointers
from headrecon.ops._native_params_splat import (
    SplatCompositeGradParams,
    SplatCompositeParams,
    SplatHarmonicsGradParams,
    SplatHarmonicsParams,
    SplatProjectGradParams,
    SplatProjectParams,
    SplatTilesParams,
)
from headrecon.ops.reference.splat import SplatView
from headrecon.ops.reference.splat_composite import SplatGrads, SplatImages, SplatInputs

_INDICES = "the lists of splats must number the splats (0..N-1), found others"
_SIZES = "pictures of 1 to 16384 pixels a side, tiles of 4 to 32 pixels in steps of 4, at least one channel"


def _run(op: str, params: object, like: Tensor) -> None:
    _native._run(op, params, like, _INDICES, _SIZES)  # type: ignore[arg-type]


def _views(viewmats: Tensor) -> tuple[int, int]:
    return viewmats.shape[0], viewmats.shape[1]


def project(
    gaussians: tuple[Tensor, ...],
    cameras: tuple[Tensor, Tensor],
    view: SplatView,
    with_normals: bool,
    isa: str = "auto",
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Splats [B,C,N,8], radii [B,C,N,2], normals [B,C,N,3] (or [0]), tiles int32 [B,C,N], totals int64 [B,C]."""
    means = gaussians[0]
    shape = (*_views(cameras[0]), means.shape[1])
    splats, radii = means.new_empty(*shape, 8), means.new_empty(*shape, 2)
    normals = means.new_empty(*shape, 3) if with_normals else None
    tiles = means.new_empty(shape, dtype=torch.int32)
    totals = means.new_zeros(shape[:2], dtype=torch.int64)
    if splats.numel():
        params = SplatProjectParams(
            *_pointers(*gaussians, *cameras, splats, radii, normals, tiles, totals), *shape,
            view.height, view.width, view.tile_size, int(view.antialiased), num_threads(), ISA[isa],
            view.near_z, view.far_z, view.eps2d, view.radius_clip,
        )  # fmt: skip
        _run("splat_project", params, means)
    return splats, radii, means.new_empty(0) if normals is None else normals, tiles, totals


def project_backward(
    gaussians: tuple[Tensor, ...],
    cameras: tuple[Tensor, Tensor],
    view: SplatView,
    seen: tuple[Tensor, Tensor, Tensor | None],
    needs: Sequence[bool],
    isa: str = "auto",
) -> list[Tensor | None]:
    """Gradients of means, quats, scales, opacities, viewmats. seen: radii and the gradients of splats and normals."""
    outs = [torch.empty_like(t) if need else None for t, need in zip((*gaussians, cameras[0]), needs, strict=True)]
    if seen[1].numel() == 0:
        return [None if t is None else t.zero_() for t in outs]
    params = SplatProjectGradParams(
        *_pointers(*gaussians, *cameras, *seen, *outs), *_views(cameras[0]), gaussians[0].shape[1],
        view.height, view.width, int(view.antialiased), num_threads(), ISA[isa], view.eps2d,
    )  # fmt: skip
    _run("splat_project_backward", params, gaussians[0])
    return outs


def harmonics(inputs: tuple[Tensor, Tensor, Tensor, Tensor], degree: int, isa: str = "auto") -> Tensor:
    """Colours [B,C,N,3]. inputs: means [B,N,3], coefficients [B,N,K,3], centers [B,C,3], radii [B,C,N,2]."""
    means, coefficients, _, radii = inputs
    colours = means.new_empty(*radii.shape[:3], 3)
    if colours.numel():
        params = SplatHarmonicsParams(
            *_pointers(*inputs, colours), *radii.shape[:3], coefficients.shape[2], degree, num_threads(), ISA[isa]
        )
        _run("splat_harmonics", params, means)
    return colours


def harmonics_backward(
    inputs: tuple[Tensor, Tensor, Tensor, Tensor],
    degree: int,
    seen: tuple[Tensor, Tensor],
    needs: Sequence[bool],
    isa: str = "auto",
) -> list[Tensor | None]:
    """Gradients of means, coefficients and centers. seen: the colours and their gradients."""
    outs = [torch.empty_like(t) if need else None for t, need in zip(inputs[:3], needs, strict=True)]
    if seen[1].numel() == 0:
        return [None if t is None else t.zero_() for t in outs]
    params = SplatHarmonicsGradParams(
        *_pointers(*inputs, *seen, *outs), *inputs[3].shape[:3], inputs[1].shape[2], degree, num_threads(), ISA[isa]
    )
    _run("splat_harmonics_backward", params, inputs[0])
    return outs


def tiles(
    seen: tuple[Tensor, Tensor, Tensor],
    totals: Tensor,
    view: SplatView,
    with_entries: bool,
    max_pairs: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Offsets int32 [I*T + 1], ids int32 [M], entries int32 [M] or [0].

    seen: splats, radii and tiles of `project`. M is how many pairs there are, for which this waits for a GPU; unless
    max_pairs says for how many a GPU shall have room.
    """
    splats = seen[0]
    images, rows_and_columns = splats.shape[0], view.tiles
    count = max_pairs if max_pairs is not None and _native._on_gpu(splats) else int(totals.sum())
    if count >= 2**31:
        raise ShapeError(
            f"splat_gaussians: {count} pairs of splats and tiles, at most 2^31 fit; draw fewer cameras at once"
        )
    offsets = torch.zeros(
        images * rows_and_columns[0] * rows_and_columns[1] + 1, dtype=torch.int32, device=splats.device
    )
    ids = torch.empty(count, dtype=torch.int32, device=splats.device)
    entries = torch.empty_like(ids) if with_entries else None
    if count:
        params = SplatTilesParams(
            *_pointers(*seen, offsets, ids, entries), images, splats.shape[1], count,
            view.height, view.width, view.tile_size, num_threads(),
        )  # fmt: skip
        _run("splat_tiles", params, splats)
    return offsets, ids, ids.new_empty(0) if entries is None else entries


def _sizes(splats: Tensor, cameras: int, ids: Tensor) -> tuple[int, int, int, int]:
    return splats.shape[0] // max(cameras, 1), cameras, splats.shape[1], len(ids)


def _per_image(inputs: SplatInputs, images: int) -> tuple[int, int]:
    return int(len(inputs.colours) == images), int(len(inputs.background) == images)


def composite(
    inputs: SplatInputs, lists: tuple[Tensor, Tensor], view: SplatView, cameras: int, wants: tuple[bool, bool, bool],
    isa: str = "auto",
) -> SplatImages:  # fmt: skip
    """Pictures. Colours [B or I,N,D], background [1 or I,D].

    wants: depth, normals, median; what is not wanted is [0].
    """
    splats, colours = inputs.splats, inputs.colours
    shape = (len(splats), view.height, view.width)
    image, left = splats.new_empty(*shape, colours.shape[2]), splats.new_empty(shape)
    last = splats.new_empty(shape, dtype=torch.int32)
    depth = splats.new_empty(shape) if wants[0] else None
    normal = splats.new_empty(*shape, 3) if wants[1] else None
    median = splats.new_empty(shape, dtype=torch.int32) if wants[2] else None
    if left.numel():
        params = SplatCompositeParams(
            *_pointers(splats, colours, inputs.normals if wants[1] else None, inputs.background, *lists),
            *_pointers(image, depth, normal, left, last, median),
            *_sizes(splats, cameras, lists[1]), view.height, view.width, view.tile_size, colours.shape[2],
            *_per_image(inputs, len(splats)), num_threads(), ISA[isa],
        )  # fmt: skip
        _run("splat_composite", params, splats)
    nothing = splats.new_empty(0)
    return SplatImages(
        image, nothing if depth is None else depth, splats.new_empty(0) if normal is None else normal, left, last,
        splats.new_empty(0, dtype=torch.int32) if median is None else median,
    )  # fmt: skip


def composite_backward(
    inputs: SplatInputs,
    lists: tuple[Tensor, Tensor, Tensor, Tensor],
    view: SplatView,
    cameras: int,
    seen: tuple[Tensor | None, ...],
    needs: Sequence[bool],
    isa: str = "auto",
) -> SplatGrads:
    """Gradients; [0] for those not needed. needs: colours, normals, background, centres. lists: and tiles and entries.

    seen: transmittance, last, then the gradients of image, depth_sum, normal_sum and transmittance, each of which may
    be None. Normals are read where the gradient of normal_sum is given.
    """
    splats = inputs.splats
    centres = splats.new_empty(*splats.shape[:2], 4)
    wanted = zip((inputs.colours, inputs.normals, inputs.background, centres), needs, strict=True)
    grads = [torch.zeros_like(splats), *(torch.zeros_like(t) if need else None for t, need in wanted)]
    if seen[0] is not None and seen[0].numel():
        normals = inputs.normals if seen[4] is not None else None
        params = SplatCompositeGradParams(
            *_pointers(splats, inputs.colours, normals, inputs.background, *lists, *seen, *grads),
            *_sizes(splats, cameras, lists[1]), view.height, view.width, view.tile_size, inputs.colours.shape[2],
            *_per_image(inputs, len(splats)), num_threads(), ISA[isa],
        )  # fmt: skip
        _run("splat_composite_backward", params, splats)
    return SplatGrads(*(splats.new_empty(0) if g is None else g for g in grads))
