"""Calls of the native ops of grids on planes and of samples along rays: they fill in the parameter structs.

All arguments are checked, contiguous, float32 (offsets int64), and on one device, as `ops/*.py` leave them.
"""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import Structure, c_float, c_int32
from typing import NamedTuple

import torch
from torch import Tensor

from headrecon.ops import _native
from headrecon.ops._native import ISA, num_threads
from headrecon.ops._native_params_volume import (
    CompositeParams,
    Decoder,
    DecoderGrad,
    ImportanceParams,
    MarchParams,
    RaySamplesParams,
    Trigrid,
    TrigridDecodeParams,
    TrigridRenderParams,
    TrigridSampleParams,
)
from headrecon.ops.ray_samples import Absorption, RaySamples

_GRID_SIZES = "sides of the grid up to 16384, 1 to 256 channels, 1 or 2 spheres, a decoder of at most 128 hidden units"
_RAY_SIZES = "offsets from 0 to the number of samples that never fall, known rules"


class Field(NamedTuple):
    """A grid and how points fall into it: grid [B,K,3,D,H,W,C], rotations [K,3,3] or None, nine axes, scale."""

    grid: Tensor
    rotations: Tensor | None
    axes: Sequence[int]
    scale: float


class DecoderWeights(NamedTuple):
    """w1 [Hidden,C], b1, w2 [1+F,Hidden], b2, and the activation of the features."""

    w1: Tensor
    b1: Tensor
    w2: Tensor
    b2: Tensor
    activation: int


class Sums(NamedTuple):
    """What rays add up to: sums [R,D], distances [R], opacities [R], weights [N] (or empty)."""

    sums: Tensor
    distances: Tensor
    opacities: Tensor
    weights: Tensor


def _fill(params: Structure, **values: object) -> None:
    """Set fields; tensors by their address, None and empty tensors as null."""
    for name, value in values.items():
        if isinstance(value, Tensor):
            value = value.data_ptr() if value.numel() else None
        setattr(params, name, value)


def _trigrid(field: Field) -> Trigrid:
    batch, charts, _, depth, height, width, channels = field.grid.shape
    params = Trigrid(
        batch=batch, charts=charts, depth=depth, height=height, width=width, channels=channels,
        axes=(c_int32 * 9)(*field.axes), scale=field.scale,
    )  # fmt: skip
    _fill(params, grid=field.grid, rotations=field.rotations)
    return params


def _decoder(decoder: DecoderWeights) -> Decoder:
    params = Decoder(hidden=len(decoder.b1), features=len(decoder.b2) - 1, activation=decoder.activation)
    _fill(params, w1=decoder.w1, b1=decoder.b1, w2=decoder.w2, b2=decoder.b2)
    return params


def _decoder_grad(grads: Sequence[Tensor | None]) -> DecoderGrad:
    params = DecoderGrad()
    _fill(params, **dict(zip(("w1", "b1", "w2", "b2"), grads, strict=True)))
    return params


def _samples(samples: RaySamples, absorption: Absorption) -> RaySamplesParams:
    params = RaySamplesParams(
        num_rays=samples.num_rays, num_samples=samples.num_samples, per_ray=samples.per_ray, rule=int(samples.rule),
        density=int(absorption.kind), shift=absorption.shift, stop=absorption.stop,
    )  # fmt: skip
    names = ("starts", "ends", "offsets", "near_far", "shifts", "surface")
    _fill(params, **dict(zip(names, samples.tensors, strict=True)))
    return params


def trigrid_sample(field: Field, points: Tensor, isa: str = "auto") -> Tensor:
    """Values [B,N,C] at points [B,N,3]."""
    values = points.new_empty(*points.shape[:2], field.grid.shape[-1])
    if values.numel() == 0 or field.grid.numel() == 0:
        return values.zero_()
    params = TrigridSampleParams(_trigrid(field), num_threads=num_threads(), isa=ISA[isa])
    _fill(params, points=points, values=values, num_points=points.shape[1])
    _native._run("trigrid_sample", params, points, "", _GRID_SIZES)
    return values


def trigrid_sample_backward(
    field: Field, points: Tensor, grad: Tensor, needs: tuple[bool, bool], isa: str = "auto"
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of the grid and of the points."""
    grad_grid = torch.empty_like(field.grid) if needs[0] else None
    grad_points = torch.empty_like(points) if needs[1] else None
    if grad.numel() == 0 or field.grid.numel() == 0:
        return _zeros(grad_grid), _zeros(grad_points)
    params = TrigridSampleParams(_trigrid(field), num_threads=num_threads(), isa=ISA[isa])
    _fill(params, points=points, grad_values=grad, grad_grid=grad_grid, grad_points=grad_points)
    params.num_points = points.shape[1]
    _native._run("trigrid_sample_backward", params, points, "", _GRID_SIZES)
    return grad_grid, grad_points


def trigrid_decode(field: Field, decoder: DecoderWeights, points: Tensor, isa: str = "auto") -> tuple[Tensor, Tensor]:
    """Raw densities [B,N] and features [B,N,F] at points [B,N,3]; the grid and the decoder are not empty."""
    densities = points.new_empty(points.shape[:2])
    features = points.new_empty(*points.shape[:2], len(decoder.b2) - 1)
    if densities.numel() == 0:
        return densities, features
    params = TrigridDecodeParams(_trigrid(field), _decoder(decoder), num_threads=num_threads(), isa=ISA[isa])
    _fill(params, points=points, densities=densities, features=features, num_points=points.shape[1])
    _native._run("trigrid_decode", params, points, "", _GRID_SIZES)
    return densities, features


def trigrid_decode_backward(
    field: Field,
    decoder: DecoderWeights,
    points: Tensor,
    grads: tuple[Tensor, Tensor],
    needs: tuple[bool, bool, bool],
    isa: str = "auto",
) -> tuple[Tensor | None, list[Tensor | None], Tensor | None]:
    """Gradients of the grid, of the decoder's w1, b1, w2, b2, and of the points; needs names these three."""
    grad_grid, grad_decoder = _room(field, decoder, needs[:2])
    grad_points = torch.empty_like(points) if needs[2] else None
    if points.numel() == 0:
        return _zeros(grad_grid), [_zeros(g) for g in grad_decoder], grad_points
    params = TrigridDecodeParams(_trigrid(field), _decoder(decoder), num_threads=num_threads(), isa=ISA[isa])
    _fill(params, points=points, grad_densities=grads[0], grad_features=grads[1], num_points=points.shape[1])
    _fill(params, grad_decoder=_decoder_grad(grad_decoder), grad_grid=grad_grid, grad_points=grad_points)
    _native._run("trigrid_decode_backward", params, points, "", _GRID_SIZES)
    return grad_grid, grad_decoder, grad_points


def _room(field: Field, decoder: DecoderWeights, needs: tuple[bool, ...]) -> tuple[Tensor | None, list[Tensor | None]]:
    grad_grid = torch.empty_like(field.grid) if needs[0] else None
    return grad_grid, [torch.empty_like(w) if needs[1] else None for w in decoder[:4]]


def _nothing(sums: Sums) -> Sums:
    return Sums(*(t.zero_() for t in sums))


def _zeros(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.zero_()


def trigrid_render(
    field: Field,
    decoder: DecoderWeights,
    rays: tuple[Tensor, Tensor],
    samples: tuple[RaySamples, Absorption],
    weights: bool,
    isa: str = "auto",
) -> Sums:
    """Sums over rays (origins, directions [R,3]); weights says whether those of the samples are wanted."""
    origins = rays[0]
    out = Sums(
        origins.new_empty(len(origins), len(decoder.b2) - 1), origins.new_empty(len(origins)),
        origins.new_empty(len(origins)), origins.new_empty(samples[0].num_samples if weights else 0),
    )  # fmt: skip
    if samples[0].num_samples == 0:
        return _nothing(out)
    params = _render_params(field, decoder, rays, samples, isa)
    _fill(params, **out._asdict())
    _native._run("trigrid_render", params, origins, _RAY_SIZES, _GRID_SIZES)
    return out


def trigrid_render_backward(
    field: Field,
    decoder: DecoderWeights,
    rays: tuple[Tensor, Tensor],
    samples: tuple[RaySamples, Absorption],
    grads: tuple[Tensor, Tensor, Tensor],
    needs: tuple[bool, bool, bool],
    isa: str = "auto",
) -> tuple[Tensor | None, list[Tensor | None], Tensor | None, Tensor | None]:
    """Gradients of the grid, the decoder, the origins and the directions; needs names grid, decoder, rays."""
    grad_grid, grad_decoder = _room(field, decoder, needs[:2])
    grad_rays = [torch.empty_like(rays[0]) if needs[2] else None for _ in range(2)]
    if samples[0].num_samples == 0:
        found = [_zeros(g) for g in grad_rays]
        return _zeros(grad_grid), [_zeros(g) for g in grad_decoder], found[0], found[1]
    params = _render_params(field, decoder, rays, samples, isa)
    _fill(params, grad_sums=grads[0], grad_distances=grads[1], grad_opacities=grads[2])
    _fill(params, grad_decoder=_decoder_grad(grad_decoder), grad_grid=grad_grid)
    _fill(params, grad_origins=grad_rays[0], grad_directions=grad_rays[1])
    _native._run("trigrid_render_backward", params, rays[0], _RAY_SIZES, _GRID_SIZES)
    return grad_grid, grad_decoder, grad_rays[0], grad_rays[1]


def _render_params(
    field: Field,
    decoder: DecoderWeights,
    rays: tuple[Tensor, Tensor],
    samples: tuple[RaySamples, Absorption],
    isa: str,
) -> TrigridRenderParams:
    params = TrigridRenderParams(_trigrid(field), _decoder(decoder), _samples(*samples), num_threads=num_threads())
    _fill(params, origins=rays[0], directions=rays[1], isa=ISA[isa])
    params.rays_per_image = len(rays[0]) // field.grid.shape[0]
    return params


def composite(values: Tensor, features: Tensor, samples: tuple[RaySamples, Absorption], isa: str = "auto") -> Sums:
    """Sums over rays of values [N] and features [N,D]."""
    rays = samples[0].num_rays
    out = Sums(
        values.new_empty(rays, features.shape[1]), values.new_empty(rays), values.new_empty(rays),
        torch.empty_like(values),
    )  # fmt: skip
    if samples[0].num_samples == 0:
        return _nothing(out)
    params = CompositeParams(_samples(*samples), channels=features.shape[1], num_threads=num_threads(), isa=ISA[isa])
    _fill(params, values=values, features=features, **out._asdict())
    _native._run("composite", params, values, _RAY_SIZES, _RAY_SIZES)
    return out


def composite_backward(
    values: Tensor,
    features: Tensor,
    samples: tuple[RaySamples, Absorption],
    grads: Sequence[Tensor],
    needs: tuple[bool, bool],
    isa: str = "auto",
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of values, features, starts and ends; needs: features, distances. grads: sums, ..., weights."""
    explicit, ends = samples[0].starts is not None, samples[0].ends is not None
    grad_values = torch.empty_like(values)
    grad_features = torch.empty_like(features) if needs[0] else None
    grad_starts = torch.empty_like(values) if needs[1] and explicit else None
    grad_ends = torch.empty_like(values) if needs[1] and ends else None
    if samples[0].num_samples == 0:
        found = [_zeros(g) for g in (grad_values, grad_features, grad_starts, grad_ends)]
        return found[0], found[1], found[2], found[3]  # pyright: ignore[reportReturnType]
    params = CompositeParams(_samples(*samples), channels=features.shape[1], num_threads=num_threads(), isa=ISA[isa])
    names = ("grad_sums", "grad_distances", "grad_opacities", "grad_weights")
    _fill(params, values=values, features=features, **dict(zip(names, grads, strict=True)))
    _fill(params, grad_values=grad_values, grad_features=grad_features, grad_starts=grad_starts, grad_ends=grad_ends)
    _native._run("composite_backward", params, values, _RAY_SIZES, _RAY_SIZES)
    return grad_values, grad_features, grad_starts, grad_ends


def importance(edges: Tensor, weights: Tensor, uniforms: Tensor) -> Tensor:
    """Distances [R,M] drawn from weights [R,S] between edges [R,S+1]."""
    distances = torch.empty_like(uniforms)
    if distances.numel() == 0:
        return distances
    params = ImportanceParams(
        num_rays=len(edges), intervals=weights.shape[1], draws=uniforms.shape[1], num_threads=num_threads()
    )
    _fill(params, edges=edges, weights=weights, uniforms=uniforms, distances=distances)
    _native._run("importance", params, edges, "", "at least one interval")
    return distances


def march(
    occupied: Tensor, box: tuple[Sequence[float], Sequence[float]], rays: Sequence[Tensor | None], step: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Starts [N], ends [N], ray indices [N] and offsets [R+1]; rays: origins, directions, near_far, shifts or None."""
    origins = rays[0]
    assert origins is not None
    offsets = origins.new_zeros(len(origins) + 1, dtype=torch.int64)
    counts = torch.zeros_like(offsets[1:])
    if len(origins):
        params = MarchParams(num_rays=len(origins), num_threads=num_threads(), step=step)
        params.size = (c_int32 * 3)(*occupied.shape[::-1])
        params.lower, params.upper = (c_float * 3)(*box[0]), (c_float * 3)(*box[1])
        names = ("origins", "directions", "near_far", "shifts")
        _fill(params, occupied=occupied, counts=counts, **dict(zip(names, rays, strict=True)))
        _native._run("march", params, origins, "", "a grid with cells and a step above 0")
        offsets[1:] = counts.cumsum(0)
    total = int(offsets[-1])
    starts, ends = origins.new_empty(total), origins.new_empty(total)
    ray_indices = offsets.new_empty(total)
    if total:
        _fill(params, offsets=offsets, starts=starts, ends=ends, ray_indices=ray_indices)
        _native._run("march", params, origins, "", "a grid with cells and a step above 0")
    return starts, ends, ray_indices, offsets
