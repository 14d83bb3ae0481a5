"""The torch operator that composites splats, and its backward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from headrecon.ops import _native
from headrecon.ops import _native_calls_splat as calls
from headrecon.ops._register import register_op
from headrecon.ops.reference.splat import SplatView
from headrecon.ops.reference.splat_composite import (
    SplatGrads,
    SplatImages,
    SplatInputs,
    composite_gradients,
    composite_reference,
)

#: Which of SplatImages have gradients: all but last and median.
_DIFFERENTIABLE = 4


def _view(cameras_and_view: tuple[Any, ...]) -> tuple[int, SplatView]:
    """The last four arguments of the schema: cameras, width, height, tile_size. Compositing needs no other settings."""
    cameras, width, height, tile_size = cameras_and_view
    return cameras, SplatView(width, height, tile_size, 0.0, float("inf"), 0.0, 0.0, False)


def _inputs(splats: Tensor, colours: Tensor, normals: Tensor | None, background: Tensor) -> SplatInputs:
    empty = splats.new_empty(0) if normals is None else normals.contiguous()
    return SplatInputs(splats.contiguous(), colours.contiguous(), empty, background.contiguous())


def _spread(inputs: SplatInputs, cameras: int) -> SplatInputs:
    """The same with a row per image in every field, as the twin wants it."""
    images, count = inputs.splats.shape[:2]
    colours = inputs.colours
    if len(colours) != images:
        colours = colours.repeat_interleave(cameras, 0)
    normals = inputs.normals if inputs.normals.numel() else inputs.splats.new_zeros(images, count, 3)
    return SplatInputs(inputs.splats, colours, normals, inputs.background.expand(images, -1))


def _composite(*arguments: Any) -> tuple[Tensor, ...]:
    inputs, lists, (want_depth, want_median) = _inputs(*arguments[:4]), arguments[5:7], arguments[9:11]
    cameras, view = _view(arguments[11:])
    wants = (want_depth, arguments[2] is not None, want_median)
    if not _native.use_reference(inputs.splats):
        return tuple(calls.composite(inputs, lists, view, cameras, wants))
    found = composite_reference(_spread(inputs, cameras), lists, view)
    nothing = {"depth_sum": not wants[0], "normal_sum": not wants[1], "median": not wants[2]}
    return tuple(t.new_empty(0) if nothing.get(name) else t for name, t in found._asdict().items())


def _composite_fake(*arguments: Any) -> tuple[Tensor, ...]:
    splats, colours, normals = arguments[:3]
    (want_depth, want_median), (_, width, height, _) = arguments[9:11], arguments[11:]
    shape = (splats.shape[0], height, width)
    return SplatImages(
        splats.new_empty((*shape, colours.shape[2])),
        splats.new_empty(shape if want_depth else (0,)),
        splats.new_empty((0,) if normals is None else (*shape, 3)),
        splats.new_empty(shape),
        splats.new_empty(shape, dtype=torch.int32),
        splats.new_empty(shape if want_median else (0,), dtype=torch.int32),
    )


def _context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    splats, colours, normals, background, _, *lists = inputs[:9]
    ctx.save_for_backward(splats, colours, normals, background, *lists, output[3], output[4])
    ctx.size = inputs[11:]
    ctx.mark_non_differentiable(*output[_DIFFERENTIABLE:])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, *grads: Tensor | None) -> Any:
    if all(g is None for g in grads[:_DIFFERENTIABLE]):
        return (None,) * 15
    saved, wanted = ctx.saved_tensors, ctx.needs_input_grad
    images = [g if g is not None and g.numel() else None for g in grads[:_DIFFERENTIABLE]]
    needs = [wanted[1], wanted[2] and images[2] is not None, wanted[3], wanted[4]]
    # The twin is differentiated by autograd, which does not work within an operator.
    run = _grad_kernel if _native.use_reference(saved[0]) else _composite_grad
    found = run(*saved, *images, needs, *ctx.size)
    by = [g if need else None for g, need in zip(found, (wanted[0], *needs), strict=True)]
    return (*by, *(None,) * 10)


def _grad_kernel(*arguments: Any) -> tuple[Tensor, ...]:
    inputs, lists, seen, needs = _inputs(*arguments[:4]), arguments[4:8], arguments[8:14], arguments[14]
    cameras, view = _view(arguments[15:])
    if not _native.use_reference(inputs.splats):
        given = tuple(None if t is None else t.contiguous() for t in seen)
        return tuple(calls.composite_backward(inputs, lists, view, cameras, given, tuple(needs)))  # type: ignore[arg-type]
    found = composite_gradients(_spread(inputs, cameras), lists[:2], view, seen[2:])
    colours = found.colours
    if len(inputs.colours) != len(colours):
        colours = colours.unflatten(0, (-1, cameras)).sum(1)
    background = (
        found.background if len(inputs.background) == len(inputs.splats) else found.background.sum(0, keepdim=True)
    )
    parts = zip((colours, found.normals, background, found.centres), needs, strict=True)
    return SplatGrads(found.splats, *(g if need else g.new_empty(0) for g, need in parts))


def _grad_fake(*arguments: Any) -> tuple[Tensor, ...]:
    splats, colours, normals, background = arguments[:4]
    centres = splats.new_empty((*splats.shape[:2], 4))
    parts = zip((colours, normals, background, centres), arguments[14], strict=True)
    return (splats.new_empty(splats.shape), *(splats.new_empty(t.shape if need else (0,)) for t, need in parts))


_SIZE = "SymInt cameras, SymInt width, SymInt height, int tile_size"
#: tiles [I,N] and entries [M], from project and tiles, serve the backward pass only.
#: probe: zeros [I,N,4] that the pictures do not depend on. Its "gradient" is that of the centres: see SplatGrads.
splat_composite = register_op(
    "splat_composite",
    "(Tensor splats, Tensor colours, Tensor? normals, Tensor background, Tensor? probe, Tensor offsets, Tensor ids, "
    f"Tensor tiles, Tensor entries, bool want_depth, bool want_median, {_SIZE}) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    _composite,
    _composite_fake,
    _backward,
    _context,
)
_composite_grad = register_op(
    "splat_composite_backward",
    "(Tensor splats, Tensor colours, Tensor? normals, Tensor background, Tensor offsets, Tensor ids, "
    "Tensor tiles, Tensor entries, Tensor transmittance, Tensor last, Tensor? grad_image, Tensor? grad_depth_sum, "
    f"Tensor? grad_normal_sum, Tensor? grad_transmittance, bool[4] needs, {_SIZE}) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _grad_kernel,
    _grad_fake,
)
